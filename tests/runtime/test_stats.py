"""The figures of a run."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from i2i_runtime.sources.base import SourceHealth, SourceState
from i2i_runtime.stats import Stats, _rate


def test_a_run_that_has_not_begun_is_all_zeros():
    status = Stats().status()

    assert (status.captured, status.translated, status.dropped, status.failed, status.not_written) == (0, 0, 0, 0, 0)
    assert status.fps == 0.0
    assert status.translate_ms == status.latency_ms == (0.0, 0.0, 0.0)


def test_counts_add_up_from_many_threads():
    stats = Stats()

    with ThreadPoolExecutor(8) as pool:
        for _ in range(1000):
            pool.submit(stats.count, "captured")
            pool.submit(stats.count, "dropped", 2)
            pool.submit(stats.translated, 0.001)

    status = stats.status()
    assert (status.captured, status.dropped, status.translated) == (1000, 2000, 1000)


def test_a_counter_that_does_not_exist_is_our_own_mistake():
    with pytest.raises(KeyError):
        Stats().count("lost")


def test_percentiles_are_in_milliseconds():
    stats = Stats()

    for milliseconds in range(101):
        stats.translated(milliseconds / 1000)

    p50, p90, p99 = stats.status().translate_ms
    assert p50 == pytest.approx(50)
    assert p90 == pytest.approx(90)
    assert p99 == pytest.approx(99)


def test_percentiles_are_those_of_the_latest_frames():
    stats = Stats()

    for seconds in [9.0] * 100 + [0.01] * 600:
        stats.translated(seconds)

    assert stats.status().translate_ms == pytest.approx((10, 10, 10))


def test_latency_runs_from_capture_to_the_sink():
    stats = Stats()

    stats.written(time.monotonic() - 0.5)

    assert stats.status().latency_ms[0] == pytest.approx(500, abs=300)


def test_the_frame_rate_is_measured_between_translated_frames():
    stats = Stats()

    for _ in range(11):
        stats.translated(0.0)
        time.sleep(0.01)

    # 10 ms and what a busy machine adds to a sleep.
    assert 5 < stats.status().fps <= 100


@pytest.mark.parametrize(
    ("done", "now", "rate"),
    [
        ([i / 30 for i in range(300)], 10.0, 30),
        ([0.0, 5.0], 5.0, 0.2),  # rarer than the seconds it is taken over
        ([i / 30 for i in range(300)], 20.0, 0),  # it has ceased
        ([1.0], 1.0, 0),
        ([], 1.0, 0),
    ],
)
def test_the_frame_rate_is_that_of_the_last_seconds_and_falls_when_nothing_comes(done, now, rate):
    assert _rate(done, now) == pytest.approx(rate, rel=0.05, abs=0.2)


def test_the_status_is_json_with_the_state_of_every_source():
    stats = Stats()
    stats.translated(0.02)
    source = SourceHealth(name="camera_0", state=SourceState.STALLED, reconnects=2, message="no frame for 5 s")

    status = json.loads(json.dumps(stats.status("ONNX Runtime CPU", (source,)).as_dict()))

    assert status["translated"] == 1
    assert status["translate_ms"] == {"p50": 20.0, "p90": 20.0, "p99": 20.0}
    assert status["provider"] == "ONNX Runtime CPU"
    assert status["sources"][0]["state"] == "stalled"
    assert status["sources"][0]["reconnects"] == 2


def test_a_source_that_is_not_live_is_named_in_the_line():
    source = SourceHealth(name="camera_0", state=SourceState.RECONNECTING)

    assert Stats().status("", (source,)).line().endswith("camera_0: reconnecting")


def test_elapsed_time_goes_on_by_itself():
    stats = Stats()

    before = stats.status().elapsed
    time.sleep(0.02)

    assert stats.status().elapsed >= before + 0.02


def test_the_line_for_a_person_names_every_figure():
    stats = Stats()
    stats.count("captured", 5)
    stats.count("dropped", 2)
    stats.count("failed", 1)
    stats.translated(0.02)
    stats.translated(0.02)

    line = stats.status().line(frame_count=9)

    assert line.startswith("2/9 frames  ")
    assert "translate 20/20 ms" in line
    assert line.endswith("2 dropped  1 failed")


def test_the_line_of_an_endless_stream_names_no_total():
    assert Stats().status().line().startswith("0 frames  ")
