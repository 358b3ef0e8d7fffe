"""From real engines to a verdict: the same thing twice is no change, and a slowdown of 5 % is found."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest
from sleepers import SlowedEngine

from measuring import probes
from measuring.comparison import compare
from measuring.environment import environment
from measuring.measurement import measure_ways
from measuring.rounds import Pace
from measuring.sensors import Sensors
from measuring.spread import summary
from measuring.untrained import save_untrained_checkpoint, untrained_card
from measuring.ways import Subject, Wanted, Way, find_ways

WANTED = Wanted(backends=("onnxruntime",), precisions=("fp32",), threads=1)
PACE = Pace(starts=6, rounds=18, seconds=0.5, warm_up_s=3.0)


@pytest.fixture
def _one_core():
    """Two programs on two cores would have two neighbours."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.usefixtures("_one_core")
@pytest.mark.quiet
@pytest.mark.timeout(900)
def test_two_runs_of_the_same_thing_are_no_change_and_a_sleep_of_5_percent_is_found(tmp_path, monkeypatch):
    checkpoint = save_untrained_checkpoint(tmp_path / "best.pt", untrained_card("resnet_6blocks", 16, (128, 128)))
    subject = Subject(checkpoint=checkpoint, engine=None, direction=None, is_trained=False, pictures=None)
    ways = find_ways(subject, WANTED, tmp_path, lambda what: None)
    (way,) = ways.ways
    # What the machine could do is another question, and takes its time.
    monkeypatch.setattr(probes, "probes", lambda *arguments: [])

    def record(way: Way):
        with Sensors("cpu") as sensors:
            return measure_ways(
                subject, WANTED, replace(ways, ways=[way]), PACE, {"cpu": sensors}, tmp_path,
                environment(sys.argv), lambda what, share: None,
            )  # fmt: skip

    # Others on this machine may make it too noisy to tell; they may be gone a little later.
    for _ in range(2):
        before, again = record(way), record(way)
        sleep_s = 0.05 * summary(before.rows[0].turns).p50
        slowed = record(replace(way, contestant=SlowedEngine(**vars(way.contestant), sleep_s=sleep_s)))
        (same,), (slower,) = compare(before, again).rows, compare(before, slowed).rows
        if "cannot tell" not in (same.verdict, slower.verdict):
            break

    assert same.verdict in ("no change", "cannot tell"), same
    assert slower.verdict in ("slower", "cannot tell"), slower
    if "cannot tell" in (same.verdict, slower.verdict):
        pytest.skip(f"this machine is too noisy to see 5 %: {same}; {slower}")
