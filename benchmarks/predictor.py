"""Compare what the predictor says of random students with what they take, in every engine of this machine.

The students are drawn without a look at what was measured for the prediction: other widths, pruned blocks, other
depths. They are built as PyTorch modules and exported as by `i2i-export`, and run in turns that are mixed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import click
import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from i2i_export.profile import measure, ready, take_turns, ways_here
from i2i_export.slopes import usual
from i2i_runtime import command
from i2i_runtime.card import Card, ImageSpec
from i2i_runtime.engines.base import Engine, Precision
from i2i_runtime.engines.build import build_plan
from i2i_runtime.engines.manifest import Library
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import ModelError
from i2i_runtime.status_line import status_line
from i2i_trainer.budget.machine import EngineTimes, MachineProfile, read_profile, write_profile
from i2i_trainer.budget.predictor import predict
from i2i_trainer.budget.shape import BLOCK_KINDS, GROUP, BlockKind, Size, StudentShape
from measuring.environment import environment
from measuring.figures import write_figures
from measuring.other_process import in_other_process
from measuring.output import check_output
from reporting.plots import COLOURS, is_here, picture

PLAN_LIBRARIES = get_args(Library)
Graph = tuple[str, str]
"""Precision and I/O."""
_MOST_BLOCKS = 12
_TURNS = 20
_TURN_S = 0.04


@dataclass(frozen=True, kw_only=True)
class Student:
    """A student in an engine."""

    name: str
    engine: str
    blocks: str
    """Their kind."""
    is_pruned: bool
    """Whether the channels in the middle of its blocks were drawn, too."""
    predicted_s: float
    measured_s: float
    """As `usual` has it, and the profile."""
    median_s: float
    """Of all runs."""

    @property
    def error(self) -> float:
        """Share of what was measured by which more (or less) was predicted."""
        return self.predicted_s / self.measured_s - 1


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--machine",
    "machine_file",
    type=click.Path(path_type=Path),
    help="Of i2i-export profile for colour pictures; else made now, at 256x256.",
)
@click.option("--students", type=click.IntRange(min=1), default=24, show_default=True, help="Drawn at random.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures here.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw a PNG of them here.")
@command.debug_option
def main(
    machine_file: Path | None,
    students: int,
    seed: int,
    json_file: Path | None,
    plot_file: Path | None,
    debug: bool,
) -> None:
    """Compare what is predicted of random students with what they take."""
    for file in (json_file, plot_file):
        check_output(file)
    if plot_file is not None and not is_here():
        raise ModelError("--plot needs matplotlib; pip install 'i2i[bench]'")
    here = environment(sys.argv)
    with status_line(Console(stderr=True)) as show:
        profile = (
            read_profile(machine_file) if machine_file else measure(ways_here("here"), (256, 256), on_progress=show)
        )
        size = profile.size
        profile.check(size, (3, 3))
        show("exporting and running students ...")
        found = tried(profile, drawn(students, seed), size)
    show_students(found)
    if json_file is not None:
        summary = {engine: errors(found, engine) for engine in engines_of(found)}
        rows = [asdict(each) for each in found]
        write_figures(json_file, here, {"size": size, "seed": seed, "summary": summary, "students": rows})
        write_profile(json_file.with_suffix(".machine.json"), profile)
    if plot_file is not None:
        draw(found, size, plot_file)


def drawn(count: int, seed: int) -> list[StudentShape]:
    """Random students."""
    random = np.random.default_rng(seed)
    shapes = []
    for number in range(count):
        kind: BlockKind = BLOCK_KINDS[number % len(BLOCK_KINDS)]
        step = GROUP if kind == "grouped" else 8
        width = int(random.integers(1, 96 // step + 1)) * step
        half = int(random.integers(1, 5)) * 8 if random.random() < 0.33 else 0
        blocks = int(random.integers(1, _MOST_BLOCKS + 1))
        is_pruned = random.random() < 0.5
        # Pruning keeps whatever channels it likes, of grouped blocks whole groups.
        step = GROUP if kind == "grouped" else 1
        least = max(1, 4 // step)
        inners = [int(random.integers(least, width // step + 1)) * step if is_pruned else width for _ in range(blocks)]
        shapes.append(StudentShape(block=kind, width=width, half=min(half, width), inners=tuple(inners)))
    return shapes


def tried(profile: MachineProfile, shapes: Sequence[StudentShape], size: Size) -> list[Student]:
    """Each student in each engine."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        in_other_process(export, shapes, size, folder, {graph_of(its) for its in profile.engines})
        contestants = {
            (shape, its.name): ready(stack.enter_context(opened(folder, number, its, profile.threads)))
            for number, shape in enumerate(shapes)
            for its in profile.engines
        }
        runs = take_turns(contestants, _TURNS, _TURN_S)
    return [
        Student(
            name=words(shape),
            engine=engine,
            blocks=shape.block,
            is_pruned=set(shape.inners) != {shape.width},
            predicted_s=predict(profile, shape, engine),
            measured_s=usual(seconds),
            median_s=float(np.median(seconds)),
        )
        for (shape, engine), seconds in runs.items()
    ]


def graph_of(engine: EngineTimes) -> Graph:
    """What an engine is given."""
    precision = "fp32" if engine.precision == "bf16" else engine.precision
    return precision, "uint8" if engine.backend in PLAN_LIBRARIES else "float"


