"""The pipeline: every frame accounted for in every ending, no hang, low latency live, no loss from files."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import negative_model
from videos import read_video

from i2i_runtime.controls import Controls, ControlState, View
from i2i_runtime.errors import BadOutputError, ModelError, SinkError, SourceError
from i2i_runtime.frame import Frame, Image
from i2i_runtime.pipeline import Options, Pipeline, Result
from i2i_runtime.sinks.base import Sink, SinkClosed
from i2i_runtime.sinks.images import ImagesSink
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources.base import Source, SourceState, StreamInfo
from i2i_runtime.sources.images import ImagesSource
from i2i_runtime.translator import Translator

pytestmark = pytest.mark.timeout(20)


class Drawn(Source):
    """Frames whose grey level is their number: `count` of them, `period` seconds apart, then an optional failure."""

    def __init__(
        self,
        count: int,
        *,
        is_live: bool = False,
        period: float = 0.0,
        failure: Exception | None = None,
        clock: int | None = None,
        grey: int | None = None,
    ):
        self.info = StreamInfo(name="drawn", is_live=is_live)
        self.skipped = []
        self.closed = 0
        self._count, self._period, self._failure, self._clock, self._grey = count, period, failure, clock, grey

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            time.sleep(self._period)
            image = np.full((4, 6, 3), index % 256 if self._grey is None else self._grey, np.uint8)
            timestamp = None if self._clock is None else Fraction(index, self._clock)
            yield Frame(
                image=image, index=index, captured_at=time.monotonic(), name=f"{index:03d}", timestamp=timestamp
            )
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        self.closed += 1


class Kept(Sink):
    """Keeps the frames; `on_write` may be slow or raise."""

    def __init__(self, on_write: Callable[[Frame], None] = lambda frame: None, *, on_main: bool = False):
        self.frames: list[Frame] = []
        self.latencies: list[float] = []
        self.threads: set[threading.Thread] = set()
        self.infos: tuple[StreamInfo, ...] = ()
        self.closed = 0
        self.needs_main_thread = on_main
        self._on_write = on_write

    def start(self, *infos: StreamInfo) -> None:
        self.infos = infos

    def write(self, frame: Frame) -> None:
        self.threads.add(threading.current_thread())
        self._on_write(frame)
        self.frames.append(frame)
        self.latencies.append(time.monotonic() - frame.captured_at)

    def close(self) -> None:
        self.closed += 1

    def summary(self) -> str:
        return f"{len(self.frames)} frames kept"


def negative(image: Image) -> Image:
    return 255 - image


def slow(seconds: float) -> Callable:
    def act(anything):
        time.sleep(seconds)
        return anything

    return act


def at_frame(number: int, act: Callable[[], object]) -> Callable[[Frame], None]:
    """Do something when that frame arrives."""

    def on_write(frame: Frame) -> None:
        if frame.index == number:
            act()

    return on_write


def fail(error: BaseException, *, after: float = 0.0) -> Callable[[], None]:
    """Raise the error; some seconds late, when more frames wait already."""

    def act() -> None:
        time.sleep(after)
        raise error

    return act


def assert_accounted(pipeline: Pipeline) -> None:
    status = pipeline.status()
    ends = status.translated + status.reused + status.skipped + status.dropped + status.failed
    assert status.captured == ends


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert [t for t in threading.enumerate() if t not in before and t.is_alive()] == []


# Every frame, in order


def test_every_frame_of_a_file_is_translated_in_order():
    source, sink = Drawn(50), Kept()

    result = Pipeline(source, negative, [sink]).run()

    assert [f.index for f in sink.frames] == list(range(50))
    assert [int(f.image[0, 0, 0]) for f in sink.frames] == [255 - i for i in range(50)]
    assert (result.status.captured, result.status.translated) == (50, 50)
    assert (result.status.dropped, result.status.failed, result.status.not_written) == (0, 0, 0)
    assert result.outputs == ("50 frames kept",)
    assert not result.stopped


def test_a_frame_keeps_its_name_and_the_time_it_was_captured_at():
    began = time.monotonic()
    sink = Kept()

    Pipeline(Drawn(5), negative, [sink]).run()

    assert [f.name for f in sink.frames] == ["000", "001", "002", "003", "004"]
    captured_at = [f.captured_at for f in sink.frames]
    assert began <= captured_at[0]
    assert captured_at == sorted(captured_at)


def test_the_frame_of_the_source_is_not_changed():
    original = np.zeros((4, 6, 3), np.uint8)
    seen = []

    Pipeline(Drawn(1), lambda image: seen.append(image) or image + 9, [Kept()]).run()

    assert np.array_equal(seen[0], original)


@pytest.mark.parametrize("translate", [negative, slow(0.002)])
def test_a_file_drops_nothing_however_slow_its_sink_is(translate):
    sink = Kept(slow(0.01))

    result = Pipeline(Drawn(40), translate, [sink]).run()

    assert len(sink.frames) == 40
    assert result.status.dropped == result.status.not_written == 0


def test_two_sinks_get_every_frame_on_threads_of_their_own():
    quick, dawdling = Kept(), Kept(slow(0.005))

    Pipeline(Drawn(20), negative, [quick, dawdling]).run()

    assert [f.index for f in quick.frames] == [f.index for f in dawdling.frames] == list(range(20))
    assert len(quick.threads | dawdling.threads) == 2
    assert threading.main_thread() not in quick.threads | dawdling.threads


def test_side_by_side_gives_input_and_result_in_one_picture():
    sink = Kept()

    Pipeline(Drawn(3), negative, [sink], controls=Controls(ControlState(view=View.SIDE_BY_SIDE))).run()

    image = sink.frames[2].image
    assert image.shape == (4, 12, 3)
    assert (image[:, :6] == 2).all()
    assert (image[:, 6:] == 253).all()


def test_real_parts_work_together(tmp_path):
    source_folder = ImagesSink(tmp_path / "in")
    Pipeline(Drawn(3), lambda image: image, [source_folder]).run()
    sinks = [ImagesSink(tmp_path / "out"), VideoSink(tmp_path / "out.mp4")]

    with Translator(negative_model(tmp_path / "model.onnx")) as translator:
        result = Pipeline(ImagesSource(str(tmp_path / "in")), translator, sinks).run()

    assert result.outputs == (f"3 pictures in {tmp_path / 'out'}", f"3 frames in {tmp_path / 'out.mp4'}")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000.png", "001.png", "002.png"]


def test_a_source_tells_of_what_it_skipped(tmp_path):
    for name in ("a.png", "b.png"):
        ImagesSink(tmp_path).write(
            Frame(image=np.zeros((4, 4, 3), np.uint8), index=0, captured_at=0, name=name.removesuffix(".png"))
        )
    (tmp_path / "c.png").write_bytes(b"")

    result = Pipeline(ImagesSource(str(tmp_path)), negative, [Kept()]).run()

    assert result.skipped == (f"{tmp_path / 'c.png'}: the file is empty",)
    assert result.status.captured == 2


# Live


def test_a_live_source_drops_what_a_slow_model_cannot_take_and_counts_it():
    sink = Kept()
    pipeline = Pipeline(Drawn(60, is_live=True, period=0.01), slow(0.05), [sink])

    result = pipeline.run()

    assert_accounted(pipeline)
    assert result.status.captured == 60
    assert result.status.dropped >= 30
    assert len(sink.frames) == result.status.translated
    assert [f.index for f in sink.frames] == sorted(f.index for f in sink.frames)


@pytest.mark.fault(18)
def test_the_latency_of_a_live_source_stays_bounded_when_the_model_is_slow():
    # Five times slower than the source: with a queue the last frame would be 1.5 s old.
    sink = Kept()

    Pipeline(Drawn(150, is_live=True, period=0.01), slow(0.05), [sink]).run()

    # A frame waits for the one before it (50 ms) and is translated (50 ms); the rest is a busy machine.
    assert np.median(sink.latencies) < 0.2
    assert max(sink.latencies) < 1.0


def test_a_slow_sink_of_a_live_source_loses_its_own_frames_only():
    quick, dawdling = Kept(), Kept(slow(0.1))
    dawdling.queue_length = 1

    result = Pipeline(Drawn(50, is_live=True, period=0.01), negative, [quick, dawdling]).run()

    assert len(quick.frames) == result.status.translated
    assert len(dawdling.frames) + result.status.not_written == result.status.translated
    assert result.status.not_written > 10


def test_the_last_frame_of_a_live_source_is_translated():
    sink = Kept()

    Pipeline(Drawn(20, is_live=True, period=0.005), slow(0.02), [sink]).run()

    assert sink.frames[-1].index == 19


# Endings


def run_in_time(pipeline: Pipeline, **options) -> Result | BaseException:
    """The result, or the error that ended the run; anything else than an end within ten seconds fails the test."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(pipeline.run, **options)
        error = future.exception(timeout=10)
    return error or future.result()


