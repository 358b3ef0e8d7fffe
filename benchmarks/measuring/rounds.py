"""Contestants take turns, so that what else the machine does slows all of them alike.

In each round each contestant has its turn, in short parts that are mixed with those of the others: a neighbour on the
same machine slows it by 15 % for a second or so at a time, and a figure is compared with what had the same luck. All
are started several times, since a process keeps its luck, such as where its memory lies, for as long as it lives
(Kalibera and Jones 2013, Rigorous Benchmarking in Reasonable Time).
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from measuring.contestants import Array, Contestant
from measuring.record import Readings, Turn
from measuring.sensors import Sensors, Window
from measuring.worker import ContestantError, Worker

OnProgress = Callable[[str, float], None]
"""Is told what goes on, and the share of all the work that is done, 0 to 1."""
_PART_S = 0.15
"""Of a turn, where it is not longer for its runs."""
Questions = Sequence[Sequence[Array]]
"""Inputs that a contestant is to answer."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long it all takes."""

    starts: int = 3
    """Processes of each contestant, one after the other."""
    rounds: int = 9
    """Over all starts."""
    seconds: float = 1.0
    """Of a turn, at least, over all its parts."""
    runs: int = 2
    """In a part of a turn, at least."""
    warm_up_s: float = 10.0
    """At most, for a contestant whose time does not become stable."""
    rest_s: float = 0.05
    """Before a part of a turn: threads of the one before go on spinning for a while."""

    def parts(self, run_s: float) -> int:
        """How many parts the turn of a contestant that takes so long is split into."""
        shortest = max(_PART_S, self.runs * run_s)
        return max(1, int(self.seconds / shortest))

    def rounds_of(self, start: int) -> range:
        """Numbers of the rounds of a start; the first starts have one more where they cannot be shared out evenly."""
        bounds = [round(index * self.rounds / self.starts) for index in range(self.starts + 1)]
        return range(bounds[start], bounds[start + 1])


@dataclass
class Measured:
    """What came of a contestant."""

    load_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    warm_up_runs: list[int] = field(default_factory=list)
    is_stable: bool = True
    turns: list[Turn] = field(default_factory=list)
    host_mibs: list[float] = field(default_factory=list)
    device_mibs: list[float] = field(default_factory=list)
    readings: Readings = field(default_factory=Readings)
    answers: list[Array] = field(default_factory=list)
    failure: str | None = None

    @property
    def host_mib(self) -> float | None:
        """Median over the starts of the most resident memory."""
        return statistics.median(self.host_mibs) if self.host_mibs else None

    @property
    def device_mib(self) -> float | None:
        """Median over the starts of the GPU memory after the last round."""
        return statistics.median(self.device_mibs) if self.device_mibs else None


def measure(
    contestants: Sequence[Contestant],
    pace: Pace,
    *,
    sensors: Mapping[str, Sensors] | None = None,
    questions: Mapping[str, Questions] | None = None,
    on_progress: OnProgress = lambda what, share: None,
) -> dict[str, Measured]:
    """Start all contestants and let them take turns.

    Args:
        contestants: of different names.
        pace: how often and how long.
        sensors: by device, what is read while a contestant of that device has its turn.
        questions: by name, inputs to be answered once, in the first start.
        on_progress: is told how far it has come.

    Returns:
        What came of each, by name. One that fails has a `failure`, and the others go on.
    """
    found = {contestant.name: Measured() for contestant in contestants}
    windows: dict[str, Window] = {
        contestant.name: sensors[contestant.device].window()
        for contestant in contestants
        if sensors is not None and contestant.device in sensors
    }
    random = np.random.default_rng(0)
    step = _Steps(on_progress, (pace.starts + pace.rounds) * len(contestants))
    for start in range(pace.starts):
        with contextlib.ExitStack() as stack:
            workers: dict[str, Worker] = {}
            parts: dict[str, int] = {}
            for contestant in contestants:
                name, measured = contestant.name, found[contestant.name]
                step.took(f"start {start + 1} of {pace.starts}: {name}")
                if measured.failure is not None:
                    continue
                workers[name] = worker = stack.enter_context(Worker(contestant))
                asked = (questions or {}).get(name, ()) if start == 0 else ()
                seen = sensors.get(contestant.device) if sensors is not None else None
                loading = seen.loading(worker.pid) if seen is not None else contextlib.nullcontext()
                with _failing(measured, worker), loading:
                    parts[name] = pace.parts(_start(worker, pace, measured, asked))
            for number in pace.rounds_of(start):
                runs: dict[str, list[float]] = defaultdict(list)
                for name in _mixed(parts, random):
                    step.took(f"round {number + 1} of {pace.rounds}: {name}", 1 / parts[name])
                    measured = found[name]
                    if measured.failure is not None:
                        continue
                    time.sleep(pace.rest_s)
                    with _failing(measured, workers[name]), windows.get(name, contextlib.nullcontext()):
                        runs[name] += workers[name].turn(pace.seconds / parts[name], pace.runs)
                for name, seconds in runs.items():
                    found[name].turns.append(Turn(start=start, round=number, seconds=tuple(seconds)))
            for contestant in contestants:
                if found[contestant.name].failure is None:
                    seen = sensors.get(contestant.device) if sensors is not None else None
                    _note_memory(workers[contestant.name], found[contestant.name], seen)
    for name, window in windows.items():
        found[name].readings = window.readings()
    return found


def _mixed(parts: Mapping[str, int], random: np.random.Generator) -> list[str]:
    """Each name as often as it has parts, spread over the whole round and in an order drawn anew."""
    places = [((part + random.random()) / count, name) for name, count in parts.items() for part in range(count)]
    return [name for _, name in sorted(places)]


def _start(worker: Worker, pace: Pace, measured: Measured, questions: Questions) -> float:
    """Load, warm up, ask; returns about how many seconds a run takes."""
    opened = worker.open()
    measured.load_s.append(opened.load_s)
    measured.first_s.append(opened.first_s)
    warm_up = worker.warm_up(pace.warm_up_s)
    measured.warm_up_runs.append(warm_up.runs)
    measured.is_stable &= warm_up.is_stable
    measured.answers += [worker.answer(inputs) for inputs in questions]
    return warm_up.run_s


def _note_memory(worker: Worker, measured: Measured, sensors: Sensors | None) -> None:
    with _failing(measured, worker):
        if (host := worker.memory_mib()) is not None:
            measured.host_mibs.append(host)
    if sensors is not None and (device := sensors.device_memory_mib(worker.pid)) is not None:
        measured.device_mibs.append(device)


@contextlib.contextmanager
def _failing(measured: Measured, worker: Worker) -> Iterator[None]:
    """Notes a failure instead of raising it, and ends the process: the others may need its memory."""
    try:
        yield
    except ContestantError as error:
        measured.failure = str(error)
        worker.close()


class _Steps:
    """Counts what has been done."""

    def __init__(self, on_progress: OnProgress, steps: int) -> None:
        self._on_progress, self._steps, self._done = on_progress, steps, 0.0

    def took(self, what: str, steps: float = 1) -> None:
        self._on_progress(what, min(1.0, self._done / self._steps))
        self._done += steps