def export(shapes: Sequence[StudentShape], size: Size, folder: Path, graphs: set[Graph]) -> None:
    """Write the graphs of the real networks, with initial weights, as `i2i-export` makes them.

    It is called in a process of its own, which is the only one to import PyTorch.
    """
    import torch

    from i2i_export.fp16 import to_fp16
    from i2i_export.graph import build_graph, exported_card
    from i2i_export.int8 import convolutions, tensor_ranges, to_int8
    from i2i_trainer.networks.build import new_generator, size_rule

    torch.manual_seed(0)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, *size)).astype(np.float32)
    for number, shape in enumerate(shapes):
        architecture = shape.architecture()
        card = Card(
            name="student",
            model_type="distill",
            direction="AtoB",
            generator=architecture,
            input=ImageSpec.of(shape.input_channels),
            output=ImageSpec.of(shape.output_channels),
            size=size_rule(architecture),
        )
        generator = new_generator(architecture).eval()
        for parameter in generator.parameters():
            # The exporter leaves biases of zeros out.
            torch.nn.init.normal_(parameter, std=0.05)
        for graph_io in {io for _, io in graphs}:
            own = exported_card(card, size=size, graph_io=graph_io, statistics="running")
            model = build_graph(generator, own)
            first, *_, last = convolutions(model)
            for precision in {precision for precision, io in graphs if io == graph_io}:
                made = model
                if precision == "fp16":
                    made = to_fp16(model)
                if precision == "int8":
                    made = to_int8(model, tensor_ranges(model, [(image,)]), keep=[first, last])
                onnx.save(made, folder / f"{number}-{precision}-{graph_io}.onnx")


def opened(folder: Path, number: int, its: EngineTimes, threads: int | None) -> Engine:
    """A student in an engine."""
    precision, graph_io = graph_of(its)
    graph = folder / f"{number}-{precision}-{graph_io}.onnx"
    if its.backend == "tensorrt" or its.backend == "tensorrt_rtx":
        plan = folder / f"{number}-{its.backend}.plan"
        build_plan(graph, plan, its.backend, card=None, precision=precision, use_cache=False)
        return open_engine(plan)
    bf16: Precision | None = "bf16" if its.precision == "bf16" else None
    return open_engine(graph, its.device, threads, backend=its.backend, precision=bf16)


def words(shape: StudentShape) -> str:
    """A student for a table: `plain 6x(32-24), half 8`."""
    inner = min(shape.inners), max(shape.inners)
    middle = f"{inner[0]}" if inner[0] == inner[1] else f"{inner[0]}..{inner[1]}"
    half = f", half {shape.half}" if shape.half else ""
    return f"{shape.block} {len(shape.inners)} x ({shape.width}-{middle}){half}"


def errors(found: Sequence[Student], engine: str) -> dict[str, float]:
    """What the errors of an engine's predictions are like, as shares."""
    own = np.array([each.error for each in found if each.engine == engine])
    return {
        "median": float(np.median(np.abs(own))),
        "90 %": float(np.quantile(np.abs(own), 0.9)),
        "worst": float(np.abs(own).max()),
        "bias": float(np.median(own)),
    }


def engines_of(found: Sequence[Student]) -> list[str]:
    """The engines, in their order."""
    return list(dict.fromkeys(each.engine for each in found))


def show_students(found: Sequence[Student]) -> None:
    """Print all students, and the errors of each engine."""
    engines = engines_of(found)
    table = Table(title="measured and predicted ms, and the error of the prediction")
    table.add_column("student", no_wrap=True)
    for engine in engines:
        table.add_column(engine, justify="right")
    for name in dict.fromkeys(each.name for each in found):
        cells = [each for each in found if each.name == name]
        table.add_row(name, *(f"{e.measured_s * 1e3:.2f} {e.predicted_s * 1e3:.2f} {e.error:+.0%}" for e in cells))
    Console().print(table)
    summary = Table(title="errors of the predictions")
    summary.add_column("engine")
    for column in ("median", "90 %", "worst", "bias"):
        summary.add_column(column, justify="right")
    for engine in engines:
        its = errors(found, engine)
        summary.add_row(engine, *(f"{its[c]:.1%}" for c in ("median", "90 %", "worst")), f"{its['bias']:+.1%}")
    Console().print(summary)


def draw(found: Sequence[Student], size: Size, path: Path) -> None:
    """Draw what was predicted over what was measured.

    Raises:
        SinkError: the picture cannot be written.
    """
    with picture(
        path,
        title="Predicted and measured time of random students",
        subtitle=f"{size[0]}x{size[1]}; the line is where both are equal, the band 15 % around it",
        height=5.0,
    ) as axes:
        limits = (
            np.array([min(each.measured_s for each in found) / 1.3, max(each.measured_s for each in found) * 1.3]) * 1e3
        )
        axes.plot(limits, limits, color="#6b6b6b", linewidth=1)
        axes.fill_between(limits, limits / 1.15, limits * 1.15, color="#dddddd")
        for engine in engines_of(found):
            own = [each for each in found if each.engine == engine]
            colour = COLOURS["openvino" if engine.startswith("OpenVINO") else "onnxruntime"]
            axes.scatter(
                [each.measured_s * 1e3 for each in own],
                [each.predicted_s * 1e3 for each in own],
                label=f"{engine}, median error {errors(found, engine)['median']:.0%}",
                marker="^" if engine.endswith("int8") else "o",
                color=colour,
                s=18,
            )
        ticks = [digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5)]
        shown = [tick for tick in ticks if limits[0] <= tick <= limits[1]]
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
        axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
        axes.minorticks_off()
        axes.set_xlabel("measured ms, logarithmic")
        axes.set_ylabel("predicted ms, logarithmic")
        axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    command.run(main)
