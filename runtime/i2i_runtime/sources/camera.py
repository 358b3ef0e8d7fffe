"""Webcams through OpenCV."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2

from i2i_runtime.errors import SourceError
from i2i_runtime.sources.capture import CaptureSource


class CameraSource(CaptureSource):
    """A camera by number or device file, for example `0` or `/dev/video0`."""

    def __init__(self, camera: str, *, stall_s: float = 5.0) -> None:
        """Open the camera.

        Args:
            camera: its number or its device file.
            stall_s: seconds without a frame after which it counts as stalled.

        Raises:
            SourceError: it is not there; the message names the cameras that are.
        """
        name = f"camera {camera}" if camera.isdigit() else camera
        if not camera.isdigit() and not Path(camera).exists():
            # OpenCV would take any text for a stream or a file pattern.
            raise SourceError(f"camera {camera}: expected a number or a device such as /dev/video0; {_cameras_here()}")
        # OpenCV complains about a missing one in lines of its own.
        is_missing = sys.platform == "linux" and camera.isdigit() and not Path(f"/dev/video{camera}").exists()
        capture = None if is_missing else cv2.VideoCapture(int(camera) if camera.isdigit() else camera)
        if capture is None or not capture.isOpened():
            raise SourceError(f"{name}: not found or in use by another program; {_cameras_here()}")
        super().__init__(capture, name, stall_s=stall_s, can_freeze=True)


def _cameras_here() -> str:
    return f"cameras here: {', '.join(sorted(str(p) for p in Path('/dev').glob('video*'))) or 'none'}"
