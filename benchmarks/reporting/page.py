"""docs/benchmarks.md: what the JSON files of the benchmarks say, for a person who has never seen them.

Each section stands between two marks, so that one whose figures are not at hand stays as it was. Of a CPU the page
gives ratios and shares, never times: those depend on the machine and on the day, and a ratio much less.
"""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from i2i_runtime.errors import I2IError, SinkError, UsageError, reason
from measuring.comparison import RowComparison, compare
from measuring.figures import read_figures, words
from measuring.record import Environment, read_record
from measuring.spread import Ratio
from measuring.stages import STAGES, WAITS, Stages, read_stages
from reporting import plots
from reporting.plots import Plot
from reporting.report import header, markdown_table, shareable
from reporting.stage_plot import draw_stages
from reporting.standing import Group, groups
from reporting.table import Column, columns, marks

_OF_ANY = ("speedup", "spread", "psnr", "ssim", "peak", "limit", "host")
"""Columns of `table.columns` that hold no time."""
_OF_GPU = ("p50", "p90", "rate", "device", "power")
_TIME = re.compile(r"\d ?(?:ms|µs|s|seconds|[GT](?:FLOP|B)/s)\b")
"""A time or a speed in a sentence."""
_HEAD = """# Benchmarks

How fast the models run, what limits them, and what to use, as measured on the machines named below. This page is made
by `make bench` from what it measures; to change it, change `benchmarks/reporting/page.py`.

## How to read it

- **Ratios come first.** *1.31 (1.24 to 1.38)* is the median over the rounds and the range in which 8 of 10 rounds lie,
  or of fewer than ten rounds all of them, from lowest to highest. Where that range holds 1.00, there is no difference
  to speak of; where it does not, it may be chance: of five rounds 1 time in 16.
- **All that is compared took turns** in the same minutes on the same machine, so that whatever disturbed it disturbed
  all alike. Figures of two sections, or of two machines, cannot be compared.
- **Of a CPU no times are given**: they depend on the machine, its load and its temperature. Of a GPU the first section
  and the last one give them.
- Weights are initial ones, unless a section says otherwise: speed does not depend on what was learnt.

## On your machine

    make bench                                            # all of it, about 16 minutes; makes this page anew
    python benchmarks/refresh.py --only latency,pipeline  # some of it
    python benchmarks/refresh.py --page-only              # the page alone, from figures that are there

`make bench` measures shortly; each section names the command that measures at length, and its `--json` keeps all
figures, times too. On a machine that does other things meanwhile, the ranges get wide: believe them.
"""
_TAIL = """## What is not measured here

- **Quality of a training**: `benchmarks/quality.py` compares a checkpoint with held-out pictures; `i2i-eval` does
  more.
- **Tiles, stabilising, the live page**: each has its own figures, in [tiling.md](tiling.md),
  [live-quality.md](live-quality.md) and [live-page.md](live-page.md).
- **Energy**, but for the power that a GPU or a Jetson states while it runs, which `latency.py --json` keeps.
- **Devices that nobody had**: [verified.md](verified.md) says what has been run where. A page from your device is
  welcome.
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One benchmark's part of the page."""

    name: str
    """Of its JSON file, too."""
    title: str
    about: str
    """What is measured, in a paragraph."""
    at_length: str
    """The command for who wants to know it better."""
    figures: Callable[[Path, Path], list[str]]
    """Paragraphs, made of the results' folder; its second argument is where plots go.

    Raises:
        I2IError, KeyError, TypeError, ValueError: there are no figures, or none of this kind.
    """


@dataclass(frozen=True, kw_only=True)
class Page:
    """What came of it."""

    text: str
    missing: dict[str, str]
    """By section that was to be made anew, why it has no figures."""


def make_page(results: Path, images: Path, before: str = "", anew: Collection[str] | None = None) -> Page:
    """Make the page.

    Args:
        results: the folder of JSON files.
        images: the folder for plots, `images` beside the page.
        before: the page as it was; sections that are not made anew are taken from it.
        anew: names of the sections to make of what is in `results`; None: all of them.

    Raises:
        SinkError: a plot cannot be written.
    """
    missing: dict[str, str] = {}
    parts = [_HEAD]
    for section in SECTIONS:
        begins, ends = f"<!-- {section.name} -->", f"<!-- end of {section.name} -->"
        body = ""
        if anew is None or section.name in anew:
            try:
                body = "\n\n".join(section.figures(results, images))
            except SinkError:
                raise
            except I2IError as error:
                missing[section.name] = str(error)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                missing[section.name] = f"its figures are of another kind ({type(error).__name__}: {reason(error)})"
        if not body:
            kept = before.partition(begins)[2].partition(ends)[0].strip()
            body = kept or f"Not measured yet: `python benchmarks/refresh.py --only {section.name}` does it."
        heading = f"## {section.title}\n\n{_wrapped(section.about)}\n\n    {section.at_length}"
        parts.append(f"{heading}\n\n{begins}\n{body}\n{ends}\n")
    return Page(text="\n".join([*parts, _TAIL]), missing=missing)


