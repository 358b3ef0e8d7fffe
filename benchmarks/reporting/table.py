"""What a record says, on a terminal."""

from __future__ import annotations

import statistics
import string
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from measuring.figures import words
from measuring.record import Record
from measuring.spread import Ratio
from reporting.standing import Group, Note, Standing, groups, one_line

_PLAIN_WIDTH = 100
"""Columns where nobody looks at a terminal."""
_LONGEST_NAME = 36
LEGEND = (
    "times as fast: median and 10th to 90th percentile of the rounds, of fewer than ten lowest to highest; "
    "±: half the range of the turns' medians; "
    "images/s: at p50; peak: of the fastest products measured here"
)
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
_GAP = 2
"""Columns between two of the table."""


class Column(NamedTuple):
    """One figure of all rows of a group."""

    title: str
    unit: str
    """Empty where the title says it."""
    cells: list[str]
    """In the order of the group's standings; `-` where a row has none."""


def show(record: Record, console: Console) -> None:
    """Print a table for each size and batch, what is to be minded, the advice, and what was left out.

    A terminal that is too narrow for a table has its last columns below it, and a file or a pipe has 100 columns.
    """
    width = console.width if console.is_terminal else _PLAIN_WIDTH
    for group in groups(record):
        _show_group(group, console, width)
    if any(row.turns for row in record.rows):
        _say(console, f"{LEGEND}; load, first: medians of the starts\n")
    for title, sentences in (("what to do", record.advice), ("left out", record.left_out)):
        if sentences:
            _say(console, Text(title, style="bold"))
            for sentence in sentences:
                _say(console, f"- {one_line(sentence)}")


def columns(group: Group) -> dict[str, Column]:
    """Figures of those that ran, as text, in the order of `FIGURES`.

    What none of them has is left out.
    """
    found: dict[str, Column] = {}
    for key, figure in FIGURES.items():
        cells = [figure.of(each) for each in group.standings]
        if any(cell is not None for cell in cells):
            found[key] = Column(figure.title, figure.unit, [cell if cell is not None else "-" for cell in cells])
    if "speedup" in found and group.baseline is not None:
        found["speedup"].cells[group.standings.index(group.baseline)] = "1 (baseline)"
    return found


def marks(notes: Sequence[Note], standings: Sequence[Standing]) -> tuple[list[str], list[str]]:
    """Footnotes: what follows the name of each row, and the lines below the table.

    What holds for every row has no mark, and says so.
    """
    letters: list[list[str]] = [[] for _ in standings]
    marked: list[str] = []
    of_all: list[str] = []
    for note in notes:
        holds = [any(each.row is row for row in note.rows) for each in standings]
        if all(holds) and len(holds) > 1:
            of_all.append(f"all: {note.text}")
            continue
        letter = string.ascii_lowercase[len(marked)]
        marked.append(f"({letter}) {note.text}")
        for own, held in zip(letters, holds, strict=True):
            own += [letter] * held
    return [f" ({', '.join(own)})" if own else "" for own in letters], marked + of_all


def digits(value: float) -> str:
    """Three digits, or all that stand before the point.

    >>> digits(0.1234), digits(1.234), digits(56.78), digits(1234.5)
    ('0.123', '1.23', '56.8', '1234')
    """
    places = next((places for places, least in enumerate((99.95, 9.995, 0.9995)) if value >= least), None)
    return f"{value:.{places}f}" if places is not None else f"{value:#.3g}"


def quantity(value: float, unit: str) -> str:
    """With the prefix of its size.

    >>> quantity(1.2e12, "FLOP/s"), quantity(31e9, "B/s"), quantity(12.0, "B")
    ('1.20 TFLOP/s', '31.0 GB/s', '12.0 B')
    """
    scale, prefix = prefixed(value)
    return f"{digits(value / scale)} {prefix}{unit}"


def prefixed(value: float) -> tuple[float, str]:
    """What the prefix of its size stands for, and the prefix."""
    return next(((scale, prefix) for scale, prefix in _PREFIXES if value >= scale), (1.0, ""))


def times(ratio: Ratio) -> str:
    """A ratio with its range, in as many digits as it is worth.

    >>> times(Ratio(2.0, 1.9, 2.1)), times(Ratio(21.0, 20.1, 22.4))
    ('2.00 (1.90 to 2.10)', '21.0 (20.1 to 22.4)')
    """
    return words(ratio, ".1f" if ratio.median >= 10 else ".2f" if ratio.median >= 0.1 else ".2g")


def shortened(name: str, longest: int) -> str:
    """Without its middle where it is longer: libraries stand in front, precisions at the end.

    >>> shortened("ONNX Runtime CPU int8", 12)
    'ONNX R… int8'
    """
    if cell_len(name) <= longest:
        return name
    tail = longest // 2 - 1
    return f"{name[: longest - tail - 1]}…{name[len(name) - tail :]}"


