"""Sources -> translator -> sinks, each on a thread of its own, every frame accounted for.

A live source writes into a slot that holds the newest frame only, so that latency stays low when the model is slow;
a file waits, so that no frame is lost. A failure ends the run after every sink has been finished; what is only a bad
moment (a source that reconnects, a frame without a result) does not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from i2i_runtime.captures import Captures
from i2i_runtime.channel import Channel, first_of_each
from i2i_runtime.controls import Controls
from i2i_runtime.errors import SourceError, UsageError
from i2i_runtime.frame import Frame, Image
from i2i_runtime.selection import Selection
from i2i_runtime.similar import SimilarFilter
from i2i_runtime.sinks.base import Sink, SinkClosed
from i2i_runtime.sources.base import Source, SourceHealth, SourceState, StreamInfo
from i2i_runtime.stabilize import Stabilizer
from i2i_runtime.stats import Stats, Status
from i2i_runtime.translation import Lane, Translation
from i2i_runtime.view import mosaic, placeholder

_FILE_QUEUE = 4
"""Decoded frames that may wait for the model."""
_TICK = 0.1
"""Seconds between two looks of the supervisor at the other threads."""
_ABANDON_AFTER = 2.0
"""Seconds that a blocked capture thread is given to end; decoders and drivers can hang for longer."""
_PICTURE_PERIOD = 1.0
"""Seconds that a picture without a clock is shown when a run keeps the source's pace."""


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


@dataclass
class _Outlet:
    """The way to a sink."""

    sink: Sink
    frames: Channel[Frame]
    thread: threading.Thread | None = None
    """None for a sink of the main thread."""
    on_failure: Callable[[str], None] | None = None
    """Told of a failure that shall not end the run."""


