"""Webcams through OpenCV."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from pathlib import Path

import cv2

from i2i_runtime.errors import SourceError
from i2i_runtime.sources.capture import CaptureSource, Stillness

_UNCOMPRESSED_UP_TO = 640 * 480
"""Pixels that USB 2 carries uncompressed at 30 frames a second; above, a camera must send JPEG."""


class CameraSource(CaptureSource):
    """A camera by number or device file, for example `0` or `/dev/video0`."""

    def __init__(
        self,
        camera: str,
        *,
        size: tuple[int, int] | None = None,
        fps: Fraction | None = None,
        stall_s: float = 5.0,
        stillness: Stillness | None = None,
    ) -> None:
        """Open the camera.

        Args:
            camera: its number or its device file.
            size: height and width in pixels to ask the driver for; what it gives if None. Where it gives another one,
                the note of `info` says so.
            fps: frames per second to ask for, likewise.
            stall_s: seconds without a frame after which it counts as stalled.
            stillness: what earlier connections to it have shown; a new one if None.

        Raises:
            SourceError: it is not there; the message names the cameras that are.
        """
        name = f"camera {camera}" if camera.isdigit() else camera
        if not camera.isdigit() and not Path(camera).exists():
            # OpenCV would take any text for a stream or a file pattern.
            raise SourceError(
                f"camera {camera}: expected a number or a device such as /dev/video0, and a size and rate if they "
                f"matter, such as 0:1280x720@30; {_cameras_here()}"
            )
        # OpenCV complains about a missing one in lines of its own.
        is_missing = sys.platform == "linux" and camera.isdigit() and not Path(f"/dev/video{camera}").exists()
        capture = None if is_missing else cv2.VideoCapture(int(camera) if camera.isdigit() else camera)
        if capture is None or not capture.isOpened():
            raise SourceError(f"{name}: not found or in use by another program; {_cameras_here()}")
        note = _ask(capture, size, fps)
        super().__init__(capture, name, stall_s=stall_s, stillness=stillness or Stillness(), note=note)


def _ask(capture: cv2.VideoCapture, size: tuple[int, int] | None, fps: Fraction | None) -> str | None:
    """Ask the driver for a size and rate; a note of what it gives instead, if it does."""
    # The format first: the sizes and rates that a driver offers depend on it.
    if size is not None:
        height, width = size
        if height * width > _UNCOMPRESSED_UP_TO:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
    if fps is not None:
        capture.set(cv2.CAP_PROP_FPS, float(fps))
    differ = []
    if size is not None:
        given = (int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
        if given != size:
            differ.append(f"asked for {size[1]}x{size[0]}, the camera gives {given[1]}x{given[0]}")
    if fps is not None:
        stated = capture.get(cv2.CAP_PROP_FPS)
        # 29.97 is 30 to a driver; an impossible one has a note of its own.
        if 0 < stated <= 1000 and not math.isclose(stated, fps, rel_tol=0.01):
            differ.append(f"asked for {float(fps):g} frames a second, the camera gives {stated:g}")
    return "; ".join(differ) or None


def _cameras_here() -> str:
    return f"cameras here: {', '.join(sorted(str(p) for p in Path('/dev').glob('video*'))) or 'none'}"
