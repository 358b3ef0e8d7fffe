"""What the pipeline costs: its throughput against the engine alone and against a plain loop, and its latency live.

1. A heavy model: the engine is the bottleneck. Frames per second of `Pipeline` from video file to video file, of a
   plain read-translate-write loop, and of the engine alone on tensors that lie ready.
2. A light model, as dear as decoding and encoding: what running them beside each other is worth.
3. A live source of 30 frames a second, with an engine that keeps up and with one about three times too slow: how late a
   frame is when a sink has it, against the inference it needs and one frame period.

Parts 1 and 2 also say where the time goes: how much of the loop's time each stage takes, how busy that keeps the
pipeline's threads, what their overlap gains and could gain, and how much of the loop the stages explain.

All contestants of a part take turns in one run, on the same engine, video and decoder: ratios are what counts.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from i2i_runtime import Pipeline, Translator, command
from i2i_runtime.engines.base import Engine
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import ModelError
from i2i_runtime.frame import Frame, Image
from i2i_runtime.image import FitMode, make_folder, plan_fit
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources.base import StreamInfo
from i2i_runtime.sources.pattern import PatternSource
from measuring.environment import environment
from measuring.figures import interleaved, ratio, words, write_figures
from measuring.model_contestants import filled
from measuring.output import check_output
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
SMALLEST = 128
"""Side of a pattern in pixels, at least."""
LIVE_AIMS = ((0.5, 0.0, 0.8), (3.0, 1.5, math.inf))
"""Frame periods that an inference of part 3 is to take, and at least and at most may take: an engine that keeps up, and
one that is too slow."""


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
    rounds=5,
    heavy_width=32,
    frames=6,
    light_frames=20,
    live_seconds=2.0,
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


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Of part 1; by default an untrained ResNet-9, 256x256, ngf 64 or 32.",
)
@click.option("--short", is_flag=True, help="A minute or two: fewer frames and models.")
@click.option("--rounds", type=click.IntRange(min=1), help=f"Of all contestants; default: {FULL.rounds}.")
@click.option("--frames", type=click.IntRange(min=1), help=f"A round of part 1; default: {FULL.frames}.")
@click.option("--light-frames", type=click.IntRange(min=1), help=f"A round of part 2; default: {FULL.light_frames}.")
@click.option(
    "--live-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Of each run of part 3; default: {FULL.live_seconds:g}.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures here.")
@click.option("--report", type=click.Path(path_type=Path), metavar="DIR", help="Draw where the time goes here.")
@command.debug_option
def main(
    model: Path | None,
    short: bool,
    rounds: int | None,
    frames: int | None,
    light_frames: int | None,
    live_seconds: float | None,
    json_file: Path | None,
    report: Path | None,
    debug: bool,
) -> None:
    """Say what the live pipeline costs, and where the time of a frame goes.

    \b
      pipeline.py --report pipeline-report
      pipeline.py --model zebra.onnx --json pipeline.json

    From video file to video file with a heavy model and with a light one, against a plain loop that reads, translates
    and writes; then a live source, with an engine that keeps up and one that does not.
    """  # noqa: D301
    check_output(json_file)
    if report is not None:
        make_folder(report)
    machine = environment(sys.argv)
    console = Console()
    given = {"rounds": rounds, "frames": frames, "light_frames": light_frames, "live_seconds": live_seconds}
    length = replace(SHORT if short else FULL, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        width = length.heavy_width
        default = folder / f"resnet_9blocks_ngf{width}.onnx"
        model = model or save_untrained(default, "resnet_9blocks", width, 256)
        files = {
            "heavy": heavy(folder, model, length.rounds, length.frames),
            "light": light(folder, length.rounds, length.light_frames, length.light_models),
        }
        late, left_out = live(folder, length.live_seconds, length.rounds, length.live_widths)
    if json_file is not None:
        figures = {name: asdict(run) for name, run in files.items()}
        write_figures(json_file, machine, {"rounds": length.rounds, **figures, "live": late, "left_out": left_out})
    for name, run in files.items():
        show(name, run, console)
    show_live(late, console)
    for line in left_out:
        console.print(line, highlight=False, soft_wrap=True)
    if report is not None and plots.is_here():
        drawn = draw_stages({f"{name} model": run.stages for name, run in files.items()}, report / "stages.png")
        console.print(f"plot: {drawn.path}", highlight=False, soft_wrap=True)
    elif report is not None:
        console.print("no plot: matplotlib is not installed; pip install 'i2i[bench]'", markup=False, soft_wrap=True)


def heavy(folder: Path, model: Path, rounds: int, frames: int) -> FileRun:
    """Part 1: a video of the model's size, so that nothing is resized; all threads for the engine.

    Raises:
        I2IError: the file is no model that takes pictures, or does not run here.
    """
    with open_engine(model) as engine:
        size = size_of_video(engine)
        # The translator's own choice for such a video.
        shape = filled(engine.inputs[0], plan_fit(*size, Translator(engine).card.size).model, 1)
        tensor = np.zeros(shape, engine.inputs[0].dtype)
        out = engine.run(tensor)

        def engine_alone() -> None:
            for _ in range(frames):
                engine.run(tensor, out=out)

        video = draw_video(folder / "small.mp4", size, frames)
        runs = FileRuns(engine, "letterbox", video, folder / "out.mp4")
        return runs.compared(rounds, {"engine alone": engine_alone}, "engine alone", f"{model.name}, all threads")


def size_of_video(engine: Engine) -> tuple[int, int]:
    """(height, width) that a model is meant for; of one for all sizes that it is tuned for, or 256x256."""
    rule, export = Translator(engine).card.size, engine.card.export if engine.card is not None else None
    usual = export.profile.typical if export is not None and export.profile is not None else (256, 256)
    height, width = plan_fit(*usual, rule).model
    return max(SMALLEST, height), max(SMALLEST, width)


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


def live(folder: Path, seconds: float, repeats: int, widths: tuple[int, ...]) -> tuple[list[dict[str, Any]], list[str]]:
    """Part 3, and which of its engines is left out."""
    found, left_out = [], []
    period = 1 / LIVE_FPS
    models = [save_untrained(folder / f"live{ngf}.onnx", "resnet_6blocks", ngf, 256) for ngf in widths]
    frame = np.zeros((256, 256, 3), np.uint8)
    cost = {}
    for model in models:
        with Translator(model) as translator:
            cost[model] = seconds_per_run(lambda: translator(frame))
    for wanted, least, most in LIVE_AIMS:
        periods = {model: seconds / period for model, seconds in cost.items() if least <= seconds / period <= most}
        if not periods:
            costs = ", ".join(f"{seconds / period:.1f}" for seconds in cost.values())
            left_out.append(f"live: an engine that takes about {wanted:g} frame periods; here they take {costs}")
            continue
        model = min(periods, key=lambda each: abs(periods[each] - wanted))
        runs = [one_live_run(model, seconds) for _ in range(repeats)]
        found.append({"engine": f"{periods[model]:.1f} frame periods", "model": model.stem, "runs": runs})
    return found, left_out


def one_live_run(model: Path, seconds: float) -> dict[str, Any]:
    """How late the frames of one run are; the bound is inference at p99 and one frame period.

    Raises:
        ModelError: no frame came through in that time.
    """
    translated: list[float] = []
    with Translator(model) as translator:

        def timed(image: Image) -> Image:
            began = time.perf_counter()
            result = translator(image)
            translated.append(time.perf_counter() - began)
            return result

        sink = Late()
        source = PatternSource(size=(256, 256), fps=LIVE_FPS, count=max(1, round(seconds * LIVE_FPS)))
        status = Pipeline(source, timed, [sink]).run().status
    if not sink.late:
        raise ModelError(f"{model.name}: no frame came through in {seconds:g} seconds; give more --live-seconds")
    third = max(1, len(sink.late) // 3)
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
    for column in ("takes", "dropped", "inference", "latency", "latency / bound", "lowest to highest", "late / early"):
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
    command.run(main)
