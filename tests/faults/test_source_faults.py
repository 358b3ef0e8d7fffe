"""Cameras and streams that fail in every way a network or a plug can: what the user sees, and that nothing leaks."""

from __future__ import annotations

import itertools
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import run, start, the_error_line
from fake_cameras import FakeCapture, FakeMjpegCamera, FakeRtspCamera, Mode, read_number
from onnx_models import make_card, negative_model

from i2i_runtime.errors import SourceError
from i2i_runtime.sources import capture, live
from i2i_runtime.sources.address import Address, Kind
from i2i_runtime.sources.base import Source, SourceState
from i2i_runtime.sources.live import LiveOptions, LiveSource
from i2i_runtime.sources.open import open_source


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(live, "_PAUSES", (0.05, 0.1))


class Reading:
    """Iterates a source on a thread of its own, as a pipeline does, and notes what it sees."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.numbers: list[int] = []
        self.frames: list[tuple[int, float, tuple[int, ...]]] = []
        self.times: list = []
        self.states: list[SourceState] = []
        self.error: BaseException | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._watch = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.source.interrupt()
        self._thread.join(5)
        assert not self._thread.is_alive()
        self._done.set()
        self._watch.join(5)
        self.source.close()

    def _read(self) -> None:
        try:
            for frame in self.source:
                self.numbers.append(read_number(frame.image))
                self.times.append(frame.timestamp)
                self.frames.append((frame.index, frame.captured_at, frame.image.shape))
        except BaseException as error:
            self.error = error

    def _look(self) -> None:
        while not self._done.is_set():
            state = self.source.health().state
            if self.states[-1:] != [state]:
                self.states.append(state)
            self._done.wait(0.003)

    def until(self, holds: Callable[[], bool], within: float = 10.0) -> float:
        """Wait; returns how many seconds it took."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < within, (self.states, len(self.frames), self.error, self.source.health())
            time.sleep(0.005)
        return time.monotonic() - began

    def until_frames(self, count: int) -> float:
        wanted = len(self.frames) + count
        return self.until(lambda: len(self.frames) >= wanted)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# At the start


@pytest.mark.fault(1)
def test_a_camera_that_is_not_there_is_an_error_at_once_that_names_those_that_are():
    began = time.monotonic()

    with pytest.raises(SourceError, match=r"camera 99: not found or in use by another program; cameras here: "):
        open_source("99")

    assert time.monotonic() - began < 1


@pytest.mark.fault(3)
@pytest.mark.parametrize("fake", [FakeRtspCamera, FakeMjpegCamera])
def test_a_camera_that_refuses_is_an_error_at_once_that_names_host_and_port_but_no_password(fake):
    with fake() as camera:
        address = camera.url_with("admin:hunter2")
        camera.unplug()

        with pytest.raises(SourceError) as refused:
            open_source(address)

    assert f"***@127.0.0.1:{camera.port}" in str(refused.value)
    assert "connection refused" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.fault(3)
def test_a_camera_that_refuses_at_the_start_is_waited_for_if_that_is_asked_for():
    with FakeRtspCamera() as camera:
        camera.unplug()
        with Reading(open_source(camera.url, LiveOptions(retry_at_start=True))) as reading:
            reading.until(lambda: "refused" in (reading.source.health().message or ""))
            opening = reading.source.health().state
            camera.plug_in()
            reading.until_frames(5)
            health = reading.source.health()

    assert opening is SourceState.OPENING
    assert (health.state, health.reconnects) == (SourceState.LIVE, 0)


@pytest.mark.fault(4)
@pytest.mark.parametrize("fake", [FakeRtspCamera, FakeMjpegCamera])
def test_a_camera_that_accepts_and_says_nothing_is_an_error_after_the_open_timeout(fake):
    with fake(mode=Mode.SILENT) as camera:
        began = time.monotonic()
        with pytest.raises(SourceError, match=rf"127.0.0.1:{camera.port}/\w+: no answer within 0.5 s"):
            open_source(camera.url, LiveOptions(open_timeout_s=0.5))

        assert 0.4 < time.monotonic() - began < 1.5


