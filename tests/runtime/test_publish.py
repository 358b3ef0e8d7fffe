"""Publishing to real receivers: FFmpeg's own for RTMP and UDP, and a small server for RTSP."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest
from commands import environment
from videos import moving_pictures, write_video

from i2i_runtime import h264
from i2i_runtime.controls import Controls
from i2i_runtime.errors import SinkError
from i2i_runtime.frame import Frame
from i2i_runtime.isolated import isolated_python
from i2i_runtime.pipeline import Options, Pipeline
from i2i_runtime.relay import Target
from i2i_runtime.sinks import publish
from i2i_runtime.sinks.publish import PublishSink
from i2i_runtime.sources.base import StreamInfo
from i2i_runtime.sources.video import VideoSource

CAMERA = StreamInfo(name="camera", is_live=True, fps=Fraction(25))
FRAME = 1 / 25
"""Seconds."""

RECEIVE = """
import json, sys
import av
options = {"analyzeduration": "100000", **json.loads(sys.argv[2])}
print("ready", flush=True)
with av.open(sys.argv[1], options=options, timeout=30) as container:
    for frame in container.decode(video=0):
        print(json.dumps({
            "key": bool(frame.key_frame), "type": "?IPB"[int(frame.pict_type)],
            "time": float(frame.time), "size": [frame.height, frame.width],
            "value": int(frame.to_ndarray(format="gray").mean()),
        }), flush=True)
