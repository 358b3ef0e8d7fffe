"""A small generator for CPUs, to be taught by a large one: few nodes, few pixels, plain convolutions.

Its shape is what measurements of ONNX Runtime and OpenVINO ask for, not what multiply-adds do. Nearly all of it is at a
quarter of the size, where a row of pixels fills vector registers and the cache holds a layer. Borders are zeros, which
a convolution has for nothing: reflection is a node of its own that copies the picture. There is no norm by default, so
that each convolution runs into the next with nothing between that a library cannot fuse. Its size changes by
rearranging pixels to channels and back (Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an
Efficient Sub-Pixel Convolutional Neural Network") rather than by transposed convolutions.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from i2i_runtime.errors import UsageError
from i2i_trainer.budget.shape import GROUP, BlockKind
from i2i_trainer.networks.layers import NormName, conv_stage, norm_layer

_SMALL = 0.1
"""By how much a residual branch is smaller than its input at first."""


def student_blocks(name: str) -> int:
    """Number of residual blocks of a generator by its name, for example 6 of `student_6blocks`.

    Raises:
        UsageError: not `student_Nblocks`.
    """
    match = re.fullmatch(r"student_(0|[1-9]\d?)blocks", name)
    if match is None:
        raise UsageError(f"generator {name!r}: expected student_4blocks, student_6blocks, ...")
    return int(match[1])


class StudentGenerator(nn.Module):
    """Pixels to channels, residual blocks at a quarter of the size, channels to pixels.

    The first layer takes patches of 4x4 pixels as channels (2x2 where there is a layer at half of the size) through a
    convolution of 3x3. It is written as what this is, number for number: a convolution of 12x12 pixels with a stride of
    4 (6x6 with 2). The exporter has Reshape, Transpose and Reshape for pixels to channels; without them the first two
    layers take 0.7 (0.5) of the time in ONNX Runtime, where SpaceToDepth was slower too, and in OpenVINO the same.
    """

    def __init__(
        self,
        n_blocks: int,
        input_channels: int = 3,
        output_channels: int = 3,
        width: int = 32,
        half: int = 0,
        inner: str = "",
        block: BlockKind = "plain",
        norm: NormName = "none",
    ) -> None:
        """Build it.

        Args:
            n_blocks: residual blocks at a quarter of the size.
            input_channels: channels of the input image.
            output_channels: channels of the output image.
            width: channels at a quarter of the size.
            half: channels of a layer at half of the size at each end; 0: none, sizes change by four at once.
            inner: channels in the middle of each block, joined by underscores; empty: `width` in all.
            block: `plain` has convolutions of 3x3. In their place `separable` has 3x3 in each channel alone, then 1x1
                over all of them (Howard et al. 2017, "MobileNets"), and `grouped` 3x3 in groups of `GROUP` channels
                (Xie et al. 2017, "Aggregated Residual Transformations"), then 1x1 over all of them: so groups mix.
            norm: normalisation layers. Instance norms look at the whole picture, and take their time.

        Raises:
            UsageError: `inner` is not one number for each block; channels that make no whole groups.
        """
        super().__init__()
        bias = norm != "batch"
        patch = 2 if half else 4
        self._patch = patch
        middles = inner_channels(n_blocks, width, inner)
        if block == "grouped" and any(channels % GROUP for channels in (width, *middles)):
            raise UsageError(f"width {width}, inner {inner!r}: expected multiples of {GROUP} for grouped blocks")
        encoder = conv_stage(
            input_channels, half or width, norm, kernel=3 * patch, stride=patch, padding=patch, bias=bias
        )
        decoder: list[nn.Module] = []
        if half:
            encoder += conv_stage(half, width, norm, stride=2, bias=bias)
            # Before pixels move, where a library fuses them with the convolution: batch norm too, once it is fixed.
            decoder += [*conv_stage(width, half * patch**2, norm, bias=bias), nn.PixelShuffle(patch)]
        decoder += [nn.Conv2d(half or width, output_channels * patch**2, 3, padding=1), nn.PixelShuffle(patch)]
        self.encoder = nn.Sequential(*encoder)
        self.blocks = nn.Sequential(*(_Block(block, width, middle, norm, bias=bias) for middle in middles))
        self.decoder = nn.Sequential(*decoder, nn.Tanh())

    def forward(self, image: Tensor) -> Tensor:
        """(n, c, h, w) in [-1, 1] to (n, c', h, w) in [-1, 1]; sides are multiples of 4."""
        return self.decoder(self.blocks(self.encoder(image)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw weights with which signals keep their scale through all layers, where no norms see to that.

        Convolutions are drawn as rectifiers need it (He et al. 2015, "Delving Deep into Rectifiers"). Residual branches
        begin small, so that depth does not add up (Wang et al. 2018, "ESRGAN", section 3.1; by the scale of their norm
        where that has one, Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 5.1). The pixels that one vector
        of channels becomes begin equal, without a checkerboard (Aitken et al. 2017, "Checkerboard artifact free
        sub-pixel convolution").
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # No ReLU follows those in groups.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if module.groups == 1 else "linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, _Block)
            block.shrink()
        ends = [layer for layer in self.decoder if isinstance(layer, nn.Conv2d)]
        # No ReLU follows the last, and each block may have added the variance of one.
        ends[-1].weight.div_((2 + 2 * len(self.blocks)) ** 0.5)
        for convolution in ends:
            pixels = self._patch**2
            convolution.weight.copy_(convolution.weight[::pixels].repeat_interleave(pixels, 0))


def inner_channels(n_blocks: int, width: int, inner: str = "") -> list[int]:
    """The channels in the middle of each block.

    Raises:
        UsageError: `inner` is not one number for each block.
    """
    if not inner:
        return [width] * n_blocks
    numbers = inner.split("_")
    if len(numbers) != n_blocks or not all(number.isdecimal() and int(number) for number in numbers):
        raise UsageError(f"inner {inner!r}: expected {n_blocks} numbers joined by underscores")
    return [int(number) for number in numbers]


class _Block(nn.Module):
    """Two convolutions with a ReLU between, added to what they were given."""

    def __init__(self, kind: BlockKind, width: int, middle: int, norm: NormName, *, bias: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_convolution(kind, width, middle, bias=bias),
            norm_layer(norm, middle),
            nn.ReLU(),
            *_convolution(kind, middle, width, bias=bias),
            norm_layer(norm, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)  # type: ignore[no-any-return]

    def shrink(self) -> None:
        """Make the branch small. A norm without a scale makes any convolution before it as large as one."""
        *_, convolution, norm = self.branch
        scale = convolution.weight if isinstance(norm, nn.Identity) else norm.weight
        if isinstance(scale, Tensor):
            scale.mul_(_SMALL)


def _convolution(kind: BlockKind, before: int, after: int, *, bias: bool) -> list[nn.Module]:
    if kind == "plain":
        return [nn.Conv2d(before, after, 3, padding=1, bias=bias)]
    each = 1 if kind == "separable" else GROUP
    # A bias of the first would come out of the second as part of its own.
    return [
        nn.Conv2d(before, before, 3, padding=1, groups=before // each, bias=False),
        nn.Conv2d(before, after, 1, bias=bias),
    ]
