"""Proof that an engine computes what its original computes, on real pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from i2i_export.gate import Gate
from i2i_export.sizes import typical_size
from i2i_runtime.card import Card, ImageSpec, ParityRecord
from i2i_runtime.engines.base import Engine
from i2i_runtime.errors import ModelError
from i2i_runtime.frame import Image
from i2i_runtime.image import resize, tensor_to_image
from i2i_runtime.norm_statistics import own_statistics

IDENTICAL_DB = 999.0
_WINDOW = 11
"""Pixels of SSIM's window (Wang et al. 2004)."""

Array = NDArray[Any]
Inputs = tuple[Array, ...]
"""What an engine takes, in the order of its inputs."""
Example = Mapping[str, Array]
"""`input` (c, h, w) float32 in the card's value range, or the int32 ids of a label map, with `instances` (1, h, w)."""
Reference = Callable[..., Array]
"""What is right: takes what the engine takes, and returns the result in the engine's type."""


class NotFiniteError(ModelError):
    """An engine returns NaN or infinity."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input, as the engine takes it, and both results in the engine's type."""

    inputs: Inputs
    wanted: Array
    found: Array


def measure_parity(
    reference: Reference,
    engine: Engine,
    card: Card,
    examples: Sequence[Example],
    gate: Gate,
) -> tuple[ParityRecord, Case]:
    """Run examples through both and compare; of a model with styles to choose from, every style.

    A dynamic graph runs all examples at its typical size, and the first at its smallest and largest and as a batch.

    Args:
        reference: the PyTorch generator, or the graph that an engine was built from.
        engine: the exported model, running.
        card: the exported model's card: its size, and whether it is a float or a uint8 graph.
        examples: inputs of any size; resized to the model's.
        gate: what the caller will accept; only recorded here.

    Returns:
        The record, and the case that fared worst.

    Raises:
        NotFiniteError: the engine returns NaN or infinity.
        ModelError: it returns another size, or what is right is not finite.
    """
    total, squares, count, largest = 0.0, 0.0, 0, 0.0
    worst: tuple[float, Case] | None = None
    similarities = []
    for arrays in engine_inputs(card, examples):
        case = _run(engine, arrays, reference(*arrays))
        difference = np.abs(case.wanted.astype(np.float64) - case.found)
        largest = max(largest, float(difference.max()))
        total += float(difference.sum())
        squares += float(np.square(difference).sum())
        count += difference.size
        psnr, similarity = likeness(case, card)
        if worst is None or psnr < worst[0]:
            worst = psnr, case
        if similarity is not None:
            similarities.append(similarity)
    if worst is None:
        raise ModelError("no pictures to prove the export on; give some with --pictures")
    record = ParityRecord(
        engine=engine.provider,
        pictures=len(examples),
        max_abs=largest,
        mean_abs=total / count,
        psnr_db=_psnr(_peak(card), squares / count),
        tolerance=gate.max_abs,
        worst_psnr_db=worst[0],
        min_psnr_db=gate.min_psnr_db,
        ssim=sum(similarities) / len(similarities) if similarities else None,
    )
    return record, worst[1]


def likeness(case: Case, card: Card) -> tuple[float, float | None]:
    """PSNR in dB of what was found, and its SSIM: None of small pictures, and on a machine without PyTorch."""
    peak = _peak(card)
    mean_square = float(np.square(case.wanted.astype(np.float64) - case.found).mean())
    return _psnr(peak, mean_square), _ssim(case, peak)


def worst_psnr(engine: Engine, card: Card, answered: Sequence[tuple[Inputs, Array]]) -> float:
    """PSNR in dB of the input that fares worst, for searches; minus infinity where the engine returns NaN.

    Args:
        engine: an exported model, running.
        card: its card.
        answered: inputs with the right results, which are the same for every model that is tried.
    """
    worst = math.inf
    for arrays, wanted in answered:
        try:
            case = _run(engine, arrays, wanted)
        except NotFiniteError:
            return -math.inf
        worst = min(worst, _psnr(_peak(card), float(np.square(case.wanted.astype(np.float64) - case.found).mean())))
    return worst