@pytest.mark.parametrize("is_live", [False, True])
def test_stop_ends_the_run_and_drops_what_waits(is_live):
    sink = Kept()
    pipeline = Pipeline(Drawn(100_000, is_live=is_live, period=0.001), slow(0.01), [sink])
    threading.Timer(0.3, pipeline.stop).start()

    result = run_in_time(pipeline)

    assert_accounted(pipeline)
    assert result.stopped
    assert len(sink.frames) == result.status.translated > 0


def test_a_source_that_fails_midway_ends_the_run_after_what_came_before():
    sink = Kept(slow(0.005))
    pipeline = Pipeline(Drawn(20, failure=SourceError("the plug was pulled")), negative, [sink])

    error = run_in_time(pipeline)

    assert str(error) == "the plug was pulled"
    assert isinstance(error, SourceError)
    assert_accounted(pipeline)
    assert len(sink.frames) == pipeline.status().captured == 20


@pytest.mark.parametrize("error", [ModelError("NaN"), RuntimeError("a bug"), MemoryError()])
def test_a_model_that_fails_ends_the_run_and_its_frame_counts_as_failed(error):
    sink = Kept()

    def translate(image: Image) -> Image:
        if image[0, 0, 0] == 7:
            raise error
        return image

    pipeline = Pipeline(Drawn(1000), translate, [sink])

    assert run_in_time(pipeline) is error
    assert_accounted(pipeline)
    assert pipeline.status().failed == 1
    assert [f.index for f in sink.frames] == list(range(7))


