"""Whether a frame is so like the last one translated that its result can be shown again.

A camera that looks at a still scene delivers the same picture with new noise, and most of a model's work, heat and
battery goes into translating that. Means over small blocks hardly feel the noise and feel a small thing that moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from i2i_runtime.errors import UsageError
from i2i_runtime.frame import Image

DEFAULT_THRESHOLD = 4.0
"""Grey levels between the means of a block: sensor noise with a deviation of 5 stays below it."""
DEFAULT_MAX_AGE = 1.0
"""Seconds."""
_BLOCK = 8
"""Pixels that a block has in height, of those that are looked at."""
_SHORT_SIDE = 360
"""Of every picture about so many rows are looked at; blocks grow with what is left out."""


@dataclass(frozen=True, kw_only=True)
class _Translated:
    shape: tuple[int, ...]
    means: npt.NDArray[np.uint8]
    at: float


class SimilarFilter:
    """Compares each frame with the last one that was translated, block by block.

    Blocks are 8x8 pixels up to a short side of 719, 24x24 at 1920x1080, and cover the whole picture; the frame is
    another one as soon as a single block differs in one channel. As the comparison is with what was translated and not
    with the frame before, slow changes add up until they count. Not for several threads at once.

    >>> similar = SimilarFilter()
    >>> frame = np.full((48, 64, 3), 100, np.uint8)
    >>> similar.keeps(frame, at=0.0)
    False
    >>> similar.remember(frame, at=0.0)
    >>> similar.keeps(frame + 1, at=0.04), similar.keeps(frame + 1, at=1.04), similar.keeps(frame + 9, at=0.04)
    (True, False, False)
    """

    def __init__(self, threshold: float = DEFAULT_THRESHOLD, max_age: float = DEFAULT_MAX_AGE) -> None:
        """Set what counts as like.

        Args:
            threshold: largest difference of a block's mean that is like, in grey levels, 0 to below 255; 0 keeps
                only what is equal in all blocks.
            max_age: seconds after which a frame is translated however like it is; more than 0.

        Raises:
            UsageError: one of them is outside its range.
        """
        if not 0.0 <= threshold < 255.0:
            raise UsageError(
                f"threshold of similar frames: expected 0 to below 255 grey levels, found {threshold}; try 4"
            )
        if not max_age > 0.0:
            raise UsageError(f"age of repeated results: expected more than 0 seconds, found {max_age}; try 1")
        self._threshold = threshold
        self._max_age = max_age
        self._last: _Translated | None = None

    def keeps(self, image: Image, *, at: float) -> bool:
        """Whether the result of the frame that was remembered last may be shown for this one.

        Args:
            image: (h, w, 3) uint8 BGR.
            at: when it was captured, in seconds on the clock that `remember` is given.
        """
        last = self._last
        if last is None or last.shape != image.shape or not 0.0 <= at - last.at < self._max_age:
            return False
        return cv2.norm(_means(image), last.means, cv2.NORM_INF) <= self._threshold

    def remember(self, image: Image, *, at: float) -> None:
        """Compare the frames that come with this one; its result is there to be shown.

        Args:
            image: (h, w, 3) uint8 BGR.
            at: when it was captured, in seconds.
        """
        self._last = _Translated(shape=image.shape, means=_means(image), at=at)

    def reset(self) -> None:
        """Forget it: the next frame is translated."""
        self._last = None


def _means(image: Image) -> npt.NDArray[np.uint8]:
    """(n, 3) uint8: the mean of every block; the last ones overlap where the sides are no multiples."""
    step = max(1, min(image.shape[:2]) // _SHORT_SIDE)
    side = step * _BLOCK
    height, width = image.shape[:2]
    if min(height, width) < side:
        return image.reshape(-1, 3).copy()
    rows, columns = height // side, width // side
    parts = [image[: rows * side, : columns * side]]
    if width % side:
        parts.append(image[: rows * side, -side:])
    if height % side:
        parts += [image[-side:, -columns * side :], image[-side:, :side]]
    # Whole factors: OpenCV then averages three times as quickly. Rows that are left out cost no memory traffic.
    means = [
        cv2.resize(part[::step], (part.shape[1] // side, part.shape[0] // side), interpolation=cv2.INTER_AREA)
        for part in parts
    ]
    return np.concatenate([np.asarray(part, np.uint8).reshape(-1, 3) for part in means])
