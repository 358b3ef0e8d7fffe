"""What a machine was measured to take for the parts of students: `machine.json`, made by `i2i-export profile`.

Nothing here imports PyTorch: the file is written where students run, and read where they are trained.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from i2i_runtime.card import decode
from i2i_runtime.errors import ModelError, SinkError, UsageError, system_reason
from i2i_trainer.budget.shape import BLOCK_KINDS, BlockKind, Size

MACHINE_VERSION = 1
Backend = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
_AGAIN = "measure the machine again with i2i-export profile"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Seconds over two numbers of channels."""

    rows: tuple[int, ...]
    """Ascending."""
    columns: tuple[int, ...]
    """Ascending."""
    seconds: tuple[tuple[float, ...], ...]
    """For each row one of each column."""

    def at(self, row: float, column: float) -> float:
        """Seconds in between, bilinear, and beyond the ends as between the last two.

        That is the form that the cost of a convolution has: a part for each pixel, one for each channel on either side,
        and one for each pair of channels.
        """
        (top, bottom), down = _between(self.rows, row)
        (left, right), across = _between(self.columns, column)
        above, below = (
            (1 - across) * line[left] + across * line[right] for line in (self.seconds[top], self.seconds[bottom])
        )
        # A line through two measurements may reach below what anything takes.
        return max((1 - down) * above + down * below, min(map(min, self.seconds)) / 4)

    def covers(self, row: float, column: float) -> bool:
        """Whether both numbers lie within what was measured."""
        return self.rows[0] <= row <= self.rows[-1] and self.columns[0] <= column <= self.columns[-1]

    def check(self, where: str) -> None:
        """Refuse a table that cannot be read off.

        Raises:
            ModelError: names what is wrong.
        """
        for axis in (self.rows, self.columns):
            if not axis or axis[0] < 0 or any(one >= other for one, other in pairwise(axis)):
                raise ModelError(f"{where}: expected ascending numbers of channels, found {list(axis)}; {_AGAIN}")
        if len(self.seconds) != len(self.rows) or any(len(line) != len(self.columns) for line in self.seconds):
            raise ModelError(f"{where}: expected {len(self.rows)} x {len(self.columns)} times; {_AGAIN}")
        if any(second <= 0 for line in self.seconds for second in line):
            raise ModelError(f"{where}: expected times above 0, found {min(map(min, self.seconds)):g}; {_AGAIN}")


