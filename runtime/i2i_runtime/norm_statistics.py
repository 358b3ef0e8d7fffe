"""The inputs and the output by which a tileable model takes and gives the statistics of its norms.

An instance norm normalises with mean and variance over the whole picture. A tileable model (`i2i-export --tileable`)
takes them from outside where it is asked to, so that all tiles of a frame can share them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from i2i_runtime.card import Card

GIVEN = "norm_stats"
"""Input (1, 2, c) float32, of all channels of all norms in the order in which they run: with `OWN` 0 the mean and the
variance to normalise with. With `OWN` 1 how far to move the picture's own: the mean by so many standard deviations, the
variance (with the norm's epsilon) by the logarithm of a factor; zeros leave both as they are."""
OWN = "own"
"""Input (1,) float32: 1 normalises with the picture's own statistics, 0 with the given ones. 1 with zeros is the model
as it was trained."""
WINDOW = "window"
"""Input (n, 1, h, w) float32, at least 0: the weight of each pixel in the picture's own statistics."""
FOUND = "norm_stats_found"
"""Output (n, 2, c) float32: the own mean and variance of each picture, whatever it was normalised with."""
INPUTS = (GIVEN, OWN, WINDOW)
"""What a tileable model takes beside its picture, in this order; `FOUND` is what it gives beside its result."""

Statistics = npt.NDArray[np.float32]
"""(1, 2, c): mean and variance, or a correction of them."""


def norm_channels(card: Card) -> int:
    """Channels of all norms of a tileable model together; 0 of another model."""
    return card.export.norm_channels if card.export is not None else 0


def own_statistics(channels: int, size: tuple[int, int], batch: int = 1) -> tuple[npt.NDArray[np.float32], ...]:
    """The values of `INPUTS` that make a tileable model an ordinary one.

    Args:
        channels: of all its norms together.
        size: (height, width) of the picture.
        batch: pictures at once.
    """
    return np.zeros((1, 2, channels), np.float32), np.ones(1, np.float32), np.ones((batch, 1, *size), np.float32)
