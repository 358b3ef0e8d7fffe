"""Statistics of runs, turns, rounds and starts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from measuring.record import Turn
from measuring.spread import Difference, difference, is_stable, speedup, start_levels, start_tails, summary

MILLISECONDS = st.floats(0.1, 1000)
SEEDS = st.integers(0, 2**32 - 1)
STARTS = st.integers(2, 12)
NOISES = st.floats(0.001, 0.5)


def turn(round_: int, *seconds: float, start: int = 0) -> Turn:
    return Turn(start=start, round=round_, seconds=seconds)


# summary


def test_percentiles_are_over_all_runs_and_the_range_is_that_of_the_turns_medians() -> None:
    found = summary([turn(0, *range(1, 52)), turn(1, *range(52, 102))])
    assert (found.p50, found.p90, found.p99) == (51, 91, 100)
    assert (found.low, found.high) == (26, 76.5)
    assert found.runs == 101


def test_one_late_run_moves_neither_the_median_nor_the_range() -> None:
    found = summary([turn(0, 1.0, 1.0, 9.0), turn(1, 1.0, 1.0, 1.0)])
    assert (found.p50, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.p99 > 8


# speedup


def test_a_speedup_is_taken_within_each_round() -> None:
    # The machine is four times as slow in the second round, and both feel it.
    own = [turn(0, 1.0), turn(1, 4.0), turn(2, 1.0)]
    baseline = [turn(0, 3.0), turn(1, 12.0), turn(2, 3.0)]
    assert speedup(own, baseline) == (3.0, 3.0, 3.0)


def test_a_speedup_leaves_out_rounds_that_only_one_has() -> None:
    found = speedup([turn(0, 1.0), turn(1, 1.0)], [turn(1, 2.0), turn(2, 50.0)])
    assert found.median == 2.0


def test_a_speedup_without_a_round_in_common_is_refused() -> None:
    with pytest.raises(ValueError, match="no round that both have"):
        speedup([turn(0, 1.0)], [turn(1, 1.0)])


@given(st.lists(st.tuples(MILLISECONDS, MILLISECONDS), min_size=1, max_size=12))
def test_the_speedup_of_the_other_over_this_is_the_reciprocal(rounds: list[tuple[float, float]]) -> None:
    own = [turn(number, mine) for number, (mine, _) in enumerate(rounds)]
    other = [turn(number, theirs) for number, (_, theirs) in enumerate(rounds)]
    there, back = speedup(own, other), speedup(other, own)
    if len(rounds) % 2:  # of an even number the median is a mean of two
        assert there.median == pytest.approx(1 / back.median)
    assert there.low <= there.median <= there.high


# start_levels


def test_a_start_is_the_median_of_its_rounds_relative_to_the_yardstick() -> None:
    own = [turn(0, 2.0), turn(1, 6.0), turn(2, 90.0), turn(3, 5.0, start=1)]
    yardstick = [turn(0, 1.0), turn(1, 2.0), turn(2, 1.0), turn(3, 1.0, start=1)]
    assert np.exp(start_levels(own, yardstick)) == pytest.approx([3.0, 5.0])


@given(st.lists(MILLISECONDS, min_size=6, max_size=6), st.lists(st.floats(0.5, 2), min_size=6, max_size=6))
def test_what_slows_row_and_yardstick_alike_leaves_no_trace(own: list[float], machine: list[float]) -> None:
    quiet = [turn(number, value, start=number // 3) for number, value in enumerate(own)]
    slowed = [turn(number, value * machine[number], start=number // 3) for number, value in enumerate(own)]
    yardstick = [turn(number, factor, start=number // 3) for number, factor in enumerate(machine)]
    assert start_levels(slowed, yardstick) == pytest.approx(start_levels(quiet))


def test_several_turns_of_the_yardstick_in_a_round_count_together() -> None:
    yardstick = [turn(0, 1.0), turn(0, 9.0), turn(0, 2.0)]
    assert np.exp(start_levels([turn(0, 4.0)], yardstick)) == pytest.approx([2.0])


def test_a_start_that_shares_no_round_with_the_yardstick_is_left_out() -> None:
    assert len(start_levels([turn(0, 1.0), turn(1, 1.0, start=1)], [turn(1, 1.0, start=1)])) == 1


def test_tails_are_relative_to_the_median_of_their_own_turn() -> None:
    # A slow turn is no tail; a late run is.
    even = [turn(0, *[1.0] * 50), turn(1, *[3.0] * 50)]
    late = [turn(0, *[1.0] * 49, 2.0), turn(1, *[3.0] * 49, 6.0)]
    assert np.exp(start_tails(even)) == pytest.approx([1.0])
    assert np.exp(start_tails(late))[0] == pytest.approx(2.0)


# difference


def levels(seed: int, many: int, others: int, noise: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of two runs, the second 3 % slower and twice as noisy."""
    random = np.random.default_rng(seed)
    return random.normal(0, noise, many), random.normal(0.03, 2 * noise, others)


