"""From what a user names to a source."""

from __future__ import annotations

from pathlib import Path

from i2i_runtime.sources.base import Source


def open_source(where: str | Path | int) -> Source:
    """Open a camera (a number or `/dev/video0`), a folder, picture or glob pattern, or else a video file.

    Raises:
        SourceError: it cannot be opened.
    """
    # Each member drags its own library in: only the one that is asked for is loaded.
    text = str(where)
    if text.isdigit() or text.startswith("/dev/"):
        from i2i_runtime.sources.camera import CameraSource

        return CameraSource(text)
    from i2i_runtime.image import IMAGE_SUFFIXES

    path = Path(text)
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        from i2i_runtime.sources.images import ImagesSource

        return ImagesSource(text)
    from i2i_runtime.sources.video import VideoSource

    return VideoSource(path)
