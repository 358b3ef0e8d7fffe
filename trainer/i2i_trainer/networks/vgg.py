"""VGG19's features, for the perceptual loss (Simonyan and Zisserman 2015); the weights are the user's file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from i2i_runtime.errors import ModelError, reason
from i2i_trainer.checkpoint import load_weights

_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)
"""Of the convolutions up to relu5_1; 0 stands for a pooling."""
_TAPS = (1, 6, 11, 20, 29)
"""Layers after which features are taken: relu1_1, relu2_1, relu3_1, relu4_1, relu5_1."""
_WANTED = (
    "torchvision's VGG19 weights, for example vgg19-dcbb9e9d.pth of https://download.pytorch.org/models/"
    "vgg19-dcbb9e9d.pth"
)


class Vgg19Features(nn.Module):
    """VGG19 up to relu5_1, frozen."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _WIDTHS:
            if width:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(n, 3, h, w) to the features after relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1."""
        taken = []
        for number, layer in enumerate(self.features):
            image = layer(image)
            if number in _TAPS:
                taken.append(image)
        return taken


def load_vgg19(path: Path) -> Vgg19Features:
    """Read the file that torchvision publishes; nothing is ever downloaded.

    Raises:
        ModelError: no such file, or other weights.
    """
    advice = f"expected {_WANTED}; or leave --vgg out, and there is no perceptual loss"
    if not path.is_file():
        raise ModelError(f"--vgg {path}: no such file; {advice}")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own
        raise ModelError(f"--vgg {path}: not a file of weights ({reason(error)}); {advice}") from error
    network = Vgg19Features()
    keys = network.state_dict().keys()
    if not isinstance(weights, dict):
        raise ModelError(f"--vgg {path}: found a {type(weights).__name__}; {advice}")
    if missing := [key for key in keys if key not in weights]:
        raise ModelError(f"--vgg {path}: found other weights, without {missing[0]}; {advice}")
    load_weights(network, {key: weights[key] for key in keys}, f"--vgg {path}")
    return network
