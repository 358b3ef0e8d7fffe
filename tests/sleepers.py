"""Contestants whose time is known: they sleep. Importable by name, since the processes that run them import them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from i2i_runtime.errors import ModelError
from measuring.contestants import Array, Contestant, Running
from measuring.model_contestants import EngineContestant


@dataclass(frozen=True, kw_only=True)
class Sleeper(Contestant):
    seconds: float = 0.002
    load_s: float = 0.0
    first_s: float = 0.0
    refuses: bool = False
    dies_at: int | None = None
    """Kills its own process in that run."""
    log: Path | None = None
    """Where the time of each run is noted."""

    def open(self) -> Running:
        if self.refuses:
            raise ModelError(f"{self.name}: expected a model, found a pillow")
        time.sleep(self.load_s)
        return _Sleeping(self)


class _Sleeping(Running):
    provider = "a bed"

    def __init__(self, sleeper: Sleeper) -> None:
        self._sleeper = sleeper
        self._runs = 0

    def run(self) -> None:
        if self._runs == self._sleeper.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._sleeper.log is not None:
            with self._sleeper.log.open("a") as file:
                file.write(f"{time.monotonic()}\n")
        time.sleep(self._sleeper.seconds + (self._sleeper.first_s if self._runs == 0 else 0.0))
        self._runs += 1

    def answer(self, inputs: Sequence[Array]) -> Array:
        return np.array([os.getpid(), *inputs[0]])


@dataclass(frozen=True, kw_only=True)
class SlowedEngine(EngineContestant):
    """An engine that sleeps after each run."""

    sleep_s: float

    def open(self) -> Running:
        return _Slowed(super().open(), self.sleep_s)


class _Slowed(Running):
    def __init__(self, running: Running, sleep_s: float) -> None:
        self._running, self._sleep_s, self.provider = running, sleep_s, running.provider

    def run(self) -> None:
        self._running.run()
        time.sleep(self._sleep_s)

    def answer(self, inputs: Sequence[Array]) -> Array:
        return self._running.answer(inputs)
