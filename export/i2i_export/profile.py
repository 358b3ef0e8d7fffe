"""`i2i-export profile`: what this machine takes for the parts of students, measured in every engine that is here.

A block's time is a slope: a student with several of them takes so much longer than one with none. Each student runs in
many short turns that are mixed with those of the others, and what counts is what it takes when little disturbs it: on
a shared machine neighbours slow a part of the turns by a tenth or by half, and never speed one up.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeVar, get_args

import click
import numpy as np
import onnx
from rich.console import Console
from rich.table import Table as Printed

from i2i_export.slopes import Parts, usual
from i2i_export.student_graph import student_graph
from i2i_runtime import __version__
from i2i_runtime.command import graceful_stop
from i2i_runtime.engines import nvinfer
from i2i_runtime.engines.base import Device, Engine
from i2i_runtime.engines.build import build_plan
from i2i_runtime.engines.manifest import Library
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import DeviceError, I2IError, ModelError, SinkError, UsageError
from i2i_runtime.image import make_folder
from i2i_runtime.status_line import status_line
from i2i_trainer.budget.machine import Backend, EngineTimes, MachineProfile, Precision, Table, Trial, write_profile
from i2i_trainer.budget.predictor import predict
from i2i_trainer.budget.search import BLOCKS, choose, margin
from i2i_trainer.budget.shape import BLOCK_KINDS, GROUP, BlockKind, Size, StudentShape

Where = Literal["here", "cpu", "cuda"]
"""Which engines are measured: all, those on the CPU, those on an NVIDIA GPU."""
_LOOK_S = 0.003
_LONGEST_REST_S = 0.1
_BUSY = 0.1
"""Share of the CPU time of others above which their presence is said."""
_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13-bindings", "onnx")
OnProgress = Callable[[str], None]
_Key = TypeVar("_Key")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Which students are measured, and for how long."""

    widths: tuple[int, ...] = (8, 16, 32, 48, 64, 96)
    inners: Mapping[BlockKind, tuple[int, ...]] = field(
        default_factory=lambda: {"plain": (8, 32, 96), "separable": (8, 32, 96), "grouped": (16, 96)}
    )
    """Between them a block's time is a line, to a few per cent."""
    counts: Mapping[BlockKind, int] = field(default_factory=lambda: {"plain": 4, "separable": 8, "grouped": 6})
    """Blocks of the student that is measured: enough to be a good part of its time."""
    halves: tuple[int, ...] = (8, 16, 32)
    half_widths: tuple[int, ...] = (8, 32, 96)
    turns: int = 8
    """Of each student."""
    turn_s: float = 0.04
    """Or two runs, where they take longer."""
    patience_s: float = 25.0
    """For the turns of one width; after it a slow machine goes on to the next, with three turns at least."""
    trials: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0)
    """Budgets for which students are chosen and measured, as multiples of the least that one can keep."""

    def students(self, width: int) -> list[StudentShape]:
        """All students of one width: those without blocks, and one of each block."""
        halves = self.halves if width in self.half_widths else ()
        ends = [StudentShape(width=width, half=half, inners=()) for half in (0, *halves)]
        return ends + [self.student(kind, width, inner) for kind in self.kinds(width) for inner in self.inners[kind]]

    def kinds(self, width: int) -> list[BlockKind]:
        """The kinds of blocks that a width can have."""
        return [kind for kind in self.inners if kind != "grouped" or width % GROUP == 0]

    def student(self, kind: BlockKind, width: int, inner: int) -> StudentShape:
        """The student that shows what a block takes."""
        return StudentShape(block=kind, width=width, inners=(inner,) * self.counts[kind])


