"""The rules by which a live source comes back: pauses, attempts, and what is an end."""

from __future__ import annotations

import functools
import http.server
import itertools
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from videos import count_playable, moving_pictures, unknown, write_video

from i2i_runtime.errors import SourceError, UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.sources import live
from i2i_runtime.sources.base import Source, SourceRefusedError, SourceState, StreamInfo, usable_rate
from i2i_runtime.sources.live import LiveOptions, LiveSource
from i2i_runtime.sources.open import open_source
from i2i_runtime.sources.stream import StreamSource


class Scripted(Source):
    """Delivers a number of frames and then ends, with an error or without."""

    def __init__(self, frames: int, *, error: Exception | None = None, is_live: bool = True) -> None:
        self._frames = frames
        self._error = error
        self.was_closed = False
        self.skipped = []
        self.info = StreamInfo(name="scripted", is_live=is_live, fps=Fraction(30))

    def __iter__(self):
        for index in range(self._frames):
            image = np.full((2, 2, 3), index, np.uint8)
            yield Frame(image=image, index=index, captured_at=time.monotonic(), name="x", timestamp=Fraction(index))
        if self._error:
            raise self._error

    def close(self) -> None:
        self.was_closed = True


class Opener:
    """What each attempt to connect meets, one after another."""

    def __init__(self, *script: Source | Exception) -> None:
        self._script = iter(script)
        self.attempts = 0

    def __call__(self) -> Source:
        self.attempts += 1
        met = next(self._script)
        if isinstance(met, Exception):
            raise met
        return met


@pytest.fixture
def pauses(monkeypatch):
    """Pauses are noted and not waited for."""
    noted: list[float] = []
    monkeypatch.setattr(live, "_JITTER", 0.0)
    real = live._pause
    monkeypatch.setattr(live, "_pause", lambda attempts, failure: noted.append(real(attempts, failure)) or 0.0)
    return noted


GONE = SourceError("it is gone")


@pytest.fixture
def good_at_once(monkeypatch):
    """The first frame shows that a connection is good."""
    monkeypatch.setattr(live, "_GOOD_AFTER", 0.0)


def test_pauses_grow_to_ten_seconds_and_begin_anew_after_a_good_connection(pauses, good_at_once):
    opener = Opener(Scripted(1), *[GONE] * 7, Scripted(1), *[GONE] * 2, Scripted(0))
    source = LiveSource(opener, "camera", LiveOptions(reconnect=8))

    list(itertools.islice(source, 2))
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10, 10]


def test_pauses_vary_by_a_fifth_so_that_cameras_do_not_come_back_in_step():
    pauses = [live._pause(3, GONE) for _ in range(300)]

    assert 4 * 0.8 <= min(pauses) < 4 * 0.85
    assert 4 * 1.15 < max(pauses) <= 4 * 1.2


def test_a_source_that_refuses_is_asked_again_after_ten_seconds_only(pauses):
    opener = Opener(
        Scripted(1), SourceRefusedError("wrong password"), SourceRefusedError("wrong password"), Scripted(1)
    )

    list(itertools.islice(LiveSource(opener, "camera"), 2))

    assert pauses == [0.5, 10, 10]


def test_attempts_are_counted_from_the_last_good_connection(pauses, good_at_once):
    opener = Opener(Scripted(1), GONE, Scripted(1), GONE, Scripted(1), GONE, GONE)
    source = LiveSource(opener, "camera", LiveOptions(reconnect=2))

    with pytest.raises(SourceError, match="it is gone; given up after 2 attempts to connect again"):
        list(source)

    assert opener.attempts == 7
    assert (source.health().state, source.health().reconnects) == (SourceState.LOST, 2)


def test_a_connection_that_breaks_soon_is_one_more_attempt_that_failed(pauses):
    opener = Opener(*[Scripted(5) for _ in range(9)])
    source = LiveSource(opener, "camera", LiveOptions(reconnect=3))

    with pytest.raises(SourceError, match="the connection was lost; given up after 3 attempts to connect again"):
        list(source)

    assert (opener.attempts, pauses) == (4, [0.5, 1, 2])


