"""How a figure grows with another one: points, and the law that they follow."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from measuring.spread import over_rounds

Kind = Literal["latency", "throughput", "efficiency", "memory", "export"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One place of a curve."""

    x: float
    label: str
    """What `x` is, for a person: `256x256`."""
    y: float
    """Median of `rounds`."""
    low: float
    """Lowest of `rounds`."""
    high: float
    """Highest of `rounds`."""
    rounds: tuple[float, ...]
    """In the order of the rounds; those of two points of a curve stand beside each other in time."""


@dataclass(frozen=True, kw_only=True)
class Law:
    """`y` as a power of `x`, by least squares on logarithms."""

    exponent: float
    """Median of those of single rounds."""
    low: float | None
    """With `high` the range of those of single rounds, as of a `Ratio`: how noisy it is; None of one round."""
    high: float | None
    off: float
    """By how much the point that fits least lies beside the law, as a share: whether it is one."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """`y` as a straight line of `x`, by least squares."""

    base: float
    """Where `x` is 0: median of those of single rounds, as is the slope."""
    slope: float
    low: float | None
    """With `high` the range of the slope, as of a `Law`; None of one round."""
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a plot, and one column of a table."""

    kind: Kind
    model: str
    engine: str
    """The library, or the step of an export."""
    graph: str | None
    """`dynamic`, `static`; None of an export."""
    points: tuple[Point, ...]
    law: Law | None = None
    line: Line | None = None

    @property
    def name(self) -> str:
        """Unlike that of any other curve of the kind and model."""
        return self.engine if self.graph is None else f"{self.engine}, {self.graph}"


def point(x: float, label: str, rounds: Sequence[float]) -> Point:
    """A place of a curve from what each round gave there."""
    return Point(x=x, label=label, y=statistics.median(rounds), low=min(rounds), high=max(rounds), rounds=tuple(rounds))


def law_of(points: Sequence[Point]) -> Law | None:
    """The power law of some points.

    Args:
        points: with `x` and `y` above 0.

    Returns:
        None where there are fewer than two different `x`.
    """
    if len({each.x for each in points}) < 2:
        return None
    x = np.log([each.x for each in points])
    fits = [np.polyfit(x, np.log(values), 1) for values in _by_round(points)]
    exponent, low, high = over_rounds([slope for slope, _ in fits])
    # What is left of the medians, beside the line of that slope which lies amid them.
    beside = np.log([each.y for each in points]) - exponent * x
    off = math.expm1(float(np.max(np.abs(beside - np.mean(beside)))))
    is_ranged = len(fits) > 1
    return Law(exponent=exponent, low=low if is_ranged else None, high=high if is_ranged else None, off=off)


def line_of(points: Sequence[Point]) -> Line | None:
    """The straight line of some points; None where there are fewer than two different `x`."""
    if len({each.x for each in points}) < 2:
        return None
    fits = [np.polyfit([each.x for each in points], values, 1) for values in _by_round(points)]
    slope, low, high = over_rounds([slope for slope, _ in fits])
    base = statistics.median(float(base) for _, base in fits)
    is_ranged = len(fits) > 1
    return Line(base=base, slope=slope, low=low if is_ranged else None, high=high if is_ranged else None)


def _by_round(points: Sequence[Point]) -> list[list[float]]:
    """What all of them had in each round that all have."""
    return [[each.rounds[number] for each in points] for number in range(min(len(each.rounds) for each in points))]


def grouped(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Those of a kind and model together, in the order in which the first of each came."""
    keys = dict.fromkeys((curve.model, curve.kind) for curve in curves)
    return [[curve for curve in curves if (curve.model, curve.kind) == key] for key in keys]