@pytest.mark.parametrize("on_main", [False, True])
def test_a_sink_that_fails_ends_the_run(on_main):
    error = SinkError("disk full")
    sink = Kept(at_frame(5, fail(error, after=0.1)), on_main=on_main)
    pipeline = Pipeline(Drawn(1000), negative, [sink])

    assert run_in_time(pipeline) is error
    assert_accounted(pipeline)
    assert [f.index for f in sink.frames] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("on_main", [False, True])
def test_a_closed_window_ends_the_run_and_ends_it_well(on_main):
    sink = Kept(at_frame(5, fail(SinkClosed(), after=0.1)), on_main=on_main)
    pipeline = Pipeline(Drawn(100_000), negative, [sink])

    result = run_in_time(pipeline)

    assert result.stopped
    assert_accounted(pipeline)
    assert [f.index for f in sink.frames] == [0, 1, 2, 3, 4]


def test_a_window_is_shown_nothing_more_once_it_is_closed():
    seen = []
    close = at_frame(5, fail(SinkClosed(), after=0.1))
    window = Kept(lambda frame: seen.append(frame.index) or close(frame), on_main=True)

    run_in_time(Pipeline(Drawn(1000), negative, [window]))

    assert seen == [0, 1, 2, 3, 4, 5]


def test_the_other_sink_is_finished_when_one_fails():
    failing, other = Kept(at_frame(5, fail(SinkError("disk full")))), Kept()

    run_in_time(Pipeline(Drawn(1000), negative, [failing, other]))

    assert len(other.frames) >= 5
    assert other.closed == 1


@pytest.mark.parametrize("on_main", [False, True])
def test_a_sink_that_fails_at_its_end_fails_the_run(on_main):
    class Unfinished(Kept):
        def close(self) -> None:
            raise SinkError("cannot be finished")

    with pytest.raises(SinkError, match="cannot be finished"):
        Pipeline(Drawn(3), negative, [Unfinished(on_main=on_main)]).run()


def test_a_sink_that_cannot_start_leaves_nothing_open():
    class Refusing(Kept):
        def start(self, *infos: StreamInfo) -> None:
            raise SinkError("not such a stream")

    source, other = Drawn(3), Kept()

    with pytest.raises(SinkError, match="not such a stream"):
        Pipeline(source, negative, [other, Refusing()]).run()

    assert source.closed == other.closed == 1
    assert other.frames == []


def test_of_two_failures_the_first_is_told():
    class Unfinished(Kept):
        def close(self) -> None:
            time.sleep(0.1)
            raise SinkError("the second failure")

    pipeline = Pipeline(Drawn(3, failure=SourceError("the first failure")), negative, [Unfinished()])

    assert str(run_in_time(pipeline)) == "the first failure"


@pytest.mark.parametrize(
    ("source", "translate", "sink"),
    [
        pytest.param(Drawn(10), negative, Kept(), id="end of file"),
        pytest.param(Drawn(10, failure=SourceError("x")), negative, Kept(), id="source fails"),
        pytest.param(Drawn(10), lambda image: 1 / 0, Kept(), id="model fails"),
        pytest.param(Drawn(10), negative, Kept(at_frame(3, fail(SinkError("x")))), id="sink fails"),
        pytest.param(Drawn(10), negative, Kept(at_frame(3, fail(SinkClosed())), on_main=True), id="window closed"),
    ],
)
def test_source_and_sinks_are_closed_in_every_ending(source, translate, sink):
    run_in_time(Pipeline(source, translate, [sink]))

    assert source.closed == 1
    assert sink.closed == 1


