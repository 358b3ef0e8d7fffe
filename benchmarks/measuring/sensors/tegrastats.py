"""tegrastats, which every Jetson has: power, temperature, and the GPU's load and clock.

Its lines: NVIDIA's Jetson Linux Developer Guide, "tegrastats Utility".
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from typing import NamedTuple

from measuring.sensors.base import Device, Levels, Quantity, Sensor
from measuring.sensors.rails import Power, total_power

_INTERVAL_MS = 200
_FIRST_LINE_S = 2.0
"""Seconds to wait for it; the interval is how long it should take."""
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?:/\d+(?:mW)?)?(?!\S)")
"""Now, and on average since tegrastats began; on AGX Thor the highest, too. L4T 32 leaves out the unit."""
_TEMPERATURE = re.compile(r"(?<!\S)(\w+)@(-?\d+(?:\.\d+)?)C")
_GPU = re.compile(r"\bGR3D_FREQ (\d+)%(?:@\[?(\d+(?:,\d+)*)\]?)?")
"""Without the clock unless root asks; one clock for each cluster of the GPU, 0 of a cluster that sleeps."""
_ZONES: dict[Device, tuple[str, ...]] = {"cuda": ("gpu",), "cpu": ("cpu", "mcpu", "bcpu")}
_ABSENT_C = -40.0
"""A sensor that is switched off says -256."""


class Line(NamedTuple):
    """What is of use in a line."""

    power: Power | None
    temperatures_c: dict[str, float]
    """By the zone's name in lower case."""
    utilisation: float | None
    """Of the GPU, 0 to 1."""
    gpu_mhz: float | None


def parse(line: str) -> Line:
    """Read a line of any release; what it does not have is None or missing."""
    temperatures = {zone.lower(): float(celsius) for zone, celsius in _TEMPERATURE.findall(line)}
    gpu = _GPU.search(line)
    return Line(
        power=total_power({name: float(power) for name, power in _RAIL.findall(line)}),
        temperatures_c={zone: celsius for zone, celsius in temperatures.items() if celsius > _ABSENT_C},
        utilisation=float(gpu[1]) / 100 if gpu else None,
        gpu_mhz=max(map(float, gpu[2].split(","))) if gpu and gpu[2] else None,
    )


class Tegrastats(Sensor):
    """Runs tegrastats until it is closed. Should our process be killed, tegrastats dies of its next line."""

    name = "tegrastats"

    def __init__(self, path: str, device: Device) -> None:
        self._device = device
        self._newest: Line | None = None
        self._has_line = threading.Event()
        self._process = subprocess.Popen(
            [path, "--interval", str(_INTERVAL_MS)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Its own group, so that all of it can be ended; Ctrl-C is for us.
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._read_lines, name="tegrastats", daemon=True)
        self._thread.start()
        self._has_line.wait(_FIRST_LINE_S)
        first = self._peek()
        self.has_line = first is not None
        self.power_of = first.power.of if first is not None and first.power is not None else None

    def levels(self) -> Levels:
        """See `Sensor`."""
        line, self._newest = self._peek(), None
        if line is None:
            return Levels()
        found: dict[Quantity, float] = {}
        if line.power is not None and line.power.of == self.power_of:
            found["power_w"] = line.power.watts
        zones = [line.temperatures_c[zone] for zone in _ZONES[self._device] if zone in line.temperatures_c]
        if zones:
            found["temperature_c"] = max(zones)
        if self._device == "cuda":
            if line.utilisation is not None:
                found["utilisation"] = line.utilisation
            if line.gpu_mhz is not None:
                found["clock_mhz"] = line.gpu_mhz
        return Levels(quantities=found)

    def close(self) -> None:
        """See `Closing`."""
        # Its number cannot be another's before it has been waited for.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._thread.join()

    def _peek(self) -> Line | None:
        return self._newest

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._newest = parse(line)
                self._has_line.set()
        self._has_line.set()


def find_tegrastats(device: Device) -> Tegrastats | None:
    """Start it; None where there is none, or it says nothing."""
    path = shutil.which("tegrastats")
    if path is None:
        return None
    try:
        sensor = Tegrastats(path, device)
    except OSError:
        return None
    if sensor.has_line:
        return sensor
    sensor.close()
    return None
