"""A frame as viewers get it: JPEG, no larger than a screen needs."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from i2i_runtime.frame import Frame, Image
from i2i_runtime.image import resize

QUALITY = 80
"""JPEG quality: 5 to 10 % of the bytes of the pixels, and no visible blocks in motion."""
BLOCK = 16
"""JPEG with halved colour codes blocks of so many pixels: two pictures that meet at a block's edge do not mix."""
PAIR, SINGLE = 2, 1
HEADER = struct.Struct("!BHHI")
"""Before each pair: how many pictures, their width and height in pixels, the frame's number (modulo 2^32)."""


def shared_picture(frame: Frame, longest: int) -> bytes:
    """What everybody sees of a frame, as a JPEG with sides of at most `longest` pixels."""
    return _jpeg(shrunk(frame.image, longest))


def pair_for_page(frame: Frame, longest: int) -> bytes:
    """Input and result in one JPEG side by side, after a `HEADER`; a frame without a result is one picture.

    The result begins at the first multiple of `BLOCK` at or above the width.

    Args:
        frame: a frame.
        longest: the longest side that either picture may have, in pixels.
    """
    if frame.before is None or frame.after is None:
        picture = shrunk(frame.image, longest)
        count, shown = SINGLE, picture
    else:
        picture = shrunk(frame.after, longest)
        height, width = picture.shape[:2]
        before = frame.before if frame.before.shape[:2] == (height, width) else resize(frame.before, (height, width))
        seam = -width % BLOCK
        # The edge's own pixels fill the block, so that nothing shines through the seam.
        filled = cv2.copyMakeBorder(before, 0, 0, 0, seam, cv2.BORDER_REPLICATE) if seam else before
        count, shown = PAIR, np.hstack((filled, picture))
    height, width = picture.shape[:2]
    return HEADER.pack(count, width, height, frame.index % 2**32) + _jpeg(shown)


def shrunk(image: Image, longest: int) -> Image:
    """The picture with sides of at most `longest` pixels."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    return resize(image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))


def _jpeg(image: Image) -> bytes:
    _, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
    return data.tobytes()
