"""NVIDIA's management library: what an NVIDIA GPU does, and who has its memory.

Names and meanings: NVML API Reference Guide; the bits are those of nvml.h.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from measuring.sensors.base import Counter, Levels, Quantity, Sensor, Totals

_THROTTLED = {
    0x04: "power cap",  # SwPowerCap: at the power limit, which is how many cards run under load.
    0x20: "thermal",  # SwThermalSlowdown
    0x40: "thermal",  # HwThermalSlowdown
    0x80: "power brake",  # HwPowerBrakeSlowdown: the power supply asks for it.
}
"""Idle (0x01), clocks that the user has set (0x02), sync boost (0x10) and the display (0x100) are no throttling."""
_HARDWARE_SLOWDOWN = 0x08
"""Set beside a more exact reason where the GPU knows it."""
_CLOCK_SM = 1
"""The clock of the shaders, which CUDA's work runs at."""
_TEMPERATURE_GPU = 0
_MIB = 2**20


class Nvml:
    """The library, initialised. What cannot be asked is None; each object is closed once."""

    def __init__(self) -> None:
        """Load it.

        Raises:
            ImportError: nvidia-ml-py is not installed.
            OSError: there is no driver, or it does not fit.
        """
        self._module: ModuleType = importlib.import_module("pynvml")
        try:
            self._module.nvmlInit()
        except self._module.NVMLError as error:
            raise OSError(str(error)) from error

    def ask(self, function: str, *arguments: Any) -> Any:
        """Call `nvml` + `function`; None where this driver, this GPU or this release of the binding cannot tell."""
        call = getattr(self._module, f"nvml{function}", None)
        if call is None:
            return None
        try:
            return call(*arguments)
        except self._module.NVMLError:
            return None

    def close(self) -> None:
        """Give the library back."""
        self.ask("Shutdown")

    def devices(self) -> list[Any]:
        """Handles of all GPUs, in the order of the PCI bus."""
        handles = [self.ask("DeviceGetHandleByIndex", index) for index in range(self.ask("DeviceGetCount") or 0)]
        # The driver of a Jetson up to Orin has an NVML that knows the GPU's name and nothing else.
        return [handle for handle in handles if handle is not None and "(nvgpu)" not in self.name(handle)]

    def name(self, handle: Any) -> str:
        """For example `NVIDIA GeForce RTX 4090`."""
        return self.ask("DeviceGetName", handle) or "unknown NVIDIA GPU"

    def visible_device(self, environment: Mapping[str, str]) -> Any:
        """The GPU, or its MIG instance, that CUDA calls device 0; None where that is none or cannot be known."""
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        first = "0" if visible is None else visible.split(",")[0].strip()
        devices = self.devices()
        if first.startswith("MIG-"):
            return self.ask("DeviceGetHandleByUUID", first)
        if first.startswith("GPU-"):
            return next((one for one in devices if (self.ask("DeviceGetUUID", one) or "").startswith(first)), None)
        if not first.isdecimal() or int(first) >= len(devices) or self.is_order_unknown(environment):
            return None
        return devices[int(first)]

    def is_order_unknown(self, environment: Mapping[str, str]) -> bool:
        """Whether CUDA numbers the GPUs otherwise than NVML: its default is the fastest first."""
        models = {self.name(handle) for handle in self.devices()}
        return len(models) > 1 and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"

    def driver(self) -> str | None:
        """Its release."""
        release: str | None = self.ask("SystemGetDriverVersion")
        return release

    def cuda_driver(self) -> str | None:
        """The newest CUDA that the driver knows, for example `12.6`."""
        number = self.ask("SystemGetCudaDriverVersion")
        return f"{number // 1000}.{number % 1000 // 10}" if number else None

    def descriptions(self) -> tuple[str, ...]:
        """One line for each GPU."""
        lines = []
        for handle in self.devices():
            parts = [self.name(handle), f"driver {self.driver()}"]
            if milliwatts := self.ask("DeviceGetEnforcedPowerLimit", handle):
                parts.append(f"power limit {milliwatts / 1000:.0f} W")
            lines.append(", ".join(parts))
        return tuple(lines)