def test_a_source_that_is_not_there_at_the_start_is_an_error_at_once(pauses):
    opener = Opener(GONE)

    with pytest.raises(SourceError, match="it is gone"):
        LiveSource(opener, "camera")

    assert (opener.attempts, pauses) == (1, [])


def test_waiting_at_the_start_has_its_number_of_attempts_too(pauses):
    opener = Opener(GONE, GONE, GONE)
    source = LiveSource(opener, "camera", LiveOptions(retry_at_start=True, reconnect=2))
    waiting = source.health()

    with pytest.raises(SourceError, match="given up after 2 attempts"):
        list(source)

    assert (waiting.name, waiting.state, waiting.message) == ("camera", SourceState.OPENING, "it is gone")


def test_numbers_names_and_times_go_on_over_a_new_connection(pauses):
    source = LiveSource(Opener(Scripted(3), Scripted(3)), "camera")

    frames = list(itertools.islice(source, 6))

    assert [f.index for f in frames] == [0, 1, 2, 3, 4, 5]
    assert [f.name for f in frames] == [f"scripted_{i:08d}" for i in range(6)]
    assert [int(f.image[0, 0, 0]) for f in frames] == [0, 1, 2, 0, 1, 2]
    assert frames[0].timestamp == 0
    for a, b in itertools.pairwise(frames):
        assert float(b.timestamp - a.timestamp) == pytest.approx(b.captured_at - a.captured_at, abs=1e-5)


def test_every_connection_is_closed(pauses):
    connections = [Scripted(2), Scripted(2, error=GONE), Scripted(2)]
    source = LiveSource(Opener(*connections), "camera")

    with source:
        frames = iter(source)
        list(itertools.islice(frames, 5))
        frames.close()

    assert all(connection.was_closed for connection in connections)
    assert source.health().state is SourceState.ENDED


def test_what_a_library_raises_costs_a_connection_and_not_the_run(pauses):
    opener = Opener(Scripted(1, error=ZeroDivisionError("a bug")), AttributeError("no width"), Scripted(1))
    source = LiveSource(opener, "camera")

    assert len(list(itertools.islice(source, 2))) == 2
    assert source.health().message == "camera: an unexpected AttributeError (no width)"


def test_what_a_library_raises_where_nothing_is_tried_again_is_a_source_error_with_its_cause(pauses):
    source = LiveSource(Opener(Scripted(1, error=ZeroDivisionError("a bug"))), "camera", LiveOptions(reconnect=0))

    with pytest.raises(SourceError, match=r"camera: an unexpected ZeroDivisionError \(a bug\)") as error:
        list(source)

    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_an_error_of_the_user_is_not_tried_again(pauses):
    opener = Opener(Scripted(1), UsageError("no such option"))

    with pytest.raises(UsageError):
        list(LiveSource(opener, "camera"))


class Slow:
    """Opens a device that one program at a time may hold, and takes its time over the first attempt."""

    def __init__(self) -> None:
        self.may_open = threading.Event()
        self.held: Scripted | None = None

    def __call__(self) -> Source:
        if self.held is not None and not self.held.was_closed:
            raise SourceError("in use by another program")
        first = self.held is None
        self.held = Scripted(3)
        if first:
            assert self.may_open.wait(5)
        return self.held


def test_a_first_connection_that_opens_too_late_does_not_hold_the_device(pauses, monkeypatch):
    monkeypatch.setattr(live, "_OPEN_GRACE", 0.0)
    slow = Slow()
    source = LiveSource(slow, "camera", LiveOptions(retry_at_start=True, open_timeout_s=0.05))
    slow.may_open.set()

    assert len(list(itertools.islice(source, 3))) == 3


def test_a_first_connection_that_opens_too_late_is_closed_where_it_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(live, "_OPEN_GRACE", 0.0)
    slow = Slow()
    with pytest.raises(SourceError, match="no answer within"):
        LiveSource(slow, "camera", LiveOptions(open_timeout_s=0.05))
    slow.may_open.set()
    for thread in threading.enumerate():
        if thread.name == "connection":
            thread.join(5)

    assert slow.held.was_closed


