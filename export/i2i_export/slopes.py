"""From the times of whole students to those of their parts.

A block's time is a slope: what a student with several blocks takes longer than one with none, for each of them. Slopes
are small differences of large numbers and, on a machine that does other things as well, noisy. So two estimates are
weighed against each other. The **law** is one line through all students at once: a convolution takes a time for each
pixel, one for each channel on either side, and one for each pair of channels, none of them negative. Of 262 students in
each of two engines, timed by the CPU time of one thread, half were within 2.3 % of it and nine in ten within 9 %. Where
a library's kernels lie off the law the **difference** itself tells, as far as it can be trusted: by how well the two
halves of the measurement agree.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from i2i_trainer.budget.shape import BLOCK_KINDS, StudentShape

Floats = NDArray[np.float64]
_OFF_THE_LAW = 0.08
"""By which share kernels lie off the law, as a standard deviation of its logarithm."""
_LEAST_S = 1e-7
"""Of a part whose time is lost in the noise."""
_SMALL_RESIDUAL = 0.02
_ROUNDS = 12
_SWEEPS = 400


def usual(seconds: Sequence[float]) -> float:
    """What a run takes when little disturbs it: the lower quartile.

    Of all quantiles it repeats best. In four measurements of 16 students on a virtual machine of two cores it differed
    by 9 %, the median by 11 %, the quickest tenth by 12 %.
    """
    return float(np.quantile(seconds, 0.25))


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the parts of students take in one engine."""

    seconds: Mapping[StudentShape, float]
    """Of each student that was measured, as `usual` has it."""
    law: Floats
    """Coefficients of `_features`."""
    noise: float
    """Of a student's time, as a standard deviation of its logarithm."""

    @classmethod
    def of(cls, runs: Mapping[StudentShape, Sequence[float]]) -> Parts:
        """Fit them.

        Args:
            runs: seconds of all runs of each student, in the order of time.
        """
        seconds = {shape: usual(own) for shape, own in runs.items()}
        halves = [(own[: len(own) // 2], own[len(own) // 2 :]) for own in runs.values() if len(own) > 1]
        apart = [abs(math.log(usual(one) / usual(other))) for one, other in halves]
        # The median of a normal distribution's absolute values is 0.6745 of its deviation; two halves differ by the
        # square root of 2 more than each does, and each by as much more than the whole.
        noise = statistics.median(apart) / (2 * 0.6745) if apart else 0.0
        return cls(seconds=seconds, law=_fit(list(seconds), np.array(list(seconds.values()))), noise=noise)

    def ends(self, width: int, half: int = 0) -> float:
        """Seconds of a student without blocks, which was measured."""
        shape = StudentShape(width=width, half=half, inners=())
        return _weighed(self._by_law(shape), self.seconds[shape], self.noise)

    def block(self, student: StudentShape) -> float:
        """Seconds of one of the equal blocks of a student, which was measured."""
        count = len(student.inners)
        # Of its features, those of the ends belong to a student without blocks.
        law = self._by_law(student) - self._by_law(replace(student, inners=()))
        difference = self.seconds[student] - self.ends(student.width, student.half)
        return _weighed(law, difference, self.noise * self.seconds[student] / max(law, _LEAST_S)) / count

    def _by_law(self, shape: StudentShape) -> float:
        return float(_features(shape) @ self.law)


def _weighed(law: float, measured: float, noise: float) -> float:
    """Between what the law says and what was measured, by what is known of the error of each."""
    law = max(law, _LEAST_S)
    trust = _OFF_THE_LAW**2 / (_OFF_THE_LAW**2 + noise**2)
    # A kernel may be twice as quick as others, or half; beyond that it is the measurement that is off.
    return law * float(min(max(measured / law, 0.5), 2.0) ** trust)


def _features(shape: StudentShape) -> Floats:
    """What the law has a time for: constant, channels and pairs of channels, of the ends and of each kind of block."""
    width, half, count = shape.width, shape.half, len(shape.inners)
    inner = sum(shape.inners)
    without = [1, width, 0, 0, 0, 0] if not half else [0, 0, 1, width, half, half * width]
    blocks = [[count, count * width, inner, inner * width] if kind == shape.block else [0] * 4 for kind in BLOCK_KINDS]
    return np.array([*without, *itertools.chain(*blocks)], np.float64)


def _fit(shapes: Sequence[StudentShape], seconds: Floats) -> Floats:
    """Coefficients, none below 0, with the least sum of relative errors: one student that is far off moves nothing."""
    features = np.array([_features(shape) for shape in shapes]) / seconds[:, None]
    scale = np.maximum(np.linalg.norm(features, axis=0), 1e-30)
    features = features / scale
    weights = np.ones(len(seconds))
    law = np.zeros(features.shape[1])
    for _ in range(_ROUNDS):
        law = _not_negative(features * weights[:, None], weights, law)
        weights = 1 / np.sqrt(np.maximum(np.abs(features @ law - 1), _SMALL_RESIDUAL))
    fitted: Floats = law / scale
    return fitted


def _not_negative(features: Floats, wanted: Floats, law: Floats) -> Floats:
    """Least squares without negative coefficients, one coefficient after the other (Franc et al. 2005)."""
    normal, target = features.T @ features, features.T @ wanted
    law = law.copy()
    for _, index in itertools.product(range(_SWEEPS), range(len(law))):
        if normal[index, index] > 0:
            law[index] = max(0.0, law[index] + (target[index] - normal[index] @ law) / normal[index, index])
    return law