@pytest.mark.fault(5)
@pytest.mark.parametrize("fake", [FakeRtspCamera, FakeMjpegCamera])
@pytest.mark.parametrize(
    ("mode", "message"), [(Mode.UNAUTHORIZED, "authentication failed"), (Mode.NOT_FOUND, "not found there")]
)
def test_a_wrong_password_and_a_wrong_path_are_told_apart(fake, mode, message):
    with fake(mode=mode) as camera, pytest.raises(SourceError, match=rf"://\*\*\*@127.0.0.1:\d+/\w+: {message}"):
        open_source(camera.url_with("admin:hunter2"))


@pytest.mark.fault(5)
def test_a_camera_that_refuses_the_password_is_not_hammered(monkeypatch):
    monkeypatch.setattr(live, "_REFUSED_PAUSE", 0.4)
    with (
        FakeRtspCamera(mode=Mode.UNAUTHORIZED) as camera,
        Reading(open_source(camera.url, LiveOptions(retry_at_start=True))),
    ):
        time.sleep(1.2)
        requests = camera.requests

    assert 2 <= requests <= 5


# While it runs


@pytest.mark.fault(6)
@pytest.mark.parametrize("fake", [FakeRtspCamera, FakeMjpegCamera])
def test_a_dropped_connection_is_made_again_and_numbers_and_times_go_on(fake):
    with fake(drop_after=15) as camera, Reading(open_source(camera.url)) as reading:
        reading.until(lambda: reading.source.health().reconnects >= 2 and len(reading.frames) > 35)
        connections = camera.connections

    indices, captured, _ = zip(*reading.frames, strict=True)
    assert list(indices) == list(range(len(indices)))
    assert all(a <= b for a, b in itertools.pairwise(captured))
    assert all(a < b for a, b in itertools.pairwise(reading.times))
    assert float(reading.times[-1] - reading.times[0]) == pytest.approx(captured[-1] - captured[0], abs=0.001)
    assert connections >= 3
    assert SourceState.STALLED not in reading.states
    assert reading.states[:3] == [SourceState.LIVE, SourceState.RECONNECTING, SourceState.LIVE] or (
        reading.states[:4] == [SourceState.OPENING, SourceState.LIVE, SourceState.RECONNECTING, SourceState.LIVE]
    )


@pytest.mark.fault(6)
def test_no_frame_before_a_drop_is_lost():
    with FakeRtspCamera(drop_after=40) as camera, Reading(open_source(camera.url, LiveOptions(reconnect=0))) as reading:
        reading.until(lambda: reading.error is not None)

    assert reading.numbers == list(range(40))


@pytest.mark.fault(6)
def test_a_camera_that_does_not_come_back_is_an_error_after_the_attempts_that_are_asked_for():
    with FakeRtspCamera() as camera, Reading(open_source(camera.url, LiveOptions(reconnect=3))) as reading:
        reading.until_frames(5)
        camera.unplug()
        reading.until(lambda: reading.error is not None)
        state = reading.source.health().state

    assert isinstance(reading.error, SourceError)
    assert "connection refused" in str(reading.error)
    assert str(reading.error).endswith("given up after 3 attempts to connect again")
    assert state is SourceState.LOST


@pytest.mark.fault(6)
def test_a_camera_that_may_not_come_back_is_an_error_at_once():
    with FakeRtspCamera(drop_after=5) as camera, Reading(open_source(camera.url, LiveOptions(reconnect=0))) as reading:
        reading.until(lambda: reading.error is not None)

    assert str(reading.error) == f"{camera.url}: the connection was lost"
    assert camera.connections == 1


