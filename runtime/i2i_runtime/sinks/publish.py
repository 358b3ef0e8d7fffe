"""The stream published to a media server or a player: RTMP, RTSP, SRT or UDP."""

from __future__ import annotations

import random
import re
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from typing import Any
from urllib.parse import urlsplit

import av

from i2i_runtime.channel import Channel
from i2i_runtime.controls import Controls
from i2i_runtime.errors import SinkError, system_reason
from i2i_runtime.frame import Frame
from i2i_runtime.h264 import add_stream, check_encoder, choose_encoder, even, to_picture
from i2i_runtime.isolated import isolated_python
from i2i_runtime.letterbox import letterbox
from i2i_runtime.redaction import redact
from i2i_runtime.relay import CONNECTED, LOST, Target
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sources.base import StreamInfo
from i2i_runtime.stats import Status

_FORMATS = {"rtmp": "flv", "rtmps": "flv", "rtsp": "rtsp", "srt": "mpegts", "udp": "mpegts"}
SCHEMES = frozenset(_FORMATS)
_TIME_BASE = Fraction(1, 90_000)
_FALLBACK_RATE = Fraction(30)
_RELAY = "from i2i_runtime.relay import main; main()"
_NUT = {"flush_packets": "1", "syncpoints": "none", "strict": "experimental"}
"""Both ends remember each syncpoint, for seeking, as long as the stream lasts: 20 MB an hour."""
_KEY_FRAME_EACH = 1.0
"""Seconds: so long a player that joins waits for its first picture."""
_PATIENCE = 10.0
"""Seconds that a server may take to answer, or to take a frame."""
_BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0)
"""Seconds before each attempt to reach a lost server again, a fifth more or less."""
_FINISH_WITHIN = 3.0
"""Seconds that the last frames are given to leave."""


