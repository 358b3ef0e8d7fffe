"""From a checkpoint to the generator in the form in which it is exported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from i2i_runtime.card import Card, MadeWith
from i2i_runtime.errors import ModelError
from i2i_runtime.frame import Image
from i2i_trainer.checkpoint import file_sha256, load_checkpoint, load_weights
from i2i_trainer.networks.build import build_generator
from i2i_trainer.networks.inference import NormStatistics, default_statistics, for_inference


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A generator ready for export."""

    generator: nn.Module
    """In evaluation mode, on the CPU, a fixed function of one image."""
    card: Card
    pictures: list[Image]
    """The inputs that travel in the checkpoint."""
    statistics: NormStatistics


def load_trained(path: Path, statistics: NormStatistics | None = None) -> Trained:
    """Load a checkpoint's generator.

    Args:
        path: a checkpoint of i2i-train.
        statistics: what batch norms normalise with; None takes what the training's batch size suggests.

    Raises:
        ModelError: not a whole checkpoint of ours.
    """
    checkpoint = load_checkpoint(path)
    card = checkpoint.card
    if "G" not in checkpoint.networks:
        raise ModelError(f"{path}: expected a generator G, found {', '.join(checkpoint.networks)}")
    generator = build_generator(card.generator)
    load_weights(generator, checkpoint.networks["G"], f"{path}: generator")
    if statistics is None:
        statistics = default_statistics(card.training.batch if card.training else 1)
    made_with = MadeWith(versions=card.made_with.versions, source_sha256=file_sha256(path))
    return Trained(
        generator=for_inference(generator, statistics),
        card=replace(card, made_with=made_with),
        pictures=[np.ascontiguousarray(picture) for picture in checkpoint.pictures.numpy()],
        statistics=statistics,
    )
