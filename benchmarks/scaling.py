"""How latency, throughput, memory and exports grow: with pixels, batch, threads and parameters."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from i2i_runtime import command
from i2i_runtime.card import Card
from i2i_runtime.errors import DeviceError, I2IError, ModelError, UsageError
from i2i_runtime.status_line import status_line
from i2i_trainer.config import SIZE
from measuring.busy import busy_words
from measuring.curves import Curve, grouped, law_of, point
from measuring.engine_curves import EngineHere, Plan, contestants_of, curves_of
from measuring.environment import environment
from measuring.exports import Exporter, ExportTimes
from measuring.figures import write_figures
from measuring.list_option import ListOf, count
from measuring.output import check_output
from measuring.record import Readings, Size
from measuring.rounds import Pace, measure
from measuring.sensors import Sensors
from measuring.ways import default_device
from reporting.curve_report import check_curves, write_curves
from reporting.curve_words import findings, table_of
from reporting.standing import sides
from reporting.table import digits

CURVES = ("pixels", "batch", "threads", "export")
_BUILD = "TensorRT-RTX build"
_PLAIN_WIDTH = 140
"""Columns where nobody looks at a terminal."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Length:
    """How much is measured, and how long."""

    models: tuple[str, ...]
    sizes: tuple[Size, ...]
    must_take_sizes: bool = False
    """Whether a model that does not take one of the sizes is an error."""
    batches: tuple[int, ...]
    threads: tuple[int, ...] = ()
    widths: tuple[int, ...]
    """ngf of the generators that are exported for their time."""
    export_side: int
    """Height and width in pixels; more where a model does not take that."""
    pace: Pace
    export_rounds: int


