"""i2i-run on live sources, as a user leaves it running: it ends by Ctrl-C, and says what happened to every frame."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from commands import run, start, the_error_line
from fake_cameras import FakeRtspCamera, Mode
from onnx_models import make_card, negative_model
from videos import moving_pictures, read_video, write_video

from i2i_runtime.sources.pattern import read_index


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return negative_model(tmp_path_factory.mktemp("model") / "negative.onnx", make_card(None))


def live(*arguments: object, act=lambda: None, seconds: float = 3.0, signal_number: int = signal.SIGINT):
    """Start i2i-run, wait for its first frame, do something, let it run, and end it by a signal: (output, errors)."""
    process = start("i2i-run", *arguments)
    errors: list[str] = []
    running = threading.Event()

    def read() -> None:
        for line in process.stderr:
            errors.append(line)
            if "negative: " in line:
                running.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert running.wait(60), errors
    time.sleep(1)
    act()
    time.sleep(seconds)
    process.send_signal(signal_number)
    output = process.stdout.read()
    process.stdout.close()
    code = process.wait(20)
    reader.join()
    process.stderr.close()
    assert code == 128 + signal_number, errors
    return output, "".join(errors)


def counts(output: str) -> dict[str, int]:
    line = output.splitlines()[0]
    return {what: int(number) for number, what in re.findall(r"(\d+) (frames in|\w+)", line.split(" in ", 2)[0] + line)}


def assert_accounted(output: str) -> dict[str, int]:
    found = counts(output)
    ends = sum(found.get(what, 0) for what in ("translated", "reused", "skipped", "dropped", "failed"))
    assert found["frames in"] == ends, output
    return found


@pytest.mark.fault(6)
def test_a_camera_that_drops_is_connected_again_and_one_video_is_written(model, tmp_path):
    video = tmp_path / "out.mp4"
    with FakeRtspCamera() as camera:
        output, errors = live("--rtsp", camera.url, "--engine", model, "--output", video, act=camera.drop)

    assert assert_accounted(output)["reconnects"] == 1
    assert "reconnecting (rtsp://127.0.0.1" in errors
    assert "live again after" in errors
    assert len(read_video(video).pictures) > 30


@pytest.mark.fault(7)
def test_a_camera_that_stalls_is_told_and_found_again(model, tmp_path):
    with FakeRtspCamera() as camera:

        def stall() -> None:
            camera.mode = Mode.STALL
            time.sleep(7)
            camera.mode = Mode.OK

        output, errors = live(
            "--rtsp", camera.url, "--engine", model, "--output", tmp_path / "out.mp4", act=stall, seconds=4
        )

    assert assert_accounted(output)["reconnects"] >= 1
    assert "stalled" in errors
    assert "live again after" in errors


@pytest.mark.fault(8)
def test_a_camera_that_comes_back_with_another_size_goes_on_in_another_video(model, tmp_path):
    with FakeRtspCamera(size=(96, 128)) as camera:

        def swap() -> None:
            camera.size = (64, 96)
            camera.drop()

        output, _ = live("--rtsp", camera.url, "--engine", model, "--output", tmp_path / "out.mp4", act=swap)

    assert_accounted(output)
    assert read_video(tmp_path / "out.mp4").pictures[0].shape == (96, 128, 3)
    assert read_video(tmp_path / "out_001.mp4").pictures[0].shape == (64, 96, 3)


@pytest.mark.fault(10)
def test_damaged_frames_are_passed_over_and_are_no_reconnection(model, tmp_path):
    with FakeRtspCamera() as camera:

        def damage() -> None:
            camera.corrupt_next = 2

        output, errors = live("--rtsp", camera.url, "--engine", model, "--output", tmp_path / "out", act=damage)

    assert "reconnects" not in counts(output)
    assert_accounted(output)
    assert "live again" not in errors
    assert "skipped: rtsp://127.0.0.1" in errors, "the damage was noticed"


@pytest.mark.fault(22, 23)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_live_run_ends_in_order_by_a_signal(model, tmp_path, number):
    output, errors = live(
        "--test-pattern",
        "320x240@30",
        "--engine",
        model,
        "--output",
        tmp_path / "out.mp4",
        signal_number=number,
    )

    found = assert_accounted(output)
    frames = len(read_video(tmp_path / "out.mp4").pictures)
    assert f"stopped; {frames} frames in" in errors
    not_written = re.search(r"^(\d+) translated frames were not written", output, re.MULTILINE)
    assert frames + int(not_written[1] if not_written else 0) == found["translated"]


def test_an_address_in_the_environment_stays_out_of_the_list_of_processes(model, tmp_path, monkeypatch):
    video = write_video(tmp_path / "secret.mp4")
    monkeypatch.setenv("I2I_TEST_SOURCE", str(video))

    finished = run("i2i-run", "--source-env", "I2I_TEST_SOURCE", "--engine", model, "--output", tmp_path / "out.mp4")

    assert finished.returncode == 0, finished.stderr
    assert "50 frames in, 50 translated" in finished.stdout


def test_several_sources_become_a_video_each(model, tmp_path):
    one = write_video(tmp_path / "a.mp4", moving_pictures(20))
    other = write_video(tmp_path / "b.mp4", moving_pictures(30, (64, 80)))

    finished = run(
        "i2i-run", "--source", one, "--source", other, "--engine", model, "--output", tmp_path / "out.mp4"
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr
    assert "50 frames in, 50 translated" in finished.stdout
    assert len(read_video(tmp_path / "out_0.mp4").pictures) == 20
    assert len(read_video(tmp_path / "out_1.mp4").pictures) == 30


def test_the_page_of_a_run_tells_its_figures_and_goes_to_the_next_engine(model, tmp_path):
    second = negative_model(tmp_path / "second.onnx", make_card(None))
    states = []

    def ask(path: str, body: dict | None = None) -> dict:
        request = urllib.request.Request(f"http://{address}/{path}", headers={"Origin": f"http://{address}"})
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.loads(response.read() or b"{}")

    def act() -> None:
        states.append(ask("status.json"))
        ask("control", {"action": "next-engine"})
        time.sleep(2)
        states.append(ask("status.json"))

    address = f"127.0.0.1:{free_port()}"
    live(
        "--test-pattern", "320x240@30", "--engine", model, "--engine", second, "--serve", address, act=act, seconds=0
    )  # fmt: skip

    assert [state["controls"]["engine"] for state in states] == ["negative.onnx", "second.onnx"]
    assert states[1]["status"]["translated"] > states[0]["status"]["translated"]


def test_the_number_in_a_test_pattern_survives_the_whole_way(model, tmp_path):
    live("--test-pattern", "320x240@30", "--engine", model, "--output", tmp_path / "out.mp4", seconds=1)

    numbers = [read_index(255 - picture) for picture in read_video(tmp_path / "out.mp4").pictures]
    assert None not in numbers
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--engine auto --video x.mp4 --output y.mp4", "expected --engine auto and --model FILE together"),
        ("--engine m.onnx --model m.onnx --video x.mp4 --output y.mp4", "expected --engine auto and --model FILE"),
        ("--engine m.onnx --explain", "--explain: says how --engine auto chooses"),
        ("--engine m.onnx --camera 0 --screen --show", "found --camera, --screen"),
        ("--engine m.onnx --video x.mp4 --source 0 --show", "found --video, --source"),
        ("--engine m.onnx --source-env NOTHING_HERE --show", "--source-env NOTHING_HERE: expected an address"),
        ("--engine m.onnx --camera 0 --reconnect sometimes --show", "expected a number, forever or never"),
        ("--engine m.onnx --camera 0 --serve here:99999", "expected HOST:PORT with a port up to 65535"),
        ("--engine m.onnx --camera 0 --tile big --show", "expected HEIGHTxWIDTH such as 512x512, found 'big'"),
        ("--engine m.onnx --camera 0 --overlap 9 --show", "--overlap: how far tiles overlap; give --tile too"),
        ("--engine m.onnx --camera 0 --side-by-side --view wipe --show", "--side-by-side and --view: give one of them"),
    ],
)
def test_options_that_make_no_sense_together_are_one_line(tmp_path, arguments, message):
    finished = run("i2i-run", *arguments.split(), cwd=tmp_path)

    assert finished.returncode == 2
    assert message in the_error_line(finished)


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