def test_a_first_connection_that_hangs_counts_among_those_that_do(pauses, monkeypatch):
    monkeypatch.setattr(live, "_OPEN_GRACE", 0.0)
    monkeypatch.setattr(live, "_CLOSE_WITHIN", 0.05)
    release = threading.Event()
    source = LiveSource(
        lambda: release.wait() and Scripted(0), "camera", LiveOptions(retry_at_start=True, open_timeout_s=0.05)
    )

    try:
        with pytest.raises(SourceError, match="4 connections hang"):
            list(source)
    finally:
        release.set()


class Damaged(Scripted):
    """Passes one frame over after each good one."""

    def __iter__(self):
        for frame in super().__iter__():
            self.skipped.append(f"damaged after {frame.index}")
            yield frame


def test_damage_is_counted_and_named_while_the_connection_lasts_and_the_count_never_falls(pauses):
    source = LiveSource(Opener(Damaged(2), GONE, Damaged(2)), "camera")
    frames = iter(source)

    counts = []
    for _ in range(4):
        next(frames)
        counts.append(source.health().decode_errors)
        assert "damaged after 0" in source.skipped

    # A connection decodes one or two frames ahead.
    assert counts[0] >= 1
    assert counts == sorted(counts)
    assert counts[-1] == 4
    frames.close()


def test_a_source_that_is_not_live_has_an_end():
    opener = Opener(Scripted(3, is_live=False))
    source = LiveSource(opener, "clip")

    assert len(list(source)) == 3
    assert opener.attempts == 1
    assert source.health().state is SourceState.ENDED


def test_a_decoder_is_not_ahead_of_the_reader_by_more_than_the_two_frames_in_hand():
    class Counting(Scripted):
        made = 0

        def __iter__(self):
            for frame in super().__iter__():
                self.made += 1
                yield frame

    counting = Counting(100)
    with LiveSource(Opener(counting), "camera") as source:
        frames = iter(source)
        next(frames)
        time.sleep(0.1)
        made = counting.made
        frames.close()

    assert made <= 3


@pytest.mark.parametrize("stated", [0, -1, float("nan"), float("inf"), 90000, None, Fraction(0)])
def test_an_impossible_rate_becomes_30_and_is_said(stated):
    rate, note = usable_rate(stated)

    assert rate == 30
    assert note.endswith("30 assumed")


@pytest.mark.parametrize("stated", [25, 29.97002997, Fraction(30000, 1001), Fraction(1, 5)])
def test_a_possible_rate_is_kept_exactly(stated):
    rate, note = usable_rate(stated)

    assert float(rate) == pytest.approx(float(stated), rel=1e-6)
    assert note is None


@pytest.fixture
def web(tmp_path):
    """A folder on an HTTP server of this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_video_file_over_http_ends_where_it_ends_and_loses_nothing(web, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", moving_pictures(50), faststart=True)

    with open_source(f"{web}/clip.mp4") as source:
        frames = list(source)

    assert not source.info.is_live
    assert len(frames) == count_playable(clip) == 50
    assert source.health().state is SourceState.ENDED


def test_a_video_file_over_http_keeps_its_own_times_and_names(web, tmp_path):
    milliseconds = [0, 40, 80, 500, 900]
    write_video(tmp_path / "clip.mp4", moving_pictures(5), milliseconds=milliseconds, faststart=True)

    with open_source(f"{web}/clip.mp4") as source:
        frames = list(source)

    assert [float(f.timestamp) for f in frames] == pytest.approx([m / 1000 for m in milliseconds], abs=0.001)
    assert frames[-1].name.endswith("_000004")


def test_a_stream_without_a_decoder_is_refused_and_named(web, tmp_path):
    unknown(tmp_path / "clip.mkv")

    with pytest.raises(SourceError, match=r"/clip.mkv: no decoder for its video codec"):
        StreamSource(f"{web}/clip.mkv")


def test_what_holds_no_video_is_refused_and_named(web, tmp_path):
    (tmp_path / "page.html").write_text("<html>no video</html>" * 100)

    with pytest.raises(SourceError, match=r"/page.html: cannot be opened \(Invalid data"):
        StreamSource(f"{web}/page.html")
