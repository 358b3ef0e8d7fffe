"""A file of weights like torchvision's VGG19, for tests of the perceptual loss."""

from __future__ import annotations

import torch


def torchvisions_vgg19() -> dict[str, torch.Tensor]:
    """A state dict with the keys and shapes that torchvision publishes, and small random weights."""
    widths = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256)}
    widths |= dict.fromkeys((12, 14, 16), (256, 256)) | {19: (256, 512)}
    widths |= dict.fromkeys((21, 23, 25, 28, 30, 32, 34), (512, 512))
    random = torch.Generator().manual_seed(0)
    weights = {}
    for number, (before, after) in widths.items():
        weights[f"features.{number}.weight"] = torch.randn(after, before, 3, 3, generator=random) * 0.05
        weights[f"features.{number}.bias"] = torch.zeros(after)
    return weights | {"classifier.0.weight": torch.zeros(1, 1)}
