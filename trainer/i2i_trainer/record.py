"""What a training leaves for people: metrics.jsonl, sample pictures, progress on the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from i2i_runtime.errors import SinkError, UsageError
from i2i_runtime.frame import Image
from i2i_runtime.image import make_folder, write_image
from i2i_trainer.gallery import gallery

if TYPE_CHECKING:
    from typing_extensions import Self

_PLAIN_EVERY = 10.0
"""Seconds between two progress lines where there is no terminal."""


class Recorder:
    """Writes into the folder of a run and shows how it goes."""

    def __init__(
        self, run: Path, first_step: int, last_step: int, *, tensorboard: bool = False, silent: bool = False
    ) -> None:
        """Open the run's folder; metrics beyond `first_step`, left by a run that was killed, are dropped.

        Args:
            run: the folder.
            first_step: steps that are done already.
            last_step: steps in all.
            tensorboard: write TensorBoard events as well.
            silent: write and print nothing: one of several processes speaks for all.

        Raises:
            SinkError: the folder cannot be written.
            UsageError: TensorBoard is not installed.
        """
        self.run, self._silent = run, silent
        self._metrics = run / "metrics.jsonl"
        self._events = None
        if not silent:
            make_folder(run / "samples")
            _drop_after(self._metrics, first_step)
            self._events = _events(run / "tensorboard", first_step) if tensorboard else None
        self._last_step = last_step
        self._console = Console(stderr=True, quiet=silent)
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=silent or not self._console.is_terminal,
        )
        self._task = self._progress.add_task("train", total=last_step, completed=first_step, line="")
        self._first_step = first_step
        self._began = self._said_at = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._events is not None:
            try:
                self._events.close()
            except OSError as failure:
                if error is None:  # else that one is the news
                    raise _cannot_write(self.run / "tensorboard", failure) from failure

    def say(self, line: str) -> None:
        """Print a line, above the progress bar where there is one."""
        self._progress.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        if self._silent:
            return
        try:
            with self._metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            if self._events is not None:
                for name, value in values.items():
                    if not isinstance(value, str):
                        self._events.add_scalar(name, value, step)
        except OSError as error:
            raise _cannot_write(self._metrics, error) from error

    def write(self, name: str, text: str) -> None:
        """Write a small text file into the run's folder: beside its place, then moved there."""
        if not self._silent:
            replace_text(self.run / name, text)

    def progress(self, step: int, losses: Mapping[str, float], images_per_s: float) -> None:
        """Show the step, its losses and the speed."""
        line = "  ".join(f"{name} {value:.3f}" for name, value in losses.items()) + f"  {images_per_s:.1f} img/s"
        self._progress.update(self._task, completed=step, line=line)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said_at >= _PLAIN_EVERY:
            self._said_at = now
            remaining = (now - self._began) / max(1, step - self._first_step) * (self._last_step - step)
            self.say(f"step {step}/{self._last_step}  {line}  ETA {remaining / 60:.0f} min")

    def sample(self, step: int, rows: Sequence[Sequence[Image]], titles: Sequence[str]) -> None:
        """Write a grid of pictures, one row an example, and the page that shows the run so far."""
        if self._silent:
            return
        sheet = grid(rows, titles)
        write_image(self.run / "samples" / f"step_{step:07d}.png", sheet)
        replace_text(self.run / "index.html", gallery(self.run))
        if self._events is not None:
            try:
                self._events.add_image("samples", sheet[:, :, ::-1].copy(), step, dataformats="HWC")
            except OSError as error:
                raise _cannot_write(self.run / "tensorboard", error) from error


def grid(rows: Sequence[Sequence[Image]], titles: Sequence[str], gap: int = 4) -> Image:
    """Pictures of one size in rows and columns on white, with a title over each column."""
    height, width = rows[0][0].shape[:2]
    header = 24
    sheet = np.full((header + len(rows) * (height + gap), len(titles) * (width + gap) - gap, 3), 255, np.uint8)
    for column, title in enumerate(titles):
        left = column * (width + gap)
        cv2.putText(sheet, title, (left + 4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
        for number, row in enumerate(rows):
            top = header + number * (height + gap)
            sheet[top : top + height, left : left + width] = row[column]
    return sheet


def _drop_after(metrics: Path, step: int) -> None:
    """Keep only whole lines up to `step`."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # half a line: the process was killed while it wrote it
    replace_text(metrics, "".join(kept))


def _events(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("--tensorboard: needs TensorBoard; pip install 'i2i[tensorboard]'") from error
    try:
        # A resumed training hides events beyond the step it goes on from: TensorBoard purges from `purge_step` on.
        return SummaryWriter(str(folder), purge_step=first_step + 1)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(path: Path, error: OSError) -> SinkError:
    return SinkError(f"{path}: cannot be written ({error.strerror})")


def replace_text(path: Path, text: str) -> None:
    """Write a text file beside its place, then move it there.

    Raises:
        SinkError: the disk refuses.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
