"""What a record says, as pictures: how long runs take, at what cost in quality, how near the roof, whether it drifts.

All of one style: a colour for each backend, a mark for each precision. Matplotlib is imported when one is drawn.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines.choose import MIN_PSNR_DB
from i2i_runtime.errors import SinkError, system_reason
from measuring.record import Peak, Precision, Record, Turn
from reporting.standing import Group, Standing, one_line
from reporting.table import digits, prefixed, quantity, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

WIDTH = 8.0
"""Of every picture, in inches: text is then as large as a page's where a picture is 800 pixels wide."""
_DPI = 200
COLOURS = {
    "torch": "#E69F00",
    "torch-compile": "#D55E00",
    "onnxruntime": "#56B4E9",
    "openvino": "#0072B2",
    "tensorrt": "#009E73",
    "tensorrt-rtx": "#CC79A7",
}
"""By backend. Okabe and Ito 2008, Color Universal Design: told apart by those who see red and green alike."""
_OTHER = "#000000"
_INK, _PALE, _FAINT = "#222222", "#6b6b6b", "#dddddd"
_MARKERS: dict[Precision, str] = {"fp32": "o", "fp16": "s", "bf16": "D", "int8": "^"}
_DASHES: dict[Precision, tuple[int, tuple[int, ...]]] = {
    "fp32": (0, ()),
    "fp16": (0, (6, 2)),
    "bf16": (0, (4, 2, 1, 2)),
    "int8": (0, (1, 1)),
}
_STYLE = {
    "font.size": 9,
    # Names are the user's, and a `$` in one is no formula.
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _PALE,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _PALE,
    "ytick.color": _PALE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}
_LONGEST_NAME = 40
_MOST_DOTS = 300
"""Of one row; more would be a blot."""
_LOG_FROM = 20.0
"""Times the least that the most must be for a logarithmic scale."""
CAP_DB = 80.0
"""Nearer no 8-bit picture can tell: rounding to grey levels alone is as good as 59 dB."""
_STRONG = 0.20
"""The share of its median by which a round must be off for the full colour."""
_MOST_TICKS = 8
_MOST_NUMBERS = 16
"""Rounds whose cells have room for a number."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A picture that was drawn."""

    path: Path
    title: str
    reading: str
    """How to read it, in a sentence or two of plain text."""


