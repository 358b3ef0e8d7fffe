"""Statistics of runs, turns, rounds and starts: how fast, how sure, and whether it is stable yet.

Times are compared as ratios, on a logarithmic scale, of medians: a run that something else disturbed is late by any
amount, and never early.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from measuring.record import Turn

Values = NDArray[np.float64]

_DRIFTS = 0.01
"""A change over the last three windows that matters: half of the smallest that `compare.py` calls a change."""
_TREND_Z = 1.28
"""Sees a trend where there is none 1 time in 5: that costs a few runs more, and the other mistake a figure."""
_MANY = 10
"""Rounds of which the outermost ones may be left out."""
_STUDENT: Values = np.array(
    [
        (1, 63.657, 6.314),
        (2, 9.925, 2.920),
        (3, 5.841, 2.353),
        (4, 4.604, 2.132),
        (5, 4.032, 2.015),
        (6, 3.707, 1.943),
        (7, 3.499, 1.895),
        (8, 3.355, 1.860),
        (9, 3.250, 1.833),
        (10, 3.169, 1.812),
        (12, 3.055, 1.782),
        (15, 2.947, 1.753),
        (20, 2.845, 1.725),
        (30, 2.750, 1.697),
        (60, 2.660, 1.671),
        (math.inf, 2.576, 1.645),
    ]
)
"""Degrees of freedom; what Student's t stays within, to both sides, 99 times in 100; what it stays below 95 times."""


class Summary(NamedTuple):
    """Times of one row, in seconds."""

    p50: float
    """Over all runs of all turns, as are the next two."""
    p90: float
    p99: float
    low: float
    """Lowest median of a turn."""
    high: float
    """Highest median of a turn."""
    runs: int


class Ratio(NamedTuple):
    """A ratio taken within each round."""

    median: float
    low: float
    """10th percentile over the rounds; of fewer than ten the lowest."""
    high: float
    """90th percentile over the rounds; of fewer than ten the highest."""


class Difference(NamedTuple):
    """A difference of two means of logarithms, and how sure it is."""

    middle: float
    error: float
    """Standard error; infinite where nothing tells how sure it is."""
    freedom: float
    """Degrees of freedom of the error."""
    allowance: float = 0.0
    """That it may be wrong by, besides."""

    @property
    def half(self) -> float:
        """It lies within `middle` ± `half` 99 times in 100."""
        return self.allowance + _student(self.freedom, 1) * self.error

    def rules_out(self, size: float) -> bool:
        """Whether it is smaller than `size`, up and down, by two one-sided tests of 5 % (Schuirmann 1987)."""
        return abs(self.middle) + self.allowance + _student(self.freedom, 2) * self.error < size


def summary(turns: Sequence[Turn]) -> Summary:
    """Percentiles over all runs, and the range of the turns' medians.

    Raises:
        ValueError: no turn.
    """
    runs = np.concatenate([turn.seconds for turn in turns])
    p50, p90, p99 = (float(value) for value in np.percentile(runs, [50, 90, 99]))
    medians = [statistics.median(turn.seconds) for turn in turns]
    return Summary(p50, p90, p99, min(medians), max(medians), len(runs))


def speedup(turns: Sequence[Turn], baseline_turns: Sequence[Turn]) -> Ratio:
    """How many times as fast as the baseline: its median over the own one, in each round that both have.

    Raises:
        ValueError: no round that both have.
    """
    own, baseline = _round_medians(turns), _round_medians(baseline_turns)
    shared = own.keys() & baseline.keys()
    if not shared:
        raise ValueError("expected turns in the same rounds as the baseline's, found no round that both have")
    return over_rounds([baseline[number] / own[number] for number in shared])


def over_rounds(figures: Sequence[float] | Values) -> Ratio:
    """The median of some rounds and their range: see `Ratio`.

    Percentiles of few rounds would often leave out 1 where nothing differs: of three rounds, 3 times in 10.
    """
    tail = 10 if len(figures) >= _MANY else 0
    low, median, high = np.percentile(figures, (tail, 50, 100 - tail)).tolist()
    return Ratio(median=median, low=low, high=high)