@dataclass(frozen=True, kw_only=True)
class Way:
    """A library, a device and a precision."""

    backend: Backend
    device: Literal["cpu", "cuda"]
    precision: Precision

    def __str__(self) -> str:
        return f"{self.backend} {self.device} {self.precision}"

    def open(
        self, shape: StudentShape, size: Size, channels: tuple[int, int], threads: int | None, folder: Path
    ) -> Engine:
        """Build a student for pictures of these channels and load it.

        Raises:
            I2IError: it cannot be run in this way.
        """
        is_plan = self.backend in ("tensorrt", "tensorrt_rtx")
        path = folder / f"{len(list(folder.iterdir()))}.onnx"
        # bf16 is how an engine computes a graph of FP32.
        precision = "fp32" if self.precision == "bf16" else self.precision
        shape = replace(shape, input_channels=channels[0], output_channels=channels[1])
        # A plan of pictures takes bytes, as its export does.
        graph_io: Literal["float", "uint8"] = "uint8" if is_plan and channels == (3, 3) else "float"
        onnx.save(student_graph(shape, size, precision, graph_io), path)
        if self.backend == "tensorrt" or self.backend == "tensorrt_rtx":
            plan = path.with_suffix(".plan")
            build_plan(path, plan, self.backend, card=None, precision=precision, use_cache=False)
            return open_engine(plan)
        device: Device = self.device
        return open_engine(
            path,
            device,
            threads,
            backend=self.backend,
            precision="bf16" if self.precision == "bf16" else None,
        )


def profile_machine(
    output: Path,
    where: Where = "here",
    size: Size = (256, 256),
    channels: tuple[int, int] = (3, 3),
    threads: int | None = None,
    grid: Grid = Grid(),
) -> None:
    """Measure this machine, write what was found and show it.

    Args:
        output: the JSON file.
        where: which engines.
        size: (height, width) of the pictures.
        channels: of the pictures that students take, and of those that they return.
        threads: CPU threads of one inference; None leaves the choice to the engine.
        grid: which students.

    Raises:
        UsageError: a size that students do not take.
        ModelError: no engine is installed.
        DeviceError: there is no GPU, or none that an engine here can use.
        SinkError: the file cannot be written.
    """
    if any(side < 8 or side % 4 for side in size):
        raise UsageError(f"--size {size[0]}x{size[1]}: students take multiples of 4 from 8 on; use another size")
    make_folder(output.parent)
    if output.is_dir():
        raise SinkError(f"{output}: expected a file or nothing, found a folder; choose another --output")
    began = time.monotonic()
    with status_line(Console(stderr=True)) as show, graceful_stop() as stop:
        profile = measure(
            ways_here(where), size, channels, threads, grid, show, lambda: stop.raise_if_set("stopped, nothing written")
        )
    write_profile(output, profile)
    _show(profile)
    click.echo(f"{output}: {len(profile.engines)} engines, {time.monotonic() - began:.0f} s")


def ways_here(where: Where) -> list[Way]:
    """What may run a student here; whether it can is seen when it is tried.

    Raises:
        ModelError, DeviceError: nothing of what was asked for.
    """
    ways = []
    # A library that is broken is as good as none.
    with contextlib.suppress(ImportError):
        from i2i_runtime.engines import onnxruntime

        devices = onnxruntime.devices_here()
        if where != "cuda" and "cpu" in devices:
            ways += [Way(backend="onnxruntime", device="cpu", precision=each) for each in ("fp32", "int8")]
        if where != "cpu" and "cuda" in devices:
            ways += [Way(backend="onnxruntime", device="cuda", precision=each) for each in ("fp32", "fp16")]
    with contextlib.suppress(ImportError):
        from i2i_runtime.engines import openvino

        if where != "cuda" and "cpu" in openvino.devices_here():
            quick: tuple[Precision, ...] = ("bf16",) if "bf16" in openvino.precisions("cpu") else ()
            ways += [Way(backend="openvino", device="cpu", precision=each) for each in ("fp32", *quick, "int8")]
    if where != "cpu" and nvinfer.gpu() is not None:
        for library in get_args(Library):
            with contextlib.suppress(ModelError):
                nvinfer.load_library(library)
                ways.append(Way(backend=library, device="cuda", precision="fp16"))
    if not ways and where == "cuda":
        raise DeviceError(
            "--device cuda: no NVIDIA GPU with a library that runs students on it; "
            "pip install 'i2i[gpu]' or 'i2i[tensorrt-rtx]', or use --device cpu"
        )
    if not ways:
        raise ModelError("no engine to measure; pip install 'i2i[cpu]' or 'i2i[openvino]'")
    return ways


