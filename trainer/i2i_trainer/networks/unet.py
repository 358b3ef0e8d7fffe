"""The U-Net generator of pix2pix (Isola et al. 2017, section 3.2.1 and appendix 6.1.1)."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

from i2i_runtime.errors import UsageError
from i2i_trainer.networks.layers import NormName, convs_have_bias, norm_layer

MIN_DOWNS = 5


def unet_downs(name: str) -> int:
    """Number of halvings of a U-Net by its name: `unet_256` brings 256 pixels down to one in 8.

    Raises:
        UsageError: not `unet_N` with N a power of two from 32 on.
    """
    match = re.fullmatch(r"unet_(\d+)", name)
    side = int(match[1]) if match else 0
    downs = side.bit_length() - 1
    if side != 2**downs or downs < MIN_DOWNS:
        raise UsageError(f"generator {name!r}: expected unet_32, unet_64, unet_128, unet_256, unet_512, ...")
    return downs


def unet_for(height: int, width: int) -> str:
    """The name of the U-Net that fits an image size: the deepest one up to `unet_256`.

    Raises:
        UsageError: the sides have no common factor of 32.
    """
    common = math.gcd(height, width)
    side = min(256, common & -common)  # the largest power of two in both sides
    if side < 2**MIN_DOWNS:
        raise UsageError(f"size {height}x{width}: a U-Net needs multiples of 32; use for example 128, 256 or 256x512")
    return f"unet_{side}"


class UnetGenerator(nn.Module):
    """Encoder and decoder with a skip connection at every resolution.

    State-dict keys are those of the PyTorch reference implementation: a level is nested in the level above it.
    """

    def __init__(
        self,
        downs: int,
        input_channels: int = 3,
        output_channels: int = 3,
        ngf: int = 64,
        norm: NormName = "batch",
        dropout: float = 0.5,
    ) -> None:
        """Build the levels from the inside out.

        Args:
            downs: number of halvings, at least 5; image sides must be multiples of 2**downs.
            input_channels: channels of the input image.
            output_channels: channels of the output image.
            ngf: features of the outermost level; doubled per level up to 8 times.
            norm: normalisation layers.
            dropout: probability in the decoder's 512-channel levels between the innermost and the last four;
                0 leaves the layers out (the keys stay the same).
        """
        super().__init__()
        wide = ngf * 8
        level = _Level(wide, wide, None, norm)
        for _ in range(downs - MIN_DOWNS):
            level = _Level(wide, wide, level, norm, dropout=dropout)
        for factor in (4, 2, 1):
            level = _Level(ngf * factor, ngf * factor * 2, level, norm)
        self.model = _OutermostLevel(input_channels, output_channels, ngf, level, norm)

    def forward(self, image: Tensor) -> Tensor:
        """(n, c, h, w) in [-1, 1] to (n, c', h, w) in [-1, 1]."""
        return self.model(image)  # type: ignore[no-any-return]

    def levels(self) -> list[nn.Module]:
        """The levels from the outermost but one, which sees half the picture's sides, to the innermost."""
        return [module for module in self.modules() if isinstance(module, _Level)]


class _Level(nn.Module):
    """Down, through the level inside it, up, and the input beside the result."""

    def __init__(self, outer: int, inner: int, inside: _Level | None, norm: NormName, *, dropout: float = 0.0) -> None:
        super().__init__()
        bias = convs_have_bias(norm)
        down = [nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
        up_channels = inner
        if inside is not None:
            # At the innermost level an image may be one pixel: nothing to normalise.
            down += [norm_layer(norm, inner), inside]
            up_channels = inner * 2
        up = [
            nn.ReLU(),
            nn.ConvTranspose2d(up_channels, outer, 4, 2, 1, bias=bias),
            norm_layer(norm, outer),
        ]
        if dropout:
            up.append(nn.Dropout(dropout))
        self.model = nn.Sequential(*down, *up)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], 1)


class _OutermostLevel(nn.Module):
    def __init__(self, input_channels: int, output_channels: int, ngf: int, inside: _Level, norm: NormName) -> None:
        super().__init__()
        self.model = nn.Sequential(
            # No norm follows, yet the reference's key layout has a bias here under instance norm only.
            nn.Conv2d(input_channels, ngf, 4, 2, 1, bias=convs_have_bias(norm)),
            inside,
            nn.ReLU(),
            nn.ConvTranspose2d(ngf * 2, output_channels, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]
