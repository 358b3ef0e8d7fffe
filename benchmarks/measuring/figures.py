"""Figures of what takes turns inside one process, and the file they are written to.

For contestants that are parts of one program, such as a loop and the pipeline. What a library is worth against another
is measured in processes of their own: see `rounds`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from i2i_runtime.card import decode
from i2i_runtime.errors import UsageError, system_reason
from measuring.output import write_json
from measuring.record import Environment
from measuring.spread import Ratio, over_rounds

Seconds = dict[str, list[float]]
"""By contestant, of each round."""


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """Time contestants in turns, so that whatever disturbs the machine disturbs all alike.

    Args:
        contestants: what to do in a turn, by name.
        rounds: that count; in each, every contestant has one turn, in an order drawn anew.
        warm_up: rounds before these, in which caches fill and libraries choose their kernels.
        clock: tells seconds; `time.process_time` leaves out what other processes do.

    Returns:
        Seconds of each turn, by name and in the order of the rounds.
    """
    seconds: Seconds = {name: [] for name in contestants}
    names, random = list(contestants), np.random.default_rng(0)
    for number in range(warm_up + rounds):
        for index in random.permutation(len(names)):
            name = names[index]
            began = clock()
            contestants[name]()
            if number >= warm_up:
                seconds[name].append(clock() - began)
    return seconds


def ratio(dividends: Sequence[float], divisors: Sequence[float]) -> Ratio:
    """The ratio within each round, over the rounds: see `Ratio`.

    Args:
        dividends: a figure of each round.
        divisors: another one, of the same rounds.
    """
    return over_rounds(np.divide(dividends, divisors))


def words(found: Ratio, form: str = ".2f") -> str:
    """A ratio for a table.

    >>> words(Ratio(median=1.342, low=1.31, high=1.35))
    '1.34 (1.31 to 1.35)'
    """
    return f"{found.median:{form}} ({found.low:{form}} to {found.high:{form}})"


def write_figures(path: Path, machine: Environment, figures: Mapping[str, object]) -> None:
    """Write JSON with the machine it was measured on.

    Args:
        path: its folder is made.
        machine: as it was when the run began.
        figures: what JSON can say; a `Ratio` becomes an object with its names.

    Raises:
        SinkError: it cannot be written.
    """
    write_json(path, {"environment": asdict(machine), **_named(figures)})


def read_figures(path: Path) -> tuple[Environment, dict[str, Any]]:
    """Read what `write_figures` wrote.

    Returns:
        The machine, and the figures as JSON has them.

    Raises:
        UsageError: no such file, or no figures in it.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: expected a JSON file of a benchmark ({system_reason(error)})") from error
    if not isinstance(data, dict) or "environment" not in data:
        raise UsageError(f"{path}: expected a JSON file of a benchmark, found one that names no environment")
    machine = decode(Environment, data.pop("environment"), path.name)
    return machine, data


def _named(value: Any) -> Any:
    """Named tuples as objects, at any depth: JSON would make lists of them."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _named(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): _named(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_named(part) for part in value]
    return value
