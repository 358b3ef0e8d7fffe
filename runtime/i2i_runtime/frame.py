"""One image on its way from a source to the sinks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Image: TypeAlias = npt.NDArray[np.uint8]
"""(height, width, 3) uint8, BGR: OpenCV's order."""
LabelMap: TypeAlias = npt.NDArray[np.int32]
"""(height, width, 1 or 2) int32: class ids, and instance ids where a model takes them."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """An image with the facts that must travel with it. A stage makes a new one with `replace`."""

    image: Image
    """(height, width, 3) uint8 BGR."""
    index: int
    """Running number in the source, from 0."""
    captured_at: float
    """`time.monotonic()` when the source delivered it, in seconds."""
    name: str
    """What a file made from this frame is called, without its suffix."""
    timestamp: Fraction | None = None
    """Presentation time in seconds since the source began; None where the source has no clock."""
    source: int = 0
    """Which of a pipeline's sources it came from."""
    before: Image | None = None
    """The input beside a result, mirrored if that is asked for; None until the frame is translated."""
    after: Image | None = None
    """The plain result, whatever the chosen view makes `image` show; None until the frame is translated."""
