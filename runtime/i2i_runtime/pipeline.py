"""Sources -> translator -> sinks, each on a thread of its own, every frame accounted for.

A live source writes into a slot that holds the newest frame only, so that latency stays low when the model is slow;
a file waits, so that no frame is lost. A failure ends the run after every sink has been finished; what is only a bad
moment (a source that reconnects, a frame without a result) does not.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from i2i_runtime.captures import Captures
from i2i_runtime.channel import Channel, first_of_each
from i2i_runtime.controls import Controls
from i2i_runtime.errors import SinkError, SourceError, UsageError
from i2i_runtime.frame import Frame, Image
from i2i_runtime.outlets import Outlets
from i2i_runtime.selection import Selection
from i2i_runtime.similar import SimilarFilter
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sources.base import Source, SourceHealth, SourceState, StreamInfo
from i2i_runtime.stabilize import Stabilizer
from i2i_runtime.stats import Stats, Status
from i2i_runtime.translation import Lane, Translation
from i2i_runtime.view import mosaic
from i2i_runtime.watch import SourceWatch

_FILE_QUEUE = 4
"""Decoded frames that may wait for the model."""
_TICK = 0.1
"""Seconds between two looks of the supervisor at the other threads."""
_ABANDON_AFTER = 2.0
"""Seconds that a blocked capture thread is given to end; decoders and drivers can hang for longer."""
_PICTURE_PERIOD = 1.0
"""Seconds that a picture without a clock is shown when a run keeps the source's pace."""
_LATE = 0.5
"""Seconds that a played frame may be late before the pace is taken up from there."""
_RELEASE_AFTER = 1.0
"""Seconds after a stop in which the result that is under way is still written."""
_FINISH_WITHIN = 5.0
"""Seconds that sinks are given to finish after a stop; then they are left alone, and the run ends with an error."""
_EVENTS = 100
"""Lines that are kept until somebody is told."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended."""

    status: Status
    skipped: tuple[str, ...]
    """One line for each picture or frame of a source that could not be decoded."""
    outputs: tuple[str, ...]
    """What each sink made."""
    stopped: bool
    """Whether the run was stopped before the sources ended."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run chooses, treats and delivers frames."""

    every: int = 1
    """Translate each Nth frame and leave the others out."""
    max_fps: float | None = None
    """Translate no more frames a second than this from each source."""
    skip_similar: float | None = None
    """Show the result before again while no block of the picture differs by more than so many grey levels."""
    stabilize: float | None = None
    """Strength from 0 to 1 of the stabilizer against flicker."""
    keep_pace: bool = False
    """Deliver the frames of a file at the pace they would be played at, for somebody who watches."""
    strict: bool = False
    """End the run at the first frame that cannot be decoded or has no result."""
    keep_going: bool = False
    """Go on with the other sinks when one fails."""
    captures: Path = Path("captures")
    """The folder of snapshots and recordings."""

    def lane(self) -> Lane:
        """How the frames of one source are chosen and treated."""
        similar = None if self.skip_similar is None else SimilarFilter(self.skip_similar)
        return Lane(
            selection=Selection(every=self.every, max_fps=self.max_fps, similar=similar),
            stabilizer=None if self.stabilize is None else Stabilizer(self.stabilize),
        )


@dataclass
class _Stream:
    """A source on its way to the model."""

    source: Source
    inbox: Channel[Frame]
    end: SourceState | None = None
    """How it ended; None while it goes on."""


