"""What the pipeline costs: its throughput against the engine alone and against a plain loop, and its latency live.

    python benchmarks/pipeline.py [--model MODEL.onnx] [--rounds 5] [--json FILE]

1. A heavy model: the engine is the bottleneck. Frames per second of `Pipeline` from video file to video file, of a
   plain read-translate-write loop, and of the engine alone on tensors that lie ready.
2. A light model, as dear as decoding and encoding: what running them beside each other is worth.
3. A live source of 30 frames a second, with an engine that keeps up and with one three times too slow: how late a frame
   is when a sink has it, against the inference it needs and one frame period.

All contestants of a part take turns in one run, on the same engine, video and decoder: ratios are what counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from untrained import save_untrained

from i2i_runtime import Pipeline, Translator, open_sink, open_source
from i2i_runtime.card import ImageSpec, SizeRule
from i2i_runtime.engines.open import open_engine
from i2i_runtime.frame import Frame, Image
from i2i_runtime.image import image_to_tensor, plan_fit, tensor_to_image
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources.base import StreamInfo
from i2i_runtime.sources.pattern import PatternSource
from i2i_runtime.sources.video import VideoSource

LIVE_FPS = 30
LARGE = (1080, 1920)
Seconds = dict[str, list[float]]


def main() -> None:
    """Measure the three parts, print them, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="of part 1; by default an untrained ResNet-9, ngf 64, 256x256")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all contestants (default: 5)")
    parser.add_argument("--frames", type=int, default=24, help="frames a round of part 1 (default: 24)")
    parser.add_argument("--light-frames", type=int, default=90, help="frames a round of part 2 (default: 90)")
    parser.add_argument("--live-seconds", type=float, default=20.0, help="length of each run of part 3 (default: 20)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or save_untrained(folder / "heavy.onnx", "resnet_9blocks", 64, 256)
        figures: dict[str, Any] = {
            "machine": f"{platform.machine()}, {platform.processor() or 'unknown processor'}",
            "rounds": arguments.rounds,
            "heavy": heavy(folder, model, arguments.rounds, arguments.frames),
            "light": light(folder, arguments.rounds, arguments.light_frames),
            "live": live(folder, arguments.live_seconds, arguments.rounds),
        }
    show(figures)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def heavy(folder: Path, model: Path, rounds: int, frames: int) -> dict[str, Any]:
    """Part 1: the model's size, so that nothing is resized; all threads for the engine."""
    with Translator(model) as translator:
        size = translator.card.size
        video = draw_video(folder / "small.mp4", (size.height or 256, size.width or 256), frames)
        engine = open_engine(model)
        tensor = np.zeros([length or 1 for length in engine.inputs[0].shape], engine.inputs[0].dtype)
        out = engine.run(tensor)

        def engine_alone() -> None:
            for _ in range(frames):
                engine.run(tensor, out=out)

        contestants = {
            "engine alone": engine_alone,
            "pipeline": lambda: through_pipeline(video, translator, folder / "out.mp4"),
            "plain loop": lambda: plain_loop(video, translator, folder / "out.mp4"),
        }
        return compared(interleaved(contestants, rounds), frames, "engine alone", f"{model.name}, all threads")


def light(folder: Path, rounds: int, frames: int) -> dict[str, Any]:
    """Part 2: 1080p video; of several small models the one whose inference costs what all the rest does."""
    video = draw_video(folder / "large.mp4", LARGE, frames)
    fit, pixels = plan_fit(*LARGE, SizeRule(height=256, width=256), "stretch"), ImageSpec.of(3)

    def conversions(image: Image) -> Image:
        return fit.undo(tensor_to_image(image_to_tensor(fit.apply(image), pixels)[0], pixels))

    began = time.perf_counter()
    plain_loop(video, conversions, folder / "out.mp4")
    rest = (time.perf_counter() - began) / frames
    inference = {}
    for blocks, ngf in itertools.product((3, 6), (4, 8, 12, 16, 24)):
        path = save_untrained(folder / f"resnet_{blocks}blocks_ngf{ngf}.onnx", f"resnet_{blocks}blocks", ngf, 256)
        with open_engine(path, threads=1) as engine:
            tensor = np.zeros((1, 3, 256, 256), np.float32)
            inference[path] = seconds_per_run(lambda: engine.run(tensor))  # noqa: B023
    path = min(inference, key=lambda each: abs(inference[each] - rest))
    with Translator(path, fit="stretch", threads=1) as translator:
        contestants = {
            "plain loop": lambda: plain_loop(video, translator, folder / "out.mp4"),
            "pipeline": lambda: through_pipeline(video, translator, folder / "out.mp4"),
        }
        what = f"{path.stem}, 1 thread; inference / all the rest = {inference[path] / rest:.2f}"
        return compared(interleaved(contestants, rounds), frames, "plain loop", what)


def live(folder: Path, seconds: float, repeats: int) -> list[dict[str, Any]]:
    """Part 3."""
    found = []
    period = 1 / LIVE_FPS
    models = [save_untrained(folder / f"live{ngf}.onnx", "resnet_6blocks", ngf, 256) for ngf in (8, 16, 24, 32, 48, 64)]
    frame = np.zeros((256, 256, 3), np.uint8)
    cost = {}
    for model in models:
        with Translator(model) as translator:
            cost[model] = seconds_per_run(lambda: translator(frame))
    for wanted, name in ((period / 2, "keeps up"), (3 * period, "three times too slow")):
        model = min(cost, key=lambda each: abs(cost[each] - wanted))
        runs = [one_live_run(model, seconds) for _ in range(repeats)]
        found.append({"engine": name, "model": model.stem, "runs": runs})
    return found


def one_live_run(model: Path, seconds: float) -> dict[str, Any]:
    """How late the frames of one run are; the bound is inference at p99 and one frame period."""
    translated: list[float] = []
    with Translator(model) as translator:

        def timed(image: Image) -> Image:
            began = time.perf_counter()
            result = translator(image)
            translated.append(time.perf_counter() - began)
            return result

        sink = Late()
        source = PatternSource(size=(256, 256), fps=LIVE_FPS, count=round(seconds * LIVE_FPS))
        status = Pipeline(source, timed, [sink]).run().status
    third = len(sink.late) // 3
    inference, latency = percentiles(translated), percentiles(sink.late)
    return {
        "captured": status.captured,
        "translated": status.translated,
        "dropped": status.dropped,
        "translate_ms": inference,
        "latency_ms": latency,
        "latency_p99_over_bound": latency[2] / (inference[2] + 1000 / LIVE_FPS),
        "last_third_over_first": statistics.median(sink.late[-third:]) / statistics.median(sink.late[:third]),
    }


class Late(Sink):
    """Notes how late each frame is."""

    def __init__(self) -> None:
        self.late: list[float] = []

    def start(self, *infos: StreamInfo) -> None:
        """Nothing to prepare."""

    def write(self, frame: Frame) -> None:
        """Note it."""
        self.late.append(time.monotonic() - frame.captured_at)

    def close(self) -> None:
        """Nothing is held."""

    def summary(self) -> str:
        """For the run's last line."""
        return f"{len(self.late)} frames timed"


def through_pipeline(video: Path, translator: Callable[[Image], Image], output: Path) -> None:
    """What i2i-run does."""
    Pipeline(open_source(video), translator, [open_sink(output)]).run()


def plain_loop(video: Path, translator: Callable[[Image], Image], output: Path) -> None:
    """Read, translate, write, one after the other, with the same decoder and encoder."""
    with VideoSource(video) as source, VideoSink(output) as sink:
        sink.start(source.info)
        for frame in source:
            image = translator(frame.image)
            sink.write(Frame(image=image, index=frame.index, captured_at=0.0, name="", timestamp=frame.timestamp))


def draw_video(path: Path, size: tuple[int, int], frames: int) -> Path:
    """A moving test pattern."""
    source = PatternSource(size=size, fps=1000, count=frames)
    with source, VideoSink(path) as sink:
        sink.start(StreamInfo(name="pattern", is_live=False, fps=None))
        for frame in source:
            sink.write(Frame(image=frame.image, index=frame.index, captured_at=0.0, name=""))
    return path


def seconds_per_run(act: Callable[[], object], runs: int = 9) -> float:
    """Median of some runs, after two to warm up."""
    seconds = []
    for _ in range(runs + 2):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


def interleaved(contestants: dict[str, Callable[[], None]], rounds: int) -> Seconds:
    """Seconds of each round; they take turns, so that a noisy machine disturbs all alike. A first round warms up."""
    seconds: Seconds = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, act in contestants.items():
            began = time.perf_counter()
            act()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def compared(seconds: Seconds, frames: int, baseline: str, what: str) -> dict[str, Any]:
    """Throughput of each contestant over the baseline's, round by round."""
    ratios = {
        name: [before / own for before, own in zip(seconds[baseline], times, strict=True)]
        for name, times in seconds.items()
    }
    return {
        "what": what,
        "frames": frames,
        "baseline": baseline,
        "throughput_over_baseline": {
            name: {"median": statistics.median(each), "lowest": min(each), "highest": max(each)}
            for name, each in ratios.items()
        },
        "ms_per_frame": {name: statistics.median(times) / frames * 1000 for name, times in seconds.items()},
    }


def percentiles(seconds: list[float]) -> tuple[float, float, float]:
    """p50, p90 and p99 in ms, without the first ten, in which caches fill."""
    p50, p90, p99 = np.percentile(seconds[10:], (50, 90, 99)) * 1000
    return float(p50), float(p90), float(p99)


def show(figures: dict[str, Any]) -> None:
    """Print the three parts."""
    console = Console()
    for part in ("heavy", "light"):
        rows = figures[part]
        table = Table(title=f"{part} model: {rows['what']}")
        for column in ("", f"throughput / {rows['baseline']}", "lowest to highest round"):
            table.add_column(column)
        for name, ratio in rows["throughput_over_baseline"].items():
            table.add_row(name, f"{ratio['median']:.3f}", f"{ratio['lowest']:.3f} to {ratio['highest']:.3f}")
        console.print(table)
    table = Table(title=f"live source, {LIVE_FPS} frames a second; p99 in periods, median over the runs")
    for column in ("engine", "dropped", "inference", "latency", "latency / bound", "lowest to highest", "late / early"):
        table.add_column(column)
    for each in figures["live"]:
        period, runs = 1000 / LIVE_FPS, each["runs"]
        bounds = [run["latency_p99_over_bound"] for run in runs]
        table.add_row(
            each["engine"],
            f"{statistics.median(run['dropped'] / run['captured'] for run in runs):.0%}",
            f"{statistics.median(run['translate_ms'][2] for run in runs) / period:.2f}",
            f"{statistics.median(run['latency_ms'][2] for run in runs) / period:.2f}",
            f"{statistics.median(bounds):.2f}",
            f"{min(bounds):.2f} to {max(bounds):.2f}",
            f"{statistics.median(run['last_third_over_first'] for run in runs):.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
