"""From a path to a sink."""

from __future__ import annotations

from pathlib import Path

from i2i_runtime.sinks.base import Sink


def open_sink(where: str | Path) -> Sink:
    """A video sink for a name such as `out.mp4`, else a folder of pictures.

    Raises:
        SinkError: it cannot be written, or has the name of a file kind that is not a video.
    """
    from i2i_runtime.sinks.images import ImagesSink
    from i2i_runtime.sinks.video import VideoSink

    path = Path(where)
    return VideoSink(path) if path.suffix and not path.is_dir() else ImagesSink(path)
