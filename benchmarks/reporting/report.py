"""What a record says, as a folder with a Markdown page and its plots."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from i2i_runtime.engines.choose import MIN_PSNR_DB
from measuring.record import Environment, Peak, Record, Row, Workload
from measuring.spread import summary
from reporting import plots
from reporting.folder import ReportKind
from reporting.plots import Plot
from reporting.standing import Group, Standing, groups, one_line, sides
from reporting.table import FIGURES, LEGEND, Column, Figure, columns, digits, marks, quantity, times

_KIND = ReportKind(script="latency.py", page="report.md", pictures=r"[a-z]+-[0-9]+x[0-9]+-batch[0-9]+\.png")
_FOLDER = re.compile(r"(?<![\w:/\\.<])(?!/(?:sys|proc|dev|etc)/)(?:[A-Za-z]:[\\/]|~/|/)(?:[^\s/\\:;,'\"()|<>]+[\\/])+")
"""Of a path that begins at the root or at home, all but its last part; not of the system's own files, nor addresses."""
_SPECIAL = re.compile(r"[\\`*|<>\[\]~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_FIGURE = re.compile(r"[-+±]?\d[\d.]*%?(?:$| )|same$|-$| $")
_SPEED = ("speedup", "p50", "p90", "p99", "spread", "rate", "psnr", "peak", "limit")
_STARTING = ("load", "first", "host", "device")
_MOST_LAYERS = 8
_UNKNOWN = "-"


def write_report(record: Record, folder: Path) -> Path:
    """Write `report.md` and its plots; see `ReportKind.write`."""
    return _KIND.write(folder, functools.partial(_page, record))


def check_report(folder: Path) -> None:
    """See that a report can be written there; see `ReportKind.check`."""
    _KIND.check(folder)


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""A table in GitHub's Markdown; all cells are plain text, and come out as they are.

    Columns of figures are aligned to the right.

    >>> print(markdown_table(["engine", "ms"], [["A|B", "1.5"]]))
    | engine | ms |
    | --- | ---: |
    | A\|B | 1.5 |
    """
    cells = [[escaped(cell) or " " for cell in row] for row in rows]
    is_figures = [all(_FIGURE.match(row[place]) for row in cells) for place in range(len(headers))]
    lines = [
        [escaped(header) or " " for header in headers],
        ["---:" if figures and place else "---" for place, figures in enumerate(is_figures)],
        *cells,
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Plain text as Markdown: on one line, with nothing in it that formats."""
    return _SPECIAL.sub(r"\\\g<0>", one_line(text))


def shareable(text: str) -> str:
    """Plain text as Markdown for a page that others see: without folders of this machine, too."""
    return escaped(_FOLDER.sub("", one_line(text)))


def _page(record: Record, folder: Path) -> str:
    """The page; its pictures are drawn into `folder`."""
    found = groups(record)
    draw = _Pictures(folder)
    parts = [
        f"# {escaped(_answer(record, found))}",
        f"{escaped(_subject(record))}.",
        *_section("What to do", _list(record.advice) or ["There is no advice: nothing ran."]),
        *_section("The machine", _machine(record.environment)),
        *_section("How fast", _how_fast(record, found, draw)),
        *_section("What limits it", _roofline(record, found, draw)),
        *_section("What the machine did meanwhile", _sensors(found)),
        *_section("How near the answers are", _quality(record, found)),
        *_section("Loading, the first run and memory", _starting(found)),
        *_section("How it was measured", _method(record, found)),
        *_section("Left out", [*_list(record.left_out), *draw.left_out] or ["Nothing that was asked for."]),
        _KIND.mark,
    ]
    return "\n\n".join(parts) + "\n"


class _Pictures:
    """Draws them; without matplotlib none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._said: set[str] = set()
        self.left_out = (
            []
            if plots.is_here()
            else _list(["plots: matplotlib draws them, and is not installed; pip install 'i2i[bench]'"])
        )

    def __call__(self, kind: str, group: Group, draw: Callable[[Path], Plot | None]) -> list[str]:
        """The picture and, for the first time, how to read it; nothing where there is nothing to draw."""
        if self.left_out or not group.standings:
            return []
        plot = draw(self._folder / f"{kind}-{sides(group.size)}-batch{group.batch}.png")
        if plot is None:
            return []
        is_new = plot.reading not in self._said
        self._said.add(plot.reading)
        picture = f"![{escaped(f'{plot.title}, {group.title}')}]({plot.path.name})"
        return [picture, shareable(plot.reading)] if is_new else [picture]


def _section(title: str, parts: Iterable[str]) -> list[str]:
    """Nothing of nothing."""
    body = list(parts)
    return [f"## {title}", *body] if body else []


def _list(sentences: Iterable[str]) -> list[str]:
    items = [f"- {shareable(sentence)}" for sentence in sentences]
    return ["\n".join(items)] if items else []


# The answer -----------------------------------------------------------------------------------------------------------


def _answer(record: Record, found: Sequence[Group]) -> str:
    """In one sentence what to use; at each size, where that differs."""
    by_choice: dict[str | None, list[Group]] = defaultdict(list)
    for size in dict.fromkeys(group.size for group in found if group.standings):
        group = min((group for group in found if group.size == size and group.standings), key=lambda group: group.batch)
        by_choice[group.best.label if group.best is not None else None].append(group)
    if not by_choice:
        return f"No way to run {record.model.name} works here"
    said = {tuple(sides(group.size) for group in some): _choice(some) for some in by_choice.values()}
    if len(said) == 1:
        (words,) = said.values()
        return words[0].upper() + words[1:]
    return "; ".join(f"at {' and '.join(where)} {words}" for where, words in said.items()).replace("at", "At", 1)


def _choice(some: Sequence[Group]) -> str:
    """Of groups where it is the same."""
    bests = [group.best for group in some if group.best is not None]
    baselines = [group.baseline for group in some if group.baseline is not None]
    if not bests:
        return "nothing that runs here gives the right answer"
    if bests == baselines:
        return f"use {bests[0].label}: nothing that is faster here gives the right answer"
    gains = [best.speedup.median for best in bests if best.speedup is not None]
    low, high = (f"{gain:.2f}" for gain in (min(gains), max(gains))) if gains else ("", "")
    gain = f": {low if low == high else f'{low} to {high}'} times as fast as {baselines[0].label}" if gains else ""
    return f"use {bests[0].label}{gain}{_likeness(bests, baselines[0])}"


def _likeness(bests: Sequence[Standing], baseline: Standing) -> str:
    known = [best.row.quality for best in bests if best.row.quality is not None]
    if not known:
        return ""
    against = "it" if known[0].against == baseline.row.name else known[0].against
    if all(best.is_same for best in bests):
        return f", with the same answer as {against}"
    return f", {min(quality.psnr_db for quality in known):.0f} dB from {against}"


def _subject(record: Record) -> str:
    model = record.model
    weights = "" if model.is_trained else "; its weights are initial ones, which are as fast as trained ones"
    return (
        f"{model.name} ({model.architecture}; {model.file}, SHA-256 {model.sha256[:12]}{weights}) on "
        f"{record.environment.machine}, measured {record.environment.date}"
    )


def _machine(machine: Environment) -> Iterator[str]:
    """What a figure must name to mean anything."""
    yield f"    {one_line(machine.command)}"
    threads = f", {machine.threads_per_core} threads a core" if machine.threads_per_core else ""
    virtual = {True: "a virtual machine", False: "no virtual machine", None: "unknown whether a virtual machine"}
    load = "unknown" if machine.load_before is None else f"{machine.load_before:.2f} for each core"
    facts = {
        "CPU": f"{machine.cpu}, {machine.cores} cores for this process{threads}",
        "Instructions": ", ".join(machine.instructions) or "none of those that matter here",
        "GPU": "; ".join(machine.gpus) or "none",
        "Memory": f"{machine.memory_mib / 1024:.1f} GiB",
        "System": f"{machine.system}; {virtual[machine.is_virtual]}",
        "Clock governor": machine.governor or "not readable",
        "Power mode": machine.power_mode or "",
        "Load before": load,
        "Libraries": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "Python": machine.python,
        "Settings": ", ".join(f"{name}={value}" for name, value in machine.settings.items()) or "none",
        "Commit": machine.commit or "unknown",
    }
    yield "\n".join(f"- {name}: {shareable(fact)}" for name, fact in facts.items() if fact)


# How fast -------------------------------------------------------------------------------------------------------------


def _how_fast(record: Record, found: Sequence[Group], draw: _Pictures) -> Iterator[str]:
    if len([group for group in found if group.standings]) > 1:
        yield "The fastest that give the right answer, at each size and batch:"
        yield _overview(found)
    yield f"{escaped(LEGEND[0].upper() + LEGEND[1:])}."
    for group in found:
        yield f"### {group.title}"
        if group.standings:
            if group.baseline is not None:
                yield f"Times as fast as {shareable(group.baseline.label)}:"
            yield _table(group, _SPEED)
            yield from _list(marks(group.notes, group.standings)[1])
        yield from _list(f"{name} failed: {reason}" for name, reason in group.failed)
        yield from draw("latency", group, functools.partial(plots.distribution, group))
        yield from draw("fidelity", group, functools.partial(plots.fidelity, group))
        yield from draw("rounds", group, functools.partial(plots.rounds, group, record))


def _overview(found: Sequence[Group]) -> str:
    rows = []
    singles: dict[tuple[int, int], float] = {}
    for group in sorted(found, key=lambda group: group.batch):
        if group.best is not None:
            singles.setdefault(group.size, group.best.images_per_second)
    for group in found:
        best = group.best
        if best is None or group.baseline is None:
            rows.append([group.title, "nothing" if group.standings else "nothing ran", *[_UNKNOWN] * 3])
            continue
        rate = best.images_per_second
        gain = times(best.speedup) if best.speedup is not None else _UNKNOWN
        rows.append([group.title, best.label, gain, f"{rate / singles[group.size]:.2f}", digits(rate)])
    headers = ["", "use", "times as fast as the baseline", "images/s over those of the smallest batch", "images/s"]
    return markdown_table(headers, rows)


def _table(group: Group, keys: Sequence[str]) -> str:
    """The columns of those names that there are, with footnotes."""
    known = columns(group)
    shown = [known[key] for key in keys if key in known]
    behind, _ = marks(group.notes, group.standings)
    names = [each.label + mark for each, mark in zip(group.standings, behind, strict=True)]
    return markdown_table(
        ["engine", *map(header, shown)],
        zip(names, *(column.cells for column in shown), strict=True),
    )


def header(column: Column | Figure) -> str:
    """Of a table, with the unit."""
    return f"{column.title}{'' if column.unit.startswith('/') else ' '}{column.unit}".strip()


# What limits it -------------------------------------------------------------------------------------------------------


def _roofline(record: Record, found: Sequence[Group], draw: _Pictures) -> Iterator[str]:
    works = [group.work for group in found if group.work is not None]
    if works:
        yield "What one run has to do, counted from the ONNX graph:"
        yield markdown_table(
            ["", "MACs", "as papers count", "FLOPs", "bytes", "FLOPs for each byte", "parameters"],
            [
                [
                    f"{sides(work.size)}, batch {work.batch}, {work.precision}",
                    quantity(work.macs, ""),
                    quantity(work.published_macs, ""),
                    quantity(work.flops, ""),
                    quantity(work.bytes, "B"),
                    digits(work.flops / work.bytes) if work.bytes else _UNKNOWN,
                    quantity(work.parameters, ""),
                ]
                for work in works
            ],
        )
        yield (
            "A FLOP is an addition, a multiplication or the like, and a MAC two of them. Bytes are those that move if "
            "each tensor goes to memory and back; libraries that fuse nodes move fewer."
        )
        yield f"The layers that cost most, at {sides(works[0].size)}, batch {works[0].batch}:"
        yield _layers(works[0])
    if record.peaks:
        yield "What this machine can do at most, each measured in its best round:"
        yield markdown_table(
            ["", "reached", "lowest to highest round"], [[peak.name, *_reached(peak)] for peak in record.peaks]
        )
    for group in found:
        roofs = [(each, each.row.roof) for each in group.standings if each.row.roof is not None]
        if roofs:
            yield f"### Below the roof: {group.title}"
            yield markdown_table(
                ["engine", "% of peak", "% of roof", "FLOP/s", "FLOPs for each byte", "what limits it"],
                [
                    [
                        each.label,
                        f"{roof.percent_of_peak:.0f}",
                        f"{roof.percent_of_roof:.0f}",
                        quantity(roof.flops_per_second, "FLOP/s"),
                        digits(roof.intensity),
                        _FOLDER.sub("", roof.limit),
                    ]
                    for each, roof in roofs
                ],
            )
            yield from draw("roofline", group, functools.partial(plots.roofline, group, record.peaks))
    if any(row.roof is not None for row in record.rows):
        yield (
            "Peak: the fastest products, of matrices or convolutions, that any library reached here in that precision. "
            "Roof: the time that the work takes at the measured peaks of computing and of moving data, node by node, "
            "over the time that it took (Williams, Waterman and Patterson 2009)."
        )


def _layers(work: Workload) -> str:
    flops, moved = work.flops or 1, work.bytes or 1
    dearest = sorted(work.layers, key=lambda layer: max(layer.flops / flops, layer.bytes / moved), reverse=True)
    rows = [
        [
            layer.kind,
            str(layer.nodes),
            f"{100 * layer.flops / flops:.1f}",
            f"{100 * layer.bytes / moved:.1f}",
            digits(layer.flops / layer.bytes) if layer.bytes else _UNKNOWN,
        ]
        for layer in dearest[:_MOST_LAYERS]
    ]
    if others := dearest[_MOST_LAYERS:]:
        rows.append(
            [
                "all others",
                str(sum(layer.nodes for layer in others)),
                f"{100 * sum(layer.flops for layer in others) / flops:.1f}",
                f"{100 * sum(layer.bytes for layer in others) / moved:.1f}",
                _UNKNOWN,
            ]
        )
    return markdown_table(["kind", "nodes", "% of the FLOPs", "% of the bytes", "FLOPs for each byte"], rows)


def _reached(peak: Peak) -> tuple[str, str]:
    unit = "B/s" if peak.what == "copy" else "FLOP/s"
    low, high = peak.spread
    return quantity(peak.per_second, unit), f"{quantity(low, unit)} to {quantity(high, unit)}"


# What the machine did -------------------------------------------------------------------------------------------------


def _sensors(found: Sequence[Group]) -> Iterator[str]:
    rows = [each.row for group in found for each in group.standings]
    sources = {row.readings.power_of or "unknown" for row in rows if row.readings.power_w is not None}
    readings = [
        FIGURES["power"]._replace(title=f"power of {', '.join(sorted(sources))},"),
        FIGURES["energy"],
        Figure("clock", "MHz", lambda each: _whole(each.row.readings.clock_mhz)),
        Figure("of at most", "MHz", lambda each: _whole(each.row.readings.clock_max_mhz)),
        Figure("hottest", "°C", lambda each: _whole(each.row.readings.temperature_c)),
        Figure("GPU in use", "%", lambda each: _percent(each.row.readings.utilisation)),
        Figure("throttled", "", _throttling),
        Figure("CPU taken by the hypervisor", "%", lambda each: _percent(each.row.readings.stolen)),
        Figure("CPU taken by others", "%", lambda each: _percent(each.row.readings.busy_elsewhere)),
    ]
    yield from _all_rows(found, readings)
    if rows:
        yield from _list(_unread(rows))


def _throttling(standing: Standing) -> str | None:
    readings = standing.row.readings
    if readings.throttled:
        return ", ".join(readings.throttled)
    return "no" if readings.can_see_throttling else None


def _unread(rows: Sequence[Row]) -> Iterator[str]:
    """What none could read, and why that matters."""
    readings = [row.readings for row in rows]
    if all(each.power_w is None for each in readings):
        yield "Power was not readable: nothing here says which way takes the least energy."
    else:
        yield "Energy is that of the whole device named, what it takes while idle included."
    if all(each.clock_mhz is None for each in readings):
        yield "The clock was not readable: a way that runs at a lower one is not known from one with slower kernels."
    if all(each.temperature_c is None for each in readings):
        yield "The temperature was not readable: in a longer run the machine may become hotter, and slower."
    if not any(each.can_see_throttling or each.throttled for each in readings):
        yield (
            "Whether the hardware slowed itself down was not readable: it would show only as rows that get slower from "
            "round to round."
        )
    if all(each.busy_elsewhere is None and each.stolen is None for each in readings):
        yield "Whether others had the CPU was not readable: wide ranges are all that shows it."


def _all_rows(found: Sequence[Group], figures: Sequence[Figure]) -> Iterator[str]:
    """One table of all that ran, of figures that any has; nothing where none has any."""
    everyone = [(group, each) for group in found for each in group.standings]
    shown = []
    for figure in figures:
        cells = [figure.of(each) for _, each in everyone]
        if any(cell is not None for cell in cells):
            shown.append((header(figure), [_UNKNOWN if cell is None else cell for cell in cells]))
    if shown:
        yield markdown_table(
            ["engine", "at", *(header for header, _ in shown)],
            zip(
                (each.label for _, each in everyone),
                (group.title for group, _ in everyone),
                *(cells for _, cells in shown),
                strict=True,
            ),
        )


def _whole(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f}"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}"


# Quality, starting, method --------------------------------------------------------------------------------------------


def _quality(record: Record, found: Sequence[Group]) -> Iterator[str]:
    if all(row.quality is None for row in record.rows):
        if any(group.standings for group in found):
            yield "No answers were compared with one another."
        return
    references = {
        each.row.quality.against for group in found for each in group.standings if each.row.quality is not None
    }
    figures = [
        FIGURES["psnr"],
        FIGURES["ssim"],
        Figure("which means", "", functools.partial(_verdict, references)),
    ]
    pictures = _between([row.quality.pictures for row in record.rows if row.quality is not None])
    against = shareable(" or ".join(sorted(references)))
    yield f"Distance from the answers of {against}, on the same pictures, {pictures} of them:"
    yield from _all_rows(found, figures)
    yield (
        f"PSNR is that of the picture that fares worst, of values and not of 8-bit grey levels; --engine auto asks for "
        f"{MIN_PSNR_DB:g} dB. SSIM is the mean over the pictures."
    )
    if not record.model.is_trained:
        yield "The weights are initial ones, unlike a trained model's: do not judge a precision by this."


def _verdict(references: Collection[str], standing: Standing) -> str | None:
    quality = standing.row.quality
    if quality is None:
        return "the reference" if standing.row.name in references else None
    if quality.psnr_db >= plots.CAP_DB:
        return "no 8-bit picture shows it"
    return "near enough" if standing.is_right else "too far"


def _starting(found: Sequence[Group]) -> Iterator[str]:
    figures = [
        *(FIGURES[key] for key in _STARTING),
        Figure("warm-up", "runs", lambda each: _between(each.row.warm_up_runs)),
        Figure("stable", "", lambda each: "yes" if each.row.is_stable else "no"),
    ]
    table = list(_all_rows(found, figures))
    yield from table
    if table:
        yield (
            "Load: importing the library, reading and compiling the model; first: the first inference; both medians "
            "over the starts. Host: the most resident memory of a process that ran nothing else."
        )


def _between(numbers: Sequence[int]) -> str | None:
    """For example `21 to 30`."""
    if not numbers:
        return None
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _method(record: Record, found: Sequence[Group]) -> Iterator[str]:
    rows = [each.row for group in found for each in group.standings]
    said = []
    if rows:
        starts = max(len({turn.start for turn in row.turns}) for row in rows)
        rounds = max(len({turn.round for turn in row.turns}) for row in rows)
        of_turns = _between([len(turn.seconds) for row in rows for turn in row.turns])
        of_rows = _between([each.times.runs for group in found for each in group.standings])
        said += [
            f"Each engine had a process of its own, started anew {_count(starts, 'time')}, since a process keeps its "
            "luck for as long as it lives.",
            f"They took turns in {_count(rounds, 'round')}, in an order drawn anew in each, so that whatever disturbed "
            "the machine disturbed all alike. Speed-ups are taken within a round.",
            f"A turn was {of_turns} runs one after the other, which makes {of_rows} for an engine; percentiles are "
            "over all of them. Before, it ran until its time was stable, which counts for nothing.",
            "A run is from a tensor in host memory to one in host memory: copies to a GPU and back are in it, reading "
            "and resizing pictures are not.",
        ]
    if record.yardstick:
        middle = summary(record.yardstick)
        low, high = (f"{100 * (value / middle.p50 - 1):+.0f}" for value in (middle.low, middle.high))
        said.append(
            f"A yardstick, {record.yardstick_name} on the {record.yardstick_device.upper()}, had a turn in each round, "
            f"too: its time was {low} to {high} % of its median, which is the machine's own doing."
        )
    yield from _list(said)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
