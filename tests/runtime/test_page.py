"""The live page: what it serves, to whom, and what its buttons do."""

from __future__ import annotations

import asyncio
import builtins
import math
import re
import socket
import sys
import threading
from dataclasses import fields
from itertools import islice

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import SIZE, Page, served, until

pytest.importorskip("aiohttp", reason="pip install 'i2i[preview]'")

from i2i_runtime.controls import ControlState
from i2i_runtime.errors import SinkError, UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.sinks.page import PageSink
from i2i_runtime.sinks.page.guard import Guard
from i2i_runtime.sinks.page.metrics import PageFigures, as_text
from i2i_runtime.sinks.page.picture import BLOCK, HEADER, PAIR, SINGLE, pair_for_page, shared_picture
from i2i_runtime.sources.base import SourceHealth, SourceState
from i2i_runtime.sources.pattern import PatternSource
from i2i_runtime.stats import Percentiles, Status

TOKEN = "a-token-of-sixteen-or-more"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with served(tmp_path_factory.mktemp("captures")) as page:
        yield page


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    with served(tmp_path_factory.mktemp("captures"), token=TOKEN) as page:
        yield page


def decode(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def frame(before: np.ndarray | None, after: np.ndarray) -> Frame:
    return Frame(
        image=after, index=7, captured_at=0.0, name="f", before=before, after=after if before is not None else None
    )


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_the_page_is_served_with_all_that_it_needs(page):
    html = page.ask("/").body.decode()
    needed = re.findall(r'(?:src|href)="([^"]+)"', html)

    assert {"page.css", "page.js", "icon.svg"} <= set(needed)
    kinds = {name: page.ask(f"/{name}").headers["content-type"] for name in ("page.css", "page.js", "icon.svg")}
    assert kinds == {
        "page.css": "text/css; charset=utf-8",
        "page.js": "text/javascript; charset=utf-8",
        "icon.svg": "image/svg+xml; charset=utf-8",
    }
    assert not [name for name in needed if "//" in name]


def test_the_page_is_sent_input_and_result_in_one_picture(page):
    _, content = next(message for message in page.messages() if message[0] == "P")
    count, width, height, _ = HEADER.unpack_from(content)
    image = decode(content[HEADER.size :])

    assert (count, height, width) == (PAIR, *SIZE)
    start = math.ceil(width / BLOCK) * BLOCK
    before, after = image[:, :width].astype(int), image[:, start : start + width].astype(int)
    assert np.abs(before + after - 255).mean() < 3


def test_the_page_is_sent_new_pictures_and_the_figures(page):
    received = list(islice(page.messages(), 12))
    numbers = [HEADER.unpack_from(content)[3] for kind, content in received if kind == "P"]

    assert {kind for kind, _ in received} == {"P", "S"}
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 5


def test_a_player_gets_the_shared_view_as_motion_jpeg(page):
    with page.connect("/stream.mjpg") as connected:
        data = b""
        while data.count(b"--frame") < 4:
            data += connected.recv(65536)

    assert b"multipart/x-mixed-replace; boundary=frame" in data
    lengths = [int(length) for length in re.findall(rb"Content-Length: (\d+)", data)]
    assert decode(data[data.index(b"\xff\xd8") :][: lengths[0]]).shape[:2] == SIZE


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    longest=st.integers(8, 80),
    before=st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
def test_any_pair_is_within_the_bound_and_says_where_its_halves_are(height, width, longest, before):
    packed = pair_for_page(frame(np.zeros((*before, 3), np.uint8), np.full((height, width, 3), 255, np.uint8)), longest)
    count, shown_width, shown_height, number = HEADER.unpack_from(packed)
    image = decode(packed[HEADER.size :])
    start = math.ceil(shown_width / BLOCK) * BLOCK

    assert (count, number) == (PAIR, 7)
    assert max(shown_width, shown_height) <= longest
    assert image.shape[:2] == (shown_height, start + shown_width)
    assert image[:, :start].max() < 16
    assert image[:, start:].min() > 239


def test_a_picture_without_a_result_is_sent_alone():
    packed = pair_for_page(frame(None, np.zeros((20, 30, 3), np.uint8)), 1280)

    assert HEADER.unpack_from(packed)[:3] == (SINGLE, 30, 20)
    assert decode(packed[HEADER.size :]).shape == (20, 30, 3)


def test_while_a_source_is_lost_the_page_is_sent_the_picture_that_says_so(tmp_path):
    class Lost(PatternSource):
        def __iter__(self):
            yield from islice(super().__iter__(), 3)
            self.state = SourceState.RECONNECTING
            found.wait(15)

    found = threading.Event()
    try:
        with served(tmp_path, source=Lost(SIZE, 30)) as page:
            page.do("view", "wipe")
            contents = (content for kind, content in page.messages() if kind == "P")
            notice = next(content for content in contents if HEADER.unpack_from(content)[0] == SINGLE)
            health = page.ask("/healthz")
            results = page.pipeline.status().results
            found.set()
    finally:
        found.set()

    shown = page.pipeline.picture()
    assert shown is not None
    assert HEADER.unpack_from(notice)[:3] == (SINGLE, SIZE[1], SIZE[0])
    # Darker than the last result, with the words on it.
    assert decode(notice[HEADER.size :]).mean() < shown.mean()
    assert (health.status, health.body) == (503, b"0: reconnecting\n")
    assert page.sink.summary().startswith(f"{results} frames at ")


def test_a_large_picture_is_made_smaller_for_players():
    jpeg = shared_picture(frame(None, np.zeros((1080, 1920, 3), np.uint8)), 1280)

    assert decode(jpeg).shape == (720, 1280, 3)


def test_nothing_is_encoded_while_nobody_looks(page, monkeypatch):
    until(lambda: page.report()["page"]["clients"] == 0)
    encoded = []
    encode = cv2.imencode
    monkeypatch.setattr(cv2, "imencode", lambda *arguments: encoded.append(1) or encode(*arguments))
    shown = page.pipeline.status().results

    until(lambda: page.pipeline.status().results > shown + 5)

    assert encoded == []


def test_a_frozen_picture_is_sent_to_who_comes_later(page):
    page.do("freeze")
    try:
        kinds = [kind for kind, _ in islice(page.messages(), 3)]
    finally:
        page.do("freeze")

    assert "P" in kinds


# -- figures and controls ---------------------------------------------------------------------------------------------


def test_the_status_holds_figures_controls_and_viewers(page):
    report = page.report()

    assert report["name"] == "test-pattern"
    assert report["status"]["sources"][0]["state"] == "live"
    assert report["status"]["translated"] > 0
    assert {field.name for field in fields(Status)} == set(report["status"])
    assert {field.name for field in fields(ControlState)} | {"actions"} == set(report["controls"])
    assert {"view", "position", "mirror", "freeze", "record", "snapshot"} <= set(report["controls"]["actions"])
    assert report["page"]["limit"] == 64


def test_a_button_acts_and_the_answer_shows_it(page):
    answer = page.do("view", "wipe")

    assert answer.status == 200
    assert answer.json()["controls"]["view"] == "wipe"
    assert page.report()["controls"]["view"] == "wipe"


def test_a_snapshot_is_saved_where_the_run_saves(page, tmp_path):
    message = page.do("snapshot").json()["controls"]["message"]

    assert re.fullmatch(r"saved .*\.png", message)


@pytest.mark.parametrize(
    ("action", "value", "message"),
    [
        ("explode", None, "'explode': expected one of view, "),
        ("view", "sideways", "view: expected one of result, "),
        ("position", "left", "position: expected a number from 0 to 1, less or more, found 'left'"),
        ("position", float("nan"), "position: expected a number from 0 to 1, found nan"),
        ("quit", None, "quit: only where the run was started"),
        (["view"], None, "action: expected a name"),
        ("view", {"a": 1}, "action: expected a name"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(page, action, value, message):
    answer = page.do(action, value)

    assert answer.status == 400
    assert answer.json()["error"].startswith(message)
    assert page.pipeline.status().sources[0].state == SourceState.LIVE


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"null", b'{"value": 1}', b"\xff\xfe", b"[" * 2000])
def test_what_is_no_request_is_refused(page, body):
    answer = page.ask("/control", "POST", body, Content_Type="application/json")

    assert answer.status == 400
    assert answer.json() == {"error": 'expected {"action": NAME, "value": VALUE} in JSON'}


def test_the_page_is_well_while_its_sources_are(page):
    answer = page.ask("/healthz")

    assert (answer.status, answer.body) == (200, b"0: live\n")


def test_figures_come_without_pictures_to_who_has_those_by_webrtc(page):
    with page.connect("/figures") as connected:
        data = b""
        while data.count(b'"status"') < 2:
            data += connected.recv(65536)

    assert b"\xff\xd8\xff" not in data


@pytest.mark.parametrize("body", [b"{}", b"[1]", b'{"sdp": 7}', b'{"sdp": "v=0"}', b'{"sdp": "no offer"}'])
def test_what_is_no_offer_is_refused(page, body):
    pytest.importorskip("aiortc", reason="pip install 'i2i[webrtc]'")
    answer = page.ask("/offer", "POST", body, Content_Type="application/json")

    assert answer.status == 400
    assert re.match(r'expected {"sdp": OFFER} in JSON|WebRTC: expected an offer', answer.json()["error"])


def test_the_answer_to_an_offer_only_sends():
    pytest.importorskip("aiortc", reason="pip install 'i2i[webrtc]'")

    assert "a=sendonly" in asyncio.run(answered(lambda peer: peer.addTransceiver("video", direction="recvonly")))


@pytest.mark.parametrize("direction", ["sendrecv", "sendonly"])
def test_an_offer_that_would_send_is_refused(direction):
    pytest.importorskip("aiortc", reason="pip install 'i2i[webrtc]'")

    with pytest.raises(UsageError, match="WebRTC: expected an offer to receive one video"):
        asyncio.run(answered(lambda peer: peer.addTransceiver("video", direction=direction)))


def test_an_offer_with_a_data_channel_is_refused():
    pytest.importorskip("aiortc", reason="pip install 'i2i[webrtc]'")

    def ask_for_both(peer):
        peer.addTransceiver("video", direction="recvonly")
        peer.createDataChannel("more")

    with pytest.raises(UsageError, match="WebRTC: expected an offer to receive one video"):
        asyncio.run(answered(ask_for_both))


async def answered(ask) -> str:
    """The page's answer to a viewer who asks for something by WebRTC."""
    from aiortc import RTCPeerConnection

    from i2i_runtime.sinks.page.webrtc import Peers

    peers, viewer = Peers(1280), RTCPeerConnection()
    try:
        ask(viewer)
        await viewer.setLocalDescription(await viewer.createOffer())
        return await peers.answer(viewer.localDescription.sdp)
    finally:
        await viewer.close()
        await peers.close()


# -- metrics ----------------------------------------------------------------------------------------------------------

_SAMPLE = re.compile(
    r'(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? '
    r"(?P<value>[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf)|NaN)"
)


def parse(text: str) -> dict[tuple[str, str], float]:
    """Samples by name and labels; fails where the format is not the one of Prometheus."""
    samples: dict[tuple[str, str], float] = {}
    kinds: dict[str, str] = {}
    helped = set()
    assert text.endswith("\n")
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            helped.add(line.split(" ", 3)[2])
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in ("counter", "gauge")
            assert name not in kinds
            assert name in helped
            kinds[name] = kind
        else:
            found = _SAMPLE.fullmatch(line)
            assert found, line
            assert found["name"] in kinds
            assert (kinds[found["name"]] == "counter") == found["name"].endswith("_total")
            key = found["name"], found["labels"] or ""
            assert key not in samples
            samples[key] = float(found["value"])
    return samples


def test_the_metrics_agree_with_the_status(page):
    answer = page.ask("/metrics")
    samples = parse(answer.body.decode())
    status = page.report()["status"]

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 0 < samples["i2i_frames_translated_total", ""] <= status["translated"]
    assert samples["i2i_fps", ""] > 0
    assert samples["i2i_source_state", 'source="0",name="test-pattern",state="live"'] == 1
    assert samples["i2i_source_state", 'source="0",name="test-pattern",state="lost"'] == 0


numbers = st.floats() | st.integers(0, 2**60)
counts = st.integers(0, 2**53)  # what a float can count to


@given(
    figures=st.builds(
        Status,
        **dict.fromkeys(("captured", "translated", "reused", "skipped", "dropped", "failed", "not_written"), counts),
        fps=numbers,
        translate_ms=st.builds(Percentiles, numbers, numbers, numbers),
        latency_ms=st.builds(Percentiles, numbers, numbers, numbers),
        elapsed=numbers,
        provider=st.text(),
        sources=st.lists(
            st.builds(SourceHealth, name=st.text(), state=st.sampled_from(SourceState), reconnects=counts), max_size=3
        ).map(tuple),
    ),
    engine=st.text(),
)
def test_any_figures_and_names_can_be_read_by_prometheus(figures, engine):
    samples = parse(as_text(figures, ControlState(engine=engine), PageFigures()))

    for counter in ("captured", "translated", "reused", "skipped", "dropped", "failed"):
        assert samples[f"i2i_frames_{counter}_total", ""] == getattr(figures, counter)
    assert samples["i2i_results_not_written_total", ""] == figures.not_written
    assert samples["i2i_fps", ""] == pytest.approx(figures.fps, nan_ok=True)
    assert sum(value for (name, _), value in samples.items() if name == "i2i_source_state") == len(figures.sources)


# -- who may look -----------------------------------------------------------------------------------------------------


def test_the_address_with_the_token_opens_the_page_and_leaves_a_cookie(locked):
    answer = locked.ask(f"/?token={TOKEN}")

    assert answer.status == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert locked.ask("/status.json", Cookie=cookie.partition(";")[0]).status == 200


def test_a_program_sends_the_token_in_a_header(locked):
    assert locked.ask("/metrics", Authorization=f"Bearer {TOKEN}").status == 200
    assert locked.do("mirror", Authorization=f"Bearer {TOKEN}").status == 200


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/live", "/stream.mjpg", "/status.json", "/metrics", "/healthz", "/x"]
)
def test_without_the_token_there_is_nothing(locked, path):
    for answer in (
        locked.ask(path),
        locked.ask(path, Authorization="Bearer wrong"),
        locked.ask(path, Authorization=f"Basic {TOKEN}"),
        locked.ask(f"{path}?token={TOKEN[:-1]}"),
        locked.ask(path, Cookie=f"other={TOKEN}"),
    ):
        assert answer.status == 401
        assert b"add ?token=TOKEN to the address" in answer.body
        assert TOKEN.encode() not in answer.body


def test_a_button_takes_no_token_from_the_address(locked):
    body = b'{"action": "mirror"}'

    assert locked.ask(f"/control?token={TOKEN}", "POST", body, Content_Type="application/json").status == 401


def test_the_token_is_made_where_others_can_look_and_is_in_the_url_only():
    with PageSink("0.0.0.0", 0) as sink:
        token = sink.url.partition("?token=")[2]

        assert len(token) >= 32
        assert token not in sink.address
        assert token not in sink.summary()
        assert "0.0.0.0" not in sink.url
    with PageSink("0.0.0.0", 0) as other:
        assert token not in other.url


def test_this_computer_needs_no_token():
    with PageSink("127.0.0.1", 0) as sink:
        assert sink.url == sink.address
        assert not sink.made_token


def test_a_further_name_needs_a_token_on_this_computer_too_because_a_proxy_may_lead_others_in(tmp_path):
    with served(tmp_path, names=["box.example.com"]) as page:
        through_proxy = {"host": "box.example.com", "Origin": "https://box.example.com"}
        token = page.sink.url.partition("?token=")[2]

        assert page.ask("/status.json", **through_proxy).status == 401
        assert page.do("mirror", **through_proxy).status == 401
        assert page.ask("/status.json", Authorization=f"Bearer {token}", **through_proxy).status == 200


@pytest.mark.parametrize(
    ("host", "token", "names", "is_made"),
    [("0.0.0.0", None, [], True), ("127.0.0.1", None, ["box"], True), ("0.0.0.0", TOKEN, [], False),
     ("127.0.0.1", TOKEN, ["box"], False), ("127.0.0.1", None, [], False)],
)  # fmt: skip
def test_the_page_tells_whether_it_made_the_token_itself(host, token, names, is_made):
    with PageSink(host, 0, token, names=names) as sink:
        assert sink.made_token is is_made
        assert ("token=" in sink.announcement()) is is_made


@pytest.mark.parametrize("token", ["", "short", "sixteen letters!", "a" * 15, "a/b?c&d=e" * 4])
def test_a_poor_token_is_refused(token):
    with pytest.raises(UsageError, match="the page's token: expected 16 or more letters"):
        PageSink("127.0.0.1", 0, token)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000"])
def test_this_computers_names_are_known(host):
    assert Guard("127.0.0.1").knows_host(host)


@pytest.mark.parametrize(
    "host",
    [None, "", "example.com", "localhost.example.com", "10.0.0.1", "127.0.0.1.nip.io", "user@localhost", "localhost/",
     "localhost:1:2", "127.0.0.1%x.example.com", "127.0.0.1%1", "[::1", "local host", "localhost\\.example.com",
     "evil.example#localhost"],
)  # fmt: skip
def test_names_of_others_are_not(host):
    assert not Guard("127.0.0.1").knows_host(host)


def test_a_page_for_others_answers_to_numbers_its_own_name_and_names_it_was_given():
    guard = Guard("0.0.0.0", TOKEN, ["studio.example.org"])

    assert all(guard.knows_host(host) for host in ("192.168.1.5:8000", "studio.example.org", socket.gethostname()))
    assert not guard.knows_host("example.org")


@given(st.text(min_size=1) | st.text("[]:.%@/\\x0127", min_size=1), st.integers(0, 65535))
def test_no_name_that_only_begins_or_ends_like_ours_is_known(name, port):
    guard = Guard("127.0.0.1", names=["studio"])

    assert guard.knows_host(f"studio:{port}")
    assert not guard.knows_host(f"x{name}:{port}")
    assert not guard.knows_host(f"studio{name}x:{port}")
    assert not guard.knows_host(f"127.0.0.1{name}x:{port}")


# -- starting and ending ----------------------------------------------------------------------------------------------


def test_a_port_in_use_is_said_in_a_line():
    with PageSink("127.0.0.1", 0) as first, pytest.raises(SinkError) as raised:
        PageSink("127.0.0.1", int(first.address.rstrip("/").rpartition(":")[2]))

    assert re.fullmatch(
        r"the page's address 127\.0\.0\.1:\d+ cannot be used \(Address already in use\); choose another port",
        str(raised.value),
    )


def test_an_address_that_is_not_ours_is_said_in_a_line():
    with pytest.raises(
        SinkError, match=r"the page's address 192\.0\.2\.1:0 cannot be used \(.*\); choose another port"
    ):
        PageSink("192.0.2.1", 0)


def test_without_aiohttp_the_error_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("aiohttp", "i2i_runtime.sinks.page.server"))]:
        monkeypatch.delitem(sys.modules, name)
    importing = builtins.__import__

    def without_aiohttp(name, *arguments, **options):
        if name.partition(".")[0] == "aiohttp":
            raise ModuleNotFoundError("No module named 'aiohttp'")
        return importing(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_aiohttp)

    with pytest.raises(UsageError, match=r"the page needs aiohttp \(.*\); pip install 'i2i\[preview\]'"):
        PageSink("127.0.0.1", 0)


def test_the_end_of_the_run_ends_the_streams(tmp_path):
    with served(tmp_path) as page:
        messages = page.messages()
        next(messages)
        page.pipeline.stop()

        assert sum(1 for _ in messages) < 100
    with pytest.raises(OSError):  # noqa: PT011  (refused or reset)
        page.ask("/")


def test_a_new_run_takes_the_same_port_at_once(tmp_path):
    with served(tmp_path) as page:
        port = page.port
        next(page.messages())
    with served(tmp_path, port=port) as page:
        assert page.ask("/").status == 200


def test_the_summary_counts_frames_and_viewers(page: Page):
    next(page.messages())

    assert re.fullmatch(
        r"\d+ frames at http://127\.0\.0\.1:\d+/, at most [1-9]\d* viewers? at once", page.sink.summary()
    )
