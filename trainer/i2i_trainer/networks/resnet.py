"""The residual generator of CycleGAN (Zhu et al. 2017, appendix 7.2; after Johnson et al. 2016).

With blur filters around its changes of size it is the generator of CUT (Park et al. 2020), which takes them from
"Making Convolutional Networks Shift-Invariant Again" (Zhang 2019).
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i_runtime.errors import UsageError
from i2i_trainer.networks.layers import (
    NormName,
    Padding,
    ResidualBlock,
    conv_stage,
    convs_have_bias,
    first_stage,
    last_stage,
    up_stage,
)


def resnet_blocks(name: str) -> int:
    """Number of residual blocks of a generator by its name, for example 9 of `resnet_9blocks`.

    Raises:
        UsageError: not `resnet_Nblocks`.
    """
    match = re.fullmatch(r"resnet_([1-9]\d?)blocks", name)
    if match is None:
        raise UsageError(f"generator {name!r}: expected resnet_6blocks, resnet_9blocks, ...")
    return int(match[1])


class BlurDown(nn.Module):
    """Half the height and width: each channel is blurred and every second pixel kept.

    The filter is a buffer `filt` (c, 1, side, side), as in the reference implementation.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.register_buffer("filt", _binomial(channels, side))
        before, after = (side - 1) // 2, side // 2
        self._pad = nn.ReflectionPad2d((before, after, before, after))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c, h / 2, w / 2)."""
        filt = self.get_buffer("filt")
        return functional.conv2d(self._pad(x), filt, stride=2, groups=len(filt))


class BlurUp(nn.Module):
    """Double the height and width: each channel is spread to every second pixel and blurred.

    The filter is a buffer `filt` (c, 1, side, side) that sums to 4, as in the reference implementation.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.register_buffer("filt", 4 * _binomial(channels, side))
        self._pad = nn.ReplicationPad2d(1)
        # The reference crops its result by one pixel, at the far end only where the filter's side is even; the
        # convolution's own padding does the same.
        self._crop = 2 + (side - 1) // 2
        self._kept_at_the_end = side % 2

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c, 2h, 2w)."""
        filt = self.get_buffer("filt")
        return functional.conv_transpose2d(
            self._pad(x),
            filt,
            stride=2,
            padding=self._crop,
            output_padding=self._kept_at_the_end,
            groups=len(filt),
        )


def _binomial(channels: int, side: int) -> Tensor:
    """For example 1 2 1 times 1 2 1, over its sum: one filter (1, side, side) for each channel."""
    line = torch.tensor([float(math.comb(side - 1, i)) for i in range(side)])
    square = line[:, None] * line[None, :]
    return (square / square.sum()).repeat(channels, 1, 1, 1)


class ResnetGenerator(nn.Module):
    """Encoder, residual blocks at a quarter of the size, decoder.

    State-dict keys are those of the PyTorch reference implementations.
    """

    def __init__(
        self,
        n_blocks: int,
        input_channels: int = 3,
        output_channels: int = 3,
        ngf: int = 64,
        norm: NormName = "instance",
        dropout: float = 0.0,
        n_downsampling: int = 2,
        padding: Padding = "reflect",
        antialias_down: int = 0,
        antialias_up: int = 0,
    ) -> None:
        """Build it.

        Args:
            n_blocks: residual blocks; the paper has 6 for 128 pixels and 9 for 256 and more.
            input_channels: channels of the input image.
            output_channels: channels of the output image.
            ngf: features of the first layer; doubled at each halving.
            norm: normalisation layers.
            dropout: probability inside the residual blocks; 0 leaves the layers out.
            n_downsampling: number of halvings; image sides must be multiples of 2**n_downsampling.
            padding: what the residual blocks put around a picture.
            antialias_down: side of the blur filter at each halving, 3 in CUT; 0: convolutions with a stride.
            antialias_up: side of the blur filter at each doubling, 4 in CUT; 0: transposed convolutions.
        """
        super().__init__()
        bias = convs_have_bias(norm)
        widths = [ngf * 2**i for i in range(n_downsampling + 1)]
        layers = first_stage(input_channels, ngf, norm, bias=bias)
        for width in widths[:-1]:
            layers += conv_stage(width, width * 2, norm, stride=1 if antialias_down else 2, bias=bias)
            if antialias_down:
                layers.append(BlurDown(width * 2, antialias_down))
        layers += [
            ResidualBlock(widths[-1], norm, bias=bias, dropout=dropout, padding=padding) for _ in range(n_blocks)
        ]
        for width in reversed(widths[:-1]):
            if antialias_up:
                layers += [BlurUp(width * 2, antialias_up), *conv_stage(width * 2, width, norm, bias=bias)]
            else:
                layers += up_stage(width * 2, width, norm, bias=bias)
        self.model = nn.Sequential(*layers, *last_stage(ngf, output_channels))

    def forward(self, image: Tensor) -> Tensor:
        """(n, c, h, w) in [-1, 1] to (n, c', h, w) in [-1, 1]; sides are multiples of 2**n_downsampling."""
        return self.model(image)  # type: ignore[no-any-return]