@pytest.mark.fault(6)
def test_a_camera_that_restarts_all_the_time_uses_its_attempts_up():
    with (
        FakeRtspCamera(drop_after=10, fps=100) as camera,
        Reading(open_source(camera.url, LiveOptions(reconnect=2))) as reading,
    ):
        reading.until(lambda: reading.error is not None)

    assert str(reading.error) == f"{camera.url}: the connection was lost; given up after 2 attempts to connect again"
    assert camera.connections == 3


@pytest.mark.fault(7)
@pytest.mark.parametrize("fake", [FakeRtspCamera, FakeMjpegCamera])
def test_a_stalled_stream_is_seen_closed_and_made_again(fake):
    with fake() as camera, Reading(open_source(camera.url, LiveOptions(stall_s=0.5))) as reading:
        reading.until_frames(5)
        camera.mode = Mode.STALL
        noticed = reading.until(lambda: reading.source.health().state is SourceState.STALLED)
        camera.mode = Mode.OK
        # The stuck read ends a second after the watchdog has seen it.
        recovered = reading.until(lambda: reading.source.health().reconnects == 1)
        message = reading.source.health().message

    assert 0.3 < noticed < 1.0
    assert recovered < 1.0 + 0.1 + 2.0
    assert message == f"{camera.url}: no frame for 0.5 s"


@pytest.mark.fault(8)
def test_a_camera_that_comes_back_with_another_resolution_goes_on_with_it():
    with FakeRtspCamera(size=(96, 128)) as camera, Reading(open_source(camera.url)) as reading:
        reading.until_frames(5)
        camera.size = (120, 160)
        camera.drop()
        reading.until(lambda: reading.frames[-1][2] == (120, 160, 3))

    assert {shape for _, _, shape in reading.frames} == {(96, 128, 3), (120, 160, 3)}


@pytest.mark.fault(9)
def test_a_new_resolution_within_a_stream_arrives_as_it_is():
    with FakeMjpegCamera(size=(48, 64)) as camera, Reading(open_source(camera.url)) as reading:
        reading.until_frames(5)
        camera.size = (96, 128)
        reading.until(lambda: reading.frames[-1][2] == (96, 128, 3))
        reading.until_frames(3)
        health = reading.source.health()

    shapes = [shape for _, _, shape in reading.frames]
    assert [shape for shape, _ in itertools.groupby(shapes)] == [(48, 64, 3), (96, 128, 3)]
    assert (health.reconnects, health.decode_errors) == (0, 0)
    assert reading.numbers == list(range(reading.numbers[0], reading.numbers[0] + len(reading.numbers)))


@pytest.mark.fault(10)
@pytest.mark.parametrize("truncate", [True, False], ids=["half", "rubbish"])
def test_one_corrupt_frame_is_skipped_and_counted_and_is_no_reconnect(truncate):
    with FakeMjpegCamera() as camera, Reading(open_source(camera.url)) as reading:
        reading.until_frames(5)
        camera.truncate = truncate
        camera.corrupt_next = 1
        reading.until(lambda: reading.source.health().decode_errors == 1)
        reading.until_frames(5)
        health = reading.source.health()

    assert (health.state, health.reconnects, health.decode_errors) == (SourceState.LIVE, 0, 1)
    missing = set(range(reading.numbers[0], reading.numbers[-1] + 1)) - set(reading.numbers)
    assert len(missing) == 1
    assert len(reading.source.skipped) == 1
    assert "a damaged frame" in reading.source.skipped[0]


@pytest.mark.fault(10)
def test_corrupt_h264_is_counted_and_survived():
    with FakeRtspCamera() as camera, Reading(open_source(camera.url)) as reading:
        reading.until_frames(5)
        camera.corrupt = 0.2
        reading.until(lambda: reading.source.health().decode_errors >= 3)
        camera.corrupt = 0.0
        reading.until_frames(35)
        health = reading.source.health()

    assert (health.state, health.reconnects) == (SourceState.LIVE, 0)
    # A whole second after the damage a key frame has mended everything.
    assert all(b - a == 1 for a, b in itertools.pairwise(reading.numbers[-4:]))


