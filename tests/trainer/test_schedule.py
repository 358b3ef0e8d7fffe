"""What follows from the number of a step: the learning rate and the stage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2i_trainer.config import RunConfig
from i2i_trainer.schedule import Schedule


def test_the_schedule_is_constant_then_falls_to_zero():
    schedule = Schedule(constant_steps=100, decay_steps=50)
    factors = [schedule.lr_factor(step) for step in range(150)]

    assert factors[:100] == [1.0] * 100
    assert factors[100:] == pytest.approx([1 - n / 50 for n in range(50)])


def test_a_cosine_falls_as_far_but_slowly_at_both_ends():
    schedule = Schedule(constant_steps=1, decay_steps=100, policy="cosine")

    assert [schedule.lr_factor(step) for step in (0, 1, 51, 101)] == pytest.approx([1, 1, 0.5, 0])
    assert schedule.lr_factor(11) > 0.97


def test_a_constant_rate_never_falls():
    schedule = Schedule(constant_steps=1, decay_steps=100, policy="constant")

    assert {schedule.lr_factor(step) for step in range(101)} == {1.0}


def test_the_length_is_given_in_epochs_or_in_steps():
    in_epochs = Schedule.of(RunConfig(epochs=3, epochs_decay=2), epoch_steps=10)
    in_steps = Schedule.of(RunConfig(steps=7), epoch_steps=10)

    assert (in_epochs.constant_steps, in_epochs.decay_steps) == (30, 20)
    assert (in_steps.constant_steps, in_steps.decay_steps) == (4, 3)


@given(steps=st.integers(1, 1000), cuts=st.lists(st.floats(0.01, 1), min_size=1, max_size=4))
def test_the_stages_share_all_steps_without_gap_or_overlap(steps, cuts):
    shares = [cut / sum(cuts) for cut in cuts]

    stages = Schedule(constant_steps=steps, decay_steps=0).split(shares)

    assert [step for stage in stages for step in stage] == list(range(steps))
