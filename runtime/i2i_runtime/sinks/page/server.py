"""The page's HTTP server: what is answered to whom, and streams that never wait for a slow viewer.

Runs in one event loop. Pictures arrive from another thread by `publish`; each viewer is sent the newest one when it has
taken the one before, so that a slow viewer costs the run nothing and sees the present, at a lower rate.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import resources
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from i2i_runtime.controls import Controls
from i2i_runtime.errors import I2IError
from i2i_runtime.frame import Frame
from i2i_runtime.sinks.page.guard import Guard, is_loopback
from i2i_runtime.sinks.page.metrics import CONTENT_TYPE, PageFigures, as_text
from i2i_runtime.sinks.page.picture import pair_for_page, shared_picture
from i2i_runtime.sources.base import SourceState
from i2i_runtime.stats import Status

if TYPE_CHECKING:
    from i2i_runtime.sinks.page.webrtc import Peers

_BLOCKED_FOR = 5.0
"""Seconds that a viewer may take for one piece of a picture before it is closed."""
_PIECE = 32 * 1024
"""Bytes that are written at once: a viewer on a thin line is seen to take them, one after another."""
_ACTS_WITHIN = 10.0
"""Seconds after which a viewer is told that an action takes longer: the disk or the network share may hang."""
_REQUEST_WITHIN = 10.0
"""Seconds in which a request must have come whole; also how long an idle connection is kept."""
_TICK = 0.5
"""Seconds between two reports of the figures to each viewer."""
_REPEAT_AFTER = 1.0
"""Seconds after which a picture is sent again: it tells a viewer who is gone from one who sees a still picture."""
_BACKLOG = 128
"""Connections that are taken before the next look at what came by those that are open."""
_CONNECTIONS_PER_CLIENT = 4
"""A browser opens up to six connections, and lets most of them go at once."""
_CONNECTIONS_PER_ADDRESS = 32
"""From one other machine, whatever it does with them."""
_PER_ADDRESS = 16
"""Streams to one other machine; this one's own browser may have all."""
_SEND_BUFFER = 128 * 1024
"""Bytes on their way to a viewer: what waits here is old when it arrives, but too few bytes make a long line slow."""
_LARGEST_BODY = 32768
"""Bytes; a browser's offer has some thousands."""
_BOUNDARY = b"--frame"
_STATIC = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Server": "i2i",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_NOT_FROM_A_PAGE = {"quit"}
"""Who looks at a page shall not end the run for everybody."""
_WELL = {SourceState.OPENING, SourceState.LIVE, SourceState.ENDED}

_Encode: TypeAlias = Callable[[Frame, int], bytes]
"""Makes a picture for viewers from a frame and the longest side allowed."""


class _NoRequests(logging.Filter):
    """Keeps out what aiohttp says of a request that is no HTTP: it quotes it, with the token if there is one."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_logger = logging.getLogger("i2i_runtime.page")
_logger.addFilter(_NoRequests())
# Without a handler Python writes warnings to stderr, across the status line.
_logger.addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the page shows besides pictures."""

    name: str
    """What is translated: the names of the sources."""
    status: Callable[[], Status]
    controls: Controls


@dataclass(eq=False)
class _Viewer:
    transport: asyncio.Transport
    address: str
    blocked_since: float | None = None
    """When the write that goes on now began; None while the viewer waits for news."""


