"""Compare tiles with the whole-frame pass of the same network: naive, with thumbnail statistics, and refined.

    python benchmarks/tiling.py --checkpoint RUN/last.pt --image PHOTO [--size 1024x2048] [--tile 256 --tile 512]
                                [--json FILE] [--picture DIR]

PSNR is against the whole frame. Seams: by how many grey levels the result steps from one tile to the next where the
whole frame does not. Time is that of one frame, relative to the whole-frame pass in the same run. The last row of a
tile size is a video's second frame, 16 pixels further.
"""

from __future__ import annotations

import argparse
import itertools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from i2i_runtime import tiling
from i2i_runtime.frame import Image
from i2i_runtime.image import read_image, resize, write_image
from i2i_runtime.tiling import TiledTranslator, TilePlan, plan_tiles
from i2i_runtime.translator import Translator
from measuring.environment import environment
from measuring.figures import write_figures

PAN = 16
"""Pixels by which the second frame is further."""
PASSES = (1, 2, 3, 4)


def main() -> None:
    """Export, translate, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a generator with norms over the picture")
    parser.add_argument("--image", type=Path, required=True, help="a photograph")
    parser.add_argument("--size", default="1024x2048", help="HEIGHTxWIDTH of the frame (default: 1024x2048)")
    parser.add_argument("--tile", type=int, action="append", help="side of the tiles (default: 256 and 512)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--picture", type=Path, help="write a strip to look at into this folder")
    arguments = parser.parse_args()
    machine = environment(sys.argv)
    height, width = map(int, arguments.size.split("x"))
    tiling.SETTLED = 0.0  # as many passes as asked for
    wide = resize(read_image(arguments.image), (height, width + PAN))
    frames = [np.ascontiguousarray(wide[:, start : start + width]) for start in (0, PAN)]

    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        sides = arguments.tile or [256, 512]
        model = export(arguments.checkpoint, Path(folder), sides[0])
        with Translator(model) as whole:
            wanted, wanted_next = whole(frames[0]), whole(frames[1])
            # Once more, since the first run of a session pays for its memory.
            whole_seconds, _ = timed(lambda: whole(frames[0]))
            for side in sides:
                shown = {"frame": frames[0], "whole": wanted}
                for name, seconds, picture, plan, right in methods(model, whole, side, frames, (wanted, wanted_next)):
                    rows.append(
                        {
                            "tile": side,
                            "tiles": len(plan),
                            "method": name,
                            "psnr_db": psnr(right, picture),
                            "seams": seams(right, picture, plan),
                            "time": seconds / whole_seconds,
                        }
                    )
                    shown[name] = picture
                if arguments.picture:
                    save_strip(arguments.picture / f"tiles-{side}.jpg", shown)
    show(rows, (height, width))
    if arguments.json:
        figures = {"checkpoint": arguments.checkpoint.name, "frame": [height, width], "rows": rows}
        write_figures(arguments.json, machine, figures)


def methods(
    model: Path, whole: Translator, side: int, frames: list[Image], wanted: tuple[Image, Image]
) -> Iterator[tuple[str, float, Image, TilePlan, Image]]:
    """Name, seconds, result, tiles, and what the result should be."""
    size = frames[0].shape[:2]
    overlap = TiledTranslator(model, tile=(side, side)).overlap
    plan = plan_tiles((size[0], size[1]), (side, side), overlap, whole.card.size, whole.card.size.multiple_of)
    seconds, picture = timed(lambda: naive(whole, plan, frames[0]))
    yield "each its own", seconds, picture, plan, wanted[0]
    for passes in PASSES:
        with TiledTranslator(model, tile=(side, side), most_passes=passes) as tiled:
            seconds, picture = timed(partial(tiled, frames[0]))
        name = "thumbnail statistics" if passes == 1 else f"refined, {passes} passes"
        yield name, seconds, picture, plan, wanted[0]
    with TiledTranslator(model, tile=(side, side), most_passes=PASSES[-1], from_previous=True) as tiled:
        tiled(frames[0])
        tiled.most_passes = 1
        seconds, picture = timed(lambda: tiled(frames[1]))
    yield "next frame, 1 pass", seconds, picture, plan, wanted[1]


def naive(translator: Translator, plan: TilePlan, image: Image) -> Image:
    """What tiles look like when each is a picture of its own."""
    framed = plan.fit.apply(image)
    blended = np.zeros(framed.shape, np.float32)
    for rows, columns, window in plan.tiles():
        blended[rows, columns] += translator(np.ascontiguousarray(framed[rows, columns])) * window[..., None]
    return plan.fit.undo(np.rint(blended).astype(np.uint8))


def timed(run: Callable[[], Image]) -> tuple[float, Image]:
    """Seconds and result."""
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


def psnr(wanted: Image, found: Image) -> float:
    """In dB."""
    square = float(np.square(wanted.astype(np.float64) - found).mean())
    return 10 * math.log10(255**2 / square) if square else math.inf


def seams(wanted: Image, found: Image, plan: TilePlan) -> float:
    """The step from one tile to the next that the whole frame does not have, in grey levels."""
    steps = []
    error = found.astype(np.float32) - wanted
    for line, length, its in ((plan.columns, plan.tile[1], error), (plan.rows, plan.tile[0], error.swapaxes(0, 1))):
        # Blurred along the border: a seam is long, texture is not.
        values = cv2.blur(np.ascontiguousarray(its), (1, 31))
        for before, after in itertools.pairwise(line.starts):
            steps.append(float(np.abs(values[:, before + length] - values[:, after - 1]).mean()))
    return float(np.mean(steps))


def export(checkpoint: Path, folder: Path, tile: int) -> Path:
    """A tileable model of any size."""
    target = folder / "tileable.onnx"
    sizes = ("--dynamic", "--size", tile, "--max-size", tile)
    command = [sys.executable, "-m", "i2i_export", checkpoint, "-o", target, "--tileable", *sizes, "--io", "float"]
    # What is compared is one graph with itself; how near it is to PyTorch is the exporter's question.
    subprocess.run([*map(str, command), "--tolerance", "0.01"], check=True, capture_output=True)
    return target


def save_strip(path: Path, shown: dict[str, Image]) -> None:
    """The frame, the whole-frame pass, tiles with statistics of their own, and the default, in two rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [shown[name] for name in ("frame", "whole", "each its own", f"refined, {PASSES[-1]} passes")]
    small = [resize(picture, (picture.shape[0] // 2, picture.shape[1] // 2)) for picture in pictures]
    write_image(path, np.concatenate([np.concatenate(small[:2], axis=1), np.concatenate(small[2:], axis=1)]))


def show(rows: list[dict[str, object]], size: tuple[int, int]) -> None:
    """Print the table."""
    table = Table(title=f"A frame of {size[1]}x{size[0]} in tiles, against the whole-frame pass")
    for column in ("tile", "tiles", "statistics", "PSNR dB", "seams", "time"):
        table.add_column(column, justify="left" if column == "statistics" else "right")
    for row in rows:
        figures = f"{row['psnr_db']:.1f}", f"{row['seams']:.1f}", f"{row['time']:.2f}"
        table.add_row(str(row["tile"]), str(row["tiles"]), str(row["method"]), *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
