"""Where the time of a frame goes, from file to file: clocks around the real source, translator, engine and sink."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines.base import Engine, Tensor
from i2i_runtime.frame import Frame, Image
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources.base import Source, StreamInfo
from i2i_runtime.sources.video import VideoSource
from measuring.figures import ratio
from measuring.spread import Ratio

STAGES = ("decode", "to tensor", "inference", "to picture", "encode")
"""`to tensor` is resizing, padding and conversion, `to picture` the way back. An encoder that works on in threads of
its own counts for as long as it keeps its caller."""
WAITS = ("waiting for the model", "waiting for the encoder")
SPANS = ("decode", WAITS[0], "to tensor", "inference", "to picture", WAITS[1], "encode")
"""What a frame goes through, in this order."""
THREADS = {"capture": ("decode",), "inference": ("to tensor", "inference", "to picture"), "sink": ("encode",)}
"""Which of the pipeline's threads does what."""
_MOMENTS = ("fetched", "decoded", "taken", "given", "returned", "translated", "delivered", "encoded")
"""Between two of these lies one of `SPANS`."""
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FrameTimes:
    """All frames of one run."""

    spans: dict[str, Values]
    """By `SPANS`: (frames,) seconds."""
    outside: dict[str, float]
    """By `STAGES`: seconds that belong to no single frame, such as emptying the encoder at the end."""

    @property
    def totals(self) -> dict[str, float]:
        """Seconds of each stage over the whole run."""
        return {stage: float(self.spans[stage].sum()) + self.outside[stage] for stage in STAGES}