class _Board:
    """The newest of each kind of message, and whoever waits for one."""

    def __init__(self) -> None:
        self._messages: dict[str, tuple[int, bytes]] = {}
        self._news = asyncio.Event()
        self._is_closed = False
        self.changed_at = 0.0
        self.readers = 0

    def put(self, kind: str, message: bytes) -> None:
        """Replace the newest message of a kind."""
        number = self._messages.get(kind, (0, b""))[0] + 1
        self._messages[kind] = number, message
        self._wake()

    def put_first(self, kind: str, message: bytes) -> None:
        """Add a message of a kind that has none; a newer one may have come meanwhile."""
        if kind not in self._messages:
            self.put(kind, message)

    def repeat(self, kind: str) -> None:
        """Send the newest message again."""
        if kind in self._messages:
            self.put(kind, self._messages[kind][1])

    def clear(self) -> None:
        """Forget the messages: they are old, and nobody reads."""
        self._messages.clear()

    def close(self) -> None:
        """Let every reader end."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        self.changed_at = time.monotonic()
        self._news.set()
        self._news = asyncio.Event()

    async def read(self) -> AsyncIterator[bytes]:
        """The newest messages, each once; those that were replaced meanwhile are passed over."""
        seen: dict[str, int] = {}
        while not self._is_closed:
            news, something = self._news, False
            for kind in list(self._messages):
                number, message = self._messages.get(kind, (0, b""))
                if number != seen.get(kind, 0):
                    seen[kind], something = number, True
                    yield message
            if not something:
                await news.wait()


class _Connections:
    """Those that are open, bounded in all and for each other machine.

    Where there is no room, an idle one gives way to the new one, so that nobody keeps others out by holding what they
    do not use: first those that have never asked for anything they may have, of the address with the most, the oldest.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[asyncio.BaseTransport, _Connection] = {}

    def __iter__(self) -> Iterator[asyncio.BaseTransport]:
        return iter(list(self._open))

    def get(self, transport: asyncio.BaseTransport | None) -> _Connection | None:
        """The connection that a request came by, while it is open."""
        return None if transport is None else self._open.get(transport)

    def add(self, transport: asyncio.BaseTransport, connection: _Connection) -> bool:
        """Take one more; False if all that it could replace are in use."""
        counts = Counter(each.address for each in self._open.values())
        is_other = not is_loopback(connection.address)
        has_share = is_other and counts[connection.address] >= _CONNECTIONS_PER_ADDRESS
        if has_share or len(self._open) >= self._most:
            idle = [
                (other, (each.was_admitted, -counts[each.address], each.idle_since))
                for other, each in self._open.items()
                if each.idle_since is not None and (not has_share or each.address == connection.address)
            ]
            if not idle:
                return False
            self._open.pop(min(idle, key=itemgetter(1))[0]).give_way()
        self._open[transport] = connection
        return True

    def remove(self, transport: asyncio.BaseTransport) -> None:
        """It is closed."""
        self._open.pop(transport, None)


