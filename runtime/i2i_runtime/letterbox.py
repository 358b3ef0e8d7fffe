"""Frames of other sizes brought into a size that cannot change any more."""

from __future__ import annotations

import cv2
import numpy as np

from i2i_runtime.card import SizeRule
from i2i_runtime.frame import Image
from i2i_runtime.image import plan_fit, resize


def letterbox(image: Image, size: tuple[int, int]) -> Image:
    """Scale an image as large as `size` allows and put black bars around it.

    Args:
        image: (h, w, 3) uint8 BGR.
        size: (height, width) of the result; an image of that size is returned as it is.

    >>> letterbox(np.full((2, 8, 3), 255, np.uint8), (4, 8))[:, 0, 0].tolist()
    [0, 255, 255, 0]
    """
    if image.shape[:2] == size:
        return image
    scaled = plan_fit(image.shape[0], image.shape[1], SizeRule(height=size[0], width=size[1])).scaled
    top, left = (size[0] - scaled[0]) // 2, (size[1] - scaled[1]) // 2
    bottom, right = size[0] - scaled[0] - top, size[1] - scaled[1] - left
    padded = cv2.copyMakeBorder(resize(image, scaled), top, bottom, left, right, cv2.BORDER_CONSTANT)
    return np.asarray(padded, np.uint8)
