"""How long a student takes on a machine that was measured, without building it.

A student's time is that of its ends and of each of its blocks: one after the other, with nothing that could overlap.
"""

from __future__ import annotations

from i2i_runtime.card import Architecture
from i2i_runtime.errors import UsageError
from i2i_trainer.budget.machine import MachineProfile
from i2i_trainer.budget.shape import StudentShape

LANES = 8
"""Channels that libraries compute at once: 12 take as long as 16, and in ONNX Runtime a tenth or two longer."""


def predict(profile: MachineProfile, architecture: Architecture | StudentShape, engine: str) -> float:
    """Seconds of an inference, at the size that was measured, on a machine that does nothing else.

    What is done with the picture before and after is apart.

    Args:
        profile: the machine.
        architecture: of the student.
        engine: its name in the profile.

    Raises:
        UsageError: another generator, and channels of pictures, a kind of block or an engine that were not measured.
    """
    shape = architecture if isinstance(architecture, StudentShape) else StudentShape.of(architecture)
    times = profile.engine(engine)
    if shape.block not in times.blocks:
        raise UsageError(
            f"{shape.block} blocks: not measured in {engine}; expected {' or '.join(times.blocks)}, "
            "or measure the machine again with i2i-export profile"
        )
    profile.check(profile.size, (shape.input_channels, shape.output_channels))
    width, half, *inners = (-(-channels // LANES) * LANES for channels in (shape.width, shape.half, *shape.inners))
    ends = times.half_ends if half else times.ends
    return ends.at(half, width) + sum(times.blocks[shape.block].at(width, inner) for inner in inners)
