"""The pictures on which an export is proven and calibrated."""

from __future__ import annotations

import click
import torch
from torch import Tensor
from torch.nn import functional

from i2i_runtime.card import Card
from i2i_runtime.errors import UsageError
from i2i_runtime.image import image_to_tensor
from i2i_runtime.sources.images import ImagesSource

_DRAWN = 4
"""Pictures that are drawn where there are none."""


def read_pictures(where: str, card: Card) -> list[dict[str, Tensor]]:
    """The pictures of a folder or glob pattern, at their own sizes.

    Raises:
        UsageError: the model takes no pictures.
        SourceError: there are none.
    """
    if card.labels is not None or card.input.channels not in (1, 3):
        raise UsageError("--pictures: expected a model of grey or colour pictures; this one is proven on its examples")
    with ImagesSource(where) as source:
        pictures = [{"input": torch.from_numpy(image_to_tensor(frame.image, card.input)[0])} for frame in source]
        for line in source.skipped:
            click.echo(f"skipped: {line}", err=True)
    return pictures


def drawn_pictures(card: Card, size: tuple[int, int]) -> list[dict[str, Tensor]]:
    """Soft clouds of colour with hard edges, or areas of classes: for a model that brings no pictures of its own."""
    random = torch.Generator().manual_seed(0)
    examples = []
    for _ in range(_DRAWN):
        # One noise of a few cells is the shapes, as ids or as colours; another one the edges between them.
        cells = torch.rand(1, card.input.channels, 9, 9, generator=random)
        if card.labels is not None:
            ids = (cells[:, :1] * card.labels.count).to(torch.int32)
            example = {"input": _enlarged(ids, size)}
            if card.labels.instance_edges:
                example["instances"] = _enlarged(torch.arange(81, dtype=torch.int32).reshape(1, 1, 9, 9), size)
        else:
            low, high = card.input.value_range
            clouds = functional.interpolate(cells, size=size, mode="bicubic")
            blocks = functional.interpolate(torch.rand(1, 1, 6, 6, generator=random), size=size, mode="nearest")
            levels = (clouds.clamp(0, 1) * (0.5 + 0.5 * blocks) * 255).round() / 255
            example = {"input": (low + levels * (high - low))[0]}
        examples.append(example)
    return examples


def _enlarged(ids: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(ids.float(), size=size, mode="nearest")[0].to(ids.dtype)
