"""The student that makes the most of a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from i2i_runtime.errors import UsageError
from i2i_trainer.budget.machine import EngineTimes, MachineProfile
from i2i_trainer.budget.predictor import predict
from i2i_trainer.budget.shape import BLOCK_KINDS, BlockKind, StudentShape

MARGIN = 0.05
"""Share by which a student may at least take longer than predicted and still keep the budget; more where a trial of the
machine with the same blocks did."""
BLOCKS = range(4, 17)
"""Numbers of blocks that are tried. With 4 a pixel depends on 84x84 around it, and with 3 on 68x68, less than the 70x70
that a PatchGAN judges at once (Isola et al. 2017, section 3.2)."""
_EXACT = ("fp32", "fp16")
"""What an export is proven in; the others are chosen by name, when the student may lose a little."""
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A student, and what runs it in time."""

    student: StudentShape
    engine: str
    """Its name in the profile."""
    predicted_s: float
    """Seconds of an inference."""
    longest_s: float
    """With the margin: what it may take."""
    macs: int
    """Multiply-adds of one picture."""


def parse_budget(text: str) -> float:
    """Seconds for one picture.

    >>> parse_budget("15ms"), parse_budget("50 fps")
    (0.015, 0.02)

    Raises:
        UsageError: neither a time nor a rate.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|us|s|fps)", text.strip().lower())
    number = float(match[1]) if match else 0.0
    if match is None or not 0 < number < 1e9:
        raise UsageError(f"budget {text!r}: expected a time or a rate above 0 such as 15ms or 60fps")
    return 1 / number if match[2] == "fps" else number * _UNITS[match[2]]


def choose(
    profile: MachineProfile,
    budget_s: float,
    *,
    engine: str | None = None,
    block: BlockKind | None = None,
) -> Choice:
    """The student with the most multiply-adds among those whose predicted time keeps the budget, with a margin.

    Multiply-adds are a fair measure of what students of one family can learn: nearly all of their layers work at one
    size, where multiply-adds are weights times a constant, and a wider or deeper one can do all that the narrower one
    does. They tell nothing about one kind of block against another, of which `separable` ones do more with each; and so
    `block` asks for one.

    Args:
        profile: the machine.
        budget_s: seconds for one inference.
        engine: its name; None: any that computes in FP32 or FP16.
        block: its kind; None: any.

    Raises:
        UsageError: no student is quick enough, or the engine was not measured.
    """
    engines = [profile.engine(engine)] if engine else [its for its in profile.engines if its.precision in _EXACT]
    if not engines:
        names = ", ".join(repr(its.name) for its in profile.engines)
        raise UsageError(f"only engines that lose a little were measured; expected --engine with one of {names}")
    tried = [
        _rated(profile, shape, its.name)
        for its in engines
        for kind in (BLOCK_KINDS if block is None else (block,))
        if kind in its.blocks
        for shape in _shapes(kind, its.blocks[kind].rows, its.half_ends.rows, *profile.channels)
    ]
    if not tried:
        raise UsageError(f"--block {block}: not measured on this machine; leave it out")
    fitting = [one for one in tried if one.longest_s <= budget_s]
    if not fitting:
        fastest, (height, width) = min(tried, key=lambda one: one.predicted_s), profile.size
        raise UsageError(
            f"budget {budget_s * 1e3:.3g} ms: no student keeps it at {height}x{width}; the fastest is "
            f"{fastest.student.words()} in {fastest.engine} with {fastest.predicted_s * 1e3:.3g} to "
            f"{fastest.longest_s * 1e3:.3g} ms"
        )
    # Of two that are alike, the quicker one.
    return max(fitting, key=lambda one: (one.macs, -one.predicted_s))


def margin(engine: EngineTimes, block: BlockKind) -> float:
    """By what share students with blocks of a kind may take longer than predicted."""
    return max(MARGIN, engine.lateness(block))


def _shapes(
    kind: BlockKind, widths: tuple[int, ...], halves: tuple[int, ...], input_channels: int, output_channels: int
) -> Iterator[StudentShape]:
    """All students of a kind, of the widths that were measured: nothing between is guessed."""
    for width in widths:
        for half in (0, *(half for half in halves if half <= width)):
            for count in BLOCKS:
                yield StudentShape(
                    block=kind,
                    width=width,
                    half=half,
                    inners=(width,) * count,
                    input_channels=input_channels,
                    output_channels=output_channels,
                )


def _rated(profile: MachineProfile, shape: StudentShape, engine: str) -> Choice:
    predicted_s = predict(profile, shape, engine)
    return Choice(
        student=shape,
        engine=engine,
        predicted_s=predicted_s,
        longest_s=predicted_s * (1 + margin(profile.engine(engine), shape.block)),
        macs=shape.macs(profile.size),
    )
