"""Viewers that do harm, by malice or by a bad line: the page refuses or drops them, and nobody else notices."""

from __future__ import annotations

import json
import logging
import select
import socket
import time
from contextlib import ExitStack

import pytest
from pages import served, until

pytest.importorskip("aiohttp", reason="pip install 'i2i[preview]'")

from i2i_runtime.sinks.page import server

TOKEN = "a-token-of-sixteen-or-more"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    # Large pictures fill what the system keeps for a viewer quickly.
    with served(tmp_path_factory.mktemp("captures"), size=(720, 1280), fps=15) as page:
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


def is_refused(page) -> bool:
    """Whether the page takes no connection now."""
    try:
        return page.ask("/healthz").status != 200
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
    until(lambda: not is_refused(page))

    assert is_well(page)


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

    # Five seconds for one picture, after the first ones that the system takes unread.
    assert 5 <= took < 9
    assert len(numbers) >= 0.8 * (numbers[-1] - numbers[0])


@pytest.mark.fault(19)
def test_a_viewer_that_never_reads_costs_the_run_no_frame(page):
    before = page.pipeline.status()
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(page.connect("/stream.mjpg", receive_buffer=4096))
        until(lambda: page.pipeline.status().results >= before.results + 30)
        after = page.pipeline.status()

    assert after.dropped - before.dropped <= 3
    assert after.fps > 0.9 * 15