FULL = Length(
    models=("resnet_9blocks", "unet_128"),
    sizes=((128, 128), (192, 192), (256, 256), (384, 384), (512, 512)),
    batches=(1, 2, 4, 8),
    widths=(8, 16, 32, 64),
    export_side=256,
    pace=Pace(starts=2, rounds=6, seconds=0.5, warm_up_s=3.0),
    export_rounds=3,
)
SHORT = Length(
    models=("resnet_6blocks",),
    sizes=((128, 128), (192, 192), (256, 256)),
    batches=(1, 4),
    widths=(8, 32),
    export_side=64,
    pace=Pace(starts=2, rounds=5, seconds=0.06, warm_up_s=0.2, rest_s=0.02),
    export_rounds=3,
)
_LARGER = ((768, 768), (1024, 1024), (1536, 1536), (2048, 2048))
"""For models that take few of the usual sizes."""
_FEWEST = 3
"""Points of a curve."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--checkpoint", type=click.Path(path_type=Path), help="A training's; else untrained generators.")
@click.option("--curves", "wanted", type=ListOf(str), default=",".join(CURVES), show_default=True, help="Some of them.")
@click.option(
    "--sizes", type=ListOf(lambda word: SIZE.convert(word, None, None)), help="Such as 128,256x512; else from 128 on."
)
@click.option("--batch", "batches", type=ListOf(count), help="Such as 1,4.")
@click.option("--threads", type=ListOf(count), help="Such as 1,2; else up to twice as many as there are cores.")
@click.option("--widths", type=ListOf(count), help="Of exported generators (ngf), such as 8,32.")
@click.option(
    "--short", is_flag=True, help="A minute or two on two cores, not twenty: one small model, few points and rounds."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures here.")
@click.option("--report", type=click.Path(path_type=Path), metavar="DIR", help="Write scaling.md with plots here.")
@command.debug_option
def main(
    checkpoint: Path | None,
    wanted: tuple[str, ...],
    sizes: tuple[Size, ...] | None,
    batches: tuple[int, ...] | None,
    threads: tuple[int, ...] | None,
    widths: tuple[int, ...] | None,
    short: bool,
    json_file: Path | None,
    report: Path | None,
    debug: bool,
) -> None:
    """Say how latency, throughput, memory and exports grow with pixels, batch, threads and parameters.

    \b
      scaling.py --report scaling
      scaling.py --checkpoint runs/zebra/best.pt --curves pixels,batch --sizes 256,512,1024

    One model that takes all sizes is run at each of them, and beside it models that were exported for that size alone;
    then at each batch, and with each number of threads. All that ONNX Runtime runs takes turns in processes of its own,
    and so does all that OpenVINO runs. Last, generators of several widths are exported and proven in turns.
    """  # noqa: D301
    if unknown := [name for name in wanted if name not in CURVES]:
        raise UsageError(f"--curves: expected some of {','.join(CURVES)}; found {','.join(unknown)}")
    _require_exporter()
    check_output(json_file)
    if report is not None:
        check_curves(report)
    machine = environment(sys.argv)
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, highlight=False)
    length = SHORT if short else FULL
    length = replace(
        length,
        sizes=tuple(sorted(sizes or length.sizes, key=lambda size: (size[0] * size[1], size))),
        batches=tuple(sorted(batches or length.batches)),
        # Efficiency is against a single one.
        threads=tuple(sorted({1, *threads})) if threads is not None else _threads(machine.cores, short),
        widths=tuple(sorted(widths or length.widths)),
        must_take_sizes=sizes is not None,
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="i2i-scaling-")))
        say = stack.enter_context(status_line(Console(stderr=True)))
        exporter = stack.enter_context(Exporter(folder))
        meter = _Meter(exporter, folder, say)
        for path in [checkpoint] if checkpoint is not None else _untrained(length, short, machine.cores, exporter, say):
            model = exporter.card_of(path)
            if set(wanted) - {"export"}:
                meter.measure_engines(path, model, wanted, length)
            if "export" in wanted:
                meter.measure_exports(path, model, length)
    note = busy_words(machine, meter.readings)
    lines = [*findings(meter.curves), *meter.left_out, *([note] if note is not None else [])]
    if json_file is not None:
        write_figures(
            json_file,
            machine,
            {
                "curves": [asdict(curve) for curve in meter.curves],
                "findings": findings(meter.curves),
                "left_out": meter.left_out,
                "note": note,
            },
        )
    show(meter.curves, lines, console)
    if json_file is not None:
        console.print(f"figures: {json_file}", soft_wrap=True)
    if report is not None:
        console.print(f"report: {write_curves(meter.curves, lines, machine, report)}", soft_wrap=True)


def _require_exporter() -> None:
    missing = [name for name in ("torch", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"scaling.py exports models itself, and {', '.join(missing)} is missing; pip install 'i2i[export]'"
        )


def _threads(cores: int, short: bool) -> tuple[int, ...]:
    """1, 2, 4 and so on to twice the cores, and the cores."""
    if short:
        return (1, cores) if cores > 1 else (1, 2)
    return tuple(sorted({*(2**power for power in range((2 * cores).bit_length())), cores, 2 * cores}))


def _untrained(length: Length, short: bool, cores: int, exporter: Exporter, say: Say) -> Iterator[Path]:
    """Checkpoints of a width that suits the machine."""
    ngf = 8 if short else 16 if cores <= 4 else 32 if cores <= 16 else 64
    for name in length.models:
        say(f"drawing weights of {name}")
        yield exporter.draw_checkpoint(name, ngf, (256, 256))


def _engines() -> tuple[list[EngineHere], list[str]]:
    """What can run an ONNX file here, and what is left out.

    Raises:
        UsageError: nothing can.
    """
    found: list[EngineHere] = []
    left_out: list[str] = []
    if importlib.util.find_spec("onnxruntime") is None:
        left_out.append("ONNX Runtime: not installed; pip install 'i2i[cpu]' or 'i2i[gpu]'")
    else:
        found.append(EngineHere(name="ONNX Runtime CPU", backend="onnxruntime", device="cpu"))
    if importlib.util.find_spec("openvino") is None:
        left_out.append("OpenVINO: not installed; pip install 'i2i[openvino]'")
    else:
        found.append(EngineHere(name="OpenVINO CPU", backend="openvino", device="cpu"))
    if not found:
        raise UsageError("; ".join(left_out))
    if default_device() == "cuda" and not any("ONNX Runtime" in line for line in left_out):
        from i2i_runtime.engines.onnxruntime import devices_here

        if "cuda" in devices_here():
            found.append(EngineHere(name="ONNX Runtime CUDA", backend="onnxruntime", device="cuda"))
        else:
            left_out.append("ONNX Runtime on the GPU: this one is built for CPUs; pip install 'i2i[gpu]'")
    return found, left_out


def _sizes_for(model: Card, length: Length) -> tuple[Size, ...]:
    """The sizes that a model takes.

    Raises:
        UsageError: one that was asked for is none of them.
    """
    if length.must_take_sizes:
        if refused := [sides(size) for size in length.sizes if not model.size.allows(size)]:
            rule = f"multiples of {model.size.multiple_of} from {model.size.minimum} on"
            raise UsageError(f"--sizes: {model.name} takes {rule}; found {','.join(refused)}")
        return length.sizes
    usual = [size for size in length.sizes if model.size.allows(size)]
    more = [size for size in _LARGER if model.size.allows(size)]
    return tuple(usual + more[: max(0, _FEWEST - len(usual))])


class _Meter:
    """Measures models, and keeps what came of it."""

    def __init__(self, exporter: Exporter, folder: Path, say: Say) -> None:
        self.curves: list[Curve] = []
        self.readings: list[Readings] = []
        self.left_out: list[str] = []
        self._exporter, self._folder, self._say = exporter, folder, say

    def measure_engines(self, checkpoint: Path, model: Card, wanted: Sequence[str], length: Length) -> None:
        """Curves against pixels, batch and threads, in each engine that is here."""
        engines, left_out = _engines()
        self._leave_out(left_out)
        sizes = _sizes_for(model, length)
        plan = Plan(
            sizes=sizes if "pixels" in wanted else (),
            batches=length.batches if "batch" in wanted else (),
            batch_size=sizes[0],
            threads=length.threads if "threads" in wanted else (),
            threads_size=min(sizes, key=lambda size: abs(np.log(size[0] * size[1] / 256**2))),
        )
        files = self._files(checkpoint, model, plan)
        for engine in engines:
            where = f"{model.name}, {engine.name}"
            contestants = contestants_of(plan, engine, lambda place: files[place.file])
            with Sensors(engine.device) as sensors:
                measured = measure(
                    list(contestants.values()),
                    length.pace,
                    sensors={engine.device: sensors},
                    on_progress=lambda what, share: self._say(f"{share:4.0%}  {where}, {what}"),  # noqa: B023
                )
            found = {place: measured[contestant.name] for place, contestant in contestants.items()}
            self.readings += [each.readings for each in found.values()]
            self._leave_out(f"{where}, {place}: {each.failure}" for place, each in found.items() if each.failure)
            self.curves += curves_of(model.name, engine, plan, found)

    def _files(self, checkpoint: Path, model: Card, plan: Plan) -> dict[Size | None, Path]:
        """By size the static graphs, and under None the dynamic one."""
        files: dict[Size | None, Path] = {}
        for size in plan.static_sizes():
            self._say(f"exporting {model.name} for {sides(size)}")
            output = self._folder / f"{model.name}-{sides(size)}.onnx"
            files[size] = self._exporter.export_graph(checkpoint, output, size)
        if plan.sizes or plan.batches:
            self._say(f"exporting {model.name} for all sizes")
            output = self._folder / f"{model.name}-dynamic.onnx"
            most = max(plan.batches, default=1)
            files[None] = self._exporter.export_graph(checkpoint, output, plan.threads_size, most)
        return files

    def measure_exports(self, checkpoint: Path, model: Card, length: Length) -> None:
        """Curves of exporting, proving and building against parameters."""
        multiple, minimum = model.size.multiple_of, model.size.minimum
        side = max(minimum, -(-length.export_side // multiple) * multiple)
        times: dict[int, list[ExportTimes]] = {width: [] for width in length.widths}
        random = np.random.default_rng(0)
        with Sensors("cpu") as sensors:
            window = sensors.window()
            for number in range(length.export_rounds):
                for width in random.permutation(list(times)).tolist():
                    name = f"{model.generator.name}, ngf {width}"
                    self._say(f"exporting {name}: {number + 1} of {length.export_rounds}")
                    try:
                        with window:
                            times[width].append(self._time_export(checkpoint, width, (side, side)))
                    except I2IError as error:
                        self._leave_out([f"export of {name}: {error}"])
                        del times[width]
            self.readings.append(window.readings())
        steps: dict[str, Callable[[ExportTimes], float | None]] = {
            "export to ONNX": lambda each: each.export_s,
            "proof": lambda each: each.proof_s,
            _BUILD: lambda each: each.build_s,
        }
        for step, seconds_of in steps.items():
            points = []
            for its in times.values():
                seconds = [seconds for each in its if (seconds := seconds_of(each)) is not None]
                if seconds:
                    points.append(point(its[0].parameters, _millions(its[0].parameters), seconds))
            if points:
                name = model.generator.name
                self.curves.append(
                    Curve(kind="export", model=name, engine=step, graph=None, points=tuple(points), law=law_of(points))
                )

    def _time_export(self, checkpoint: Path, width: int, size: Size) -> ExportTimes:
        """With a plan where that can be built."""
        if not any(line.startswith(_BUILD) for line in self.left_out):
            if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
                self._leave_out([f"{_BUILD}: not installed; pip install 'i2i[tensorrt-rtx]'"])
            else:
                try:
                    return self._exporter.time_export(checkpoint, width, size, "tensorrt-rtx")
                except (ModelError, DeviceError) as error:
                    self._leave_out([f"{_BUILD}: {error}"])
        return self._exporter.time_export(checkpoint, width, size, "onnx")

    def _leave_out(self, lines: Iterable[str]) -> None:
        self.left_out += [line for line in lines if line not in self.left_out]


def _millions(parameters: int) -> str:
    return f"{digits(parameters / 1e6)} M"


def show(curves: Sequence[Curve], lines: Sequence[str], console: Console) -> None:
    """Print a table for each model and kind, and what they say."""
    for some in grouped(curves):
        console.print(table_of(some))
    for line in lines:
        console.print(f"- {line}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    command.run(main)
