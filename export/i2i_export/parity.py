"""Proof that an engine computes what the PyTorch generator computes, on real pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from i2i_runtime.card import Card, ImageSpec, ParityRecord
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
    for picture, others in _inputs(card, examples):
        with torch.no_grad():
            wanted = generator(picture, **others).numpy()
        # A style that is built in is no input of the engine.
        given = [picture.numpy(), *(others[spec.name].numpy() for spec in engine.inputs[1:])]
        if card.export.graph_io == "uint8":
            wanted = _grey_levels(wanted, card.output)
            given = [_grey_levels(given[0], card.input)]
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


def _grey_levels(images: NDArray[Any], spec: ImageSpec) -> NDArray[Any]:
    """(1, c, h, w) to what a uint8 graph takes and returns, (1, h, w, c)."""
    return tensor_to_image(images[0], spec)[None, :, :, : spec.channels]


def _inputs(card: Card, examples: Sequence[Example]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """The generator's arguments for each example, at the model's size: the picture, and others by their names."""
    assert card.size.height is not None
    assert card.size.width is not None
    assert card.export is not None
    size = card.size.height, card.size.width
    for example in examples:
        tensors = {name: _resized(tensor, size)[None] for name, tensor in example.items()}
        picture = tensors.pop("input")
        if card.labels is None or not card.labels.styles:
            yield picture, tensors
            continue
        baked = card.export.style
        for style in range(card.labels.styles) if baked is None else [baked]:
            yield picture, tensors | {"style": torch.tensor([style])}


def _resized(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    if not tensor.is_floating_point():
        return functional.interpolate(tensor[None].float(), size=size, mode="nearest")[0].to(tensor.dtype)
    if tuple(tensor.shape[-2:]) == size:
        return tensor
    return functional.interpolate(tensor[None], size=size, mode="bilinear", antialias=True)[0]