def measure(
    ways: Sequence[Way],
    size: Size,
    channels: tuple[int, int] = (3, 3),
    threads: int | None = None,
    grid: Grid = Grid(),
    on_progress: OnProgress = lambda line: None,
    check: Callable[[], None] = lambda: None,
) -> MachineProfile:
    """Measure what students take.

    Args:
        ways: how to run them; those that fail here become notes.
        size: (height, width) of the pictures.
        channels: of the pictures that students take, and of those that they return.
        threads: CPU threads of one inference; None leaves the choice to the engine.
        grid: which students.
        on_progress: is told in a line how far it has come.
        check: is called before each turn, and may end it all by an exception. One that a signal raises inside of a
            library may be swallowed there.

    Raises:
        DeviceError: none of the ways runs students here.
    """
    notes: list[str] = []
    seconds: dict[tuple[Way, StudentShape], list[float]] = {}
    meter = _CpuMeter()
    with tempfile.TemporaryDirectory(prefix="i2i-profile-") as name:
        bench = _Bench(size=size, channels=channels, threads=threads, grid=grid, folder=Path(name), check=check)
        on_progress("looking for engines ...")
        usable = bench.usable(ways, notes)
        if not usable:
            raise DeviceError(f"no engine here runs students: {'; '.join(notes)}")
        for number, width in enumerate(grid.widths):
            on_progress(f"students of width {width} ({number + 1} of {len(grid.widths)}) in {len(usable)} engines ...")
            # All engines at once, so that what disturbs one disturbs the others; of one width, since all would fill the
            # memory of a small box.
            seconds |= bench.times([(way, shape) for way in usable for shape in grid.students(width)])
        gpu = nvinfer.gpu() if any(way.device == "cuda" for way in usable) else None
        profile = MachineProfile(
            machine=gpu.name if gpu is not None else _cpu_name(),
            cpu=_cpu_name(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            threads=threads,
            system=f"{platform.system()} {platform.machine()}",
            versions=_versions(),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            size=size,
            channels=channels,
            busy_elsewhere=None,
            engines=tuple(engine_times(way, provider, grid, seconds) for way, provider in usable.items()),
        )
        on_progress("students that would be chosen for a budget ...")
        trials = bench.trials(profile, list(usable))
    others = meter.others()
    if others is not None and others > _BUSY:
        notes.append(
            f"other programs took {others:.0%} of the CPU meanwhile: times are too long; measure again at rest"
        )
    return replace(
        profile,
        busy_elsewhere=others,
        engines=tuple(
            replace(its, trials=tuple(own)) for its, own in zip(profile.engines, trials.values(), strict=True)
        ),
        notes=tuple(notes),
    )


class _CpuMeter:
    """Tells which share of the CPU time went to other processes since it was made."""

    def __init__(self) -> None:
        self._before = self._read()

    def others(self) -> float | None:
        """From 0 to 1; None where the system does not tell."""
        now = self._read()
        if self._before is None or now is None or now[1] <= self._before[1]:
            return None
        (busy, whole), own = (now[i] - self._before[i] for i in range(2)), now[2] - self._before[2]
        return min(max((busy - own) / whole, 0.0), 1.0)

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Seconds that all cores were busy, that there were, and that this process took."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
            # user nice system idle iowait irq softirq steal, guests are counted in user.
            ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields[:8]]
            return sum(ticks) - ticks[3] - ticks[4], sum(ticks), time.process_time()
        return None


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """Builds students and lets them take turns."""

    size: Size
    channels: tuple[int, int]
    threads: int | None
    grid: Grid
    folder: Path
    check: Callable[[], None]

    def open(self, way: Way, shape: StudentShape) -> Engine:
        """See `Way.open`."""
        self.check()
        return way.open(shape, self.size, self.channels, self.threads, self.folder)

    def usable(self, ways: Sequence[Way], notes: list[str]) -> dict[Way, str]:
        """The ways that run students here, with what really runs them; a note for each of the others.

        INT8 is left out where it is no quicker than FP32: on most CPUs without instructions for it.
        """
        usable: dict[Way, str] = {}
        width = max(width for width in self.grid.widths if width % GROUP == 0)
        shapes = [StudentShape(block=kind, width=width, half=GROUP, inners=(width,) * 4) for kind in BLOCK_KINDS]
        for way in ways:
            try:
                for shape in shapes:
                    with self.open(way, shape) as engine:
                        ready(engine)
                        usable[way] = engine.provider
            except I2IError as error:
                usable.pop(way, None)
                notes.append(f"{way}: left out ({str(error).replace(f'{self.folder}{os.sep}', '')})")
        for way in [way for way in usable if way.precision == "int8"]:
            full = replace(way, precision="fp32")
            if full not in usable:
                continue
            runs = self.times([(each, shape) for each in (full, way) for shape in shapes])
            low = {key: usual(value) for key, value in runs.items()}
            gain = min(low[way, shape] / low[full, shape] for shape in shapes)
            if gain >= 1:
                notes.append(
                    f"{usable.pop(way)} int8: left out, it takes {gain:.2f} times as long as fp32 here at best"
                )
        return usable

    def trials(self, profile: MachineProfile, ways: Sequence[Way]) -> dict[Way, list[Trial]]:
        """Measure students that a search would choose, of each kind of block for tight and for ample budgets.

        Those it chooses are the ones that look quicker than they are rather than slower.
        """
        chosen: dict[tuple[Way, StudentShape], float] = {}
        for way, its in zip(ways, profile.engines, strict=True):
            for kind in (kind for kind in BLOCK_KINDS if kind in its.blocks):
                least = its.blocks[kind].rows[0]
                quickest = StudentShape(block=kind, width=least, inners=(least,) * BLOCKS[0])
                quickest = replace(quickest, input_channels=self.channels[0], output_channels=self.channels[1])
                least_s = predict(profile, quickest, its.name)
                for factor in self.grid.trials:
                    choice = choose(profile, factor * least_s, engine=its.name, block=kind)
                    chosen[way, choice.student] = choice.predicted_s
        trials: dict[Way, list[Trial]] = {}
        for way in ways:
            # One engine at a time: these are the largest students.
            seconds = self.times([(its, shape) for its, shape in chosen if its == way])
            trials[way] = [
                Trial(
                    block=shape.block,
                    student=shape.words(),
                    predicted_s=chosen[way, shape],
                    measured_s=usual(runs),
                )
                for (_, shape), runs in seconds.items()
            ]
        return trials

    def times(self, keys: Sequence[tuple[Way, StudentShape]]) -> dict[tuple[Way, StudentShape], list[float]]:
        """Seconds of all runs of students that take turns."""
        grid = self.grid
        with contextlib.ExitStack() as stack:
            runs = {}
            for way, shape in keys:
                runs[way, shape] = ready(stack.enter_context(self.open(way, shape)))
            return take_turns(runs, grid.turns, grid.turn_s, grid.patience_s, self.check)