def _between(axis: Sequence[int], wanted: float) -> tuple[tuple[int, int], float]:
    """The two places whose line goes through `wanted`, and how far along it lies from the first."""
    if len(axis) == 1:
        return (0, 0), 0.0
    high = min(max(bisect.bisect_left(axis, wanted), 1), len(axis) - 1)
    return (high - 1, high), (wanted - axis[high - 1]) / (axis[high] - axis[high - 1])


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A whole student, measured to see how well its parts foretell it."""

    block: BlockKind
    student: str
    """In words, as `--student` takes them."""
    predicted_s: float
    measured_s: float


@dataclass(frozen=True, kw_only=True)
class EngineTimes:
    """What the parts of a student take in one engine."""

    backend: Backend
    device: Literal["cpu", "cuda"]
    precision: Precision
    provider: str
    """What really ran them, for example `ONNX Runtime CPU`."""
    ends: Table
    """All but the blocks, of a student without a layer at half of the size: one row, 0, over the width."""
    half_ends: Table
    """The same of one with such a layer: its channels over the width."""
    blocks: dict[str, Table]
    """By kind, one block: width over the channels in its middle."""
    trials: tuple[Trial, ...]
    """Of students that a search would choose."""

    def lateness(self, block: str) -> float:
        """The largest share by which a trial with blocks of a kind took longer than predicted; 0: none did."""
        return max([0.0, *(its.measured_s / its.predicted_s - 1 for its in self.trials if its.block == block)])

    @property
    def name(self) -> str:
        """For example `ONNX Runtime CPU fp32`; no two engines of a profile have the same."""
        # OpenVINO tells by the name of its provider that it computes in bf16.
        return self.provider if self.provider.endswith(f" {self.precision}") else f"{self.provider} {self.precision}"

    @property
    def export_options(self) -> str:
        """What makes `i2i-export` write a model for it."""
        plan = " -o student.plan" if self.backend in ("tensorrt", "tensorrt_rtx") else " -o student.onnx"
        return f"--{self.precision}{plan}" if self.precision in ("fp16", "int8") else plan.strip()

    @property
    def run_options(self) -> str:
        """What makes `i2i-run` use it."""
        if self.backend in ("tensorrt", "tensorrt_rtx"):
            return "--engine student.plan"
        options = ["--engine student.onnx"]
        if self.backend == "openvino":
            options.append("--backend openvino")
        if self.device == "cuda":
            options.append("--device cuda")
        if self.precision == "bf16":
            options.append("--precision bf16")
        return " ".join(options)


@dataclass(frozen=True, kw_only=True)
class MachineProfile:
    """A machine, and what its engines take."""

    machine: str
    """The GPU where one was measured, else the CPU."""
    cpu: str
    cores: int
    """That the measuring process could use."""
    threads: int | None
    """CPU threads of one inference; None where the choice was left to the engine."""
    system: str
    """For example `Linux x86_64`."""
    versions: dict[str, str]
    """Of the libraries that ran the students, and of i2i."""
    date: str
    """UTC, ISO 8601."""
    size: Size
    """Of the pictures."""
    channels: tuple[int, int]
    """Of the pictures that students take, and of those that they return."""
    busy_elsewhere: float | None
    """Share of the CPU time that other processes took meanwhile; None where the system does not tell."""
    engines: tuple[EngineTimes, ...]
    notes: tuple[str, ...] = ()
    """What was left out and why, a line each."""
    version: int = MACHINE_VERSION

    def engine(self, name: str) -> EngineTimes:
        """An engine by its name.

        Raises:
            UsageError: it was not measured.
        """
        for engine in self.engines:
            if engine.name == name:
                return engine
        known = ", ".join(engine.name for engine in self.engines)
        raise UsageError(f"engine {name!r}: not measured on this machine; expected one of {known}")

    def check(self, size: Size, channels: tuple[int, int]) -> None:
        """Refuse pictures other than those that were measured.

        A small picture takes more than its share of the pixels, and channels of pictures concern the ends alone: what
        is guessed of others is wrong by half.

        Raises:
            UsageError: names the command that measures them.
        """
        if (size, channels) == (self.size, self.channels):
            return
        wanted, found = (
            f"{height}x{width} with {given} to {returned} channels"
            for (height, width), (given, returned) in ((size, channels), (self.size, self.channels))
        )
        raise UsageError(
            f"the profile of {self.machine} is of pictures of {found}, expected {wanted}; there run i2i-export profile "
            f"--size {size[0]}x{size[1]} --input-channels {channels[0]} --output-channels {channels[1]}"
        )

    def to_json(self) -> str:
        """The profile as JSON text; `from_json` gives an equal one back."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str = "machine.json") -> MachineProfile:
        """Read a profile, telling `where` it was found when something is wrong with it.

        Raises:
            ModelError: no JSON, another version, a missing or unknown field, a wrong type, impossible numbers.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{where}: expected a JSON file ({error}); {_AGAIN}") from None
        if not isinstance(data, dict) or "engines" not in data:
            raise ModelError(f"{where}: expected a file of i2i-export profile, found something else")
        if data.get("version") != MACHINE_VERSION:
            raise ModelError(
                f"{where}: version {data.get('version')!r} is unknown, this i2i reads version {MACHINE_VERSION}; "
                f"{_AGAIN}"
            )
        profile = decode(cls, data, where)
        if min(*profile.size, *profile.channels) < 1:
            raise ModelError(
                f"{where}: expected at least 1 pixel and 1 channel, found {profile.size}, {profile.channels}; {_AGAIN}"
            )
        if not profile.engines:
            raise ModelError(f"{where}: expected times of at least one engine, found none; {_AGAIN}")
        for engine in profile.engines:
            its = f"{where}: {engine.name}"
            engine.ends.check(f"{its}.ends")
            engine.half_ends.check(f"{its}.half_ends")
            if not engine.blocks:
                raise ModelError(f"{its}.blocks: expected {', '.join(BLOCK_KINDS)}, found none; {_AGAIN}")
            for kind, table in engine.blocks.items():
                if kind not in BLOCK_KINDS:
                    raise ModelError(f"{its}.blocks: expected {', '.join(BLOCK_KINDS)}, found {kind!r}; {_AGAIN}")
                table.check(f"{its}.blocks.{kind}")
            if any(min(trial.predicted_s, trial.measured_s) <= 0 for trial in engine.trials):
                raise ModelError(f"{its}.trials: expected times above 0; {_AGAIN}")
        return profile


def read_profile(path: Path) -> MachineProfile:
    """Read a profile.

    Raises:
        UsageError: no such file.
        ModelError: see `MachineProfile.from_json`.
    """
    try:
        return MachineProfile.from_json(path.read_text(encoding="utf-8"), where=str(path))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({system_reason(error)}); make one with i2i-export profile -o {path.name}"
        ) from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: expected a JSON file, found bytes that are no text; {_AGAIN}") from error


def write_profile(path: Path, profile: MachineProfile) -> None:
    """Write a profile beside its place and move it there: a reader sees the old one or the new one.

    Raises:
        SinkError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(profile.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise SinkError(f"{path}: cannot be written ({system_reason(error)}); choose another --output") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
