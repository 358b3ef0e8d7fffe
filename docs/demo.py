"""The demo: from four photographs to a translated video, through the real commands.

Edges are drawn from photographs that scikit-image ships (free licences), a small pix2pix learns to turn edges back
into a photograph, its generator is exported, and a video of edges seen by a moving camera is translated.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from i2i_runtime import Frame, Translator, open_sink
from i2i_runtime.frame import Image
from i2i_runtime.image import resize, write_image
from i2i_runtime.sources.base import StreamInfo
from i2i_trainer.record import grid

PICTURES = ("astronaut", "chelsea", "coffee", "rocket")
SIDE = 256
"""Height and width of pairs and video, in pixels."""
RATE = 24
SECONDS_PER_PICTURE = 4


def main() -> None:
    """Make everything in `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-results"), help="where everything goes")
    parser.add_argument("--steps", type=int, default=1500, help="training steps (default: 1500, about two minutes)")
    parser.add_argument("--pairs", type=int, default=300, help="training pairs to draw (default: 300)")
    arguments = parser.parse_args()
    out: Path = arguments.out
    began = time.monotonic()

    data, run = out / "edges2photo", out / "run"
    for folder in (data, run):  # of an earlier demo
        shutil.rmtree(folder, ignore_errors=True)
    photographs = [photograph(name) for name in PICTURES]
    draw_pairs(data / "train", photographs, arguments.pairs, seed=1)
    draw_pairs(data / "val", photographs, 16, seed=2)
    frames = list(moving_camera(photographs))
    film(out / "edges.mp4", [edges(frame) for frame in frames])

    i2i("train", "pix2pix", "--data", data, "--out", run, "--size", 128, "--ngf", 32, "--ndf", 16,
        "--steps", arguments.steps, "--max-minutes", 4, "--log-every", 50, "--sample-every", 500,
        "--eval-every", 500)  # fmt: skip
    i2i("export", run / "last.pt", "-o", out / "edges2photo.onnx")
    i2i("run", "--video", out / "edges.mp4", "--engine", out / "edges2photo.onnx", "--side-by-side",
        "--output", out / "translated.mp4")  # fmt: skip

    translator = Translator(out / "edges2photo.onnx")
    shown = frames[RATE * SECONDS_PER_PICTURE // 2 :: RATE * SECONDS_PER_PICTURE]
    strip = grid(
        [(edges(frame), translator(edges(frame)), frame) for frame in shown], ("edges", "translated", "photograph")
    )
    write_image(out / "strip.png", strip)

    print(f"\nDone in {time.monotonic() - began:.0f} s.")
    print(f"  video             {out / 'translated.mp4'}   (edges | translated)")
    print(f"  comparison strip  {out / 'strip.png'}")
    print(f"  training samples  {run / 'samples'}")
    print(f"  the engine        {out / 'edges2photo.onnx'}")


def photograph(name: str) -> Image:
    """A picture of scikit-image as (h, w, 3) uint8 BGR."""
    rgb = getattr(skimage.data, name)()
    return np.ascontiguousarray(rgb[:, :, 2::-1])


def edges(image: Image) -> Image:
    """Dark lines on white where the brightness changes."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (5, 5), 0)
    lines = cv2.dilate(cv2.Canny(grey, 40, 110), np.ones((2, 2), np.uint8))
    return np.asarray(cv2.cvtColor(255 - lines, cv2.COLOR_GRAY2BGR), np.uint8)


def view(picture: Image, centre_x: float, centre_y: float, zoom: float) -> Image:
    """A square view into a picture; the centre runs from 0 to 1, zoom 1 shows the whole shorter side."""
    side = round(min(picture.shape[:2]) / zoom)
    top = round((picture.shape[0] - side) * centre_y)
    left = round((picture.shape[1] - side) * centre_x)
    return resize(picture[top : top + side, left : left + side], (SIDE, SIDE))


def draw_pairs(folder: Path, photographs: list[Image], count: int, seed: int) -> None:
    """Random views as training pairs: edges on the left, photograph on the right."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        photo = view(photographs[number % len(photographs)], rng.random(), rng.random(), rng.uniform(1.0, 1.5))
        write_image(folder / f"{number:04d}.png", np.hstack((edges(photo), photo)))


def moving_camera(photographs: list[Image]) -> Iterator[Image]:
    """A camera that wanders over each picture."""
    count = RATE * SECONDS_PER_PICTURE
    for picture in photographs:
        for t in np.linspace(0.0, 2 * np.pi, count, endpoint=False):
            yield view(picture, 0.5 + 0.45 * np.sin(t), 0.5 + 0.45 * np.cos(2 * t), 1.25 - 0.15 * np.cos(t))


def film(path: Path, images: list[Image]) -> None:
    """Write images as a video."""
    with open_sink(path) as sink:
        sink.start(StreamInfo(name=path.stem, is_live=False, fps=Fraction(RATE)))
        for index, image in enumerate(images):
            sink.write(Frame(image=image, index=index, captured_at=time.monotonic(), name=f"{index:04d}"))


def i2i(command: str, *arguments: object) -> None:
    """Run a command of i2i as a person would, showing it first."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ i2i-{command} {' '.join(words)}", flush=True)
    module = {"train": "i2i_trainer", "export": "i2i_export", "run": "i2i_runtime"}[command]
    subprocess.run([sys.executable, "-m", module, *words], check=True)


if __name__ == "__main__":
    main()
