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


def write_labelled(root: Path, split: str, count: int, height: int = 64, width: int = 64, first_seed: int = 0) -> Path:
    """`count` label maps of 4 classes with 16-bit instance maps and photographs, named as Cityscapes names them."""
    folders = {part: root / f"{split}_{part}" for part in ("label", "inst", "img")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = drawing(first_seed + number, height, width)
        labels = (image[:, :, 0] // 64).astype(np.uint8)
        instances = labels.astype(np.uint16) * 1000 + (np.arange(width) * 3 // width).astype(np.uint16)
        name = f"town_{number:06d}"
        cv2.imwrite(str(folders["img"] / f"{name}_leftImg8bit.png"), image)
        cv2.imwrite(str(folders["label"] / f"{name}_labelIds.png"), labels)
        cv2.imwrite(str(folders["inst"] / f"{name}_instanceIds.png"), instances)
    return root


def write_unpaired(root: Path, split: str, n_a: int, n_b: int, height: int = 64, width: int = 64) -> Path:
    """`n_a` outlines in A and `n_b` other drawings in B, of sizes that differ."""
    for domain, count, first_seed in (("A", n_a, 0), ("B", n_b, 500)):
        folder = root / f"{split}{domain}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = drawing(first_seed + number, height + number, width)
            cv2.imwrite(str(folder / f"{number}.png"), outlines(image) if domain == "A" else image)
    return root
