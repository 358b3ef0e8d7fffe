"""From pictures to training tensors; the images of a pair go through the same crop and flip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from i2i_runtime.card import ImageSpec
from i2i_runtime.frame import Image
from i2i_runtime.image import image_to_tensor, tensor_to_image
from i2i_trainer.config import Size
from i2i_trainer.data.rasters import Raster

Rasters = Mapping[str, Raster]
"""The pictures of one example by what they are: `input`, `target`, `instances`."""
Sample = dict[str, Tensor]
"""The same as tensors: pictures (c, h, w) float32 in [-1, 1], maps of ids (1, h, w) int32."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Resize, random crop and random flip (pix2pix appendix 6.2)."""

    size: Size
    """(height, width) of the tensors."""
    load_size: Size
    """(height, width) before the crop."""
    flip: bool

    def load(self, rasters: Rasters) -> dict[str, Raster]:
        """The part that is the same in every epoch: all rasters at `load_size`."""
        return {name: _resize(raster, self.load_size) for name, raster in rasters.items()}

    def random(self, loaded: Rasters, rng: np.random.Generator) -> Sample:
        """One random crop and flip, the same for all rasters; they come from `load`."""
        (height, width), (load_height, load_width) = self.size, self.load_size
        top = int(rng.integers(load_height - height + 1))
        left = int(rng.integers(load_width - width + 1))
        mirrored = self.flip and rng.random() < 0.5
        sample = {}
        for name, raster in loaded.items():
            cropped = raster[top : top + height, left : left + width]
            sample[name] = to_tensor(cropped[:, ::-1] if mirrored else cropped)
        return sample

    def fixed(self, rasters: Rasters) -> Sample:
        """The whole rasters at `size`: for evaluation and samples."""
        return {name: to_tensor(_resize(raster, self.size)) for name, raster in rasters.items()}


def load_size_for(size: Size) -> Size:
    """286 for 256, as in the paper: 30 pixels of room for the crop."""
    height, width = (round(side * 286 / 256) for side in size)
    return height, width


def _resize(raster: Raster, size: Size) -> Raster:
    """Area averaging when it shrinks, cubic when it grows; ids take their nearest neighbour, never a mean."""
    height, width = size
    if raster.shape[:2] == size:
        return raster
    shrinks = height * width < raster.shape[0] * raster.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    if raster.dtype == np.int32:
        method = cv2.INTER_NEAREST
    # OpenCV resizes up to four channels at once, and drops an axis of length one.
    parts = [
        cv2.resize(raster[:, :, first : first + 4], (width, height), interpolation=method).reshape(height, width, -1)
        for first in range(0, raster.shape[2], 4)
    ]
    return np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]


def to_tensor(raster: Raster) -> Tensor:
    """(h, w, c) to (c, h, w): pictures become float32 in [-1, 1], three channels RGB; ids stay int32."""
    raster = np.ascontiguousarray(raster)
    if raster.dtype == np.int32:
        return torch.from_numpy(raster).permute(2, 0, 1)
    if raster.dtype == np.uint8 and raster.shape[2] == 3:
        return torch.from_numpy(image_to_tensor(raster, ImageSpec())[0])
    white = np.float32(np.iinfo(raster.dtype).max)
    planes = raster.transpose(2, 0, 1).astype(np.float32) * (2 / white) - 1
    return torch.from_numpy(np.ascontiguousarray(planes[::-1] if len(planes) == 3 else planes))


def to_image(tensor: Tensor) -> Image:
    """A tensor of a sample to a picture that people can look at, (h, w, 3) uint8 BGR.

    One channel is shown grey, three are RGB, of more the first three; maps of ids get a colour an id.
    """
    if not tensor.is_floating_point():
        return _coloured(tensor[0].cpu().numpy())
    planes = tensor.detach().float().cpu().numpy()
    if len(planes) in (1, 2):
        return tensor_to_image(planes[:1], ImageSpec(channels=1, colour="GRAY"))
    return tensor_to_image(planes[:3], ImageSpec())


def _coloured(ids: Raster) -> Image:
    # The golden ratio spreads hues of neighbouring ids far apart.
    hue = (ids * (0.618034 * 180)) % 180
    hsv = np.dstack((hue, np.full_like(hue, 150), np.where(ids == 0, 60, 120 + (ids * 37) % 120))).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.uint8)
