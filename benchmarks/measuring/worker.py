"""A contestant in a process of its own: the threads of a library go on spinning and would slow the others down."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from i2i_runtime.closing import Closing
from i2i_runtime.errors import I2IError, reason
from measuring.contestants import Array, Contestant, Running
from measuring.memory import peak_memory_mib
from measuring.spread import is_stable

_WINDOW_S = 0.5
"""Runs of about so long are looked at together, to see whether the time is stable."""
_WINDOWS = (2, 50)
"""Runs of the shortest and of the longest window: no trend would stand out of three runs."""
_COLD_BELOW_S = 0.25
"""A run that takes longer hardly feels that caches, clocks and sleeping threads have cooled down."""


class ContestantError(Exception):
    """A contestant cannot go on; its text is one line for a person."""


class Opened(NamedTuple):
    """What starting a contestant took."""

    provider: str
    load_s: float
    """Importing its library, reading and compiling the model."""
    first_s: float
    """The first run."""


class WarmUp(NamedTuple):
    """How the runs after the first one went."""

    runs: int
    is_stable: bool
    run_s: float
    """About what a run takes."""


class Worker(Closing):
    """The parent's handle. One call at a time; a call waits for its answer."""

    def __init__(self, contestant: Contestant) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, contestant), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Of the process, for what the system says of it."""
        assert self._process.pid is not None
        return self._process.pid

    def open(self) -> Opened:
        """Load the contestant and run it once."""
        return Opened(*self._call("open"))

    def warm_up(self, longest_s: float) -> WarmUp:
        """Run until the time a run takes is stable, or so many seconds have passed."""
        return WarmUp(*self._call("warm_up", longest_s))

    def turn(self, seconds: float, runs: int) -> tuple[float, ...]:
        """Run at least so long and so often; seconds of each run."""
        return tuple(self._call("turn", seconds, runs))

    def answer(self, inputs: Sequence[Array]) -> Array:
        """See `Running.answer`."""
        answer: Array = self._call("answer", inputs)
        return answer

    def memory_mib(self) -> float | None:
        """Most resident memory so far."""
        found: float | None = self._call("memory")
        return found

    def close(self) -> None:
        """See `Closing`: at once, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _call(self, what: str, *arguments: object) -> Any:
        """Have one thing done.

        Raises:
            ContestantError: it failed, or its process died.
        """
        try:
            self._connection.send((what, arguments))
            is_done, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise ContestantError(_death(self._process.exitcode)) from error
        if not is_done:
            raise ContestantError(answer)
        return answer


_CONTEXT = multiprocessing.get_context("spawn")
"""A forked process would have the parent's libraries loaded already."""


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with {exit_code}"


def _serve(connection: Connection, contestant: Contestant) -> None:
    """Answer calls until the parent is gone."""
    # Ctrl-C is the parent's to handle; it ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print would stand in the middle of the parent's progress.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    served = _Served(contestant)
    with contextlib.suppress(EOFError):
        while True:
            what, arguments = connection.recv()
            try:
                connection.send((True, getattr(served, what)(*arguments)))
            except I2IError as error:
                connection.send((False, str(error)))
            except Exception as error:  # Any library may raise anything; the others go on.
                connection.send((False, f"{type(error).__name__}: {reason(error)}"))


class _Served:
    """The contestant's side."""

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant
        self._running: Running | None = None
        self._quickest = math.inf
        """Seconds of the quickest run while warming up."""

    def open(self) -> Opened:
        began = time.perf_counter()
        running = self._running = self._contestant.open()
        loaded = time.perf_counter()
        running.run()
        return Opened(running.provider, loaded - began, time.perf_counter() - loaded)

    def warm_up(self, longest_s: float) -> WarmUp:
        running = self._loaded()
        seconds: list[float] = []
        window = _WINDOWS[0]
        end = time.perf_counter() + longest_s
        while time.perf_counter() < end or not seconds:
            seconds.append(_timed(running))
            self._quickest = min(self._quickest, seconds[-1])
            window = max(_WINDOWS[0], min(_WINDOWS[1], round(_WINDOW_S / self._quickest)))
            if is_stable(seconds, window):
                return WarmUp(len(seconds), True, statistics.median(seconds[-window:]))
        return WarmUp(len(seconds), False, statistics.median(seconds[-window:]))

    def turn(self, seconds: float, runs: int) -> list[float]:
        running = self._loaded()
        if self._quickest < _COLD_BELOW_S:
            running.run()
        found: list[float] = []
        end = time.perf_counter() + seconds
        while len(found) < runs or time.perf_counter() < end:
            found.append(_timed(running))
        return found

    def answer(self, inputs: Sequence[Array]) -> Array:
        return self._loaded().answer(inputs)

    def memory(self) -> float | None:
        return peak_memory_mib()

    def _loaded(self) -> Running:
        assert self._running is not None
        return self._running


def _timed(running: Running) -> float:
    began = time.perf_counter()
    running.run()
    return time.perf_counter() - began
