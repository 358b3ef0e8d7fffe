"""Recordings and snapshots that a person takes while a pipeline runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from i2i_runtime.controls import Controls
from i2i_runtime.errors import I2IError
from i2i_runtime.frame import Image
from i2i_runtime.image import make_folder, write_image
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sinks.open import open_sink


class Stage(Protocol):
    """What is recorded: a running pipeline."""

    controls: Controls

    def picture(self) -> Image | None:
        """The latest picture that is shown; None before the first."""

    def add_sink(self, sink: Sink, on_failure: Callable[[str], None]) -> None:
        """Begin to write to a sink."""

    def remove_sink(self, sink: Sink) -> None:
        """Finish a sink."""


@dataclass
class _Recording:
    sink: Sink
    failure: str | None = None


class Captures:
    """Carries out `record` and `snapshot`; a failure is told to the controls and costs the run nothing."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self._stage = stage
        self._folder = folder
        self._lock = threading.Lock()
        self._recording: _Recording | None = None
        stage.controls.on("record", lambda value: self._toggle())
        stage.controls.on("snapshot", lambda value: self._snapshot())

    def finish(self) -> None:
        """End a recording that is going on; its file is whole afterwards."""
        with self._lock:
            if self._recording is not None:
                self._end(self._recording)

    def _toggle(self) -> None:
        with self._lock:
            if self._recording is not None and self._recording.failure is None:
                self._end(self._recording)
                return
            path = self._new_path(".mp4")
            try:
                make_folder(path.parent)
                recording = _Recording(open_sink(path))
                # Told before it begins: its worker may fail at once.
                self._stage.controls.update(recording=str(path), message=f"recording {path}")
                self._recording = recording
                self._stage.add_sink(recording.sink, partial(self._failed, recording))
            except I2IError as error:
                self._recording = None
                self._stage.controls.update(recording=None, message=str(error))

    def _end(self, recording: _Recording) -> None:
        self._recording = None
        self._stage.remove_sink(recording.sink)
        self._stage.controls.update(recording=None, message=recording.failure or f"recorded {recording.sink.summary()}")

    def _failed(self, recording: _Recording, message: str) -> None:
        # On the sink's worker, for which `_end` may be waiting: without the lock.
        recording.failure = message
        self._stage.controls.update(recording=None, message=message)

    def _snapshot(self) -> None:
        image = self._stage.picture()
        if image is None:
            self._stage.controls.update(message="snapshot: no picture yet")
            return
        path = self._new_path(".png")
        try:
            make_folder(path.parent)
            write_image(path, image)
            self._stage.controls.update(message=f"saved {path}")
        except I2IError as error:
            self._stage.controls.update(message=str(error))

    def _new_path(self, suffix: str) -> Path:
        return self._folder / f"{datetime.now():%Y%m%d-%H%M%S-%f}{suffix}"
