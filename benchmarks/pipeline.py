"""What the pipeline costs: its throughput against the engine alone and against a plain loop, and its latency live.

    python benchmarks/pipeline.py [--model MODEL.onnx] [--rounds 5] [--short] [--json FILE] [--report DIR]

1. A heavy model: the engine is the bottleneck. Frames per second of `Pipeline` from video file to video file, of a
   plain read-translate-write loop, and of the engine alone on tensors that lie ready.
2. A light model, as dear as decoding and encoding: what running them beside each other is worth.
3. A live source of 30 frames a second, with an engine that keeps up and with one three times too slow: how late a frame
   is when a sink has it, against the inference it needs and one frame period.

Parts 1 and 2 also say where the time goes: how much of the loop's time each stage takes, how busy that keeps the
pipeline's threads, what their overlap gains and could gain, and how much of the loop the stages explain.

All contestants of a part take turns in one run, on the same engine, video and decoder: ratios are what counts.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from i2i_runtime import Pipeline, Translator
from i2i_runtime.engines.base import Engine
from i2i_runtime.engines.open import open_engine
from i2i_runtime.frame import Frame, Image
from i2i_runtime.image import FitMode
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources.base import StreamInfo
from i2i_runtime.sources.pattern import PatternSource
from measuring.environment import environment
from measuring.figures import interleaved, ratio, words, write_figures
from measuring.spread import Ratio
from measuring.stages import (
    STAGES,
    WAITS,
    Clocks,
    FrameTimes,
    Stages,
    TimedEngine,
    TimedSink,
    TimedSource,
    TimedTranslator,
    stages_of,
)
from measuring.untrained import save_untrained
from reporting import plots
from reporting.stage_plot import draw_stages

LIVE_FPS = 30
LARGE = (1080, 1920)


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long it all takes."""

    rounds: int
    heavy_width: int
    """ngf of the ResNet-9 of part 1."""
    frames: int
    light_frames: int
    live_seconds: float
    light_models: tuple[tuple[int, int], ...]
    """Blocks and ngf of those of which part 2 takes one."""
    live_widths: tuple[int, ...]
    """ngf of those of which part 3 takes two."""


FULL = Length(
    rounds=5,
    heavy_width=64,
    frames=24,
    light_frames=90,
    live_seconds=20.0,
    light_models=tuple(itertools.product((3, 6), (4, 8, 12, 16, 24))),
    live_widths=(8, 16, 24, 32, 48, 64),
)
SHORT = Length(
    rounds=3,
    heavy_width=32,
    frames=6,
    light_frames=20,
    live_seconds=2.5,
    light_models=((3, 8), (6, 12)),
    live_widths=(8, 32),
)


@dataclass(frozen=True, kw_only=True)
class FileRun:
    """Part 1 or 2."""

    what: str
    provider: str
    """What really runs the model."""
    frames: int
    baseline: str
    throughput_over_baseline: dict[str, Ratio]
    ms_per_frame: dict[str, float]
    stages: Stages


