"""From a checkpoint to a generator in the form in which it is used: for evaluation and export."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from i2i_runtime.card import Card, MadeWith
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.checkpoint import Checkpoint, file_sha256, load_checkpoint, load_weights
from i2i_trainer.networks.build import build_generator
from i2i_trainer.networks.inference import NormStatistics, as_used, default_statistics

Direction = Literal["AtoB", "BtoA"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A generator ready for use."""

    generator: nn.Module
    """In evaluation mode, on the CPU: a fixed function of a picture or, where the card has labels, a label map."""
    card: Card
    examples: list[dict[str, Tensor]]
    """The inputs that travel in the checkpoint, without a batch axis: `input` and, of some label maps, `instances`."""
    statistics: NormStatistics


def load_trained(
    path: Path, *, direction: Direction | None = None, statistics: NormStatistics | None = None
) -> Trained:
    """Load a checkpoint's generator.

    Args:
        path: a checkpoint of i2i-train.
        direction: of those that the model has learnt; None takes that of its training.
        statistics: what batch norms normalise with; None takes what the training's batch size suggests.

    Raises:
        ModelError: not a whole checkpoint of ours.
        UsageError: a direction that it has not learnt.
    """
    return choose_direction(load_directions(path, statistics), direction, path)


def choose_direction(learnt: dict[Direction, Trained], direction: Direction | None, path: Path) -> Trained:
    """Of what `load_directions` gave the generator of a direction; None: of the training's.

    Raises:
        UsageError: a direction that it has not learnt.
    """
    wanted = direction or next(iter(learnt))
    if wanted not in learnt:
        raise UsageError(f"--direction {direction}: {path} has learnt {' and '.join(learnt)} only")
    return learnt[wanted]


def load_directions(path: Path, statistics: NormStatistics | None = None) -> dict[Direction, Trained]:
    """Load every generator of a checkpoint that translates: first that of its training's direction.

    Raises:
        ModelError: not a whole checkpoint of ours.
    """
    checkpoint = load_checkpoint(path)
    if not checkpoint.cards:
        raise ModelError(f"{path}: expected a generator, found none")
    return {card.direction: _trained(path, checkpoint, name, statistics) for name, card in checkpoint.cards.items()}


def _trained(path: Path, checkpoint: Checkpoint, name: str, statistics: NormStatistics | None) -> Trained:
    card = checkpoint.cards[name]
    if name not in checkpoint.networks:
        raise ModelError(f"{path}: expected a generator {name}, found {', '.join(checkpoint.networks)}")
    generator = build_generator(card.generator)
    load_weights(generator, checkpoint.networks[name], f"{path}: generator")
    if statistics is None:
        statistics = default_statistics(card.training.batch if card.training else 1)
    made_with = MadeWith(versions=card.made_with.versions, source_sha256=file_sha256(path))
    codes = checkpoint.networks.get("styles", {}).get("codes")
    return Trained(
        generator=as_used(generator, statistics, card.labels, codes),
        card=replace(card, made_with=made_with),
        examples=[
            {part: tensor.float() if tensor.is_floating_point() else tensor for part, tensor in example.items()}
            for example in checkpoint.examples.get(name, [])
        ],
        statistics=statistics,
    )
