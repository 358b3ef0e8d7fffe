"""How the rows of a record stand to one another: who is the baseline, who is how much faster, what is to be minded."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from i2i_runtime.engines.choose import IDENTICAL_DB, MIN_PSNR_DB
from measuring.record import Record, Row, Size, Workload
from measuring.spread import Ratio, Summary, speedup, summary

_BUSY = 0.05
"""Share of the CPU time that others may have before a row is marked."""
_FEW_RUNS = 100
"""With fewer the 99th percentile is the slowest of them, or lies beside it."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A row that ran."""

    row: Row
    label: str
    """Its name on one line; with what else tells it from others of that name."""
    times: Summary
    speedup: Ratio | None
    """Times as fast as the group's baseline; None where they share no round."""

    @property
    def images_per_second(self) -> float:
        """Of runs that take as long as the median."""
        return self.row.batch / self.times.p50

    @property
    def spread(self) -> float:
        """Half the range of the turns' medians, as a share of the median of all runs."""
        return (self.times.high - self.times.low) / 2 / self.times.p50

    @property
    def joules_per_image(self) -> float | None:
        """Of what `power_of` names, idling included; over all runs, slow ones too."""
        power_w = self.row.readings.power_w
        if power_w is None:
            return None
        return power_w * statistics.fmean(second for turn in self.row.turns for second in turn.seconds) / self.row.batch

    @property
    def is_right(self) -> bool:
        """Whether `--engine auto` would take its answer; so too where nothing is known about it."""
        return not _is_wrong(self.row)

    @property
    def is_same(self) -> bool:
        """Whether its answer is the very one of what it was compared with."""
        return self.row.quality is not None and self.row.quality.psnr_db >= IDENTICAL_DB


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something to mind about rows of a group."""

    text: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """All rows of one size and batch."""

    size: Size
    batch: int
    standings: tuple[Standing, ...]
    """Those that ran, the fastest first."""
    failed: tuple[tuple[str, str], ...]
    """Of the others the label and the reason, each on one line."""
    baseline: Standing | None
    """What speed-ups are over; None where nothing ran."""
    work: Workload | None
    """None where nothing could be counted."""
    notes: tuple[Note, ...]

    @property
    def title(self) -> str:
        """For example `256x256, batch 1`."""
        return f"{sides(self.size)}, batch {self.batch}"

    @property
    def best(self) -> Standing | None:
        """The fastest that gives the right answer."""
        return next((each for each in self.standings if each.is_right), None)

    @property
    def reference(self) -> Standing | None:
        """What the others' answers were compared with."""
        against = {each.row.quality.against for each in self.standings if each.row.quality is not None}
        return next((each for each in self.standings if each.row.quality is None and each.row.name in against), None)


def sides(size: Size) -> str:
    """For example `256x512`, height first."""
    return f"{size[0]}x{size[1]}"


def one_line(text: str) -> str:
    """Without line breaks and what no terminal or font can show."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def groups(record: Record) -> list[Group]:
    """The rows by size and batch, in the record's order."""
    keys = dict.fromkeys((row.size, row.batch) for row in record.rows)
    return [_group(record, size, batch) for size, batch in keys]


def _group(record: Record, size: Size, batch: int) -> Group:
    rows = [row for row in record.rows if (row.size, row.batch) == (size, batch)]
    labels = dict(zip(map(id, rows), _labels(rows), strict=True))
    ran = [row for row in rows if row.failure is None and row.turns]
    baseline = min(ran, key=_baseline_rank, default=None)
    standings = [
        Standing(
            row=row,
            label=labels[id(row)],
            times=summary(row.turns),
            speedup=_speedup(row, baseline) if baseline is not None else None,
        )
        for row in ran
    ]
    standings.sort(key=lambda each: each.times.p50)
    return Group(
        size=size,
        batch=batch,
        standings=tuple(standings),
        failed=tuple(
            (labels[id(row)], one_line(row.failure or "nothing was measured"))
            for row in rows
            if row.failure is not None or not row.turns
        ),
        baseline=next((each for each in standings if each.row is baseline), None),
        work=next((work for work in record.workloads if (work.size, work.batch) == (size, batch)), None),
        notes=tuple(_notes([each.row for each in standings])),
    )


def _baseline_rank(row: Row) -> int:
    """PyTorch as people run it first, then plain ONNX Runtime, then whatever there is."""
    order = ("torch", "onnxruntime")
    return order.index(row.backend) if row.is_baseline and row.backend in order else len(order)


def _speedup(row: Row, baseline: Row) -> Ratio | None:
    if not {turn.round for turn in row.turns} & {turn.round for turn in baseline.turns}:
        return None
    return speedup(row.turns, baseline.turns)


def _labels(rows: Sequence[Row]) -> list[str]:
    """The names; where several have the same, with what tells them apart."""
    names = [one_line(row.name) or "(no name)" for row in rows]
    details = [[*one_line(row.graph).split(", "), f"{row.threads or 'default'} threads"] for row in rows]
    alike: dict[str, list[list[str]]] = defaultdict(list)
    for name, words in zip(names, details, strict=True):
        alike[name].append(words)
    return [
        ", ".join([name, *(word for word in words if any(word not in other for other in alike[name]))])
        for name, words in zip(names, details, strict=True)
    ]


def _notes(rows: Sequence[Row]) -> Iterator[Note]:
    if slowed := tuple(row for row in rows if row.readings.throttled):
        reasons = dict.fromkeys(one_line(reason) for row in slowed for reason in row.readings.throttled)
        yield Note(text=f"the hardware slowed itself down: {', '.join(reasons)}", rows=slowed)
    if restless := tuple(row for row in rows if not row.is_stable):
        yield Note(text="its time was not stable yet when its warm-up ended", rows=restless)
    if busy := tuple(row for row in rows if _others(row) > _BUSY):
        least, most = (f"{share:.0%}" for share in (min(map(_others, busy)), max(map(_others, busy))))
        between = most if least == most else f"{least} to {most}"
        yield Note(text=f"the machine was busy: others had {between} of its CPU time", rows=busy)
    if wrong := tuple(row for row in rows if _is_wrong(row)):
        yield Note(text=f"below the {MIN_PSNR_DB:g} dB that --engine auto asks for", rows=wrong)
    if few := tuple(row for row in rows if sum(len(turn.seconds) for turn in row.turns) < _FEW_RUNS):
        yield Note(text=f"fewer than {_FEW_RUNS} runs: p99 is about the slowest of them", rows=few)


def _is_wrong(row: Row) -> bool:
    return row.quality is not None and row.quality.psnr_db < MIN_PSNR_DB


def _others(row: Row) -> float:
    return (row.readings.busy_elsewhere or 0.0) + (row.readings.stolen or 0.0)
