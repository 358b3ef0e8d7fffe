"""Views: input and result in one picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2i_runtime.controls import ControlState, View
from i2i_runtime.view import compose, mosaic, placeholder

BEFORE = np.zeros((4, 8, 3), np.uint8)
AFTER = np.full((4, 8, 3), 200, np.uint8)


def picture(height: int, width: int, grey: int) -> np.ndarray:
    return np.full((height, width, 3), grey, np.uint8)


def test_the_result_and_the_input_are_shown_as_they_are():
    assert compose(BEFORE, AFTER, ControlState(view=View.RESULT)) is AFTER
    assert compose(BEFORE, AFTER, ControlState(view=View.INPUT)) is BEFORE


def test_side_by_side_has_the_input_on_the_left():
    image = compose(BEFORE, AFTER, ControlState(view=View.SIDE_BY_SIDE))

    assert image.shape == (4, 16, 3)
    assert (image[:, :8] == 0).all()
    assert (image[:, 8:] == 200).all()


@given(st.floats(0, 1))
def test_a_wipe_shows_the_input_up_to_its_edge(position):
    image = compose(BEFORE, AFTER, ControlState(view=View.WIPE, position=position))

    edge = round(position * 8)
    assert image.shape == AFTER.shape
    assert (image[:, :edge] == 0).all()
    assert (image[:, edge:] == 200).all()


@pytest.mark.parametrize(("position", "grey"), [(0, 200), (0.25, 150), (1, 0)])
def test_a_blend_mixes_both(position, grey):
    assert (compose(BEFORE, AFTER, ControlState(view=View.BLEND, position=position)) == grey).all()


def test_what_is_no_picture_of_the_same_size_is_not_mixed():
    labels = np.zeros((4, 8, 1), np.int32)

    assert compose(labels, AFTER, ControlState(view=View.BLEND)) is AFTER


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.none(), min_size=1, max_size=7).filter(any),
)
def test_a_mosaic_has_a_cell_for_each_source(sizes):
    pictures = [size and picture(*size, 100 + number) for number, size in enumerate(sizes)]

    image = mosaic(pictures)

    assert set(np.unique(image)) - {0} == {100 + number for number, size in enumerate(sizes) if size}


def test_a_mosaic_of_large_pictures_is_no_larger_than_a_screen():
    height, width = mosaic([picture(1080, 1920, 9)] * 4).shape[:2]

    assert height * width <= 1920 * 1080
    assert width / height == pytest.approx(16 / 9, rel=0.01)


def test_a_placeholder_is_the_last_picture_darkened_with_words_on_it():
    image = placeholder(picture(120, 200, 90), "camera 0: reconnecting")

    assert image.shape == (120, 200, 3)
    assert image[0, 0, 0] == 30
    assert image.max() == 255
    assert placeholder(None, "camera 0: reconnecting").max() == 255
