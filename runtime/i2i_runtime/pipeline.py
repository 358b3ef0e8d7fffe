"""Source -> translator -> sinks, each on a thread of its own, every frame accounted for.

A live source writes into a slot that holds the newest frame only, so that latency stays low when the model is slow;
a file waits, so that no frame is lost. A failure anywhere ends the run, after every sink has been finished.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from i2i_runtime.channel import Channel
from i2i_runtime.frame import Frame, Image
from i2i_runtime.sinks.base import Sink, SinkClosed
from i2i_runtime.sources.base import Source
from i2i_runtime.stats import Stats, Status

_FILE_QUEUE = 4
"""Decoded frames that may wait for the model."""
_TICK = 0.1
"""Seconds between two looks of the supervisor at the other threads."""
_ABANDON_AFTER = 2.0
"""Seconds that a blocked capture thread is given to end; decoders and drivers can hang for longer."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended."""

    status: Status
    skipped: tuple[str, ...]
    """One line for each picture or frame of the source that could not be decoded."""
    outputs: tuple[str, ...]
    """What each sink made."""
    stopped: bool
    """Whether the run was stopped before the source ended."""


class Pipeline:
    """Runs a source through a translator into any number of sinks.

    >>> source, translator = open_source("in.mp4"), Translator("facades.onnx")  # doctest: +SKIP
    >>> Pipeline(source, translator, [open_sink("out.mp4")]).run()  # doctest: +SKIP
    """

    def __init__(
        self,
        source: Source,
        translator: Callable[[Image], Image],
        sinks: Sequence[Sink],
        *,
        side_by_side: bool = False,
    ) -> None:
        """Put the parts together; `run` owns them from then on and closes the source and the sinks.

        Args:
            source: where frames come from.
            translator: (h, w, 3) uint8 BGR to the same; raises ModelError for a frame it cannot translate.
            sinks: where results go.
            side_by_side: give the sinks input and result beside each other, (h, 2 w, 3).
        """
        self._source = source
        self._translator = translator
        self._side_by_side = side_by_side
        self._stats = Stats()
        self._stop = threading.Event()
        self._was_stopped = False
        self._failure: BaseException | None = None
        is_live = source.info.is_live
        self._inbox = Channel[Frame](1 if is_live else _FILE_QUEUE, newest_wins=is_live)
        self._outlets = [
            (sink, Channel[Frame](sink.queue_length, newest_wins=is_live or sink.queue_length == 1)) for sink in sinks
        ]

    def status(self) -> Status:
        """The figures now, from any thread."""
        return self._stats.status()

    def stop(self) -> None:
        """End the run soon: what is translated is written, what waits is dropped. From any thread or signal handler."""
        self._was_stopped = True
        self._stop.set()

    def run(self, on_tick: Callable[[Status], None] | None = None) -> Result:
        """Run until the source ends, `stop` is called or something fails.

        Args:
            on_tick: called about ten times a second on the calling thread.

        Raises:
            SourceError, ModelError, SinkError: what failed, after all sinks were finished.
        """
        on_main = [(sink, outlet) for sink, outlet in self._outlets if sink.needs_main_thread]
        capture = self._thread(self._capture)
        workers = [self._thread(self._infer)]
        workers += [
            self._thread(partial(self._feed, sink, outlet))
            for sink, outlet in self._outlets
            if not sink.needs_main_thread
        ]
        self._start_sinks()
        for thread in (capture, *workers):
            thread.start()
        try:
            next_tick = 0.0
            while any(w.is_alive() for w in workers) or not all(outlet.is_finished for _, outlet in on_main):
                self._carry_out_stop()
                self._serve_or_wait(on_main, workers)
                if on_tick and time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + _TICK
                    on_tick(self.status())
        except BaseException:
            # A second Ctrl-C, or a callback that raised: end everything all the same.
            self.stop()
            self._carry_out_stop()
            for worker in workers:
                worker.join(_ABANDON_AFTER)
            raise
        finally:
            for sink, _ in on_main:
                try:
                    sink.close()
                except Exception as error:
                    self._fail(error)
            capture.join(_ABANDON_AFTER)
            if not capture.is_alive():
                self._source.close()
        if self._failure is not None:
            raise self._failure
        return Result(
            status=self.status(),
            skipped=tuple(self._source.skipped),
            outputs=tuple(sink.summary() for sink, _ in self._outlets),
            stopped=self._was_stopped,
        )

    def _start_sinks(self) -> None:
        try:
            for sink, _ in self._outlets:
                sink.start(self._source.info)
        except BaseException:
            for sink, _ in self._outlets:
                sink.close()
            self._source.close()
            raise

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except SinkClosed:
                self.stop()
            except BaseException as error:
                self._fail(error)

        return threading.Thread(target=guarded, daemon=True)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._stop.set()

    def _carry_out_stop(self) -> None:
        """After `stop` nothing more is captured, and frames that wait for the model are dropped."""
        if self._stop.is_set():
            self._stats.count("dropped", self._inbox.close(discard=True))

    def _serve_or_wait(self, on_main: list[tuple[Sink, Channel[Frame]]], workers: list[threading.Thread]) -> None:
        """Spend a tick: on the sinks of the main thread, or waiting for a worker to end."""
        waiting = [(sink, outlet) for sink, outlet in on_main if not outlet.is_finished]
        if not waiting:
            alive = next((w for w in workers if w.is_alive()), workers[0])
            alive.join(_TICK)
        for sink, outlet in waiting:
            frame = outlet.get(timeout=_TICK / len(waiting))
            if frame is None:
                continue
            try:
                sink.write(frame)
                self._stats.written(frame.captured_at)
            except Exception as error:
                # Nothing more for a window that is closed: showing a frame would open it again.
                self._stats.count("not_written", outlet.close(discard=True))
                if isinstance(error, SinkClosed):
                    self.stop()
                else:
                    self._fail(error)

    def _capture(self) -> None:
        try:
            for frame in self._source:
                if self._stop.is_set():
                    return
                self._stats.count("captured")
                self._stats.count("dropped", self._inbox.put(frame))
        except BaseException as error:
            # What was captured before the source failed is good: no stop, it is translated and written.
            self._failure = self._failure or error
        finally:
            self._inbox.close()

    def _infer(self) -> None:
        try:
            for frame in self._inbox:
                began = time.monotonic()
                try:
                    image = self._translator(frame.image)
                except BaseException:
                    self._stats.count("failed")
                    raise
                self._stats.translated(time.monotonic() - began)
                if self._side_by_side:
                    image = np.hstack((frame.image, image))
                result = replace(frame, image=image)
                for _, outlet in self._outlets:
                    self._stats.count("not_written", outlet.put(result))
        finally:
            self._stats.count("dropped", self._inbox.close(discard=True))
            for _, outlet in self._outlets:
                outlet.close()

    def _feed(self, sink: Sink, outlet: Channel[Frame]) -> None:
        try:
            with sink:
                for frame in outlet:
                    sink.write(frame)
                    self._stats.written(frame.captured_at)
        finally:
            self._stats.count("not_written", outlet.close(discard=True))
