"""How far each way's results are from PyTorch's, on the same pictures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from i2i_export.parity import Case, Example, Inputs, engine_inputs, grey_levels, likeness
from i2i_export.proof import drawn_pictures, read_pictures
from i2i_runtime.card import Card
from measuring.contestants import Array
from measuring.other_process import in_other_process
from measuring.record import Quality
from measuring.ways import Subject, Way

if TYPE_CHECKING:
    from i2i_trainer.trained import Direction

_MOST = 4
"""Pictures; more would take longer and tell little more."""


def examples_of(subject: Subject, card: Card, size: tuple[int, int]) -> list[Example]:
    """The pictures to compare on: the user's, else the checkpoint's own, else drawn ones.

    Of the checkpoint's those that did not set the ranges of INT8 (see `i2i_export.delivery`).

    Raises:
        SourceError: no pictures where the user says.
        DeviceError: too little memory to load the checkpoint.
    """
    examples: Sequence[Example] = []
    if subject.pictures:
        examples = read_pictures(subject.pictures, card, size)
    elif subject.checkpoint is not None:
        examples = in_other_process(_in_checkpoint, subject.checkpoint, subject.direction)
    examples = examples or drawn_pictures(card, size)
    return list(examples[1::2] or examples)[:_MOST]


def _in_checkpoint(path: Path, direction: Direction | None) -> list[Example]:
    from i2i_trainer.trained import load_trained

    examples = load_trained(path, direction=direction).examples
    return [{part: tensor.numpy() for part, tensor in example.items()} for example in examples]


def questions(way: Way, examples: Sequence[Example]) -> list[Inputs]:
    """The pictures as a way takes them, in batches of its size."""
    card = _at(way)
    inputs = list(engine_inputs(card, examples, at_every_size=False))
    batch = way.row.batch
    if batch == 1:
        return inputs
    # As many pictures as there are, the first again where they do not fill a batch. A style is one for all.
    return [
        tuple(
            np.concatenate([inputs[(first + index) % len(inputs)][part] for index in range(batch)])
            if inputs[0][part].ndim == 4
            else inputs[first][part]
            for part in range(len(inputs[0]))
        )
        for first in range(0, len(inputs), batch)
    ]


def _at(way: Way) -> Card:
    """The card of what goes into a way: PyTorch takes values where a uint8 graph takes grey levels."""
    card = way.card
    assert card is not None
    assert card.export is not None
    export = card.export
    if way.file is None:
        export = replace(export, graph_io="float", norm_channels=0)
    if export.profile is not None:
        export = replace(export, profile=replace(export.profile, typical=way.row.size))
    return replace(card, export=export)


def quality(
    way: Way, asked: Sequence[Inputs], answers: Sequence[Array], wanted: Sequence[Array], against: str
) -> Quality:
    """Compare answers with those of a way that computes in FP32 on values; NaN is as far from them as can be: 0 dB.

    Args:
        way: whose answers they are.
        asked: from `questions`.
        answers: to them.
        wanted: the other's answers to the same pictures.
        against: the other's name.
    """
    card = _at(way)
    assert card.export is not None
    # Batches repeat some, to be full.
    pictures = len({picture.tobytes() for inputs in asked for picture in inputs[0]})
    found = []
    for answer, right in zip(answers, wanted, strict=True):
        if not np.isfinite(answer).all():
            return Quality(against=against, pictures=pictures, psnr_db=0.0, ssim=None)
        in_levels = grey_levels(right, card.output) if card.export.graph_io == "uint8" else right
        for ours, theirs in zip(answer, in_levels, strict=True):
            found.append(likeness(Case(inputs=(), wanted=theirs[None], found=ours[None]), card))
    similarities = [similarity for _, similarity in found if similarity is not None]
    return Quality(
        against=against,
        pictures=pictures,
        psnr_db=min(psnr for psnr, _ in found),
        ssim=statistics.fmean(similarities) if similarities else None,
    )


def reference(ways: Sequence[Way], like: Way, is_trained_torch: bool) -> Way | None:
    """What is right for a way: PyTorch in FP32, or without it the FP32 graph in ONNX Runtime; None where neither is.

    Args:
        ways: all ways.
        like: one of them.
        is_trained_torch: whether PyTorch runs the same weights.
    """
    same = [
        way
        for way in ways
        if way.row.precision == "fp32" and way.row.size == like.row.size and way.row.batch == like.row.batch
    ]
    wanted = ["torch"] * is_trained_torch + ["onnxruntime"]
    return next((way for backend in wanted for way in same if way.row.backend == backend and _is_float(way)), None)


def _is_float(way: Way) -> bool:
    return way.row.graph.endswith("float")


def qualities(
    ways: Sequence[Way],
    asked: Mapping[str, Sequence[Inputs]],
    answers: Mapping[str, Sequence[Array]],
    is_trained_torch: bool,
) -> dict[str, Quality]:
    """The quality of every way that answered and has something to be compared with, by contestant."""
    found = {}
    for way in ways:
        name = way.contestant.name
        right = reference(ways, way, is_trained_torch)
        if right is None or right is way or not answers.get(name) or not answers.get(right.contestant.name):
            continue
        # Of an engine alone PyTorch has other weights.
        if way.row.backend.startswith("torch") and not is_trained_torch:
            continue
        against = right.row.name
        found[name] = quality(way, asked[name], answers[name], answers[right.contestant.name], against)
    return found
