"""What cameras and GStreamer pipelines share: a capture of OpenCV that delivers frames at its own pace."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator
from fractions import Fraction

import cv2
import numpy as np

from i2i_runtime.frame import Frame, Image
from i2i_runtime.sources.base import Source, SourceStalledError, StreamInfo, file_stem, usable_rate

_FROZEN_AFTER = 2.0
"""Seconds of identical frames: a sensor is never free of noise, but some drivers repeat the last frame for ever when
the plug is pulled."""


class CaptureSource(Source):
    """An open `cv2.VideoCapture` as a live source."""

    def __init__(self, capture: cv2.VideoCapture, name: str, *, stall_s: float, can_freeze: bool) -> None:
        """Take over an open capture.

        Args:
            capture: open; closed with this source.
            name: for messages.
            stall_s: seconds without a frame after which it counts as stalled.
            can_freeze: whether identical frames mean that it is stalled too.
        """
        self._capture = capture
        self._name = name
        self._stall_s = stall_s
        self._can_freeze = can_freeze
        self._interrupted = threading.Event()
        # Drivers queue frames: without this the picture is several frames old before it is read.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate, note = usable_rate(capture.get(cv2.CAP_PROP_FPS))
        self.skipped = []
        self.info = StreamInfo(name=file_stem(name), is_live=True, fps=rate, note=note)

    def interrupt(self) -> None:
        """See `Source`."""
        self._interrupted.set()

    def __iter__(self) -> Iterator[Frame]:
        """See `Source`.

        Raises:
            SourceStalledError: no frame, or none but the same one, for too long.
        """
        start = last = changed = time.monotonic()
        index, fingerprint = 0, -1
        while not self._interrupted.is_set():
            delivered, read = self._capture.read()
            now = time.monotonic()
            if not delivered:
                # One bad frame and a pulled plug look the same to OpenCV; time tells them apart.
                if now - last > self._stall_s:
                    raise SourceStalledError(f"{self._name}: no frame for {now - last:.0f} s; is it still plugged in?")
                self._interrupted.wait(0.01)
                continue
            last = now
            image: Image = np.asarray(read, np.uint8)
            if self._can_freeze:
                before, fingerprint = fingerprint, _fingerprint(image)
                changed = now if fingerprint != before else changed
                if now - changed > _FROZEN_AFTER:
                    raise SourceStalledError(
                        f"{self._name}: the same frame for {now - changed:.0f} s; is it still plugged in?"
                    )
            yield Frame(
                image=image,
                index=index,
                captured_at=now,
                name=f"{self.info.name}_{index:06d}",
                timestamp=Fraction(now - start).limit_denominator(1_000_000),
            )
            index += 1

    def close(self) -> None:
        """See `Source`."""
        self._capture.release()


def _fingerprint(image: Image) -> int:
    # Every 8th row holds noise enough to tell two frames apart, in 0.1 ms for 1080p.
    return zlib.crc32(image[::8].tobytes())