class _Connection(asyncio.Protocol):
    """Gives a connection a time by which its request must have come: aiohttp waits for ever.

    Attributes:
        address: of the other side.
        idle_since: when the wait for a request began; None while one is answered.
        was_admitted: whether it has sent a request that may be answered.
    """

    def __init__(self, http: asyncio.Protocol, connections: _Connections) -> None:
        self._http = http
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.address = ""
        self.idle_since: float | None = None
        self.was_admitted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.address = str((transport.get_extra_info("peername") or ("",))[0])
        if not self._connections.add(transport, self):
            transport.abort()
            return
        self._transport = transport
        # Nothing waits in this process: a write is done when the system has taken it all.
        transport.set_write_buffer_limits(high=0)
        connected: socket.socket = transport.get_extra_info("socket")
        with suppress(OSError):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self.wait_for_request()
        self._http.connection_made(transport)

    def wait_for_request(self) -> None:
        """From now on, a whole request must come in time."""
        self.take_request()
        if self._transport is not None:
            self.idle_since = time.monotonic()
            self._deadline = asyncio.get_running_loop().call_later(_REQUEST_WITHIN, self._transport.abort)

    def take_request(self) -> None:
        """It has come."""
        self.idle_since = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def give_way(self) -> None:
        """Another one needs the place."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._http.data_received(data)

    def eof_received(self) -> bool | None:
        return self._http.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is None:
            return
        self.take_request()
        self._connections.remove(self._transport)
        self._transport = None
        self._http.connection_lost(error)


class PageServer:
    """Answers requests until `stop`.

    GET  /              the page
    GET  /live          what the page reads: messages of a kind (1 byte), a length (4 bytes, big-endian) and content:
                        P a picture as of `pair_for_page`, S the same JSON as /status.json
    GET  /stream.mjpg   the shared view as Motion JPEG, for players
    GET  /status.json   figures and controls
    GET  /metrics       the figures for Prometheus
    GET  /healthz       200 while all sources are well, else 503
    GET  /figures       /live without pictures
    POST /control       {"action": ..., "value": ...}
    POST /offer         {"sdp": ...} is answered in kind, where aiortc is installed: the shared view by WebRTC
    """

    def __init__(self, run: Run, guard: Guard, port: int, longest: int, most_clients: int) -> None:
        """A server for one run; made and used in its event loop, but for `publish`.

        Args:
            run: what is shown.
            guard: who may look.
            port: as in the page's address; cookies of several pages on one machine are told apart by it.
            longest: the longest side of a picture, in pixels.
            most_clients: how many streams there may be at once.
        """
        self._run = run
        self._guard = guard
        self._cookie = f"i2i_{port}"
        self._longest = longest
        self._most_clients = most_clients
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._acting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """One action of a kind at a time; one that hangs holds up none of another kind."""
        self._connections = _Connections(_CONNECTIONS_PER_CLIENT * most_clients)
        self._viewers: set[_Viewer] = set()
        self._refused = self._closed = 0
        self.most_viewers = 0
        self._newest: Frame | None = None
        self._boards: dict[_Encode, _Board] = {pair_for_page: _Board(), shared_picture: _Board(), _nothing: _Board()}
        self._peers = _open_peers(longest)
        self._static = {
            path: ((resources.files("i2i_runtime.sinks.page") / "static" / name).read_bytes(), kind)
            for path, (name, kind) in _STATIC.items()
        }

    # -- called by the sink -------------------------------------------------------------------------------------------

    def publish(self, frame: Frame) -> None:
        """Show a frame, from any one thread: it is encoded there, once, and only if somebody looks."""
        self._newest = frame
        for encode, board in self._boards.items():
            if board.readers and encode is not _nothing:
                message = _message(encode, encode(frame, self._longest))
                with suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(board.put, "picture", message)
        if self._peers:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._peers.show, frame)

    def stop(self) -> None:
        """Let `serve` end; from any thread."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopped.set)

    async def serve(self, listening: socket.socket, on_ready: Callable[[], None]) -> None:
        """Answer until `stop`."""
        self._loop.set_exception_handler(lambda loop, context: _logger.error("%s", context.get("message")))
        application = web.Application(middlewares=[self._check], client_max_size=_LARGEST_BODY)
        application.on_response_prepare.append(_add_headers)
        for path in self._static:
            application.router.add_get(path, self._file)
        application.router.add_get("/live", self._live, allow_head=False)
        application.router.add_get("/stream.mjpg", self._motion_jpeg, allow_head=False)
        application.router.add_get("/status.json", self._status)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._health)
        application.router.add_post("/control", self._control)
        application.router.add_get("/figures", self._only_figures, allow_head=False)
        if self._peers is not None:
            application.router.add_post("/offer", self._offer)
        # No access log: it would hold the token.
        runner = web.AppRunner(application, access_log=None, logger=_logger, shutdown_timeout=1.0)
        await runner.setup()
        make_http = runner.server
        assert make_http is not None
        server = await self._loop.create_server(
            lambda: _Connection(make_http(), self._connections), sock=listening, backlog=_BACKLOG
        )
        ticking = asyncio.ensure_future(self._tick())
        on_ready()
        try:
            await self._stopped.wait()
        finally:
            ticking.cancel()
            for board in self._boards.values():
                board.close()
            if self._peers is not None:
                await self._peers.close()
            server.close()
            await asyncio.sleep(0)  # the streams end by themselves, so that browsers see an end and no failure
            await runner.cleanup()
            for transport in self._connections:
                transport.close()

    # -- who may ------------------------------------------------------------------------------------------------------

    @web.middleware
    async def _check(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        connection = self._connections.get(request.transport)
        if connection:
            connection.take_request()
        try:
            self._require_own_names(request)
            offered = request.query.get("token") if request.method == "GET" else None
            scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
            if not self._guard.admits(
                offered, request.cookies.get(self._cookie), bearer.strip() if scheme.lower() == "bearer" else None
            ):
                raise web.HTTPUnauthorized(
                    text="401: add ?token=TOKEN to the address: the token that i2i-run printed or was started with\n",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            if connection:
                connection.was_admitted = True
            response: web.StreamResponse = await handler(request)
            return response
        finally:
            if connection:
                connection.wait_for_request()

    def _require_own_names(self, request: web.Request) -> None:
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not self._guard.knows_host(hosts[0]):
            raise web.HTTPForbidden(text="403: this page does not answer to that host name\n")
        origins = request.headers.getall("Origin", [])
        if len(origins) > 1 or not self._guard.is_own_origin(origins[0] if origins else None, hosts[0]):
            raise web.HTTPForbidden(text="403: the request comes from another page\n")
        # Browsers send no Origin with a picture, but say this of it. Following a link from elsewhere is no harm.
        is_foreign = request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
        if is_foreign and request.headers.get("Sec-Fetch-Mode") != "navigate":
            raise web.HTTPForbidden(text="403: the request comes from another page\n")

    # -- answers ------------------------------------------------------------------------------------------------------

    async def _file(self, request: web.Request) -> web.Response:
        body, kind = self._static[request.path]
        response = web.Response(body=body, content_type=kind, charset="utf-8")
        token = self._guard.token
        if token is not None and request.path == "/":
            response.set_cookie(self._cookie, token, httponly=True, samesite="Strict", path="/")
        return response

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._report())

    async def _metrics(self, request: web.Request) -> web.Response:
        text = as_text(self._run.status(), self._run.controls.state(), self._figures())
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _health(self, request: web.Request) -> web.Response:
        sources = self._run.status().sources
        lines = [f"{number}: {source.state.value}" for number, source in enumerate(sources)]
        is_well = all(source.state in _WELL for source in sources)
        return web.Response(text="\n".join(lines or ["ok"]) + "\n", status=200 if is_well else 503)

    async def _control(self, request: web.Request) -> web.Response:
        try:
            wanted = json.loads(await asyncio.wait_for(request.read(), _BLOCKED_FOR))
            action, value = wanted["action"], wanted.get("value")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return _refusal('expected {"action": NAME, "value": VALUE} in JSON')
        except asyncio.TimeoutError:
            raise web.HTTPRequestTimeout from None
        if request.content_type != "application/json":
            return _refusal(f"expected application/json, found {request.content_type}")
        if not isinstance(action, str) or isinstance(value, (dict, list)):
            return _refusal("action: expected a name; value: expected a text or a number")
        if action in _NOT_FROM_A_PAGE:
            return _refusal(f"{action}: only where the run was started")
        try:
            await asyncio.wait_for(self._act(action, None if value is None else str(value)), _ACTS_WITHIN)
        except asyncio.TimeoutError:
            return _refusal(f"{action}: not done within {_ACTS_WITHIN:g} s, and still at work", status=503)
        except I2IError as error:
            return _refusal(str(error))
        self._tell()
        return web.json_response(self._report())

    async def _act(self, action: str, value: str | None) -> None:
        """Carry out an action on a thread that the end of the process does not wait for.

        Raises:
            UsageError: see `Controls.do`.
        """
        do, done = self._run.controls.do, self._loop.create_future()
        if action not in self._run.controls.actions:
            do(action, value)  # says what there is
        acting = self._acting[action]
        await acting.acquire()

        def finish(error: Exception | None) -> None:
            acting.release()
            if done.cancelled():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def work() -> None:
            failure = None
            try:
                do(action, value)
            except Exception as error:
                failure = error
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(finish, failure)

        try:
            threading.Thread(target=work, name=f"i2i page {action}", daemon=True).start()
        except RuntimeError:
            acting.release()
            raise
        await done

    async def _live(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await self._stream(request, response, pair_for_page)
        return response

    async def _only_figures(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await self._stream(request, response, _nothing)
        return response

    async def _offer(self, request: web.Request) -> web.Response:
        assert self._peers is not None
        try:
            offer = json.loads(await asyncio.wait_for(request.read(), _BLOCKED_FOR))["sdp"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return _refusal('expected {"sdp": OFFER} in JSON')
        except asyncio.TimeoutError:
            raise web.HTTPRequestTimeout from None
        if request.content_type != "application/json" or not isinstance(offer, str):
            return _refusal('expected {"sdp": OFFER} in JSON')
        if self._newest is not None:
            self._peers.show(self._newest)
        try:
            return web.json_response({"type": "answer", "sdp": await self._peers.answer(offer)})
        except I2IError as error:
            return _refusal(str(error))

    async def _motion_jpeg(self, request: web.Request) -> web.StreamResponse:
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY[2:].decode()}"
        response = web.StreamResponse(headers={"Content-Type": kind})
        await self._stream(request, response, shared_picture)
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, encode: _Encode) -> None:
        board = self._boards[encode]
        with self._viewer(request) as viewer, _reading(board):
            if board.readers == 1:
                # Nobody looked so far: what there is may be old, and the next frame far away.
                board.clear()
                if self._newest is not None and encode is not _nothing:
                    first = await asyncio.to_thread(encode, self._newest, self._longest)
                    board.put_first("picture", _message(encode, first))
                self._tell()
            await response.prepare(request)
            if encode is shared_picture:
                await response.write(_BOUNDARY + b"\r\n")
            with suppress(ConnectionResetError):
                async for message in board.read():
                    for start in range(0, len(message), _PIECE):
                        viewer.blocked_since = time.monotonic()
                        await response.write(message[start : start + _PIECE])
                        await request.writer.drain()
                    viewer.blocked_since = None

    @contextmanager
    def _viewer(self, request: web.Request) -> Iterator[_Viewer]:
        """Counts a viewer, or refuses it."""
        address = request.remote or ""
        of_address = Counter(viewer.address for viewer in self._viewers)[address]
        if len(self._viewers) >= self._most_clients or (of_address >= _PER_ADDRESS and not is_loopback(address)):
            self._refused += 1
            raise web.HTTPServiceUnavailable(
                text=f"503: {len(self._viewers)} viewers already\n", headers={"Retry-After": "5"}
            )
        assert request.transport is not None
        viewer = _Viewer(request.transport, address)
        self._viewers.add(viewer)
        self.most_viewers = max(self.most_viewers, len(self._viewers))
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    # -- figures ------------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        has_failed = False
        while True:
            await asyncio.sleep(_TICK)
            try:
                self._look_after_viewers()
                self._tell()
            except Exception:
                # Said once: it may well fail at each tick.
                if not has_failed:
                    _logger.exception("the figures cannot be told")
                has_failed = True

    def _look_after_viewers(self) -> None:
        """Close those that take nothing, and let players know that a picture which stands still is no dead line."""
        now = time.monotonic()
        for viewer in list(self._viewers):
            if viewer.blocked_since is not None and now - viewer.blocked_since > _BLOCKED_FOR:
                self._closed += 1
                self._viewers.discard(viewer)
                viewer.transport.abort()
        players = self._boards[shared_picture]
        if players.readers and now - players.changed_at > _REPEAT_AFTER:
            players.repeat("picture")

    def _tell(self) -> None:
        """Send the figures to every page."""
        boards = [self._boards[encode] for encode in (pair_for_page, _nothing) if self._boards[encode].readers]
        if boards:
            report = _framed(b"S", json.dumps(self._report()).encode())
            for board in boards:
                board.put("status", report)

    def _figures(self) -> PageFigures:
        return PageFigures(
            clients=len(self._viewers), limit=self._most_clients, refused=self._refused, closed=self._closed
        )

    def _report(self) -> dict[str, Any]:
        controls = self._run.controls
        actions = [action for action in controls.actions if action not in _NOT_FROM_A_PAGE]
        return {
            "name": self._run.name,
            "status": self._run.status().as_dict(),
            "controls": {**asdict(controls.state()), "actions": actions},
            "page": asdict(self._figures()),
            "webrtc": self._peers is not None,
        }


@contextmanager
def _reading(board: _Board) -> Iterator[None]:
    board.readers += 1
    try:
        yield
    finally:
        board.readers -= 1


def _nothing(frame: Frame, longest: int) -> bytes:
    """For viewers that want the figures only."""
    return b""


def _open_peers(longest: int) -> Peers | None:
    """None where aiortc is not installed."""
    try:
        from i2i_runtime.sinks.page.webrtc import Peers
    except ImportError:
        return None
    return Peers(longest)


def _framed(kind: bytes, content: bytes) -> bytes:
    return kind + len(content).to_bytes(4, "big") + content


def _message(encode: _Encode, picture: bytes) -> bytes:
    if encode is pair_for_page:
        return _framed(b"P", picture)
    # The next boundary at once: browsers show a picture when they have seen its end.
    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n".encode()
    return head + picture + b"\r\n" + _BOUNDARY + b"\r\n"


def _refusal(message: str, status: int = 400) -> web.Response:
    return web.json_response({"error": message}, status=status)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