@dataclass
class _Seen:
    """What the supervisor told last of a source."""

    state: SourceState = SourceState.LIVE
    reconnects: int = 0
    since: float = field(default_factory=time.monotonic)


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
        self._options = options
        self.controls = controls or Controls()
        self._stats = Stats()
        self._stop = threading.Event()
        self._was_stopped = False
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._arrived = threading.Condition()
        self._streams = [self._stream(each) for each in self._sources]
        self._events = [f"{source.info.name}: {source.info.note}" for source in self._sources if source.info.note]
        self._lanes = [options.lane() for _ in self._sources]
        self._translation = Translation(
            translator, self._lanes, self.controls, self._stats, strict=options.strict, say=self._events.append
        )
        self._outlets = [self._outlet(sink) for sink in sinks]
        self._removed: list[Sink] = []
        self._captures = Captures(self, options.captures)
        self.controls.on("quit", lambda value: self.stop())

    def _stream(self, source: Source) -> _Stream:
        is_live = source.info.is_live
        inbox = Channel[Frame](1 if is_live else _FILE_QUEUE, newest_wins=is_live, changed=self._arrived)
        return _Stream(source=source, inbox=inbox)

    def _outlet(self, sink: Sink, on_failure: Callable[[str], None] | None = None) -> _Outlet:
        frames = Channel[Frame](sink.queue_length, newest_wins=self._is_live or sink.queue_length == 1)
        outlet = _Outlet(sink=sink, frames=frames, on_failure=on_failure)
        if not sink.needs_main_thread:
            outlet.thread = self._thread(partial(self._feed, outlet))
        return outlet

    @property
    def _is_live(self) -> bool:
        return any(source.info.is_live for source in self._sources)

    @property
    def _infos(self) -> list[StreamInfo]:
        return [source.info for source in self._sources]

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
        on_main = [outlet for outlet in self._outlets if outlet.thread is None]
        captures = [self._thread(partial(self._capture, stream)) for stream in self._streams]
        inference = self._thread(self._infer)
        self._start_sinks()
        for thread in (*captures, inference, *(outlet.thread for outlet in self._outlets if outlet.thread)):
            thread.start()
        seen = [_Seen() for _ in self._streams]
        try:
            next_tick = 0.0
            while (workers := self._alive(inference)) or not all(outlet.frames.is_finished for outlet in on_main):
                self._carry_out_stop()
                self._serve_or_wait(on_main, workers)
                self._watch_sources(seen)
                while on_event and self._events:
                    on_event(self._events.pop(0))
                if on_tick and time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + _TICK
                    on_tick(self.status())
        except BaseException:
            # A second Ctrl-C, or a callback that raised: end everything all the same.
            self.stop()
            self._carry_out_stop()
            for worker in self._alive(inference):
                worker.join(_ABANDON_AFTER)
            raise
        finally:
            for outlet in on_main:
                try:
                    outlet.sink.close()
                except Exception as error:
                    self._fail(error)
            self._close_sources(captures)
        failure = self._failure or (self._translation.bad_output if self.status().results == 0 else None)
        if failure is not None:
            raise failure
        return Result(
            status=self.status(),
            skipped=tuple(line for source in self._sources for line in source.skipped),
            outputs=self.summaries(),
            stopped=self._was_stopped,
        )

    def add_sink(self, sink: Sink, on_failure: Callable[[str], None]) -> None:
        """Give the results to one more sink from now on, while it runs; its failure does not end the run.

        Raises:
            SinkError: it cannot take such a stream.
        """
        sink.attach(self.status, self.controls)
        sink.start(*self._infos)
        outlet = self._outlet(sink, on_failure)
        assert outlet.thread is not None, "only a sink with a thread of its own can be added"
        outlet.thread.start()
        with self._lock:
            self._outlets.append(outlet)

    def remove_sink(self, sink: Sink) -> None:
        """Finish a sink that was added, and wait until what it was given is written."""
        with self._lock:
            outlet = next(each for each in self._outlets if each.sink is sink)
            self._outlets.remove(outlet)
            self._removed.append(sink)
        outlet.frames.close()
        if outlet.thread is not None:
            outlet.thread.join()

    def picture(self) -> Image | None:
        """The latest picture that is shown, of several sources side by side; None before the first."""
        pictures = [lane.last.image if lane.last else None for lane in self._lanes]
        shown = [picture for picture in pictures if picture is not None]
        return mosaic(pictures) if len(pictures) > 1 and shown else next(iter(shown), None)

    def summaries(self) -> tuple[str, ...]:
        """What each sink has made."""
        return tuple(sink.summary() for sink in (*(outlet.sink for outlet in self._outlets), *self._removed))

    def __iter__(self) -> Iterator[Frame]:
        """The results one by one, while the run goes on in a thread of its own; leaving the loop ends the run.

        Of live sources the newest result, of files each one.

        Raises:
            SourceError, ModelError, DeviceError, SinkError: as `run`.
        """
        handed_over = self._hand_over()
        runner = threading.Thread(target=self._run_quietly, daemon=True)
        runner.start()
        try:
            yield from handed_over.results
            runner.join()
            if self._failure is not None:
                raise self._failure
        finally:
            self.stop()
            handed_over.results.close(discard=True)
            runner.join()

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """As `for`, without blocking the event loop."""
        import asyncio

        frames = iter(self)
        try:
            while (frame := await asyncio.to_thread(next, frames, None)) is not None:
                yield frame
        finally:
            await asyncio.to_thread(frames.close)  # type: ignore[attr-defined]

    def _hand_over(self) -> _HandOver:
        if any(outlet.thread is None for outlet in self._outlets):
            raise UsageError("a window needs the main thread: use run(), or a loop without a window")
        sink = _HandOver(newest_wins=self._is_live)
        self._outlets.append(self._outlet(sink))
        return sink

    def _run_quietly(self) -> None:
        try:
            self.run()
        except BaseException as error:
            self._failure = self._failure or error
        finally:
            for outlet in self._outlets:
                outlet.sink.close()

    # -- threads ------------------------------------------------------------------------------------------------------

    def _start_sinks(self) -> None:
        try:
            for outlet in self._outlets:
                outlet.sink.attach(self.status, self.controls)
                outlet.sink.start(*self._infos)
        except BaseException:
            for outlet in self._outlets:
                outlet.sink.close()
            for source in self._sources:
                source.close()
            raise

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
            except SinkClosed:
                self.stop()
            except BaseException as error:
                self._fail(error)

        return threading.Thread(target=guarded, daemon=True)

    def _alive(self, inference: threading.Thread) -> list[threading.Thread]:
        with self._lock:
            threads = [inference, *(outlet.thread for outlet in self._outlets if outlet.thread)]
        return [thread for thread in threads if thread.is_alive()]

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._stop.set()

    def _carry_out_stop(self) -> None:
        """After `stop` nothing more is captured, and frames that wait for the model are dropped."""
        if self._stop.is_set():
            for stream in self._streams:
                stream.source.interrupt()
                self._stats.count("dropped", stream.inbox.close(discard=True))

    def _serve_or_wait(self, on_main: list[_Outlet], workers: list[threading.Thread]) -> None:
        """Spend a tick: on the sinks of the main thread, or waiting for a worker to end."""
        waiting = [outlet for outlet in on_main if not outlet.frames.is_finished]
        if not waiting and workers:
            workers[0].join(_TICK)
        for outlet in waiting:
            frame = outlet.frames.get(timeout=_TICK / len(waiting))
            try:
                if frame is None:
                    outlet.sink.idle()
                else:
                    self._write(outlet.sink, frame)
            except Exception as error:
                # Nothing more for a window that is closed: showing a frame would open it again.
                self._stats.count("not_written", outlet.frames.close(discard=True))
                if isinstance(error, SinkClosed):
                    self.stop()
                else:
                    self._fail(error)

    def _capture(self, stream: _Stream) -> None:
        began = time.monotonic()
        try:
            for number, frame in enumerate(stream.source):
                if self._options.keep_pace and not stream.source.info.is_live:
                    shown_at = _PICTURE_PERIOD * number if frame.timestamp is None else float(frame.timestamp)
                    self._stop.wait(began + shown_at - time.monotonic())
                    frame = replace(frame, captured_at=time.monotonic())
                if self._stop.is_set():
                    return
                self._stats.count("captured")
                self._stats.count("dropped", stream.inbox.put(frame))
                if self._options.strict and stream.source.skipped:
                    raise SourceError(stream.source.skipped[0])
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
            self._captures.finish()
            with self._lock:
                for outlet in self._outlets:
                    outlet.frames.close()

    def _wait_while_frozen(self) -> None:
        """A frozen file waits; a frozen live source goes on, and its frames are left out."""
        while self.controls.state().frozen and not self._is_live and not self._stop.is_set():
            self._stop.wait(_TICK)

    def _deliver(self, results: list[Frame]) -> None:
        with self._lock:
            outlets = list(self._outlets)
        everything = None
        if len(self._lanes) > 1 and any(outlet.sink.is_watched for outlet in outlets):
            everything = self._side_by_side(results[-1])
        for outlet in outlets:
            for frame in [everything] if everything and outlet.sink.is_watched else results:
                lost = outlet.frames.put(frame)
                # Who watches sees the newest; that is no loss.
                self._stats.count("not_written", 0 if outlet.sink.is_watched else lost)

    def _side_by_side(self, newest: Frame) -> Frame:
        lasts = [lane.last for lane in self._lanes]
        return replace(
            newest,
            image=mosaic([last.image if last else None for last in lasts]),
            before=mosaic([last.before if last else None for last in lasts]),
            after=mosaic([last.after if last else None for last in lasts]),
        )

    # -- sinks --------------------------------------------------------------------------------------------------------

    def _feed(self, outlet: _Outlet) -> None:
        sink = outlet.sink
        try:
            with sink:
                while not outlet.frames.is_finished:
                    frame = outlet.frames.get(timeout=_TICK)
                    if frame is None:
                        sink.idle()
                    else:
                        self._write(sink, frame)
        except SinkClosed:
            raise
        except BaseException as error:
            self._sink_failed(outlet, error)
        finally:
            self._stats.count("not_written", outlet.frames.close(discard=True))

    def _write(self, sink: Sink, frame: Frame) -> None:
        sink.write(frame)
        if frame.after is not None:  # no placeholder
            self._stats.written(frame.captured_at)

    def _sink_failed(self, outlet: _Outlet, error: BaseException) -> None:
        """One sink less: the end of the run, but for one that was added or where the others are to go on."""
        if outlet.on_failure is not None:
            outlet.on_failure(str(error))
            self._events.append(str(error))
            return
        others = [each for each in self._outlets if each is not outlet and not each.frames.is_finished]
        if self._options.keep_going and others:
            self._events.append(f"{error}; going on without it")
            self._failure = self._failure or error
            return
        self._fail(error)

    # -- watching -----------------------------------------------------------------------------------------------------

    def _watch_sources(self, seen: list[_Seen]) -> None:
        """Tell of sources that are lost and found, and show it to whoever watches."""
        for number, (stream, last) in enumerate(zip(self._streams, seen, strict=True)):
            health = _health(stream)
            if health.reconnects > last.reconnects and health.state == SourceState.LIVE:
                self._events.append(f"{health.name}: live again after {time.monotonic() - last.since:.1f} s")
            elif health.state != last.state and health.state not in (SourceState.LIVE, SourceState.ENDED):
                reason = f" ({health.message})" if health.message else ""
                self._events.append(f"{health.name}: {health.state.value}{reason}")
            if health.state != last.state:
                last.since = last.since if health.state == SourceState.LIVE else time.monotonic()
                if health.state in (SourceState.STALLED, SourceState.RECONNECTING, SourceState.LOST):
                    self._show_placeholder(self._lanes[number].last, health)
            last.state, last.reconnects = health.state, health.reconnects

    def _show_placeholder(self, last: Frame | None, health: SourceHealth) -> None:
        image = placeholder(last.image if last else None, f"{health.name}: {health.state.value}")
        frame = Frame(image=image, index=-1, captured_at=time.monotonic(), name="placeholder")
        with self._lock:
            # Of several sources the others go on in the same picture.
            outlets = [outlet for outlet in self._outlets if outlet.sink.is_watched and len(self._streams) == 1]
        for outlet in outlets:
            outlet.frames.put(frame)


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
