"""The way from results to sinks: a queue and a worker for each, so that one of them never holds up the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from i2i_runtime.channel import Channel
from i2i_runtime.controls import Controls
from i2i_runtime.errors import SinkError
from i2i_runtime.frame import Frame
from i2i_runtime.sinks.base import Sink, SinkClosed
from i2i_runtime.sources.base import StreamInfo
from i2i_runtime.stats import Stats, Status

_TICK = 0.1
"""Seconds between two calls of `Sink.idle` while no frame comes."""
_FINISH_WITHIN = 10.0
"""Seconds that a sink which is removed is waited for; a dead network disk must not end the run's work."""


@dataclass
class _Outlet:
    """The way to one sink."""

    sink: Sink
    frames: Channel[Frame]
    thread: threading.Thread | None = None
    """None for a sink of the main thread."""
    on_failure: Callable[[str], None] | None = None
    """Told of a failure that shall not end the run."""


class Outlets:
    """All sinks of a run.

    `deliver`, `show` and `close` are called by the inference thread, `serve_main_thread` by the main thread, the others
    by any.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        stats: Stats,
        *,
        newest_wins: bool,
        keep_going: bool,
        stop: Callable[[], None],
        fail: Callable[[BaseException], None],
        say: Callable[[str], None],
    ) -> None:
        """Make the queues.

        Args:
            sinks: where results go.
            stats: told what is written, and what is not.
            newest_wins: a full queue throws its oldest frame away instead of waiting.
            keep_going: go on with the other sinks when one fails.
            stop: ends the run well: somebody closed a window.
            fail: ends the run after a failure; called once the others are to go on too, if `keep_going`.
            say: told in a line of what does not end the run.
        """
        self._stats = stats
        self._newest_wins = newest_wins
        self._keep_going = keep_going
        self._stop = stop
        self._fail = fail
        self._say = say
        self._lock = threading.Lock()
        self._outlets = [self._outlet(sink) for sink in sinks]
        self._gone: list[Sink] = []
        """Sinks that failed or were removed."""
        self._takes_more = False
        self.kept_failure: BaseException | None = None
        """The first failure of a sink that the others went on without."""

    def _outlet(self, sink: Sink, on_failure: Callable[[str], None] | None = None) -> _Outlet:
        frames = Channel[Frame](sink.queue_length, newest_wins=self._newest_wins or sink.queue_length == 1)
        outlet = _Outlet(sink=sink, frames=frames, on_failure=on_failure)
        if not sink.needs_main_thread:
            outlet.thread = threading.Thread(target=self._feed, args=(outlet,), daemon=True)
        return outlet

    def start(self, status: Callable[[], Status], controls: Controls, infos: Sequence[StreamInfo]) -> None:
        """Start every sink and its worker.

        Raises:
            SinkError: one cannot take such a stream; all are closed.
        """
        try:
            for outlet in self._outlets:
                outlet.sink.attach(status, controls)
                outlet.sink.start(*infos)
        except BaseException:
            for outlet in self._outlets:
                outlet.sink.close()
            raise
        for outlet in self._outlets:
            if outlet.thread is not None:
                outlet.thread.start()
        with self._lock:
            self._takes_more = True

    def add(self, sink: Sink, on_failure: Callable[[str], None] | None = None) -> None:
        """One more sink, which is started already; its failure does not end the run, if somebody is told of it.

        Raises:
            SinkError: the run is over.
        """
        outlet = self._outlet(sink, on_failure)
        with self._lock:
            if on_failure is not None and not self._takes_more:
                raise SinkError("nothing can be recorded: the run has not begun or is over")
            self._outlets.append(outlet)
            if on_failure is not None and outlet.thread is not None:
                outlet.thread.start()

    def remove(self, sink: Sink) -> None:
        """Finish a sink that was added, and wait until what it was given is written, but not for ever."""
        with self._lock:
            found = [each for each in self._outlets if each.sink is sink]
            for outlet in found:
                self._retire(outlet)
        for outlet in found:
            outlet.frames.close()
            if outlet.thread is not None:
                outlet.thread.join(_FINISH_WITHIN)

    def take_no_more(self) -> None:
        """No sink can be added from now on."""
        with self._lock:
            self._takes_more = False

    def close(self) -> None:
        """No result comes any more: each sink finishes what it was given."""
        self.take_no_more()
        for outlet in self._all():
            outlet.frames.close()

    def deliver(self, results: Sequence[Frame], watched: Frame | None) -> None:
        """Give results to all; `watched`, if there is one, to those that are watched instead."""
        for outlet in self._all():
            for frame in [watched] if watched and outlet.sink.is_watched else results:
                lost = outlet.frames.put(frame)
                # Who watches sees the newest; that is no loss.
                self._stats.count("not_written", 0 if outlet.sink.is_watched else lost)

    def show(self, frame: Frame) -> None:
        """Give a frame that is no result to those that are watched."""
        for outlet in self._all():
            if outlet.sink.is_watched:
                outlet.frames.put(frame)

    @property
    def any_is_watched(self) -> bool:
        """Whether somebody looks."""
        return any(outlet.sink.is_watched for outlet in self._all())

    @property
    def need_main_thread(self) -> bool:
        """Whether one of them does."""
        return any(outlet.thread is None for outlet in self._all())

    def serve_main_thread(self) -> bool:
        """Spend a tick on the sinks of the main thread; False if there is none that still takes frames."""
        waiting = [each for each in self._all() if each.thread is None and not each.frames.is_finished]
        for outlet in waiting:
            try:
                self._serve(outlet, _TICK / len(waiting))
            except Exception as error:
                # Nothing more for a window that is closed: showing a frame would open it again.
                self._stats.count("not_written", outlet.frames.close(discard=True))
                self._ended_by(outlet, error)
        return bool(waiting)

    def working(self) -> dict[threading.Thread, Sink]:
        """The workers that still work, each with its sink."""
        return {each.thread: each.sink for each in self._all() if each.thread is not None and each.thread.is_alive()}

    def close_on_main_thread(self) -> None:
        """Close the sinks of the main thread; the others were closed by their workers."""
        for outlet in self._all():
            if outlet.thread is None:
                try:
                    outlet.sink.close()
                except Exception as error:
                    self._fail(error)

    def summaries(self) -> tuple[str, ...]:
        """What each sink has made."""
        return tuple(sink.summary() for sink in (*(each.sink for each in self._all()), *self._gone))

    def _all(self) -> list[_Outlet]:
        with self._lock:
            return list(self._outlets)

    def _retire(self, outlet: _Outlet) -> None:
        self._outlets.remove(outlet)
        self._gone.append(outlet.sink)

    def _feed(self, outlet: _Outlet) -> None:
        try:
            with outlet.sink:
                while not outlet.frames.is_finished:
                    self._serve(outlet, _TICK)
        except BaseException as error:
            self._ended_by(outlet, error)
        finally:
            self._stats.count("not_written", outlet.frames.close(discard=True))

    def _serve(self, outlet: _Outlet, timeout: float) -> None:
        frame = outlet.frames.get(timeout)
        if frame is None:
            outlet.sink.idle()
            return
        outlet.sink.write(frame)
        if frame.after is not None:  # a result, and no placeholder
            self._stats.written(frame.captured_at)

    def _ended_by(self, outlet: _Outlet, error: BaseException) -> None:
        """One sink less: the end of the run, but for one that was added or where the others are to go on."""
        if isinstance(error, SinkClosed):
            self._stop()
            return
        others_go_on = [each for each in self._all() if each is not outlet and not each.frames.is_finished]
        if outlet.on_failure is not None:
            outlet.on_failure(str(error))
            self._say(str(error))
        elif self._keep_going and others_go_on:
            self.kept_failure = self.kept_failure or error
            self._say(f"{error}; going on without it")
        else:
            self._fail(error)
            return
        with self._lock:
            if outlet in self._outlets:
                self._retire(outlet)
