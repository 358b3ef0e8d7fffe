"""How long a student takes on a machine that was measured, without building it.

A student's time is that of its ends and of each of its blocks: one after the other, with nothing that could overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

from i2i_runtime.card import Architecture
from i2i_runtime.errors import UsageError
from i2i_trainer.budget.machine import MachineProfile
from i2i_trainer.budget.shape import Size, StudentShape

LANES = 8
"""Channels that libraries compute at once: 12 take as long as 16, and in ONNX Runtime a tenth or two longer."""
_MEASURED_CHANNELS = 6
"""Of the input and the output together: two colour pictures."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """How long one picture takes."""

    seconds: float
    """Of an inference, on a machine that does nothing else; what is done with the picture before and after is apart."""
    extrapolated: bool
    """Whether size or channels lie outside of what was measured, or channels are no multiple of `LANES`."""


def predict(profile: MachineProfile, architecture: Architecture | StudentShape, size: Size, engine: str) -> Prediction:
    """How long a student takes.

    Args:
        profile: the machine.
        architecture: of the student.
        size: (height, width) of the pictures. For another one than the profile's all times are taken to grow with the
            pixels.
        engine: its name in the profile.

    Raises:
        UsageError: another generator, a kind of block or an engine that was not measured, a size that it does not take.
    """
    shape = architecture if isinstance(architecture, StudentShape) else StudentShape.of(architecture)
    times = profile.engine(engine)
    if any(side < 4 or side % 4 for side in size):
        raise UsageError(f"size {size[0]}x{size[1]}: expected multiples of 4, which students take")
    if shape.block not in times.blocks:
        raise UsageError(
            f"{shape.block} blocks: not measured in {engine}; expected {' or '.join(times.blocks)}, "
            "or measure the machine again with i2i-export profile"
        )
    asked = (shape.width, shape.half, *shape.inners)
    width, half, *inners = (-(-channels // LANES) * LANES for channels in asked)
    ends = times.half_ends if half else times.ends
    channels = shape.input_channels + shape.output_channels
    blocks = times.blocks[shape.block]
    seconds = ends.at(half, width) * channels / _MEASURED_CHANNELS + sum(blocks.at(width, inner) for inner in inners)
    pixels, measured_pixels = size[0] * size[1], profile.size[0] * profile.size[1]
    return Prediction(
        seconds=seconds * pixels / measured_pixels,
        extrapolated=size != profile.size
        or (width, half, *inners) != asked
        or channels != _MEASURED_CHANNELS
        or not ends.covers(half, width)
        or not all(blocks.covers(width, inner) for inner in inners),
    )
