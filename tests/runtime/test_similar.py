"""Similar frames: nothing is translated while nothing moves, and everything as soon as something does."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_runtime.errors import UsageError
from i2i_runtime.similar import SimilarFilter


def still(height: int = 240, width: int = 320) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(20, 200, (12, 16, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def noisy(picture: np.ndarray, seed: int, deviation: float = 3.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, deviation, picture.shape)
    return (picture + noise).round().clip(0, 255).astype(np.uint8)


def with_square(picture: np.ndarray, left: int, top: int, side: int, contrast: int = 50) -> np.ndarray:
    changed = picture.copy()
    changed[top : top + side, left : left + side] += np.uint8(contrast)
    return changed


def remembering(picture: np.ndarray, **settings: float) -> SimilarFilter:
    similar = SimilarFilter(**settings)
    similar.remember(picture, at=0.0)
    return similar


@pytest.mark.parametrize("deviation", [2.0, 3.0, 5.0])
@pytest.mark.parametrize("size", [(240, 426), (480, 640), (1080, 1920)])
def test_the_noise_of_a_sensor_is_no_change(size, deviation):
    scene = still(*size)
    similar = remembering(noisy(scene, 0, deviation))

    assert all(similar.keeps(noisy(scene, seed, deviation), at=0.0) for seed in range(1, 5))


def test_a_small_thing_that_moves_is_never_skipped():
    scene = still()
    positions = [(30 + 4 * step, 50 + 2 * step) for step in range(40)]
    similar = remembering(noisy(with_square(scene, *positions[0], side=12), 0))

    for seed, position in enumerate(positions[1:], start=1):
        frame = noisy(with_square(scene, *position, side=12), seed)
        assert not similar.keeps(frame, at=0.0)
        similar.remember(frame, at=0.0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_change_is_seen_wherever_it_is(data):
    """Also in the last columns and rows of sides that are no multiples of a block."""
    height, width = data.draw(st.integers(12, 130)), data.draw(st.integers(12, 130))
    left, top = data.draw(st.integers(0, width - 6)), data.draw(st.integers(0, height - 6))
    scene = np.full((height, width, 3), 100, np.uint8)

    assert not remembering(scene).keeps(with_square(scene, left, top, side=6), at=0.0)


@pytest.mark.parametrize(("left", "top"), [(0, 0), (8, 0), (0, 8), (8, 8)])
def test_a_change_is_seen_in_each_corner_of_a_frame_of_less_than_two_blocks(left, top):
    scene = np.full((14, 14, 3), 100, np.uint8)

    assert not remembering(scene).keeps(with_square(scene, left, top, side=6), at=0.0)


def test_a_change_of_colour_alone_is_seen():
    grey = np.full((64, 64, 3), 100, np.uint8)
    tinted = grey + np.array([20, 0, 0], np.uint8)

    assert not remembering(grey).keeps(tinted, at=0.0)


def test_slow_changes_add_up():
    scene = np.full((64, 64, 3), 100, np.uint8)
    similar = remembering(scene)

    kept = [similar.keeps(scene + np.uint8(level), at=0.0) for level in range(7)]

    assert kept == [True] * 5 + [False] * 2


def test_a_large_picture_shows_a_small_change():
    scene = noisy(still(1080, 1920), 0)

    assert not remembering(scene).keeps(with_square(scene, 901, 333, side=14), at=0.0)


def test_nothing_is_like_before_anything_was_remembered():
    assert not SimilarFilter().keeps(still(), at=0.0)


def test_after_the_longest_age_a_frame_is_translated():
    similar = remembering(still(), max_age=0.5)

    assert [similar.keeps(still(), at=at) for at in (0.0, 0.49, 0.5, 3.0)] == [True, True, False, False]


def test_a_clock_that_was_set_back_does_not_freeze_the_picture():
    similar = SimilarFilter()
    similar.remember(still(), at=100.0)

    assert not similar.keeps(still(), at=5.0)


def test_a_frame_of_another_size_is_another_frame():
    assert not remembering(np.zeros((64, 64, 3), np.uint8)).keeps(np.zeros((64, 72, 3), np.uint8), at=0.0)


def test_after_a_reset_nothing_is_like():
    similar = remembering(still())

    similar.reset()

    assert not similar.keeps(still(), at=0.0)


@pytest.mark.parametrize("size", [(4, 5), (64, 64)])
def test_a_buffer_that_is_used_again_is_not_what_was_remembered(size):
    buffer = np.full((*size, 3), 100, np.uint8)
    similar = remembering(buffer)

    buffer[:] = 200

    assert not similar.keeps(buffer, at=0.0)


def test_the_threshold_says_how_much_is_like():
    scene = np.full((64, 64, 3), 100, np.uint8)

    assert not remembering(scene, threshold=4).keeps(scene + np.uint8(10), at=0.0)
    assert remembering(scene, threshold=10).keeps(scene + np.uint8(10), at=0.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_a_picture_of_any_size_is_like_itself(height, width):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)

    assert remembering(picture, threshold=0).keeps(picture, at=0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": -1.0}, "expected 0 to below 255 grey levels, found -1.0"),
        ({"threshold": float("nan")}, "found nan"),
        ({"max_age": 0.0}, "expected more than 0 seconds, found 0.0"),
    ],
)
def test_a_setting_outside_its_range_is_a_usage_error(settings, message):
    with pytest.raises(UsageError, match=message):
        SimilarFilter(**settings)