def start_levels(turns: Iterable[Turn], yardstick: Sequence[Turn] = ()) -> Values:
    """One value for each start: the logarithm of the time, as the median over its rounds.

    Args:
        turns: of one row.
        yardstick: if given, a round counts as the ratio to the yardstick's median in that round, which takes out what
            the machine was like at the time; a round without it is left out.

    Returns:
        As many values as there are starts, in their order.
    """
    by_start: dict[int, list[Turn]] = defaultdict(list)
    for turn in turns:
        by_start[turn.start].append(turn)
    unit = _round_medians(yardstick)
    levels: list[float] = []
    for start in sorted(by_start):
        rounds = _round_medians(by_start[start])
        logs = [
            math.log(median) - (math.log(unit[number]) if yardstick else 0.0)
            for number, median in rounds.items()
            if not yardstick or number in unit
        ]
        if logs:
            levels.append(statistics.median(logs))
    return np.array(levels)


def start_tails(turns: Iterable[Turn]) -> Values:
    """One value for each start: the logarithm of its p99, each run taken relative to the median of its own turn."""
    by_start: dict[int, list[Values]] = defaultdict(list)
    for turn in turns:
        by_start[turn.start].append(np.array(turn.seconds) / statistics.median(turn.seconds))
    return np.array([math.log(np.percentile(np.concatenate(by_start[start]), 99)) for start in sorted(by_start)])


def difference(before: Values, after: Values) -> Difference:
    """How much the mean of `after` lies above that of `before`.

    What is independent from one another are the starts, not the rounds or the runs: within a process all share its
    luck (Kalibera and Jones 2013, Rigorous Benchmarking in Reasonable Time; Curtsinger and Berger 2013, Stabilizer).
    So each start is one value, and the error is that of Welch (1947), who lets the two sides be unlike in their noise.
    Of two to six starts a bootstrap would come out too narrow.

    Args:
        before: one logarithm for each start.
        after: of the other run.

    Raises:
        ValueError: no start on one side.
    """
    sides = (before, after)
    if not all(map(len, sides)):
        raise ValueError("expected at least one start on either side, found none")
    middle = float(np.mean(after) - np.mean(before))
    if min(map(len, sides)) < 2:
        return Difference(middle, math.inf, 1)
    parts = [float(np.var(side, ddof=1)) / len(side) for side in sides]
    variance = sum(parts)
    if variance == 0:
        return Difference(middle, 0.0, 1)
    freedom = variance**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True))
    return Difference(middle, math.sqrt(variance), freedom)


def is_stable(seconds: Sequence[float], window: int) -> bool:
    """Whether runs have stopped getting faster or slower; asked after each run or window.

    The last three windows of runs count. They are not stable as long as the median of the third lies more than 1 %
    from that of the first *and* the runs follow a trend, up or down, as the test of Mann (1945) and Kendall finds it.
    So a steady fall is not stable however alike two neighbouring runs are, and a noisy machine is stable as soon as no
    trend stands out of its noise. A bound on the spread alone, such as the coefficient of variation of Georges et al.
    (2007, Statistically Rigorous Java Performance Evaluation), may never be met there.

    It misses a fall that is slow beside the noise of three windows, and cannot know of a step that is still to come
    (Barrett et al. 2017, Virtual Machine Warmup Blows Hot and Cold).

    Args:
        seconds: of each run so far.
        window: runs that are looked at together, 1 or more.
    """
    if len(seconds) < 3 * window:
        return False
    runs = np.array(seconds[-3 * window :])
    first, _, last = np.median(runs.reshape(3, window), axis=1)
    return bool(abs(last - first) <= _DRIFTS * first) or not _follows_a_trend(runs)


def _follows_a_trend(values: Values) -> bool:
    """Whether later values lie above, or below, earlier ones more often than chance lets them."""
    count = len(values)
    rising = float(np.sum(np.triu(np.sign(values[None, :] - values[:, None]), 1)))
    return abs(rising) > _TREND_Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)


def _round_medians(turns: Iterable[Turn]) -> dict[int, float]:
    """Median of all runs of each round."""
    by_round: dict[int, list[float]] = defaultdict(list)
    for turn in turns:
        by_round[turn.round].extend(turn.seconds)
    return {number: statistics.median(seconds) for number, seconds in by_round.items()}


def _student(freedom: float, column: int) -> float:
    # Logarithms over 1 / freedom are nearly straight: in between it is at most 4 % too wide, and never too narrow.
    return math.exp(np.interp(1 / freedom, 1 / _STUDENT[::-1, 0], np.log(_STUDENT[::-1, column])))
