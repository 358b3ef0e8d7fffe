"""The pipeline: every frame accounted for in every ending, no hang, low latency live, no loss from files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx_models import negative_model

from i2i_runtime.errors import ModelError, SinkError, SourceError
from i2i_runtime.frame import Frame, Image
from i2i_runtime.pipeline import Pipeline, Result
from i2i_runtime.sinks.base import Sink, SinkClosed
from i2i_runtime.sinks.images import ImagesSink
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources.base import Source, StreamInfo
from i2i_runtime.sources.images import ImagesSource
from i2i_runtime.translator import Translator

pytestmark = pytest.mark.timeout(20)


class Drawn(Source):
    """Frames whose grey level is their number: `count` of them, `period` seconds apart, then an optional failure."""

    def __init__(self, count: int, *, is_live: bool = False, period: float = 0.0, failure: Exception | None = None):
        self.info = StreamInfo(name="drawn", is_live=is_live)
        self.skipped = []
        self.closed = 0
        self._count, self._period, self._failure = count, period, failure

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            time.sleep(self._period)
            image = np.full((4, 6, 3), index % 256, np.uint8)
            yield Frame(image=image, index=index, captured_at=time.monotonic(), name=f"{index:03d}")
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
        self.info: StreamInfo | None = None
        self.closed = 0
        self.needs_main_thread = on_main
        self._on_write = on_write

    def start(self, info: StreamInfo) -> None:
        self.info = info

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
    assert status.captured == status.translated + status.dropped + status.failed


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

    Pipeline(Drawn(3), negative, [sink], side_by_side=True).run()

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
        def start(self, info: StreamInfo) -> None:
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
