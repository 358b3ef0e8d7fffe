"""The screen of this computer, or a part of it, through mss."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from i2i_runtime.errors import SourceError, UsageError, reason
from i2i_runtime.frame import Frame, Image
from i2i_runtime.sources.base import Source, StreamInfo, file_stem, frame_name
from i2i_runtime.sources.pacing import ticks

NAME = "screen"
"""What the user writes: `screen`, `screen:2` or `screen:640x480+100+50`."""
_FASTEST = 240


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of the desktop in pixels; with several screens, that of all of them."""

    left: int
    top: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}{self.left:+d}{self.top:+d}"


class ScreenSource(Source):
    """What a screen shows, as often a second as is asked for."""

    def __init__(self, screen: int | Region = 1, fps: int | float | Fraction = 30) -> None:
        """Look for the screen.

        Args:
            screen: its number from 1; 0 is all of them side by side; or a part of the desktop.
            fps: frames per second, up to 240.

        Raises:
            UsageError: a rate outside these bounds.
            SourceError: no mss, no display, no such screen, or a region outside of it.
        """
        if not 0 < fps <= _FASTEST:
            raise UsageError(f"{NAME}: expected up to {_FASTEST} frames a second, found {float(fps):g}")
        self._rate = Fraction(fps).limit_denominator(1001)
        self._interrupted = threading.Event()
        self._label = NAME if screen == 1 else f"{NAME}:{screen}"
        with _open(self._label) as grabber:
            self._region = _locate(grabber.monitors, screen, self._label)
        self.skipped = []
        self.info = StreamInfo(name=file_stem(self._label), is_live=True, fps=self._rate)

    @classmethod
    def parse(cls, text: str) -> ScreenSource:
        """The source that `screen`, `screen:2` or `screen:640x480+100+50` asks for, and `@25` behind it.

        Raises:
            UsageError: anything else.
            SourceError: as above.
        """
        found = re.fullmatch(
            rf"{NAME}:?(?:(?<=:)(?:(\d{{1,3}})|(\d{{1,5}})x(\d{{1,5}})([+-]\d{{1,5}})([+-]\d{{1,5}})))?(?:@(\d+(?:\.\d+)?))?",
            text,
        )
        if found is None:
            raise UsageError(f"{text}: expected {NAME}, {NAME}:2 or {NAME}:640x480+100+50, and a rate such as @25")
        number, width, height, left, top, fps = found.groups()
        screen: int | Region = int(number) if number else 1
        if width:
            screen = Region(left=int(left), top=int(top), width=int(width), height=int(height))
        return cls(screen, fps=Fraction(fps) if fps else 30)

    def interrupt(self) -> None:
        """See `Source`."""
        self._interrupted.set()

    def __iter__(self) -> Iterator[Frame]:
        """See `Source`.

        Raises:
            SourceError: the display went away, or became smaller than what is captured.
        """
        # Opened here: its handles belong to the thread that made them.
        with _open(self._label) as grabber:
            for index, timestamp in enumerate(ticks(self._rate, self._interrupted)):
                now = time.monotonic()
                yield Frame(
                    image=_grab(grabber, self._region, self._label),
                    index=index,
                    captured_at=now,
                    name=frame_name(self.info, index),
                    timestamp=timestamp,
                )

    def close(self) -> None:
        """See `Closing`."""
        self._interrupted.set()


def _open(label: str) -> Any:
    try:
        import mss
    except ImportError as error:
        raise SourceError(f"{label}: screen capture needs mss ({reason(error)}); pip install 'i2i[screen]'") from error

    # Before 10.2 the class has no name of its own.
    make: Any = getattr(mss, "MSS", None) or mss.mss
    try:
        return make()
    except Exception as error:  # its own, and those of ctypes and of each system
        raise SourceError(
            f"{label}: no display to capture ({reason(error)}); log in to a desktop, on Linux one with X11, "
            "or set DISPLAY"
        ) from error


def _locate(monitors: list[dict[str, Any]], screen: int | Region, label: str) -> dict[str, int]:
    """Where mss finds it; `monitors` are all screens together, then each."""
    desktop, *screens = monitors
    if isinstance(screen, int):
        if not 0 <= screen <= len(screens):
            raise SourceError(f"{label}: expected 0 for all screens or 1 to {len(screens)}, found {screen}")
        return _box(monitors[screen])
    whole = Region(**_box(desktop))
    if (
        screen.width < 1
        or screen.height < 1
        or screen.left < whole.left
        or screen.top < whole.top
        or screen.left + screen.width > whole.left + whole.width
        or screen.top + screen.height > whole.top + whole.height
    ):
        raise SourceError(f"{label}: expected a part of the desktop, which is {whole}, found {screen}")
    return _box(vars(screen))


def _box(monitor: dict[str, Any]) -> dict[str, int]:
    return {side: int(monitor[side]) for side in ("left", "top", "width", "height")}


def _grab(grabber: Any, region: dict[str, int], label: str) -> Image:
    try:
        shot = np.asarray(grabber.grab(region), np.uint8)
    except Exception as error:
        raise SourceError(f"{label}: cannot be captured any more ({reason(error)})") from error
    # (height, width, 4): the fourth is no alpha but padding. The copy is contiguous and the caller's.
    return np.asarray(cv2.cvtColor(shot, cv2.COLOR_BGRA2BGR), np.uint8)
