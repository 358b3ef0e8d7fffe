"""Proof that an engine computes what the PyTorch generator computes, on real pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.image import structural_similarity_index_measure

from i2i_export.gate import Gate
from i2i_export.graph import typical_size
from i2i_runtime.card import Card, ImageSpec, ParityRecord
from i2i_runtime.engines.base import Engine
from i2i_runtime.errors import ModelError
from i2i_runtime.frame import Image
from i2i_runtime.image import image_to_tensor, resize, tensor_to_image

IDENTICAL_DB = 999.0
_WINDOW = 11
"""Pixels of SSIM's window (Wang et al. 2004)."""

Example = Mapping[str, Tensor]
"""`input` (c, h, w) float in the card's value range, or the ids of a label map, with `instances` (1, h, w)."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input, as the engine takes it, and both results in the engine's type."""

    inputs: tuple[NDArray[Any], ...]
    wanted: NDArray[Any]
    found: NDArray[Any]


def measure_parity(
    generator: nn.Module,
    engine: Engine,
    card: Card,
    examples: Sequence[Example],
    gate: Gate,
    *,
    at_every_size: bool = True,
) -> tuple[ParityRecord, Case]:
    """Run examples through both and compare; of a model with styles to choose from, every style.

    A dynamic graph runs all examples at its typical size, and the first at its smallest and largest and as a batch.

    Args:
        generator: the PyTorch generator as it was exported.
        engine: the exported model, running.
        card: the exported model's card: its size, and whether it is a float or a uint8 graph.
        examples: inputs of any size; resized to the model's.
        gate: what the caller will accept; only recorded here.
        at_every_size: False leaves a dynamic graph at its typical size.

    Returns:
        The record, and the case that fared worst.

    Raises:
        ModelError: either of them returns NaN or infinity.
    """
    total, squares, count, largest = 0.0, 0.0, 0, 0.0
    worst: tuple[float, Case] | None = None
    similarities = []
    peak = _peak(card)
    for case in _cases(generator, engine, card, examples, at_every_size):
        difference = np.abs(case.wanted.astype(np.float64) - case.found)
        largest = max(largest, float(difference.max()))
        total += float(difference.sum())
        its_squares = float(np.square(difference).sum())
        squares += its_squares
        count += difference.size
        psnr = _psnr(peak, its_squares / difference.size)
        if worst is None or psnr < worst[0]:
            worst = psnr, case
        similarity = _ssim(case, peak)
        if similarity is not None:
            similarities.append(similarity)
    if worst is None:
        raise ModelError("no pictures to prove the export on; give some with --pictures")
    record = ParityRecord(
        engine=engine.provider,
        pictures=len(examples),
        max_abs=largest,
        mean_abs=total / count,
        psnr_db=_psnr(peak, squares / count),
        tolerance=gate.max_abs,
        worst_psnr_db=worst[0],
        min_psnr_db=gate.min_psnr_db,
        ssim=sum(similarities) / len(similarities) if similarities else None,
    )
    return record, worst[1]


def _cases(
    generator: nn.Module, engine: Engine, card: Card, examples: Sequence[Example], at_every_size: bool
) -> Iterator[Case]:
    inputs = _inputs(card, examples) if at_every_size else _at_size(card, examples, typical_size(card))
    for tensors in inputs:
        arrays = engine_inputs(card, tensors)
        given = tensors.pop("input")
        if _is_uint8(card):
            # PyTorch gets the same grey levels, not what was rounded to them.
            given = torch.from_numpy(np.concatenate([_values(levels, card.input) for levels in arrays[0]]))
        with torch.no_grad():
            wanted = generator(given, **tensors).numpy()
        if _is_uint8(card):
            wanted = _grey_levels(wanted, card.output)
        found = engine.run(*arrays)
        if not np.isfinite(wanted).all():
            raise ModelError(
                "the generator returns NaN or infinity: nothing was written; export an earlier checkpoint of the run"
            )
        if not np.isfinite(found).all():
            raise ModelError(f"{engine.provider} returns NaN or infinity where PyTorch does not; nothing was written")
        yield Case(inputs=arrays, wanted=wanted, found=found)


def all_inputs(
    card: Card, examples: Sequence[Example], *, at_every_size: bool = False
) -> list[tuple[NDArray[Any], ...]]:
    """The examples as an engine takes them, at the model's typical size, or as `measure_parity` has them."""
    inputs = _inputs(card, examples) if at_every_size else _at_size(card, examples, typical_size(card))
    return [engine_inputs(card, tensors) for tensors in inputs]


def engine_inputs(card: Card, tensors: Mapping[str, Tensor]) -> tuple[NDArray[Any], ...]:
    """From the generator's arguments to an engine's: grey levels of a uint8 graph, no style that is built in."""
    assert card.export is not None
    built_in = {"style"} if card.export.style is not None else set()
    arrays = [tensor.numpy() for name, tensor in tensors.items() if name not in built_in]
    if _is_uint8(card):
        arrays = [_grey_levels(arrays[0], card.input)]
    return tuple(arrays)