def test_a_callback_that_raises_ends_the_run():
    source, sink = Drawn(100_000, period=0.001), Kept()
    pipeline = Pipeline(source, negative, [sink])

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(lambda status: fail(KeyboardInterrupt())())

    assert source.closed == sink.closed == 1


def test_a_source_that_hangs_does_not_hang_the_stop():
    released = threading.Event()

    class Stalled(Drawn):
        def __iter__(self) -> Iterator[Frame]:
            yield from super().__iter__()
            released.wait()

    pipeline = Pipeline(Stalled(3, is_live=True), negative, [Kept()])
    threading.Timer(0.2, pipeline.stop).start()

    began = time.monotonic()
    result = run_in_time(pipeline)
    took = time.monotonic() - began
    released.set()
    time.sleep(0.1)

    assert result.stopped
    assert took < 5


# Figures while it runs


def test_the_status_is_told_about_ten_times_a_second():
    statuses = []

    result = Pipeline(Drawn(100, period=0.01), negative, [Kept(on_main=True)]).run(statuses.append)

    assert 5 <= len(statuses) <= 10 * result.status.elapsed + 2
    assert [s.translated for s in statuses] == sorted(s.translated for s in statuses)


def test_a_window_that_is_done_does_not_keep_the_processor_busy_while_a_file_is_finished():
    window, file = Kept(on_main=True), Kept(slow(0.05))

    before = time.process_time()
    Pipeline(Drawn(15), negative, [window, file]).run(lambda status: None)

    assert time.process_time() - before < 0.3


def test_latency_is_measured_from_capture_to_sink():
    result = Pipeline(Drawn(10, period=0.02), slow(0.01), [Kept(slow(0.02))]).run()

    assert 30 <= result.status.latency_ms[0] < 300
    assert 10 <= result.status.translate_ms[0] < 100


# Frames without a result


def bad_at(*indices: int) -> Callable[[Image], Image]:
    def translate(image: Image) -> Image:
        if image[0, 0, 0] in indices:
            raise BadOutputError("model: the model returned NaN or infinity")
        return image

    return translate


@pytest.mark.fault(30)
def test_a_frame_without_a_result_is_left_out_counted_and_said():
    sink, said = Kept(), []
    pipeline = Pipeline(Drawn(10), bad_at(3, 7), [sink])

    pipeline.run(on_event=said.append)

    assert_accounted(pipeline)
    assert pipeline.status().failed == 2
    assert [frame.index for frame in sink.frames] == [0, 1, 2, 4, 5, 6, 8, 9]
    assert said == ["model: the model returned NaN or infinity: frame 3 is left out"], "once a second at most"


@pytest.mark.fault(30)
def test_a_model_that_never_has_a_result_is_an_error_in_the_end():
    with pytest.raises(BadOutputError, match="NaN"):
        Pipeline(Drawn(3), bad_at(0, 1, 2), [Kept()]).run()


@pytest.mark.fault(30)
def test_a_strict_run_ends_at_the_first_frame_without_a_result():
    sink = Kept()
    pipeline = Pipeline(Drawn(1000), bad_at(3), [sink], options=Options(strict=True))

    assert isinstance(run_in_time(pipeline), BadOutputError)
    assert_accounted(pipeline)
    assert [frame.index for frame in sink.frames] == [0, 1, 2]


# Which frames are translated


def test_of_every_third_frame_the_others_are_left_out_and_counted():
    sink = Kept()
    pipeline = Pipeline(Drawn(10), negative, [sink], options=Options(every=3))

    pipeline.run()

    assert [frame.index for frame in sink.frames] == [0, 3, 6, 9]
    assert pipeline.status().skipped == 6
    assert_accounted(pipeline)


@pytest.mark.parametrize(("max_fps", "expected"), [(10, 20), (30, 60), (60, 60), (15, 30)])
def test_a_highest_frame_rate_is_kept_by_the_clock_of_the_frames(max_fps, expected):
    sink = Kept()
    pipeline = Pipeline(Drawn(60, clock=30), negative, [sink], options=Options(max_fps=max_fps))

    pipeline.run()

    assert len(sink.frames) == expected
    assert_accounted(pipeline)


def test_while_nothing_moves_the_result_is_shown_again_without_the_model():
    runs = []
    sink = Kept()
    source = Drawn(30, clock=30, grey=99)
    pipeline = Pipeline(source, lambda image: runs.append(1) or 255 - image, [sink], options=Options(skip_similar=4))

    pipeline.run()

    assert len(runs) == 1
    assert len(sink.frames) == 30
    assert all((frame.image == 156).all() for frame in sink.frames)
    assert (pipeline.status().translated, pipeline.status().reused) == (1, 29)
    assert_accounted(pipeline)