def ready(engine: Engine) -> Callable[[], object]:
    """Give an engine a picture and room for its result; what is returned runs it once."""
    (given,) = engine.inputs
    shape = tuple(length or 1 for length in given.shape)
    image = np.random.default_rng(0).uniform(0, 1, shape)
    image = (image * 255).astype(given.dtype) if given.dtype == np.uint8 else (image * 2 - 1).astype(given.dtype)
    out = engine.run(image)
    return lambda: engine.run(image, out=out)


def take_turns(
    runs: Mapping[_Key, Callable[[], object]],
    turns: int,
    turn_s: float,
    patience_s: float = math.inf,
    check: Callable[[], None] = lambda: None,
) -> dict[_Key, list[float]]:
    """Let contestants take turns, in an order drawn anew for each round.

    Args:
        runs: runs each of them once.
        turns: of each.
        turn_s: how long one lasts at least; two runs in any case.
        patience_s: after it all end with three turns.
        check: is called before each turn.

    Returns:
        Seconds of each run, in the order of time. The first of a turn, in which caches fill, does not count.
    """
    random, keys = np.random.default_rng(0), list(runs)
    seconds: dict[_Key, list[float]] = {key: [] for key in keys}
    began = time.perf_counter()
    for turn in range(turns):
        if turn >= 3 and time.perf_counter() - began > patience_s:
            break
        for index in random.permutation(len(keys)):
            check()
            run = runs[keys[index]]
            _let_threads_rest()
            run()
            own: list[float] = []
            while len(own) < 2 or sum(own) < turn_s:
                start = time.perf_counter()
                run()
                own.append(time.perf_counter() - start)
            seconds[keys[index]] += own
    return seconds


