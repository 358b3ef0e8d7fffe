"""From a checkpoint to a generator in the form in which it is used: for evaluation and export."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from i2i_runtime.card import Card, ImageSpec, MadeWith
from i2i_runtime.digest import file_sha256
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.checkpoint import Checkpoint, as_checkpoint, is_checkpoint, load_weights, read_tensors
from i2i_trainer.foreign import Direction as Direction
from i2i_trainer.foreign import Foreign, recognise, state_dicts_of
from i2i_trainer.networks.build import build_generator, size_rule
from i2i_trainer.networks.inference import NormStatistics, as_used, default_statistics
from i2i_trainer.networks.words import parse_words


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A generator ready for use."""

    generator: nn.Module
    """In evaluation mode, on the CPU: a fixed function of a picture or, where the card has labels, a label map."""
    card: Card
    examples: list[dict[str, Tensor]]
    """The inputs that travel in the checkpoint, without a batch axis: `input` and, of some label maps, `instances`."""
    statistics: NormStatistics
    recognised: str | None = None
    """Of someone else's generator: one line, what it was taken for, and what was assumed and left out. None of ours."""
    discriminator: dict[str, Tensor] | None = None
    """Weights of the network that judged its outputs in training; None where the file has none."""
    settings: str = "{}"
    """JSON of its training's settings (see `Checkpoint.config`); without any of someone else's."""


def load_trained(
    path: Path,
    *,
    direction: Direction | None = None,
    statistics: NormStatistics | None = None,
    arch: str | None = None,
) -> Trained:
    """Load the generator of a checkpoint, ours or someone else's.

    Args:
        path: a checkpoint of i2i-train, or the state dict of a generator whose layout is known (see `foreign`).
        direction: of those that the model has learnt; None takes that of its training.
        statistics: what batch norms normalise with; None takes what the training's batch size suggests, and of someone
            else's generator the picture's own, as the reference implementations do.
        arch: of someone else's generator what its keys do not tell, as `words.parse_words` reads it.

    Raises:
        ModelError: not a whole checkpoint, or a generator that is not known.
        UsageError: a direction that it has not learnt; an `arch` that is wrong or not needed.
    """
    return choose_direction(load_directions(path, statistics, arch), direction, path)


def choose_direction(learnt: dict[Direction, Trained], direction: Direction | None, path: Path) -> Trained:
    """Of what `load_directions` gave the generator of a direction; None: of the training's.

    Raises:
        UsageError: a direction that it has not learnt.
    """
    wanted = direction or next(iter(learnt))
    if wanted not in learnt:
        raise UsageError(f"--direction {direction}: {path} has learnt {' and '.join(learnt)} only")
    return learnt[wanted]


def load_directions(
    path: Path, statistics: NormStatistics | None = None, arch: str | None = None
) -> dict[Direction, Trained]:
    """Load every generator of a checkpoint that translates: first that of its training's direction.

    Args:
        path: see `load_trained`.
        statistics: see `load_trained`.
        arch: see `load_trained`.

    Raises:
        ModelError: not a whole checkpoint, or a generator that is not known.
        UsageError: an `arch` that is wrong or not needed.
    """
    payload = read_tensors(path)
    if not is_checkpoint(payload):
        return _foreign(path, payload, statistics, arch)
    if arch is not None:
        raise UsageError(f"--arch {arch}: {path} is a checkpoint of i2i-train, which states its own; leave it out")
    checkpoint = as_checkpoint(payload, path)
    if not checkpoint.cards:
        raise ModelError(f"{path}: expected a generator, found none")
    return {card.direction: _trained(path, checkpoint, name, statistics) for name, card in checkpoint.cards.items()}


def _foreign(
    path: Path, payload: object, statistics: NormStatistics | None, arch: str | None
) -> dict[Direction, Trained]:
    overrides = {} if arch is None else parse_words(arch, "--arch")
    # Their trainings call the way back, from B to A, G_B.
    of_name: Direction = "BtoA" if path.stem.endswith("G_B") else "AtoB"
    return {
        direction or of_name: _foreign_generator(
            path,
            recognise(weights, f"{path} ({direction})" if direction else str(path), overrides),
            direction or of_name,
            statistics,
        )
        for direction, weights in state_dicts_of(payload, str(path)).items()
    }


def _foreign_generator(path: Path, found: Foreign, direction: Direction, statistics: NormStatistics | None) -> Trained:
    generator = build_generator(found.architecture)
    load_weights(generator, found.weights, f"{path}: generator")
    notes = found.notes
    if statistics is None and found.has_batch_norms:
        notes += ("the picture's statistics for its batch norms assumed (--norm-statistics running takes training's)",)
    # The reference implementations translate in training mode, at batch 1.
    statistics = statistics or "image"
    card = Card(
        name=_name(path),
        model_type=found.model_type,
        direction=direction,
        generator=found.architecture,
        input=ImageSpec.of(1 if found.labels else found.input_channels),
        output=ImageSpec.of(found.output_channels),
        size=size_rule(found.architecture),
        labels=found.labels,
        made_with=MadeWith(source_sha256=file_sha256(path)),
    )
    return Trained(
        generator=as_used(generator, statistics, card.labels),
        card=card,
        examples=[],
        statistics=statistics,
        recognised="; ".join((f"{found.kind}: {found.described}", *notes)),
    )


def _name(path: Path) -> str:
    """A training's name: the folder of a file that is called the same in every training, else the file."""
    of_every_training = re.fullmatch(r"(?:(?:\w+_)?net_?)?G(?:_[AB])?", path.stem)
    return (path.resolve().parent.name if of_every_training else "") or path.stem


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
        # Generators are called G, or G_A and G_B, and what judges each D, D_A and D_B.
        discriminator=checkpoint.networks.get(name.replace("G", "D", 1)),
        settings=checkpoint.config,
    )
