"""Viewers that do harm, by malice or by a bad line: the page refuses or drops them, and nobody else notices."""

from __future__ import annotations

import json
import logging
import select
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from itertools import islice

import numpy as np
import pytest
from pages import Page, served, until

pytest.importorskip("aiohttp", reason="pip install 'i2i[preview]'")

from i2i_runtime.controls import Controls
from i2i_runtime.sinks.page import PageSink, server
from i2i_runtime.sources.base import StreamInfo
from i2i_runtime.stats import Stats, Status

TOKEN = "a-token-of-sixteen-or-more"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    # Large pictures fill what the system keeps for a viewer quickly.
    with served(tmp_path_factory.mktemp("captures"), size=(720, 1280), fps=15) as page:
        yield page


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    with served(tmp_path_factory.mktemp("captures"), token=TOKEN) as page:
        yield page


def status_line(page, request: bytes) -> bytes:
    """The first line of the answer to exactly these bytes."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as connected:
        connected.sendall(request)
        return connected.recv(4096).partition(b"\r\n")[0]


def is_cut_off(connected: socket.socket, letter: bytes = b"") -> bool:
    """Whether the other side has ended a connection; sends a letter first."""
    try:
        connected.sendall(letter)
        return bool(select.select([connected], [], [], 0.1)[0]) and not connected.recv(65536)
    except OSError:
        return True


def is_well(page) -> bool:
    """Whether the page answers, and the run goes on."""
    before = page.pipeline.status().results
    until(lambda: page.pipeline.status().results > before)
    return page.ask("/healthz").status == 200 and any(kind == "P" for kind, _ in page.messages())


# -- strangers --------------------------------------------------------------------------------------------------------


@pytest.mark.fault(41)
@pytest.mark.parametrize("path", ["/", "/live", "/stream.mjpg", "/status.json", "/metrics", "/nothing"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.1.2.3", ""])
def test_a_foreign_host_name_is_refused(page, path, host):
    assert page.ask(path, host=host or " ").status in ({403} if host else {400, 403})


@pytest.mark.fault(41)
def test_no_host_name_or_two_are_refused(page):
    assert status_line(page, b"GET / HTTP/1.0\r\n\r\n").split()[1] == b"403"
    two = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert status_line(page, two).split()[1] in (b"400", b"403")


@pytest.mark.fault(41)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost", ""])
def test_a_button_on_a_foreign_page_does_nothing(page, origin):
    mirror = page.report()["controls"]["mirror"]

    assert page.do("mirror", Origin=origin).status == 403
    assert page.report()["controls"]["mirror"] == mirror


@pytest.mark.fault(41)
def test_a_button_on_our_own_page_acts(page):
    assert page.do("view", "blend", Origin=f"http://127.0.0.1:{page.port}").status == 200
    assert page.do("view", "result", Origin=f"http://127.0.0.1:{page.port}").status == 200


@pytest.mark.fault(41)
def test_a_form_on_a_foreign_page_cannot_imitate_a_button(page):
    body = b'{"action": "mirror", "value": "="}'

    assert page.ask("/control", "POST", body, Content_Type="text/plain").status == 400


@pytest.mark.fault(41)
def test_a_foreign_page_cannot_embed_the_picture(page):
    embedded = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
    assert page.ask("/stream.mjpg", **embedded).status == 403

    headers = page.ask("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").headers
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/static/../server.py",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/page.js/../../server.py",
        "//etc/passwd",
        "/page.js%00.png",
        "/....//....//etc/passwd",
        "/\\..\\..\\etc\\passwd",
        "/server.py",
    ],
)
def test_no_path_leads_out_of_the_page(page, path):
    line = status_line(page, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    assert line.split()[1] in (b"404", b"400")


@pytest.mark.fault(41)
@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(page, method):
    assert page.ask("/control", method).status == 405


@pytest.mark.fault(41)
def test_the_token_is_logged_nowhere(tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with served(tmp_path, token=TOKEN) as page:
        page.ask(f"/?token={TOKEN}")
        page.ask(f"/nothing?token={TOKEN}")
        page.ask(f"/status.json?token={TOKEN}x")
        page.do("explode", Authorization=f"Bearer {TOKEN}")
        status_line(page, f"GET /?token={TOKEN} HTTP/9.9\r\n\r\n".encode())
        assert TOKEN not in page.ask("/status.json", Authorization=f"Bearer {TOKEN}").body.decode()

    assert TOKEN not in caplog.text
    assert TOKEN not in "".join(capfd.readouterr())


# -- too much, too slow -----------------------------------------------------------------------------------------------


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    "request_start",
    [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /met"],
    ids=["silent", "half a header", "half a second request"],
)
def test_a_request_that_does_not_come_whole_is_cut_off(page, monkeypatch, request_start):
    monkeypatch.setattr(server, "_REQUEST_WITHIN", 0.5)
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as connected:
        connected.sendall(request_start)
        began = time.monotonic()
        # A letter now and then does not buy time.
        until(lambda: is_cut_off(connected, b"x"), seconds=5)

    assert time.monotonic() - began < 3


@pytest.mark.fault(41)
def test_a_body_that_does_not_come_is_cut_off(page, monkeypatch):
    monkeypatch.setattr(server, "_BLOCKED_FOR", 0.5)
    head = b"POST /control HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"

    assert status_line(page, head + b"{").split()[1] == b"408"


@pytest.mark.fault(41)
def test_a_large_request_is_refused(page):
    assert page.ask("/control", "POST", b"[" * 50000, Content_Type="application/json").status == 413
    assert status_line(page, b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n").split()[1] == b"400"
    many = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 100) for number in range(500))
    assert status_line(page, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + many + b"\r\n").split()[1] == b"400"


@pytest.mark.fault(41)
def test_of_two_hundred_viewers_those_beyond_the_limit_are_refused_and_the_page_stays_well(page):
    limit = page.report()["page"]["limit"]
    with ExitStack() as stack:
        viewers = [stack.enter_context(page.connect("/stream.mjpg")) for _ in range(200)]
        lines = [viewer.recv(15)[9:12] for viewer in viewers]

        assert lines.count(b"200") == limit == 64
        assert lines.count(b"503") == 200 - limit
        assert page.report()["page"]["clients"] == limit
        assert page.ask("/healthz").status == 200
    until(lambda: page.report()["page"]["clients"] == 0)

    assert is_well(page)


@pytest.mark.fault(41)
def test_a_thousand_idle_connections_leave_the_page_well(page):
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=10))

        assert is_well(page)
    assert is_well(page)


@pytest.mark.fault(41)
def test_whoever_keeps_opening_idle_connections_locks_nobody_out(locked):
    enough, is_full = threading.Event(), threading.Event()
    held: list[socket.socket] = []

    def hold_as_many_as_there_may_be() -> None:
        while not enough.is_set():
            for cut_off in select.select(held, [], [], 0)[0]:
                held.remove(cut_off)
                cut_off.close()
            while len(held) < 300:
                with suppress(OSError):
                    held.append(socket.create_connection(("127.0.0.1", locked.port), timeout=2))
            is_full.set()

    stranger = threading.Thread(target=hold_as_many_as_there_may_be)
    stranger.start()
    try:
        assert is_full.wait(15)
        answers = [locked.ask("/status.json", Authorization=f"Bearer {TOKEN}").status for _ in range(30)]
    finally:
        enough.set()
        stranger.join()
        for connected in held:
            connected.close()

    assert answers == [200] * 30


@pytest.mark.fault(41)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 at once")
def test_another_machine_gets_its_share_and_no_more(page, monkeypatch):
    monkeypatch.setattr(server, "is_loopback", lambda host: host == "127.0.0.1")
    there = "127.0.0.1", page.port
    with ExitStack() as stack:
        mine, theirs = (
            [stack.enter_context(socket.create_connection(there, source_address=(whose, 0))) for _ in range(100)]
            for whose in ("127.0.0.1", "127.0.0.2")
        )

        until(lambda: len(select.select(theirs, [], [], 0)[0]) == 100 - 32, seconds=8)
        assert select.select(mine, [], [], 0)[0] == []


@pytest.mark.fault(41)
def test_streams_never_give_way(page):
    with ExitStack() as stack:
        viewer = stack.enter_context(page.connect("/stream.mjpg"))
        assert b" 200 " in viewer.recv(15)
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=10))

        received = b""
        while received.count(b"--frame") < 5:
            received += (piece := viewer.recv(65536))
            assert piece


@pytest.mark.fault(19)
@pytest.mark.parametrize("path", ["/live", "/stream.mjpg"])
def test_a_viewer_that_never_reads_is_closed_and_the_others_see_every_picture(page, path):
    closed = page.report()["page"]["closed"]
    numbers: list[int] = []
    with page.connect(path, receive_buffer=4096) as hung:
        began = time.monotonic()
        for kind, content in page.messages():
            if kind == "P":
                numbers.append(int.from_bytes(content[5:9], "big"))
            elif json.loads(content)["page"]["closed"] > closed:
                break
            assert time.monotonic() - began < 15
        took = time.monotonic() - began
        until(lambda: is_cut_off(hung))

    # Five seconds for a piece, after the first pictures that the system takes unread.
    assert took >= 5
    # The others lose no more than the run itself left out.
    assert len(numbers) >= 0.5 * (numbers[-1] - numbers[0])


@pytest.mark.fault(19)
def test_a_viewer_on_a_thin_line_is_not_closed_while_it_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_BLOCKED_FOR", 1.0)
    monkeypatch.setattr(server, "_SEND_BUFFER", 16384)
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
    received = 0
    with (
        served(tmp_path, size=(720, 1280), fps=5, translate=lambda image: noise) as page,
        page.connect("/live", receive_buffer=8192) as thin,
    ):
        began = time.monotonic()
        # One picture has about a megabyte: it takes several times as long as a viewer may take nothing.
        while (took := time.monotonic() - began) < 4:
            received += len(piece := thin.recv(8192))
            assert piece, f"closed after {took:.1f} s"
            time.sleep(0.03)
        assert page.report()["page"]["closed"] == 0

    assert received < 1_500_000


@pytest.mark.fault(41)
def test_an_action_that_hangs_takes_no_other_one_away_and_holds_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_ACTS_WITHIN", 0.5)
    hung, goes_on = threading.Event(), threading.Event()

    def hang(value: str | None) -> None:
        hung.set()
        goes_on.wait(60)

    try:
        with served(tmp_path) as page:
            page.pipeline.controls.on("snapshot", hang)
            answer = page.do("snapshot")

            assert hung.is_set()
            assert answer.status == 503
            assert answer.json() == {"error": "snapshot: not done within 0.5 s, and still at work"}
            assert page.do("snapshot").status == 503
            assert page.do("mirror").status == 200
            threads = [each for each in threading.enumerate() if each.name == "i2i page snapshot"]
            assert [each.daemon for each in threads] == [True]
            ending = time.monotonic()
        assert time.monotonic() - ending < 4
    finally:
        goes_on.set()


@pytest.mark.fault(41)
def test_figures_that_fail_once_are_told_again_afterwards(caplog):
    fails = threading.Event()

    def status() -> Status:
        if fails.is_set():
            raise RuntimeError("no figures now")
        return Stats().status()

    with PageSink("127.0.0.1", 0) as sink:
        sink.attach(status, Controls())
        sink.start(StreamInfo(name="camera", is_live=True))
        page = Page(sink=sink, pipeline=None)
        messages = page.messages()
        next(messages)
        fails.set()
        until(lambda: "the figures cannot be told" in caplog.text)
        time.sleep(3 * server._TICK)
        fails.clear()
        # One may have been under way.
        kinds = [kind for kind, _ in islice(messages, 3)]

    assert kinds == ["S"] * 3
    assert caplog.text.count("the figures cannot be told") == 1


@pytest.mark.fault(19)
def test_a_viewer_that_never_reads_costs_the_run_no_frame(page):
    before = page.pipeline.status()
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(page.connect("/stream.mjpg", receive_buffer=4096))
        until(lambda: page.pipeline.status().results >= before.results + 30)
        after = page.pipeline.status()

    delivered, captured = after.results - before.results, after.captured - before.captured
    assert delivered >= 0.8 * captured
    # The source has a clock: waiting for viewers would have made it fewer than this, even on a busy machine.
    assert after.elapsed - before.elapsed < 2 * 30 / 15