def is_here() -> bool:
    """Whether matplotlib can be imported."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


# How long runs take ---------------------------------------------------------------------------------------------------


def distribution(group: Group, path: Path) -> Plot:
    """Every run of every row; needs at least one."""
    runs = [1e3 * np.sort(np.concatenate([turn.seconds for turn in each.row.turns])) for each in group.standings]
    least = min(float(values[0]) for values in runs)
    most = max(1e3 * each.times.p99 for each in group.standings)
    is_log = most > _LOG_FROM * least
    low, high = (least / 1.1, most * 1.2) if is_log else (least - 0.04 * (most - least), most + 0.07 * (most - least))
    if low == high:
        low, high = 0.9 * low, 1.1 * high
    names = [_name(each) for each in group.standings]
    ends = [_end(each, group) for each in group.standings]
    title = "How long a run takes"
    with picture(
        path,
        title=title,
        subtitle=f"{group.title}; each dot is a run, the bars are p50 (tall), p90 and p99 (short)",
        height=1.25 + 0.4 * len(names),
        left=names,
        right=ends,
    ) as axes:
        for place, (each, values) in enumerate(zip(group.standings, runs, strict=True)):
            _row_of_dots(axes, place, values, _colour(each), is_log, high)
            for seconds, half in ((each.times.p50, 0.36), (each.times.p90, 0.26), (each.times.p99, 0.16)):
                axes.vlines(1e3 * seconds, place - half, place + half, color=_INK, linewidth=2.4 if half > 0.3 else 1.3)
        axes.set_xlabel("ms, logarithmic" if is_log else "ms")
        if is_log:
            axes.set_xscale("log")
            _ticks(axes, low, high, along="x")
        axes.set_xlim(low, high)
        _rows(axes, names, ends)
    reading = (
        f"Further left is faster, narrower is steadier; behind each row stand its p50 and how many times as fast as "
        f"{group.baseline.label if group.baseline else 'the baseline'} it is."
    )
    return Plot(path=path, title=title, reading=reading)


def _row_of_dots(axes: Axes, place: int, values: Floats, colour: str, is_log: bool, high: float) -> None:
    """Dots as wide a band as there are many beside one another (a sina plot, Sidiropoulos et al. 2018)."""
    beyond = values[values > high]
    shown = values[np.linspace(0, len(values) - 1, min(len(values), _MOST_DOTS)).round().astype(int)]
    shown = shown[shown <= high]
    scale = np.log(shown) if is_log else shown
    if len(shown):
        span = float(scale[-1] - scale[0])
        bins = np.minimum((39 * (scale - scale[0]) / span).astype(int) if span > 0 else np.zeros(len(scale), int), 39)
        counts = np.convolve(np.bincount(bins, minlength=40), np.full(3, 1 / 3), "same")
        # Multiples of the golden ratio lie evenly, and not in stripes.
        spots = (np.arange(len(shown)) * (math.sqrt(5) - 1) / 2) % 1 - 0.5
        offsets = 0.56 * spots * counts[bins] / counts.max()
        axes.scatter(shown, place + offsets, s=9, color=colour, alpha=0.45, linewidths=0)
    if len(beyond):
        # Far to the right they would press all others together.
        axes.scatter([high], [place], s=22, marker=">", color=colour, clip_on=False, linewidths=0)
        text = f"{len(beyond)} more, up to {digits(float(beyond[-1]))}"
        axes.annotate(
            text, (high, place), (2, 5), textcoords="offset points", ha="right", va="bottom", fontsize=7, color=_PALE
        )


def _end(standing: Standing, group: Group) -> str:
    median = f"{digits(1e3 * standing.times.p50)} ms"
    if standing is group.baseline:
        return f"{median}, baseline"
    return median if standing.speedup is None else f"{median}, {digits(standing.speedup.median)} times"


# At what cost in quality ----------------------------------------------------------------------------------------------


def fidelity(group: Group, path: Path) -> Plot | None:
    """Speed against distance from the reference; None where fewer than two rows can be placed."""
    known = [each for each in group.standings if each.speedup is not None and each.row.quality is not None]
    placed = [
        each for each in group.standings if each in known or (each is group.reference and each.speedup is not None)
    ]
    if len(placed) < 2 or group.baseline is None:
        return None
    against = next(one_line(each.row.quality.against) for each in known if each.row.quality is not None)
    same = [each for each in placed if _decibels(each) >= CAP_DB]
    apart = [each for each in placed if _decibels(each) < CAP_DB]
    # Those in the band have a lane each, so that their names do not overlap.
    bottom = min([MIN_PSNR_DB - 10, *(_decibels(each) - 5 for each in apart)])
    inches = 2.0 + 0.1 * len(apart) if apart else 1.0
    lane = 0.2 * (CAP_DB - bottom) / inches
    top = CAP_DB + lane * (len(same) + 1.2)
    speeds = [_times(each) for each in placed]
    is_log = max(speeds) > _LOG_FROM * min(speeds)
    low, high = (min(speeds) / 1.5, max(speeds) * 1.5) if is_log else (0.0, 1.15 * max(speeds))
    title = "Speed against fidelity"
    with picture(
        path,
        title=title,
        subtitle=f"{group.title}; PSNR to {shortened(against, 40)}; grey: too far for --engine auto",
        height=1.3 + inches + 0.2 * (len(same) + 1.2),
        right=[_name(each) for each in apart],
    ) as axes:
        axes.set_xlim(low, high)
        axes.set_ylim(bottom, top)
        axes.axhspan(CAP_DB, top, color="#eaf3f8", linewidth=0)
        axes.axhspan(bottom, MIN_PSNR_DB, color="#f3f3f3", linewidth=0)
        axes.axhline(MIN_PSNR_DB, color=_PALE, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{CAP_DB:g} dB and more: no 8-bit picture shows the difference", (low, top), (4, -3),
            textcoords="offset points", va="top", fontsize=8, color=_PALE,
        )  # fmt: skip
        axes.grid(True, axis="x")
        axes.set_yticks(range(10 * math.ceil(bottom / 10), int(CAP_DB) + 1, 10))
        axes.set_ylabel("PSNR, dB")
        label = f"times as fast as {shortened(group.baseline.label, 50)}{', logarithmic' if is_log else ''}"
        axes.set_xlabel(_drawable(label))
        if is_log:
            axes.set_xscale("log")
            _ticks(axes, low, high, along="x")
        for place, each in enumerate(same):
            _beside(axes, _times(each), top - lane * (place + 1.6), each)
        _fan(
            axes,
            sorted(((_times(each), _decibels(each), each) for each in apart), key=lambda point: (point[1], point[0])),
        )
    reading = (
        f"The best are at the top right. From {CAP_DB:g} dB on, where the scale ends, no 8-bit picture tells an "
        f"answer from that of {against}; below {MIN_PSNR_DB:g} dB --engine auto does not take it."
    )
    unknown = [each.label for each in group.standings if all(each is not other for other in placed)]
    if unknown:
        reading += f" Not in it, since their distance is not known: {', '.join(unknown)}."
    return Plot(path=path, title=title, reading=reading)


def _decibels(standing: Standing) -> float:
    """The reference is as near to itself as can be."""
    return standing.row.quality.psnr_db if standing.row.quality is not None else math.inf


def _times(standing: Standing) -> float:
    assert standing.speedup is not None
    return standing.speedup.median


# How near the roof ----------------------------------------------------------------------------------------------------


def roofline(group: Group, peaks: Sequence[Peak], path: Path) -> Plot | None:
    """Operations a second over operations for each byte (Williams et al. 2009, Roofline); None without a roof."""
    placed = [
        (each.row.roof.intensity, each.row.roof.flops_per_second, each)
        for each in group.standings
        if each.row.roof is not None and each.row.roof.intensity > 0 and each.row.roof.flops_per_second > 0
    ]
    devices = {each.row.device for _, _, each in placed}
    peaks = [peak for peak in peaks if peak.device in devices and peak.per_second > 0]
    flat = _highest(peaks)
    if not placed or not flat:
        return None
    placed.sort(key=lambda point: point[1])
    slope = max((peak.per_second for peak in peaks if peak.what == "copy"), default=None)
    top = max(flat.values())
    across = [intensity for intensity, _, _ in placed]
    if slope is not None:
        across += [min(flat.values()) / slope, top / slope]
    left, right = min(across) / 8, max(across) * 6
    up = [*flat.values(), *(rate for _, rate, _ in placed)]
    lowest, highest = min(up) / 4, max(up) * 2
    title = "How near the machine's roof"
    with picture(
        path,
        title=title,
        subtitle=f"{group.title}; lines: the best that any library reached here; marks: the model",
        height=3.2 + 0.12 * len(placed),
        right=[_name(each) for _, _, each in placed],
    ) as axes:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(left, right)
        axes.set_ylim(lowest, highest)
        _ticks(axes, left, right, along="x")
        _ticks(axes, lowest, highest, along="y")
        axes.grid(True)
        ridges = {rate: max(left, rate / slope) if slope is not None else left for rate in flat.values()}
        for precision, rate in flat.items():
            axes.plot([ridges[rate], right], [rate, rate], color=_PALE, linewidth=1.5, linestyle=_DASHES[precision])
        for label, rate in _merged(flat):
            # Left of a ridge nothing can be.
            axes.annotate(
                f"{label} {quantity(rate, 'FLOP/s')}", (ridges[rate], rate), (-6, 2) if slope is not None else (4, 2),
                textcoords="offset points", ha="right" if slope is not None else "left", va="bottom",
                fontsize=8, color=_PALE,
            )  # fmt: skip
        if slope is not None:
            start = max(left, lowest / slope)
            axes.plot([start, top / slope], [start * slope, top], color=_PALE, linewidth=1.5)
            _along(axes, start, top / slope, slope)
        axes.set_xlabel("FLOP for each byte that moves, logarithmic")
        axes.set_ylabel("FLOP/s, logarithmic")
        _fan(axes, placed)
    moves = "the slope is its memory" if slope is not None else "its memory was not measured"
    reading = (
        f"The flat lines are what this machine computes in each precision, {moves}: a mark on a line cannot be faster "
        "without less work, and one far below is limited by its library or by what a run costs besides. Above its line "
        "is a library that multiplies less (Winograd)."
    )
    return Plot(path=path, title=title, reading=reading)


def _highest(peaks: Sequence[Peak]) -> dict[Precision, float]:
    """The best product of each precision."""
    found: dict[Precision, float] = {}
    for peak in peaks:
        if peak.what != "copy" and peak.precision is not None:
            found[peak.precision] = max(found.get(peak.precision, 0.0), peak.per_second)
    return found


def _merged(flat: dict[Precision, float]) -> list[tuple[str, float]]:
    """Precisions whose roofs nearly touch have one label."""
    found: list[tuple[str, float]] = []
    for precision, rate in sorted(flat.items(), key=lambda pair: pair[1]):
        if found and rate < 1.3 * found[-1][1]:
            label, below = found.pop()
            found.append((f"{label} {quantity(below, 'FLOP/s')}, {precision}", rate))
        else:
            found.append((precision, rate))
    return found


def _along(axes: Axes, start: float, end: float, slope: float) -> None:
    """The label of the slope, along it."""
    (x0, y0), (x1, y1) = axes.transData.transform([(start, start * slope), (end, end * slope)])
    angle = math.atan2(y1 - y0, x1 - x0)
    beside = x0 + 0.25 * (x1 - x0) - _pixels(4) * math.sin(angle), y0 + 0.25 * (y1 - y0) + _pixels(4) * math.cos(angle)
    x, y = axes.transData.inverted().transform(beside)
    axes.text(
        x,
        y,
        f"copy {quantity(slope, 'B/s')}",
        rotation=math.degrees(angle),
        rotation_mode="anchor",
        fontsize=8,
        color=_PALE,
    )


# Whether it drifts ----------------------------------------------------------------------------------------------------


def rounds(group: Group, record: Record, path: Path) -> Plot | None:
    """Each round against the row's median, the yardstick below; None of fewer than two rounds."""
    lanes = [(_name(each), _colour(each), each.row.turns, _mark(each)) for each in group.standings]
    if record.yardstick:
        lanes.append(
            (shortened(f"yardstick: {one_line(record.yardstick_name)}", _LONGEST_NAME), _PALE, record.yardstick, "")
        )
    numbers = sorted({turn.round for _, _, turns, _ in lanes for turn in turns})
    if len(numbers) < 2:
        return None
    names, ends = [lane[0] for lane in lanes], [lane[3] for lane in lanes]
    title = "Whether times drift"
    with picture(
        path,
        title=title,
        subtitle=f"{group.title}; median of each round, in percent of the row's own median",
        height=1.35 + 0.3 * len(lanes),
        left=names,
        right=ends,
        top=0.2,
    ) as axes:
        import matplotlib.colors

        colours = matplotlib.colors.LinearSegmentedColormap.from_list("drift", ["#0072B2", "#ffffff", "#D55E00"])
        values = np.full((len(lanes), len(numbers)), np.nan)
        for place, (_, _, turns, _) in enumerate(lanes):
            for number, deviation in _deviations(turns).items():
                values[place, numbers.index(number)] = deviation
        shown = np.ma.masked_invalid(values)
        axes.pcolormesh(shown, cmap=colours, vmin=-_STRONG, vmax=_STRONG, edgecolors="white", linewidth=1.0)
        if len(numbers) <= _MOST_NUMBERS:
            for (place, column), value in np.ndenumerate(values):
                if np.isfinite(value):
                    axes.text(
                        column + 0.5, place + 0.5, f"{100 * value:+.0f}" if abs(value) >= 0.005 else "0",
                        ha="center", va="center", fontsize=8, color="white" if abs(value) > 0.7 * _STRONG else _INK,
                    )  # fmt: skip
        _rows(axes, names, ends, at=0.5)
        for place, (_, colour, _, _) in enumerate(lanes):
            axes.plot([0, 0], [place + 0.12, place + 0.88], color=colour, linewidth=5, clip_on=False)
        step = math.ceil(len(numbers) / 20)
        axes.set_xticks([column + 0.5 for column in range(0, len(numbers), step)])
        axes.set_xticklabels([str(number + 1) for number in numbers[::step]])
        axes.set_xlabel("round")
        axes.set_xlim(0, len(numbers))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(axis="x", length=0)
        axes.tick_params(axis="y", pad=6)
        _starts(axes, numbers, [turn for _, _, turns, _ in lanes for turn in turns], len(lanes))
    reading = (
        "Orange is slower, blue faster. A column of one colour is the machine, since all rows and the yardstick share "
        "it; a row that turns orange towards the right is a contestant that slows down, as heat makes it. Between two "
        "starts each row has a new process."
    )
    return Plot(path=path, title=title, reading=reading)


