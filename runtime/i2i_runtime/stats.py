"""What happened to every frame, how fast, and how late."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from i2i_runtime.sources.base import SourceHealth

_WINDOW = 512
"""How many of the latest measurements the percentiles are taken from."""
_FPS_OVER = 3.0
"""Seconds that the frame rate is taken over."""


class Percentiles(NamedTuple):
    """Of the latest measurements, in ms."""

    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Status:
    """A pipeline at one moment.

    `captured` = `translated` + `reused` + `skipped` + `dropped` + `failed` + those still under way.
    """

    captured: int
    translated: int
    reused: int
    """Frames so like the one before that its result was shown again."""
    skipped: int
    """Frames left out because that was asked for: a lower frame rate, each Nth frame, a frozen picture."""
    dropped: int
    """Frames that were never translated: a newer one took their place, or the run was stopped."""
    failed: int
    """Frames for which the engine failed or returned NaN."""
    not_written: int
    """Results that a sink which keeps them was too slow for, over all sinks."""
    fps: float
    """Results per second over the last seconds."""
    translate_ms: Percentiles
    """Pre-processing, inference and post-processing of a frame."""
    latency_ms: Percentiles
    """From capture until a sink has taken the result."""
    elapsed: float
    """Seconds since the run began."""
    provider: str = ""
    """What runs the model, for example `ONNX Runtime CPU`."""
    sources: tuple[SourceHealth, ...] = ()

    @property
    def results(self) -> int:
        """Frames that were given to the sinks."""
        return self.translated + self.reused

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        as_dict = asdict(self)
        for name in ("translate_ms", "latency_ms"):
            as_dict[name] = getattr(self, name)._asdict()
        for source in as_dict["sources"]:
            source["state"] = source["state"].value
        return as_dict

    def line(self, frame_count: int | None = None) -> str:
        """One line for a person."""
        total = f"/{frame_count}" if frame_count else ""
        parts = [
            f"{self.results}{total} frames",
            f"{self.fps:.1f} fps",
            f"translate {self.translate_ms.p50:.0f}/{self.translate_ms.p99:.0f} ms",
            f"latency {self.latency_ms.p50:.0f}/{self.latency_ms.p99:.0f} ms (p50/p99)",
            f"{self.dropped} dropped",
            f"{self.failed} failed",
        ]
        parts += [f"{count} {what}" for what, count in (("reused", self.reused), ("skipped", self.skipped)) if count]
        parts += [f"{source.name}: {source.state.value}" for source in self.sources if source.state.value != "live"]
        return "  ".join(parts)


class Stats:
    """Counts frames and times; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        names = ("captured", "translated", "reused", "skipped", "dropped", "failed", "not_written")
        self._counts = dict.fromkeys(names, 0)
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

    def reused(self) -> None:
        """The result before was shown again for a frame."""
        with self._lock:
            self._counts["reused"] += 1
            self._done_at.append(time.monotonic())

    def written(self, captured_at: float) -> None:
        """A sink has taken a frame that was captured at that monotonic time."""
        with self._lock:
            self._latency_s.append(time.monotonic() - captured_at)

    def status(self, provider: str = "", sources: tuple[SourceHealth, ...] = ()) -> Status:
        """The figures now."""
        now = time.monotonic()
        with self._lock:
            counts, done = dict(self._counts), list(self._done_at)
            translate_s, latency_s = list(self._translate_s), list(self._latency_s)
        return Status(
            **counts,
            fps=_rate(done, now),
            translate_ms=_percentiles_ms(translate_s),
            latency_ms=_percentiles_ms(latency_s),
            elapsed=now - self._began,
            provider=provider,
            sources=sources,
        )


def _rate(done: list[float], now: float) -> float:
    """Events per second: of the last seconds, of the last two events where they are rarer; it falls when they cease."""
    recent = [moment for moment in done if now - moment <= _FPS_OVER]
    recent = recent if len(recent) > 1 else done[-2:]
    if len(recent) < 2 or recent[-1] == recent[0]:
        return 0.0
    intervals, span = len(recent) - 1, recent[-1] - recent[0]
    silence = now - recent[-1]
    return intervals / (span + (silence if silence > 2 * span / intervals else 0.0))


def _percentiles_ms(seconds: list[float]) -> Percentiles:
    if not seconds:
        return Percentiles()
    return Percentiles(*(float(value) for value in np.percentile(seconds, (50, 90, 99)) * 1000))
