"""The screen as a source, on a virtual X server whose picture is a file that the tests paint."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from fractions import Fraction

import numpy as np
import pytest

from i2i_runtime.errors import SourceError, UsageError
from i2i_runtime.sources.screen import Region, ScreenSource

WIDTH, HEIGHT = 320, 240


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The display's name, and its picture (240, 320, 4) BGRx in memory."""
    pytest.importorskip("mss", reason="screen capture needs mss")
    program = shutil.which("Xvfb") or pytest.skip("Xvfb is not installed")
    folder = tmp_path_factory.mktemp("screen")
    reading, writing = os.pipe()
    # It finds a free display by itself and says which.
    size = ("-screen", "0", f"{WIDTH}x{HEIGHT}x24")
    process = subprocess.Popen(
        [program, "-displayfd", str(writing), *size, "-fbdir", str(folder), "-noreset", "-nolisten", "tcp"],
        pass_fds=(writing,),
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            number = pipe.readline().strip()
        assert number, "Xvfb did not start"
        path = folder / "Xvfb_screen0"
        # An XWD file: its header says how long it is (word 0), and of how many colours of 12 bytes (19) come after it.
        with path.open("rb") as file:
            header = struct.unpack(">25I", file.read(100))
        yield f":{number}", np.memmap(path, np.uint8, "r+", header[0] + 12 * header[19], (HEIGHT, WIDTH, 4))
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def screen(server, monkeypatch):
    name, picture = server
    monkeypatch.setenv("DISPLAY", name)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with ScreenSource(0):
        pass  # the first client makes the server paint its background, once
    picture[:] = 0
    return picture


def first_frame(source):
    with source:
        return next(iter(source))


def test_a_frame_is_what_the_screen_shows_in_opencvs_order(screen):
    screen[10:20, 30:50] = (10, 20, 200, 0)

    image = first_frame(ScreenSource()).image

    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    expected = np.zeros_like(image)
    expected[10:20, 30:50] = (10, 20, 200)
    np.testing.assert_array_equal(image, expected)


def test_a_region_is_cut_out(screen):
    screen[50:60, 100:120] = 255

    image = first_frame(ScreenSource(Region(left=100, top=50, width=20, height=10))).image

    assert image.shape == (10, 20, 3)
    assert image.min() == 255


def test_frames_follow_the_screen_and_the_clock(screen):
    frames = []
    began = time.monotonic()
    with ScreenSource(fps=100) as source:
        for frame in source:
            frames.append(frame)
            screen[:] = len(frames) * 20
            if len(frames) == 10:
                break

    assert source.info.is_live
    assert [f.index for f in frames] == list(range(10))
    assert [int(f.image[0, 0, 0]) for f in frames] == [20 * index for index in range(10)]
    assert all(f.captured_at - began >= f.timestamp for f in frames)
    assert frames[-1].timestamp >= Fraction(9, 100)


def test_it_is_captured_in_another_thread_than_it_was_opened_in(screen):
    source, frames = ScreenSource(fps=200), []
    thread = threading.Thread(target=lambda: frames.extend(source))
    thread.start()
    threading.Timer(0.1, source.interrupt).start()
    thread.join(30)
    source.close()

    assert not thread.is_alive()
    assert frames


@pytest.mark.parametrize(
    ("text", "name", "fps", "shape"),
    [
        ("screen", "screen", 30, (HEIGHT, WIDTH)),
        ("screen:0", "screen_0", 30, (HEIGHT, WIDTH)),
        ("screen:@25", "screen", 25, (HEIGHT, WIDTH)),
        ("screen:1@25", "screen", 25, (HEIGHT, WIDTH)),
        ("screen:64x48+10+20@12.5", "screen_64x48_10_20", Fraction(25, 2), (48, 64)),
    ],
)
def test_what_a_user_writes_says_which_part(screen, text, name, fps, shape):
    source = ScreenSource.parse(text)

    assert (source.info.name, source.info.fps) == (name, fps)
    assert first_frame(source).image.shape[:2] == shape


@pytest.mark.parametrize("text", ["screen1", "screen:left", "screen:64x48", "screen@", "screens"])
def test_what_makes_no_sense_says_what_would(text):
    with pytest.raises(UsageError, match="expected screen, screen:2 or screen:640x480"):
        ScreenSource.parse(text)


@pytest.mark.parametrize("fps", [0, -1, 241, float("nan")])
def test_a_rate_that_cannot_be_is_refused(fps):
    with pytest.raises(UsageError, match="screen: expected up to 240 frames a second"):
        ScreenSource(fps=fps)


def test_a_screen_that_is_not_there_is_named_with_those_that_are(screen):
    with pytest.raises(SourceError, match="screen:2: expected 0 for all screens or 1 to 1, found 2"):
        ScreenSource(2)


@pytest.mark.parametrize("text", ["screen:64x48+300+0", "screen:64x48-1+0", "screen:0x10+0+0", "screen:64x48+0+200"])
def test_a_region_outside_of_the_desktop_is_refused(screen, text):
    with pytest.raises(SourceError, match=r"expected a part of the desktop, which is 320x240\+0\+0, found \d+x\d+"):
        ScreenSource.parse(text)


@pytest.mark.skipif(sys.platform != "linux", reason="only X11 can be without a display")
@pytest.mark.parametrize("display", [None, ":none"])
def test_no_display_is_one_line(monkeypatch, display):
    pytest.importorskip("mss", reason="screen capture needs mss")
    monkeypatch.delenv("DISPLAY", raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)

    with pytest.raises(SourceError) as error:
        ScreenSource()

    assert str(error.value).startswith("screen: no display to capture (")
    assert "\n" not in str(error.value)


def test_without_mss_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mss", None)

    with pytest.raises(SourceError, match=r"screen: screen capture needs mss .*; pip install 'i2i\[screen\]'"):
        ScreenSource()
