"""Who else had the processor: the hypervisor's other machines, and processes that are none of ours."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from measuring.sensors.base import Counter, Sensor, Totals
from measuring.sensors.files import read_text


class _Process(NamedTuple):
    parent: int
    ticks: int
    """Of CPU time: its own, and that of its children who have ended."""


class ProcStat(Sensor):
    """CPU time of the whole machine, and of this process and its descendants, from /proc.

    In a container /proc/stat is the host's, so that what other containers do counts as elsewhere.
    """

    name = "/proc/stat"

    def __init__(self, proc: Path, pid: int) -> None:
        self._proc, self._pid = proc, pid
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")

    def totals(self) -> Totals:
        """See `Sensor`."""
        # user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user.
        first = (read_text(self._proc / "stat") or "").split("\n", 1)[0].split()[1:9]
        if len(first) < 8:
            return Totals()
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, first)
        busy = user + nice + system + irq + softirq
        ours = _ticks_of_tree(self._processes(), self._pid)
        ticks: dict[Counter, int] = {
            "cpu_s": busy + idle + iowait + steal,
            "stolen_s": steal,
            "elsewhere_s": busy - ours,
        }
        return Totals(counters={counter: number / self._ticks_per_s for counter, number in ticks.items()})

    def _processes(self) -> dict[int, _Process]:
        found = {}
        for folder in self._proc.iterdir():
            # A process may end while this is read, and its name may hold blanks and brackets.
            if folder.name.isdecimal() and (text := read_text(folder / "stat")):
                fields = text.rpartition(")")[2].split()
                found[int(folder.name)] = _Process(int(fields[1]), sum(map(int, fields[11:15])))
        return found


def _ticks_of_tree(processes: Mapping[int, _Process], root: int) -> int:
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    ticks, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        ticks += processes[pid].ticks if pid in processes else 0
        waiting += children.get(pid, [])
    return ticks


class Psutil(Sensor):
    """The same where there is no /proc: macOS and Windows."""

    name = "psutil"

    def __init__(self, psutil: ModuleType) -> None:
        self._psutil = psutil

    def totals(self) -> Totals:
        """See `Sensor`."""
        times = self._psutil.cpu_times()
        idle: float = times.idle + getattr(times, "iowait", 0.0)
        stolen: float = getattr(times, "steal", 0.0)
        # The guests' time is part of the user's.
        everything = sum(times) - sum(getattr(times, part, 0.0) for part in ("guest", "guest_nice", "interrupt", "dpc"))
        ours = self._psutil.Process()
        busy = everything - idle - stolen
        tree = sum(self._time_of(process) for process in (ours, *ours.children(recursive=True)))
        return Totals(counters={"cpu_s": everything, "stolen_s": stolen, "elsewhere_s": busy - tree})

    def _time_of(self, process: Any) -> float:
        try:
            times = process.cpu_times()
        except self._psutil.Error:
            return 0.0
        return float(times.user + times.system + times.children_user + times.children_system)


def find_host(root: Path) -> tuple[ProcStat | Psutil | None, str | None]:
    """The CPU time of this machine; where it cannot be read, one line that says what would help."""
    sensor = ProcStat(root / "proc", os.getpid()) if (root / "proc/stat").exists() else None
    if sensor is not None and sensor.totals().counters:
        return sensor, None
    try:
        return Psutil(importlib.import_module("psutil")), None
    except ImportError:
        return None, "what else the machine does: pip install psutil"