def test_what_moves_is_always_translated():
    pipeline = Pipeline(Drawn(20, clock=30), negative, [Kept()], options=Options(skip_similar=0.5))

    pipeline.run()

    assert pipeline.status().translated == 20


def test_a_watched_file_is_played_at_its_own_pace():
    sink = Kept()

    began = time.monotonic()
    Pipeline(Drawn(11, clock=20), negative, [sink], options=Options(keep_pace=True)).run()

    assert 0.5 <= time.monotonic() - began < 2
    assert max(sink.latencies) < 0.4, "waiting for its time does not make a frame late"


# Controls


def test_mirrored_frames_are_turned_before_they_are_translated():
    half = np.zeros((4, 6, 3), np.uint8)
    half[:, :3] = 255
    seen = []

    class Half(Drawn):
        def __iter__(self):
            yield Frame(image=half, index=0, captured_at=time.monotonic(), name="half")

    sink = Kept()
    controls = Controls(ControlState(mirror=True))
    Pipeline(Half(1), lambda image: seen.append(image) or image, [sink], controls=controls).run()

    assert (seen[0][:, 3:] == 255).all()
    assert (seen[0][:, :3] == 0).all()
    assert np.array_equal(sink.frames[0].before, seen[0])


def test_the_view_changes_while_it_runs_and_input_and_result_stay_at_hand():
    sink = Kept(at_frame(5, lambda: pipeline.controls.do("view", "input")))
    sink.queue_length = 1
    pipeline = Pipeline(Drawn(40, period=0.005), negative, [sink])

    pipeline.run()

    assert (sink.frames[0].image == 255).all()
    assert (sink.frames[-1].image == sink.frames[-1].before).all()
    assert (sink.frames[-1].after == 255 - sink.frames[-1].before).all()


def test_a_frozen_camera_goes_on_and_its_frames_are_left_out():
    sink = Kept(at_frame(5, lambda: pipeline.controls.do("freeze")))
    pipeline = Pipeline(Drawn(60, is_live=True, period=0.005), negative, [sink])

    pipeline.run()

    assert sink.frames[-1].index < 20
    assert pipeline.status().skipped >= 40
    assert_accounted(pipeline)


def test_a_frozen_file_waits_and_loses_nothing():
    def freeze() -> None:
        pipeline.controls.do("freeze")
        threading.Timer(0.5, pipeline.controls.do, ["freeze"]).start()

    sink = Kept(at_frame(5, freeze))
    pipeline = Pipeline(Drawn(30), negative, [sink])

    began = time.monotonic()
    pipeline.run()

    assert time.monotonic() - began >= 0.5
    assert [frame.index for frame in sink.frames] == list(range(30))


def test_a_recording_begins_and_ends_while_it_runs(tmp_path):
    def at(frame: Frame) -> None:
        if frame.index in (10, 40):
            pipeline.controls.do("record")

    options = Options(captures=tmp_path / "captures")
    pipeline = Pipeline(Large(60, period=0.005), negative, [Kept(at)], options=options)

    result = pipeline.run()

    (recording,) = (tmp_path / "captures").iterdir()
    assert 25 <= len(read_video(recording).pictures) <= 35
    assert str(recording) in result.outputs[-1]
    assert pipeline.controls.state().recording is None


def test_a_recording_that_is_still_going_at_the_end_is_whole(tmp_path):
    pipeline = Pipeline(
        Large(30, period=0.005),
        negative,
        [Kept(at_frame(10, lambda: pipeline.controls.do("record")))],
        options=Options(captures=tmp_path),
    )

    pipeline.run()

    (recording,) = tmp_path.iterdir()
    assert 15 <= len(read_video(recording).pictures) <= 20


def test_a_snapshot_is_the_picture_that_is_shown(tmp_path):
    sink = Kept(at_frame(10, lambda: pipeline.controls.do("snapshot")))
    pipeline = Pipeline(Drawn(20, period=0.005), negative, [sink], options=Options(captures=tmp_path / "new"))

    pipeline.run()

    (snapshot,) = (tmp_path / "new").iterdir()
    assert 255 - 14 <= int(cv2.imread(str(snapshot))[0, 0, 0]) <= 255 - 10


def test_a_recording_that_cannot_be_written_is_told_and_the_run_goes_on(tmp_path):
    (tmp_path / "file").touch()
    sink = Kept(at_frame(3, lambda: pipeline.controls.do("record")))
    pipeline = Pipeline(Drawn(20), negative, [sink], options=Options(captures=tmp_path / "file"))

    pipeline.run()

    assert len(sink.frames) == 20
    assert "expected a folder that can be written" in pipeline.controls.state().message