class NvidiaGpu(Sensor):
    """One GPU, or a MIG instance of it, of which NVML tells only the memory."""

    name = "NVML"

    def __init__(self, nvml: Nvml, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        index = self._ask("Index")
        self.power_of = "GPU" if index is None else f"GPU {index}"
        self.clock_max_mhz = self._ask("MaxClockInfo", _CLOCK_SM)
        # The older name is that of drivers before 535.
        names = ("CurrentClocksEventReasons", "CurrentClocksThrottleReasons")
        self._reasons = next((name for name in names if self._ask(name) is not None), None)
        self.sees_throttling = self._reasons is not None
        self._host_pids: dict[int, int] = {}
        self._growths_mib: dict[int, float] = {}

    def levels(self) -> Levels:
        """See `Sensor`."""
        # Not asked are power and utilisation: both are means of up to a second, in which others had their turn, too.
        found: dict[Quantity, float] = {}
        if (megahertz := self._ask("ClockInfo", _CLOCK_SM)) is not None:
            found["clock_mhz"] = megahertz
        if (celsius := self._ask("Temperature", _TEMPERATURE_GPU)) is not None:
            found["temperature_c"] = celsius
        bits = self._ask(self._reasons) if self._reasons is not None else None
        return Levels(quantities=found, throttled=throttle_reasons(bits or 0))

    def totals(self) -> Totals:
        """See `Sensor`."""
        millijoules = self._ask("TotalEnergyConsumption")
        counters: dict[Counter, float] = {} if millijoules is None else {"energy_j": millijoules / 1000}
        return Totals(counters=counters)

    def close(self) -> None:
        """See `Closing`."""
        self._nvml.close()

    @contextmanager
    def loading(self, pid: int) -> Iterator[None]:
        """To be entered while that process, and no other of ours, loads what it runs.

        In a container NVML may number processes as the host does, or know no memory of theirs; Windows never tells
        it. Then it is the process that appears meanwhile, or as much as the used memory grows.
        """
        before, used = self._memory_by_pid(), self._used_mib()
        yield
        after, grown = self._memory_by_pid(), self._used_mib()
        appeared = after.keys() - before.keys()
        if len(appeared) == 1:
            self._host_pids[pid] = appeared.pop()
        if used is not None and grown is not None:
            self._growths_mib[pid] = max(0.0, grown - used)

    def memory_mib(self, pid: int) -> float | None:
        """GPU memory of a process in MiB; None where it is not known.

        Args:
            pid: as this process numbers it; of one that loaded within `loading`, or it may not be found.
        """
        by_pid = self._memory_by_pid()
        return by_pid.get(pid) or by_pid.get(self._host_pids.get(pid, -1)) or self._growths_mib.get(pid)

    def _memory_by_pid(self) -> dict[int, float | None]:
        processes = self._ask("ComputeRunningProcesses") or ()
        return {one.pid: one.usedGpuMemory / _MIB if one.usedGpuMemory else None for one in processes}

    def _used_mib(self) -> float | None:
        memory = self._ask("MemoryInfo")
        return memory.used / _MIB if memory is not None else None

    def _ask(self, what: str, *arguments: int) -> Any:
        return self._nvml.ask(f"DeviceGet{what}", self._handle, *arguments)


def throttle_reasons(bits: int) -> frozenset[str]:
    """The words for those bits of NVML's clock event reasons that slow a GPU down against the user's wish."""
    reasons = frozenset(word for bit, word in _THROTTLED.items() if bits & bit)
    if bits & _HARDWARE_SLOWDOWN and not reasons & {"thermal", "power brake"}:
        return reasons | {"hardware slowdown"}
    return reasons


def find_nvidia_gpu() -> tuple[NvidiaGpu | None, str | None]:
    """The GPU that CUDA uses; where there is none to read, one line that says what would help, if anything would."""
    try:
        nvml = Nvml()
    except ImportError:
        return None, "GPU power, clocks and memory: pip install nvidia-ml-py"
    except OSError as error:
        return None, f"GPU power, clocks and memory: NVML does not work here ({error})"
    handle = nvml.visible_device(os.environ)
    if handle is not None:
        return NvidiaGpu(nvml, handle), None
    note = None
    if nvml.devices() and nvml.is_order_unknown(os.environ):
        note = "GPU power, clocks and memory: several GPUs; CUDA_DEVICE_ORDER=PCI_BUS_ID says which is device 0"
    nvml.close()
    return None, note
