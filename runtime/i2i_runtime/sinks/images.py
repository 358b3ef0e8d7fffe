"""A folder of pictures, one a frame."""

from __future__ import annotations

from pathlib import Path

from i2i_runtime.frame import Frame
from i2i_runtime.image import make_folder, write_image
from i2i_runtime.sinks.base import Sink, try_folder
from i2i_runtime.sources.base import StreamInfo


class ImagesSink(Sink):
    """Writes each frame as `FOLDER/name.png`, without loss; of several sources as `name_0.png`, `name_1.png` ..."""

    def __init__(self, folder: Path) -> None:
        """Check that the folder can be made; it is made by `start`.

        Raises:
            SinkError: it cannot be made or written to.
        """
        try_folder(folder)
        self._folder = folder
        self._is_shared = False
        self._frames = 0

    def start(self, *infos: StreamInfo) -> None:
        """See `Sink`: makes the folder."""
        make_folder(self._folder)
        self._is_shared = len(infos) > 1

    def write(self, frame: Frame) -> None:
        """See `Sink`."""
        # Two folders may hold a cat.png each: only with the number are names of several sources sure to differ.
        name = f"{frame.name}_{frame.source}" if self._is_shared else frame.name
        write_image(self._folder / f"{name}.png", frame.image)
        self._frames += 1

    def close(self) -> None:
        """See `Closing`: each picture is whole already."""

    def summary(self) -> str:
        """See `Sink`."""
        return f"{self._frames} pictures in {self._folder}"