def test_quit_ends_the_run():
    pipeline = Pipeline(Drawn(100_000), negative, [Kept(at_frame(5, lambda: pipeline.controls.do("quit")))])

    assert run_in_time(pipeline).stopped


class Large(Drawn):
    """Of a size that videos have."""

    def __iter__(self):
        for frame in super().__iter__():
            yield replace(frame, image=np.full((32, 48, 3), frame.index, np.uint8))


# Several sources


def test_several_sources_are_translated_in_batches_and_told_apart():
    batches = []

    class Batching:
        max_batch = 4
        provider = "a test"

        def __call__(self, image):
            return self.batch([image])[0]

        def batch(self, images):
            batches.append(len(images))
            time.sleep(0.01)
            return [255 - image for image in images]

    sink = Kept()
    pipeline = Pipeline([Drawn(30), Drawn(30), Drawn(30)], Batching(), [sink])

    pipeline.run()

    assert_accounted(pipeline)
    for number in range(3):
        assert [frame.index for frame in sink.frames if frame.source == number] == list(range(30))
    assert max(batches) == 3
    assert sum(batches) == 90


def test_a_source_that_fails_does_not_end_the_others():
    sink = Kept()
    pipeline = Pipeline([Drawn(3, failure=SourceError("gone")), Drawn(30, period=0.005)], negative, [sink])

    assert str(run_in_time(pipeline)) == "gone"
    assert len([frame for frame in sink.frames if frame.source == 1]) == 30
    assert [source.state.value for source in pipeline.status().sources] == ["lost", "ended"]
    assert_accounted(pipeline)


def test_who_watches_several_sources_gets_one_picture_of_all():
    watching = Kept()
    watching.is_watched = True

    Pipeline([Drawn(5, grey=10), Drawn(5, grey=20), Drawn(5, grey=30)], negative, [watching]).run()

    image = watching.frames[-1].image
    assert image.shape == (8, 12, 3)
    assert [int(image[y, x, 0]) for y, x in ((0, 0), (0, 6), (4, 0), (4, 6))] == [245, 235, 225, 0]


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    is_live=st.booleans(),
    every=st.integers(1, 3),
    bad=st.sets(st.integers(0, 12), max_size=3),
    stop_at=st.integers(0, 20) | st.none(),
)
@settings(max_examples=40, deadline=None)
def test_every_frame_is_accounted_for_whatever_happens(counts, is_live, every, bad, stop_at):
    sink = Kept(at_frame(stop_at, lambda: pipeline.stop()) if stop_at is not None else lambda frame: None)
    sources = [Drawn(count, is_live=is_live) for count in counts]
    pipeline = Pipeline(sources, bad_at(*bad), [sink], options=Options(every=every))

    with suppress(BadOutputError):
        pipeline.run()

    assert_accounted(pipeline)
    status = pipeline.status()
    assert len(sink.frames) + status.not_written == status.results
    assert stop_at is not None or status.captured == sum(counts)


# As an iterator


def test_a_loop_gets_each_result_of_a_file():
    assert [frame.index for frame in Pipeline(Drawn(20), negative)] == list(range(20))


def test_leaving_the_loop_ends_the_run():
    source = Drawn(100_000)

    for frame in Pipeline(source, negative):
        if frame.index == 5:
            break

    assert source.closed == 1


def test_an_error_arrives_in_the_loop_after_the_results_before_it():
    results = iter(Pipeline(Drawn(3, failure=SourceError("gone")), negative))

    assert [next(results).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(SourceError, match="gone"):
        next(results)


def test_a_coroutine_gets_results_while_the_event_loop_goes_on():
    async def watch() -> tuple[int, int]:
        ticks, results = 0, 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.005)

        ticking = asyncio.create_task(tick())
        async for _ in Pipeline(Drawn(20, period=0.01), negative):
            results += 1
        ticking.cancel()
        return ticks, results

    ticks, results = asyncio.run(watch())

    assert results == 20
    assert ticks > 10


# Watching


def test_a_lost_source_is_told_and_shown_to_who_watches():
    class Flaky(Drawn):
        def __iter__(self):
            yield from super().__iter__()
            self.state = SourceState.RECONNECTING
            time.sleep(0.4)
            self.reconnects = 1
            self.state = SourceState.LIVE
            yield from super().__iter__()

        reconnects = 0

        def health(self):
            return replace(super().health(), reconnects=self.reconnects, message="connection reset")

    watching, writing, said = Kept(), Kept(), []
    watching.is_watched = True
    pipeline = Pipeline(Flaky(5, is_live=True, period=0.05), negative, [watching, writing])

    pipeline.run(on_event=said.append)

    assert said[0] == "drawn: reconnecting (connection reset)"
    assert said[1].startswith("drawn: live again after 0.")
    assert [frame.index for frame in watching.frames].count(-1) == 1, "a placeholder"
    assert -1 not in [frame.index for frame in writing.frames]
    assert pipeline.status().sources[0].reconnects == 1


