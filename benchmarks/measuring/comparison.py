"""What changed between two records beyond noise.

Times are divided by the yardstick's of the same round, so that a machine that is slower today slows both. Were the
yardstick noisier than the row itself, the row's own times would still be no better: they do not show by how much the
machine changed between the two runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from i2i_runtime.engines.choose import IDENTICAL_DB
from measuring import spread
from measuring.busy import BUSY_LOAD
from measuring.record import Environment, Quality, Record, Row, Turn

Verdict = Literal["slower", "faster", "no change", "cannot tell", "fails now", "works now", "fails in both", "baseline"]
Key = tuple[object, ...]
_WORSE: tuple[Verdict, ...] = ("slower", "fails now")

_RULED_OUT = 2.5
"""Times the threshold: a row is `no change` only if a change of that size would have shown."""
_ALLOWANCE = 0.1
"""Of the yardstick's own change: no two programs feel a slower machine quite alike."""
_TOO_WIDE = math.log(2)
"""Half of an interval that says nothing."""
_START_PERCENT = 20.0
"""Loading and the first run are not measured against a yardstick, and a machine may be 10 % slower on another day."""
_TAILS_PERCENT = 25.0
"""A tail is what else the machine did, more than anything."""
_MEMORY_SHARE, _MEMORY_MIB = 0.10, 32.0
"""More than both: threads and allocators keep some memory or other."""
_PSNR_DB = 0.5
_VISIBLE_DB = 60.0
"""Above it nobody sees a change: grey levels differ by a quarter of one on average."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """How much longer something takes in the second record, in percent."""

    percent: float
    low: float | None
    """With `high` the interval that holds it 99 times in 100; None where `noise` is."""
    high: float | None
    noise: float | None
    """Half of the interval: a smaller change does not show. None above 100 %, and of a single start, which tells no
    noise at all."""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.percent:+.1f} %"
        return f"{self.percent:+.1f} % ({self.low:.1f} to {self.high:.1f})"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something else about a row that changed."""

    what: Literal["load", "first inference", "tails", "memory", "quality", "caution"]
    is_worse: bool
    """Never of a caution."""
    text: str
    """For a person: what it was and what it is."""