def main() -> None:
    """Measure the three parts, print them, and write JSON and the plot where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="of part 1; by default an untrained ResNet-9, 256x256, ngf 64 or 32")
    parser.add_argument("--short", action="store_true", help="a minute or so: fewer rounds, frames and models")
    parser.add_argument("--rounds", type=int, help=f"rounds of all contestants (default: {FULL.rounds})")
    parser.add_argument("--frames", type=int, help=f"frames a round of part 1 (default: {FULL.frames})")
    parser.add_argument("--light-frames", type=int, help=f"frames a round of part 2 (default: {FULL.light_frames})")
    parser.add_argument("--live-seconds", type=float, help=f"of each run of part 3 (default: {FULL.live_seconds:g})")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--report", type=Path, metavar="DIR", help="draw where the time goes here, with matplotlib")
    arguments = parser.parse_args()

    machine = environment(sys.argv)
    console = Console()
    length = SHORT if arguments.short else FULL
    rounds = arguments.rounds or length.rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        width = length.heavy_width
        default = folder / f"resnet_9blocks_ngf{width}.onnx"
        model = arguments.model or save_untrained(default, "resnet_9blocks", width, 256)
        files = {"heavy": heavy(folder, model, rounds, arguments.frames or length.frames)}
        show("heavy", files["heavy"], console)
        files["light"] = light(folder, rounds, arguments.light_frames or length.light_frames, length.light_models)
        show("light", files["light"], console)
        late = live(folder, arguments.live_seconds or length.live_seconds, rounds, length.live_widths)
        show_live(late, console)
    if arguments.json:
        figures = {name: asdict(run) for name, run in files.items()}
        write_figures(arguments.json, machine, {"rounds": rounds, **figures, "live": late})
    if arguments.report and plots.is_here():
        arguments.report.mkdir(parents=True, exist_ok=True)
        drawn = draw_stages(
            {f"{name} model": run.stages for name, run in files.items()}, arguments.report / "stages.png"
        )
        console.print(f"plot: {drawn.path}", highlight=False, soft_wrap=True)
    elif arguments.report:
        console.print("no plot: matplotlib is not installed; pip install 'i2i[bench]'", markup=False, soft_wrap=True)


def heavy(folder: Path, model: Path, rounds: int, frames: int) -> FileRun:
    """Part 1: a video of the model's size, so that nothing is resized; all threads for the engine."""
    with open_engine(model) as engine:
        tensor = np.zeros([length or 1 for length in engine.inputs[0].shape], engine.inputs[0].dtype)
        out = engine.run(tensor)

        def engine_alone() -> None:
            for _ in range(frames):
                engine.run(tensor, out=out)

        size = engine.card.size if engine.card is not None else None
        shape = (size.height or 256, size.width or 256) if size is not None else (256, 256)
        video = draw_video(folder / "small.mp4", shape, frames)
        runs = FileRuns(engine, "letterbox", video, folder / "out.mp4")
        return runs.compared(rounds, {"engine alone": engine_alone}, "engine alone", f"{model.name}, all threads")


def light(folder: Path, rounds: int, frames: int, candidates: tuple[tuple[int, int], ...]) -> FileRun:
    """Part 2: 1080p video; of several small models the one whose inference costs what all the rest does."""
    video = draw_video(folder / "large.mp4", LARGE, frames)
    names = [(f"resnet_{blocks}blocks", ngf) for blocks, ngf in candidates]
    models = [save_untrained(folder / f"{name}_ngf{ngf}.onnx", name, ngf, 256) for name, ngf in names]
    inference = {}
    for path in models:
        with open_engine(path, threads=1) as engine:
            tensor = np.zeros((1, 3, 256, 256), np.float32)
            inference[path] = seconds_per_run(lambda: engine.run(tensor))  # noqa: B023
    with open_engine(models[0], threads=1) as engine:
        totals = FileRuns(engine, "stretch", video, folder / "out.mp4").plain_loop().totals
        rest = (sum(totals.values()) - totals["inference"]) / frames
    path = min(models, key=lambda each: abs(inference[each] - rest))
    with open_engine(path, threads=1) as engine:
        runs = FileRuns(engine, "stretch", video, folder / "out.mp4")
        what = f"{path.stem}, 1 thread; inference / all the rest = {inference[path] / rest:.2f}"
        return runs.compared(rounds, {}, "plain loop", what)