@given(SEEDS, STARTS, STARTS, NOISES)
def test_the_interval_is_welchs_or_a_little_wider(seed: int, many: int, others: int, noise: float) -> None:
    before, after = levels(seed, many, others, noise)
    reference = stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.99)
    found = difference(before, after)
    assert found.middle == pytest.approx((reference.low + reference.high) / 2)
    assert 0.999 < found.half / ((reference.high - reference.low) / 2) < 1.05


@given(SEEDS, STARTS, STARTS, NOISES, st.floats(0.1, 10))
def test_ruling_out_is_two_one_sided_tests_of_5_percent(
    seed: int, many: int, others: int, noise: float, sizes: float
) -> None:
    before, after = levels(seed, many, others, noise)
    size = sizes * noise
    below = stats.ttest_ind(after - size, before, equal_var=False, alternative="less").pvalue
    above = stats.ttest_ind(after + size, before, equal_var=False, alternative="greater").pvalue
    rules_out = difference(before, after).rules_out(size)
    assert rules_out == (max(below, above) < 0.05) or max(below, above) == pytest.approx(0.05, rel=0.05)


def test_a_single_start_says_nothing_about_its_noise() -> None:
    found = difference(np.array([0.0]), np.array([0.1, 0.1, 0.1]))
    assert found.middle == pytest.approx(0.1)
    assert found.half == math.inf
    assert not found.rules_out(1e9)


def test_an_allowance_widens_the_interval_and_rules_out_less() -> None:
    sure = Difference(middle=0.0, error=0.01, freedom=8)
    wary = sure._replace(allowance=0.02)
    assert wary.half == pytest.approx(sure.half + 0.02)
    assert sure.rules_out(0.03)
    assert not wary.rules_out(0.03)


def test_no_start_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one start"):
        difference(np.array([]), np.array([1.0]))


# is_stable


def test_less_than_three_windows_are_not_stable() -> None:
    assert not is_stable([1.0] * 14, 5)
    assert is_stable([1.0] * 15, 5)


@given(
    fall=st.floats(0.006, 0.9),
    window=st.integers(1, 12),
    windows=st.integers(3, 12),
    first=st.floats(1e-5, 100),
)
def test_a_steady_fall_is_never_stable(fall: float, window: int, windows: int, first: float) -> None:
    # By `fall` from one window to the next, which in a window of 12 is 0.05 % from run to run.
    runs = [first * (1 - fall) ** (number / window) for number in range(windows * window)]
    assert not any(is_stable(runs[: count + 1], window) for count in range(len(runs)))


@given(rise=st.floats(0.006, 0.9), window=st.integers(1, 12))
def test_nor_is_a_steady_rise_such_as_of_a_machine_that_gets_hot(rise: float, window: int) -> None:
    assert not is_stable([(1 + rise) ** (number / window) for number in range(3 * window)], window)


@given(st.lists(MILLISECONDS, min_size=3, max_size=60), st.integers(1, 20), st.sampled_from([2.0**-10, 2.0**10]))
def test_the_unit_does_not_matter(runs: list[float], window: int, unit: float) -> None:
    assert is_stable(runs, window) == is_stable([run * unit for run in runs], window)


@given(st.lists(MILLISECONDS, min_size=1, max_size=30), st.integers(1, 6))
def test_what_was_before_the_last_three_windows_does_not_matter(before: list[float], window: int) -> None:
    assert is_stable([*before, *[1.0] * 3 * window], window)


@pytest.mark.parametrize("window", [1, 2, 5, 20])
@pytest.mark.parametrize("noise", [0.005, 0.03, 0.3])
def test_noise_around_a_constant_is_stable_soon(window: int, noise: float) -> None:
    windows = [windows_until_stable(lambda _: 1.0, window, noise, seed) for seed in range(200)]
    assert np.median(windows) == 3
    assert np.percentile(windows, 95) <= 5
    assert max(windows) <= 10


@pytest.mark.parametrize(("window", "noise", "left"), [(5, 0.005, 0.01), (5, 0.02, 0.02), (20, 0.02, 0.01)])
def test_a_warm_up_ends_when_little_of_the_fall_is_left(window: int, noise: float, left: float) -> None:
    # Half as slow again at first; of that, a window takes 40 %.
    def fall(windows: float) -> float:
        return 0.5 * math.exp(-windows / 2)

    windows = [windows_until_stable(lambda at: 1 + fall(at), window, noise, seed) for seed in range(100)]
    assert np.percentile([fall(count) for count in windows], 90) < left


def windows_until_stable(time_at: Callable[[float], float], window: int, noise: float, seed: int) -> int:
    """Asked once a window; noise is heavy-tailed."""
    random = np.random.default_rng(seed)
    runs: list[float] = []
    while not is_stable(runs, window):
        assert len(runs) < 100 * window
        runs += [time_at((len(runs) + i) / window) * math.exp(noise * random.standard_t(3)) for i in range(window)]
    return len(runs) // window
