"""Proof that an engine computes what the PyTorch generator computes, on real pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from i2i_runtime.card import Card, ParityRecord
from i2i_runtime.engines.base import Engine
from i2i_runtime.errors import ModelError
from i2i_runtime.frame import Image
from i2i_runtime.image import image_to_tensor, resize, tensor_to_image

TOLERANCE = {"float": 1e-4, "uint8": 1.0}
"""Largest difference that passes: in the tensor's units, and in grey levels."""
IDENTICAL_DB = 999.0


def measure_parity(
    generator: nn.Module, engine: Engine, card: Card, pictures: Sequence[Image], tolerance: float
) -> ParityRecord:
    """Run pictures through both and compare.

    Args:
        generator: the PyTorch generator as it was exported.
        engine: the exported model, running.
        card: the exported model's card: its size, and whether it is a float or a uint8 graph.
        pictures: (h, w, 3) uint8 BGR of any size; resized to the model's.
        tolerance: the largest difference that the caller will accept; only recorded here.

    Raises:
        ModelError: either of them returns NaN or infinity.
    """
    assert card.size.height is not None
    assert card.size.width is not None
    assert card.export is not None
    worst, total, squares, count = 0.0, 0.0, 0.0, 0
    for picture in pictures:
        image = resize(picture, (card.size.height, card.size.width))
        tensor = image_to_tensor(image, card.input)
        with torch.no_grad():
            wanted = generator(torch.from_numpy(tensor)).numpy()
        if card.export.graph_io == "uint8":
            wanted = tensor_to_image(wanted[0], card.output)[None]
            found = engine.run(image[None])
        else:
            found = engine.run(tensor)
        if not (np.isfinite(wanted).all() and np.isfinite(found).all()):
            raise ModelError(
                "the generator returns NaN or infinity: nothing was written; export an earlier checkpoint of the run"
            )
        difference = np.abs(wanted.astype(np.float64) - found)
        worst = max(worst, float(difference.max()))
        total += float(difference.sum())
        squares += float(np.square(difference).sum())
        count += difference.size
    low, high = (0.0, 255.0) if card.export.graph_io == "uint8" else card.output.value_range
    return ParityRecord(
        engine=engine.provider,
        pictures=len(pictures),
        max_abs=worst,
        mean_abs=total / count,
        psnr_db=10 * math.log10((high - low) ** 2 * count / squares) if squares else IDENTICAL_DB,
        tolerance=tolerance,
    )