def _deviations(turns: Sequence[Turn]) -> dict[int, float]:
    """By round, the median's distance from that of all rounds, as a share of it."""
    by_round: dict[int, list[float]] = defaultdict(list)
    for turn in turns:
        by_round[turn.round].extend(turn.seconds)
    medians = {number: statistics.median(seconds) for number, seconds in by_round.items()}
    middle = statistics.median(medians.values())
    return {number: median / middle - 1 for number, median in medians.items()}


def _starts(axes: Axes, numbers: Sequence[int], turns: Sequence[Turn], lanes: int) -> None:
    """Lines where processes were started anew, and their numbers above."""
    start_of = {turn.round: turn.start for turn in turns}
    firsts = [at for at, number in enumerate(numbers) if at == 0 or start_of[number] != start_of[numbers[at - 1]]]
    for first, end in zip(firsts, [*firsts[1:], len(numbers)], strict=True):
        if first:
            axes.axvline(first, color=_INK, linewidth=1.2)
        # Starts too short for their name have a line only.
        if end - first >= len(numbers) / 10 and len(firsts) > 1:
            axes.annotate(
                f"start {start_of[numbers[first]] + 1}", ((first + end) / 2, 0), (0, 4), textcoords="offset points",
                ha="center", va="bottom", fontsize=8, color=_PALE, annotation_clip=False,
            )  # fmt: skip