@pytest.mark.fault(10)
def test_a_stream_of_mostly_corrupt_frames_counts_as_stalled(monkeypatch):
    monkeypatch.setattr(live, "_DAMAGE_OVER", 0.5)
    with FakeMjpegCamera(corrupt=0.8) as camera, Reading(open_source(camera.url)) as reading:
        reading.until(lambda: SourceState.STALLED in reading.states)
        message = reading.source.health().message

    assert "frames are damaged" in message


# A plug that is pulled


@pytest.fixture
def plug(monkeypatch, tmp_path):
    device = tmp_path / "video0"
    device.touch()
    FakeCapture.reset()
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(capture, "_FROZEN_AFTER", 0.3)
    address = Address(kind=Kind.CAMERA, where=str(device))
    return lambda **options: open_source(address, LiveOptions(stall_s=0.4, **options))


@pytest.mark.fault(2)
@pytest.mark.parametrize("symptom", ["false", "still"])
def test_a_webcam_that_is_pulled_and_comes_back_is_live_again(plug, symptom, monkeypatch):
    with Reading(plug()) as reading:
        reading.until_frames(15)
        FakeCapture.here, FakeCapture.behaviour = False, symptom
        reading.until(lambda: SourceState.RECONNECTING in reading.states)
        FakeCapture.here, FakeCapture.behaviour = True, "ok"
        reading.until(lambda: reading.source.health().state is SourceState.LIVE)
        reading.until_frames(5)
        health = reading.source.health()

    after_live = reading.states[reading.states.index(SourceState.LIVE) :]
    assert after_live[:4] == [
        SourceState.LIVE, SourceState.STALLED, SourceState.RECONNECTING, SourceState.LIVE,
    ]  # fmt: skip
    assert health.reconnects == 1
    indices = [index for index, _, _ in reading.frames]
    assert indices == list(range(len(indices)))


@pytest.mark.fault(2)
def test_a_picture_that_rests_after_it_moved_costs_one_reconnect_and_no_more(plug, monkeypatch):
    # A grabber on a desktop: what it shows is the same on every connection.
    resting = np.full((48, 64, 3), 90, np.uint8)
    moving = FakeCapture.read

    def read(self):
        delivered, picture = moving(self)
        return delivered, picture if FakeCapture.behaviour == "ok" else resting

    monkeypatch.setattr(FakeCapture, "read", read)
    with Reading(plug()) as reading:
        reading.until_frames(15)
        FakeCapture.behaviour = "still"
        reading.until(lambda: reading.source.health().reconnects == 1)
        reading.until_frames(15)
        FakeCapture.behaviour = "ok"
        reading.until_frames(15)
        FakeCapture.behaviour = "still"
        reading.until_frames(100)
        health = reading.source.health()

    assert (health.state, health.reconnects) == (SourceState.LIVE, 1)


@pytest.mark.fault(2)
def test_a_camera_that_has_never_shown_noise_may_show_one_picture_for_ever(plug):
    FakeCapture.behaviour = "still"
    with Reading(plug()) as reading:
        reading.until_frames(100)
        health = reading.source.health()

    assert (health.state, health.reconnects, FakeCapture.opened) == (SourceState.LIVE, 0, 1)


@pytest.mark.fault(2)
def test_one_bad_read_of_a_webcam_is_no_fault(plug):
    with Reading(plug()) as reading:
        reading.until_frames(5)
        FakeCapture.behaviour = "false"
        time.sleep(0.1)
        FakeCapture.behaviour = "ok"
        reading.until_frames(5)
        health = reading.source.health()

    assert (health.state, health.reconnects) == (SourceState.LIVE, 0)


