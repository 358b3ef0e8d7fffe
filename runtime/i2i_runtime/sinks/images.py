"""A folder of pictures, one a frame."""

from __future__ import annotations

from pathlib import Path

from i2i_runtime.frame import Frame
from i2i_runtime.image import make_folder, write_image
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sources.base import StreamInfo


class ImagesSink(Sink):
    """Writes each frame as `FOLDER/name.png`, without loss."""

    def __init__(self, folder: Path) -> None:
        """Make the folder.

        Raises:
            SinkError: it cannot be made or written to.
        """
        make_folder(folder)
        self._folder = folder
        self._frames = 0

    def start(self, info: StreamInfo) -> None:
        """See `Sink`: nothing to prepare."""

    def write(self, frame: Frame) -> None:
        """See `Sink`."""
        write_image(self._folder / f"{frame.name}.png", frame.image)
        self._frames += 1

    def close(self) -> None:
        """See `Closing`: each picture is whole already."""

    def summary(self) -> str:
        """See `Sink`."""
        return f"{self._frames} pictures in {self._folder}"
