"""Contestants take turns in processes of their own: measuring/rounds.py."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from sleepers import Sleeper

from measuring import rounds
from measuring.rounds import Pace, measure
from measuring.worker import Worker, _Served

QUICK = Pace(starts=2, rounds=3, seconds=0.02, runs=2, warm_up_s=0.2, rest_s=0.0)


def test_each_contestant_has_one_turn_in_each_round():
    found = measure([Sleeper(name="a"), Sleeper(name="b")], QUICK)

    assert {name: [turn.round for turn in measured.turns] for name, measured in found.items()} == {
        "a": [0, 1, 2],
        "b": [0, 1, 2],
    }


def test_rounds_are_shared_out_over_the_starts():
    (measured,) = measure([Sleeper(name="a")], QUICK).values()

    assert [turn.start for turn in measured.turns] == [0, 0, 1]
    assert len(measured.load_s) == len(measured.first_s) == len(measured.host_mibs) == 2


@pytest.mark.parametrize(("starts", "rounds"), [(1, 1), (3, 9), (4, 10), (5, 7)])
def test_no_round_is_lost_or_doubled(starts, rounds):
    pace = Pace(starts=starts, rounds=rounds)

    assert [number for start in range(starts) for number in pace.rounds_of(start)] == list(range(rounds))
    assert all(pace.rounds_of(start) for start in range(starts))


def test_a_turn_is_as_long_and_has_as_many_runs_as_was_asked_for():
    sleepers = [Sleeper(name="long", seconds=0.05), Sleeper(name="short", seconds=0.001)]

    found = measure(sleepers, QUICK)

    assert all(len(turn.seconds) == 2 for turn in found["long"].turns)
    assert all(sum(turn.seconds) >= 0.01 and len(turn.seconds) > 2 for turn in found["short"].turns)


def test_a_run_is_timed_whole():
    (measured,) = measure([Sleeper(name="a", seconds=0.01)], QUICK).values()

    assert min(seconds for turn in measured.turns for seconds in turn.seconds) >= 0.01


def test_loading_and_the_first_run_are_timed_apart():
    (measured,) = measure([Sleeper(name="a", load_s=0.2, first_s=0.4)], QUICK).values()

    assert min(measured.load_s) >= 0.2
    assert min(measured.first_s) >= 0.4
    assert max(measured.load_s) < min(measured.first_s) + 5


def test_each_contestant_lives_in_a_process_of_its_own():
    questions = [[np.array([7])]]

    found = measure([Sleeper(name="a"), Sleeper(name="b")], QUICK, questions={"a": questions, "b": questions})

    pids = {int(measured.answers[0][0]) for measured in found.values()}
    assert len(pids | {os.getpid()}) == 3


def test_questions_are_answered_once_and_in_order():
    (measured,) = measure([Sleeper(name="a")], QUICK, questions={"a": [[np.array([1])], [np.array([2])]]}).values()

    assert [int(answer[1]) for answer in measured.answers] == [1, 2]


def test_one_that_refuses_says_why_and_the_others_go_on():
    found = measure([Sleeper(name="a", refuses=True), Sleeper(name="b")], QUICK)

    assert found["a"].failure == "a: expected a model, found a pillow"
    assert not found["a"].turns
    assert len(found["b"].turns) == 3


def test_one_whose_process_dies_says_so_and_the_others_go_on():
    found = measure([Sleeper(name="a", dies_at=20), Sleeper(name="b")], QUICK)

    assert found["a"].failure == "its process was ended by SIGKILL; the system may have run out of memory"
    assert found["b"].failure is None
    assert len(found["b"].turns) == 3


def test_the_process_of_one_that_fails_is_ended_before_the_others_go_on(monkeypatch):
    workers = []

    class Noted(Worker):
        def __init__(self, contestant):
            super().__init__(contestant)
            workers.append(self)

    monkeypatch.setattr(rounds, "Worker", Noted)
    lives = []
    measure(
        [Sleeper(name="a", refuses=True), Sleeper(name="b")],
        Pace(starts=1, rounds=1, seconds=0.0, runs=1, warm_up_s=0.0, rest_s=0.0),
        on_progress=lambda what, share: lives.append([worker._process.is_alive() for worker in workers]),
    )

    assert lives[-1] == [False, True]


@pytest.mark.parametrize(("run_s", "is_cold"), [(0.06, True), (0.3, False)])
def test_a_part_of_a_turn_begins_with_a_run_that_does_not_count_unless_runs_are_long(tmp_path, run_s, is_cold):
    served = _Served(Sleeper(name="a", seconds=run_s, log=tmp_path / "log"))
    served.open()
    served.warm_up(0.0)

    counted = served.turn(0.15, 1)

    assert len((tmp_path / "log").read_text().split()) == 2 + is_cold + len(counted)


def test_three_long_runs_are_not_called_stable():
    served = _Served(Sleeper(name="a", seconds=0.4))
    served.open()

    assert not served.warm_up(1.3).is_stable


def test_too_short_a_warm_up_is_called_unstable():
    patient = Pace(starts=1, rounds=1, seconds=0.0, runs=1, warm_up_s=0.5, rest_s=0.0)

    (measured,) = measure([Sleeper(name="a", seconds=0.4)], patient).values()

    assert not measured.is_stable
    assert measured.warm_up_runs == [2]


@pytest.mark.parametrize(
    ("run_s", "parts"),
    [(0.001, 6), (0.05, 6), (0.25, 2), (0.5, 1), (3.0, 1)],
)
def test_a_turn_is_split_into_parts_that_still_have_two_runs_each(run_s, parts):
    assert Pace(seconds=1.0, runs=2).parts(run_s) == parts


def test_the_parts_of_a_turn_are_mixed_with_those_of_the_others(tmp_path):
    logs = [tmp_path / "a", tmp_path / "b"]
    sleepers = [Sleeper(name=log.name, seconds=0.02, log=log) for log in logs]

    found = measure(sleepers, Pace(starts=1, rounds=1, seconds=0.9, runs=2, warm_up_s=0.1, rest_s=0.0))

    a, b = (np.array([float(line) for line in log.read_text().split()]) for log in logs)
    while_a_waits = b[(b > a[-20]) & (b < a[-1])]
    assert len(while_a_waits) >= 10
    assert [turn.round for turn in found["a"].turns] == [0]
    assert len(found["a"].turns[0].seconds) >= 30


def test_progress_reaches_the_end():
    seen = []

    measure([Sleeper(name="a")], QUICK, on_progress=lambda what, share: seen.append((what, share)))

    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert seen[-1] == ("round 3 of 3: a", pytest.approx(1 - 1 / len(seen)))


def test_the_processes_are_gone_afterwards():
    found = measure([Sleeper(name="a")], QUICK, questions={"a": [[np.array([1])]]})

    pid = int(found["a"].answers[0][0])
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"process {pid} lives on")
