"""What every source is: facts about a stream, frames one after another, and an end."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path

from i2i_runtime.closing import Closing
from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Frame

_FALLBACK_RATE = Fraction(30)


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """What is known about a stream before its first frame."""

    name: str
    is_live: bool
    """True where frames come at their own pace and the newest one matters, False where every one does."""
    fps: Fraction | None = None
    """Frames per second; None where the source has no rate of its own."""
    frame_count: int | None = None
    """How many frames will come; None where nobody knows."""
    audio_file: Path | None = None
    """A file whose sound belongs to the frames."""
    note: str | None = None
    """What the user should know, for example a frame rate that had to be assumed."""


class SourceState(str, Enum):
    """What a source is doing, as it is published in the status."""

    OPENING = "opening"
    LIVE = "live"
    STALLED = "stalled"
    """Open, but no frame for too long."""
    RECONNECTING = "reconnecting"
    LOST = "lost"
    """Given up: it ends with an error."""
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class SourceHealth:
    """How a source is doing at one moment."""

    name: str
    state: SourceState
    reconnects: int = 0
    """How often a lost connection was made again."""
    decode_errors: int = 0
    """Frames that arrived damaged and were passed over."""
    message: str | None = None
    """The last thing that went wrong, in a line without passwords."""


class SourceStalledError(SourceError):
    """It is open but delivers nothing any more; only opening it again can help."""


class SourceRefusedError(SourceError):
    """It is there but refuses: a wrong password or path, say. To ask again soon is of no use."""


class Source(Closing):
    """Delivers frames until it ends. Iterated once, by one thread; closed after that thread has ended."""

    info: StreamInfo
    skipped: list[str]
    """One line for each picture or frame that could not be decoded and was passed over; of a live source, which may run
    for weeks, one for each kind of damage."""
    state: SourceState = SourceState.LIVE
    """Set by the thread that iterates, read by any."""

    def health(self) -> SourceHealth:
        """How it is doing now; from any thread."""
        return SourceHealth(name=self.info.name, state=self.state, decode_errors=len(self.skipped))

    def interrupt(self) -> None:
        """Ask an iteration that waits for a frame to end soon; from any thread."""

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """The frames in order.

        Raises:
            SourceError: the source fails in a way that no later frame mends.
        """


def usable_rate(stated: float | Fraction | None) -> tuple[Fraction, str | None]:
    """The frame rate to work with, and a note if it is not the stated one: drivers and files say 0, NaN or 90000."""
    if stated is not None and math.isfinite(stated) and 0 < stated <= 1000:
        return (stated if isinstance(stated, Fraction) else Fraction(stated).limit_denominator(1001)), None
    found = "no frame rate" if stated is None else f"a frame rate of {float(stated):g}"
    return _FALLBACK_RATE, f"it states {found}; {_FALLBACK_RATE} assumed"


def frame_name(info: StreamInfo, index: int) -> str:
    """What is made from the frame `index` is called: names sort as the frames came.

    A camera at 30 frames a second passes a million after nine hours and runs for weeks; a file keeps the shorter names.
    """
    return f"{info.name}_{index:0{8 if info.is_live else 6}d}"


def file_stem(text: str) -> str:
    """`text` as a part of file names: rtsp://10.0.0.5/live becomes rtsp_10.0.0.5_live."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "source"
