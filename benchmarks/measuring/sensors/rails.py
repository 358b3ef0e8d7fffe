"""The power rails of a Jetson: which of them is the total, and the INA3221 chips that measure them.

Paths and rails: NVIDIA's Jetson Linux Developer Guide, "Software-Based Power Consumption Modeling", for each module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from measuring.sensors.base import Levels, Sensor
from measuring.sensors.files import in_order, read_number, read_text

_TOTALS = ("VDD_IN", "POM_5V_IN", "VIN")
"""All that goes into the module or board: TX1, TX2, Xavier NX, Orin Nano and NX; Nano; AGX Thor."""
_INCLUDED = ("VDDQ_VDD2_1V8AO",)
"""The memory of AGX Orin, which is behind VIN_SYS_5V0."""


class Power(NamedTuple):
    """Of a whole module."""

    of: str
    """The rail, or `sum of` rails."""
    watts: float


def total_power(milliwatts: Mapping[str, float]) -> Power | None:
    """The power of a module.

    AGX Xavier and AGX Orin measure no total: there it is the sum of the rails, which leaves out the carrier board.

    Args:
        milliwatts: by the name of the rail.
    """
    for name in _TOTALS:
        if name in milliwatts:
            return Power(name, milliwatts[name] / 1000)
    parts = {name: power for name, power in milliwatts.items() if name not in _INCLUDED}
    return Power(f"sum of {', '.join(parts)}", sum(parts.values()) / 1000) if parts else None


class _Rail(NamedTuple):
    factors: tuple[Path, ...]
    """Files whose product is the power."""
    scale: float
    """Milliwatts of a product of 1."""

    def milliwatts(self) -> float | None:
        product = self.scale
        for path in self.factors:
            if (number := read_number(path)) is None:
                return None
            product *= number
        return product


class Rails(Sensor):
    """INA3221 chips, as the kernel of L4T 32 (iio) and that of later ones (hwmon) show them."""

    name = "INA3221"

    def __init__(self, rails: Mapping[str, _Rail]) -> None:
        self._rails = rails
        total = self._total()
        self.power_of = total.of if total is not None else None

    def levels(self) -> Levels:
        """See `Sensor`."""
        total = self._total()
        # A rail that fails once would make the sum another one.
        if total is None or total.of != self.power_of:
            return Levels()
        return Levels(quantities={"power_w": total.watts})

    def _total(self) -> Power | None:
        milliwatts = {name: rail.milliwatts() for name, rail in self._rails.items()}
        return total_power({name: power for name, power in milliwatts.items() if power is not None})


def find_rails(root: Path) -> Rails | None:
    """The rails that can be read; None where there are none."""
    found: dict[str, _Rail] = {}
    drivers = root / "sys/bus/i2c/drivers"
    for path in in_order(drivers.glob("ina3221x/*/iio:device*/rail_name_*")):
        number = path.name.removeprefix("rail_name_")
        found[read_text(path) or ""] = _Rail((path.with_name(f"in_power{number}_input"),), 1)
    for path in in_order(drivers.glob("ina3221/*/hwmon/hwmon*/in[123]_label")):
        number = re.sub(r"\D", "", path.name)
        factors = (path.with_name(f"in{number}_input"), path.with_name(f"curr{number}_input"))
        found[read_text(path) or ""] = _Rail(factors, 1 / 1000)
    # Channels that nothing is connected to are named NC, or not at all.
    readable = {name: rail for name, rail in found.items() if name not in ("", "NC") and rail.milliwatts() is not None}
    return Rails(readable) if readable else None