def _mark(standing: Standing) -> str:
    if standing.row.readings.throttled:
        return "throttled"
    return "" if standing.row.is_stable else "not stable"


# The style ------------------------------------------------------------------------------------------------------------


@contextmanager
def picture(
    path: Path,
    *,
    title: str,
    subtitle: str,
    height: float,
    left: Sequence[str] = (),
    right: Sequence[str] = (),
    top: float = 0.0,
) -> Iterator[Axes]:
    """Axes to draw on; the picture is written as a PNG of 1600 pixels in width when the block ends.

    Args:
        path: where to.
        title: what the picture shows.
        subtitle: what it is of, and what the marks mean.
        height: in inches, of 8 in width.
        left: texts that will stand at the left of the axes, to leave room for them.
        right: the same for the right.
        top: room between subtitle and axes, in inches.

    Raises:
        SinkError: it cannot be written.
    """
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Whatever a matplotlibrc says, a record gives the same picture.
    with matplotlib.style.context(_STYLE, after_reset=True):
        figure = Figure(figsize=(WIDTH, height), dpi=_DPI)
        FigureCanvasAgg(figure)
        widths = [max((_text_width(figure, text) for text in texts), default=0.0) for texts in (left, right)]
        start, end = 0.25 + (widths[0] or 0.55), WIDTH - 0.25 - widths[1]
        bottom, ceiling = 0.5, height - 0.6 - top
        axes = figure.add_axes(
            (start / WIDTH, bottom / height, (end - start) / WIDTH, (ceiling - bottom) / height)
        )  # fmt: skip
        figure.text(0.1 / WIDTH, 1 - 0.1 / height, title, va="top", fontsize=12, fontweight="bold")
        figure.text(0.1 / WIDTH, 1 - 0.33 / height, _drawable(shortened(subtitle, 110)), va="top", color=_PALE)
        yield axes
        # Without the version of matplotlib, which two machines may have different ones of.
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata={"Software": None})
        except OSError as error:
            raise SinkError(f"{path}: the plot cannot be written ({system_reason(error)})") from error


