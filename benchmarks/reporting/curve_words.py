"""What curves say, in words and in tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rich.table import Table

from measuring.curves import Curve, Kind, Point
from measuring.figures import ratio, words
from reporting.table import digits


class Shown(NamedTuple):
    """How curves of a kind are shown."""

    title: str
    x: str
    y: str
    """With its unit."""
    scale: float
    """From what a point holds to that unit."""
    is_power: bool
    """Whether a power law is to be seen as a straight line."""


SHOWN: dict[Kind, Shown] = {
    "latency": Shown("Latency against pixels", "pixels", "ms", 1e3, True),
    "throughput": Shown("Throughput against batch", "batch", "images a second", 1.0, False),
    "efficiency": Shown("Parallel efficiency against threads", "threads", "% of ideal", 100.0, False),
    "memory": Shown("Peak memory against pixels", "pixels", "MiB", 1.0, False),
    "export": Shown("Time of an export against parameters", "parameters", "s", 1.0, True),
}


def table_of(curves: Sequence[Curve]) -> Table:
    """One table of curves that are of the same kind and model: medians, and the range of the rounds."""
    shown = SHOWN[curves[0].kind]
    table = Table(title=f"{curves[0].model}: {shown.title[0].lower()}{shown.title[1:]}, {shown.y}")
    table.add_column(shown.x, justify="right")
    for curve in curves:
        table.add_column(curve.name, justify="right")
    for label, cells in rows_of(curves):
        table.add_row(label, *cells)
    return table


def rows_of(curves: Sequence[Curve]) -> list[tuple[str, list[str]]]:
    """The label of each place, and what each curve has there."""
    scale = SHOWN[curves[0].kind].scale
    # Sizes of as many pixels, such as 256x256 and 128x512, are two places.
    places = {each.label: each.x for curve in curves for each in curve.points}
    by_label = [{each.label: _cell(each, scale) for each in curve.points} for curve in curves]
    return [(label, [cells.get(label, "-") for cells in by_label]) for label in sorted(places, key=places.__getitem__)]


def _cell(each: Point, scale: float) -> str:
    middle, low, high = (digits(value * scale) for value in (each.y, each.low, each.high))
    return middle if low == high else f"{middle} ({low} to {high})"


def findings(curves: Sequence[Curve]) -> list[str]:
    """One sentence for each curve, and one for what a graph of free sizes costs."""
    found = [line for curve in curves for line in _SAY[curve.kind](curve)]
    return found + list(_cost_of_free_sizes(curves))


def _latency(curve: Curve) -> Iterator[str]:
    yield from _law(curve, "latency grows as pixels")


def _export(curve: Curve) -> Iterator[str]:
    yield from _law(curve, "time grows as parameters")


def _law(curve: Curve, grows: str) -> Iterator[str]:
    """Nothing of a single round, which does not say how noisy it is."""
    law = curve.law
    if law is None or law.low is None or law.high is None:
        return
    found = f"{curve.model}, {curve.name}: {grows}^{law.exponent:.2f} ({law.low:.2f} to {law.high:.2f})"
    yield found if len(curve.points) < 3 else f"{found}; no point is more than {law.off:.0%} off that"


def _throughput(curve: Curve) -> Iterator[str]:
    first, *others = curve.points
    if first.x != 1 or not others:
        return
    best = max(others, key=lambda each: each.y)
    gain = words(ratio(best.rounds, first.rounds))
    yield f"{curve.model}, {curve.name}: batches of {best.label} give {gain} times the images a second of single ones"


def _efficiency(curve: Curve) -> Iterator[str]:
    quickest = max(curve.points, key=lambda each: each.x * each.y)
    gain = ratio([quickest.x * each for each in quickest.rounds], [1.0] * len(quickest.rounds))
    if quickest.x > 1:
        share = f"{quickest.y:.0%} of ideal"
        yield f"{curve.model}, {curve.name}: {quickest.label} threads are {words(gain)} times as fast as 1, {share}"
    else:
        yield f"{curve.model}, {curve.name}: more threads than 1 gain nothing"


def _memory(curve: Curve) -> Iterator[str]:
    """Nothing of a single start, as above."""
    line = curve.line
    if line is not None and line.low is not None and line.high is not None:
        base, slope, low, high = map(digits, (line.base, line.slope, line.low, line.high))
        yield (
            f"{curve.model}, {curve.name}: peak memory is {base} MiB, and {slope} ({low} to {high}) MiB more for each "
            "megapixel"
        )


_SAY: dict[Kind, Callable[[Curve], Iterator[str]]] = {
    "latency": _latency,
    "throughput": _throughput,
    "efficiency": _efficiency,
    "memory": _memory,
    "export": _export,
}


def _cost_of_free_sizes(curves: Sequence[Curve]) -> Iterator[str]:
    latencies = [curve for curve in curves if curve.kind == "latency"]
    for dynamic in latencies:
        for static in latencies:
            is_pair = (dynamic.model, dynamic.engine) == (static.model, static.engine)
            if is_pair and (dynamic.graph, static.graph) == ("dynamic", "static"):
                # Over all sizes that both have, and all rounds.
                fixed = {each.label: each.rounds for each in static.points}
                both = [each for each in dynamic.points if each.label in fixed]
                if not both:
                    continue
                free = [seconds for each in both for seconds in each.rounds]
                over = ratio(free, [seconds for each in both for seconds in fixed[each.label]])
                yield (
                    f"{dynamic.model}, {dynamic.engine}: a graph of free sizes takes {words(over)} times as long as "
                    "one of a fixed size"
                )
