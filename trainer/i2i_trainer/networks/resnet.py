"""The residual generator of CycleGAN (Zhu et al. 2017, appendix 7.2; after Johnson et al. 2016)."""

from __future__ import annotations

import re

from torch import Tensor, nn

from i2i_runtime.errors import UsageError
from i2i_trainer.networks.layers import (
    NormName,
    ResidualBlock,
    conv_stage,
    convs_have_bias,
    first_stage,
    last_stage,
    up_stage,
)

MULTIPLE = 4
"""Two halvings: image sides must be multiples of it."""


def resnet_blocks(name: str) -> int:
    """Number of residual blocks of a generator by its name, for example 9 of `resnet_9blocks`.

    Raises:
        UsageError: not `resnet_Nblocks`.
    """
    match = re.fullmatch(r"resnet_([1-9]\d?)blocks", name)
    if match is None:
        raise UsageError(f"generator {name!r}: expected resnet_6blocks, resnet_9blocks, ...")
    return int(match[1])


class ResnetGenerator(nn.Module):
    """Encoder, residual blocks at a quarter of the size, decoder.

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
    ) -> None:
        """Build it.

        Args:
            n_blocks: residual blocks; the paper has 6 for 128 pixels and 9 for 256 and more.
            input_channels: channels of the input image.
            output_channels: channels of the output image.
            ngf: features of the first layer; doubled at each halving.
            norm: normalisation layers.
            dropout: probability inside the residual blocks; 0 leaves the layers out.
        """
        super().__init__()
        bias = convs_have_bias(norm)
        self.model = nn.Sequential(
            *first_stage(input_channels, ngf, norm, bias=bias),
            *conv_stage(ngf, ngf * 2, norm, stride=2, bias=bias),
            *conv_stage(ngf * 2, ngf * 4, norm, stride=2, bias=bias),
            *(ResidualBlock(ngf * 4, norm, bias=bias, dropout=dropout) for _ in range(n_blocks)),
            *up_stage(ngf * 4, ngf * 2, norm, bias=bias),
            *up_stage(ngf * 2, ngf, norm, bias=bias),
            *last_stage(ngf, output_channels),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(n, c, h, w) in [-1, 1] to (n, c', h, w) in [-1, 1]; sides are multiples of 4."""
        return self.model(image)  # type: ignore[no-any-return]
