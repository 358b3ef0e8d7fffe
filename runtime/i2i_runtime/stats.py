"""What happened to every frame, how fast, and how late."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

_WINDOW = 512
"""How many of the latest measurements the percentiles are taken from."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A pipeline at one moment. `captured` = `translated` + `dropped` + `failed` + those still under way."""

    captured: int
    translated: int
    dropped: int
    """Frames that were never translated: a newer one took their place, or the run was stopped."""
    failed: int
    """Frames for which the engine failed or returned NaN."""
    not_written: int
    """Translated frames that a sink was too slow for, over all sinks."""
    fps: float
    """Translated frames per second over the last seconds."""
    translate_ms: tuple[float, float]
    """p50 and p99 of pre-processing, inference and post-processing, in ms."""
    latency_ms: tuple[float, float]
    """p50 and p99 from capture until a sink has taken the result, in ms."""
    elapsed: float
    """Seconds since the run began."""

    def line(self, frame_count: int | None = None) -> str:
        """One line for a person."""
        total = f"/{frame_count}" if frame_count else ""
        return (
            f"{self.translated}{total} frames  {self.fps:.1f} fps  "
            f"translate {self.translate_ms[0]:.0f}/{self.translate_ms[1]:.0f} ms  "
            f"latency {self.latency_ms[0]:.0f}/{self.latency_ms[1]:.0f} ms (p50/p99)  "
            f"{self.dropped} dropped  {self.failed} failed"
        )


class Stats:
    """Counts frames and times; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._counts = dict.fromkeys(("captured", "translated", "dropped", "failed", "not_written"), 0)
        self._translate_s: deque[float] = deque(maxlen=_WINDOW)
        self._latency_s: deque[float] = deque(maxlen=_WINDOW)
        self._done_at: deque[float] = deque(maxlen=_WINDOW)

    def count(self, what: str, by: int = 1) -> None:
        """Add to one of the counters of `Status`."""
        with self._lock:
            self._counts[what] += by

    def translated(self, seconds: float) -> None:
        """One frame was translated in so many seconds."""
        with self._lock:
            self._counts["translated"] += 1
            self._translate_s.append(seconds)
            self._done_at.append(time.monotonic())

    def written(self, captured_at: float) -> None:
        """A sink has taken a frame that was captured at that monotonic time."""
        with self._lock:
            self._latency_s.append(time.monotonic() - captured_at)

    def status(self) -> Status:
        """The figures now."""
        with self._lock:
            done = self._done_at
            span = done[-1] - done[0] if len(done) > 1 else 0.0
            return Status(
                **self._counts,
                fps=(len(done) - 1) / span if span > 0 else 0.0,
                translate_ms=_percentiles_ms(self._translate_s),
                latency_ms=_percentiles_ms(self._latency_s),
                elapsed=time.monotonic() - self._began,
            )


def _percentiles_ms(seconds: deque[float]) -> tuple[float, float]:
    if not seconds:
        return 0.0, 0.0
    p50, p99 = np.percentile(seconds, (50, 99)) * 1000
    return float(p50), float(p99)
