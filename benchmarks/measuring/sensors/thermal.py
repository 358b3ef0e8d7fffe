"""Throttling by heat as Linux sees it on boards with a device tree, such as a Jetson or a Raspberry Pi."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from measuring.sensors.base import Levels, Sensor
from measuring.sensors.files import in_order, read_number, read_text


class Alerts(Sensor):
    """The switches that a Jetson's kernel turns as a zone passes the temperature from which it lowers clocks.

    Other cooling devices are no sign of throttling: fans, and clocks that a governor steers.
    """

    name = "throttle alerts"
    sees_throttling = True

    def __init__(self, states: list[Path]) -> None:
        self._states = states

    def levels(self) -> Levels:
        """See `Sensor`."""
        is_hot = any((read_number(state) or 0) > 0 for state in self._states)
        return Levels(throttled=frozenset({"thermal"} if is_hot else ()))


class _Zone(NamedTuple):
    temperature: Path
    limit: float
    """Thousandths of a degree."""


class Trips(Sensor):
    """Zones with a temperature from which the kernel lowers clocks (trip points of type `passive`)."""

    name = "thermal zones"
    sees_throttling = True

    def __init__(self, zones: list[_Zone]) -> None:
        self._zones = zones

    def levels(self) -> Levels:
        """See `Sensor`."""
        is_hot = any((read_number(zone.temperature) or 0) >= zone.limit for zone in self._zones)
        return Levels(throttled=frozenset({"thermal"} if is_hot else ()))


def find_throttling(root: Path) -> Alerts | Trips | None:
    """The surest sign there is; None on a PC, where the limits in ACPI mean little and the CPU counts itself."""
    if not (root / "proc/device-tree").exists():
        return None
    thermal = root / "sys/class/thermal"
    states = [
        folder / "cur_state"
        for folder in in_order(thermal.glob("cooling_device*"))
        if (read_text(folder / "type") or "").lower().endswith("-alert")
        and read_number(folder / "cur_state") is not None
    ]
    if states:
        return Alerts(states)
    zones = [
        _Zone(folder / "temp", min(limits))
        for folder in in_order(thermal.glob("thermal_zone*"))
        if (limits := _passive_limits(folder)) and read_number(folder / "temp") is not None
    ]
    return Trips(zones) if zones else None


def _passive_limits(zone: Path) -> list[float]:
    kinds = [path for path in zone.glob("trip_point_*_type") if read_text(path) == "passive"]
    limits = [read_number(path.with_name(path.name.replace("_type", "_temp"))) for path in kinds]
    return [limit for limit in limits if limit is not None and limit > 0]