class PublishSink(Sink):
    """Sends H.264 to a server, without ever holding up the run: what the server is too slow for is left out.

    A server that is lost is looked for again until the run ends; one that was never reached ends the run.
    """

    queue_length = 2
    is_watched = True
    keeps_pace = True

    def __init__(self, address: str, *, encoder: str = "auto") -> None:
        """Check the address; nothing is sent before the first frame.

        Args:
            address: `rtmp://host/app/key`, `rtsp://host/path`, `srt://host:port` or `udp://host:port`.
            encoder: one of `h264.ENCODERS`.

        Raises:
            SinkError: an address without a host.
            UsageError, DeviceError: there is no such encoder, here.
        """
        self._target = _target(address)
        self.name = _without_secrets(address)
        """The address as far as it may be shown: the path of an RTMP address is often a secret."""
        check_encoder(encoder)
        self._encoder = encoder
        self._controls: Controls | None = None
        self._rate = _FALLBACK_RATE
        self._inbox = Channel[Frame](2, newest_wins=True)
        self._closing = threading.Event()
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._connection: _Connection | None = None
        self._failure: SinkError | None = None
        self._published = self._lost = self._reconnects = 0

    def attach(self, status: Callable[[], Status], controls: Controls) -> None:
        """See `Sink`: a lost server is told of as the message of the controls."""
        self._controls = controls

    def start(self, *infos: StreamInfo) -> None:
        """See `Sink`."""
        self._rate = max((info.fps for info in infos if info.fps), default=_FALLBACK_RATE)
        self._worker.start()

    def write(self, frame: Frame) -> None:
        """See `Sink`."""
        self.idle()
        self._lost += self._inbox.put(frame)

    def idle(self) -> None:
        """See `Sink`: a server that was never reached is told of, and one that takes nothing any more is given up.

        Raises:
            SinkError: the server was never reached.
        """
        self._raise_failure()
        connection = self._connection
        if connection and connection.is_stuck():
            connection.kill()

    def close(self) -> None:
        """See `Closing`.

        Raises:
            SinkError: the server was never reached.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        self._inbox.close()
        if self._worker.is_alive():
            self._worker.join(_FINISH_WITHIN)
        while self._worker.is_alive():
            if self._connection:
                self._connection.kill()
            self._worker.join(0.1)
        self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    def summary(self) -> str:
        """See `Sink`."""
        line = f"{self._published} frames published to {self.name}"
        if self._reconnects:
            line += f", {self._reconnects} reconnects"
        return f"{line}, {self._lost} left out" if self._lost else line

    def _work(self) -> None:
        attempts = 0
        was_connected = False
        while (frame := self._inbox.get()) is not None:
            try:
                self._connection = _Connection(self._target, self._encoder)
                self._connection.open(frame, self._rate)
                self._connection.wait()
                if was_connected:
                    self._reconnects += 1
                    self._say(f"{self.name}: connected again")
                was_connected, attempts = True, 0
                self._published += 1
                self._send(self._connection)
                return
            except Exception as error:
                # Whatever it is, no memory for a process say, it may pass, and nobody else would tell of it.
                self._lost += 1
                if not was_connected:
                    advice = "; is the server running?" if isinstance(error, _ConnectionLostError) else ""
                    self._failure = SinkError(f"{self.name}: cannot be published to ({system_reason(error)}){advice}")
                    self._lost += self._inbox.close(discard=True)
                    return
                self._say(f"{self.name}: lost ({system_reason(error)}); trying again")
                pause = _BACK_OFF[min(attempts, len(_BACK_OFF) - 1)]
                attempts += 1
                self._closing.wait(pause * random.uniform(0.8, 1.2))  # noqa: S311  (so that not all come back at once)
            finally:
                connection, self._connection = self._connection, None
                if connection:
                    connection.close()
        self._lost += self._inbox.close(discard=True)

    def _send(self, connection: _Connection) -> None:
        while (frame := self._inbox.get()) is not None:
            connection.send(frame)
            self._published += 1
        connection.finish()

    def _say(self, message: str) -> None:
        if self._controls:
            self._controls.update(message=message)


class _ConnectionLostError(Exception):
    """The server cannot be reached, or is lost; the message says why."""


class _Connection:
    """An encoder and the process that carries its stream to the server."""

    def __init__(self, target: Target, encoder: str) -> None:
        """Start the process.

        Raises:
            OSError: there is no room for one.
        """
        self._target = target
        self._encoder = encoder
        self._size = 0, 0
        self._begins = self._lag = 0.0
        self._filmed = float("-inf")
        self._next_pts = 0
        self._key_frame_at = -1
        self._reason = "connection closed"
        self._busy_since: float | None = None
        self._is_closed = False
        self._output: Any = None
        self._answered = threading.Event()
        self._is_connected = False
        # In a group of its own, so that Ctrl-C in a terminal leaves it to us to end it.
        self._process = subprocess.Popen(  # noqa: S603
            isolated_python(_RELAY),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def open(self, first: Frame, rate: Fraction) -> None:
        """Begin to connect, and send the first frame.

        Raises:
            _ConnectionLostError: not even that was possible.
        """
        self._listener.start()
        self._size = first.image.shape[0], first.image.shape[1]
        self._begins = first.captured_at
        try:
            self.write(self._target.to_line())
            self._output = av.open(self, "w", format="nut", options=_NUT)
            name = choose_encoder(self._encoder, self._size, live=True)
            self._stream = add_stream(self._output, name, even(self._size), rate, _TIME_BASE, live=True)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise _ConnectionLostError(system_reason(error)) from error
        self.send(first)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = line.decode(errors="replace").strip()
            if said == CONNECTED:
                self._is_connected = True
                self._answered.set()
            elif said.startswith(LOST):
                self._reason = redact(said[len(LOST) :]).replace("Protocol not found", "this PyAV is built without it")
        self._answered.set()

    def wait(self) -> None:
        """Wait until the server has answered.

        Raises:
            _ConnectionLostError: it has not, or has refused.
        """
        if not self._answered.wait(_PATIENCE):
            raise _ConnectionLostError(f"no answer within {_PATIENCE:.0f} s")
        if not self._is_connected:
            raise _ConnectionLostError(self._reason)

    def send(self, frame: Frame) -> None:
        """Encode a frame and pass it on.

        Raises:
            _ConnectionLostError: the server is gone.
        """
        picture = to_picture(letterbox(frame.image, self._size), self._stream.pix_fmt)
        pts = max(self._next_pts, round((self._moment(frame) - self._begins) / float(_TIME_BASE)))
        picture.pts, picture.time_base = pts, _TIME_BASE
        self._next_pts = pts + 1
        if self._key_frame_at < 0 or pts - self._key_frame_at >= _KEY_FRAME_EACH / float(_TIME_BASE):
            # By the clock: a model that is slower than the camera sends fewer frames in a second.
            picture.pict_type = av.video.frame.PictureType.I
            self._key_frame_at = pts
        self._mux(picture)

    def _mux(self, picture: av.VideoFrame | None) -> None:
        try:
            self._output.mux(self._stream.encode(picture))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._listener.join(1.0)
            is_pipe = isinstance(error, BrokenPipeError) or self._process.poll() is not None
            raise _ConnectionLostError(self._reason if is_pipe else system_reason(error)) from error

    def _moment(self, frame: Frame) -> float:
        """Seconds of the clock at which it was filmed; of one that is shown again, as while frozen, so much later."""
        now = time.monotonic()
        if frame.captured_at > self._filmed:
            self._filmed, self._lag = frame.captured_at, now - frame.captured_at
        return now - self._lag

    def write(self, data: bytes) -> int:
        """Called by PyAV with what the process shall carry."""
        if self._is_closed:
            return len(data)  # PyAV ends the stream whether or not anybody listens
        assert self._process.stdin is not None
        self._busy_since = time.monotonic()
        self._process.stdin.write(data)
        self._process.stdin.flush()
        self._busy_since = None
        return len(data)

    def is_stuck(self) -> bool:
        """Whether the server has taken nothing for too long, though there was something."""
        busy_since = self._busy_since
        return busy_since is not None and time.monotonic() - busy_since > _PATIENCE

    def finish(self) -> None:
        """Send what the encoder still holds, and say goodbye to the server.

        Raises:
            _ConnectionLostError: the server is gone.
        """
        self._mux(None)
        self._output.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def kill(self) -> None:
        """End the process, and with it whatever waits for it; from any thread."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process and release what belongs to it."""
        self.kill()
        self._is_closed = True
        if self._output is not None:
            with suppress(av.error.FFmpegError, OSError):
                self._output.close()
        if self._listener.ident is not None:  # it was started
            self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what could not be written will not be written now
                pipe.close()


def _target(address: str) -> Target:
    scheme = address.partition(":")[0].lower()
    try:
        parts = urlsplit(address)
        is_good = bool(parts.hostname) and (parts.port is not None or scheme not in ("srt", "udp"))
    except ValueError:
        is_good = False
    if not is_good:
        raise SinkError(
            f"{_without_secrets(address)}: expected {scheme}://HOST:PORT/..., with @ : / ? # in a password written "
            "as %40 %3A %2F %3F %23"
        )
    options = {"rtsp_transport": "tcp"} if scheme == "rtsp" else {}
    if scheme == "udp" and "pkt_size" not in parts.query:
        # Seven whole packets of MPEG-TS: receivers expect none to be cut.
        address += f"{'&' if parts.query else '?'}pkt_size=1316"
    return Target(address=address, format=_FORMATS[scheme], options=options)


def _without_secrets(address: str) -> str:
    """Scheme, host and port."""
    return re.sub(r"^(\w+://)(?:\*\*\*@)?([^/?#]*).*$", r"\1\2", redact(address))
