"""Layers and initialisation that all networks share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

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
