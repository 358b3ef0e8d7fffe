"""Layers and initialisation that all networks share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

NormName = Literal["batch", "instance"]

_NORMS: dict[str, type[nn.BatchNorm2d] | type[nn.InstanceNorm2d]] = {
    "batch": nn.BatchNorm2d,
    "instance": nn.InstanceNorm2d,
}


def norm_layer(norm: NormName, channels: int) -> nn.Module:
    """Batch norm with learnt scale and shift, or instance norm without, as the papers use them."""
    return _NORMS[norm](channels)


def convs_have_bias(norm: NormName) -> bool:
    """A convolution before a norm with its own shift needs none; before instance norm it keeps one."""
    return norm == "instance"


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

    State-dict keys are those of the PyTorch reference implementations: dropout moves the second convolution by one.
    """

    def __init__(self, features: int, norm: NormName, *, bias: bool, dropout: float = 0.0) -> None:
        super().__init__()
        layers = [nn.ReflectionPad2d(1), *conv_stage(features, features, norm, padding=0, bias=bias)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        layers += [
            nn.ReflectionPad2d(1),
            nn.Conv2d(features, features, 3, bias=bias),
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
