"""What all sensors have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from i2i_runtime.closing import Closing

Device = Literal["cpu", "cuda"]
Quantity = Literal["power_w", "clock_mhz", "temperature_c", "utilisation"]
"""As `record.Readings` calls them; the utilisation is 0 to 1."""
Counter = Literal["energy_j", "cpu_s", "stolen_s", "elsewhere_s"]
"""`cpu_s` is the time of all cores of the machine, busy or not; of it `stolen_s` went to other virtual machines and
`elsewhere_s` to processes that are none of ours."""


@dataclass(frozen=True, kw_only=True)
class Levels:
    """What is so at this moment. What cannot be read is missing."""

    quantities: Mapping[Quantity, float] = field(default_factory=dict)
    throttled: frozenset[str] = frozenset()
    """Reasons, in words."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counted since some time in the past: only differences mean something. What cannot be read is missing."""

    counters: Mapping[Counter, float] = field(default_factory=dict)
    throttled: Mapping[str, float] = field(default_factory=dict)
    """How often, by the reason in words."""


class Sensor(Closing):
    """Reads one thing of the machine. Reading never raises, and is cheap: `levels` is read several times a second."""

    name: str
    """For the report: where the figures come from."""
    power_of: str | None = None
    """Whose power, of a sensor that reads power or energy."""
    clock_max_mhz: float | None = None
    """Of a sensor that reads a clock: what the hardware could do."""
    sees_throttling: bool = False

    def levels(self) -> Levels:
        """What is so now. A reading is told once: where there is no new one, this is empty."""
        return Levels()

    def totals(self) -> Totals:
        """What has been counted so far; read as a window opens and closes."""
        return Totals()

    def close(self) -> None:
        """See `Closing`."""