"""


class Receiver:
    """A player in a process of its own."""

    def __init__(self, address: str, **options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", RECEIVE, address, json.dumps(options)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(),
        )  # fmt: skip
        assert self._process.stdout.readline() == "ready\n"
        self.frames: list[dict] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self.frames.append(json.loads(line))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    opened = []

    def open_one(address: str, **options: str) -> Receiver:
        opened.append(Receiver(address, **options))
        return opened[-1]

    yield open_one
    for receiver in opened:
        receiver.close()


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch):
    monkeypatch.setattr(publish, "_BACK_OFF", (0.2,))


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def frame(index: int, size: tuple[int, int] = (96, 128), timestamp: Fraction | None = None) -> Frame:
    image = np.full((*size, 3), 100, np.uint8)
    return Frame(image=image, index=index, captured_at=time.monotonic(), name="", timestamp=timestamp)


def film(
    sink: PublishSink,
    until: Callable[[], object],
    *,
    every: float = FRAME,
    within: float = 30,
    size: tuple[int, int] = (96, 128),
) -> int:
    """Be a camera until something is so; returns how many frames it took."""
    deadline = time.monotonic() + within
    index = 0
    while not until():
        assert time.monotonic() < deadline, "it never came to that"
        sink.write(frame(index, size))
        index += 1
        time.sleep(every)
    return index


def test_a_player_sees_what_is_sent_by_udp(receive):
    address = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    player = receive(address)

    with PublishSink(address) as sink:
        sink.start(CAMERA)
        film(sink, lambda: len(player.frames) > 40)

    assert {tuple(f["size"]) for f in player.frames} == {(96, 128)}
    assert all(abs(f["value"] - 100) < 4 for f in player.frames)


def test_a_server_gets_a_key_frame_each_second_and_no_frame_that_waits_for_a_later_one(receive):
    address = f"rtmp://127.0.0.1:{free_port()}/live/key"
    player = receive(address, listen="1")

    with PublishSink(address) as sink:
        sink.start(CAMERA)
        # Slower than the rate that was said: a second must be one of the clock.
        film(sink, lambda: len([f for f in player.frames if f["key"]]) >= 4, every=0.1)

    keys = [f["time"] for f in player.frames if f["key"]]
    assert np.diff(keys) == pytest.approx(1.0, abs=0.25)
    assert {f["type"] for f in player.frames} == {"I", "P"}


def test_what_arrives_is_as_far_apart_as_it_was_filmed(receive):
    address = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    player = receive(address)
    with PublishSink(address) as sink:
        sink.start(CAMERA)
        film(sink, lambda: player.frames)
        seen = len(player.frames)
        time.sleep(1.0)  # the camera gives nothing for a second
        film(sink, lambda: len(player.frames) > seen + 10)

    assert max(np.diff([f["time"] for f in player.frames])) == pytest.approx(1.0, abs=0.2)


def test_frames_of_another_size_are_fitted_into_the_first(receive):
    address = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    player = receive(address)
    with PublishSink(address) as sink:
        sink.start(CAMERA)
        film(sink, lambda: player.frames)
        film(sink, lambda: player.frames[-1]["value"] < 60, size=(64, 200))  # between black bars

    assert {tuple(f["size"]) for f in player.frames} == {(96, 128)}


@pytest.mark.fault(19)
def test_a_server_that_goes_away_is_found_again_and_stops_nobody(receive):
    address = f"rtmp://127.0.0.1:{free_port()}/live/key"
    first = receive(address, listen="1")
    controls, said = Controls(), []
    slowest = 0.0
    with PublishSink(address) as sink:
        sink.attach(lambda: None, controls)
        sink.start(CAMERA)
        film(sink, lambda: len(first.frames) > 10)
        first.close()

        def is_lost() -> bool:
            nonlocal slowest
            began = time.monotonic()
            sink.write(frame(0))
            slowest = max(slowest, time.monotonic() - began)
            said.append(controls.state().message)
            return "lost" in said[-1]

        film(sink, is_lost)
        second = receive(address, listen="1")
        film(sink, lambda: len(second.frames) > 10)

    name = address.removesuffix("/live/key")
    assert re.fullmatch(rf"{name}: lost \(.+\); trying again", said[-1])
    assert controls.state().message == f"{name}: connected again"
    assert re.fullmatch(rf"\d+ frames published to {name}, \d+ reconnects, \d+ left out", sink.summary())
    assert slowest < 0.5


def test_every_frame_is_published_or_counted(receive):
    address = f"rtmp://127.0.0.1:{free_port()}/live/key"
    player = receive(address, listen="1")
    with PublishSink(address) as sink:
        sink.start(CAMERA)
        count = film(sink, lambda: len(player.frames) > 10)

    published, _, rest = sink.summary().partition(" frames published")
    lost = re.search(r"(\d+) left out", rest)
    assert int(published) + int(lost[1] if lost else 0) == count


@pytest.mark.parametrize("scheme", ["rtmp", "rtsp"])
def test_a_server_that_is_not_there_ends_the_run_with_a_line_without_secrets(scheme):
    port = free_port()
    sink = PublishSink(f"{scheme}://admin:hunter2@127.0.0.1:{port}/live/streamkey")
    sink.start(CAMERA)

    with pytest.raises(SinkError) as error:
        film(sink, lambda: False)

    expected = f"{scheme}://127.0.0.1:{port}: cannot be published to (Connection refused); is the server running?"
    assert str(error.value) == expected
    sink.close()


def test_a_single_frame_that_cannot_be_sent_is_an_error_too():
    sink = PublishSink(f"rtmp://127.0.0.1:{free_port()}/live/key")
    sink.start(CAMERA)
    sink.write(frame(0))

    with pytest.raises(SinkError, match="Connection refused"):
        sink.close()


@pytest.mark.fault(19)
@pytest.mark.parametrize("scheme", ["rtmp", "rtsp"])
def test_a_server_that_accepts_and_says_nothing_holds_up_no_thread(monkeypatch, scheme):
    monkeypatch.setattr(publish, "_PATIENCE", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = PublishSink(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/live/key")
        sink.start(CAMERA)
        longest, last = 0.0, time.monotonic()
        with pytest.raises(SinkError, match=r"no answer within 2 s"):  # noqa: PT012  (the times between are the point)
            while True:
                sink.write(frame(0))
                time.sleep(0.02)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
        sink.close()

    assert longest < 0.5


def refuse_a_process(*arguments: object, **options: object) -> None:
    raise BlockingIOError(11, "Resource temporarily unavailable")


def test_a_machine_without_room_for_another_process_ends_the_run_with_a_line(monkeypatch):
    monkeypatch.setattr(publish.subprocess, "Popen", refuse_a_process)
    sink = PublishSink("udp://127.0.0.1:9")
    sink.start(CAMERA)

    with pytest.raises(SinkError) as error:
        film(sink, lambda: False)

    assert str(error.value) == "udp://127.0.0.1:9: cannot be published to (Resource temporarily unavailable)"
    sink.close()


def test_a_machine_that_has_no_room_for_a_while_costs_the_stream_no_more_than_that(receive, monkeypatch):
    address = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    player, controls = receive(address), Controls()
    with PublishSink(address) as sink:
        sink.attach(lambda: None, controls)
        sink.start(CAMERA)
        film(sink, lambda: player.frames)
        with monkeypatch.context() as patched:
            patched.setattr(publish.subprocess, "Popen", refuse_a_process)
            sink._connection.kill()
            film(sink, lambda: "Resource temporarily unavailable" in controls.state().message)
        film(sink, lambda: controls.state().message == f"{address}: connected again")

    assert re.fullmatch(rf"\d+ frames published to {address}, 1 reconnects, \d+ left out", sink.summary())


def test_files_of_a_user_with_the_names_of_modules_are_not_run(receive, tmp_path, monkeypatch):
    for name in ("av", "json"):
        (tmp_path / f"{name}.py").write_text("open('run', 'w').close()")
    monkeypatch.chdir(tmp_path)
    address = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    with PublishSink(address) as sink:
        sink.start(CAMERA)
        film(sink, lambda: sink._published > 3)

    assert not (tmp_path / "run").exists()


def beginning() -> bytes:
    """What the process that carries a stream is given first."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="nut", options=publish._NUT) as output:
        track = h264.add_stream(output, "libx264", (64, 64), Fraction(25), Fraction(1, 25), live=True)
        for index in range(50):
            picture = av.VideoFrame(64, 64, "yuv420p")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            output.mux(track.encode(picture))
        output.mux(track.encode(None))
    return stream.getvalue()


