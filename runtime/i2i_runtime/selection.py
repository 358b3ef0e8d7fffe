"""Which frames of a source reach the model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from i2i_runtime.frame import Frame
from i2i_runtime.similar import SimilarFilter


class Verdict(Enum):
    """What becomes of a frame."""

    TRANSLATE = "translate"
    REUSE = "reuse"
    """Show the result before again: nothing has moved."""
    SKIP = "skip"


@dataclass
class Selection:
    """The choice for one source; called for its frames in order."""

    every: int = 1
    """Take each Nth frame."""
    max_fps: float | None = None
    """Take no more frames a second than this, by the frames' own clock where they have one."""
    similar: SimilarFilter | None = None
    """Tells frames that look like the last one that was translated."""
    _seen: int = 0
    _next_due: float | None = None

    def verdict(self, frame: Frame) -> Verdict:
        """What to do with the next frame."""
        number, self._seen = self._seen, self._seen + 1
        if number % self.every or not self._is_due(_clock(frame)):
            return Verdict.SKIP
        is_alike = self.similar is not None and self.similar.keeps(frame.image, at=_clock(frame))
        return Verdict.REUSE if is_alike else Verdict.TRANSLATE

    def remember(self, frame: Frame) -> None:
        """A frame was translated, as the source delivered it: those that look like it can show its result."""
        if self.similar is not None:
            self.similar.remember(frame.image, at=_clock(frame))

    def forget(self) -> None:
        """Translate the next frame however it looks: its result would be another one."""
        if self.similar is not None:
            self.similar.reset()

    def _is_due(self, now: float) -> bool:
        if self.max_fps is None:
            return True
        period = 1 / self.max_fps
        if self._next_due is not None and now < self._next_due - 2 * period:
            self._next_due = None  # the clock began anew
        # A tenth of a period early is on time: cameras jitter, and waiting would halve the rate that is asked for.
        if self._next_due is not None and now < self._next_due - period / 10:
            return False
        # From the time that was due, so that jitter does not add up; from now after a gap.
        due = now if self._next_due is None else self._next_due
        self._next_due = max(due, now - period) + period
        return True


def _clock(frame: Frame) -> float:
    """Seconds on the source's own clock; of a file, `captured_at` says how quickly it was decoded."""
    return frame.captured_at if frame.timestamp is None else float(frame.timestamp)