def _rows(axes: Axes, names: Sequence[str], ends: Sequence[str], at: float = 0.0) -> None:
    """Names at the left, from top to bottom, and what stands at the right."""
    axes.set_yticks([place + at for place in range(len(names))])
    axes.set_yticklabels([_drawable(name) for name in names])
    axes.set_ylim(len(names) - 0.5 + at, -0.5 + at)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    axes.spines["left"].set_visible(False)
    for place, end in enumerate(ends):
        axes.annotate(
            _drawable(end), (1, place + at), (8, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
            va="center_baseline", annotation_clip=False,
        )  # fmt: skip


def _ticks(axes: Axes, low: float, high: float, along: str) -> None:
    """Not too many, and all of few digits."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        places = [step * 10.0**decade for decade in decades for step in steps]
        places = [place for place in places if low <= place <= high]
        if len(places) <= _MOST_TICKS:
            break
    places = places[:: math.ceil(len(places) / _MOST_TICKS) or 1]
    axis = axes.xaxis if along == "x" else axes.yaxis
    axis.set_ticks(places, [_tick(place) for place in places])
    axis.set_ticks([], minor=True)


def _marker(axes: Axes, x: float, y: float, standing: Standing) -> None:
    axes.scatter(
        [x], [y], s=46, marker=_MARKERS[standing.row.precision], color=_colour(standing), edgecolors="white",
        linewidths=0.8, zorder=4, clip_on=False,
    )  # fmt: skip


def _beside(axes: Axes, x: float, y: float, standing: Standing) -> None:
    """A mark with its name at its right, or left where there is no room."""
    _marker(axes, x, y, standing)
    text = axes.annotate(_drawable(_name(standing)), (x, y), (7, 0), textcoords="offset points", va="center_baseline")
    right, room = text.get_window_extent(), axes.get_window_extent()
    if right.x1 > room.x1 and right.x0 - _pixels(14) - right.width > room.x0:
        text.set_horizontalalignment("right")
        text.set_position((-7, 0))


def _fan(axes: Axes, points: Sequence[tuple[float, float, Standing]]) -> None:
    """Marks, and their names at the right, from where a line leads to each; `points` rise."""
    if not points:
        return
    room, size = axes.get_window_extent(), _pixels(12)
    heights: list[float] = []
    for x, y, _ in points:
        height = float(axes.transData.transform((x, y))[1])
        heights.append(max(height, heights[-1] + size) if heights else height)
    # The lowest were moved up by those below them alone; all together lie around their marks.
    shift = statistics.fmean(
        float(axes.transData.transform((x, y))[1]) - height for (x, y, _), height in zip(points, heights, strict=True)
    )
    shift = max(min(shift, room.y1 - heights[-1]), room.y0 - heights[0])
    for (x, y, each), height in zip(points, heights, strict=True):
        _marker(axes, x, y, each)
        end_x, end_y = axes.transData.inverted().transform((room.x1 + _pixels(4), height + shift))
        axes.plot([x, end_x], [y, end_y], color=_colour(each), linewidth=0.8, zorder=2, clip_on=False)
        axes.annotate(
            _drawable(_name(each)),
            (end_x, end_y),
            (3, 0),
            textcoords="offset points",
            va="center_baseline",
            annotation_clip=False,
        )


def _pixels(points: float) -> float:
    return points * _DPI / 72


def _name(standing: Standing) -> str:
    return shortened(standing.label, _LONGEST_NAME)


def _colour(standing: Standing) -> str:
    return COLOURS.get(standing.row.backend, _OTHER)


def _text_width(figure: Figure, text: str) -> float:
    """In inches."""
    drawn = figure.text(0, 0, _drawable(text))
    width = drawn.get_window_extent().width / _DPI
    drawn.remove()
    return float(width)


def _drawable(text: str) -> str:
    """With a question mark for what the font does not have."""
    return "".join(letter if ord(letter) in _letters() else "?" for letter in text)


@functools.cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties("DejaVu Sans"))).get_charmap())


def _tick(value: float) -> str:
    """For example `20 G`, or `0.5`."""
    scale, prefix = prefixed(value)
    return f"{value / scale:g} {prefix}".rstrip()
