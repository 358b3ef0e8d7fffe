"""A window on the screen."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2

from i2i_runtime.errors import UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.sinks.base import Sink, SinkClosed
from i2i_runtime.sources.base import StreamInfo

_TITLE = "i2i"
_ESCAPE = 27


class WindowSink(Sink):
    """Shows the newest frame; q, Esc or closing the window ends the run."""

    needs_main_thread = True
    queue_length = 1

    def __init__(self) -> None:
        """Check that there is a screen and an OpenCV that can draw on it.

        Raises:
            UsageError: there is not.
        """
        if sys.platform.startswith("linux"):
            _check_display()
            # OpenCV's Qt comes without fonts and says so five times; nothing is written in the window.
            os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")
        try:
            # Without Qt's toolbar, which would move the picture about.
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        except cv2.error as error:
            raise UsageError(
                "--show: this OpenCV is built without windows; pip uninstall -y opencv-python-headless && "
                "pip install --force-reinstall opencv-python, or use --output FILE"
            ) from error
        self._is_sized = False
        self._frames = 0

    def start(self, info: StreamInfo) -> None:
        """See `Sink`."""
        cv2.setWindowTitle(_TITLE, f"i2i: {info.name}")

    def write(self, frame: Frame) -> None:
        """See `Sink`."""
        if not self._is_sized:
            height, width = frame.image.shape[:2]
            cv2.resizeWindow(_TITLE, width, height)
            self._is_sized = True
        cv2.imshow(_TITLE, frame.image)
        self._frames += 1
        key = cv2.waitKey(1) & 0xFF
        if key in (ord("q"), _ESCAPE) or cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1:
            raise SinkClosed

    def close(self) -> None:
        """See `Closing`."""
        cv2.destroyAllWindows()

    def summary(self) -> str:
        """See `Sink`."""
        return f"{self._frames} frames shown"


def _check_display() -> None:
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not display:
        raise UsageError("--show: no display here (DISPLAY is not set); use --output FILE instead")
    # Qt ends the whole process by abort() where it cannot draw: let it try in another process first.
    trial = subprocess.run([sys.executable, "-c", "import cv2; cv2.namedWindow('i2i')"], capture_output=True)
    if trial.returncode < 0:
        raise UsageError(f"--show: the display {display} cannot be opened; use --output FILE instead")