def _let_threads_rest() -> None:
    """Threads of ONNX Runtime spin for 40 ms after a run, for the next one; any other engine would be slowed down."""
    end = time.perf_counter() + _LONGEST_REST_S
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(_LOOK_S)
        if time.process_time() - before < _LOOK_S / 3:
            return


def engine_times(
    way: Way, provider: str, grid: Grid, seconds: Mapping[tuple[Way, StudentShape], Sequence[float]]
) -> EngineTimes:
    """The times of the parts that follow from those of whole students.

    Args:
        way: whose.
        provider: what really ran them.
        grid: which students there are.
        seconds: of the runs of each of them.
    """
    own = {shape: runs for (its, shape), runs in seconds.items() if its == way}
    parts = Parts.of(own)

    def block(kind: BlockKind, width: int, inner: int) -> float:
        return parts.block(grid.student(kind, width, inner))

    def table(rows: Sequence[int], columns: Sequence[int], of: Callable[[int, int], float]) -> Table:
        cells = tuple(tuple(of(row, column) for column in columns) for row in rows)
        return Table(rows=tuple(rows), columns=tuple(columns), seconds=cells)

    widths = {kind: [width for width in grid.widths if kind in grid.kinds(width)] for kind in grid.inners}
    return EngineTimes(
        backend=way.backend,
        device=way.device,
        precision=way.precision,
        provider=provider,
        ends=table([0], grid.widths, lambda half, width: parts.ends(width)),
        half_ends=table(grid.halves, grid.half_widths, lambda half, width: parts.ends(width, half)),
        blocks={kind: table(widths[kind], inners, partial(block, kind)) for kind, inners in grid.inners.items()},
        trials=(),
    )


def _versions() -> dict[str, str]:
    found = {"i2i": __version__}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _cpu_name() -> str:
    """On Arm, whose /proc/cpuinfo has no name, that of the board."""
    for path, pattern in (("/proc/cpuinfo", r"(?m)^model name\s*: (.+)$"), ("/proc/device-tree/model", r"([^\0]+)")):
        with contextlib.suppress(OSError):
            if match := re.search(pattern, Path(path).read_text(encoding="utf-8", errors="replace")):
                return " ".join(match[1].split())
    return platform.processor() or platform.machine() or "unknown"


def _show(profile: MachineProfile) -> None:
    """Print what students of a middle width take, and by how much others took longer than predicted."""
    table = Printed(box=None, padding=(0, 2, 0, 0))
    table.add_column("ms of 6 blocks, width 32, and the margin", no_wrap=True)
    for kind in BLOCK_KINDS:
        table.add_column(kind, justify="right", no_wrap=True)
    given, returned = profile.channels
    for engine in profile.engines:
        cells = []
        for kind in BLOCK_KINDS:
            shape = StudentShape(block=kind, width=32, inners=(32,) * 6, input_channels=given, output_channels=returned)
            cells.append(f"{1e3 * predict(profile, shape, engine.name):.3g} +{margin(engine, kind):.0%}")
        table.add_row(engine.name, *cells)
    Console().print(table)
    for note in profile.notes:
        click.echo(f"note: {note}", err=True)
