"""From pictures to training tensors; the images of a pair go through the same crop and flip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from i2i_runtime.card import ImageSpec
from i2i_runtime.frame import Image
from i2i_runtime.image import image_to_tensor, resize, tensor_to_image
from i2i_trainer.config import Size


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Resize, random crop and random flip (pix2pix appendix 6.2)."""

    size: Size
    """(height, width) of the tensors."""
    load_size: Size
    """(height, width) before the crop."""
    flip: bool

    def random(self, images: Sequence[Image], rng: np.random.Generator) -> list[Tensor]:
        """One random crop and flip, the same for all `images`."""
        (height, width), (load_height, load_width) = self.size, self.load_size
        top = int(rng.integers(load_height - height + 1))
        left = int(rng.integers(load_width - width + 1))
        mirrored = self.flip and rng.random() < 0.5
        tensors = []
        for image in images:
            cropped = resize(image, self.load_size)[top : top + height, left : left + width]
            tensors.append(to_tensor(cropped[:, ::-1] if mirrored else cropped))
        return tensors

    def fixed(self, images: Sequence[Image]) -> list[Tensor]:
        """The whole images at `size`: for evaluation and samples."""
        return [to_tensor(resize(image, self.size)) for image in images]


def load_size_for(size: Size) -> Size:
    """286 for 256, as in the paper: 30 pixels of room for the crop."""
    height, width = (round(side * 286 / 256) for side in size)
    return height, width


def to_tensor(image: Image) -> Tensor:
    """(h, w, 3) uint8 BGR to (3, h, w) float32 RGB in [-1, 1]."""
    return torch.from_numpy(image_to_tensor(np.ascontiguousarray(image), ImageSpec())[0])


def to_image(tensor: Tensor) -> Image:
    """(3, h, w) RGB in [-1, 1] to (h, w, 3) uint8 BGR, rounded."""
    return tensor_to_image(tensor.detach().float().cpu().numpy(), ImageSpec())