def _run(engine: Engine, arrays: Inputs, wanted: Array) -> Case:
    found = engine.run(*arrays)
    if not np.isfinite(found).all():
        raise NotFiniteError(f"{engine.provider} returns NaN or infinity where it should not; nothing was written")
    if wanted.shape != found.shape:
        raise ModelError(f"{engine.provider} returns {found.shape}, expected {wanted.shape}; nothing was written")
    return Case(inputs=arrays, wanted=wanted, found=found)


def engine_inputs(card: Card, examples: Sequence[Example], *, at_every_size: bool = True) -> Iterator[Inputs]:
    """The examples as an engine takes them; see `measure_parity`. Or a dynamic graph's at its typical size only."""
    yield from _at_size(card, examples, typical_size(card))
    profile = card.export.profile if card.export is not None else None
    if profile is None or not at_every_size:
        return
    for size in dict.fromkeys((profile.smallest, profile.largest)):
        if size != profile.typical:
            yield from _at_size(card, examples[:1], size)
    if profile.batch > 1:
        for arrays in _at_size(card, examples[:1], profile.typical):
            # Another second picture, or the parts of a batch could be mixed up unseen. A style is one for all.
            yield tuple(np.concatenate([array, array[:, :, ::-1]]) if array.ndim == 4 else array for array in arrays)


def _at_size(card: Card, examples: Sequence[Example], size: tuple[int, int]) -> Iterator[Inputs]:
    assert card.export is not None
    for example in examples:
        arrays = [_resized(array, size)[None] for array in example.values()]
        if card.export.graph_io == "uint8":
            arrays = [grey_levels(arrays[0], card.input)]
        if card.export.norm_channels:
            arrays += own_statistics(card.export.norm_channels, size)
        if card.labels is None or not card.labels.styles or card.export.style is not None:
            yield tuple(arrays)
            continue
        for style in range(card.labels.styles):
            yield (*arrays, np.array([style], np.int64))


def _resized(array: Array, size: tuple[int, int]) -> Array:
    if array.shape[-2:] == size:
        return array
    shrinks = size[0] * size[1] < array.shape[-2] * array.shape[-1]
    smooth = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    interpolation = smooth if array.dtype == np.float32 else cv2.INTER_NEAREST
    return np.stack([cv2.resize(plane, size[::-1], interpolation=interpolation) for plane in array])


def grey_levels(images: Array, spec: ImageSpec) -> Array:
    """(n, c, h, w) to what a uint8 graph takes and returns, (n, h, w, c)."""
    return np.stack([tensor_to_image(image, spec)[:, :, : spec.channels] for image in images])


def _peak(card: Card) -> float:
    is_uint8 = card.export is not None and card.export.graph_io == "uint8"
    low, high = (0.0, 255.0) if is_uint8 else card.output.value_range
    return high - low


def _psnr(peak: float, mean_square: float) -> float:
    return 10 * math.log10(peak**2 / mean_square) if mean_square else IDENTICAL_DB


def _ssim(case: Case, peak: float) -> float | None:
    try:
        import torch
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        return None
    wanted, found = (torch.from_numpy(array.astype(np.float64)) for array in (case.wanted, case.found))
    if case.wanted.dtype == np.uint8:
        wanted, found = wanted.permute(0, 3, 1, 2), found.permute(0, 3, 1, 2)
    if min(wanted.shape[-2:]) < _WINDOW:
        return None
    similarity = structural_similarity_index_measure(wanted, found, data_range=peak)
    assert isinstance(similarity, torch.Tensor)
    return float(similarity)


def save_strip(path: Path, case: Case, card: Card) -> None:
    """A picture of one case: the input, the right result, the engine's, and their difference made visible."""
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


def _picture(images: Array, spec: ImageSpec) -> Image:
    """The first of a batch as (h, w, 3) uint8 BGR; of channels that are no colours the first."""
    if images.dtype == np.uint8:
        return np.asarray(images[0] if images.shape[-1] == 3 else np.repeat(images[0], 3, axis=-1))
    if spec.channels not in (1, 3):
        images, spec = images[:, :1], ImageSpec(channels=1, colour="GRAY", value_range=spec.value_range)
    return tensor_to_image(images[0], spec)
