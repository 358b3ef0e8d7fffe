"""Cameras that misbehave when told to: RTSP (H.264) and MJPEG over HTTP on free ports of this machine, and a webcam.

Those on the network encode a loop of pictures once, so that a soak of hours costs little, and each picture carries its
number.
"""

from __future__ import annotations

import contextlib
import functools
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from enum import Enum
from fractions import Fraction

import av
import cv2
import numpy as np

BITS = 12
_MTU = 1400


class Mode(str, Enum):
    """What a camera does; `camera.mode = Mode.STALL` changes it while it runs."""

    OK = "ok"
    STALL = "stall"
    """The socket stays open, nothing more comes."""
    SILENT = "silent"
    """Accepts a connection and says nothing."""
    UNAUTHORIZED = "401"
    NOT_FOUND = "404"


def draw(number: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A picture with its number (modulo 4096) in a row of black and white fields, (h, w, 3) uint8 BGR."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 2 + 3 * number, y * 2, 255 - x - y + number], axis=-1).astype(np.uint8)
    edges = np.linspace(0, width, BITS + 1).astype(int)
    for bit in range(BITS):
        image[: height // 4, edges[bit] : edges[bit + 1]] = 255 * (number >> bit & 1)
    return image


def read_number(image: np.ndarray) -> int:
    """The number that `draw` put into a picture, after any codec and at any size."""
    height, width = image.shape[:2]
    middles = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    return int(sum(1 << bit for bit, x in enumerate(middles) if image[height // 8, x].mean() > 128))


@functools.lru_cache(maxsize=8)
def encoded(size: tuple[int, int], fps: int, count: int) -> tuple[tuple[bytes, ...], ...]:
    """`count` pictures as H.264, each as its NAL units; a key frame every second, without B-frames."""
    codec = av.CodecContext.create("libx264", "w")
    codec.height, codec.width = size
    codec.pix_fmt, codec.time_base, codec.framerate = "yuv420p", Fraction(1, fps), Fraction(fps)
    codec.options = {
        "preset": "ultrafast", "tune": "zerolatency", "crf": "20", "threads": "1",
        "x264-params": f"keyint={fps}:min-keyint={fps}:scenecut=0:repeat-headers=1:annexb=1:sliced-threads=0",
    }  # fmt: skip
    packets = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(draw(number, size), format="bgr24")
        frame.pts = number
        packets += codec.encode(frame)
    packets += codec.encode(None)
    return tuple(tuple(_nal_units(bytes(packet))) for packet in packets)


def _nal_units(stream: bytes) -> Iterator[bytes]:
    yield from stream.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]


class _Server:
    """Accepts connections on a free port and serves each on a thread of its own; `with` ends them all."""

    def __init__(self, *, size: tuple[int, int], fps: int, mode: Mode, drop_after: int | None, corrupt: float) -> None:
        self.size = size
        self.fps = fps
        self.mode = mode
        self.drop_after = drop_after
        """Close each connection after so many frames."""
        self.corrupt = corrupt
        """Share of the frames whose data is garbled."""
        self.corrupt_next = 0
        """So many frames that come next are garbled too."""
        self.connections = 0
        """Connections that asked for pictures."""
        self.requests = 0
        """TCP connections of any kind."""
        self.sent = 0
        self.corrupted = 0
        self.drops = 0
        self._drop_now = threading.Event()
        self._ended = threading.Event()
        self._random = random.Random(1)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.port = 0

    def __enter__(self):
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.unplug()
        for thread in self._threads:
            thread.join(5)

    def unplug(self) -> None:
        """Close everything: the port refuses from now on."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def plug_in(self) -> None:
        """Listen on the same port again."""
        self._listen()

    def drop(self) -> None:
        """Close the connections that get pictures now."""
        self._drop_now.set()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    def _start(self, work, *arguments) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.requests += 1
            self._start(self._serve_guarded, connection)

    def _serve_guarded(self, connection: socket.socket) -> None:
        self._open.add(connection)
        try:
            with connection, contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._serve(connection)
        finally:
            self._open.discard(connection)

    def _serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def _paced(self, fps: int) -> Iterator[int]:
        """Numbers of frames to send now, until the connection is to be dropped."""
        self._drop_now.clear()
        self.connections += 1
        due = time.monotonic()
        number = 0
        while not self._ended.is_set():
            if self._drop_now.is_set() or (self.drop_after is not None and number >= self.drop_after):
                self._drop_now.clear()
                self.drops += 1
                return
            if self.mode is Mode.STALL:
                self._ended.wait(0.01)
                due = time.monotonic()
                continue
            yield number
            self.sent += 1
            number += 1
            due += 1 / fps
            self._ended.wait(max(0.0, due - time.monotonic()))

    def _is_to_corrupt(self) -> bool:
        garble = self.corrupt_next > 0 or self._random.random() < self.corrupt
        self.corrupt_next -= self.corrupt_next > 0
        self.corrupted += garble
        return garble

    def _garbled(self, data: bytes, keep: int) -> bytes:
        """The same length, with rubbish after the first bytes."""
        return data[:keep] + self._random.randbytes(max(0, len(data) - keep))


class FakeRtspCamera(_Server):
    """An RTSP camera: H.264 as RTP (RFC 6184) inside the RTSP connection.

    >>> with FakeRtspCamera() as camera:
    ...     camera.url.startswith("rtsp://127.0.0.1:")
    True
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] = (96, 128),
        fps: int = 30,
        mode: Mode = Mode.OK,
        drop_after: int | None = None,
        corrupt: float = 0.0,
        loop_s: int = 10,
    ) -> None:
        """`size` (h, w) may be changed while it runs: the next connection gets it."""
        super().__init__(size=size, fps=fps, mode=mode, drop_after=drop_after, corrupt=corrupt)
        self._loop_s = loop_s
        encoded(size, fps, fps * loop_s)

    @property
    def url(self) -> str:
        return self.url_with("")

    def url_with(self, credentials: str) -> str:
        return f"rtsp://{credentials}{'@' if credentials else ''}127.0.0.1:{self.port}/live"

    def _serve(self, connection: socket.socket) -> None:
        requests = connection.makefile("rb")
        frames = encoded(self.size, self.fps, self.fps * self._loop_s)
        while (request := self._request(requests)) is not None:
            method, number = request
            if self.mode is Mode.SILENT:
                self._ended.wait()
                return
            refusal = {Mode.UNAUTHORIZED: "401 Unauthorized", Mode.NOT_FOUND: "404 Not Found"}.get(self.mode)
            lines, body = [], ""
            if method == "DESCRIBE" and refusal is None:
                body = (
                    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=fake\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
                    f"a=framerate:{self.fps}\r\na=control:track1\r\n"
                )
                lines = ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
            elif method == "SETUP":
                lines = ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
            elif method == "OPTIONS":
                lines, refusal = ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"], None
            elif refusal and self.mode is Mode.UNAUTHORIZED:
                lines = ['WWW-Authenticate: Basic realm="fake"']
            head = "\r\n".join([f"RTSP/1.0 {refusal or '200 OK'}", f"CSeq: {number}", *lines])
            connection.sendall(f"{head}\r\n\r\n{body}".encode())
            if method == "PLAY":
                self._play(connection, frames)
                return

    @staticmethod
    def _request(requests) -> tuple[str, str] | None:
        first = requests.readline()
        if not first:
            return None
        number = "0"
        while (line := requests.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"cseq:"):
                number = line.split(b":")[1].strip().decode()
        return first.split()[0].decode(), number

    def _play(self, connection: socket.socket, frames: tuple[tuple[bytes, ...], ...]) -> None:
        sequence, fps = 0, self.fps
        for number in self._paced(fps):
            units = frames[number % len(frames)]
            if self._is_to_corrupt():
                units = (*units[:-1], self._garbled(units[-1], keep=8))
            payloads = [part for unit in units for part in self._fragments(unit)]
            stream = b""
            for position, payload in enumerate(payloads):
                marker = 0x80 if position == len(payloads) - 1 else 0
                clock = number * 90000 // fps & 0xFFFFFFFF
                packet = struct.pack(">BBHII", 0x80, 96 | marker, sequence & 0xFFFF, clock, 1) + payload
                stream += struct.pack(">cBH", b"$", 0, len(packet)) + packet
                sequence += 1
            connection.sendall(stream)

    @staticmethod
    def _fragments(unit: bytes) -> Iterator[bytes]:
        if len(unit) <= _MTU:
            yield unit
            return
        kind, body = unit[0], unit[1:]
        for at in range(0, len(body), _MTU):
            flags = (0x80 if at == 0 else 0) | (0x40 if at + _MTU >= len(body) else 0)
            yield bytes([kind & 0xE0 | 28, flags | kind & 0x1F]) + body[at : at + _MTU]


class FakeMjpegCamera(_Server):
    """A camera that pushes JPEG pictures over HTTP (multipart/x-mixed-replace)."""

    def __init__(
        self,
        *,
        size: tuple[int, int] = (96, 128),
        fps: int = 25,
        mode: Mode = Mode.OK,
        drop_after: int | None = None,
        corrupt: float = 0.0,
    ) -> None:
        """`size` (h, w) may be changed while it runs: the next picture has it."""
        super().__init__(size=size, fps=fps, mode=mode, drop_after=drop_after, corrupt=corrupt)
        self.truncate = False
        """Whether a corrupt part is cut in half, instead of being rubbish."""

    @property
    def url(self) -> str:
        return self.url_with("")

    def url_with(self, credentials: str) -> str:
        return f"http://{credentials}{'@' if credentials else ''}127.0.0.1:{self.port}/video"

    def _serve(self, connection: socket.socket) -> None:
        requests = connection.makefile("rb")
        while requests.readline() not in (b"\r\n", b""):
            pass
        if self.mode is Mode.SILENT:
            self._ended.wait()
            return
        refusal = {Mode.UNAUTHORIZED: "401 Unauthorized", Mode.NOT_FOUND: "404 Not Found"}.get(self.mode)
        if refusal:
            connection.sendall(f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
        )
        for number in self._paced(self.fps):
            jpeg = _jpeg(self.size, number % 250)
            if self._is_to_corrupt():
                jpeg = jpeg[: len(jpeg) // 2] if self.truncate else self._garbled(jpeg, keep=2)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            connection.sendall(head.encode() + jpeg + b"\r\n")


@functools.lru_cache(maxsize=1024)
def _jpeg(size: tuple[int, int], number: int) -> bytes:
    return cv2.imencode(".jpg", draw(number, size))[1].tobytes()


class FakeCapture:
    """As `cv2.VideoCapture` of a webcam, with a plug; the class itself is the device, each object a connection to it.

    `reset` puts everything back.
    """

    fps: float
    here: bool
    """Plugged in."""
    behaviour: str
    """ok: noise; still: one picture for ever, with frames; false: no frames."""
    opened: int
    sizes: tuple[tuple[int, int], ...]
    """(height, width) that it can give; the first one by itself, and where it is asked for another."""
    fourcc: str

    @classmethod
    def reset(cls) -> None:
        cls.fps, cls.here, cls.behaviour, cls.opened = 30.0, True, "ok", 0
        cls.sizes, cls.fourcc = ((48, 64),), "YUYV"

    def __init__(self, camera: object) -> None:
        self._is_open = FakeCapture.here
        FakeCapture.opened += self._is_open
        self._random = np.random.default_rng(FakeCapture.opened)
        self._asked = [*FakeCapture.sizes[0]]
        self._last = np.zeros((*FakeCapture.sizes[0], 3), np.uint8)

    @property
    def _size(self) -> tuple[int, int]:
        asked = (self._asked[0], self._asked[1])
        return asked if asked in FakeCapture.sizes else FakeCapture.sizes[0]

    def isOpened(self) -> bool:  # noqa: N802
        return self._is_open

    def set(self, what: int, value: float) -> bool:
        if what == cv2.CAP_PROP_FRAME_HEIGHT:
            self._asked[0] = int(value)
        elif what == cv2.CAP_PROP_FRAME_WIDTH:
            self._asked[1] = int(value)
        elif what == cv2.CAP_PROP_FOURCC:
            FakeCapture.fourcc = int(value).to_bytes(4, "little").decode()
        elif what == cv2.CAP_PROP_FPS:
            FakeCapture.fps = min(value, 30.0)
        return True

    def get(self, what: int) -> float:
        height, width = self._size
        return {cv2.CAP_PROP_FRAME_HEIGHT: height, cv2.CAP_PROP_FRAME_WIDTH: width}.get(what, FakeCapture.fps)

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.01)
        if FakeCapture.behaviour == "false":
            return False, None
        if FakeCapture.behaviour == "ok":
            self._last = self._random.integers(0, 255, (*self._size, 3), np.uint8)
        return True, self._last

    def release(self) -> None:
        self._is_open = False
