"""What a person sees of a frame: the result, the input, or both in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from i2i_runtime.controls import ControlState, View
from i2i_runtime.frame import Image
from i2i_runtime.image import resize

_MOST_PIXELS = 1920 * 1080
"""Several sources side by side are shown in no more than this."""


def compose(before: Image, after: Image, state: ControlState) -> Image:
    """One picture of an input and its result.

    Args:
        before: (h, w, 3) uint8 BGR.
        after: (h, w, 3) uint8 BGR.
        state: the view, and where its edge lies.

    Returns:
        (h, w, 3) uint8 BGR, or (h, 2 w, 3) side by side; a new array or one of the two.
    """
    view = state.view if before.shape == after.shape else View.RESULT
    if view == View.SIDE_BY_SIDE:
        return np.hstack((before, after))
    if view == View.WIPE:
        edge = round(state.position * after.shape[1])
        return np.hstack((before[:, :edge], after[:, edge:]))
    if view == View.BLEND:
        return np.asarray(cv2.addWeighted(before, state.position, after, 1 - state.position, 0), np.uint8)
    return before if view == View.INPUT else after


def mosaic(pictures: Sequence[Image | None]) -> Image:
    """Pictures of several sources in one, row by row; black for a source that has none yet.

    Each gets a cell of the first picture's size, or as large as two megapixels for all allow, and keeps its aspect.
    """
    first = next(picture for picture in pictures if picture is not None)
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    height, width = first.shape[:2]
    shrink = min(1.0, math.sqrt(_MOST_PIXELS / (rows * columns * height * width)))
    height, width = max(1, round(height * shrink)), max(1, round(width * shrink))
    canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
    for number, picture in enumerate(pictures):
        if picture is None:
            continue
        scale = min(height / picture.shape[0], width / picture.shape[1])
        scaled = resize(picture, (max(1, int(picture.shape[0] * scale)), max(1, int(picture.shape[1] * scale))))
        top = number // columns * height + (height - scaled.shape[0]) // 2
        left = number % columns * width + (width - scaled.shape[1]) // 2
        canvas[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return canvas


def placeholder(last: Image | None, text: str) -> Image:
    """The last picture, darkened, with a line of text: nobody shall take a frozen picture for a live one.

    Args:
        last: (h, w, 3) uint8 BGR; None for a source that never had one.
        text: what is wrong, for example `camera 0: reconnecting`.
    """
    picture = np.zeros((360, 640, 3), np.uint8) if last is None else last // 3
    height, width = picture.shape[:2]
    (text_width, text_height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)
    scale = min(1.0, 0.9 * width / text_width)
    origin = round((width - scale * text_width) / 2), round((height + scale * text_height) / 2)
    cv2.putText(picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 2, cv2.LINE_AA)
    return picture
