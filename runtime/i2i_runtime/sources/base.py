"""What every source is: facts about a stream, frames one after another, and an end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from i2i_runtime.closing import Closing
from i2i_runtime.frame import Frame


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


class Source(Closing):
    """Delivers frames until it ends. Iterated once, by one thread; closed after that thread has ended."""

    info: StreamInfo
    skipped: list[str]
    """One line for each picture or frame that could not be decoded and was passed over."""

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """The frames in order.

        Raises:
            SourceError: the source fails in a way that no later frame mends.
        """