@dataclass(frozen=True, kw_only=True)
class RowComparison:
    """One row that both records have."""

    name: str
    """With its size, batch and so on where the name alone would stand for several."""
    verdict: Verdict
    before_s: float | None
    """Median of all runs, as measured."""
    after_s: float | None
    against: str | None
    """What both times were divided by, round by round: the yardstick, or another row. None: nothing."""
    change: Change | None
    findings: tuple[Finding, ...]

    @property
    def is_worse(self) -> bool:
        """Whether it is slower, fails, needs more memory or is less true. Loading and tails vary too much for that."""
        return self.verdict in _WORSE or any(
            finding.is_worse and finding.what in ("memory", "quality") for finding in self.findings
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two records side by side."""

    threshold: float
    """Percent: a smaller change of a time is never called one."""
    cautions: tuple[str, ...]
    """What is unlike in the two runs themselves, one line each; to be said first."""
    machine: Change | None
    """Of the yardstick; None where the two are not alike."""
    rows: tuple[RowComparison, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def is_worse(self) -> bool:
        """Whether any row is, or is gone."""
        return bool(self.only_before) or any(row.is_worse for row in self.rows)

    @property
    def verdict(self) -> str:
        """All of it on one line."""
        parts = [
            _named(self.rows, "slower"),
            _named(self.rows, "faster"),
            _named(self.rows, "fails now"),
            _named(self.rows, "works now"),
            f"{_rows(len(self.only_before))} gone: {', '.join(self.only_before)}" if self.only_before else "",
            _worse_besides(self.rows),
            self._cannot_tell(),
            self._no_change(),
            "nothing to compare: no row that runs in both" if not self.rows else "",
        ]
        return "; ".join(part for part in parts if part) or "nothing to compare: no row that runs in both"

    def _cannot_tell(self) -> str:
        rows = [row for row in self.rows if row.verdict == "cannot tell"]
        if not rows:
            return ""
        changes = [row.change for row in rows if row.change is not None]
        noises = [change.noise for change in changes if change.noise is not None]
        parts = [f"cannot tell in {_rows(len(rows))}"]
        if noises:
            parts.append(f"noise ±{_range(noises)} %")
        if len(noises) < len(changes):
            parts.append("noise above ±100 % or, of a single start, unknown")
        return f"{parts[0]}: {', '.join((*parts[1:], 'more --starts and --rounds tell more'))}" if changes else parts[0]

    def _no_change(self) -> str:
        rows = [row for row in self.rows if row.verdict == "no change"]
        seen = [max(self.threshold, row.change.noise or 0) for row in rows if row.change is not None]
        if not rows:
            return ""
        return f"no change beyond noise in {_rows(len(rows))} (smallest change that could be seen: {_range(seen)} %)"


def compare(before: Record, after: Record, threshold: float = 2.0) -> Comparison:
    """Compare what both records have, row by row (`Row.key`).

    A row is slower or faster if its interval, at 99 %, leaves out 0 and the change is at least `threshold`; it is
    unchanged if a change of 2.5 times the threshold can be ruled out; else the two runs cannot tell. On another
    machine, or under other settings of it, times mean nothing beside one another: there each row is taken relative to
    the baseline row of its own run, and what belongs to the machine (loading, memory, tails) is left out.

    Args:
        before: the older one.
        after: the newer one.
        threshold: percent, above 0.
    """
    rows, partners = _by_key(before.rows), _by_key(after.rows)
    names = _names([*partners.values(), *rows.values()])
    pairs = [_Pair(names[key], row, partners[key]) for key, row in rows.items() if key in partners]
    unlike = _unlike_machines(before, after)
    machine = None if unlike else _difference(before.yardstick, after.yardstick)
    cautions = _unlike_conditions(before, after)
    if unlike:
        compared = tuple(_by_speedup(pair, _baseline(pair, pairs), threshold) for pair in pairs)
        over = sorted({row.against for row in compared if row.against is not None})
        how = f"speed-ups over {' and '.join(over)} are compared, not times" if over else "no baseline in both"
        cautions = [*(f"{line}: {how}" for line in unlike), *cautions]
    else:
        compared = tuple(_by_time(pair, before, after, machine, threshold) for pair in pairs)
        if any(row.change is not None and row.against is None for row in compared):
            cautions.append("times without a yardstick of their device: the machine may have been slower that day")
    return Comparison(
        threshold=threshold,
        cautions=tuple(cautions),
        machine=_change(machine),
        rows=compared,
        only_before=tuple(names[key] for key in rows if key not in partners),
        only_after=tuple(names[key] for key in partners if key not in rows),
    )


class _Pair(NamedTuple):
    """The same row in both records."""

    name: str
    before: Row
    after: Row

    @property
    def works(self) -> bool:
        """Whether it does in both."""
        return self.before.failure is None and self.after.failure is None

    def compared(self, found: spread.Difference | None, threshold: float, against: str | None) -> RowComparison:
        """With its time's difference, and what does not depend on the machine."""
        if self.works:
            verdict = _judge(found, threshold)
            findings = [*_quality(self.before.quality, self.after.quality), *_cautions(self)]
        else:
            verdict, failure = _failure(self.before.failure, self.after.failure)
            findings = [Finding(what="caution", is_worse=False, text=failure)]
        return RowComparison(
            name=self.name,
            verdict=verdict,
            before_s=spread.summary(self.before.turns).p50 if self.before.turns else None,
            after_s=spread.summary(self.after.turns).p50 if self.after.turns else None,
            against=against if found is not None else None,
            change=_change(found),
            findings=tuple(findings),
        )


def _by_time(
    pair: _Pair, before: Record, after: Record, machine: spread.Difference | None, threshold: float
) -> RowComparison:
    """On the same machine."""
    if machine is not None and pair.before.device == before.yardstick_device:
        found = _difference(pair.before.turns, pair.after.turns, before.yardstick, after.yardstick)
        if found is not None:
            found = found._replace(allowance=_ALLOWANCE * abs(machine.middle))
        row = pair.compared(found, threshold, before.yardstick_name)
    else:
        row = pair.compared(_difference(pair.before.turns, pair.after.turns), threshold, None)
    return replace(row, findings=(*_changes_of_process(pair), *row.findings)) if pair.works else row


def _by_speedup(pair: _Pair, baseline: _Pair | None, threshold: float) -> RowComparison:
    """On machines that are unlike."""
    if baseline is None:
        return pair.compared(None, threshold, None)
    if baseline is pair:
        return replace(pair.compared(None, threshold, None), verdict="baseline")
    ours, theirs = baseline.before.turns, baseline.after.turns
    return pair.compared(_difference(pair.before.turns, pair.after.turns, ours, theirs), threshold, baseline.name)


def _baseline(pair: _Pair, pairs: Sequence[_Pair]) -> _Pair | None:
    """The baseline of its size and batch that runs in both, on its device if there is one there."""
    row = pair.before
    same = [other for other in pairs if (other.before.size, other.before.batch) == (row.size, row.batch)]
    found = [other for other in same if other.before.is_baseline and other.works]
    return min(found, key=lambda other: other.before.device != row.device, default=None)


def _difference(
    before: Sequence[Turn], after: Sequence[Turn], over_before: Sequence[Turn] = (), over_after: Sequence[Turn] = ()
) -> spread.Difference | None:
    """Of the times, or of their ratios to those of something else; None where there is nothing to compare."""
    levels = spread.start_levels(before, over_before), spread.start_levels(after, over_after)
    return spread.difference(*levels) if all(map(len, levels)) else None


def _failure(before: str | None, after: str | None) -> tuple[Verdict, str]:
    if after is None:
        return "works now", f"failed before: {before}"
    return ("fails now" if before is None else "fails in both"), after


def _judge(found: spread.Difference | None, threshold: float) -> Verdict:
    if found is None:
        return "cannot tell"
    if _stands_out(found, threshold):
        return "slower" if found.middle > 0 else "faster"
    return "no change" if found.rules_out(math.log1p(_RULED_OUT * threshold / 100)) else "cannot tell"


def _stands_out(found: spread.Difference, threshold: float) -> bool:
    return abs(found.middle) > found.half and abs(_percent(found.middle)) >= threshold


def _change(found: spread.Difference | None) -> Change | None:
    if found is None:
        return None
    if found.half > _TOO_WIDE:
        return Change(percent=_percent(found.middle), low=None, high=None, noise=None)
    low, high = found.middle - found.half, found.middle + found.half
    return Change(percent=_percent(found.middle), low=_percent(low), high=_percent(high), noise=_percent(found.half))


def _percent(logarithm: float) -> float:
    return 100 * math.expm1(logarithm)


def _changes_of_process(pair: _Pair) -> Iterator[Finding]:
    """Loading, tails and memory."""
    before, after = pair.before, pair.after
    # The first start finds files that are not in the system's cache yet.
    loads = np.log(before.load_s[1:]), np.log(after.load_s[1:])
    firsts = np.log(before.first_s[1:]), np.log(after.first_s[1:])
    tails = spread.start_tails(before.turns), spread.start_tails(after.turns)
    yield from _changed("load", "load {:.2f} → {:.2f} s", *loads, _START_PERCENT)
    yield from _changed("first inference", "first inference {:.2f} → {:.2f} s", *firsts, _START_PERCENT)
    yield from _changed("tails", "p99 {:.2f} → {:.2f} times the median", *tails, _TAILS_PERCENT)
    for kind, old, new in (
        ("host", before.host_mib, after.host_mib),
        ("device", before.device_mib, after.device_mib),
    ):
        if old is not None and new is not None and abs(new - old) > max(_MEMORY_MIB, _MEMORY_SHARE * old):
            yield Finding(what="memory", is_worse=new > old, text=f"{kind} memory {old:.0f} → {new:.0f} MiB")


def _changed(
    what: Literal["load", "first inference", "tails"],
    words: str,
    before: spread.Values,
    after: spread.Values,
    threshold: float,
) -> Iterator[Finding]:
    """A finding if there is a change; logarithms, one for each start."""
    if len(before) and len(after):
        found = spread.difference(before, after)
        if _stands_out(found, threshold):
            text = f"{words.format(math.exp(before.mean()), math.exp(after.mean()))}, {_change(found)}"
            yield Finding(what=what, is_worse=found.middle > 0, text=text)


def _quality(before: Quality | None, after: Quality | None) -> Iterator[Finding]:
    if before is None or after is None:
        return
    if (before.against, before.pictures) != (after.against, after.pictures):
        text = f"quality was taken against {before.against} and now against {after.against}, or on other pictures"
        yield Finding(what="caution", is_worse=False, text=text)
    elif abs(min(after.psnr_db, _VISIBLE_DB) - min(before.psnr_db, _VISIBLE_DB)) > _PSNR_DB:
        text = f"PSNR {_decibels(before.psnr_db)} → {_decibels(after.psnr_db)}"
        yield Finding(what="quality", is_worse=after.psnr_db < before.psnr_db, text=text)


def _decibels(psnr_db: float) -> str:
    return "identical" if psnr_db >= IDENTICAL_DB else f"{psnr_db:.1f} dB"


def _cautions(pair: _Pair) -> Iterator[Finding]:
    for when, row in (("before", pair.before), ("after", pair.after)):
        if row.readings.throttled:
            text = f"throttled {when}: {', '.join(row.readings.throttled)}"
            yield Finding(what="caution", is_worse=False, text=text)
        if not row.is_stable:
            yield Finding(what="caution", is_worse=False, text=f"not stable after its warm-up {when}")


def _unlike_machines(before: Record, after: Record) -> list[str]:
    """Why times cannot be compared, one line each."""
    old, new = before.environment, after.environment
    known: list[tuple[str, object, object]] = [
        ("processor", old.cpu, new.cpu),
        ("number of cores", old.cores, new.cores),
        ("GPU", _gpus(old), _gpus(new)),
        ("governor", old.governor, new.governor),
        ("power mode", old.power_mode, new.power_mode),
        ("yardstick", _yardstick(before), _yardstick(after)),
    ]
    settings = sorted(old.settings.keys() | new.settings.keys())
    known += [(name, old.settings.get(name), new.settings.get(name)) for name in settings]
    return [f"other {what} ({_or_none(was)} → {_or_none(now)})" for what, was, now in known if was != now]


def _unlike_conditions(before: Record, after: Record) -> list[str]:
    """What else is unlike; times can be compared, and this may be why they changed."""
    old, new = before.environment, after.environment
    found = []
    if before.model.sha256 != after.model.sha256:
        found.append(
            f"other model ({before.model.file}, {before.model.sha256[:8]} → "
            f"{after.model.file}, {after.model.sha256[:8]}): what changed may be its doing"
        )
    was = {**old.versions, "Python": old.python, "system": old.system}
    now = {**new.versions, "Python": new.python, "system": new.system}
    if old.gpus != new.gpus and _gpus(old) == _gpus(new):
        was["GPU"], now["GPU"] = "; ".join(old.gpus), "; ".join(new.gpus)
    changed = [name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]
    if changed:
        pairs = (f"{name} {_or_none(was.get(name))} → {_or_none(now.get(name))}" for name in changed)
        found.append(f"other versions ({', '.join(pairs)})")
    for when, load in (("before", old.load_before), ("after", new.load_before)):
        if load is not None and load > BUSY_LOAD:
            found.append(f"the machine was busy with something else {when}: load {load:.1f} for each core")
    return found


def _yardstick(record: Record) -> str:
    return f"{record.yardstick_name} {record.yardstick_version}".strip()


def _gpus(environment: Environment) -> str:
    """Names alone: a driver is a version."""
    return ", ".join(gpu.split(",")[0] for gpu in environment.gpus)


def _or_none(value: object) -> str:
    return "none" if value in (None, "") else str(value)


def _by_key(rows: Iterable[Row]) -> dict[Key, Row]:
    return {row.key: row for row in rows}


def _names(rows: Sequence[Row]) -> dict[Key, str]:
    """A name for each key: the row's own, and what tells it from others of that name."""
    found: dict[Key, str] = {}
    for row in rows:
        alike = [other for other in rows if other.name == row.name]
        details = [
            (f"{row.size[0]}x{row.size[1]}", len({other.size for other in alike})),
            (f"batch {row.batch}", len({other.batch for other in alike})),
            (f"{row.threads or 'default'} threads", len({other.threads for other in alike})),
            (row.graph, len({other.graph for other in alike})),
        ]
        found[row.key] = ", ".join([row.name, *(text for text, values in details if values > 1)])
    return found


def _named(rows: Sequence[RowComparison], verdict: Verdict) -> str:
    """`2 rows slower: this +5.2 % (4.1 to 6.3), that +9.0 % (8.1 to 10.0)`."""
    found = [f"{row.name} {row.change or ''}".strip() for row in rows if row.verdict == verdict]
    words = {"fails now": "failing now", "works now": "working now"}.get(verdict, verdict)
    return f"{_rows(len(found))} {words}: {', '.join(found)}" if found else ""


def _worse_besides(rows: Sequence[RowComparison]) -> str:
    found = [f"{row.name}: {item.text}" for row in rows for item in row.findings if item.is_worse]
    return f"worse besides: {', '.join(found)}" if found else ""


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"
