"""Makes a camera or stream survive: a watchdog beside the thread that reads it, and a new connection when one is lost.

States: opening, then live; a source that delivers nothing is stalled, one that ends or is asked again is reconnecting,
then live again; lost (given up, with an error) and ended (interrupted, or at an end that it has) are the last.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from i2i_runtime.channel import Channel
from i2i_runtime.errors import I2IError, SourceError, reason
from i2i_runtime.frame import Frame
from i2i_runtime.sources.base import (
    Source,
    SourceHealth,
    SourceRefusedError,
    SourceStalledError,
    SourceState,
    StreamInfo,
    file_stem,
    frame_name,
)

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0)
"""Seconds before the first, second, ... attempt to connect again; the last one from then on."""
_REFUSED_PAUSE = 10.0
"""Seconds before a source is asked again that refused: many lock out who asks too often."""
_JITTER = 0.2
"""Pauses vary by this share, so that twenty cameras behind one switch do not come back in step."""
_CLOSE_WITHIN = 5.0
"""Seconds that a stuck connection is given to end before it is left to itself."""
_MAX_ABANDONED = 3
"""Connections that may hang at once; more would fill the memory."""
_OPEN_GRACE = 1.0
"""Seconds over the open timeout in which a source may itself say that it timed out."""
_DAMAGE_OVER = 5.0
"""Seconds over which decode errors are counted against good frames."""
_GOOD_AFTER = 10.0
"""Seconds of frames after which a connection counts as good: one that breaks sooner is one more failed attempt, or a
camera that restarts all the time would use up no attempts and be asked without a pause."""
_POLL = 0.05


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """How stubborn a live source is."""

    reconnect: int | None = None
    """Attempts in a row to get a lost connection back before it is an error; None for ever, 0 never. One that breaks
    again within 10 s has failed too."""
    retry_at_start: bool = False
    """Whether a source that is not there at the start is waited for too."""
    open_timeout_s: float = 5.0
    """Seconds until a source must have answered."""
    stall_s: float = 5.0
    """Seconds without a frame after which an open source counts as stalled (two frame periods if that is longer)."""


class LiveSource(Source):
    """Any live source, connected again whenever it is lost.

    Each connection has a thread that opens, reads and closes it; it hands over a frame only when the one before has
    been taken. The thread that iterates keeps watch, so no decoder that hangs can hold it. Numbers go on over a new
    connection, and so do times: those of capture, since a camera's own clock may begin again. A source that turns out
    to be a file keeps its own times.
    """

    def __init__(self, open: Callable[[], Source], name: str, options: LiveOptions | None = None) -> None:
        """Connect for the first time.

        Args:
            open: makes one connection; called on a thread of its own.
            name: for messages, without a password.
            options: see there.

        Raises:
            SourceError: it is not there, and `retry_at_start` is not set.
        """
        self._open = open
        self._name = name
        self._options = options or LiveOptions()
        self._interrupted = threading.Event()
        self._connection: _Connection | None = None
        self._abandoned: list[threading.Thread] = []
        self._failure: SourceError | None = None
        self._message: str | None = None
        self._reconnects = 0
        self._noting = threading.Lock()
        self.skipped = []
        self.state = SourceState.OPENING
        self.info = StreamInfo(name=file_stem(name), is_live=True)
        try:
            self._connect()
        except SourceError as failure:
            # It may be open later all the same, and would then hold the device.
            self._give_up()
            if not self._options.retry_at_start or self._options.reconnect == 0:
                raise
            self._failure, self._message = failure, str(failure)

    def health(self) -> SourceHealth:
        """See `Source`."""
        connection = self._connection
        if connection:
            self._note_damage(connection)
        return SourceHealth(
            name=self.info.name,
            state=self.state,
            reconnects=self._reconnects,
            decode_errors=connection.decode_errors if connection else 0,
            message=self._message,
        )

    def interrupt(self) -> None:
        """See `Source`: the iteration ends at once, whatever the decoder is doing."""
        self._interrupted.set()
        self._give_up()

    def __iter__(self) -> Iterator[Frame]:
        """See `Source`.

        Raises:
            SourceError: it was lost and did not come back, or too many connections hang.
        """
        index, attempts, began = 0, 0, 0.0
        failure = self._failure
        try:
            if failure is not None:
                self._leave()
            while not self._interrupted.is_set():
                if failure is None:
                    connected = None
                    for frame in self._frames():
                        if not self.info.is_live:
                            yield frame
                            continue
                        began = frame.captured_at if index == 0 else began
                        connected = connected or frame.captured_at
                        if frame.captured_at - connected >= _GOOD_AFTER:
                            attempts = 0
                        yield replace(
                            frame,
                            index=index,
                            name=frame_name(self.info, index),
                            timestamp=Fraction(round((frame.captured_at - began) * 1_000_000), 1_000_000),
                        )
                        index += 1
                    failure = self._why_it_ended()
                    if failure is None or self._interrupted.is_set():
                        return
                    self._message = str(failure)
                    self._leave()
                if not self.info.is_live or attempts == self._options.reconnect:
                    raise self._given_up(failure, attempts)
                if self._interrupted.wait(_pause(attempts, failure)):
                    return
                attempts += 1
                failure = self._connect_again()
        except SourceError as error:
            self.state, self._message = SourceState.LOST, str(error)
            raise
        finally:
            if connection := self._connection:
                connection.give_up()
                self._note_damage(connection)
            if self.state is not SourceState.LOST:
                self.state = SourceState.ENDED

    def close(self) -> None:
        """See `Source`: what hangs in a decoder is left to end by itself, at the latest after its read timeout."""
        self.interrupt()
        if self._connection:
            self._connection.thread.join(4 * _POLL)

    def _give_up(self) -> None:
        if connection := self._connection:
            connection.give_up()

    def _connect(self) -> None:
        """Make a connection.

        Raises:
            SourceError: it fails or takes too long.
        """
        before = self._connection.decode_errors if self._connection else 0
        self._connection = connection = _Connection(self._open, before)
        if self._interrupted.is_set():
            connection.give_up()
        timeout = self._options.open_timeout_s
        if not connection.opened.wait(timeout + _OPEN_GRACE):
            raise SourceStalledError(f"{self._name}: no answer within {timeout:g} s")
        if connection.source is not None:
            self.info = connection.source.info
        elif connection.error is not None:
            raise self._as_source_error(connection.error)

    def _connect_again(self) -> SourceError | None:
        if self.state is not SourceState.OPENING:
            self.state = SourceState.RECONNECTING
        try:
            self._connect()
        except SourceError as failure:
            self._message = str(failure)
            self._leave()
            return failure
        return None

    def _frames(self) -> Iterator[Frame]:
        """What the connection delivers until it ends or stalls; sets the state."""
        connection = self._connection
        assert connection is not None
        patience = max(self._options.stall_s, 2 / float(self.info.fps or 1))
        good, errors_before, window_ends = 0, connection.decode_errors, time.monotonic() + _DAMAGE_OVER
        while (frame := connection.frames.get(patience)) is not None:
            if self.state is not SourceState.LIVE:
                self._reconnects += self.state is not SourceState.OPENING
                self.state = SourceState.LIVE
            yield frame
            good += 1
            if time.monotonic() >= window_ends:
                bad = connection.decode_errors - errors_before
                if bad > good:
                    connection.error = SourceStalledError(f"{self._name}: {bad} of {good + bad} frames are damaged")
                    break
                good, errors_before, window_ends = 0, connection.decode_errors, time.monotonic() + _DAMAGE_OVER
        else:
            if not connection.frames.is_finished:
                connection.error = SourceStalledError(f"{self._name}: no frame for {patience:g} s")
        is_stalled = isinstance(connection.error, SourceStalledError)
        if not self._interrupted.is_set() and self.info.is_live and self.state is not SourceState.OPENING:
            self.state = SourceState.STALLED if is_stalled else SourceState.RECONNECTING

    def _why_it_ended(self) -> SourceError | None:
        """None where the source has an end and has reached it."""
        assert self._connection is not None
        error = self._connection.error
        if error is None and self.info.is_live:
            # FFmpeg reports a dropped connection as a regular end of the stream.
            return SourceError(f"{self._name}: the connection was lost")
        return None if error is None else self._as_source_error(error)

    def _as_source_error(self, error: BaseException) -> SourceError:
        """What a library or a mistake raises costs one connection, not a run that shall go on for ever.

        Raises:
            I2IError: `error`, where it is one of ours that no new connection mends.
        """
        if isinstance(error, SourceError):
            return error
        if isinstance(error, I2IError) or not isinstance(error, Exception):
            raise error
        wrapped = SourceError(f"{self._name}: an unexpected {type(error).__name__} ({reason(error)})")
        wrapped.__cause__ = error
        return wrapped

    def _leave(self) -> None:
        """Give the connection up: wait for its thread, or abandon it.

        Raises:
            SourceError: too many hang already.
        """
        connection = self._connection
        assert connection is not None
        connection.give_up()
        deadline = time.monotonic() + _CLOSE_WITHIN
        while connection.thread.is_alive() and time.monotonic() < deadline and not self._interrupted.is_set():
            connection.thread.join(_POLL)
        self._note_damage(connection)
        self._abandoned = [thread for thread in (*self._abandoned, connection.thread) if thread.is_alive()]
        if len(self._abandoned) > _MAX_ABANDONED:
            raise SourceError(
                f"{self._name}: {len(self._abandoned)} connections hang and cannot be closed; restart the program, "
                "and the camera if that does not help"
            )

    def _note_damage(self, connection: _Connection) -> None:
        with self._noting:
            self.skipped += [line for line in connection.skipped if line not in self.skipped]

    def _given_up(self, failure: SourceError, attempts: int) -> SourceError:
        if attempts == 0:
            return failure
        return type(failure)(f"{failure}; given up after {attempts} attempt{'s' * (attempts > 1)} to connect again")


class _Connection:
    """One connection: a thread opens the source, hands its frames over and closes it."""

    def __init__(self, open: Callable[[], Source], decode_errors_before: int) -> None:
        self._open = open
        self._decode_errors_before = decode_errors_before
        self.source: Source | None = None
        self.error: BaseException | None = None
        self.opened = threading.Event()
        """The source is open, or has failed to."""
        self.frames = Channel[Frame](1, newest_wins=False)
        self.thread = threading.Thread(target=self._read, daemon=True, name="connection")
        self.thread.start()

    @property
    def decode_errors(self) -> int:
        """Of this connection and those before it."""
        return self._decode_errors_before + (self.source.health().decode_errors if self.source else 0)

    @property
    def skipped(self) -> list[str]:
        return list(self.source.skipped) if self.source else []

    def give_up(self) -> None:
        """End soon and wake whoever waits; from any thread."""
        self.opened.set()
        self.frames.close(discard=True)
        if self.source:
            self.source.interrupt()

    def _read(self) -> None:
        try:
            with self._open() as source:
                self.source = source
                self.opened.set()
                if self.frames.is_finished:
                    return
                for frame in source:
                    if self.frames.put(frame):
                        return
        except BaseException as error:
            self.error = self.error or error
        finally:
            self.opened.set()
            self.frames.close()


def _pause(attempts: int, failure: SourceError) -> float:
    """Seconds until the next attempt."""
    pause = _REFUSED_PAUSE if isinstance(failure, SourceRefusedError) else _PAUSES[min(attempts, len(_PAUSES) - 1)]
    return pause * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  (no secret)