@pytest.mark.fault(20)
def test_one_sink_may_fail_while_the_others_go_on():
    failing, other = Kept(at_frame(5, fail(SinkError("disk full")))), Kept()
    pipeline = Pipeline(Drawn(50), negative, [failing, other], options=Options(keep_going=True))

    error = run_in_time(pipeline)

    assert str(error) == "disk full"
    assert len(other.frames) == 50


@pytest.mark.fault(19)
def test_a_sink_that_takes_nothing_costs_a_live_run_nothing():
    hung = threading.Event()
    stuck, other = Kept(lambda frame: hung.wait(5)), Kept()
    stuck.queue_length = 1
    pipeline = Pipeline(Drawn(50, is_live=True, period=0.005), negative, [stuck, other])
    threading.Timer(0.6, hung.set).start()

    pipeline.run()

    assert len(other.frames) == pipeline.status().translated >= 40
    assert_accounted(pipeline)


@pytest.mark.parametrize("when", ["the first frame", "the end"])
def test_a_recording_that_comes_too_late_or_early_is_refused_and_does_not_keep_the_run(tmp_path, when):
    class Late(Kept):
        def close(self) -> None:
            super().close()
            pipeline.controls.do("record")

        def start(self, *infos: StreamInfo) -> None:
            if when == "the first frame":
                pipeline.controls.do("record")

    pipeline = Pipeline(Large(5), negative, [Late()], options=Options(captures=tmp_path))

    result = run_in_time(pipeline)

    assert isinstance(result, Result)
    assert pipeline.controls.state().recording is None
    assert pipeline.controls.state().message == "nothing can be recorded: the run has not begun or is over"


@pytest.mark.fault(19)
@pytest.mark.parametrize("is_live", [False, True])
def test_a_stop_does_not_wait_for_a_sink_that_hangs(is_live, monkeypatch):
    monkeypatch.setattr("i2i_runtime.pipeline._FINISH_WITHIN", 3.0)
    gate = threading.Event()
    hung, other = Kept(lambda frame: gate.wait(20)), Kept()
    pipeline = Pipeline(Drawn(1000, is_live=is_live, period=0.002), negative, [hung, other])
    threading.Timer(0.3, pipeline.stop).start()

    error = run_in_time(pipeline)
    gate.set()

    assert isinstance(error, SinkError)
    assert str(error) == "0 frames kept: does not end within 3 s; it is left as it is"
    assert other.closed == 1
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(5)


def test_a_cancelled_task_ends_the_run():
    source = Drawn(100_000, period=0.01)

    async def watch() -> None:
        async for _ in Pipeline(source, negative):
            pass

    async def cancel() -> None:
        task = asyncio.create_task(watch())
        await asyncio.sleep(0.2)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    began = time.monotonic()
    asyncio.run(cancel())

    assert time.monotonic() - began < 5
    assert source.closed == 1


def test_a_task_that_waits_for_a_source_that_stalls_can_be_cancelled():
    gate = threading.Event()

    class Stalled(Drawn):
        def __iter__(self):
            gate.wait(20)
            yield from ()

        def interrupt(self):
            gate.set()

    async def watch() -> None:
        async for _ in Pipeline(Stalled(1, is_live=True), negative):
            pass

    async def main() -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(watch(), 0.3)

    began = time.monotonic()
    asyncio.run(main())

    assert time.monotonic() - began < 5


def test_a_played_file_goes_on_at_its_pace_after_it_was_frozen():
    def freeze() -> None:
        pipeline.controls.do("freeze")
        threading.Timer(1.0, pipeline.controls.do, ["freeze"]).start()

    sink = Kept(at_frame(5, freeze))
    shown = []
    sink_write = sink.write
    sink.write = lambda frame: shown.append(time.monotonic()) or sink_write(frame)
    pipeline = Pipeline(Drawn(30, clock=20), negative, [sink], options=Options(keep_pace=True))

    pipeline.run()

    # Four decoded frames may have waited for the model.
    assert shown[-1] - shown[6] >= (29 - 6 - 5) / 20 * 0.9


