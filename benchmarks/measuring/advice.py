"""What a person should do about the figures, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from i2i_runtime.engines.choose import IDENTICAL_DB, MIN_PSNR_DB, cpu_notes
from measuring.busy import busy_words
from measuring.record import Environment, Row, Size
from measuring.spread import speedup, summary

_HARMLESS = {"power cap"}
"""A reason for a lower clock that is no fault."""
_GAIN = 1.05
"""What a batch must be worth for a word."""


def advise(rows: Sequence[Row], environment: Environment) -> tuple[str, ...]:
    """What to use at each size, and what to mind."""
    said: list[str] = []
    for size in dict.fromkeys(row.size for row in rows):
        said += _at_size([row for row in rows if row.size == size and row.turns], size)
    if any(row.device == "cpu" for row in rows):
        said += [f"{note[0].upper()}{note[1:]}." for note in cpu_notes()]
    return (*said, *_warnings(rows, environment))


def _at_size(rows: Sequence[Row], size: Size) -> list[str]:
    singles = [row for row in rows if row.batch == min(row.batch for row in rows)]
    right = [row for row in singles if row.quality is None or row.quality.psnr_db >= MIN_PSNR_DB]
    if not right:
        return []
    where = f"At {size[0]}x{size[1]}: "
    best = min(right, key=_median)
    baseline = next((row for row in right if row.is_baseline), best)
    said = [f"{where}use {best.name}{_gain(best, baseline)}{_likeness(best)}.{_how(best)}"]
    equals = [row.name for row in right if row is not best and _overlap(row, best)]
    if equals:
        said.append(f"{' and '.join(equals)} cannot be told from it: within its noise.")
    for row in singles:
        if row not in right and _median(row) < _median(best):
            assert row.quality is not None
            said.append(
                f"{row.name} is {_median(best) / _median(row):.2f} times as fast as that, but "
                f"{row.quality.psnr_db:.0f} dB from {row.quality.against} on the picture that fares worst: below the "
                f"{MIN_PSNR_DB:g} dB that --engine auto asks for."
            )
    for batch in sorted({row.batch for row in rows} - {best.batch}):
        same = [row for row in rows if row.batch == batch and (row.backend, row.device, row.precision) == _way(best)]
        gains = [_median(best) / best.batch / (_median(row) / batch) for row in same]
        if gains and max(gains) >= _GAIN:
            said.append(f"Batches of {batch} give {max(gains):.2f} times the images a second of single ones there.")
        elif gains:
            said.append(f"Batches of {batch} gain nothing there ({max(gains):.2f} times the images a second).")
    if best.roof is not None:
        said.append(f"What limits {best.name}: {best.roof.limit}.")
    return said


def _way(row: Row) -> tuple[str, str, str]:
    return row.backend, row.device, row.precision


def _median(row: Row) -> float:
    return summary(row.turns).p50


def _gain(best: Row, baseline: Row) -> str:
    if best is baseline:
        return ", the fastest here that gives the right answer" if _is_compared(best) else ", the fastest here"
    gain = speedup(best.turns, baseline.turns)
    return f", {gain.median:.2f} times as fast as {baseline.name} ({gain.low:.2f} to {gain.high:.2f})"


def _likeness(row: Row) -> str:
    if not _is_compared(row):
        return "; its answers were not compared with any in FP32"
    its = row.quality
    return f", {min(its.psnr_db, IDENTICAL_DB):.0f} dB from {its.against}" if its is not None else ""


def _is_compared(row: Row) -> bool:
    """Whether something is known of its answers; those in FP32 are what others are compared with."""
    return row.quality is not None or row.precision == "fp32"


def _how(row: Row) -> str:
    return f" Make it: {row.how}" if row.how else ""


def _overlap(row: Row, best: Row) -> bool:
    """Whether one is not clearly faster than the other."""
    ratio = speedup(row.turns, best.turns)
    return ratio.high >= 1.0


def _warnings(rows: Sequence[Row], environment: Environment) -> list[str]:
    said = []
    throttled = sorted({reason for row in rows for reason in row.readings.throttled} - _HARMLESS)
    if throttled:
        names = dict.fromkeys(row.name for row in rows if set(row.readings.throttled) - _HARMLESS)
        said.append(f"The hardware slowed itself down ({', '.join(throttled)}) while {', '.join(names)} ran.")
    if any(_HARMLESS & set(row.readings.throttled) for row in rows):
        said.append("It ran at its power limit, as many GPUs do under full load: a higher limit would be faster.")
    restless = dict.fromkeys(row.name for row in rows if row.turns and not row.is_stable)
    if restless:
        said.append(f"Never became stable while warming up: {', '.join(restless)}; --warm-up gives them longer.")
    busy = busy_words(environment, [row.readings for row in rows])
    if busy is not None:
        said.append(busy)
    return said
