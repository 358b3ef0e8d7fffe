"""A virtual camera that video calls and OBS can choose, through pyvirtualcam.

pyvirtualcam is licensed under the GPL 2.0 and no dependency of i2i: it is imported only where a virtual camera is asked
for by somebody who has installed it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from i2i_runtime.errors import SinkError, reason
from i2i_runtime.frame import Frame
from i2i_runtime.letterbox import letterbox
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sources.base import StreamInfo

_FALLBACK_RATE = 30.0
_LOAD = "sudo modprobe v4l2loopback exclusive_caps=1 card_label=i2i"
_HOW = {
    "linux": f"load one with `{_LOAD}`",
    "darwin": "install OBS and start its virtual camera once",
    "win32": "install OBS, which brings one",
}
_DEVICES = Path("/sys/devices/virtual/video4linux")


class VirtualCameraSink(Sink):
    """Shows the newest frame as a camera, in the size of the first; frames of other sizes get black bars."""

    queue_length = 1
    is_watched = True
    keeps_pace = True

    def __init__(self, device: str | None = None) -> None:
        """Check that there is such a camera; it is opened with the first frame.

        Args:
            device: `/dev/video7` on Linux, a name elsewhere; the first one if None.

        Raises:
            SinkError: pyvirtualcam is not installed, or there is no virtual camera.
        """
        try:
            import pyvirtualcam
        except ImportError as error:
            raise SinkError(
                "virtual-camera: expected pyvirtualcam (GPL 2.0), found none; pip install 'i2i[virtual-camera]'"
            ) from error
        # On other systems only opening tells.
        if sys.platform == "linux" and not _is_loopback(device):
            raise SinkError(f"{_name(device)}: no such v4l2loopback device; {_HOW['linux']}")
        self._library: Any = pyvirtualcam
        self._device = device
        self._rate = _FALLBACK_RATE
        self._camera: Any = None
        self._size = 0, 0
        self._frames = 0

    def start(self, *infos: StreamInfo) -> None:
        """See `Sink`."""
        self._rate = float(max((info.fps for info in infos if info.fps), default=_FALLBACK_RATE))

    def write(self, frame: Frame) -> None:
        """See `Sink`."""
        try:
            if self._camera is None:
                height, width = self._size = frame.image.shape[0], frame.image.shape[1]
                self._camera = self._library.Camera(
                    width, height, self._rate, fmt=self._library.PixelFormat.BGR, device=self._device
                )
            self._camera.send(letterbox(frame.image, self._size))
        except (RuntimeError, OSError, ValueError) as error:
            how = _HOW.get(sys.platform, "see pyvirtualcam's documentation")
            raise SinkError(f"{_name(self._device)}: cannot be used ({reason(error)}); {how}") from error
        self._frames += 1

    def close(self) -> None:
        """See `Closing`."""
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.close()

    def summary(self) -> str:
        """See `Sink`."""
        return f"{self._frames} frames shown by {_name(self._device)}"


def _name(device: str | None) -> str:
    return f"virtual-camera:{device}" if device else "virtual-camera"


def _is_loopback(device: str | None) -> bool:
    if device is None:
        return any(_DEVICES.glob("video*"))
    return (_DEVICES / Path(device).resolve().name).exists()
