"""A process of its own that carries a stream from its standard input to a server.

FFmpeg's connecting and shaking hands cannot be interrupted, and PyAV holds Python's lock meanwhile: a server that
accepts and then says nothing would stop every thread. A process can be left to wait, and killed.

Standard input: a line with a `Target` as JSON (not an argument, where everybody could read its password), then the
stream in NUT. Standard output: `connected`, later perhaps `lost REASON`.
"""

from __future__ import annotations

import faulthandler
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any

import av

from i2i_runtime.errors import system_reason

CONNECTED, LOST = "connected", "lost "
_ENDS_AFTER = 15.0
"""Seconds that a server may hold this process up. Its parent has less patience: this is for a parent that was killed
meanwhile, which a process that waits for the server would never learn."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a stream goes."""

    address: str
    format: str
    """FFmpeg's name of the container or protocol: `flv`, `rtsp`, `mpegts`."""
    options: dict[str, str]
    """Of that format."""

    def to_line(self) -> bytes:
        """As one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"


def relay(stream: IO[bytes]) -> None:
    """Carry one video track until `stream` ends.

    Raises:
        FFmpegError: the server cannot be reached, or is lost.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        return  # nobody is there any more
    target = Target(**json.loads(line))
    # What is known from the head is enough: looking at more of the stream first would only make it late.
    at_once = {"probesize": "32", "analyzeduration": "0"}
    source: Any
    with av.open(stream, format="nut", options=at_once) as source:
        with _limited():
            output = av.open(target.address, "w", format=target.format, options=target.options)
        try:
            with _limited():
                track = output.add_stream_from_template(source.streams.video[0])
                output.start_encoding()
            print(CONNECTED, flush=True)  # noqa: T201  (said to the parent process)
            for packet in source.demux(video=0):
                if packet.size:  # the last one is empty
                    # The same where no frame waits for a later one; of the first one only the reader does not know it.
                    packet.dts = packet.pts
                    packet.stream = track
                    with _limited():
                        output.mux(packet)
        finally:
            with _limited():
                output.close()


@contextmanager
def _limited() -> Iterator[None]:
    """End this process if what is inside takes too long: by a thread that needs no lock of Python's."""
    faulthandler.dump_traceback_later(_ENDS_AFTER, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def main() -> None:
    """Relay, and tell the parent process why it ended."""
    try:
        # Unbuffered: a buffer would wait until it is full.
        with open(0, "rb", buffering=0, closefd=False) as stream:
            relay(stream)
    except (av.error.FFmpegError, OSError) as error:
        print(f"{LOST}{system_reason(error)}", flush=True)  # noqa: T201  (said to the parent process)
        sys.exit(1)
