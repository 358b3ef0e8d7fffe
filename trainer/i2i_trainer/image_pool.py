"""A memory of generated images, so that a discriminator does not forget what it has learnt to see through."""

from __future__ import annotations

import torch
from torch import Tensor


class ImagePool:
    """Mixes images of now with images of before (CycleGAN section 4, after Shrivastava et al. 2017).

    Random numbers come from torch's global generator on the CPU, whose state a checkpoint saves.
    """

    def __init__(self, size: int) -> None:
        """Take the number of images to remember; 0 remembers none."""
        self._size = size
        self._images: list[Tensor] = []

    def query(self, images: Tensor) -> Tensor:
        """Of (n, c, h, w) images a batch of the same shape.

        Until the pool is full every image is remembered and returned. Then each one is returned as it is in half of
        the cases; in the other half it takes the place of a random remembered one, which is returned instead.
        """
        if self._size == 0:
            return images
        returned = []
        for image in images.detach():
            if len(self._images) < self._size:
                self._images.append(image.clone())
                returned.append(image)
            elif torch.rand(()).item() < 0.5:
                place = int(torch.randint(self._size, ()))
                returned.append(self._images[place])
                self._images[place] = image.clone()
            else:
                returned.append(image)
        return torch.stack(returned)

    def state_dict(self) -> dict[str, Tensor]:
        """The remembered images, oldest place first."""
        return {"images": torch.stack(self._images).cpu()} if self._images else {}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device | str = "cpu") -> None:
        """Take up what `state_dict` gave."""
        self._images = [image.clone() for image in state["images"].to(device)] if state else []
