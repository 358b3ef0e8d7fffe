"""The pictures on which an export is proven and calibrated."""

from __future__ import annotations

import click
import cv2
import numpy as np

from i2i_export.parity import Array, Example
from i2i_runtime.card import Card
from i2i_runtime.errors import UsageError
from i2i_runtime.image import image_to_tensor, resize
from i2i_runtime.sources.images import ImagesSource

_MOST = 32
"""A proof on more pictures takes longer and tells no more."""
_DRAWN = 4
"""Pictures that are drawn where there are none."""
_CELLS = 9


def read_pictures(where: str, card: Card, size: tuple[int, int]) -> list[Example]:
    """Pictures of a folder or glob pattern, at most 32 from all over it, at a size.

    Raises:
        UsageError: the model takes no pictures.
        SourceError: there are none.
    """
    if card.labels is not None or card.input.channels not in (1, 3):
        raise UsageError(
            "--pictures: expected a model of grey or colour pictures; others are proven on their checkpoint's examples "
            "or on drawn ones"
        )
    with ImagesSource(where, at_most=_MOST) as source:
        pictures: list[Example] = [
            {"input": image_to_tensor(resize(frame.image, size), card.input)[0]} for frame in source
        ]
        for line in source.skipped:
            click.echo(f"skipped: {line}", err=True)
    return pictures


def drawn_pictures(card: Card, size: tuple[int, int]) -> list[Example]:
    """Soft clouds of colour with hard edges, or areas of classes: for a model that brings no pictures of its own."""
    random = np.random.default_rng(0)
    return [_drawn(card, size, random) for _ in range(_DRAWN)]


def _drawn(card: Card, size: tuple[int, int], random: np.random.Generator) -> Example:
    if card.labels is not None:
        example: dict[str, Array] = {"input": _areas(random.integers(0, card.labels.count, (_CELLS, _CELLS)), size)}
        if card.labels.instance_edges:
            example["instances"] = _areas(np.arange(_CELLS * _CELLS).reshape(_CELLS, _CELLS), size)
        return example
    low, high = card.input.value_range
    blocks = cv2.resize(random.uniform(0.5, 1, (6, 6)), size[::-1], interpolation=cv2.INTER_NEAREST)
    clouds = [
        cv2.resize(random.uniform(0, 1, (_CELLS, _CELLS)), size[::-1], interpolation=cv2.INTER_CUBIC)
        for _ in range(card.input.channels)
    ]
    levels = np.rint(np.clip(clouds, 0, 1) * blocks * 255) / 255
    return {"input": (low + levels * (high - low)).astype(np.float32)}


def _areas(ids: Array, size: tuple[int, int]) -> Array:
    return cv2.resize(ids.astype(np.int32), size[::-1], interpolation=cv2.INTER_NEAREST)[None]