@pytest.mark.fault(14)
@pytest.mark.parametrize(("stated", "said"), [(0.0, "0"), (float("nan"), "nan"), (90000.0, "90000")])
def test_a_webcam_with_an_impossible_rate_is_taken_for_one_of_30_and_that_is_said(plug, stated, said):
    FakeCapture.fps = stated

    with plug() as source:
        assert source.info.fps == 30
        assert source.info.note == f"it states a frame rate of {said}; 30 assumed"


# What hangs


class Hanging(Source):
    """Delivers one frame and then hangs in a decoder that listens to nobody."""

    def __init__(self, release: threading.Event) -> None:
        with FakeRtspCamera() as camera, open_source(camera.url) as source:
            self._frame = next(iter(source))
        self._release = release
        self.skipped = []
        self.info = source.info

    def __iter__(self):
        yield self._frame
        self._release.wait()

    def close(self) -> None:
        pass


def test_connections_that_hang_are_abandoned_and_too_many_are_an_error(monkeypatch):
    monkeypatch.setattr(live, "_CLOSE_WITHIN", 0.1)
    release = threading.Event()
    one = Hanging(release)
    threads_before = threading.active_count()
    source = LiveSource(lambda: one, "hanging camera", LiveOptions(stall_s=0.1))

    with Reading(source) as reading:
        reading.until(lambda: reading.error is not None)
    abandoned = threading.active_count() - threads_before
    release.set()

    assert "hanging camera: 4 connections hang and cannot be closed" in str(reading.error)
    assert abandoned == 4
    assert source.health().state is SourceState.LOST
    reading.until(lambda: threading.active_count() == threads_before)


@pytest.mark.fault(25)
@pytest.mark.parametrize("mode", [Mode.STALL, Mode.OK])
def test_a_wait_for_a_frame_is_interrupted_within_a_tenth_of_a_second(mode):
    with FakeRtspCamera() as camera, Reading(open_source(camera.url)) as reading:
        reading.until_frames(3)
        camera.mode = mode
        time.sleep(0.1)
        began = time.monotonic()
        reading.source.interrupt()
        reading._thread.join(1)
        took = time.monotonic() - began

    assert took < 0.1
    assert reading.error is None
    assert reading.source.health().state is SourceState.ENDED


@pytest.mark.fault(25)
def test_a_wait_for_the_next_attempt_is_interrupted_too(monkeypatch):
    monkeypatch.setattr(live, "_PAUSES", (60.0,))
    with FakeRtspCamera(drop_after=3) as camera, Reading(open_source(camera.url)) as reading:
        reading.until(lambda: SourceState.RECONNECTING in reading.states)
        began = time.monotonic()
        reading.source.interrupt()
        reading._thread.join(1)

        assert time.monotonic() - began < 0.1


def test_a_hundred_reconnects_leave_no_thread_and_no_file_open(monkeypatch):
    monkeypatch.setattr(live, "_PAUSES", (0.0,))
    with FakeMjpegCamera(fps=500, drop_after=3) as camera:
        files, threads = open_files(), threading.active_count()
        with Reading(open_source(camera.url)) as reading:
            reading.until(lambda: reading.source.health().reconnects >= 100, within=60)
        reading.until(lambda: threading.active_count() == threads)
        reading.until(lambda: open_files() == files)

    assert reading.error is None
    assert [index for index, _, _ in reading.frames] == list(range(len(reading.frames)))


# Passwords


SECRETS = [
    "s3cr3t", "p@s3cr3t", "s3cr3t/x", "s3cr3t?x", "s3cr3t#x", "s3cr3t[x", "s3cr3t:x", "'s3cr3t\"", "a b s3cr3t",
]  # fmt: skip


