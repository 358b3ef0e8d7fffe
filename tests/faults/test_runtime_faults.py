"""Bad input to i2i-run: one line, the right exit code, no traceback, and nothing lost that was there before."""

from __future__ import annotations

import resource
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import run, the_error_line
from onnx import TensorProto, helper
from onnx_models import make_card, negative_model, save
from videos import count_playable, noisy_pictures, read_video, write_sound, write_video


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with good and bad files of every kind, that no failed run may change."""
    desk = tmp_path_factory.mktemp("desk")
    negative_model(desk / "model.onnx", make_card(None))
    negative_model(desk / "nan.onnx", make_card(None), scale=float("nan"))
    negative_model(desk / "bare.onnx", make_card(None), bare=True)
    (desk / "text.onnx").write_text("not a model\n")
    (desk / "empty.onnx").touch()
    (desk / "best.pt").write_bytes(b"PK")
    tensor = [1, 3, 8, 8]
    save(
        desk / "two.onnx",
        [helper.make_node("Add", ["a", "b"], ["r"])],
        [("a", TensorProto.FLOAT, tensor), ("b", TensorProto.FLOAT, tensor)],
        [("r", TensorProto.FLOAT, tensor)],
    )

    clip = write_video(desk / "clip.mp4", noisy_pictures(10))
    (desk / "old.mp4").write_bytes(clip.read_bytes())
    (desk / "out.partial.mp4").write_bytes(clip.read_bytes())
    (desk / "text.mp4").write_text("not a video\n" * 50)
    (desk / "empty.mp4").touch()
    write_sound(desk / "song.m4a")

    for folder in ("photos", "broken", "nothing", "results"):
        (desk / folder).mkdir()
    cv2.imwrite(str(desk / "photos" / "cat.png"), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(desk / "results" / "cat.png"), np.full((8, 8, 3), 9, np.uint8))
    (desk / "broken" / "a.jpg").write_bytes(b"")
    (desk / "broken" / "b.jpg").write_text("text")
    cv2.imwrite(str(desk / "sizes_1.png"), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(desk / "sizes_2.png"), np.zeros((8, 16, 3), np.uint8))
    return desk


def contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


GOOD = "--engine model.onnx"
CLIP = "--video clip.mp4"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        # Usage
        (f"{CLIP} --output old.mp4", 2, "expected --engine FILE, or --engine auto --model FILE"),
        (f"{GOOD} --output old.mp4", 2, "expected exactly one of --camera N, --video FILE, --images DIR"),
        (f"{GOOD} {CLIP} --images photos --output old.mp4", 2, "found --video, --images"),
        (f"{GOOD} {CLIP}", 2, "nothing to do with the result: give --output PATH, --show or --serve"),
        (f"{GOOD} {CLIP} --output old.mp4 --speed 9", 2, "No such option '--speed'"),
        (f"{GOOD} {CLIP} --output old.mp4 --device tpu", 2, "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        (f"{GOOD} {CLIP} --output old.mp4 --value-range 1", 2, "expected LOW,HIGH such as -1,1 or 0,255, found '1'"),
        (f"{GOOD} {CLIP} --output old.mp4 --value-range 1,-1", 2, "expected LOW below HIGH, found '1,-1'"),
        (f"{GOOD} {CLIP} --output old.mp4 --value-range=-1,1", 2, "model.onnx: its card states colour and value range"),
        (f"{GOOD} {CLIP} --output clip.mp4", 2, "--output clip.mp4 would overwrite the input clip.mp4"),
        (f"{GOOD} --video out.partial.mp4 --output out.mp4", 2, "would overwrite the input out.partial.mp4"),
        (f"{GOOD} {CLIP} --output old.mp4 --output ./old.mp4", 2, "two --output with the same name"),
        (f"{GOOD} --images photos --output photos", 2, "--output photos holds the input pictures"),
        (f"{GOOD} --images photos/*.png --output photos/../photos", 2, "holds the input pictures"),
        (f"{GOOD} {CLIP} --show", 2, "--show: no display here"),
        # Sources
        (f"{GOOD} --video none.mp4 --output old.mp4", 3, "none.mp4: no such video file"),
        (f"{GOOD} --video photos --output old.mp4", 3, "photos: no such video file"),
        (f"{GOOD} --video text.mp4 --output old.mp4", 3, "text.mp4: not a readable video"),
        (f"{GOOD} --video empty.mp4 --output old.mp4", 3, "empty.mp4: not a readable video"),
        (f"{GOOD} --video song.m4a --output old.mp4", 3, "song.m4a: expected a video stream, found none"),
        (f"{GOOD} --images nothing --output results", 3, "nothing: expected pictures (.bmp .jpeg"),
        (f"{GOOD} --images *.gif --output results", 3, "*.gif: expected pictures (.bmp .jpeg"),
        (f"{GOOD} --images broken --output results", 3, "none of 2 pictures could be read; the first: broken/a.jpg"),
        (f"{GOOD} --camera front --output old.mp4", 3, "camera front: expected a number or a device"),
        # Models
        (f"--engine none.onnx {CLIP} --output old.mp4", 4, "none.onnx: no such engine file"),
        (
            f"--engine best.pt {CLIP} --output old.mp4",
            4,
            "expected an .onnx, .plan, .engine or .xml file, found .pt; export",
        ),
        (f"--engine text.onnx {CLIP} --output old.mp4", 4, "text.onnx: not an ONNX model"),
        (f"--engine empty.onnx {CLIP} --output old.mp4", 4, "empty.onnx: not an ONNX model"),
        (f"--engine two.onnx {CLIP} --output old.mp4", 4, "two.onnx: expected one input and one output"),
        (f"--engine nan.onnx {CLIP} --output old.mp4", 4, "nan.onnx: the model returned NaN or infinity"),
        # Sinks
        (f"{GOOD} {CLIP} --output old.avi", 5, "old.avi: expected a name ending in .mkv .mov .mp4"),
        (f"{GOOD} {CLIP} --output clip.mp4/out.mp4", 5, "clip.mp4: expected a folder that can be written"),
        (f"{GOOD} --images photos --output clip.mp4/results", 5, "clip.mp4/results: expected a folder that can be"),
        (f"{GOOD} --images sizes_*.png --output old.mp4", 5, "old.mp4: frame 1 is 16x8, the video is 8x8"),
    ],
)
def test_a_mistake_is_one_line_with_its_exit_code_and_costs_nothing(desk, monkeypatch, arguments, exit_code, message):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    before = contents(desk)

    finished = run("i2i-run", *arguments.split(), cwd=desk)

    assert message in the_error_line(finished)
    assert finished.returncode == exit_code
    assert contents(desk).items() >= before.items()


@pytest.mark.fault(43)
def test_a_display_that_cannot_be_opened_is_a_usage_error_not_a_crash(desk, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":99")

    finished = run("i2i-run", "--images", "photos", "--engine", "model.onnx", "--show", cwd=desk)

    expected = "--show: the display :99 cannot be opened; use --serve to watch in a browser, or --output FILE"
    assert expected in the_error_line(finished)
    assert finished.returncode == 2


@pytest.mark.fault(1)
def test_a_camera_that_is_not_there_is_told_at_once(desk):
    began = time.monotonic()
    finished = run("i2i-run", "--camera", 99, "--engine", "model.onnx", "--output", "camera.mp4", cwd=desk)
    took = time.monotonic() - began

    assert finished.returncode == 3
    assert finished.stderr == the_error_line(finished) + "\n", "OpenCV has nothing to add"
    assert "error: camera 99: not found or in use by another program; cameras here: " in finished.stderr
    assert took < 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("--video", "rtsp://admin:hunter2@10.0.0.5/live", "--output", "x.mp4"),
        ("--camera", "rtsp://admin:hunter2@10.0.0.5/live", "--output", "x.mp4"),
        ("--images", "http://admin:hunter2@10.0.0.5/*.png", "--output", "x.mp4"),
        ("--video", "clip.mp4", "--output", "http://admin:hunter2@10.0.0.5/x.avi"),
        ("--video", "clip.mp4", "--output", "x.mp4", "--debug", "--engine", "http://admin:hunter2@10.0.0.5/x.pt"),
    ],
)
def test_a_password_in_an_address_is_never_shown(desk, arguments):
    engine = () if "--engine" in arguments else ("--engine", "model.onnx")
    finished = run("i2i-run", *engine, *arguments, cwd=desk)

    assert finished.returncode in (3, 4, 5)
    assert "hunter2" not in finished.stderr.splitlines()[-1]
    assert "10.0.0.5" in finished.stderr.splitlines()[-1]


def test_debug_shows_where_an_error_came_from(desk):
    finished = run("i2i-run", "--video", "none.mp4", "--engine", "model.onnx", "--output", "x.mp4", "--debug", cwd=desk)

    assert finished.returncode == 3
    assert "Traceback (most recent call last)" in finished.stderr
    assert finished.stderr.splitlines()[-1] == "error: none.mp4: no such video file"


def limit_files_to(size: int):
    """A disk that is full after so many bytes."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.fixture