def test_a_frozen_picture_can_be_looked_at_in_another_view():
    def compare() -> None:
        if not pipeline.controls.state().frozen:  # the frame is shown again
            pipeline.controls.do("freeze")
            threading.Timer(0.2, pipeline.controls.do, ["view", "input"]).start()

    watching, writing = Kept(at_frame(5, compare)), Kept()
    watching.is_watched = True
    pipeline = Pipeline(Drawn(80, is_live=True, period=0.01), negative, [watching, writing])

    pipeline.run()

    assert (watching.frames[-1].image == watching.frames[-1].before).all()
    assert (writing.frames[-1].image == writing.frames[-1].after).all(), "what is kept is frozen"


def test_instance_ids_survive_a_mirror():
    maps = np.zeros((2, 3, 2), np.int32)
    maps[:, 0, 1] = 26001
    seen = []

    class Maps(Drawn):
        def __iter__(self):
            yield Frame(image=maps, index=0, captured_at=time.monotonic(), name="map")

    controls = Controls(ControlState(mirror=True))
    Pipeline(
        Maps(1), lambda image: seen.append(image) or np.zeros((2, 3, 3), np.uint8), [Kept()], controls=controls
    ).run()

    assert seen[0].dtype == np.int32
    assert (seen[0][:, 2, 1] == 26001).all()


class Damaged(Drawn):
    """Its frame 5 cannot be decoded."""

    def __iter__(self):
        for frame in super().__iter__():
            if frame.index == 5:
                self.skipped.append("drawn: a damaged frame")
            else:
                yield frame


@pytest.mark.fault(11)
@pytest.mark.parametrize("count", [6, 500])
def test_a_strict_run_ends_at_damage_even_in_the_last_frame(count):
    pipeline = Pipeline(Damaged(count, period=0.002), negative, [Kept()], options=Options(strict=True))

    error = run_in_time(pipeline)

    assert isinstance(error, SourceError)
    assert str(error) == "drawn: a damaged frame"
    assert_accounted(pipeline)


def test_a_lost_source_is_seen_again_after_a_late_result_has_covered_the_notice():
    class Lost(Drawn):
        def __iter__(self):
            yield from super().__iter__()
            self.state = SourceState.RECONNECTING
            time.sleep(2.5)
            self.state = SourceState.LIVE

    watching = Kept()
    watching.is_watched = True

    Pipeline(Lost(3, is_live=True, period=0.05), slow(0.4), [watching]).run()

    assert [frame.index for frame in watching.frames].count(-1) >= 2
    assert watching.frames[-1].index == -1


def test_of_several_sources_the_lost_one_is_shown_as_lost():
    class Lost(Drawn):
        def __iter__(self):
            yield from super().__iter__()
            self.state = SourceState.RECONNECTING
            time.sleep(1)

    watching = Kept()
    watching.is_watched = True

    Pipeline([Lost(3, is_live=True, grey=0), Drawn(60, is_live=True, period=0.02, grey=0)], negative, [watching]).run()

    left, right = watching.frames[45].image[:, :6], watching.frames[45].image[:, 6:]
    assert left.max() < 255, "darkened"
    assert (right == 255).all()


def test_after_a_failed_recording_no_frame_is_counted_against_it(tmp_path, monkeypatch):
    class Failing(Kept):
        def write(self, frame):
            raise SinkError("disk full")

    monkeypatch.setattr("i2i_runtime.captures.open_sink", lambda path: Failing())
    pipeline = Pipeline(
        Drawn(60, period=0.005),
        negative,
        [Kept(at_frame(5, lambda: pipeline.controls.do("record")))],
        options=Options(captures=tmp_path),
    )

    pipeline.run()

    assert pipeline.status().not_written <= 8
    assert pipeline.controls.state().recording is None
    assert pipeline.controls.state().message == "disk full"


@pytest.mark.fault(20)
def test_a_window_that_fails_leaves_the_others_going_where_that_is_asked_for():
    window, other = Kept(at_frame(5, fail(SinkError("no display"))), on_main=True), Kept()
    pipeline = Pipeline(Drawn(60), negative, [window, other], options=Options(keep_going=True))

    assert str(run_in_time(pipeline)) == "no display"
    assert len(other.frames) == 60


def test_a_file_beside_a_live_source_is_played():
    sink = Kept(slow(0.001))

    Pipeline([Drawn(21, clock=20), Drawn(80, is_live=True, period=0.01)], negative, [sink]).run()

    played = [frame.captured_at for frame in sink.frames if frame.source == 0]
    assert len(played) == 21
    assert played[-1] - played[0] >= 0.9


def test_lines_that_nobody_asks_for_do_not_add_up():
    pipeline = Pipeline(Drawn(1000), negative)
    for number in range(1000):
        pipeline._events.append(f"line {number}")

    assert len(pipeline._events) == 100