@pytest.mark.fault(42)
@pytest.mark.parametrize("password", SECRETS)
@pytest.mark.parametrize("mode", [Mode.UNAUTHORIZED, Mode.NOT_FOUND])
def test_no_password_is_in_an_error_or_the_status(password, mode, capfd):
    with FakeRtspCamera(mode=mode) as camera:
        address = f"{camera.url_with(f's3cr3tuser:{password}')}?token=s3cr3t"
        with pytest.raises(SourceError) as refused:
            open_source(address, LiveOptions(open_timeout_s=1))
        patient = LiveOptions(open_timeout_s=1, retry_at_start=True)
        with open_source(address, patient) as source:
            health = json.dumps([source.health().name, source.health().message, source.info.name])

    said = capfd.readouterr()
    assert "s3cr3t" not in f"{refused.value}{health}{said.out}{said.err}"


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return negative_model(tmp_path_factory.mktemp("model") / "model.onnx", make_card(None))


@pytest.mark.fault(1)
def test_the_command_names_a_camera_that_is_not_there(model, tmp_path):
    finished = run("i2i-run", "--camera", 99, "--engine", model, "--output", tmp_path / "out.mp4")

    assert finished.returncode == 3
    assert "camera 99: not found" in the_error_line(finished)


@pytest.mark.fault(3)
def test_the_command_waits_for_a_camera_that_refuses_as_often_as_is_asked_for(model, tmp_path):
    with FakeRtspCamera() as camera:
        camera.unplug()
        arguments = ["--rtsp", camera.url, "--reconnect", 1, "--engine", model, "--output", tmp_path / "out.mp4"]
        finished = run("i2i-run", *arguments)

    assert finished.returncode == 3
    assert f"127.0.0.1:{camera.port}/live: connection refused" in the_error_line(finished)
    assert the_error_line(finished).endswith("given up after 1 attempt to connect again")


@pytest.mark.fault(5)
@pytest.mark.fault(42)
def test_the_command_says_one_line_about_a_wrong_password(model, tmp_path):
    with FakeRtspCamera(mode=Mode.UNAUTHORIZED) as camera:
        address = camera.url_with("admin:hunter2")
        finished = run("i2i-run", "--rtsp", address, "--engine", model, "--output", tmp_path / "out.mp4")

    assert finished.returncode == 3
    assert f"rtsp://***@127.0.0.1:{camera.port}/live: authentication failed" in the_error_line(finished)
    assert "hunter2" not in finished.stdout + finished.stderr


@pytest.mark.fault(4)
def test_the_command_ends_after_the_open_timeout(model, tmp_path):
    with FakeRtspCamera(mode=Mode.SILENT) as camera:
        arguments = ["--rtsp", camera.url, "--open-timeout", "1", "--engine", model, "--output", tmp_path / "out.mp4"]
        finished = run("i2i-run", *arguments)

    assert finished.returncode == 3
    assert "no answer within 1 s" in the_error_line(finished)


@pytest.mark.fault(6)
def test_the_command_gives_up_after_the_attempts_that_are_asked_for(model, tmp_path):
    with FakeRtspCamera(drop_after=30) as camera:
        arguments = ["--rtsp", camera.url, "--reconnect", "never", "--engine", model, "--output", tmp_path / "out.mp4"]
        finished = run("i2i-run", *arguments)

    assert finished.returncode == 3
    assert f"{camera.url}: the connection was lost" in the_error_line(finished)
    assert camera.connections == 1


def seconds_from_ctrl_c_to_exit(model, output) -> float:
    with FakeRtspCamera() as camera:
        process = start("i2i-run", "--rtsp", camera.url, "--engine", model, "--output", output)
        with process:
            while camera.sent < 60 and process.poll() is None:
                time.sleep(0.02)
            camera.mode = Mode.STALL
            time.sleep(0.5)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.wait(10)
            took = time.monotonic() - began
    assert process.returncode == 130
    return took


@pytest.mark.fault(25)
def test_ctrl_c_ends_the_command_within_a_second_while_its_camera_is_silent(model, tmp_path):
    # Python itself needs a part of that to end: on a busy machine one of three attempts must do.
    attempts = (seconds_from_ctrl_c_to_exit(model, tmp_path / f"{number}.mkv") for number in range(3))

    assert any(took < 1 for took in attempts)
