"""How long until something happens: help, an import, the first translated picture."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib import util
from pathlib import Path
from typing import NamedTuple

import click
import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from i2i_runtime import command
from i2i_runtime.engines.cards import card_of
from i2i_runtime.errors import ModelError
from i2i_runtime.status_line import status_line
from measuring import first_frame
from measuring.busy import busy_words
from measuring.environment import environment
from measuring.figures import interleaved, ratio, words, write_figures
from measuring.model_contestants import EngineContestant
from measuring.output import check_output
from measuring.processes import CommandError, Finished, forget, program, run_fresh
from measuring.sensors import Sensors
from measuring.spread import Ratio
from measuring.ways import Subject, Wanted, Way, default_device, find_ways, make_checkpoint

BARE = "python -c pass"
LIMITS_S = {"i2i-run --help": 0.3, "import i2i_runtime": 0.3}
"""What some commands may take."""
SECOND = "second inference"
"""A step that is no part of the way; it says what the first one would take without what is done once."""
REST = "all else: warming up, the picture, ending"
"""What `i2i-run` takes beyond the steps of `first_frame`."""
_UNTRAINED = ("resnet_9blocks", 64, (256, 256))
_ENGINES = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
_PLAIN_WIDTH = 140
"""Columns where nobody looks at a terminal."""

Say = Callable[[str], None]


class Span(NamedTuple):
    """Times of all rounds, in seconds."""

    p50: float
    p90: float


class Step(NamedTuple):
    """A part of one process's time, in seconds."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one command takes from its start to its end."""

    name: str
    wall_s: Span
    cpu_s: Span | None
    over_bare_s: Span
    """Less what Python itself took in the same round."""
    over_bare: Ratio
    """Times as long as Python itself in the same round."""
    first: Finished
    """Before the rounds, with its files dropped from memory where the system does that."""


@dataclass(frozen=True, kw_only=True)
class FirstPicture:
    """One picture through `i2i-run` in one engine, and where the time goes."""

    engine: str
    whole: Start
    wall_s: dict[str, Span]
    """By step: those of `first_frame`, and `REST`."""
    cpu_s: dict[str, Span]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a command may take, and the medians of what it takes, in seconds."""

    name: str
    limit_s: float
    wall_s: float
    over_bare_s: float
    is_met: bool
    """By all of it."""
    is_met_over_bare: bool


@dataclass(frozen=True, kw_only=True)
class Startup:
    """All that was measured."""

    rounds: int
    starts: list[Start]
    """Of bare Python first."""
    first_pictures: list[FirstPicture]
    goals: list[Goal]
    is_first_from_disk: bool
    """Whether all files were dropped from memory before the first runs."""
    left_out: list[str]
    note: str | None
    """What to mind."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--engine", type=click.Path(path_type=Path), help="An .onnx, .plan, .engine or .xml of i2i-export.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="A generator to export for the engines here.")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Of all commands.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures here.")
@command.debug_option
def main(engine: Path | None, checkpoint: Path | None, rounds: int, json_file: Path | None, debug: bool) -> None:
    """Say how long it takes until something happens.

    \b
      startup.py
      startup.py --engine zebra.plan --json startup.json

    Each command runs in a fresh process, in turns with the others and with a Python that does nothing. So does i2i-run
    with one picture, in each engine that is here, and a process that goes the same way step by step. Without --engine
    and --checkpoint the model is an untrained ResNet-9 of the papers' size.

    First runs come before the rounds. Where the system can be asked for it, what a command loads is dropped from memory
    before, and read from disk; what other processes hold stays there, so it is a little better than after a boot.
    """  # noqa: D301
    check_output(json_file)
    machine = environment(sys.argv)
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, highlight=False)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="i2i-startup-")))
        say = stack.enter_context(status_line(Console(stderr=True)))
        sensors = stack.enter_context(Sensors("cpu"))
        left_out: list[str] = []
        pictures = [_Picture(way, folder) for way in _ways(engine, checkpoint, folder, left_out, say)]
        runs = _Runs(pictures, left_out, say)
        with sensors.window() as window:
            runs.take_turns(rounds, say)
        found = runs.found(busy_words(machine, [window.readings()]))
    if json_file is not None:
        write_figures(json_file, machine, asdict(found))
    show(found, console)
    if json_file is not None:
        console.print(f"figures: {json_file}", soft_wrap=True)


