"""Webcams through OpenCV."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.sources.base import Source, StreamInfo

_GIVE_UP_AFTER = 5.0
"""Seconds without a frame after which a camera counts as lost."""


class CameraSource(Source):
    """A camera by number or device file, for example `0` or `/dev/video0`."""

    def __init__(self, camera: str) -> None:
        """Open the camera.

        Raises:
            SourceError: it is not there; the message names the cameras that are.
        """
        if not camera.isdigit() and not Path(camera).exists():
            # OpenCV would take any text for a stream or a file pattern.
            raise SourceError(f"camera {camera}: expected a number or a device such as /dev/video0; {_cameras_here()}")
        self._name = f"camera {camera}" if camera.isdigit() else camera
        self._capture = cv2.VideoCapture(int(camera) if camera.isdigit() else camera)
        if not self._capture.isOpened():
            raise SourceError(f"{self._name}: not found or in use by another program; {_cameras_here()}")
        # Drivers queue frames: without this the picture is several frames old before it is read.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.skipped = []
        self.info = StreamInfo(
            name=self._name.replace(" ", "_").replace("/", "_"),
            is_live=True,
            fps=Fraction(rate).limit_denominator(1001) if 0 < rate <= 1000 else None,
        )

    def __iter__(self) -> Iterator[Frame]:
        """See `Source`."""
        start = last = time.monotonic()
        index = 0
        while True:
            delivered, image = self._capture.read()
            now = time.monotonic()
            if not delivered:
                # One bad frame and a pulled plug look the same to OpenCV; time tells them apart.
                if now - last > _GIVE_UP_AFTER:
                    raise SourceError(f"{self._name}: no frame for {now - last:.0f} s; is it still plugged in?")
                time.sleep(0.01)
                continue
            last = now
            yield Frame(
                image=np.asarray(image, np.uint8),
                index=index,
                captured_at=now,
                name=f"{self.info.name}_{index:06d}",
                timestamp=Fraction(now - start).limit_denominator(1_000_000),
            )
            index += 1

    def close(self) -> None:
        """See `Source`."""
        self._capture.release()


def _cameras_here() -> str:
    return f"cameras here: {', '.join(sorted(str(p) for p in Path('/dev').glob('video*'))) or 'none'}"
