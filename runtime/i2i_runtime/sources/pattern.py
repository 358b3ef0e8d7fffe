"""A moving test pattern: a camera for machines that have none, whose frames can be counted at the other end."""

from __future__ import annotations

import math
import re
import threading
import time
import zlib
from collections.abc import Iterator
from fractions import Fraction

import cv2
import numpy as np

from i2i_runtime.errors import UsageError
from i2i_runtime.frame import Frame, Image
from i2i_runtime.sources.base import Source, StreamInfo, frame_name
from i2i_runtime.sources.pacing import ticks

NAME = "test-pattern"
"""What the user writes, alone or as `test-pattern:1280x720@25`."""
_SMALLEST, _LARGEST = 128, 8192
"""Sides in pixels: below, the code does not fit."""
_FASTEST = 1000
_BLOCK = 16
"""Side of a block of the code in pixels, as an H.264 macroblock: compression blurs its edges, not its middle."""
_MARKER = 0b1010
_MARKER_BITS, _INDEX_BITS, _CHECK_BITS = 4, 24, 8
_CODE_BITS = _MARKER_BITS + _INDEX_BITS + _CHECK_BITS
_BARS = (
    (255, 255, 255),
    (0, 255, 255),
    (255, 255, 0),
    (0, 255, 0),
    (255, 0, 255),
    (0, 0, 255),
    (255, 0, 0),
    (0, 0, 0),
)
"""BGR, from bright to dark: white, yellow, cyan, green, magenta, red, blue, black."""


class PatternSource(Source):
    """Colour bars, a gradient, a moving disc and the frame's number, for people and for `read_index`."""

    def __init__(
        self, size: tuple[int, int] = (480, 640), fps: int | float | Fraction = 30, count: int | None = None
    ) -> None:
        """Prepare what stands still.

        Args:
            size: height and width in pixels, 128 to 8192 each.
            fps: frames per second, up to 1000.
            count: how many frames; None never ends.

        Raises:
            UsageError: a size or rate outside these bounds.
        """
        height, width = size
        if not (_SMALLEST <= height <= _LARGEST and _SMALLEST <= width <= _LARGEST):
            raise UsageError(f"{NAME}: expected sides of {_SMALLEST} to {_LARGEST} pixels, found {width}x{height}")
        if not (math.isfinite(fps) and 0 < fps <= _FASTEST):
            raise UsageError(f"{NAME}: expected up to {_FASTEST} frames a second, found {float(fps):g}")
        self._rate = Fraction(fps).limit_denominator(1001)
        self._count = count
        self._interrupted = threading.Event()
        self._still = _still_parts(height, width)
        self.skipped = []
        self.info = StreamInfo(name=NAME, is_live=True, fps=self._rate, frame_count=count)

    @classmethod
    def parse(cls, text: str) -> PatternSource:
        """The source that `test-pattern`, `test-pattern:1280x720`, `test-pattern:@25` or both ask for.

        Raises:
            UsageError: anything else.
        """
        found = re.fullmatch(rf"{NAME}:?(?:(?<=:)(\d{{1,5}})x(\d{{1,5}}))?(?:@(\d+(?:\.\d+|/0*[1-9]\d*)?))?", text)
        if found is None:
            raise UsageError(f"{text}: expected {NAME} or {NAME}:1280x720@25")
        width, height, fps = found.groups()
        return cls(
            size=(int(height), int(width)) if width else (480, 640),
            fps=Fraction(fps) if fps else 30,
        )

    def interrupt(self) -> None:
        """See `Source`."""
        self._interrupted.set()

    def __iter__(self) -> Iterator[Frame]:
        """See `Source`."""
        for index, timestamp in enumerate(ticks(self._rate, self._interrupted)):
            now = time.monotonic()
            yield Frame(
                image=self._draw(index),
                index=index,
                captured_at=now,
                name=frame_name(self.info, index),
                timestamp=timestamp,
            )
            if self._count is not None and index + 1 >= self._count:
                return

    def _draw(self, index: int) -> Image:
        image = self._still.copy()
        height, width = image.shape[:2]
        radius = min(height, width) // 10
        # Once round in 200 and once up and down in 125 frames: the path is long, so two frames are seldom alike.
        x = width / 2 + (width / 2 - radius) * math.cos(index * math.tau / 200)
        y = height / 2 + (height / 2 - radius) * math.sin(index * math.tau / 125)
        cv2.circle(image, (round(x), round(y)), radius, (32, 128, 255), cv2.FILLED, cv2.LINE_AA)
        scale = min(height, width) / 400
        place = (round(width * 0.04), round(height * 0.71))
        cv2.putText(image, str(index), place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), max(1, round(scale)))
        _write_index(image, index)
        return image

    def close(self) -> None:
        """See `Closing`."""
        self._interrupted.set()


def read_index(image: Image) -> int | None:
    """The number that a `PatternSource` wrote into a frame.

    Compression and changes of colour do not matter, as long as dark stays dark; the size must be the source's.

    Args:
        image: (height, width, 3) uint8 BGR.

    Returns:
        The frame's index modulo 2**24; None where there is none, or none that can be trusted.
    """
    height, width = image.shape[:2]
    if height < _SMALLEST or width < _SMALLEST:
        return None
    edge = _BLOCK // 4
    number = 0
    for y, x in _places(width):
        middle = image[y + edge : y + _BLOCK - edge, x + edge : x + _BLOCK - edge]
        number = number << 1 | int(middle.mean() > 127.5)
    index = number >> _CHECK_BITS & (1 << _INDEX_BITS) - 1
    return index if number == _code(index) else None


def _write_index(image: Image, index: int) -> None:
    code = _code(index % (1 << _INDEX_BITS))
    for bit, (y, x) in enumerate(_places(image.shape[1])):
        image[y : y + _BLOCK, x : x + _BLOCK] = 255 * (code >> _CODE_BITS - 1 - bit & 1)


def _code(index: int) -> int:
    check = zlib.crc32(index.to_bytes(_INDEX_BITS // 8, "big")) & (1 << _CHECK_BITS) - 1
    return (_MARKER << _INDEX_BITS | index) << _CHECK_BITS | check


def _places(width: int) -> list[tuple[int, int]]:
    """The top left corner of each block of the code, in rows as wide as the picture."""
    columns = width // _BLOCK
    return [(bit // columns * _BLOCK, bit % columns * _BLOCK) for bit in range(_CODE_BITS)]


def _still_parts(height: int, width: int) -> Image:
    image = np.empty((height, width, 3), np.uint8)
    bars = np.array(_BARS, np.uint8)
    image[:] = bars[np.arange(width) * len(bars) // width]
    image[height * 5 // 8 : height * 3 // 4, : width // 2] = 0  # for the number
    image[height * 3 // 4 :] = np.linspace(0, 255, width).astype(np.uint8)[:, None]
    return image
