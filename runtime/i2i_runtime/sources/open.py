"""From what a user names to a source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from i2i_runtime.sources.address import Address, CameraMode, Kind, parse_address
from i2i_runtime.sources.base import Source
from i2i_runtime.sources.live import LiveOptions, LiveSource

__all__ = ["LiveOptions", "open_source"]

_LATER = 1.0
"""Seconds after the watchdog in which a decoder that waits gives up by itself, and so ends its thread."""


def open_source(where: Address | str | Path | int, live: LiveOptions | None = None) -> Source:
    """Open anything that `parse_address` knows; a camera, stream or pipeline comes back when it is lost.

    >>> open_source("rtsp://10.0.0.5/live", LiveOptions(reconnect=3))  # doctest: +SKIP

    Args:
        where: an address, or what `parse_address` makes one of.
        live: how stubborn a camera, stream or pipeline is; the defaults of `LiveOptions` if None.

    Raises:
        SourceError: it cannot be opened.
        UsageError: a test pattern or screen that cannot be.
    """
    # Each member drags its own library in: only the one that is asked for is loaded.
    address = where if isinstance(where, Address) else parse_address(where)
    if connect := _connection(address, live := live or LiveOptions()):
        return LiveSource(connect, str(address), live)
    if address.kind is Kind.SCREEN:
        from i2i_runtime.sources.screen import ScreenSource

        return ScreenSource.parse(address.where)
    if address.kind is Kind.TEST_PATTERN:
        from i2i_runtime.sources.pattern import PatternSource

        return PatternSource.parse(address.where)
    if address.kind is Kind.IMAGES:
        from i2i_runtime.sources.images import ImagesSource

        return ImagesSource(address.where)
    from i2i_runtime.sources.video import VideoSource

    return VideoSource(Path(address.where))


def _connection(address: Address, live: LiveOptions) -> Callable[[], Source] | None:
    """What makes one connection, for the sources that can be lost and come back."""
    if address.kind is Kind.CAMERA:
        from i2i_runtime.sources.camera import CameraSource
        from i2i_runtime.sources.capture import Stillness

        mode, stillness = CameraMode.parse(address.where), Stillness()
        return lambda: CameraSource(
            mode.camera, size=mode.size, fps=mode.fps, stall_s=live.stall_s + _LATER, stillness=stillness
        )
    if address.kind is Kind.GSTREAMER:
        from i2i_runtime.sources.gstreamer import GStreamerSource

        return lambda: GStreamerSource(address.where, stall_s=live.stall_s + _LATER)
    if address.kind is Kind.STREAM:
        from i2i_runtime.sources.stream import StreamSource

        timeouts = {"open_timeout_s": live.open_timeout_s, "read_timeout_s": live.stall_s + _LATER}
        return lambda: StreamSource(address.where, **timeouts)
    return None