class FileRuns:
    """The same video through the same engine, in two ways: one stage after the other, and in the pipeline."""

    def __init__(self, engine: Engine, fit: FitMode, video: Path, output: Path) -> None:
        self._clocks = Clocks()
        translator = Translator(TimedEngine(engine, self._clocks), fit=fit)
        self._translator, self._provider = TimedTranslator(translator, self._clocks), engine.provider
        self._video, self._output = video, output

    def plain_loop(self) -> FrameTimes:
        """Read, translate, write, one after the other, with the same decoder and encoder."""
        with TimedSource(self._video, self._clocks) as source, TimedSink(self._output, self._clocks) as sink:
            sink.start(source.info)
            for frame in source:
                image = self._translator(frame.image)
                sink.write(Frame(image=image, index=frame.index, captured_at=0.0, name="", timestamp=frame.timestamp))
        return self._clocks.finish()

    def through_pipeline(self) -> FrameTimes:
        """What i2i-run does."""
        source, sink = TimedSource(self._video, self._clocks), TimedSink(self._output, self._clocks)
        Pipeline(source, self._translator, [sink]).run()
        return self._clocks.finish()

    def compared(self, rounds: int, others: dict[str, Callable[[], object]], baseline: str, what: str) -> FileRun:
        """Both in turns with others, which take as long for as many frames."""
        found: dict[str, list[FrameTimes]] = {"plain loop": [], "pipeline": []}
        seconds = interleaved(
            {
                **others,
                "plain loop": lambda: found["plain loop"].append(self.plain_loop()),
                "pipeline": lambda: found["pipeline"].append(self.through_pipeline()),
            },
            rounds,
        )
        frames = len(found["pipeline"][-1].spans["decode"])
        # The first round warmed up.
        loops, pipelines = (found[name][-rounds:] for name in ("plain loop", "pipeline"))
        return FileRun(
            what=what,
            provider=self._provider,
            frames=frames,
            baseline=baseline,
            throughput_over_baseline={name: ratio(seconds[baseline], times) for name, times in seconds.items()},
            ms_per_frame={name: statistics.median(times) / frames * 1000 for name, times in seconds.items()},
            stages=stages_of(loops, seconds["plain loop"], pipelines, seconds["pipeline"]),
        )


def live(folder: Path, seconds: float, repeats: int, widths: tuple[int, ...]) -> list[dict[str, Any]]:
    """Part 3."""
    found = []
    period = 1 / LIVE_FPS
    models = [save_untrained(folder / f"live{ngf}.onnx", "resnet_6blocks", ngf, 256) for ngf in widths]
    frame = np.zeros((256, 256, 3), np.uint8)
    cost = {}
    for model in models:
        with Translator(model) as translator:
            cost[model] = seconds_per_run(lambda: translator(frame))
    for wanted, name in ((period / 2, "keeps up"), (3 * period, "three times too slow")):
        model = min(models, key=lambda each: abs(cost[each] - wanted))
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


def percentiles(seconds: list[float]) -> tuple[float, float, float]:
    """p50, p90 and p99 in ms, without the first ten, or the first fifth of fewer than 50, in which caches fill."""
    p50, p90, p99 = np.percentile(seconds[min(10, len(seconds) // 5) :], (50, 90, 99)) * 1000
    return float(p50), float(p90), float(p99)


def show(name: str, run: FileRun, console: Console) -> None:
    """Print part 1 or 2: throughput, then where the time goes."""
    table = Table(title=f"{name} model: {run.what}")
    for column in ("", f"throughput / {run.baseline}"):
        table.add_column(column)
    for contestant, gain in run.throughput_over_baseline.items():
        table.add_row(contestant, words(gain))
    console.print(table)
    stages = run.stages
    table = Table(title=f"{name} model: where the time of a frame goes")
    table.add_column("")
    for column in ("plain loop", "p50 ms", "p90 ms", "pipeline", "p50 ms", "p90 ms"):
        table.add_column(column, justify="right")
    for span in (*STAGES, *WAITS):
        inside = f"{stages.in_pipeline[span]:.1%}"
        if span in WAITS:
            table.add_row(span, "", "", "", inside)
            continue
        found = stages.stages[span]
        loop, pipeline = ([f"{value:.2f}" for value in pair] for pair in (found.loop_ms, found.pipeline_ms))
        table.add_row(span, f"{found.share.median:.1%}", *loop, inside, *pipeline)
    console.print(table)
    busy = ", ".join(f"{thread} {words(share, '.0%')}" for thread, share in stages.busy.items())
    console.print(
        f"The stages explain {words(stages.explained, '.1%')} of the plain loop.\n"
        f"Overlap gains {words(stages.overlap_gain)}; with cores for every thread, at most {words(stages.most_gain)}.\n"
        f"The bottleneck is {stages.bottleneck}; busy threads: {busy}.",
        highlight=False,
    )


def show_live(late: list[dict[str, Any]], console: Console) -> None:
    """Print part 3."""
    table = Table(title=f"live source, {LIVE_FPS} frames a second; p99 in periods, median over the runs")
    for column in ("engine", "dropped", "inference", "latency", "latency / bound", "lowest to highest", "late / early"):
        table.add_column(column)
    for each in late:
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
