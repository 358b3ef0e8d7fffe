"""What the kernel of a Jetson shows: the GPU's clock, throttling, and who has GPU memory."""

from __future__ import annotations

import re
from pathlib import Path

from measuring.sensors.base import Levels, Quantity, Sensor, Totals
from measuring.sensors.files import in_order, read_number, read_numbers, read_text

_GPU = re.compile(r"\d+\.(?:gpu|gp10b|gv11b|ga10b|gb10b)|gpu-gpc-\d+")
"""Nano, Orin with L4T 36; TX2; Xavier; Orin with L4T 35; Thor."""
_OVER_CURRENT = {"oc1": "under-voltage", "oc2": "over-current", "oc3": "over-current"}
"""NVIDIA's Developer Guide for Orin, "OC Event Counters": oc2 of the average, oc3 of the moment."""


def is_tegra(root: Path) -> bool:
    """Whether this is a Jetson. Containers see the device tree, and NVIDIA's mount the release."""
    compatible = read_text(root / "proc/device-tree/compatible") or ""
    return "nvidia,tegra" in compatible or (root / "etc/nv_tegra_release").exists()


class TegraGpu(Sensor):
    """Clock and load of the GPU, which tegrastats tells root only, or not at all."""

    name = "devfreq"

    def __init__(self, devfreq: Path) -> None:
        self._clock = devfreq / "cur_freq"
        self._load = devfreq / "device/load"
        # The highest that the power mode allows is in max_freq.
        steps = (read_text(devfreq / "available_frequencies") or "").split()
        hertz = max(map(float, steps)) if steps else read_number(devfreq / "max_freq")
        self.clock_max_mhz = hertz / 1e6 if hertz is not None else None

    def levels(self) -> Levels:
        """See `Sensor`."""
        found: dict[Quantity, float] = {}
        if (hertz := read_number(self._clock)) is not None:
            found["clock_mhz"] = hertz / 1e6
        if (per_mille := read_number(self._load)) is not None:
            found["utilisation"] = per_mille / 1000
        return Levels(quantities=found)


def find_tegra_gpu(root: Path) -> TegraGpu | None:
    """The integrated GPU's clock; None where it cannot be read."""
    for path in in_order((root / "sys/class/devfreq").glob("*")):
        if _GPU.fullmatch(path.name) and read_number(path / "cur_freq") is not None:
            return TegraGpu(path)
    return None


class OverCurrent(Sensor):
    """Counts how often the supply could not give what was asked for, and the clocks fell for a moment."""

    name = "soctherm_oc"
    sees_throttling = True

    def __init__(self, folder: Path) -> None:
        self._counts = {
            path: reason for name, reason in _OVER_CURRENT.items() if (path := _count(folder, name)).exists()
        }

    def totals(self) -> Totals:
        """See `Sensor`."""
        found: dict[str, float] = {}
        for path, reason in self._counts.items():
            if (count := read_number(path)) is not None:
                found[reason] = found.get(reason, 0) + count
        return Totals(throttled=found)


def _count(folder: Path, name: str) -> Path:
    return folder / f"{name}_event_cnt"


def find_over_current(root: Path) -> OverCurrent | None:
    """The counters; None where there are none."""
    for path in in_order((root / "sys/class/hwmon").glob("hwmon*")):
        if read_numbers(_count(path, name) for name in _OVER_CURRENT):
            return OverCurrent(path)
    return None


def nvmap_mib(root: Path, pid: int) -> float | None:
    """GPU memory of a process in MiB; None where there is none, and for all but root."""
    for line in (read_text(root / "sys/kernel/debug/nvmap/iovmm/clients") or "").splitlines():
        # For example `user    gpu_burn     7979   23525644K`, in some releases with one more size before the last.
        if found := re.fullmatch(rf"user\s.*\s{pid}(?:\s+\d+[KMG])?\s+(\d+)([KMG])", line.strip()):
            return int(found[1]) * {"K": 1 / 1024, "M": 1, "G": 1024}[found[2]]
    return None
