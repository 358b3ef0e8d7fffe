"""All sensors of a machine, and the times during which they are of interest."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from i2i_runtime.closing import Closing
from measuring.record import Readings
from measuring.sensors import cpu, host, nvml, rails, tegra, tegrastats, thermal
from measuring.sensors.base import Counter, Device, Quantity, Sensor, Totals

if TYPE_CHECKING:
    from typing_extensions import Self

_INTERVAL_S = 0.05
"""Between two looks, at least: a part of a turn lasts 0.15 s, and a GPU forgets at once what it was slowed down by."""
_LARGEST_COST = 0.01
"""Share of a core's time that looking may take: a machine of hundreds of cores is looked at less often."""


class Sensors(Closing):
    """What this machine can tell about itself while something runs. Finding nothing is no error."""

    names: list[str]
    """What is read, for a report."""
    notes: list[str]
    """What cannot be read although it could be, with what would help, one line each."""

    def __init__(self, device: Device, root: Path = Path("/")) -> None:
        """Look for them.

        Args:
            device: whose power, clock and temperature are of interest.
            root: where /proc and /sys are.
        """
        self.notes = []
        self._root = root
        self._gpu: nvml.NvidiaGpu | None = None
        self._sensors = [sensor for sensor in self._find(device) if sensor is not None]
        self.names = [sensor.name for sensor in self._sensors]

    def window(self) -> Window:
        """A new one; two windows must not be open at a time."""
        return Window(self._sensors)

    @contextmanager
    def loading(self, pid: int) -> Iterator[None]:
        """To be entered while that process, and no other of ours, loads what it runs: see `device_memory_mib`."""
        with self._gpu.loading(pid) if self._gpu is not None else nullcontext():
            yield

    def device_memory_mib(self, pid: int) -> float | None:
        """GPU memory that a process has now, in MiB.

        In containers and on Windows, where NVML cannot name the process, only for one that loaded within `loading`;
        on a Jetson, whose GPU has no memory of its own, for root only.
        """
        known = self._gpu.memory_mib(pid) if self._gpu is not None else None
        return known if known is not None else tegra.nvmap_mib(self._root, pid)

    def close(self) -> None:
        """See `Closing`."""
        for sensor in self._sensors:
            sensor.close()
        self._sensors.clear()
        self._gpu = None

    def _find(self, device: Device) -> Iterator[Sensor | None]:
        """The best sensor of a quantity comes first."""
        root = self._root
        if is_tegra := tegra.is_tegra(root):
            if device == "cuda":
                yield tegra.find_tegra_gpu(root)
            board = tegrastats.find_tegrastats(device)
            yield board
            if board is None or board.power_of is None:
                yield rails.find_rails(root)
        if device == "cuda":
            self._gpu, note = nvml.find_nvidia_gpu()
            yield self._gpu
            # A Jetson's other sensors know all of it but the memory.
            self._note(note if not is_tegra else None)
        else:
            if not is_tegra:
                packages, note = cpu.find_rapl(root)
                self._note(note)
                yield packages
            yield cpu.find_cpu_clock(root)
            yield cpu.find_cpu_temperature(root)
            yield cpu.find_cpu_throttling(root)
        if is_tegra:
            yield tegra.find_over_current(root)
        if is_tegra or device == "cpu":
            yield thermal.find_throttling(root)
        machine, note = host.find_host(root)
        self._note(note)
        yield machine

    def _note(self, note: str | None) -> None:
        if note is not None:
            self.notes.append(note)


@dataclass
class _Sum:
    """Of one quantity, over time."""

    last_s: float
    """When it was read last."""
    product: float = 0.0
    """Value times seconds."""
    seconds: float = 0.0
    highest: float = -math.inf

    def add(self, value: float, now_s: float) -> None:
        # Each value stands for the time since the one before it: before the first of them the machine was at rest.
        self.product += value * (now_s - self.last_s)
        self.seconds += now_s - self.last_s
        self.highest = max(self.highest, value)
        self.last_s = now_s

    @property
    def mean(self) -> float:
        return self.product / self.seconds


