"""The window on a real X server without a screen, with keys and a mouse that xdotool moves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from commands import environment

from i2i_runtime.sinks import window
from i2i_runtime.sinks.window import write_lines

pytestmark = pytest.mark.skipif(
    not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="Xvfb or xdotool is not installed"
)

SHOW = """
import json, sys, time
import cv2, numpy as np
from i2i_runtime.controls import Controls, View
from i2i_runtime.frame import Frame
from i2i_runtime.sinks.base import SinkClosed
from i2i_runtime.sinks.window import WindowSink
from i2i_runtime.sources.base import SourceHealth, SourceState, StreamInfo
from i2i_runtime.stats import Stats

controls = Controls()
controls.update(view=View.WIPE)
controls.on("record", lambda value: controls.update(recording="out.mp4"))
def no_space(value):
    raise OSError(28, "No space left on device")
controls.on("snapshot", no_space)
stats = Stats()
lost = SourceHealth(name="cam", state=SourceState.RECONNECTING)
sink = WindowSink()
sink.attach(lambda: stats.status("CPU", (lost,)), controls)
sink.start(StreamInfo(name="cam", is_live=True))
shown = []
imshow = cv2.imshow
def remember(title, image):
    shown.append(image.copy())
    imshow(title, image)
cv2.imshow = remember

def say(ended):
    state = controls.state()
    dark = int((shown[-1][:, :, 1] < 100).sum()) if shown else 0
    print(json.dumps({
        "ended": ended, "view": state.view.value, "mirror": state.mirror, "position": state.position,
        "dark": dark, "message": state.message, "size": cv2.getWindowImageRect("i2i")[2:] if not ended else None,
    }), flush=True)

image = np.full((240, 320, 3), 150, np.uint8)
frames = int(sys.argv[1])
try:
    for index in range(10_000):
        if index < frames:
            sink.write(Frame(image=image, index=index, captured_at=0.0, name=""))
        else:
            sink.idle()
        say(False)
        time.sleep(0.02)
except SinkClosed:
    say(True)
sink.close()
assert (image == 150).all(), "other sinks see the same picture"
"""


class Screen:
    """A window sink in a process of its own, and hands on its keyboard."""

    def __init__(self, display: str, frames: int) -> None:
        self._display = display
        self._process = subprocess.Popen(
            [sys.executable, "-c", SHOW, str(frames)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**environment(), "DISPLAY": display},
        )  # fmt: skip
        for _ in range(5):
            self.now()
        self.hands("mousemove", "100", "100")

    def now(self) -> dict:
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read()
        return json.loads(line)

    def until(self, wanted) -> dict:
        """The state once `wanted` holds of it."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            state = self.now()
            if wanted(state):
                return state
        raise AssertionError(f"it never came; the last state: {state}")

    def hands(self, *arguments: str) -> None:
        subprocess.run(["xdotool", *arguments], check=True, env={**environment(), "DISPLAY": self._display})

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def wait(self) -> int:
        self._process.communicate(timeout=20)
        return self._process.returncode


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with server:
        yield f":{server.stdout.readline().strip()}"
        server.terminate()


@pytest.fixture(params=[10_000, 1], ids=["frames come", "no frame comes"])
def screen(display, request) -> Iterator[Screen]:
    screen = Screen(display, request.param)
    yield screen
    screen.close()


def test_the_window_has_the_size_of_the_picture(screen):
    assert screen.until(lambda state: state["size"] == [320, 240])


def test_keys_work_the_controls(screen):
    screen.hands("key", "v")
    assert screen.until(lambda state: state["view"] == "blend")

    screen.hands("key", "m")
    assert screen.until(lambda state: state["mirror"])


def test_h_and_i_write_over_the_picture_and_take_it_away_again(screen):
    assert screen.now()["dark"] == 0
    for key in ("h", "i"):
        screen.hands("key", key)
        screen.until(lambda state: state["dark"] > 2000)
        screen.hands("key", key)
        screen.until(lambda state: state["dark"] == 0)


def test_while_it_records_there_is_a_dot(screen):
    screen.hands("key", "r")

    dot = screen.until(lambda state: state["dark"] > 0)

    assert dot["dark"] < 200


def test_the_mouse_drags_the_edge_of_a_wipe(screen):
    screen.hands("mousemove", "100", "100", "mousedown", "1", "mousemove", "240", "100")
    assert screen.until(lambda state: state["position"] == 0.75)

    screen.hands("mouseup", "1", "mousemove", "40", "100")
    for _ in range(10):
        assert screen.now()["position"] == 0.75


def test_what_fails_is_told_and_ends_no_run(screen):
    screen.hands("key", "s")

    assert screen.until(lambda state: "OSError: [Errno 28] No space left on device" in state["message"])
    screen.hands("key", "m")
    assert screen.until(lambda state: state["mirror"])


def test_a_cv2_in_the_users_folder_is_not_run(display, tmp_path, monkeypatch):
    (tmp_path / "cv2.py").write_text("open('run', 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISPLAY", display)

    window._check_display()

    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["q", "Escape"])
def test_q_and_escape_end_the_run(screen, key):
    screen.hands("key", key)

    assert screen.until(lambda state: state["ended"])
    assert screen.wait() == 0


@pytest.mark.parametrize("size", [(24, 32), (128, 128), (720, 1280)])
def test_words_are_broken_between_lines_and_stay_inside_any_picture(size):
    image = np.full((*size, 3), 200, np.uint8)

    bottom = write_lines(image, ["a rather long line of words"] * 4, 0)

    assert 0 < bottom <= size[0]
    assert (image[bottom:] == 200).all()
    assert (image[:bottom] < 100).any()
