"""What a training does at which step: its length, its learning rate, its stages. Each follows from the step alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from i2i_trainer.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A training of `constant_steps` at the full learning rate and `decay_steps` over which it falls."""

    constant_steps: int
    decay_steps: int
    policy: Literal["linear", "cosine", "constant"] = "linear"

    @classmethod
    def of(cls, run: RunConfig, epoch_steps: int) -> Schedule:
        """The schedule of a run, given in steps (half of them constant) or in epochs of `epoch_steps`."""
        if run.steps is not None:
            constant, decay = run.steps - run.steps // 2, run.steps // 2
        else:
            constant, decay = run.epochs * epoch_steps, run.epochs_decay * epoch_steps
        return cls(constant_steps=constant, decay_steps=decay, policy=run.lr_policy)

    @property
    def last_step(self) -> int:
        """How many steps there are."""
        return self.constant_steps + self.decay_steps

    def lr_factor(self, step: int) -> float:
        """Share of the learning rate at a step: 1, then falling to 0 (linearly: CycleGAN section 4).

        >>> schedule = Schedule(constant_steps=2, decay_steps=4)
        >>> [schedule.lr_factor(step) for step in range(6)]
        [1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
        """
        if step < self.constant_steps or self.policy == "constant":
            return 1.0
        done = (step - self.constant_steps) / self.decay_steps
        return 1.0 - done if self.policy == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))

    def split(self, shares: Sequence[float]) -> list[range]:
        """The steps of each stage, which takes its share (of 1) of the training.

        >>> Schedule(constant_steps=5, decay_steps=5).split([0.5, 0.1, 0.4])
        [range(0, 5), range(5, 6), range(6, 10)]
        """
        ends = [round(self.last_step * end) for end in accumulate(shares)]
        return [range(first, last) for first, last in pairwise([0, *ends[:-1], self.last_step])]
