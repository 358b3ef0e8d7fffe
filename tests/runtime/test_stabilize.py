"""Stabilising: flicker goes, what moves stays where it is, and what changes is seen at once."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_runtime.errors import UsageError
from i2i_runtime.stabilize import Stabilizer

HEIGHT, WIDTH = 120, 160


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours, (height, width, 3) uint8, with details of about ten pixels."""
    coarse = np.random.default_rng(seed).integers(30, 220, (height // 10 + 2, width // 10 + 2, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def translated(picture: np.ndarray) -> np.ndarray:
    """A stand-in for a model: other colours, the same edges."""
    return np.ascontiguousarray(255 - picture[..., ::-1])


def flickering(picture: np.ndarray, random: np.random.Generator, deviation: float = 8.0) -> np.ndarray:
    return (picture + random.normal(0, deviation, picture.shape)).round().clip(0, 255).astype(np.uint8)


def pan(count: int, speed: int = 3) -> list[np.ndarray]:
    """A camera that moves to the right over a still picture."""
    wide = texture(HEIGHT, WIDTH + speed * count)
    return [np.ascontiguousarray(wide[:, speed * i : speed * i + WIDTH]) for i in range(count)]


def deviation(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square, in grey levels, away from the border."""
    return float(np.sqrt(np.mean((one.astype(float) - other)[12:-12, 12:-12] ** 2)))


def shift_along_x(reference: np.ndarray, picture: np.ndarray) -> float:
    """Pixels that the edges of `picture` lie to the right of those of `reference`."""
    one, other = (
        cv2.GaussianBlur(cv2.cvtColor(p, cv2.COLOR_BGR2GRAY).astype(float), (0, 0), 1.5)[12:-12, 12:-12]
        for p in (reference, picture)
    )
    slope = np.gradient(one, axis=1)
    return float(-np.sum((other - one) * slope) / np.sum(slope**2))


def test_flicker_on_a_still_scene_is_more_than_halved():
    scene, random = texture(HEIGHT, WIDTH), np.random.default_rng(1)
    stabilizer = Stabilizer()

    outputs = [stabilizer(scene, flickering(translated(scene), random)) for _ in range(15)]

    assert deviation(outputs[-1], translated(scene)) < 0.5 * 8


def test_flicker_on_a_moving_scene_is_reduced():
    random, stabilizer = np.random.default_rng(1), Stabilizer()
    scene = pan(15)

    outputs = [stabilizer(picture, flickering(translated(picture), random)) for picture in scene]

    assert deviation(outputs[-1], translated(scene[-1])) < 0.7 * 8


def test_noise_in_the_input_does_not_close_the_gate():
    scene, random = texture(HEIGHT, WIDTH), np.random.default_rng(1)
    stabilizer = Stabilizer()

    outputs = [stabilizer(flickering(scene, random, 4.0), flickering(translated(scene), random)) for _ in range(15)]

    assert deviation(outputs[-1], translated(scene)) < 0.5 * 8


@pytest.mark.parametrize("speed", [1, 3, 6])
def test_a_moving_scene_does_not_lag(speed):
    stabilizer, scene = Stabilizer(), pan(12, speed)

    outputs = [stabilizer(picture, translated(picture)) for picture in scene]

    assert abs(shift_along_x(translated(scene[-1]), outputs[-1])) < 0.1


def test_the_measure_of_lag_sees_a_shift_of_a_pixel():
    first, second = pan(2, speed=1)

    assert shift_along_x(first, second) == pytest.approx(-1.0, abs=0.15)


@pytest.mark.parametrize("contrast", [20, 60])
def test_what_appears_is_seen_in_the_same_frame(contrast):
    scene, stabilizer = texture(HEIGHT, WIDTH) // 2, Stabilizer()
    for _ in range(10):
        stabilizer(scene, translated(scene))
    changed = scene.copy()
    changed[40:80, 60:110] += np.uint8(contrast)

    seen = stabilizer(changed, translated(changed))

    field = np.s_[40:80, 60:110]
    was, will = translated(scene)[field].astype(float), translated(changed)[field].astype(float)
    assert np.mean((seen[field] - was) / (will - was)) > 0.95


def test_an_output_that_changes_by_much_under_an_unchanged_input_is_followed_at_once():
    """A style that jumps is no flicker: the past may not leave what is around it in the new output."""
    scene = texture(HEIGHT, WIDTH)
    stabilizer = Stabilizer()
    for _ in range(10):
        stabilizer(scene, np.full_like(scene, 40))

    seen = stabilizer(scene, np.full_like(scene, 200))

    assert seen.min() >= 200 - 14


def test_at_a_cut_the_new_output_is_shown_as_it_is():
    stabilizer, new = Stabilizer(), texture(HEIGHT, WIDTH, seed=5)
    for picture in pan(6):
        stabilizer(picture, translated(picture))

    assert np.array_equal(stabilizer(new, translated(new)), translated(new))


def test_a_slow_fade_stays_within_a_few_grey_levels():
    """Small steps add up in the averaged input until they count, so that the average is never far behind."""
    scene, stabilizer = texture(HEIGHT, WIDTH) // 2, Stabilizer(0.95)
    pictures = [scene + np.uint8(2 * i) for i in range(40)]

    outputs = [stabilizer(picture, translated(picture)) for picture in pictures]

    assert deviation(outputs[-1], translated(pictures[-1])) < 8


def test_an_output_without_flicker_is_reached_exactly():
    scene, stabilizer = texture(HEIGHT, WIDTH), Stabilizer()
    stabilizer(scene, np.clip(translated(scene), 10, 245) + np.uint8(10))

    outputs = [stabilizer(scene, translated(scene)) for _ in range(20)]

    assert np.array_equal(outputs[-1], translated(scene))


def test_a_large_picture_keeps_its_finest_details():
    scene = texture(720, 960)
    output = translated(scene)
    output[::2] ^= 16  # finer than what is averaged
    stabilizer = Stabilizer()

    outputs = [stabilizer(scene, output) for _ in range(5)]

    assert deviation(outputs[-1], output) < 1


def test_flicker_of_a_large_picture_is_reduced():
    scene, random, stabilizer = texture(720, 960), np.random.default_rng(1), Stabilizer()

    def coarse_flicker() -> np.ndarray:
        change = cv2.resize(random.normal(0, 8, (90, 120, 3)), (960, 720))
        return (translated(scene) + change).round().clip(0, 255).astype(np.uint8)

    outputs = [stabilizer(scene, coarse_flicker()) for _ in range(8)]

    assert deviation(outputs[-1], translated(scene)) < 0.6 * deviation(coarse_flicker(), translated(scene))


def test_a_new_size_begins_anew():
    stabilizer = Stabilizer()
    stabilizer(texture(60, 80), texture(60, 80, seed=1))
    larger = texture(90, 120)

    assert np.array_equal(stabilizer(larger, translated(larger)), translated(larger))


def test_after_a_reset_the_past_is_forgotten():
    scene, stabilizer = texture(HEIGHT, WIDTH), Stabilizer()
    stabilizer(scene, np.full_like(scene, 100))

    stabilizer.reset()

    assert np.array_equal(stabilizer(scene, np.full_like(scene, 106)), np.full_like(scene, 106))


def test_strength_zero_changes_nothing():
    scene, stabilizer = texture(HEIGHT, WIDTH), Stabilizer(0.0)
    stabilizer(scene, np.full_like(scene, 100))

    assert np.array_equal(stabilizer(scene, np.full_like(scene, 106)), np.full_like(scene, 106))


def test_the_given_pictures_are_left_as_they_are():
    before, after = texture(HEIGHT, WIDTH), texture(HEIGHT, WIDTH, seed=1)
    kept = before.copy(), after.copy()
    stabilizer = Stabilizer()

    for _ in range(3):
        stabilizer(before, after)

    assert np.array_equal(before, kept[0])
    assert np.array_equal(after, kept[1])


def test_a_result_that_a_sink_draws_on_does_not_change_the_next():
    scene = texture(HEIGHT, WIDTH)
    untouched, drawn_on = Stabilizer(), Stabilizer()

    for _ in range(3):
        expected, found = untouched(scene, scene.copy()), drawn_on(scene, scene.copy())
        assert np.array_equal(found, expected)
        found[:] = 0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_any_size_goes_through(height, width):
    random, stabilizer = np.random.default_rng(0), Stabilizer()

    for _ in range(3):
        before, after = random.integers(0, 256, (2, height, width, 3), np.uint8)
        result = stabilizer(before, after)
        assert (result.shape, result.dtype) == ((height, width, 3), np.uint8)


def test_input_and_output_may_differ_in_size():
    stabilizer = Stabilizer()

    for before in pan(4):
        after = cv2.resize(translated(before), (2 * WIDTH, 2 * HEIGHT))
        assert stabilizer(before, after).shape == after.shape


@pytest.mark.parametrize("strength", [-0.1, 1.0, float("nan")])
def test_a_strength_outside_its_range_is_a_usage_error(strength):
    with pytest.raises(UsageError, match="expected 0 to below 1"):
        Stabilizer(strength)
