"""What every sink is: told of the stream, given frames, closed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from i2i_runtime.closing import Closing
from i2i_runtime.controls import Controls
from i2i_runtime.frame import Frame
from i2i_runtime.image import make_folder
from i2i_runtime.sources.base import StreamInfo
from i2i_runtime.stats import Status


class SinkClosed(Exception):  # noqa: N818  (an event, not an error)
    """The person in front of a sink has closed it: the run ends, and ends well."""


class Sink(Closing):
    """Takes frames one after another, on a thread of its own."""

    needs_main_thread = False
    """Whether a GUI library insists that `write` is called on the main thread."""
    queue_length = 8
    """How many frames may wait for this sink before a live stream drops the oldest and a file waits."""
    is_watched = False
    """Whether people look at it: of several sources it gets one picture with all of them side by side, and while
    a source is lost a picture that says so. Other sinks keep the sources apart by `Frame.source`."""
    keeps_pace = False
    """Whether it takes the frames of a file no faster than they are played: what comes faster is left out."""

    def attach(self, status: Callable[[], Status], controls: Controls) -> None:
        """Get to know the run, before `start`: its figures, and the controls that keys and buttons act on."""

    def announcement(self) -> str | None:
        """What who starts the run should know before it begins, on one line; None where there is nothing."""
        return None

    @abstractmethod
    def start(self, *infos: StreamInfo) -> None:
        """Learn about the stream, before its first frame.

        Raises:
            SinkError: the sink cannot take such a stream.
        """

    @abstractmethod
    def write(self, frame: Frame) -> None:
        """Take the next frame.

        Raises:
            SinkError: it cannot be written; what was written before is kept.
            SinkClosed: the user closed it.
        """

    def idle(self) -> None:
        """Called on the sink's thread about ten times a second while no frame comes.

        Raises:
            SinkClosed: the user closed it.
        """

    @abstractmethod
    def summary(self) -> str:
        """What was made and where, for the last line of a run."""


def try_folder(folder: Path) -> None:
    """Check, before anything slow begins, that `folder` can be made and written to; it leaves nothing behind.

    Raises:
        SinkError: it cannot.
    """
    missing = list(takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    try:
        make_folder(folder)
    finally:
        for made in missing:
            with suppress(OSError):
                made.rmdir()
