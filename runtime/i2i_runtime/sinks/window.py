"""A window on the screen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import cv2

from i2i_runtime.controls import KEY_HELP, Controls, View
from i2i_runtime.errors import I2IError, UsageError, reason
from i2i_runtime.frame import Frame, Image
from i2i_runtime.isolated import isolated_python
from i2i_runtime.sinks.base import Sink, SinkClosed
from i2i_runtime.sources.base import SourceState, StreamInfo
from i2i_runtime.stats import Status

_TITLE = "i2i"
_ESCAPE = 27
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_OWN_HELP = "  i status  h help"
_STATUS_EVERY = 0.5
"""Seconds: figures that change with every frame cannot be read."""
_PATIENCE = 10.0
"""Seconds that the display may take to answer."""
_WAYS_OUT = "use --serve to watch in a browser, or --output FILE"


class WindowSink(Sink):
    """Shows the newest frame; q, Esc or closing the window ends the run.

    The keys of `controls.KEYS` do what they say, `h` lists them, `i` shows how the run goes, and the edge of a wipe
    follows the mouse while its button is pressed.
    """

    needs_main_thread = True
    queue_length = 1
    is_watched = True

    def __init__(self) -> None:
        """Check that there is a screen and an OpenCV that can draw on it.

        Raises:
            UsageError: there is not.
        """
        if sys.platform.startswith("linux"):
            _check_display()
            # OpenCV's Qt comes without its own fonts and says so five times.
            os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")
        try:
            # Without Qt's toolbar, which would move the picture about.
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        except cv2.error as error:
            raise UsageError(
                "--show: this OpenCV is built without windows; pip uninstall -y opencv-python-headless && "
                f"pip install --force-reinstall opencv-python, or {_WAYS_OUT}"
            ) from error
        self._status: Callable[[], Status] | None = None
        self._controls = Controls()
        self._shows_status = self._shows_help = False
        self._image: Image | None = None
        self._parts: list[str] = []
        self._parts_at = float("-inf")
        self._frames = 0

    def attach(self, status: Callable[[], Status], controls: Controls) -> None:
        """See `Sink`."""
        self._status = status
        self._controls = controls

    def start(self, *infos: StreamInfo) -> None:
        """See `Sink`."""
        cv2.setWindowTitle(_TITLE, f"i2i: {', '.join(info.name for info in infos)}")
        cv2.setMouseCallback(_TITLE, self._on_mouse)

    def write(self, frame: Frame) -> None:
        """See `Sink`."""
        if self._image is None:
            height, width = frame.image.shape[:2]
            cv2.resizeWindow(_TITLE, width, height)
        self._image = frame.image
        self._frames += 1
        self._draw()
        self._listen()

    def idle(self) -> None:
        """See `Sink`: keys work, and figures go on, while no frame comes."""
        if self._shows_status:
            self._draw()
        self._listen()

    def close(self) -> None:
        """See `Closing`."""
        cv2.destroyAllWindows()

    def summary(self) -> str:
        """See `Sink`."""
        return f"{self._frames} frames shown"

    def _draw(self) -> None:
        if self._image is None:
            return
        image = self._image
        recording = bool(self._controls.state().recording)
        if self._shows_status or self._shows_help or recording:
            image = image.copy()  # other sinks have the same one
            parts = self._status_parts() if self._shows_status else []
            bottom = write_lines(image, parts, 0)
            if self._shows_help:
                write_lines(image, [*KEY_HELP.split("  "), *_OWN_HELP.split("  ")[1:]], bottom)
            if recording:
                radius = max(3, image.shape[0] // 60)
                centre = (image.shape[1] - 2 * radius, image.shape[0] - 2 * radius)
                cv2.circle(image, centre, radius, (0, 0, 255), cv2.FILLED, cv2.LINE_AA)
        cv2.imshow(_TITLE, image)

    def _status_parts(self) -> list[str]:
        now = time.monotonic()
        if now - self._parts_at >= _STATUS_EVERY and self._status:
            status, state = self._status(), self._controls.state()
            self._parts = [
                f"{status.fps:.1f} fps",
                f"{status.latency_ms.p50:.0f} ms",
                f"{status.dropped} dropped",
                state.engine or status.provider,
                *(f"{s.name}: {s.state.value}" for s in status.sources if s.state is not SourceState.LIVE),
                *(["REC"] if state.recording else []),
                state.message,
            ]
            self._parts_at = now
        return [part for part in self._parts if part]

    def _listen(self) -> None:
        code = cv2.waitKey(1) & 0xFF
        if cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1:
            raise SinkClosed
        key = chr(code)
        if code == _ESCAPE or key == "q":
            raise SinkClosed
        if key == "h":
            self._shows_help = not self._shows_help
        elif key == "i":
            self._shows_status = not self._shows_status
        elif code < 128:
            self._act(lambda: self._controls.press(key))
        else:
            return
        self._parts_at = float("-inf")
        self._draw()

    def _on_mouse(self, event: int, x: int, y: int, flags: int, parameter: object) -> None:
        is_held = event == cv2.EVENT_LBUTTONDOWN or (event == cv2.EVENT_MOUSEMOVE and flags & cv2.EVENT_FLAG_LBUTTON)
        if is_held and self._image is not None and self._controls.state().view is View.WIPE:
            share = x / self._image.shape[1]
            self._act(lambda: self._controls.do("position", f"{share:.4f}"))

    def _act(self, action: Callable[[], None]) -> None:
        """What a person asks for may be impossible, which is no reason to end the run."""
        try:
            action()
        except I2IError as error:
            self._controls.update(message=str(error))
        except Exception as error:
            self._controls.update(message=f"this failed: {type(error).__name__}: {reason(error)}")


def write_lines(image: Image, parts: Sequence[str], top: int) -> int:
    """Write words over a darkened strip at the height `top` of an image, as many to a line as its width takes.

    Args:
        image: (h, w, 3) uint8 BGR, drawn into.
        parts: what must not be broken apart.
        top: the first row of the strip.

    Returns:
        The first row below the strip.
    """
    height, width = image.shape[0], image.shape[1]
    scale: float = min(1.0, max(0.35, height / 900))
    line_height = round(32 * scale) + 2
    lines: list[str] = []
    for part in parts:
        longer = f"{lines[-1]}  {part}" if lines else part
        if lines and cv2.getTextSize(longer, _FONT, scale, 1)[0][0] <= width - 8:
            lines[-1] = longer
        else:
            lines.append(part)
    bottom: int = min(height, top + line_height * len(lines))
    image[top:bottom] //= 3
    for number, line in enumerate(lines, 1):
        origin = (4, top + line_height * number - round(10 * scale))
        cv2.putText(image, line, origin, _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return bottom


def _check_display() -> None:
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not display:
        raise UsageError(f"--show: no display here (DISPLAY is not set); {_WAYS_OUT}")
    # Qt ends the whole process by abort() where it cannot draw: let it try in another process first.
    trial = isolated_python("import cv2; cv2.namedWindow('i2i')")
    try:
        finished = subprocess.run(trial, capture_output=True, timeout=_PATIENCE)  # noqa: S603
    except subprocess.TimeoutExpired:
        why = f"no answer within {_PATIENCE:.0f} s"
        raise UsageError(f"--show: the display {display} cannot be opened ({why}); {_WAYS_OUT}") from None
    if finished.returncode < 0:
        raise UsageError(f"--show: the display {display} cannot be opened; {_WAYS_OUT}")