def _commands() -> dict[str, list[str]]:
    """By name, those that need no model."""
    codes = ("import i2i_runtime", "from i2i_runtime import Translator")
    starts = (
        ("i2i-run", "--version"),
        ("i2i-run", "--help"),
        ("i2i-train", "--help"),
        ("i2i-export", "--help"),
    )
    return {
        BARE: [sys.executable, "-c", "pass"],
        **{code: [sys.executable, "-c", code] for code in codes},
        **{f"{name} {option}": [*program(name), option] for name, option in starts},
    }


def _ways(engine: Path | None, checkpoint: Path | None, folder: Path, left_out: list[str], say: Say) -> list[Way]:
    """One for each engine; none, and the reason left out, where there is nothing to run.

    Raises:
        ModelError, UsageError: a file that is no model.
    """
    if engine is not None and not engine.is_file():
        raise ModelError(f"{engine}: expected an engine file, found none; make one with i2i-export")
    is_trained = engine is not None or checkpoint is not None
    if not is_trained:
        if missing := [name for name in ("torch", "onnx", "onnxscript") if util.find_spec(name) is None]:
            left_out.append(
                f"the first picture: no {' and '.join(missing)} to make a model with; pip install 'i2i[export]', or "
                "give a model: --engine FILE"
            )
            return []
        say("drawing a model")
        checkpoint = folder / "untrained.pt"
        make_checkpoint(checkpoint, _UNTRAINED)
    card = card_of(engine) if engine is not None else None
    precision = card.export.precision if card is not None and card.export is not None else "fp32"
    found = find_ways(
        Subject(checkpoint=checkpoint, engine=engine, direction=None, is_trained=is_trained, pictures=None),
        Wanted(backends=_ENGINES, precisions=(precision,), device=default_device()),
        folder,
        say,
    )
    # PyTorch is not asked for; `find_ways` looks for it beside an engine file.
    left_out += [line for line in found.left_out if not line.startswith("PyTorch")]
    return found.ways


class _Picture:
    """One picture, and one engine to translate it in."""

    def __init__(self, way: Way, folder: Path) -> None:
        assert isinstance(way.contestant, EngineContestant)
        self.engine, self._contestant = way.row.name, way.contestant
        self.name = f"one picture, {way.row.name}"
        labels = way.card.labels if way.card is not None else None
        inputs = folder / "inputs"
        inputs.mkdir(exist_ok=True)
        # A label map of one class, or noise.
        shape = way.row.size if labels is not None else (*way.row.size, 3)
        grey = np.random.default_rng(0).integers(0, 1 if labels is not None else 256, shape, np.uint8)
        cv2.imwrite(str(inputs / "picture.png"), grey)
        options = {
            "--images": inputs,
            "--instances": inputs if labels is not None and labels.instance_edges else None,
            "--output": folder / "results",
            "--engine": self._contestant.path,
            "--device": self._contestant.engine_device,
            "--backend": self._contestant.backend,
            "--precision": self._contestant.engine_precision if self._contestant.backend == "openvino" else None,
        }
        given = [(option, str(value)) for option, value in options.items() if value is not None]
        self.command = [*program("i2i-run"), *(word for pair in given for word in pair)]

    def steps(self) -> tuple[dict[str, Step], list[str]]:
        """Go the way step by step in a fresh process; also gives the files that it loads.

        Raises:
            CommandError: it fails.
        """
        what = {
            "path": str(self._contestant.path),
            "size": self._contestant.size,
            "backend": self._contestant.backend,
            "device": self._contestant.engine_device,
            "precision": self._contestant.engine_precision,
        }
        program_line = [sys.executable, first_frame.__file__, json.dumps(what)]
        done = subprocess.run([*program_line, repr(time.perf_counter())], capture_output=True, text=True)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
            raise CommandError(f"first_frame.py ended with {done.returncode}: {said}")
        found = json.loads(done.stdout.splitlines()[-1])
        return {name: Step(*step) for name, step in found["steps"].items()}, found["files"]