@dataclass
class _Seen:
    """What one sensor has told while the window was open."""

    sensor: Sensor
    sums: dict[Quantity, _Sum] = field(default_factory=dict)
    counted: dict[Counter, float] = field(default_factory=dict)
    counted_s: float = 0.0
    throttled: set[str] = field(default_factory=set)
    _before: Totals = field(default_factory=Totals)
    _opened_s: float = 0.0

    def open(self) -> None:
        # A reading from before is none of ours.
        self.sensor.levels()
        self._before, self._opened_s = self.sensor.totals(), time.perf_counter()
        for each in self.sums.values():
            each.last_s = self._opened_s

    def look(self) -> None:
        levels, now_s = self.sensor.levels(), time.perf_counter()
        for quantity, value in levels.quantities.items():
            self.sums.setdefault(quantity, _Sum(self._opened_s)).add(value, now_s)
        self.throttled |= levels.throttled

    def close(self) -> None:
        after, now_s = self.sensor.totals(), time.perf_counter()
        both = after.counters.keys() & self._before.counters.keys()
        for counter in both:
            difference = after.counters[counter] - self._before.counters[counter]
            self.counted[counter] = self.counted.get(counter, 0.0) + difference
        if both:
            self.counted_s += now_s - self._opened_s
        self.throttled |= {
            reason for reason, count in after.throttled.items() if count > self._before.throttled.get(reason, count)
        }


class Window:
    """The time during which one contestant has its turns: entered for each of them, and read at the end."""

    def __init__(self, sensors: Sequence[Sensor]) -> None:
        self._seen = [_Seen(sensor) for sensor in sensors]
        self._is_over = threading.Event()
        self._next_look_s = _INTERVAL_S
        """In how many seconds of being open: a sensor that is dear to read is not looked at in each part of a turn."""
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        # The last is the dearest to read, and should not be in the others' time.
        for seen in reversed(self._seen):
            seen.open()
        self._is_over.clear()
        self._thread = threading.Thread(target=self._look_on, name="sensors", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None, "entered"
        self._is_over.set()
        self._thread.join()
        self._look()
        for seen in self._seen:
            seen.close()

    def readings(self) -> Readings:
        """What was seen while the window was open, all times together: means over time, the highest temperature."""
        power, power_of = self._power()
        clock, clock_max = self._of("clock_mhz")
        heat, _ = self._of("temperature_c")
        utilisation, _ = self._of("utilisation")
        return Readings(
            power_w=power,
            power_of=power_of,
            clock_mhz=clock.mean if clock is not None else None,
            clock_max_mhz=clock_max.clock_max_mhz if clock_max is not None else None,
            temperature_c=heat.highest if heat is not None else None,
            throttled=tuple(sorted(set().union(*(seen.throttled for seen in self._seen)))),
            can_see_throttling=any(seen.sensor.sees_throttling for seen in self._seen),
            utilisation=utilisation.mean if utilisation is not None else None,
            stolen=self._share("stolen_s"),
            busy_elsewhere=self._share("elsewhere_s"),
        )

    def _look_on(self) -> None:
        began = time.perf_counter()
        while not self._is_over.wait(self._next_look_s):
            used = time.thread_time()
            self._look()
            self._next_look_s = max(_INTERVAL_S, (time.thread_time() - used) / _LARGEST_COST)
            began = time.perf_counter()
        self._next_look_s = max(0.0, self._next_look_s - (time.perf_counter() - began))

    def _look(self) -> None:
        for seen in self._seen:
            seen.look()

    def _of(self, quantity: Quantity) -> tuple[_Sum, Sensor] | tuple[None, None]:
        """By the first sensor that has told it."""
        for seen in self._seen:
            if quantity in seen.sums:
                return seen.sums[quantity], seen.sensor
        return None, None

    def _power(self) -> tuple[float, str | None] | tuple[None, None]:
        for seen in self._seen:
            if "energy_j" in seen.counted:
                return seen.counted["energy_j"] / seen.counted_s, seen.sensor.power_of
            if "power_w" in seen.sums:
                return seen.sums["power_w"].mean, seen.sensor.power_of
        return None, None

    def _share(self, counter: Counter) -> float | None:
        """Of the time of all cores, 0 to 1."""
        for seen in self._seen:
            if counter in seen.counted and seen.counted["cpu_s"] > 0:
                # The system counts the whole in ticks and each process more exactly.
                return min(1.0, max(0.0, seen.counted[counter] / seen.counted["cpu_s"]))
        return None