class Pipeline:
    """Runs sources through a translator into any number of sinks.

    >>> source, translator = open_source("in.mp4"), Translator("facades.onnx")  # doctest: +SKIP
    >>> Pipeline(source, translator, [open_sink("out.mp4")]).run()  # doctest: +SKIP

    Without sinks it hands the results out one by one, and `async for` does the same in a coroutine:

    >>> for frame in Pipeline(open_source("0"), translator):  # doctest: +SKIP
    ...     print(frame.index, frame.image.shape)

    Attributes:
        controls: what a person may change while it runs.
    """

    def __init__(
        self,
        source: Source | Sequence[Source],
        translator: Callable[[Image], Image],
        sinks: Sequence[Sink] = (),
        *,
        options: Options = Options(),
        controls: Controls | None = None,
    ) -> None:
        """Put the parts together; `run` owns them from then on and closes the sources and the sinks.

        Args:
            source: where frames come from; of several, frames that are ready together are translated in one batch.
            translator: (h, w, 3) uint8 BGR to the same; raises BadOutputError for a frame without a result. Where it
                has `max_batch` above 1, its `batch` is given as many frames as that.
            sinks: where results go.
            options: how frames are chosen and treated.
            controls: what keys and buttons act on; new ones by default.
        """
        self._sources = [source] if isinstance(source, Source) else list(source)
        self._is_live = any(each.info.is_live for each in self._sources)
        # Beside a live source a file is played: nothing could keep up with both. And no server takes it faster.
        self._keeps_pace = options.keep_pace or self._is_live or any(sink.keeps_pace for sink in sinks)
        self._strict = options.strict
        self.controls = controls or Controls()
        self._stats = Stats()
        self._stop = threading.Event()
        self._was_stopped = False
        self._failure: BaseException | None = None
        self._arrived = threading.Condition()
        self._streams = [self._stream(each) for each in self._sources]
        notes = [f"{each.info.name}: {each.info.note}" for each in self._sources if each.info.note]
        self._events = deque(notes, maxlen=_EVENTS)
        self._lanes = [options.lane() for _ in self._sources]
        self._translation = Translation(
            translator, self._lanes, self.controls, self._stats, strict=options.strict, say=self._events.append
        )
        self._outlets = Outlets(
            sinks,
            self._stats,
            newest_wins=self._is_live,
            keep_going=options.keep_going,
            stop=self.stop,
            fail=self._fail,
            say=self._events.append,
        )
        self._captures = Captures(self, options.captures)
        self.controls.on("quit", lambda value: self.stop())

    def _stream(self, source: Source) -> _Stream:
        is_live = source.info.is_live
        inbox = Channel[Frame](1 if is_live else _FILE_QUEUE, newest_wins=is_live, changed=self._arrived)
        return _Stream(source=source, inbox=inbox)

    def status(self) -> Status:
        """The figures now, from any thread."""
        return self._stats.status(self._translation.provider, tuple(_health(stream) for stream in self._streams))

    def stop(self) -> None:
        """End the run soon: what is translated is written, what waits is dropped. From any thread or signal handler."""
        self._was_stopped = True
        self._stop.set()

    # -- running ------------------------------------------------------------------------------------------------------

    def run(
        self,
        on_tick: Callable[[Status], None] | None = None,
        on_event: Callable[[str], None] | None = None,
    ) -> Result:
        """Run until the sources end, `stop` is called or something fails.

        Args:
            on_tick: called about ten times a second on the calling thread.
            on_event: told in a line what a person should know: a source lost and found, frames without a result.

        Raises:
            SourceError, ModelError, DeviceError, SinkError: what failed, after all sinks were finished.
        """
        captures = [self._thread(partial(self._capture, stream)) for stream in self._streams]
        inference = self._thread(self._infer)
        try:
            self._outlets.start(self.status, self.controls, [source.info for source in self._sources])
        except BaseException:
            for source in self._sources:
                source.close()
            raise
        for thread in (*captures, inference):
            thread.start()
        try:
            self._supervise(inference, on_tick, on_event)
        except BaseException:
            # A second Ctrl-C, or a callback that raised: end everything all the same.
            self.stop()
            self._carry_out_stop()
            self._outlets.close()
            for worker in (inference, *self._outlets.working()):
                worker.join(_ABANDON_AFTER)
            raise
        finally:
            self._outlets.close_on_main_thread()
            self._close_sources(captures)
        self._be_strict([_health(stream) for stream in self._streams])
        self._tell(on_event)
        failure = self._failure or self._outlets.kept_failure
        if failure is None and self.status().results == 0:
            failure = self._translation.bad_output
        if failure is not None:
            raise failure
        return Result(
            status=self.status(),
            skipped=tuple(line for source in self._sources for line in source.skipped),
            outputs=self.summaries(),
            stopped=self._was_stopped,
        )

    def _supervise(
        self,
        inference: threading.Thread,
        on_tick: Callable[[Status], None] | None,
        on_event: Callable[[str], None] | None,
    ) -> None:
        """Until every worker has ended: serve the main thread's sinks, carry out a stop, watch, tell."""
        watch = SourceWatch(self._lanes, self._events.append, self._show_notices)
        next_tick, stopped_at = 0.0, None
        while True:
            if self._stop.is_set():
                stopped_at = stopped_at or time.monotonic()
                self._carry_out_stop()
                if time.monotonic() - stopped_at > _RELEASE_AFTER:
                    # The inference thread may be waiting for room in the queue of a sink that hangs.
                    self._outlets.close()
            workers = [each for each in (inference, *self._outlets.working()) if each.is_alive()]
            is_serving = self._outlets.serve_main_thread()
            if not workers and not is_serving:
                return
            if not is_serving:
                workers[0].join(_TICK)
            if stopped_at and not inference.is_alive() and time.monotonic() - stopped_at > _FINISH_WITHIN:
                hung = "; ".join(sink.summary() for sink in self._outlets.working().values())
                if hung:
                    self._fail(SinkError(f"{hung}: does not end within {_FINISH_WITHIN:.0f} s; it is left as it is"))
                    return
            healths = [_health(stream) for stream in self._streams]
            watch.look(healths)
            self._be_strict(healths)
            self._tell(on_event)
            if on_tick and time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK
                on_tick(self.status())

    def _tell(self, on_event: Callable[[str], None] | None) -> None:
        while on_event and self._events:
            on_event(self._events.popleft())

    def _be_strict(self, healths: Sequence[SourceHealth]) -> None:
        for health, source in zip(healths, self._sources, strict=True):
            if self._strict and health.decode_errors:
                damage = next(iter(source.skipped), None) or health.message
                self._fail(SourceError(damage or f"{health.name}: {health.decode_errors} frames cannot be decoded"))

    def add_sink(self, sink: Sink, on_failure: Callable[[str], None]) -> None:
        """Give the results to one more sink from now on, while it runs; its failure does not end the run.

        Raises:
            SinkError: it cannot take such a stream, or the run is over.
        """
        sink.attach(self.status, self.controls)
        sink.start(*(source.info for source in self._sources))
        self._outlets.add(sink, on_failure)

    def remove_sink(self, sink: Sink) -> None:
        """Finish a sink that was added, and wait until what it was given is written."""
        self._outlets.remove(sink)

    def picture(self) -> Image | None:
        """The latest picture that is shown, of several sources side by side; None before the first."""
        pictures = [lane.last.image if lane.last else None for lane in self._lanes]
        shown = [picture for picture in pictures if picture is not None]
        return mosaic(pictures) if len(pictures) > 1 and shown else next(iter(shown), None)

    def summaries(self) -> tuple[str, ...]:
        """What each sink has made."""
        return self._outlets.summaries()

    def __iter__(self) -> Iterator[Frame]:
        """The results one by one, while the run goes on in a thread of its own; leaving the loop ends the run.

        Of live sources the newest result, of files each one.

        Raises:
            SourceError, ModelError, DeviceError, SinkError: as `run`.
        """
        results, runner = self._begin()
        try:
            yield from results
            runner.join()
            if self._failure is not None:
                raise self._failure
        finally:
            self._abandon(results)
            runner.join()

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """As `for`, without blocking the event loop; a cancelled task ends the run."""
        import asyncio

        results, runner = self._begin()
        try:
            while (frame := await asyncio.to_thread(results.get)) is not None:
                yield frame
            await asyncio.to_thread(runner.join)
            if self._failure is not None:
                raise self._failure
        finally:
            # First, so that the thread which waits for a result is free.
            self._abandon(results)
            await asyncio.to_thread(runner.join)

    def _begin(self) -> tuple[Channel[Frame], threading.Thread]:
        """Run in a thread of its own: where the results come from, and that thread."""
        if self._outlets.need_main_thread:
            raise UsageError("a window needs the main thread: use run(), or a loop without a window")
        sink = _HandOver(newest_wins=self._is_live)
        self._outlets.add(sink)
        runner = threading.Thread(target=partial(self._run_quietly, sink), daemon=True)
        runner.start()
        return sink.results, runner

    def _run_quietly(self, sink: _HandOver) -> None:
        try:
            self.run()
        except BaseException as error:
            self._failure = self._failure or error
        finally:
            sink.close()

    def _abandon(self, results: Channel[Frame]) -> None:
        self.stop()
        results.close(discard=True)

    # -- threads ------------------------------------------------------------------------------------------------------

    def _close_sources(self, captures: Sequence[threading.Thread]) -> None:
        for source in self._sources:
            source.interrupt()
        until = time.monotonic() + _ABANDON_AFTER
        for source, capture in zip(self._sources, captures, strict=True):
            capture.join(max(0.0, until - time.monotonic()))
            if not capture.is_alive():
                source.close()

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self._fail(error)

        return threading.Thread(target=guarded, daemon=True)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._stop.set()

    def _carry_out_stop(self) -> None:
        """Nothing more is captured, and frames that wait for the model are dropped."""
        for stream in self._streams:
            stream.source.interrupt()
            self._stats.count("dropped", stream.inbox.close(discard=True))

    def _capture(self, stream: _Stream) -> None:
        is_played = self._keeps_pace and not stream.source.info.is_live
        began = time.monotonic()
        try:
            for number, frame in enumerate(stream.source):
                if is_played:
                    due = began + (_PICTURE_PERIOD * number if frame.timestamp is None else float(frame.timestamp))
                    self._stop.wait(due - time.monotonic())
                    late = time.monotonic() - due
                    # After a pause it goes on at its pace and does not run to make up for it.
                    began += late if late > _LATE else 0.0
                    frame = replace(frame, captured_at=time.monotonic())
                if self._stop.is_set():
                    return
                self._stats.count("captured")
                self._stats.count("dropped", stream.inbox.put(frame))
            stream.end = SourceState.ENDED
        except BaseException as error:
            # What was captured before the source failed is good: no stop, it is translated and written, and other
            # sources go on.
            stream.end = SourceState.LOST
            self._failure = self._failure or error
        finally:
            stream.inbox.close()

    # -- inference ----------------------------------------------------------------------------------------------------

    def _infer(self) -> None:
        inboxes = [stream.inbox for stream in self._streams]
        try:
            while ready := first_of_each(inboxes, self._arrived):
                self._wait_while_frozen()
                if self._stop.is_set():
                    self._stats.count("dropped", len(ready))
                else:
                    frames = [replace(frame, source=number) for number, frame in ready]
                    self._translation.results(frames, self._deliver)
        finally:
            for inbox in inboxes:
                self._stats.count("dropped", inbox.close(discard=True))
            self._outlets.take_no_more()
            self._captures.finish()
            self._outlets.close()

    def _wait_while_frozen(self) -> None:
        """A frozen file waits; a frozen live source goes on, and its frames are left out. Its view may change."""
        while self.controls.state().frozen and not self._stop.is_set():
            again = self._translation.shown_again()
            if again:
                self._outlets.show(self._side_by_side(again[-1]) if len(self._lanes) > 1 else again[-1])
            if self._is_live:
                return
            self._stop.wait(_TICK)

    def _deliver(self, results: list[Frame]) -> None:
        has_viewers = len(self._lanes) > 1 and self._outlets.any_is_watched
        self._outlets.deliver(results, self._side_by_side(results[-1]) if has_viewers else None)

    def _side_by_side(self, newest: Frame) -> Frame:
        lanes = self._lanes
        return replace(
            newest,
            image=mosaic([lane.picture() for lane in lanes]),
            before=mosaic([lane.noted(lane.last.before if lane.last else None) for lane in lanes]),
            after=mosaic([lane.noted(lane.last.after if lane.last else None) for lane in lanes]),
        )

    def _show_notices(self) -> None:
        pictures = [lane.picture() for lane in self._lanes]
        if any(picture is not None for picture in pictures):
            image = mosaic(pictures) if len(pictures) > 1 else pictures[0]
            assert image is not None, "there is one"
            self._outlets.show(Frame(image=image, index=-1, captured_at=time.monotonic(), name="notice"))


class _HandOver(Sink):
    """Gives the results to a loop of the caller."""

    def __init__(self, *, newest_wins: bool) -> None:
        self.results = Channel[Frame](1 if newest_wins else _FILE_QUEUE, newest_wins=newest_wins)

    def start(self, *infos: StreamInfo) -> None:
        """See `Sink`: nothing to prepare."""

    def write(self, frame: Frame) -> None:
        """See `Sink`."""
        self.results.put(frame)

    def close(self) -> None:
        """See `Closing`."""
        self.results.close()

    def summary(self) -> str:
        """See `Sink`."""
        return "frames handed over"


def _health(stream: _Stream) -> SourceHealth:
    health = stream.source.health()
    return health if stream.end is None else replace(health, state=stream.end)