def _where(machine: Environment, also: str = "") -> str:
    """What a figure must name: machine, versions and command."""
    cores = f"{machine.cores} core{'s' if machine.cores != 1 else ''}"
    facts = [
        machine.cpu if machine.machine == machine.cpu else f"{machine.machine} with {machine.cpu}",
        f"{cores} of a virtual machine" if machine.is_virtual else cores,
        machine.system,
        machine.python,
        *(f"{name} {version}" for name, version in machine.versions.items()),
        *(f"{name}={value}" for name, value in machine.settings.items()),
    ]
    commit = f", commit {machine.commit}" if machine.commit else ""
    return _wrapped(f"Measured {machine.date[:10]} by `{machine.command}`{also}{commit}, on {', '.join(facts)}.")


def _wrapped(sentence: str) -> str:
    """To the width of this repository's pages; of a list `- ...` each item."""
    indent = "  " if sentence.startswith("- ") else ""
    return textwrap.fill(sentence, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _items(sentences: Iterable[str]) -> list[str]:
    """A list of plain text, as a paragraph; nothing of none."""
    items = [_wrapped(f"- {shareable(sentence)}") for sentence in sentences]
    return ["\n".join(items)] if items else []


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _ratio(found: Mapping[str, float], form: str = ".2f") -> str:
    return words(Ratio(**found), form)


def _without_times(sentences: Iterable[str]) -> list[str]:
    return [sentence for sentence in sentences if not _TIME.search(sentence)]


# Latency --------------------------------------------------------------------------------------------------------------


def _latency(results: Path, images: Path) -> list[str]:
    record = read_record(results / "latency.json")
    parts = [f"The model: {shareable(record.model.architecture)}."]
    for group in groups(record):
        parts += _ways(group)
    advice: Sequence[str] = record.advice
    if all(row.device == "cpu" for row in record.rows):
        advice = _without_times(advice)
    parts += _items((*advice, *(f"Left out: {why}" for why in record.left_out)))
    return [*parts, _where(record.environment)]


def _ways(group: Group) -> Iterator[str]:
    """All ways of one size and batch."""
    if group.standings:
        behind, lines = marks(group.notes, group.standings)
        names = [each.label + mark for each, mark in zip(group.standings, behind, strict=True)]
        on_gpu = [each.row.device != "cpu" for each in group.standings]
        known = columns(group)
        shown = [known[key] for key in _OF_ANY if key in known]
        if any(on_gpu):
            shown += [_masked(known[key], on_gpu) for key in _OF_GPU if key in known]
        against = f"; times as fast as {group.baseline.label}" if group.baseline is not None else ""
        yield f"{shareable(group.title + against)}:"
        yield markdown_table(("", *map(header, shown)), zip(names, *(column.cells for column in shown), strict=True))
        # Of what is not shown there is nothing to mind.
        yield from _items(line for line in lines if any(on_gpu) or "p99" not in line)
    yield from _items(f"{name} fails: {why}" for name, why in group.failed)


def _masked(column: Column, is_shown: Sequence[bool]) -> Column:
    return column._replace(cells=[cell if shown else "" for cell, shown in zip(column.cells, is_shown, strict=True)])


# Two runs -------------------------------------------------------------------------------------------------------------


def _compare(results: Path, images: Path) -> list[str]:
    before, after = (read_record(results / name) for name in ("latency.json", "latency-again.json"))
    times = [datetime.fromisoformat(record.environment.date) for record in (before, after)]
    if times[1] < times[0]:
        raise UsageError("latency-again.json is older than latency.json: it was not the same run once more")
    found = compare(before, after)
    found = replace(found, rows=tuple(map(_without_loads, found.rows)))
    rows = []
    for row in found.rows:
        percent, noise = (row.change.percent, row.change.noise) if row.change is not None else (None, None)
        rows.append((row.name, _number(percent, "+.1f"), _number(noise, ".1f"), row.verdict))
    minutes = (times[1] - times[0]).total_seconds() / 60
    return [
        markdown_table(("", "change of its time, %", "noise, ± %", "verdict"), rows),
        *_items(found.cautions),
        _wrapped(shareable(f"In one line: {found.verdict}.")),
        _where(before.environment, f" and {minutes:.0f} minutes later by `{after.environment.command}`"),
    ]


def _without_loads(row: RowComparison) -> RowComparison:
    """Loading and the first run are told in times."""
    return replace(row, findings=tuple(each for each in row.findings if each.what not in ("load", "first inference")))


# The pipeline ---------------------------------------------------------------------------------------------------------


def _pipeline(results: Path, images: Path) -> list[str]:
    machine, found = read_figures(results / "pipeline.json")
    runs = {f"{name} model": found[name] for name in ("heavy", "light")}
    stages = {name: read_stages(run["stages"]) for name, run in runs.items()}
    throughputs = [
        (f"{name}, {what}", run["baseline"], _ratio(gain))
        for name, run in runs.items()
        for what, gain in run["throughput_over_baseline"].items()
        if what != run["baseline"]
    ]
    shares = [(span, *(cell for each in stages.values() for cell in _shares(each, span))) for span in (*STAGES, *WAITS)]
    return [
        *_items(f"The {name}: {run['what']}, in {run['provider']}." for name, run in runs.items()),
        markdown_table(("video file to video file", "against", "throughput over that"), throughputs),
        _wrapped(
            "Where the time of a frame goes: in a plain loop, one stage after the other; and in the pipeline, where it "
            "waits in queues while the threads work beside each other."
        ),
        markdown_table(("", *(f"{name}, {way}" for name in runs for way in ("loop", "pipeline"))), shares),
        *_items(_overlap(name, each) for name, each in stages.items()),
        *_plot(lambda path: draw_stages(stages, path), images / "benchmark-stages.png"),
        *_live(found["live"]),
        *_items(found["left_out"]),
        _where(machine),
    ]


def _shares(stages: Stages, span: str) -> tuple[str, str]:
    loop = f"{stages.stages[span].share.median:.1%}" if span in STAGES else ""
    return loop, f"{stages.in_pipeline[span]:.1%}"


def _overlap(name: str, stages: Stages) -> str:
    return (
        f"The {name}: the stages explain {words(stages.explained, '.1%')} of the loop. Overlap makes it "
        f"{words(stages.overlap_gain)} times as fast; with cores for every thread it could be "
        f"{words(stages.most_gain)}. The bottleneck is {stages.bottleneck}."
    )


def _plot(draw: Callable[[Path], Plot], path: Path) -> list[str]:
    """Draw it, and show it with how to read it; nothing without matplotlib."""
    if not plots.is_here():
        return []
    drawn = draw(path)
    return [f"![{drawn.title}](images/{path.name})", _wrapped(drawn.reading)]


def _live(engines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if engines:
        yield "A live source of 30 frames a second. The bound is the time of an inference and one frame period, at p99:"
        titles = ("an inference takes", "frames dropped", "latency at p99 / bound", "late in the run / early")
        yield markdown_table(titles, _live_rows(engines))


def _live_rows(engines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for engine in engines:
        runs = engine["runs"]
        bounds = [run["latency_p99_over_bound"] for run in runs]
        dropped = statistics.median(run["dropped"] / run["captured"] for run in runs)
        drift = statistics.median(run["last_third_over_first"] for run in runs)
        spread = f"{statistics.median(bounds):.2f} ({min(bounds):.2f} to {max(bounds):.2f})"
        yield engine["engine"], f"{dropped:.0%}", spread, f"{drift:.2f}"


# Starting -------------------------------------------------------------------------------------------------------------


def _startup(results: Path, images: Path) -> list[str]:
    machine, found = read_figures(results / "startup.json")
    starts = [*found["starts"][1:], *(picture["whole"] for picture in found["first_pictures"])]
    rows = [(start["name"], _ratio(start["over_bare"], ".1f")) for start in starts]
    parts = [markdown_table(("a command, from start to end", "times as long as a Python that does nothing"), rows)]
    parts += ["\n".join(_wrapped(f"- {_goal(goal)}") for goal in found["goals"])]
    for picture in found["first_pictures"]:
        steps = {name: span["p50"] for name, span in picture["wall_s"].items() if name != "second inference"}
        shares = [(name, f"{seconds / sum(steps.values()):.0%}") for name, seconds in steps.items()]
        parts += [f"The way to the first picture in {picture['engine']}:", markdown_table(("", "of the time"), shares)]
    notes = [*found["left_out"], *([found["note"]] if found["note"] else [])]
    return [*parts, *_items(_without_times(notes)), _where(machine)]


def _goal(goal: Mapping[str, Any]) -> str:
    but = ", though not beyond what Python itself takes" if goal["is_met_over_bare"] and not goal["is_met"] else ""
    is_met = "met" if goal["is_met"] else "missed"
    return f"The limit of {goal['limit_s']:g} seconds for `{goal['name']}` is {is_met}{but}."


# Growing --------------------------------------------------------------------------------------------------------------


def _scaling(results: Path, images: Path) -> list[str]:
    machine, found = read_figures(results / "scaling.json")
    notes = [*found["left_out"], *([found["note"]] if found["note"] else [])]
    return [*_items(_without_times([*found["findings"], *notes])), _where(machine)]


# The others -----------------------------------------------------------------------------------------------------------


def _graph_io(results: Path, images: Path) -> list[str]:
    machine, found = read_figures(results / "graph_io.json")
    model = shareable(f"{found['model']} at {found['size']}x{found['size']}")
    return [
        _wrapped(f"Of {model}, a uint8 graph takes {_ratio(found['ratio'])} times as long as a float graph."),
        _where(machine),
    ]


def _train_step(results: Path, images: Path) -> list[str]:
    machine, found = read_figures(results / "train_step.json")
    settings = found["settings"]
    is_gpu = settings["device"] != "cpu"
    titles = ["", "images a second, ours / plain", "peak memory, ours / plain"]
    titles += ["ours, images/s"] if is_gpu else []
    rows = []
    for model in found["results"]:
        memory = model["ours_peak_mib"] / model["plain_peak_mib"] if model["plain_peak_mib"] else None
        row = [model["model"], _ratio(model["ratio"]), _number(memory, ".2f")]
        pace = settings["batch"] * model["plain_steps_per_s"] * model["ratio"]["median"]
        rows.append([*row, f"{pace:.1f}"] if is_gpu else row)
    size = f"{settings['size']}x{settings['size']}, ngf {settings['width']}, batch {settings['batch']}"
    return [f"On {shareable(found['device'])}, {size}:", markdown_table(titles, rows), _where(machine)]


SECTIONS = (
    Section(
        name="latency",
        title="How fast is a model here, and what should I use?",
        about=(
            "Every way to run one generator on this machine, each in a process of its own and in turns, from a tensor "
            "in host memory to one in host memory. *±* is half the range of its rounds. "
            "*PSNR* and *SSIM* say how near the results are to PyTorch's in FP32; the random weights of this page lose "
            "far more to low precision than trained ones do. *Peak* is its speed in percent of the fastest products of "
            "matrices or convolutions that any library reached here in that precision; *limit* is what bounds it."
        ),
        at_length="python benchmarks/latency.py --checkpoint runs/zebra/best.pt --report zebra-report",
        figures=_latency,
    ),
    Section(
        name="compare",
        title="Would a slowdown be seen?",
        about=(
            "The same run once more, and what `compare.py` says of the two. Nothing has changed, so a row that is "
            "called slower or faster here is a false alarm; *noise* is the smallest change that would have shown."
        ),
        at_length="python benchmarks/compare.py monday.json friday.json",
        figures=_compare,
    ),
    Section(
        name="startup",
        title="How long until something happens?",
        about=(
            "Each command in a fresh process, in turns with a Python that does nothing; and where the time goes from "
            "the start of `i2i-run` to its first picture. Files are in memory already, as they are from the second "
            "start on."
        ),
        at_length="python benchmarks/startup.py --engine zebra.onnx",
        figures=_startup,
    ),
    Section(
        name="pipeline",
        title="What does the live pipeline cost, and where does a frame's time go?",
        about=(
            "`i2i-run` from video file to video file, against a plain loop that reads, translates and writes, and "
            "against the engine alone: with a heavy model, which leaves nothing to gain, and with a light one that "
            "costs as much as all the rest together. Then a live source, with an engine that keeps up and one that "
            "does not."
        ),
        at_length="python benchmarks/pipeline.py --report pipeline-report",
        figures=_pipeline,
    ),
    Section(
        name="scaling",
        title="How does it grow?",
        about=(
            "Time against pixels, images a second against batch and threads, memory against pixels, and the time of an "
            "export against parameters. *pixels^1.00*: twice the pixels take twice as long."
        ),
        at_length="python benchmarks/scaling.py --report scaling",
        figures=_scaling,
    ),
    Section(
        name="graph_io",
        title="A float or a uint8 graph?",
        about="One picture end to end: with OpenCV's conversions around a float graph, or with all of them in it.",
        at_length="python benchmarks/graph_io.py --checkpoint runs/facades/best.pt",
        figures=_graph_io,
    ),
    Section(
        name="train_step",
        title="Is training slower than it must be?",
        about=(
            "Our training step against the plain one of the papers' repositories: the same networks, the same images "
            "on the device, no data loading. Ours is faster where the images a second are above 1, and needs less "
            "where the memory is below."
        ),
        at_length="python benchmarks/train_step.py --size 256",
        figures=_train_step,
    ),
)
