"""Layers and initialisation that all networks share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

NormName = Literal["batch", "instance", "instance_affine", "none"]
"""The papers use batch norm with learnt scale and shift, or instance norm without; the others stand in files."""

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": nn.InstanceNorm2d,
    "instance_affine": partial(nn.InstanceNorm2d, affine=True),
    "none": nn.Identity,
}

Padding = Literal["reflect", "replicate", "zero"]
"""What the residual blocks put around a picture."""

_BORDERS: dict[str, list[type[nn.Module]]] = {
    "reflect": [nn.ReflectionPad2d],
    "replicate": [nn.ReplicationPad2d],
    "zero": [],
}


def norm_layer(norm: NormName, channels: int) -> nn.Module:
    """A normalisation layer, or one that does nothing where there is `none`."""
    return _NORMS[norm](channels)


def convs_have_bias(norm: NormName) -> bool:
    """Whether convolutions before a norm have a bias.

    Before batch norm, which has its own shift, they need none; before instance norm the reference implementations
    keep one, with learnt scale and shift too. Without any norm they have none.
    """
    return norm in ("instance", "instance_affine")


def border(padding: Padding) -> tuple[list[nn.Module], int]:
    """One pixel around the picture before a 3x3 convolution: the layers, and the padding of the convolution itself.

    Zeros are the convolution's own, which takes a layer less: it shows in the keys.
    """
    layers = _BORDERS[padding]
    return [layer(1) for layer in layers], 0 if layers else 1


def conv_stage(
    before: int, after: int, norm: NormName, *, kernel: int = 3, stride: int = 1, padding: int = 1, bias: bool
) -> list[nn.Module]:
    """Convolution, norm and ReLU."""
    return [nn.Conv2d(before, after, kernel, stride, padding, bias=bias), norm_layer(norm, after), nn.ReLU()]


def up_stage(before: int, after: int, norm: NormName, *, bias: bool) -> list[nn.Module]:
    """Transposed convolution that doubles height and width, norm and ReLU."""
    return [nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=1, bias=bias), norm_layer(norm, after), nn.ReLU()]


def first_stage(input_channels: int, features: int, norm: NormName, *, bias: bool) -> list[nn.Module]:
    """The 7x7 convolution that a residual generator begins with."""
    return [
        nn.ReflectionPad2d(3),
        *conv_stage(input_channels, features, norm, kernel=7, padding=0, bias=bias),
    ]


def last_stage(features: int, output_channels: int) -> list[nn.Module]:
    """The 7x7 convolution that a residual generator ends with, to [-1, 1]."""
    return [nn.ReflectionPad2d(3), nn.Conv2d(features, output_channels, 7), nn.Tanh()]


def half_size() -> nn.AvgPool2d:
    """Half the height and width, as pix2pixHD makes its smaller scales: the mean of what 3x3 pixels there are."""
    return nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with reflected borders, and the input added to the result (Johnson et al. 2016).

    State-dict keys are those of the PyTorch reference implementations: dropout moves the second convolution by one,
    a border of zeros the first by one and the second by two.
    """

    def __init__(
        self, features: int, norm: NormName, *, bias: bool, dropout: float = 0.0, padding: Padding = "reflect"
    ) -> None:
        super().__init__()
        around, own = border(padding)
        layers = [*around, *conv_stage(features, features, norm, padding=own, bias=bias)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        layers += [
            *border(padding)[0],
            nn.Conv2d(features, features, 3, padding=own, bias=bias),
            norm_layer(norm, features),
        ]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same."""
        return x + self.conv_block(x)  # type: ignore[no-any-return]


@torch.no_grad()
def init_weights(network: nn.Module, gain: float = 0.02) -> None:
    """Draw weights from N(0, `gain`) and batch norm scales from N(1, `gain`), biases 0 (pix2pix, appendix 6.2)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, gain)
            nn.init.zeros_(module.bias)
