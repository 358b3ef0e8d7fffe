"""Compare float I/O with OpenCV around the graph to uint8 I/O with all conversions inside it, end to end.

    python benchmarks/graph_io.py [--checkpoint RUN/last.pt] [--size 256] [--json FILE]

Both graphs are exported from the same generator and timed in turns, in one run: the ratio is what counts. A picture
goes in as uint8 and comes out as uint8 either way.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from i2i_runtime import Translator
from i2i_runtime.frame import Image
from i2i_runtime.image import write_image
from measuring.environment import environment
from measuring.figures import interleaved, ratio, words, write_figures

GRAPHS = ("float", "uint8")


def main() -> None:
    """Export, time, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a trained model; by default an untrained U-Net, ngf 32")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels (default: 256)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of both graphs (default: 15)")
    parser.add_argument("--per-round", type=int, default=5, help="pictures a round (default: 5)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()

    machine = environment(sys.argv)
    size, count = arguments.size, arguments.per_round
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint or untrained(Path(folder), size)
        translators = {io: Translator(export(checkpoint, Path(folder), io, size)) for io in GRAPHS}
        picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
        contestants = {name: partial(several, translator, picture, count) for name, translator in translators.items()}
        seconds = interleaved(contestants, arguments.rounds, warm_up=2)

    found = ratio(seconds["uint8"], seconds["float"])
    table = Table(title=f"One picture of {size}x{size}, uint8 in and out")
    for column in ("graph", "relative time"):
        table.add_column(column)
    table.add_row("float", "1.00")
    table.add_row("uint8", words(found))
    Console().print(table)
    if arguments.json:
        figures = {
            "what": "uint8 graph / float graph, time a picture end to end",
            "ratio": found,
            "rounds": arguments.rounds,
            "size": size,
            "model": str(arguments.checkpoint.name) if arguments.checkpoint else "untrained U-Net, ngf 32",
        }
        write_figures(arguments.json, machine, figures)


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
    """Run one of our commands."""
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True, capture_output=True)


def several(translator: Translator, picture: Image, count: int) -> None:
    """A turn."""
    for _ in range(count):
        translator(picture)


if __name__ == "__main__":
    main()
