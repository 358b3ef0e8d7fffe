"""Controls: what keys and buttons do, and that nonsense is refused in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2i_runtime.controls import KEY_HELP, KEYS, Controls, ControlState, View
from i2i_runtime.errors import UsageError


def test_the_view_is_chosen_by_name_or_the_next_one_is_taken():
    controls = Controls()

    controls.do("view", "wipe")
    assert controls.state().view == View.WIPE
    controls.do("view", "next")
    assert controls.state().view == View.BLEND


def test_the_next_view_goes_round():
    controls = Controls()

    seen = []
    for _ in range(len(View) + 1):
        seen.append(controls.state().view)
        controls.press("v")

    assert set(seen) == set(View)
    assert seen[-1] == seen[0]


@pytest.mark.parametrize(("action", "field"), [("mirror", "mirror"), ("freeze", "frozen")])
def test_a_switch_is_turned_on_and_off(action, field):
    controls = Controls()

    controls.do(action)
    assert getattr(controls.state(), field)
    controls.do(action)
    assert not getattr(controls.state(), field)


@given(st.floats() | st.sampled_from(["less", "more"]))
def test_the_position_stays_between_the_edges(value):
    controls = Controls(ControlState(position=0.5))

    try:
        controls.do("position", str(value))
    except UsageError:
        assert value != value

    assert 0 <= controls.state().position <= 1


@pytest.mark.parametrize(
    ("action", "value", "message"),
    [
        ("dance", None, "'dance': expected one of view, position, mirror, freeze"),
        ("view", "upside-down", "view: expected one of result, side-by-side, wipe, blend, input, found 'upside-down'"),
        ("position", "left", "position: expected a number from 0 to 1, less or more, found 'left'"),
        ("position", None, "position: expected a number"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(action, value, message):
    controls = Controls()
    before = controls.state()

    with pytest.raises(UsageError, match=message):
        controls.do(action, value)

    assert controls.state() == before


def test_a_key_does_what_its_action_does():
    controls, pressed = Controls(), []
    controls.on("record", pressed.append)

    controls.press("r")
    controls.press("e")  # there is one engine only: nobody carries it out
    controls.press("x")  # no such key

    assert pressed == [None]


def test_the_help_names_every_key():
    assert all(f"{key} " in KEY_HELP for key in KEYS)
