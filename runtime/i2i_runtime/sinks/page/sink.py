"""The sink behind the page: a server in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from i2i_runtime.controls import Controls
from i2i_runtime.errors import SinkError, UsageError, reason, system_reason
from i2i_runtime.frame import Frame
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sinks.page.guard import Guard
from i2i_runtime.sources.base import StreamInfo
from i2i_runtime.stats import Stats, Status

if TYPE_CHECKING:
    from i2i_runtime.sinks.page.server import PageServer

_ENDS_WITHIN = 5.0
"""Seconds that the server is given to say good-bye."""


class PageSink(Sink):
    """Shows the newest frame to whoever opens `url`, and lets them use the controls.

    >>> with PageSink("127.0.0.1", 0) as page:  # doctest: +SKIP
    ...     print(page.url)
    http://127.0.0.1:41513/
    """

    queue_length = 1
    is_watched = True

    def __init__(
        self,
        host: str,
        port: int,
        token: str | None = None,
        *,
        names: Iterable[str] = (),
        longest: int = 1280,
        most_clients: int = 64,
    ) -> None:
        """Take the port; nothing is answered before `start`.

        Args:
            host: address to listen on; `0.0.0.0` for all of this machine.
            port: 0 for any that is free.
            token: what a visitor must know; made here for an address that others can reach, by itself or by a further
                name.
            names: further host names that the page answers to.
            longest: the longest side of a picture on its way to viewers, in pixels.
            most_clients: how many may look at once.

        Raises:
            UsageError: aiohttp is missing, or a token that is none.
            SinkError: the address cannot be listened on.
        """
        try:
            import i2i_runtime.sinks.page.server  # noqa: F401  (before the port is taken)
        except ImportError as error:
            raise UsageError(f"the page needs aiohttp ({reason(error)}); pip install 'i2i[preview]'") from error
        self._guard = Guard(host, token, names)
        self._socket = _listen(host, port)
        self._host, self._port = host, int(self._socket.getsockname()[1])
        self._longest = longest
        self._most_clients = most_clients
        stats = Stats()
        self._status: Callable[[], Status] = stats.status
        self._controls = Controls()
        self._server: PageServer | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._frames = 0

    @property
    def address(self) -> str:
        """Where the page is, without the token."""
        host = _reachable(self._host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/"

    @property
    def url(self) -> str:
        """Where the page is, with the token if it has one: to be shown once, to who started the run."""
        return self.address + (f"?token={self._guard.token}" if self._guard.token else "")

    @property
    def made_token(self) -> bool:
        """Whether the token was made here, so that nobody knows it who is not told."""
        return self._guard.made_token

    def announcement(self) -> str:
        """See `Sink`: where the page is."""
        # A token that somebody chose is known to them, and this line may end in a log.
        return f"live page: {self.url if self.made_token else self.address}"

    def attach(self, status: Callable[[], Status], controls: Controls) -> None:
        """See `Sink`."""
        self._status, self._controls = status, controls

    def start(self, *infos: StreamInfo) -> None:
        """See `Sink`."""
        is_up = threading.Event()
        name = ", ".join(info.name for info in infos)
        self._thread = threading.Thread(target=self._serve, args=(name, is_up), name="i2i page", daemon=True)
        self._thread.start()
        is_up.wait()
        self._raise_failure()

    def write(self, frame: Frame) -> None:
        """See `Sink`."""
        self._raise_failure()
        self._frames += frame.after is not None  # a result, and no placeholder
        if self._server is not None:
            self._server.publish(frame)

    def close(self) -> None:
        """See `Closing`."""
        if self._server is not None:
            self._server.stop()
        if self._thread is not None:
            self._thread.join(_ENDS_WITHIN)
        self._socket.close()

    def summary(self) -> str:
        """See `Sink`."""
        most = 0 if self._server is None else self._server.most_viewers
        return f"{self._frames} frames at {self.address}, at most {most} viewer{'s' * (most != 1)} at once"

    def _serve(self, name: str, is_up: threading.Event) -> None:
        from i2i_runtime.sinks.page.server import PageServer, Run

        async def serve() -> None:
            run = Run(name=name, status=self._status, controls=self._controls)
            self._server = PageServer(run, self._guard, self._port, self._longest, self._most_clients)
            await self._server.serve(self._socket, is_up.set)

        try:
            asyncio.run(serve())
        except BaseException as error:
            self._failure = error
        finally:
            is_up.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise SinkError(f"the page at {self.address} has failed ({reason(self._failure)})") from self._failure


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        SinkError: there is no such address here, or it is in use.
    """
    where = f"the page's address {host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise SinkError(f"{where}: no such address ({system_reason(error)})") from error
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two programs share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # Also an address that is bound but not listened on is taken only now.
        listening.listen()
    except OSError as error:
        listening.close()
        raise SinkError(f"{where} cannot be used ({system_reason(error)}); choose another port") from error
    return listening


def _reachable(host: str) -> str:
    """An address that others may type; of a socket that listens on all, the one that leads outside."""
    if host not in ("0.0.0.0", "::"):  # noqa: S104  (compared, not bound)
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: a datagram socket only looks up the way. The address is one for documentation.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
