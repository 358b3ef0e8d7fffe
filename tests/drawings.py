"""Pictures that tests draw: simple, colourful, different from each other, and of no licence."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def drawing(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    """(h, w, 3) uint8 BGR: rectangles and discs on a gradient."""
    rng = np.random.default_rng(seed)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.linspace(40, 200, width, dtype=np.uint8)[None, :, None]
    for _ in range(6):
        colour = [int(c) for c in rng.integers(0, 256, 3)]
        x, y = int(rng.integers(width)), int(rng.integers(height))
        cv2.rectangle(image, (x, y), (x + width // 4, y + height // 4), colour, -1)
        cv2.circle(image, (y * width // height, x * height // width), min(height, width) // 8, colour[::-1], -1)
    return image


def outlines(image: np.ndarray) -> np.ndarray:
    """What a generator may be asked to turn back into `image`."""
    lines = 255 - cv2.Canny(image, 60, 120)
    return cv2.cvtColor(lines, cv2.COLOR_GRAY2BGR)


def write_pairs(folder: Path, count: int, height: int = 64, width: int = 64, first_seed: int = 0) -> Path:
    """`count` pairs side by side: outlines left, drawing right."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = drawing(first_seed + number, height, width)
        cv2.imwrite(str(folder / f"{number}.png"), np.hstack((outlines(image), image)))
    return folder
