"""What cameras and GStreamer pipelines share: a capture of OpenCV that delivers frames at its own pace."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

from i2i_runtime.frame import Frame, Image
from i2i_runtime.sources.base import Source, SourceStalledError, StreamInfo, file_stem, frame_name, usable_rate

_FROZEN_AFTER = 2.0
"""Seconds of identical frames after which a camera with noise counts as frozen."""
_NOISY_AFTER = 10
"""Frames in a row that each differ from the one before: what shows them has noise, or moves all the time."""


class Stillness:
    """Tells a frozen driver from a picture at rest; one for all connections of a camera.

    Some drivers repeat the last frame for ever when the plug is pulled, and a sensor is never free of noise. But what
    an HDMI grabber or a virtual camera shows may rest for hours. So identical frames mean a frozen driver only after
    frames that all differed, and never again once a new connection has shown the very same picture.
    """

    def __init__(self) -> None:
        self._may_freeze = True
        self._frozen_at: int | None = None
        self.begin()

    def begin(self) -> None:
        """A new connection."""
        self._differing = 0
        self._is_repeated = False
        self._last: int | None = None
        self._since = 0.0

    def frozen_for(self, image: Image, now: float) -> float | None:
        """Seconds for which the driver has repeated one frame; None where it is not frozen.

        Args:
            image: the next frame.
            now: `time.monotonic()` when it came.
        """
        if not self._may_freeze:
            return None
        fingerprint = _fingerprint(image)
        if fingerprint == self._frozen_at:
            self._may_freeze = False
            return None
        if fingerprint != self._last:
            self._differing = 0 if self._is_repeated or self._last is None else self._differing + 1
            self._is_repeated, self._last, self._since = False, fingerprint, now
            return None
        self._is_repeated = True
        if self._differing < _NOISY_AFTER or now - self._since <= _FROZEN_AFTER:
            return None
        self._frozen_at = fingerprint
        return now - self._since


class CaptureSource(Source):
    """An open `cv2.VideoCapture` as a live source; its frames have no timestamps, only times of capture."""

    def __init__(
        self,
        capture: cv2.VideoCapture,
        name: str,
        *,
        stall_s: float,
        stillness: Stillness | None = None,
        note: str | None = None,
    ) -> None:
        """Take over an open capture.

        Args:
            capture: open; closed with this source.
            name: for messages.
            stall_s: seconds without a frame after which it counts as stalled.
            stillness: says when identical frames mean that it is stalled too; they never do without.
            note: what the user should know.
        """
        self._capture = capture
        self._name = name
        self._stall_s = stall_s
        self._stillness = stillness
        self._interrupted = threading.Event()
        # Drivers queue frames: without this the picture is several frames old before it is read.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate, of_rate = usable_rate(capture.get(cv2.CAP_PROP_FPS))
        self.skipped = []
        notes = "; ".join(each for each in (note, of_rate) if each)
        self.info = StreamInfo(name=file_stem(name), is_live=True, fps=rate, note=notes or None)

    def interrupt(self) -> None:
        """See `Source`."""
        self._interrupted.set()

    def __iter__(self) -> Iterator[Frame]:
        """See `Source`.

        Raises:
            SourceStalledError: no frame, or none but the same one, for too long.
        """
        last = time.monotonic()
        index = 0
        if self._stillness:
            self._stillness.begin()
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
            frozen_for = self._stillness.frozen_for(image, now) if self._stillness else None
            if frozen_for is not None:
                raise SourceStalledError(
                    f"{self._name}: the same frame for {frozen_for:.0f} s; is it still plugged in?"
                )
            yield Frame(image=image, index=index, captured_at=now, name=frame_name(self.info, index))
            index += 1

    def close(self) -> None:
        """See `Source`."""
        self._capture.release()


def _fingerprint(image: Image) -> int:
    # Every 8th row holds noise enough to tell two frames apart, in 0.1 ms for 1080p.
    return zlib.crc32(image[::8].tobytes())