def _quality(standing: Standing) -> str | None:
    quality = standing.row.quality
    if quality is None:
        return None
    return "same" if standing.is_same else f"{quality.psnr_db:.1f}"


def _similarity(standing: Standing) -> str | None:
    quality = standing.row.quality
    return None if quality is None or quality.ssim is None else f"{quality.ssim:.3f}"


def _limit(standing: Standing) -> str | None:
    """Its first word; the sentence is too long for a table."""
    roof = standing.row.roof
    return None if roof is None else one_line(roof.limit).partition(":")[0]


def _milliseconds(seconds: Iterable[float]) -> str | None:
    return _number(1e3 * second for second in seconds)


def _number(values: Iterable[float]) -> str | None:
    """Of the median."""
    found = list(values)
    return digits(statistics.median(found)) if found else None


def _optional(value: float | None) -> str | None:
    return None if value is None else digits(value)


class Figure(NamedTuple):
    """What a column shows of a row."""

    title: str
    unit: str
    """Empty where the title says it."""
    of: Callable[[Standing], str | None]
    """None where a row has none."""


FIGURES = {
    "speedup": Figure("times as fast", "", lambda each: None if each.speedup is None else times(each.speedup)),
    "p50": Figure("p50", "ms", lambda each: digits(1e3 * each.times.p50)),
    "p90": Figure("p90", "ms", lambda each: digits(1e3 * each.times.p90)),
    "p99": Figure("p99", "ms", lambda each: digits(1e3 * each.times.p99)),
    "spread": Figure("±", "%", lambda each: f"{100 * each.spread:.1f}"),
    "rate": Figure("images", "/s", lambda each: digits(each.images_per_second)),
    "psnr": Figure("PSNR", "dB", _quality),
    "ssim": Figure("SSIM", "", _similarity),
    "peak": Figure("peak", "%", lambda each: None if each.row.roof is None else f"{each.row.roof.percent_of_peak:.0f}"),
    "limit": Figure("limit", "", _limit),
    "load": Figure("load", "s", lambda each: _number(each.row.load_s)),
    "first": Figure("first", "ms", lambda each: _milliseconds(each.row.first_s)),
    "host": Figure("host", "MiB", lambda each: _optional(each.row.host_mib)),
    "device": Figure("GPU", "MiB", lambda each: _optional(each.row.device_mib)),
    "power": Figure("power", "W", lambda each: _optional(each.row.readings.power_w)),
    "energy": Figure("energy", "J/image", lambda each: _optional(each.joules_per_image)),
}
"""The most telling first."""


def _show_group(group: Group, console: Console, width: int) -> None:
    title = group.title
    if group.baseline is not None:
        title += f"; times as fast as {group.baseline.label}"
    if group.reference is not None:
        title += "" if group.reference is group.baseline else f"; PSNR and SSIM to {group.reference.label}"
    _say(console, Text(title, style="bold"))
    if group.standings:
        behind, lines = marks(group.notes, group.standings)
        names = [
            shortened(each.label, _LONGEST_NAME) + mark for each, mark in zip(group.standings, behind, strict=True)
        ]
        for some in _fitting(list(columns(group).values()), width - max(map(cell_len, names))):
            _print(_table(group, names, some), console)
        for line in lines:
            _say(console, line)
    for name, reason in group.failed:
        _say(console, f"{name} failed: {reason}")
    console.print()


def _fitting(all_columns: Sequence[Column], room: int) -> list[list[Column]]:
    """In as many tables as it takes; each has at least one column."""
    found: list[list[Column]] = []
    left = 0
    for column in all_columns:
        needed = _GAP + _width(column)
        if not found or needed > left:
            found.append([])
            left = room
        found[-1].append(column)
        left -= needed
    return found


def _width(column: Column) -> int:
    return max(map(cell_len, (column.title, column.unit, *column.cells)))


def _table(group: Group, names: Sequence[str], some: Sequence[Column]) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, width=None)
    table.add_column("\nengine" if any(column.unit for column in some) else "engine", no_wrap=True)
    has_units = any(column.unit for column in some)
    for column in some:
        title = f"{column.title}\n{column.unit}" if has_units else column.title
        table.add_column(title, justify="left" if column.title == "limit" else "right", no_wrap=True)
    for number, name in enumerate(names):
        is_best = group.standings[number] is group.best
        cells = [Text(text) for text in (name, *(column.cells[number] for column in some))]
        table.add_row(*cells, style="bold" if is_best else "")
    return table


def _print(table: Table, console: Console) -> None:
    # By itself a table shrinks to 80 columns where there is no terminal.
    table.width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    console.print(table, soft_wrap=True)


def _say(console: Console, line: str | Text) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