def long_clip(tmp_path) -> Path:
    return write_video(tmp_path / "long.mp4", noisy_pictures(300))


@pytest.mark.fault(20)
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_full_disk_keeps_what_was_written_playable(desk, long_clip, tmp_path, suffix):
    target = tmp_path / f"out.{suffix}"

    finished = run(
        "i2i-run", "--video", long_clip, "--engine", desk / "model.onnx", "--output", target,
        preexec_fn=limit_files_to(40_000),
    )  # fmt: skip

    assert finished.returncode == 5
    assert f"{target}: " in the_error_line(finished)
    assert "File too large" in the_error_line(finished)
    assert f"frames in {target}" in finished.stderr
    assert 25 <= count_playable(target) < 300


@pytest.mark.fault(20)
def test_a_full_disk_leaves_the_video_that_was_there_before(desk, long_clip, tmp_path):
    target = tmp_path / "out.mp4"
    target.write_bytes((desk / "clip.mp4").read_bytes())

    finished = run(
        "i2i-run", "--video", long_clip, "--engine", desk / "model.onnx", "--output", target,
        preexec_fn=limit_files_to(40_000),
    )  # fmt: skip

    assert finished.returncode == 5
    assert f"frames in {tmp_path / 'out.partial.mp4'}" in finished.stderr
    assert len(read_video(target).pictures) == 10
    assert count_playable(tmp_path / "out.partial.mp4") >= 25


