"""The PyTorch generator as a function of what an engine takes: what every engine is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from i2i_export.parity import Reference, grey_levels
from i2i_runtime import norm_statistics
from i2i_runtime.card import Card, ImageSpec
from i2i_runtime.errors import ModelError
from i2i_runtime.image import image_to_tensor


def torch_reference(generator: nn.Module, card: Card) -> Reference:
    """The generator behind the inputs and output of an exported graph.

    Args:
        generator: as it was exported.
        card: the exported model's card: a uint8 graph's grey levels become values, a style that is built in is given.

    Returns:
        A function of the graph's inputs, in their order; it raises ModelError where the generator returns NaN or
        infinity.
    """
    assert card.export is not None
    # They make a tileable graph the ordinary one that PyTorch has.
    n_of_norms = len(norm_statistics.INPUTS) if card.export.norm_channels else 0
    is_uint8, labels, style = card.export.graph_io == "uint8", card.labels, card.export.style
    names = ["instances"] if labels is not None and labels.instance_edges else []
    if labels is not None and labels.styles:
        names.append("style")

    def reference(given: NDArray[Any], *others: NDArray[Any]) -> NDArray[Any]:
        if is_uint8:
            # What the grey levels stand for, not what was rounded to them.
            given = np.concatenate([_values(levels, card.input) for levels in given])
        others = others[: len(others) - n_of_norms]
        if style is not None:
            others = (*others, np.array([style]))
        named = {name: torch.from_numpy(array) for name, array in zip(names, others, strict=True)}
        with torch.no_grad():
            wanted: NDArray[Any] = generator(torch.from_numpy(np.ascontiguousarray(given)), **named).numpy()
        # Before it becomes grey levels, where NaN is black.
        if not np.isfinite(wanted).all():
            raise ModelError(
                "the generator returns NaN or infinity: nothing was written; export an earlier checkpoint of the run"
            )
        return grey_levels(wanted, card.output) if is_uint8 else wanted

    return reference


def _values(levels: NDArray[Any], spec: ImageSpec) -> NDArray[np.float32]:
    """(h, w, c) grey levels to (1, c, h, w) in the value range."""
    return image_to_tensor(levels if spec.channels == 3 else np.repeat(levels, 3, axis=2), spec)
