"""The processor: energy, clock, temperature and throttling."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

from measuring.sensors.base import Levels, Sensor, Totals
from measuring.sensors.files import in_order, read_number, read_numbers, read_text

_MOST_CORES = 16
"""Whose clock is read: each takes the kernel some microseconds, and some have hundreds."""
_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
"""Drivers of the processor's own sensor: Intel, AMD, Raspberry Pi."""
_ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal")
CPUS = "sys/devices/system/cpu"


class Rapl(Sensor):
    """Energy of the processor packages, without memory and the rest of the machine.

    Intel Software Developer's Manual, volume 3, "RAPL Interfaces"; AMD processors have it from Zen on.
    """

    name = "RAPL"
    power_of = "CPU package"

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones
        self._ranges = [read_number(zone / "max_energy_range_uj") or 0.0 for zone in zones]
        self._last = self._read()
        self._joules = 0.0
        if len(zones) > 1:
            self.power_of = f"{len(zones)} CPU packages"

    def totals(self) -> Totals:
        """See `Sensor`."""
        now = self._read()
        if len(now) != len(self._zones):
            return Totals()
        for last, current, span in zip(self._last, now, self._ranges, strict=True):
            # The counter starts anew at its range, after minutes to hours.
            self._joules += (current - last if current >= last else current + span - last) / 1e6
        self._last = now
        return Totals(counters={"energy_j": self._joules})

    def _read(self) -> list[float]:
        return read_numbers(zone / "energy_uj" for zone in self._zones)


def find_rapl(root: Path) -> tuple[Rapl | None, str | None]:
    """All packages; where they cannot be read, one line that says what would help."""
    folders = in_order((root / "sys/class/powercap").glob("intel-rapl:*"))
    zones = [folder for folder in folders if (read_text(folder / "name") or "").startswith("package")]
    if not zones:
        return None, None
    if len(read_numbers(zone / "energy_uj" for zone in zones)) < len(zones):
        return None, "CPU power: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
    return Rapl(zones), None


class CpuClock(Sensor):
    """Mean clock of the cores that this process may use, idle ones too."""

    name = "cpufreq"

    def __init__(self, clocks: list[Path], highest: list[float]) -> None:
        self._clocks = clocks
        self.clock_max_mhz = max(highest) / 1000 if highest else None

    def levels(self) -> Levels:
        """See `Sensor`."""
        kilohertz = read_numbers(self._clocks)
        return Levels(quantities={"clock_mhz": statistics.fmean(kilohertz) / 1000} if kilohertz else {})


class CpuinfoClock(Sensor):
    """Mean clock of all cores as /proc/cpuinfo tells it; in a virtual machine often the nominal one."""

    name = "/proc/cpuinfo"

    def __init__(self, path: Path) -> None:
        self._path = path

    def levels(self) -> Levels:
        """See `Sensor`."""
        megahertz = [float(found) for found in re.findall(r"(?m)^cpu MHz\s*: ([\d.]+)$", read_text(self._path) or "")]
        return Levels(quantities={"clock_mhz": statistics.fmean(megahertz)} if megahertz else {})


def find_cpu_clock(root: Path) -> CpuClock | CpuinfoClock | None:
    """The surest way to the clock; None where there is none."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    step = -(-len(cores) // _MOST_CORES)
    folders = [root / CPUS / f"cpu{core}/cpufreq" for core in cores[::step]]
    clocks = [path for folder in folders if read_number(path := folder / "scaling_cur_freq") is not None]
    if clocks:
        # A processor may have cores of two kinds.
        return CpuClock(clocks, read_numbers((root / CPUS).glob("cpu*/cpufreq/cpuinfo_max_freq")))
    clock = CpuinfoClock(root / "proc/cpuinfo")
    return clock if clock.levels().quantities else None


class CpuTemperature(Sensor):
    """The hottest of the processor's sensors."""

    name = "hwmon"

    def __init__(self, sensors: list[Path]) -> None:
        self._sensors = sensors

    def levels(self) -> Levels:
        """See `Sensor`."""
        thousandths = read_numbers(self._sensors)
        return Levels(quantities={"temperature_c": max(thousandths) / 1000} if thousandths else {})


def find_cpu_temperature(root: Path) -> CpuTemperature | None:
    """The sensors of the processor; None where there are none."""
    inputs = [path for path in _temperature_files(root) if read_number(path) is not None]
    return CpuTemperature(inputs) if inputs else None


def _temperature_files(root: Path) -> Iterator[Path]:
    for chip in in_order((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(chip / "name") in _CHIPS:
            inputs = in_order(chip.glob("temp*_input"))
            # Intel's tells each core's, too, for which it must wake the core.
            labels = {path: read_text(path.with_name(path.name.replace("_input", "_label"))) or "" for path in inputs}
            yield from [path for path in inputs if labels[path].startswith("Package")] or inputs
    for zone in in_order((root / "sys/class/thermal").glob("thermal_zone*")):
        if (read_text(zone / "type") or "").lower() in _ZONES:
            yield zone / "temp"


class CpuThrottling(Sensor):
    """Counts how often a core or package was too hot. Intel only; AMD processors do not tell."""

    name = "thermal_throttle"
    sees_throttling = True

    def __init__(self, counts: list[Path]) -> None:
        self._counts = counts

    def totals(self) -> Totals:
        """See `Sensor`."""
        return Totals(throttled={"thermal": sum(read_numbers(self._counts))})


def find_cpu_throttling(root: Path) -> CpuThrottling | None:
    """The counters of all cores; None where there are none."""
    paths = in_order((root / CPUS).glob("cpu*/thermal_throttle/*_throttle_count"))
    counts = [path for path in paths if read_number(path) is not None]
    return CpuThrottling(counts) if counts else None
