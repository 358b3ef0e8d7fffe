"""From a generator's architecture, as a card states it, to a network."""

from __future__ import annotations

from typing import Any

from torch import nn

from i2i_runtime.card import Architecture
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.networks.unet import UnetGenerator, unet_downs


def build_generator(architecture: Architecture) -> nn.Module:
    """The generator with PyTorch's initial weights.

    Raises:
        ModelError: an architecture or an argument that this version does not know.
    """
    arguments: dict[str, Any] = dict(architecture.arguments)
    try:
        if architecture.name.startswith("unet_"):
            return UnetGenerator(unet_downs(architecture.name), **arguments)
    except (TypeError, KeyError, UsageError) as error:
        raise ModelError(f"generator {architecture.name}: not one that can be built ({error})") from error
    raise ModelError(f"generator {architecture.name!r}: expected unet_N; use the i2i that trained it")
