"""Frames in, results out: which of them reach the model, in what batches, and what becomes of bad ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from i2i_runtime.controls import Controls, View
from i2i_runtime.errors import BadOutputError
from i2i_runtime.frame import Frame, Image
from i2i_runtime.selection import Selection, Verdict
from i2i_runtime.stabilize import Stabilizer
from i2i_runtime.stats import Stats
from i2i_runtime.view import compose, placeholder

_SAY_AGAIN_AFTER = 1.0
"""Seconds between two lines about frames without a result."""


@dataclass
class Lane:
    """What is remembered of one source from frame to frame."""

    selection: Selection
    stabilizer: Stabilizer | None = None
    last: Frame | None = None
    """Its latest result."""
    notice: str | None = None
    """What who watches should know: the source is lost. Set by the supervising thread."""

    def picture(self) -> Image | None:
        """What is shown of it now; None before its first result."""
        return self.noted(self.last.image if self.last else None)

    def noted(self, picture: Image | None) -> Image | None:
        """A picture of it with its notice, if there is one."""
        return placeholder(picture, self.notice) if self.notice else picture


class Translation:
    """The work of the inference thread.

    Attributes:
        bad_output: why the latest frame without a result has none.
    """

    def __init__(
        self,
        translator: Callable[[Image], Image],
        lanes: Sequence[Lane],
        controls: Controls,
        stats: Stats,
        *,
        strict: bool,
        say: Callable[[str], None],
    ) -> None:
        """Put it together.

        Args:
            translator: see `Pipeline`.
            lanes: one for each source, by `Frame.source`.
            controls: mirror, freeze and view.
            stats: counts what becomes of each frame.
            strict: raise for a frame without a result.
            say: told in a line about frames without a result.
        """
        self._translator = translator
        self._lanes = lanes
        self._controls = controls
        self._stats = stats
        self._strict = strict
        self._say = say
        self._said_at = float("-inf")
        self._setting: tuple[int, bool] | None = None
        self._shown_as: tuple[View, float] | None = None
        self.bad_output: BadOutputError | None = None

    @property
    def provider(self) -> str:
        """What runs the model."""
        return str(getattr(self._translator, "provider", ""))

    def results(self, frames: Sequence[Frame], take: Callable[[list[Frame]], None]) -> None:
        """Translate frames that arrived together, at most one of each source.

        Args:
            frames: untouched, with `source` set.
            take: given the results, even if the model then fails for the rest.

        Raises:
            ModelError, DeviceError: the model fails; all frames are counted.
        """
        chosen: list[Frame] = []
        results: list[Frame] = []
        state = self._controls.state()
        self._forget_what_changed(state.mirror)
        for frame in frames:
            lane = self._lanes[frame.source]
            if state.mirror:
                # Not by OpenCV, which knows no ids of 32 bits and drops a single channel.
                frame = replace(frame, image=np.ascontiguousarray(frame.image[:, ::-1]))
            verdict = Verdict.SKIP if state.frozen else lane.selection.verdict(frame)
            if verdict == Verdict.SKIP:
                self._stats.count("skipped")
            elif verdict == Verdict.REUSE and lane.last is not None:
                self._stats.reused()
                results.append(replace(frame, before=frame.image, after=lane.last.after))
            else:
                chosen.append(frame)
        most = max(1, int(getattr(self._translator, "max_batch", 1)))
        batches = [chosen[start : start + most] for start in range(0, len(chosen), most)]
        try:
            while batches:
                results += self._translate(batches.pop(0))
        finally:
            self._stats.count("dropped", sum(len(batch) for batch in batches))
            results = [self._shown(each) for each in results]
            for result in results:
                self._lanes[result.source].last = result
            if results:
                take(results)

    def shown_again(self) -> list[Frame]:
        """The latest results in the view that was chosen since, for a frozen picture; empty if it is the same."""
        state = self._controls.state()
        if (state.view, state.position) == self._shown_as:
            return []
        lasts = [lane.last for lane in self._lanes if lane.last is not None]
        for last in lasts:
            self._lanes[last.source].last = self._shown(last)
        return [lane.last for lane in self._lanes if lane.last is not None]

    def _forget_what_changed(self, mirror: bool) -> None:
        """Another model, style or direction: what went before says nothing of what comes."""
        setting = getattr(self._translator, "generation", 0), mirror
        if setting != self._setting:
            self._setting = setting
            for lane in self._lanes:
                lane.selection.forget()
                if lane.stabilizer is not None:
                    lane.stabilizer.reset()

    def _translate(self, frames: list[Frame]) -> list[Frame]:
        """The results of those that have one."""
        began = time.monotonic()
        try:
            images = self._images(frames)
        except BadOutputError as error:
            if len(frames) > 1 and not self._strict:  # one of them: which?
                return [result for frame in frames for result in self._translate([frame])]
            self._stats.count("failed", len(frames))
            if self._strict:
                raise
            self._note(error, frames[0])
            return []
        except BaseException:
            self._stats.count("failed", len(frames))
            raise
        results = []
        for frame, image in zip(frames, images, strict=True):
            lane = self._lanes[frame.source]
            lane.selection.remember(frame)
            stabilizer = lane.stabilizer
            after = stabilizer(frame.image, image) if stabilizer else image
            results.append(replace(frame, before=frame.image, after=after))
        each = (time.monotonic() - began) / len(frames)
        for _ in frames:
            self._stats.translated(each)
        return results

    def _images(self, frames: list[Frame]) -> list[Image]:
        if len(frames) == 1:
            return [self._translator(frames[0].image)]
        translator: Any = self._translator
        images: list[Image] = translator.batch([frame.image for frame in frames])
        return images

    def _note(self, error: BadOutputError, frame: Frame) -> None:
        self.bad_output = error
        now = time.monotonic()
        if now - self._said_at >= _SAY_AGAIN_AFTER:
            self._said_at = now
            self._say(f"{error}: frame {frame.index} is left out")

    def _shown(self, result: Frame) -> Frame:
        assert result.before is not None, "a result has its input"
        assert result.after is not None, "a result has one"
        state = self._controls.state()
        self._shown_as = state.view, state.position
        return replace(result, image=compose(result.before, result.after, state))