def test_what_is_carried_has_no_points_to_seek_to_that_both_ends_would_remember():
    syncpoint = bytes.fromhex("4e4be4adeeca4569")

    assert beginning().count(syncpoint) <= 1


@pytest.mark.parametrize("said", [b"", b'{"address": "rtmp'])
def test_the_process_that_carries_a_stream_ends_when_nobody_speaks_to_it(said):
    finished = subprocess.run(isolated_python(publish._RELAY), input=said, capture_output=True, timeout=30)

    assert (finished.returncode, finished.stdout) == (0, b"")


@pytest.mark.parametrize(("scheme", "container"), [("rtmp", "flv"), ("rtsp", "rtsp")])
def test_the_process_that_carries_a_stream_does_not_outlive_its_parent_for_long(scheme, container):
    code = "from i2i_runtime import relay; relay._ENDS_AFTER = 1.0; relay.main()"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/live/key"
        said = Target(address=address, format=container, options={}).to_line() + beginning()

        # Its standard input ends, as that of a parent that was killed does.
        finished = subprocess.run(isolated_python(code), input=said, capture_output=True, timeout=30)

    assert finished.returncode == 1
    assert b"Timeout" in finished.stderr


def test_closing_waits_no_longer_than_it_says(monkeypatch):
    monkeypatch.setattr(publish, "_FINISH_WITHIN", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = PublishSink(f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/key")
        sink.start(CAMERA)
        sink.write(frame(0))
        began = time.monotonic()
        with pytest.raises(SinkError):
            sink.close()

    assert time.monotonic() - began < 3


def test_a_file_that_is_played_arrives_as_far_apart_as_it_is_played(receive, tmp_path):
    address = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    player = receive(address)
    clip = write_video(tmp_path / "clip.mp4", moving_pictures(75))

    Pipeline(VideoSource(clip), lambda image: image, [PublishSink(address)], options=Options(keep_pace=True)).run()

    assert np.median(np.diff([f["time"] for f in player.frames])) == pytest.approx(FRAME, abs=0.01)


def test_frames_that_come_faster_than_they_play_hold_up_nobody_and_are_counted():
    sink = PublishSink(f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}")
    assert sink.keeps_pace
    sink.start(StreamInfo(name="file", is_live=False, fps=Fraction(25)))
    began = time.monotonic()
    with sink:
        for index in range(200):
            sink.write(frame(index, timestamp=Fraction(index, 25)))
        took = time.monotonic() - began

    published, lost = map(int, re.findall(r"(\d+) (?:frames published|left out)", sink.summary()))
    assert published + lost == 200
    assert took < 1


def test_a_frozen_picture_goes_on_arriving_in_time(receive):
    address = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    player = receive(address)
    with PublishSink(address) as sink:
        sink.start(CAMERA)
        film(sink, lambda: player.frames)
        frozen = frame(0)
        for _ in range(10):
            sink.write(frozen)
            time.sleep(0.1)
        seen = len(player.frames)
        film(sink, lambda: len(player.frames) > seen + 10)

    assert max(np.diff([f["time"] for f in player.frames])) < 0.5


@pytest.mark.parametrize(
    "address",
    ["rtmp://", "udp://127.0.0.1", "srt://host", "rtsp://admin:hunter2@host:port/x", "rtsp://admin:[hunter2@host/x"],
)  # fmt: skip
def test_an_address_that_makes_no_sense_is_told_at_once(address):
    with pytest.raises(SinkError, match=r"expected \w+://HOST:PORT") as error:
        PublishSink(address)

    assert "hunter2" not in str(error.value)


class RtspServer:
    """Takes one RTSP publisher over TCP and keeps the H.264 that it is sent."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"rtsp://127.0.0.1:{self._server.getsockname()[1]}/live"
        self.requests: list[str] = []
        self.stream = bytearray()
        """Annex B."""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        # FFmpeg closes without reading the last reply.
        with connection, suppress(ConnectionError), connection.makefile("rwb") as wire:
            while byte := wire.read(1):
                if byte == b"$":
                    channel, length = wire.read(1), int.from_bytes(wire.read(2), "big")
                    packet = wire.read(length)
                    if channel == b"\0":
                        self._unpack(packet[12:])
                else:
                    self._answer(wire, byte + wire.readline())

    def _answer(self, wire, first: bytes) -> None:
        headers = {}
        while line := wire.readline().strip().decode():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = wire.read(int(headers.get("content-length", 0))).decode()
        self.requests.append(first.split()[0].decode())
        for sets in re.findall(r"sprop-parameter-sets=([\w+/=]+),([\w+/=]+)", body):
            for each in sets:
                self.stream += b"\0\0\0\1" + b64decode(each)
        extra = f"Transport: {headers['transport']}\r\n" if "transport" in headers else ""
        reply = f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\nSession: 1\r\n{extra}Public: ANNOUNCE, RECORD\r\n\r\n"
        wire.write(reply.encode())
        wire.flush()

    def _unpack(self, payload: bytes) -> None:
        """RFC 6184: single NAL units, STAP-A and FU-A."""
        kind = payload[0] & 31
        if kind == 24:
            at = 1
            while at < len(payload):
                length = int.from_bytes(payload[at : at + 2], "big")
                self.stream += b"\0\0\0\1" + payload[at + 2 : at + 2 + length]
                at += 2 + length
        elif kind == 28:
            if payload[1] & 0x80:
                self.stream += b"\0\0\0\1" + bytes([payload[0] & 0xE0 | payload[1] & 31])
            self.stream += payload[2:]
        else:
            self.stream += b"\0\0\0\1" + payload

    def close(self) -> None:
        self._thread.join(10)
        self._server.close()


def test_an_rtsp_server_is_announced_to_and_recorded_by():
    server = RtspServer()
    with PublishSink(server.address) as sink:
        sink.start(CAMERA)
        film(sink, lambda: "RECORD" in server.requests)
        some = iter(range(30))
        film(sink, lambda: next(some, None) is None)
    server.close()

    decoder = av.CodecContext.create("h264", "r")
    pictures = [
        p for packet in [*decoder.parse(bytes(server.stream)), *decoder.parse()] for p in decoder.decode(packet)
    ]
    pictures += decoder.decode(None)
    assert server.requests[:4] == ["OPTIONS", "ANNOUNCE", "SETUP", "RECORD"]
    assert sink.summary().startswith(f"{len(pictures)} frames published")
    assert abs(int(pictures[-1].to_ndarray(format="gray").mean()) - 100) < 4