@pytest.mark.fault(20)
def test_a_full_disk_keeps_the_pictures_that_were_whole(desk, long_clip, tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))

    finished = run(
        "i2i-run", "--images", tmp_path, "--engine", desk / "model.onnx", "--output", tmp_path / "results",
        preexec_fn=limit_files_to(100_000),
    )  # fmt: skip

    assert finished.returncode == 5
    assert "2.png: cannot be written (File too large)" in the_error_line(finished)
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["1.png"]


@pytest.mark.fault(12)
def test_an_input_that_breaks_off_midway_is_translated_up_to_there(desk, long_clip, tmp_path):
    cut = write_video(tmp_path / "cut.mkv", noisy_pictures(60), group=1)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])

    finished = run("i2i-run", "--video", cut, "--engine", desk / "model.onnx", "--output", tmp_path / "out.mp4")

    assert finished.returncode == 0, finished.stderr
    assert 20 <= len(read_video(tmp_path / "out.mp4").pictures) <= 40


@pytest.mark.fault(33)
def test_out_of_memory_is_one_line_with_the_exit_code_of_devices(tmp_path):
    weights = helper.make_tensor("w", TensorProto.FLOAT, [512, 3, 3, 3], np.zeros(512 * 27, np.float32))
    back = helper.make_tensor("b", TensorProto.FLOAT, [3, 512, 1, 1], np.zeros(512 * 3, np.float32))
    shape = [1, 3, None, None]
    save(
        tmp_path / "wide.onnx",
        [
            helper.make_node("Conv", ["image", "w"], ["many"], pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["many", "b"], ["result"]),
        ],
        [("image", TensorProto.FLOAT, shape)],
        [("result", TensorProto.FLOAT, shape)],
        [weights, back],
    )
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((3000, 3000, 3), np.uint8))

    def limit() -> None:
        # The 512 channels of 3000x3000 values take 18 GB.
        resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))

    finished = run(
        "i2i-run", "--images", "large.png", "--engine", "wide.onnx", "--output", "results", cwd=tmp_path,
        preexec_fn=limit,
    )  # fmt: skip

    assert "wide.onnx: inference failed: out of memory" in the_error_line(finished)
    assert finished.returncode == 6
