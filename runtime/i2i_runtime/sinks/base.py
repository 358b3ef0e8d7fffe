"""What every sink is: told of the stream, given frames, closed."""

from __future__ import annotations

from abc import abstractmethod

from i2i_runtime.closing import Closing
from i2i_runtime.frame import Frame
from i2i_runtime.sources.base import StreamInfo


class SinkClosed(Exception):  # noqa: N818  (an event, not an error)
    """The person in front of a sink has closed it: the run ends, and ends well."""


class Sink(Closing):
    """Takes frames one after another, on a thread of its own."""

    needs_main_thread = False
    """Whether a GUI library insists that `write` is called on the main thread."""
    queue_length = 8
    """How many frames may wait for this sink before a live stream drops the oldest and a file waits."""

    @abstractmethod
    def start(self, info: StreamInfo) -> None:
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

    @abstractmethod
    def summary(self) -> str:
        """What was made and where, for the last line of a run."""
