"""Reading training pictures of any number of channels and of 8 or 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from i2i_runtime.errors import SourceError
from i2i_runtime.image import decode_picture, read_npy

Raster = npt.NDArray[Any]
"""(height, width, channels): uint8 or uint16 pictures (three channels are BGR), or one channel of int32 ids."""

_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


def read_raster(path: Path, channels: int) -> Raster:
    """Read a picture as (height, width, `channels`) uint8 or uint16, whichever the file holds.

    One channel is grey and three are BGR, converted where the file differs. Any other number must be the file's own:
    a PNG or TIFF with alpha, a TIFF with a page a channel, or a NumPy file (`.npy`) of (height, width, channels).

    Raises:
        SourceError: missing, damaged, another number of channels, or neither 8 nor 16 bits.
    """
    if path.suffix.lower() == ".npy":
        raster = read_npy(path)
    elif channels == 1:
        raster = decode_picture(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    elif channels == 3:
        raster = decode_picture(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    else:
        raster = decode_picture(path, cv2.IMREAD_UNCHANGED)
        if raster.ndim == 2 and path.suffix.lower() in (".tif", ".tiff"):
            _, pages = cv2.imdecodemulti(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
            if len({page.shape for page in pages}) == 1:
                raster = np.dstack(pages)
        elif raster.ndim == 3 and raster.shape[2] == 4:
            raster = cv2.cvtColor(raster, cv2.COLOR_BGRA2RGBA)  # as the file has them
    raster = raster[:, :, None] if raster.ndim == 2 else raster
    if raster.ndim != 3 or raster.shape[2] != channels:
        raise SourceError(f"{path}: expected {channels} channels, found an array of {'x'.join(map(str, raster.shape))}")
    if raster.dtype not in _DTYPES:
        raise SourceError(f"{path}: expected values of 8 or 16 bits without sign, found {raster.dtype}")
    return raster