class _Runs:
    """All commands, and what each of their runs took."""

    def __init__(self, pictures: Iterable[_Picture], left_out: list[str], say: Say) -> None:
        """Run each for the first time; of what fails the reason is left out."""
        self._left_out = left_out
        self._commands = _commands()
        self._pictures: list[_Picture] = []
        # All else that they load, such as NumPy, is known from the way of a picture.
        files = {str(file) for name in ("i2i_runtime", "i2i_trainer", "i2i_export") for file in _modules(name)}
        for picture in pictures:
            say(f"first run: {picture.name}")
            try:
                # Also says what there is to drop from memory.
                files.update(picture.steps()[1])
                run_fresh(picture.command)
            except CommandError as error:
                left_out.append(f"{picture.name}: {error}")
                continue
            self._pictures.append(picture)
            self._commands[picture.name] = picture.command
        self._is_from_disk = bool(self._pictures)
        self._first: dict[str, Finished] = {}
        for name, line in self._commands.items():
            say(f"first run: {name}")
            self._is_from_disk &= forget(files)
            self._first[name] = run_fresh(line)
        self._finished: dict[str, list[Finished]] = {name: [] for name in self._commands}
        self._steps: dict[str, list[dict[str, Step]]] = {picture.name: [] for picture in self._pictures}

    def take_turns(self, rounds: int, say: Say) -> None:
        """Run all of them once in each round.

        Raises:
            CommandError: one fails that did not before.
        """
        contestants = {name: partial(self._run, name, rounds, say) for name in self._commands}
        contestants |= {f"{picture.name}, steps": partial(self._go, picture) for picture in self._pictures}
        interleaved(contestants, rounds, warm_up=0)

    def _run(self, name: str, rounds: int, say: Say) -> None:
        say(f"round {len(self._finished[name]) + 1} of {rounds}: {name}")
        self._finished[name].append(run_fresh(self._commands[name]))

    def _go(self, picture: _Picture) -> None:
        self._steps[picture.name].append(picture.steps()[0])

    def found(self, note: str | None) -> Startup:
        """What all of them took."""
        starts = {name: self._start(name) for name in self._commands}
        pictures = [self._first_picture(picture, starts.pop(picture.name)) for picture in self._pictures]
        return Startup(
            rounds=len(self._finished[BARE]),
            starts=list(starts.values()),
            first_pictures=pictures,
            goals=[_goal(starts[name], limit_s) for name, limit_s in LIMITS_S.items()],
            is_first_from_disk=self._is_from_disk,
            left_out=self._left_out,
            note=note,
        )

    def _start(self, name: str) -> Start:
        walls = [run.wall_s for run in self._finished[name]]
        bare = [run.wall_s for run in self._finished[BARE]]
        cpus = [run.cpu_s for run in self._finished[name] if run.cpu_s is not None]
        return Start(
            name=name,
            wall_s=_span(walls),
            cpu_s=_span(cpus) if cpus else None,
            over_bare_s=_span(np.subtract(walls, bare).tolist()),
            over_bare=ratio(walls, bare),
            first=self._first[name],
        )

    def _first_picture(self, picture: _Picture, whole: Start) -> FirstPicture:
        rounds = self._steps[picture.name]
        wall_s = {name: [steps[name].wall_s for steps in rounds] for name in rounds[0]}
        cpu_s = {name: [steps[name].cpu_s for steps in rounds] for name in rounds[0]}
        finished = self._finished[picture.name]
        wall_s[REST] = _rest([run.wall_s for run in finished], wall_s)
        if whole.cpu_s is not None:
            cpu_s[REST] = _rest([run.cpu_s or 0.0 for run in finished], cpu_s)
        return FirstPicture(
            engine=picture.engine,
            whole=whole,
            wall_s={name: _span(seconds) for name, seconds in wall_s.items()},
            cpu_s={name: _span(seconds) for name, seconds in cpu_s.items()},
        )


