"""One grammar for everything a user can name as a source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from i2i_runtime.errors import SourceError, redact
from i2i_runtime.image import IMAGE_SUFFIXES

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "http", "https", "udp")
_GRAMMAR = (
    "a camera (0, /dev/video0), a stream (rtsp:// rtmp:// srt:// http:// udp://), gst:PIPELINE, screen, test-pattern, "
    "a video, a picture, a folder or a glob pattern"
)


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
    """As its source takes it: a number or device, an address, a pipeline, a path, or for a screen or test pattern the
    whole text."""

    def __str__(self) -> str:
        """For messages, without a password."""
        if self.kind is Kind.GSTREAMER:
            return redact(f"gst:{self.where}")
        return f"camera {self.where}" if self.where.isdigit() else redact(self.where)


def parse_address(where: str | Path | int) -> Address:
    """Tell what `where` names.

    >>> parse_address("rtsp://10.0.0.5/live").kind.value
    'stream'
    >>> parse_address("screen:1")
    Address(kind=<Kind.SCREEN: 'screen'>, where='screen:1')

    A number is a camera. What begins with a scheme or keyword is that, and a file of such a name is written with its
    folder: `./screen`. What has the suffix of a picture or a wildcard, or is a folder, is pictures; all else a video.

    Raises:
        SourceError: nothing, or a scheme that is none of ours.
    """
    text = str(where).strip() if isinstance(where, str) else str(where)
    if not text:
        raise SourceError(f"expected {_GRAMMAR}; found nothing")
    if re.fullmatch(r"[0-9]+", text) or text.startswith("/dev/"):
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