def _inputs(card: Card, examples: Sequence[Example]) -> Iterator[dict[str, Tensor]]:
    yield from _at_size(card, examples, typical_size(card))
    profile = card.export.profile if card.export is not None else None
    if profile is None or not examples:
        return
    for size in dict.fromkeys((profile.smallest, profile.largest)):
        if size != profile.typical:
            yield from _at_size(card, examples[:1], size)
    if profile.batch > 1:
        for tensors in _at_size(card, examples[:1], profile.typical):
            style = {name: tensors.pop(name) for name in ("style",) if name in tensors}
            # The second picture is another one, or the parts of a batch could be mixed up unseen.
            yield {name: torch.cat([tensor, tensor.flip(-1)]) for name, tensor in tensors.items()} | style


def _at_size(card: Card, examples: Sequence[Example], size: tuple[int, int]) -> Iterator[dict[str, Tensor]]:
    """The generator's arguments for each example, by their names."""
    assert card.export is not None
    for example in examples:
        tensors = {name: _resized(tensor, size)[None] for name, tensor in example.items()}
        if card.labels is None or not card.labels.styles:
            yield tensors
            continue
        built_in = card.export.style
        for style in range(card.labels.styles) if built_in is None else [built_in]:
            yield tensors | {"style": torch.tensor([style])}


def _resized(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    if not tensor.is_floating_point():
        return functional.interpolate(tensor[None].float(), size=size, mode="nearest")[0].to(tensor.dtype)
    if tuple(tensor.shape[-2:]) == size:
        return tensor
    return functional.interpolate(tensor[None], size=size, mode="bilinear", antialias=True)[0]


def _is_uint8(card: Card) -> bool:
    return card.export is not None and card.export.graph_io == "uint8"


def _grey_levels(images: NDArray[Any], spec: ImageSpec) -> NDArray[Any]:
    """(n, c, h, w) to what a uint8 graph takes and returns, (n, h, w, c)."""
    return np.stack([tensor_to_image(image, spec)[:, :, : spec.channels] for image in images])


def _values(levels: NDArray[Any], spec: ImageSpec) -> NDArray[np.float32]:
    """(h, w, c) grey levels to (1, c, h, w) in the value range."""
    return image_to_tensor(levels if spec.channels == 3 else np.repeat(levels, 3, axis=2), spec)


def _peak(card: Card) -> float:
    low, high = (0.0, 255.0) if _is_uint8(card) else card.output.value_range
    return high - low


def _psnr(peak: float, mean_square: float) -> float:
    return 10 * math.log10(peak**2 / mean_square) if mean_square else IDENTICAL_DB


def _ssim(case: Case, peak: float) -> float | None:
    wanted, found = (torch.from_numpy(array.astype(np.float64)) for array in (case.wanted, case.found))
    if case.wanted.dtype == np.uint8:
        wanted, found = wanted.permute(0, 3, 1, 2), found.permute(0, 3, 1, 2)
    if min(wanted.shape[-2:]) < _WINDOW:
        return None
    similarity = structural_similarity_index_measure(wanted, found, data_range=peak)
    assert isinstance(similarity, Tensor)
    return float(similarity)


def save_strip(path: Path, case: Case, card: Card) -> None:
    """A picture of one case: the input, PyTorch's result, the engine's, and their difference made visible."""
    given = case.inputs[0]
    if card.labels is not None:
        ids = given[0, 0].astype(np.float64)
        shown: Image = np.repeat((ids * (255.0 / max(1.0, ids.max()))).astype(np.uint8)[:, :, None], 3, axis=2)
    else:
        shown = _picture(given, card.input)
    wanted, found = _picture(case.wanted, card.output), _picture(case.found, card.output)
    difference = np.abs(wanted.astype(np.int16) - found)
    # Stretched to the whole range: a difference of one grey level is invisible as it is.
    difference = (difference * (255 // max(1, int(difference.max())))).astype(np.uint8)
    strip = np.concatenate([resize(shown, wanted.shape[:2]), wanted, found, difference], axis=1)
    _, encoded = cv2.imencode(".png", strip)
    path.write_bytes(encoded.tobytes())


def _picture(images: NDArray[Any], spec: ImageSpec) -> Image:
    """The first of a batch as (h, w, 3) uint8 BGR; of channels that are no colours the first."""
    if images.dtype == np.uint8:
        return np.asarray(images[0] if images.shape[-1] == 3 else np.repeat(images[0], 3, axis=-1))
    if spec.channels not in (1, 3):
        images, spec = images[:, :1], ImageSpec(channels=1, colour="GRAY", value_range=spec.value_range)
    return tensor_to_image(images[0], spec)
