"""Whether something else had the machine while a benchmark ran."""

from __future__ import annotations

from collections.abc import Iterable

from measuring.record import Environment, Readings

_SHARE = 0.1
"""Of the CPU time, that others may have before it is worth a word."""
BUSY_LOAD = 0.3
"""For each core; asked only where nobody tells what others had meanwhile."""
_SO = "times are too long, ratios and CPU times are what to look at."


def busy_words(machine: Environment, readings: Iterable[Readings]) -> str | None:
    """A sentence for a person if the machine was busy with other things; None if it was not, or nobody can tell.

    Args:
        machine: as it was when the run began.
        readings: of the times that were measured.
    """
    known = [each for each in readings if each.busy_elsewhere is not None or each.stolen is not None]
    if not known:
        load = machine.load_before or 0.0
        return f"The machine was busy before (load {load:.1f} for each core): {_SO}" if load > BUSY_LOAD else None
    share = max((each.busy_elsewhere or 0.0) + (each.stolen or 0.0) for each in known)
    return f"Others had {share:.0%} of the CPU time meanwhile: {_SO}" if share > _SHARE else None
