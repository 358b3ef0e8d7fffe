"""Compare float I/O with OpenCV around the graph to uint8 I/O with all conversions inside it, end to end.

Both graphs are exported from the same generator and timed in turns, in one run: the ratio is what counts. A picture
goes in as uint8 and comes out as uint8 either way.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from i2i_runtime import Translator, command
from i2i_runtime.errors import ModelError
from i2i_runtime.frame import Image
from i2i_runtime.image import write_image
from measuring.environment import environment
from measuring.figures import interleaved, ratio, words, write_figures
from measuring.output import check_output

GRAPHS = ("float", "uint8")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="A trained model; by default an untrained U-Net, ngf 32."
)
@click.option("--size", type=click.IntRange(min=1), default=256, show_default=True, help="Height and width in pixels.")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Of both graphs.")
@click.option("--per-round", type=click.IntRange(min=1), default=5, show_default=True, help="Pictures a round.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures here.")
@command.debug_option
def main(checkpoint: Path | None, size: int, rounds: int, per_round: int, json_file: Path | None, debug: bool) -> None:
    """Compare a float graph, with OpenCV's conversions around it, with a uint8 graph that has them inside."""
    check_output(json_file)
    machine = environment(sys.argv)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = checkpoint or untrained(folder, size)
        translators = {io: stack.enter_context(Translator(export(file, folder, io, size))) for io in GRAPHS}
        picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
        contestants = {io: partial(several, translator, picture, per_round) for io, translator in translators.items()}
        seconds = interleaved(contestants, rounds, warm_up=2)

    found = ratio(seconds["uint8"], seconds["float"])
    if json_file is not None:
        figures = {
            "what": "uint8 graph / float graph, time a picture end to end",
            "ratio": found,
            "rounds": rounds,
            "size": size,
            "model": checkpoint.name if checkpoint is not None else "untrained U-Net, ngf 32",
        }
        write_figures(json_file, machine, figures)
    table = Table(title=f"One picture of {size}x{size}, uint8 in and out")
    for column in ("graph", "relative time"):
        table.add_column(column)
    table.add_row("float", "1.00")
    table.add_row("uint8", words(found))
    Console().print(table)


def untrained(folder: Path, size: int) -> Path:
    """A checkpoint after one step: speed does not depend on what was learnt."""
    pair = np.random.default_rng(0).integers(0, 256, (size, 2 * size, 3), np.uint8)
    (folder / "data" / "train").mkdir(parents=True)
    write_image(folder / "data" / "train" / "noise.png", pair)
    i2i("i2i_trainer", "pix2pix", "--data", folder / "data", "--out", folder / "run", "--size", size, "--ngf", 32,
        "--steps", 1, "--device", "cpu")  # fmt: skip
    return folder / "run" / "last.pt"


def export(checkpoint: Path, folder: Path, graph_io: str, size: int) -> Path:
    """Export one of the two graphs."""
    target = folder / f"{graph_io}.onnx"
    i2i("i2i_export", checkpoint, "-o", target, "--io", graph_io, "--size", size)
    return target


def i2i(module: str, *arguments: object) -> None:
    """Run one of our commands.

    Raises:
        ModelError: it failed.
    """
    command_line = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command_line, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it does not say why"])[-1].removeprefix("error: ")
        raise ModelError(f"{module} ended with {done.returncode}: {said}")


def several(translator: Translator, picture: Image, count: int) -> None:
    """A turn."""
    for _ in range(count):
        translator(picture)


if __name__ == "__main__":
    command.run(main)
