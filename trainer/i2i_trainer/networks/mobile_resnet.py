"""The residual generator of GAN-Compression (Li et al. 2020, section 4): depthwise separable blocks, pruned widths."""

from __future__ import annotations

from torch import Tensor, nn

from i2i_runtime.errors import UsageError
from i2i_trainer.networks.layers import (
    NormName,
    Padding,
    border,
    conv_stage,
    convs_have_bias,
    first_stage,
    last_stage,
    norm_layer,
    up_stage,
)


class MobileResnetGenerator(nn.Module):
    """CycleGAN's residual generator with a depthwise and a pointwise convolution for each one of its blocks.

    State-dict keys are those of the PyTorch reference implementation.
    """

    def __init__(
        self,
        n_blocks: int,
        input_channels: int = 3,
        output_channels: int = 3,
        ngf: int = 64,
        norm: NormName = "instance",
        dropout: float = 0.0,
        padding: Padding = "reflect",
        channels: str = "",
        inner_norm: NormName = "instance",
        separable_bias: bool = True,
    ) -> None:
        """Build it.

        Args:
            n_blocks: residual blocks at a quarter of the size.
            input_channels: channels of the input image.
            output_channels: channels of the output image.
            ngf: features of the first layer; doubled at each halving.
            norm: normalisation layers after convolutions.
            dropout: probability inside the residual blocks, which keep a place for it.
            padding: what the residual blocks put around a picture.
            channels: where a search has pruned them, the channels after each layer, joined by underscores: of the
                first layer, the two halvings, the middle of each block and the two doublings. They replace `ngf`'s.
            inner_norm: between a depthwise and its pointwise convolution; the reference has instance norm even where
                `norm` is batch norm.
            separable_bias: whether depthwise and pointwise convolutions have a bias.

        Raises:
            UsageError: `channels` is not one number for each layer.
        """
        super().__init__()
        bias = convs_have_bias(norm)
        first, half, quarter, *rest = mobile_channels(n_blocks, ngf, channels)
        middles, up_half, up_full = rest[:-2], rest[-2], rest[-1]
        self.model = nn.Sequential(
            *first_stage(input_channels, first, norm, bias=bias),
            *conv_stage(first, half, norm, stride=2, bias=bias),
            *conv_stage(half, quarter, norm, stride=2, bias=bias),
            *(
                _MobileBlock(quarter, middle, norm, inner_norm, bias=separable_bias, dropout=dropout, padding=padding)
                for middle in middles
            ),
            *up_stage(quarter, up_half, norm, bias=bias),
            *up_stage(up_half, up_full, norm, bias=bias),
            *last_stage(up_full, output_channels),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(n, c, h, w) in [-1, 1] to (n, c', h, w) in [-1, 1]; sides are multiples of 4."""
        return self.model(image)  # type: ignore[no-any-return]


def mobile_channels(n_blocks: int, ngf: int, channels: str = "") -> list[int]:
    """The channels after each layer: of the first, two halvings, the middle of each block, two doublings.

    Raises:
        UsageError: `channels` is not one number for each layer.
    """
    if not channels:
        return [ngf, ngf * 2, ngf * 4, *[ngf * 4] * n_blocks, ngf * 2, ngf]
    numbers = channels.split("_")
    if len(numbers) != n_blocks + 5 or not all(number.isdecimal() and int(number) for number in numbers):
        raise UsageError(f"channels {channels!r}: expected {n_blocks + 5} numbers joined by underscores")
    return [int(number) for number in numbers]


class _MobileBlock(nn.Module):
    def __init__(
        self,
        features: int,
        middle: int,
        norm: NormName,
        inner_norm: NormName,
        *,
        bias: bool,
        dropout: float,
        padding: Padding,
    ) -> None:
        super().__init__()
        around, own = border(padding)
        self.conv_block = nn.Sequential(
            *around,
            _SeparableConv(features, middle, inner_norm, bias=bias, padding=own),
            norm_layer(norm, middle),
            nn.ReLU(),
            nn.Dropout(dropout),
            *border(padding)[0],
            _SeparableConv(middle, features, inner_norm, bias=bias, padding=own),
            norm_layer(norm, features),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)  # type: ignore[no-any-return]


class _SeparableConv(nn.Module):
    def __init__(self, before: int, after: int, norm: NormName, *, bias: bool, padding: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(before, before, 3, padding=padding, groups=before, bias=bias),
            norm_layer(norm, before),
            nn.Conv2d(before, after, 1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]
