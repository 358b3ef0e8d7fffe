"""Time every way to run a model that `--engine auto` tries, each in a process of its own, against plain ONNX Runtime.

    python benchmarks/engine_choice.py [--model zebra.onnx] [--pictures DIR] [--threads 2] [--json FILE]

`--model` brings the other exports of its checkpoint that lie beside it, such as zebra-int8.onnx. Without it an
untrained ResNet-9 of full width is exported at 256x256 in FP32 and, on `--pictures`, in INT8. The ways take turns, so
that what else the machine does slows all of them; a ratio is taken within a round. PSNR is that of the
8-bit picture that fares worst, on `--pictures` or on drawn ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from i2i_runtime.engines.choose import Choice, Row, choose_engine
from i2i_runtime.engines.open import open_engine
from i2i_runtime.image import list_images, read_image, write_image


def main() -> None:
    """Find the ways, time, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an .onnx file; by default an untrained ResNet-9 of full width")
    parser.add_argument("--pictures", type=Path, help="a folder of pictures to calibrate INT8 and to compare on")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of one inference (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all ways (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long a way runs in a round (default: 3)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--time", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.time:
        print(json.dumps(timed(json.loads(arguments.time), arguments.threads, arguments.seconds)))
        return

    with tempfile.TemporaryDirectory() as folder:
        # What an earlier start chose must not be taken over here.
        os.environ["I2I_CACHE"] = folder
        model = arguments.model or untrained(Path(folder), arguments.pictures)
        choice = choose_engine(model, "cpu", arguments.threads, pictures=compared_on(arguments.pictures))
        ways = [row for row in choice.rows if row.provider]
        milliseconds: list[list[float]] = [[] for _ in ways]
        for _, (way, found) in itertools.product(range(arguments.rounds), zip(ways, milliseconds, strict=True)):
            found.append(in_a_process(model.parent, way, arguments.threads, arguments.seconds))

    plain = next(found for way, found in zip(ways, milliseconds, strict=True) if way.backend == "onnxruntime")
    figures = [figures_of(way, found, plain, choice) for way, found in zip(ways, milliseconds, strict=True)]
    table = Table(title=f"{model.name}, {arguments.threads} threads, {arguments.rounds} rounds")
    for column in ("engine", "ms (median)", "range over rounds", "times as fast", "range", "PSNR dB", "--engine auto"):
        table.add_column(column)
    for one in figures:
        low, high = one["ms_range"]
        slowest, quickest = one["speedup_range"]
        table.add_row(
            one["engine"],
            f"{one['ms']:.1f}",
            f"{low:.1f} to {high:.1f}",
            f"{one['speedup']:.2f}",
            f"{slowest:.2f} to {quickest:.2f}",
            f"{one['psnr_db']:.1f}" if one["psnr_db"] is not None else "-",
            one["verdict"],
        )
    Console(width=180).print(table)
    for note in choice.notes:
        print(note)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        machine = f"{platform.machine()}, {platform.processor() or 'unknown processor'}, {os.cpu_count()} cores"
        about = {"machine": machine, "threads": arguments.threads, "rounds": arguments.rounds, "notes": choice.notes}
        arguments.json.write_text(json.dumps({**about, "ways": figures}, indent=2) + "\n")


def untrained(folder: Path, pictures: Path | None) -> Path:
    """A ResNet-9 of full width after one step, as `zebra.onnx` and, with pictures, `zebra-int8.onnx`."""
    data = folder / "data"
    for side in ("trainA", "trainB"):
        (data / side).mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
        write_image(data / side / "noise.png", noise)
    i2i("i2i_trainer", "cyclegan", "--data", data, "--out", folder / "run", "--size", 256, "--steps", 1,
        "--device", "cpu")  # fmt: skip
    checkpoint, model = folder / "run" / "last.pt", folder / "zebra.onnx"
    i2i("i2i_export", checkpoint, "-o", model)
    if pictures:
        # Random weights hardly survive INT8: it is timed all the same, and `auto` refuses what is too far off.
        int8 = ("--int8", "--pictures", pictures, "--min-psnr", 5)
        i2i("i2i_export", checkpoint, *int8, "-o", folder / "zebra-int8.onnx")
    return model


def i2i(module: str, *arguments: object) -> None:
    """Run one of our commands."""
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


def compared_on(folder: Path | None) -> list[Any] | None:
    """The last few pictures of the folder: a calibration begins with the first."""
    return [read_image(path) for path in list_images(folder)[-4:]] if folder else None


def in_a_process(folder: Path, way: Row, threads: int, seconds: float) -> float:
    """Median of one way in ms, in a process that runs nothing else: a library's threads disturb the others'."""
    what = {"path": str(folder / way.file), "device": way.device, "backend": way.backend, "precision": way.precision}
    command = [sys.executable, __file__, "--time", json.dumps(what), "--threads", threads, "--seconds", seconds]
    result = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return float(json.loads(result.stdout))


def timed(what: dict[str, Any], threads: int, seconds: float) -> float:
    """Median of all runs of an engine within `seconds`, in ms."""
    path, device = what.pop("path"), what.pop("device")
    with open_engine(path, device, threads, **what) as engine:
        engine.warm_up()
        spec = engine.inputs[0]
        shape = [length or (256 if axis else 1) for axis, length in enumerate(spec.shape)]
        low, high = (0, 255) if spec.dtype == np.uint8 else (-1, 1)
        given = np.random.default_rng(0).uniform(low, high, shape).astype(spec.dtype)
        out = engine.run(given)
        found = []
        end = time.perf_counter() + seconds
        while not found or time.perf_counter() < end:
            began = time.perf_counter()
            engine.run(given, out=out)
            found.append((time.perf_counter() - began) * 1e3)
    return float(np.median(found))


def figures_of(way: Row, found: list[float], plain: list[float], choice: Choice) -> dict[str, Any]:
    """One line of the table; `plain` are the rounds of ONNX Runtime."""
    ratios = [theirs / ours for theirs, ours in zip(plain, found, strict=True)]
    return {
        "engine": way.name,
        "ms": float(np.median(found)),
        "ms_range": [min(found), max(found)],
        "speedup": float(np.median(ratios)),
        "speedup_range": [min(ratios), max(ratios)],
        "psnr_db": way.psnr_db,
        "verdict": "chosen" if way == choice.chosen else way.verdict,
    }


if __name__ == "__main__":
    main()
