"""One grammar for everything a user can name as a source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path

from i2i_runtime.errors import SourceError
from i2i_runtime.image import IMAGE_SUFFIXES
from i2i_runtime.redaction import redact

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "http", "https", "udp")
_GRAMMAR = (
    "a camera (0, /dev/video0, 0:1280x720@30), a stream (rtsp:// rtmp:// srt:// http:// udp://), gst:PIPELINE, screen, "
    "test-pattern, a video, a picture, a folder or a glob pattern"
)
_MODE = re.compile(r"(?::([1-9]\d{0,4})x([1-9]\d{0,4}))?(?:@([1-9]\d{0,5}(?:\.\d{1,6}|/[1-9]\d{0,4})?))?\Z")
"""What may stand behind a camera: `:1280x720`, `@30`, `:1280x720@30`; a rate of 30000/1001 too."""


class Kind(str, Enum):
    """What sort of source an address names."""

    CAMERA = "camera"
    STREAM = "stream"
    GSTREAMER = "gst"
    SCREEN = "screen"
    TEST_PATTERN = "test-pattern"
    IMAGES = "images"
    VIDEO = "video"


@dataclass(frozen=True, kw_only=True)
class Address:
    """A source as a user named it."""

    kind: Kind
    where: str
    """As its source takes it: an address, a pipeline, a path, or for a camera, screen or test pattern the whole
    text."""

    def __str__(self) -> str:
        """For messages, without a password."""
        if self.kind is Kind.GSTREAMER:
            return redact(f"gst:{self.where}")
        if self.kind is Kind.CAMERA:
            camera = CameraMode.parse(self.where).camera
            return f"camera {camera}" if camera.isdigit() else camera
        return redact(self.where)


@dataclass(frozen=True, kw_only=True)
class CameraMode:
    """A camera, and how it shall run."""

    camera: str
    """Its number or its device."""
    size: tuple[int, int] | None = None
    """Height and width in pixels; None for what it gives by itself."""
    fps: Fraction | None = None
    """Frames per second; None likewise."""

    @classmethod
    def parse(cls, where: str) -> CameraMode:
        """What `0`, `0:1280x720`, `0@30`, `/dev/video0:1280x720@30` and the like ask for.

        >>> CameraMode.parse("0:1280x720@30")
        CameraMode(camera='0', size=(720, 1280), fps=Fraction(30, 1))

        What is no size or rate is taken for a part of the device's name, as the colons of /dev/v4l/by-path are.
        """
        found = _MODE.search(where)
        assert found is not None  # it may be empty
        width, height, fps = found.groups()
        return cls(
            camera=where[: found.start()],
            size=(int(height), int(width)) if width else None,
            fps=Fraction(fps) if fps else None,
        )


def parse_address(where: str | Path | int) -> Address:
    """Tell what `where` names.

    >>> parse_address("rtsp://10.0.0.5/live").kind.value
    'stream'
    >>> parse_address("screen:1")
    Address(kind=<Kind.SCREEN: 'screen'>, where='screen:1')

    A number is a camera, and one with a size or rate behind it. What begins with a scheme or keyword is that, and a
    file of such a name is written with its folder: `./screen`. What has the suffix of a picture or a wildcard, or is a
    folder, is pictures; all else a video.

    Raises:
        SourceError: nothing, or a scheme that is none of ours.
    """
    text = str(where).strip() if isinstance(where, str) else str(where)
    if not text:
        raise SourceError(f"expected {_GRAMMAR}; found nothing")
    if re.fullmatch(r"[0-9]+", CameraMode.parse(text).camera) or text.startswith("/dev/"):
        return Address(kind=Kind.CAMERA, where=text)
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text):
        if scheme[1].lower() not in STREAM_SCHEMES:
            raise SourceError(f"{redact(text)}: expected {_GRAMMAR}; found {scheme[1]}://")
        return Address(kind=Kind.STREAM, where=text)
    if text.startswith("gst:"):
        pipeline = text.removeprefix("gst:").strip()
        if not pipeline:
            raise SourceError("gst: expected a pipeline after it, such as gst:videotestsrc ! videoconvert; found none")
        return Address(kind=Kind.GSTREAMER, where=pipeline)
    if keyword := re.match(r"(screen|test-pattern)(?:[:@]|$)", text):
        return Address(kind=Kind(keyword[1]), where=text)
    path = Path(text)
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return Address(kind=Kind.IMAGES, where=text)
    if not path.is_file() and any(wildcard in text for wildcard in "*?["):
        return Address(kind=Kind.IMAGES, where=text)
    return Address(kind=Kind.VIDEO, where=text)
