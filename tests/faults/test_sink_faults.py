"""What can go wrong where results go: disks, folders, sizes, servers, screens, virtual cameras."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import environment, run, the_error_line
from onnx_models import make_card, negative_model
from videos import count_playable, moving_pictures, noisy_pictures, read_video, write_video

from i2i_runtime.errors import SinkError, UsageError
from i2i_runtime.sinks import window
from i2i_runtime.sinks.open import open_sink
from i2i_runtime.sinks.virtual_camera import VirtualCameraSink
from i2i_runtime.sinks.window import WindowSink

FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from i2i_runtime.cli import main
main()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return negative_model(tmp_path_factory.mktemp("model") / "model.onnx", make_card(None))


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_video(tmp_path / "clip.mp4", noisy_pictures(10))


@pytest.mark.fault(20)
def test_with_keep_going_the_other_sinks_go_on_when_a_disk_is_full(model, tmp_path):
    long_clip = write_video(tmp_path / "long.mp4", noisy_pictures(120))
    arguments = ["--video", long_clip, "--engine", model, "--output", "out.mp4", "--output", "results", "--keep-going"]

    finished = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *map(str, arguments)],
        capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=120,
    )  # fmt: skip

    assert finished.returncode == 5, finished.stderr
    assert "out.mp4: " in the_error_line(finished)
    assert "File too large" in the_error_line(finished)
    assert len(list((tmp_path / "results").iterdir())) == 120
    assert 10 <= count_playable(tmp_path / "out.mp4") < 120


@pytest.mark.fault(21)
@pytest.mark.parametrize("output", ["clip.mp4/out.mp4", "clip.mp4/results"])
def test_an_output_that_cannot_be_is_told_before_the_model_is_even_looked_for(clip, tmp_path, output):
    finished = run("i2i-run", "--video", clip, "--engine", "none.onnx", "--output", output, cwd=tmp_path)

    assert finished.returncode == 5
    assert "clip.mp4" in the_error_line(finished)
    assert "expected a folder that can be written (" in the_error_line(finished)
    assert "choose another output" in the_error_line(finished)


@pytest.mark.fault(21)
@pytest.mark.parametrize("output", ["new/deep/out.mp4", "new/deep/results"])
def test_a_folder_that_is_missing_is_made(model, clip, tmp_path, output):
    finished = run("i2i-run", "--video", clip, "--engine", model, "--output", output, cwd=tmp_path)

    assert finished.returncode == 0, finished.stderr
    assert list((tmp_path / "new" / "deep").iterdir())


@pytest.mark.fault(21)
@pytest.mark.parametrize("output", ["new/deep/out.mp4", "new/deep/results"])
def test_a_run_that_never_starts_leaves_no_folder(clip, tmp_path, output):
    finished = run("i2i-run", "--video", clip, "--engine", "none.onnx", "--output", output, cwd=tmp_path)

    assert finished.returncode == 4
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.fixture
def changing(tmp_path) -> Path:
    """A broadcast stream of 20 frames 64x48, then 15 of 128x96: what a camera sends that was set to another size."""
    small = write_video(tmp_path / "small.ts", moving_pictures(20))
    large = write_video(tmp_path / "large.ts", moving_pictures(15, (96, 128)))
    (tmp_path / "in.ts").write_bytes(small.read_bytes() + large.read_bytes())
    return tmp_path / "in.ts"


@pytest.mark.fault(9, 26)
def test_a_size_that_changes_within_a_stream_begins_a_new_file(model, changing, tmp_path):
    finished = run("i2i-run", "--video", changing, "--engine", model, "--output", "out.mp4", cwd=tmp_path)

    assert finished.returncode == 0, finished.stderr
    first, second = read_video(tmp_path / "out.mp4").pictures, read_video(tmp_path / "out_001.mp4").pictures
    assert (len(first), len(second)) == (20, 15)
    assert (first[0].shape, second[0].shape) == ((48, 64, 3), (96, 128, 3))
    assert "20 frames in out.mp4, 15 frames in out_001.mp4" in finished.stdout


@pytest.mark.fault(9, 26)
def test_with_a_fixed_size_it_stays_one_file(model, changing, tmp_path):
    arguments = ["--video", changing, "--engine", model, "--output", "out.mp4", "--fixed-size"]

    finished = run("i2i-run", *arguments, cwd=tmp_path)

    assert finished.returncode == 0, finished.stderr
    assert {p.shape for p in read_video(tmp_path / "out.mp4").pictures} == {(48, 64, 3)}
    assert "35 frames in out.mp4" in finished.stdout


@pytest.mark.fault(21)
def test_a_server_that_is_not_there_is_one_line_without_secrets(model, clip):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        output = f"rtmp://admin:hunter2@127.0.0.1:{port}/live/streamkey"

        finished = run("i2i-run", "--video", clip, "--engine", model, "--output", output)

    assert finished.returncode == 5
    expected = f"error: rtmp://127.0.0.1:{port}: cannot be published to (Connection refused); is the server running?"
    assert the_error_line(finished) == expected
    assert "hunter2" not in finished.stderr + finished.stdout
    assert "streamkey" not in finished.stderr + finished.stdout


@pytest.mark.fault(43)
def test_without_a_display_the_ways_out_are_named(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    with pytest.raises(UsageError, match=r"no display here .+; use --serve to watch in a browser, or --output FILE"):
        WindowSink()


@pytest.mark.fault(43)
@pytest.mark.skipif(sys.platform != "linux", reason="X11 is asked for on Linux")
def test_a_display_that_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(window, "_PATIENCE", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        display = f"127.0.0.1:{silent.getsockname()[1] - 6000}"  # X11 adds 6000 to the number of a display
        monkeypatch.setenv("DISPLAY", display)

        with pytest.raises(UsageError) as error:
            WindowSink()

    assert str(error.value).startswith(f"--show: the display {display} cannot be opened (no answer within 3 s); use ")


@pytest.mark.fault(43)
def test_an_opencv_without_windows_is_told_with_the_ways_out(monkeypatch):
    def refuse(*arguments: object) -> None:
        raise cv2.error("The function is not implemented. Rebuild the library with Windows, GTK+ 2.x or Cocoa support.")

    monkeypatch.setattr(window, "_check_display", lambda: None)
    monkeypatch.setattr(cv2, "namedWindow", refuse)

    with pytest.raises(UsageError, match=r"built without windows; pip uninstall .+--serve .+--output FILE"):
        WindowSink()


def test_a_virtual_camera_without_its_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)

    with pytest.raises(SinkError, match=r"expected pyvirtualcam \(GPL 2.0\), found none; pip install 'i2i\[virtual-c"):
        VirtualCameraSink()


@pytest.mark.skipif(not importlib.util.find_spec("pyvirtualcam"), reason="pyvirtualcam is not installed")
@pytest.mark.skipif(sys.platform != "linux", reason="v4l2loopback is a module of Linux")
@pytest.mark.parametrize("device", ["/dev/video99", "/dev/null"])
def test_a_virtual_camera_without_its_device_says_how_to_get_one(device):
    with pytest.raises(SinkError, match=rf"virtual-camera:{device}: no such v4l2loopback device; .+exclusive_caps=1"):
        open_sink(f"virtual-camera:{device}")


@pytest.mark.fault(26)
@pytest.mark.parametrize("size", [(49, 65), (1, 1), (47, 64)])
def test_odd_pictures_become_a_video_that_plays(model, tmp_path, size):
    cv2.imwrite(str(tmp_path / "odd.png"), np.full((*size, 3), 55, np.uint8))

    finished = run("i2i-run", "--images", tmp_path / "odd.png", "--engine", model, "--output", "out.mp4", cwd=tmp_path)

    assert finished.returncode == 0, finished.stderr
    (picture,) = read_video(tmp_path / "out.mp4").pictures
    assert picture.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert abs(int(picture.mean()) - 200) < 8
