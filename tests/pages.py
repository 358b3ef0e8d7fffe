"""A live page over a real pipeline, and raw requests to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from i2i_runtime.pipeline import Options, Pipeline
from i2i_runtime.sinks.page import PageSink
from i2i_runtime.sources.base import Source
from i2i_runtime.sources.pattern import PatternSource

SIZE = (240, 320)


def negative(image: np.ndarray) -> np.ndarray:
    """A translator whose result is easily told from its input."""
    return 255 - image


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page that is being served."""

    sink: PageSink
    pipeline: Pipeline

    @property
    def port(self) -> int:
        return int(self.sink.address.rstrip("/").rpartition(":")[2])

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, *, host: str | None = None, **headers: str
    ) -> Answer:
        """A request of its own connection, with exactly these headers; `_` in a name stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", host or f"127.0.0.1:{self.port}")
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=received, body=response.read())
        finally:
            connection.close()

    def do(self, action: object, value: object = None, **headers: str) -> Answer:
        """Press a button."""
        body = json.dumps({"action": action, "value": value}).encode()
        return self.ask("/control", "POST", body, **{"Content_Type": "application/json", **headers})

    def report(self) -> dict:
        return self.ask("/status.json").json()

    def connect(self, path: str, receive_buffer: int | None = None) -> socket.socket:
        """A connection that has asked for `path` and read nothing yet."""
        connected = socket.socket()
        connected.settimeout(15)
        if receive_buffer:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connected.connect(("127.0.0.1", self.port))
        connected.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return connected

    def messages(self) -> Iterator[tuple[str, bytes]]:
        """What the page's own script reads: kinds and contents, until the server ends it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/live")
            response = connection.getresponse()
            assert response.status == 200
            while len(head := response.read(5)) == 5:
                yield chr(head[0]), response.read(int.from_bytes(head[1:], "big"))
        finally:
            connection.close()


@contextmanager
def served(
    captures: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    fps: float = 30,
    size: tuple[int, int] = SIZE,
    source: Source | None = None,
    translate: Callable[[np.ndarray], np.ndarray] = negative,
    **how,
) -> Iterator[Page]:
    """The test pattern, or another source, and its negative on a page; `how` goes to `PageSink`."""
    sink = PageSink(host, port, **how)
    pipeline = Pipeline(source or PatternSource(size, fps), translate, [sink], options=Options(captures=captures))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            pipeline.run()
        except BaseException as error:
            failures.append(error)

    running = threading.Thread(target=run)
    running.start()
    try:
        until(lambda: failures or pipeline.status().results > 0)
        yield Page(sink=sink, pipeline=pipeline)
    finally:
        pipeline.stop()
        running.join(15)
        assert not running.is_alive()
        sink.close()
    assert failures == []


def until(holds: Callable[[], object], seconds: float = 15) -> None:
    """Wait for something that another thread or process does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"still not so after {seconds} s"
        time.sleep(0.02)
