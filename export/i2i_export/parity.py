"""Proof that an engine computes what the PyTorch generator computes, on real pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i_runtime.card import Card, ParityRecord
from i2i_runtime.engines.base import Engine
from i2i_runtime.errors import ModelError
from i2i_runtime.image import tensor_to_image

TOLERANCE = {"float": 1e-4, "uint8": 1.0}
"""Largest difference that passes: in the tensor's units, and in grey levels."""
IDENTICAL_DB = 999.0


Example = Mapping[str, Tensor]
"""`input` (c, h, w) float in the card's value range, or the ids of a label map, with `instances` (1, h, w)."""


def measure_parity(
    generator: nn.Module, engine: Engine, card: Card, examples: Sequence[Example], tolerance: float
) -> ParityRecord:
    """Run examples through both and compare; of a model with styles to choose from, every style.

    Args:
        generator: the PyTorch generator as it was exported.
        engine: the exported model, running.
        card: the exported model's card: its size, and whether it is a float or a uint8 graph.
        examples: inputs of any size; resized to the model's.
        tolerance: the largest difference that the caller will accept; only recorded here.

    Raises:
        ModelError: either of them returns NaN or infinity.
    """
    assert card.export is not None
    worst, total, squares, count = 0.0, 0.0, 0.0, 0
    for inputs in _inputs(card, examples):
        with torch.no_grad():
            wanted = generator(*inputs).numpy()
        given = [tensor.numpy() for tensor in inputs]
        if card.export.graph_io == "uint8":
            wanted = tensor_to_image(wanted[0], card.output)[None]
            given = [tensor_to_image(given[0][0], card.input)[None]]
        elif card.export.style is not None:
            given = given[:-1]  # it is built in
        found = engine.run(*given)
        if not (np.isfinite(wanted).all() and np.isfinite(found).all()):
            raise ModelError(
                "the generator returns NaN or infinity: nothing was written; export an earlier checkpoint of the run"
            )
        difference = np.abs(wanted.astype(np.float64) - found)
        worst = max(worst, float(difference.max()))
        total += float(difference.sum())
        squares += float(np.square(difference).sum())
        count += difference.size
    low, high = (0.0, 255.0) if card.export.graph_io == "uint8" else card.output.value_range
    return ParityRecord(
        engine=engine.provider,
        pictures=len(examples),
        max_abs=worst,
        mean_abs=total / count,
        psnr_db=10 * math.log10((high - low) ** 2 * count / squares) if squares else IDENTICAL_DB,
        tolerance=tolerance,
    )


def _inputs(card: Card, examples: Sequence[Example]) -> Iterator[list[Tensor]]:
    """The generator's arguments for each example, at the model's size."""
    assert card.size.height is not None
    assert card.size.width is not None
    assert card.export is not None
    size = card.size.height, card.size.width
    for example in examples:
        tensors = [_resized(example[name], size)[None] for name in ("input", "instances") if name in example]
        if card.labels is None or not card.labels.styles:
            yield tensors
            continue
        baked = card.export.style
        for style in range(card.labels.styles) if baked is None else [baked]:
            # Without edges there is no instance map; the style comes third all the same.
            yield [*tensors, *[tensors[0]] * (2 - len(tensors)), torch.tensor([style])]


def _resized(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    if not tensor.is_floating_point():
        return functional.interpolate(tensor[None].float(), size=size, mode="nearest")[0].to(tensor.dtype)
    if tuple(tensor.shape[-2:]) == size:
        return tensor
    return functional.interpolate(tensor[None], size=size, mode="bilinear", antialias=True)[0]