def _modules(package: str) -> list[Path]:
    """All files of a package, without importing it."""
    spec = util.find_spec(package)
    return [file for folder in (spec and spec.submodule_search_locations) or () for file in Path(folder).rglob("*.py*")]


def _rest(wholes: Sequence[float], steps: Mapping[str, Sequence[float]]) -> list[float]:
    """Of each round, what the steps leave."""
    parts = [seconds for name, seconds in steps.items() if name != SECOND]
    return [whole - sum(each) for whole, *each in zip(wholes, *parts, strict=True)]


def _span(seconds: Sequence[float]) -> Span:
    return Span(*np.percentile(seconds, (50, 90)).tolist())


def _goal(start: Start, limit_s: float) -> Goal:
    return Goal(
        name=start.name,
        limit_s=limit_s,
        wall_s=start.wall_s.p50,
        over_bare_s=start.over_bare_s.p50,
        is_met=start.wall_s.p50 < limit_s,
        is_met_over_bare=start.over_bare_s.p50 < limit_s,
    )


def show(found: Startup, console: Console) -> None:
    """Print the commands, the way to the first picture, and whether the goals are met."""
    table = Table(title=f"from start to end in a fresh process; ms, {found.rounds} rounds")
    table.add_column("")
    for column in ("p50", "p90", "over bare Python", "times bare Python", "CPU p50", "first run", "from disk"):
        table.add_column(column, justify="right")
    for start in (*found.starts, *(picture.whole for picture in found.first_pictures)):
        is_bare = start.name == BARE
        table.add_row(
            start.name,
            _ms(start.wall_s.p50),
            _ms(start.wall_s.p90),
            "" if is_bare else _ms(start.over_bare_s.p50),
            "" if is_bare else words(start.over_bare, ".1f"),
            _ms(start.cpu_s.p50) if start.cpu_s is not None else "-",
            _ms(start.first.wall_s),
            f"{start.first.read_mib:.1f} MiB" if start.first.read_mib is not None else "-",
        )
    console.print(table)
    for picture in found.first_pictures:
        _show_picture(picture, console)
    for goal in found.goals:
        console.print(
            f"{goal.name} in {_ms(goal.limit_s)} ms: {_met(goal.is_met)}, {_ms(goal.wall_s)} ms in all; "
            f"{_met(goal.is_met_over_bare)}, {_ms(goal.over_bare_s)} ms over bare Python"
        )
    if not found.is_first_from_disk:
        console.print("First runs found files in memory: this system cannot be asked to drop them, or no model ran.")
    for line in (*found.left_out, found.note):
        if line is not None:
            console.print(line, markup=False, soft_wrap=True)


def _show_picture(picture: FirstPicture, console: Console) -> None:
    table = Table(title=f"the way to the first picture, {picture.engine}; ms")
    table.add_column("")
    for column in ("p50", "p90", "CPU p50"):
        table.add_column(column, justify="right")
    for name, wall_s in picture.wall_s.items():
        if name != SECOND:
            cpu_s = picture.cpu_s.get(name)
            table.add_row(name, _ms(wall_s.p50), _ms(wall_s.p90), _ms(cpu_s.p50) if cpu_s is not None else "-")
    table.caption = f"a {SECOND} takes {_ms(picture.wall_s[SECOND].p50)} ms"
    console.print(table)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


if __name__ == "__main__":
    command.run(main)