class Clocks:
    """Notes when the frames of a run are where; used by one run at a time.

    In each stage the frames come in the order in which they were decoded and none is left out, so that the n-th note of
    every moment is that of the n-th frame.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._moments: dict[str, list[float]] = {moment: [] for moment in _MOMENTS}
        self._outside = dict.fromkeys(STAGES, 0.0)

    def note(self, moment: str, at: float | None = None) -> None:
        """It is that moment for its next frame, now or at that `time.perf_counter()`."""
        self._moments[moment].append(time.perf_counter() if at is None else at)

    @contextmanager
    def outside(self, stage: str) -> Iterator[None]:
        """Count what is done within for a stage, but for no frame."""
        began = time.perf_counter()
        yield
        self._outside[stage] += time.perf_counter() - began

    def finish(self) -> FrameTimes:
        """The times of the run that has ended; the next one can begin.

        Raises:
            ValueError: some frame did not come to its end.
        """
        counts = {moment: len(times) for moment, times in self._moments.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"expected each frame in every stage, found {counts}")
        between = np.diff(np.array([self._moments[moment] for moment in _MOMENTS]), axis=0)
        found = FrameTimes(spans=dict(zip(SPANS, between, strict=True)), outside=self._outside)
        self._begin()
        return found


class TimedSource(Source):
    """A video file whose decoding is timed."""

    def __init__(self, video: Path, clocks: Clocks) -> None:
        self._clocks = clocks
        with clocks.outside("decode"):
            self._source = VideoSource(video)
        self.info, self.skipped = self._source.info, self._source.skipped

    def __iter__(self) -> Iterator[Frame]:
        """See `Source`."""
        frames = iter(self._source)
        while True:
            began = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                return
            self._clocks.note("fetched", began)
            self._clocks.note("decoded")
            yield frame

    def close(self) -> None:
        """See `Closing`."""
        with self._clocks.outside("decode"):
            self._source.close()


class TimedEngine(Engine):
    """An engine whose inference is timed."""

    def __init__(self, engine: Engine, clocks: Clocks) -> None:
        self._engine, self._clocks = engine, clocks
        self.name, self.card, self.provider = engine.name, engine.card, engine.provider
        self.inputs, self.outputs = engine.inputs, engine.outputs

    def run(self, *inputs: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Engine`."""
        self._clocks.note("given")
        result = self._engine.run(*inputs, out=out)
        self._clocks.note("returned")
        return result

    def _infer(self, inputs: Sequence[Tensor], outs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        return self._engine.run_all(*inputs)[: len(outs)]

    def close(self) -> None:
        """See `Closing`."""
        self._engine.close()


class TimedTranslator:
    """A translator, whose engine is a `TimedEngine`, that notes when it gets and returns a frame."""

    def __init__(self, translator: Callable[[Image], Image], clocks: Clocks) -> None:
        self._translator, self._clocks = translator, clocks

    def __call__(self, image: Image) -> Image:
        """Translate a frame."""
        self._clocks.note("taken")
        result = self._translator(image)
        self._clocks.note("translated")
        return result


class TimedSink(Sink):
    """A video file whose encoding is timed."""

    queue_length = VideoSink.queue_length

    def __init__(self, path: Path, clocks: Clocks) -> None:
        self._sink, self._clocks = VideoSink(path), clocks

    def start(self, *infos: StreamInfo) -> None:
        """See `Sink`."""
        with self._clocks.outside("encode"):
            self._sink.start(*infos)

    def write(self, frame: Frame) -> None:
        """See `Sink`."""
        self._clocks.note("delivered")
        self._sink.write(frame)
        self._clocks.note("encoded")

    def close(self) -> None:
        """See `Closing`; this empties the encoder."""
        with self._clocks.outside("encode"):
            self._sink.close()

    def summary(self) -> str:
        """See `Sink`."""
        return self._sink.summary()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One of `STAGES`."""

    share: Ratio
    """Of the plain loop's time, with what belongs to no frame."""
    busy: Ratio
    """Of the pipeline's time, the same: how busy it keeps its thread."""
    loop_ms: tuple[float, float]
    """p50 and p90 over the frames of all rounds, one stage after the other."""
    pipeline_ms: tuple[float, float]
    """The same in the pipeline, where the stages run beside each other."""


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Where the time goes in a plain loop, and what the pipeline makes of it."""

    stages: dict[str, Stage]
    explained: Ratio
    """All stages over the plain loop's time: near 1, or something was not timed."""
    overlap_gain: Ratio
    """All stages of the plain loop over the pipeline's time."""
    most_gain: Ratio
    """What it could be at most: all stages over those of the thread that has the most to do."""
    busy: dict[str, Ratio]
    """By thread: its stages over the pipeline's time."""
    bottleneck: str
    """The dearest stage of the busiest thread."""
    in_pipeline: dict[str, float]
    """By `SPANS`: share of the time that a frame is in the pipeline; sums up to 1."""

    @property
    def pipeline_over_loop(self) -> float:
        """The pipeline's time over the plain loop's."""
        return self.explained.median / self.overlap_gain.median


def stages_of(
    loops: Sequence[FrameTimes],
    loop_seconds: Sequence[float],
    pipelines: Sequence[FrameTimes],
    pipeline_seconds: Sequence[float],
) -> Stages:
    """Compare runs of a plain loop with runs of the pipeline, round by round.

    Args:
        loops: the frames of each round in the plain loop.
        loop_seconds: how long that took, measured from outside.
        pipelines: the same frames in the pipeline, in the same rounds.
        pipeline_seconds: how long that took.
    """
    totals = [loop.totals for loop in loops]
    sums = [sum(each.values()) for each in totals]
    longest = [max(_by_thread(each).values()) for each in totals]
    in_pipeline = [pipeline.totals for pipeline in pipelines]
    threads = [_by_thread(each) for each in in_pipeline]
    busy = {thread: ratio([each[thread] for each in threads], pipeline_seconds) for thread in THREADS}
    busiest = max(busy, key=lambda thread: busy[thread].median)
    inside = {span: float(sum(pipeline.spans[span].sum() for pipeline in pipelines)) for span in SPANS}
    return Stages(
        stages={
            stage: Stage(
                share=ratio([each[stage] for each in totals], loop_seconds),
                busy=ratio([each[stage] for each in in_pipeline], pipeline_seconds),
                loop_ms=_milliseconds(loops, stage),
                pipeline_ms=_milliseconds(pipelines, stage),
            )
            for stage in STAGES
        },
        explained=ratio(sums, loop_seconds),
        overlap_gain=ratio(sums, pipeline_seconds),
        most_gain=ratio(sums, longest),
        busy=busy,
        bottleneck=max(THREADS[busiest], key=lambda stage: statistics.median(each[stage] for each in in_pipeline)),
        in_pipeline={span: seconds / sum(inside.values()) for span, seconds in inside.items()},
    )


def read_stages(data: Mapping[str, Any]) -> Stages:
    """Stages from the JSON that `write_figures` makes of them.

    Raises:
        KeyError, TypeError: of something else.
    """
    stages = {
        name: Stage(
            share=Ratio(**stage["share"]),
            busy=Ratio(**stage["busy"]),
            loop_ms=tuple(stage["loop_ms"]),
            pipeline_ms=tuple(stage["pipeline_ms"]),
        )
        for name, stage in data["stages"].items()
    }
    ratios = {name: Ratio(**data[name]) for name in ("explained", "overlap_gain", "most_gain")}
    busy = {thread: Ratio(**share) for thread, share in data["busy"].items()}
    return Stages(stages=stages, busy=busy, bottleneck=data["bottleneck"], in_pipeline=data["in_pipeline"], **ratios)


def _by_thread(totals: Mapping[str, float]) -> dict[str, float]:
    return {thread: sum(totals[stage] for stage in its) for thread, its in THREADS.items()}


def _milliseconds(runs: Sequence[FrameTimes], stage: str) -> tuple[float, float]:
    p50, p90 = np.percentile(np.concatenate([run.spans[stage] for run in runs]), (50, 90)) * 1000
    return float(p50), float(p90)
