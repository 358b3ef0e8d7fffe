"""Less flicker between results that were translated frame by frame, without lag.

A generator knows nothing of the frame before, so that noise in its input comes out as flicker. The past result is moved
to where its surfaces are now and averaged with the present one, but only where the input says that it is the same
surface; what has changed is shown at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from i2i_runtime.errors import UsageError
from i2i_runtime.frame import Image

DEFAULT_STRENGTH = 0.7
"""Weight of the past where it fits: leaves 0.42 of the deviation of independent noise."""
_WORKING_SIDE = 360
"""Least short side, in pixels, that a larger picture is reduced to: nothing finer than that is averaged."""
_FLOW_SIDE = 180
"""Least short side of the pictures whose motion is measured."""
_SMALLEST_FOR_FLOW = 12
"""Pixels; below it OpenCV refuses to measure motion."""
_SAME, _OTHER = 3.0, 9.0
"""Grey levels between the moved past and the present input: the past counts fully below, not at all above."""
_NOISE = 4.0
"""Grey levels of unlikeness all over the picture that are forgiven as noise of the camera."""
_STANDS_STILL = 0.5
"""Grey levels that a motion must fit better than none by, or a still picture would be resampled for noise."""
_SPREAD = 14.0
"""Grey levels that the past may leave the range of its neighbourhood by: flicker of plain areas is less than that."""
_CUT = 0.35
"""Share of the picture that must fit for it to be the same scene."""

_Plane = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Past:
    shape: tuple[int, ...]
    """Of the frames."""
    grey: npt.NDArray[np.uint8]
    """The last input, as motion is measured on it."""
    input: _Plane
    """The inputs in the size of `grey`, averaged with the weights of the outputs."""
    output: _Plane
    """(h, w, 3): the last stabilised output in working size. Not rounded: the average would stop short of its goal."""


class Stabilizer:
    """Motion-compensated average over time of the outputs, gated by the inputs.

    The optical flow of the input (DIS, Kroeger et al. 2016) moves the past output. The inputs are averaged in the same
    way, and where that average differs from the present input the surface is another one, or was hidden, or has
    gradually changed by more than the eye should wait for: there the new output stays as it is. Elsewhere the past
    gets `strength` of the weight, after it was clamped to the colours around the same place in the new output as
    temporal anti-aliasing does it (Karis 2014, "High-quality temporal supersampling"), which bounds ghosts and drift.

    Causal: no frame is held back. A picture whose short side is 720 pixels or more is averaged in a reduced size and
    keeps its finest details from the new output. Not for several threads at once.

    >>> stabilizer = Stabilizer()
    >>> frame = np.full((48, 64, 3), 100, np.uint8)
    >>> stabilizer(frame, frame + 10).shape
    (48, 64, 3)
    """

    def __init__(self, strength: float = DEFAULT_STRENGTH) -> None:
        """Set the strength.

        Args:
            strength: weight of the past, 0 (off) to below 1; the average reaches back about 1 / (1 - strength) frames.

        Raises:
            UsageError: it is outside that range.
        """
        if not 0.0 <= strength < 1.0:
            raise UsageError(f"strength of the stabiliser: expected 0 to below 1, found {strength}; try 0.7")
        self._strength = strength
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        # The preset stops at a quarter of the size: what it is wrong by there adds up to a lag of 0.2 pixels.
        self._flow.setFinestScale(1)
        self._past: _Past | None = None

    def reset(self) -> None:
        """Forget the past, as at a cut; cuts and new sizes in the input are found without it."""
        self._past = None

    def __call__(self, before: Image, after: Image) -> Image:
        """Stabilise one output; every frame in order.

        Args:
            before: (h, w, 3) uint8 BGR, the input.
            after: (h, w, 3) uint8 BGR, what was made of it.

        Returns:
            (h, w, 3) uint8 BGR, a new picture or `after` itself.
        """
        if self._strength == 0.0:
            return after
        working = _reduced(after, _WORKING_SIDE)
        grey = np.asarray(cv2.cvtColor(_reduced(before, _FLOW_SIDE), cv2.COLOR_BGR2GRAY), np.uint8)
        present, new = _smoothed(grey), working.astype(np.float32)
        averaged, stable = present, new
        past = self._past
        if past is not None and past.shape == before.shape and past.output.shape == new.shape:
            motion = self._motion(grey, past.grey)
            then = _moved(past.input, motion)
            fit = _fit(present, then)
            if fit.mean() >= _CUT:
                weight = np.float32(self._strength) * fit
                averaged = np.asarray(cv2.blendLinear(then, present, weight, 1.0 - weight), np.float32)
                stable = _blend(new, past.output, motion, weight)
        self._past = _Past(shape=before.shape, grey=grey, input=averaged, output=stable)
        if stable is new:
            return after
        if working is after:
            return np.asarray(cv2.convertScaleAbs(stable), np.uint8)
        change = cv2.resize(cv2.subtract(stable, new, dtype=cv2.CV_16S), after.shape[1::-1])
        return np.asarray(cv2.add(after, change, dtype=cv2.CV_8U), np.uint8)

    def _motion(self, grey: npt.NDArray[np.uint8], past: npt.NDArray[np.uint8]) -> _Plane:
        """(h, w, 2): where in the past each pixel of the present was, in pixels relative to itself."""
        if min(grey.shape) < _SMALLEST_FOR_FLOW:
            return np.zeros((*grey.shape, 2), np.float32)
        motion = np.asarray(self._flow.calc(grey, past, np.zeros((*grey.shape, 2), np.float32)), np.float32)
        still = _unlikeness(grey, past) <= _unlikeness(grey, _moved(past, motion)) + _STANDS_STILL
        # Of a neighbourhood the majority decides, or noise would tear what stands still from what moves.
        moves = cv2.blur((~still).astype(np.float32), (9, 9)) > 0.5
        return np.asarray(motion * moves[:, :, None], np.float32)


def _reduced(image: Image, side: int) -> Image:
    """By the largest whole factor that keeps the short side at `side` or more."""
    factor = min(image.shape[:2]) // side
    if factor < 2:
        return image
    size = image.shape[1] // factor, image.shape[0] // factor
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _smoothed(grey: npt.NDArray[np.uint8]) -> _Plane:
    return np.asarray(cv2.GaussianBlur(grey.astype(np.float32), (5, 5), 0), np.float32)


def _moved(picture: npt.NDArray[Any], motion: _Plane, kernel: int = cv2.INTER_LINEAR) -> npt.NDArray[Any]:
    """The picture as it is seen from the present."""
    height, width = motion.shape[:2]
    places = cv2.add(motion, _grid(height, width))
    # The stubs ask for a second map, which x and y together do not have.
    moved = cv2.remap(picture, places, None, kernel, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload, unused-ignore]
    return np.asarray(moved)


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> _Plane:
    return np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), axis=-1)


def _unlikeness(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> _Plane:
    """Mean absolute difference around each pixel, in grey levels."""
    return np.asarray(cv2.blur(cv2.absdiff(one, other).astype(np.float32), (5, 5)), np.float32)


def _fit(present: _Plane, then: _Plane) -> _Plane:
    """(h, w), 0 where the past shows something else, to 1 where it shows the same."""
    unlikeness = _unlikeness(present, then)
    noise = min(float(np.median(unlikeness[::4, ::4])), _NOISE)
    fit = cv2.erode(np.clip((_OTHER + noise - unlikeness) / (_OTHER - _SAME), 0.0, 1.0), np.ones((3, 3), np.uint8))
    return np.asarray(cv2.blur(fit, (5, 5)), np.float32)


def _blend(new: _Plane, past: _Plane, motion: _Plane, weight: _Plane) -> _Plane:
    height, width = new.shape[:2]
    if motion.shape[:2] != (height, width):
        scale = np.array([width / motion.shape[1], height / motion.shape[0]], np.float32)
        motion = np.asarray(cv2.resize(motion, (width, height)), np.float32) * scale
        weight = np.asarray(cv2.resize(weight, (width, height)), np.float32)
    then = _moved(past, motion, cv2.INTER_CUBIC)
    around = np.ones((3, 3), np.uint8)
    low = np.maximum(cv2.erode(new, around) - np.float32(_SPREAD), 0.0)
    high = np.minimum(cv2.dilate(new, around) + np.float32(_SPREAD), 255.0)
    then = np.asarray(cv2.min(cv2.max(then, low), high), np.float32)
    return np.asarray(cv2.blendLinear(then, new, weight, 1.0 - weight), np.float32)
