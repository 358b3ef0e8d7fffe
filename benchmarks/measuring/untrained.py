"""Generators with initial weights, for benchmarks of speed: it does not depend on what was learnt."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from i2i_export.delivery import prepare
from i2i_export.graph import build_graph
from i2i_export.proof import drawn_pictures
from i2i_export.request import Request
from i2i_runtime.card import Architecture, Card, ImageSpec, LabelSpec, TrainingRecord
from i2i_trainer.checkpoint import Checkpoint, save_checkpoint
from i2i_trainer.networks.build import new_generator, size_rule
from i2i_trainer.networks.inference import as_used
from i2i_trainer.trained import Trained

_CITYSCAPES = LabelSpec(count=35, instance_edges=True)
"""What pix2pixHD's published generators take."""


def untrained_card(name: str, ngf: int, size: tuple[int, int]) -> Card:
    """The card of a generator such as `resnet_9blocks`; pix2pixHD's `global` and `local` take label maps.

    Args:
        name: see `networks.build`.
        ngf: its width.
        size: (height, width) in pixels that it is meant for.

    Raises:
        UsageError: no such generator.
    """
    labels = _CITYSCAPES if name in ("global", "local") else None
    channels = labels.count + labels.instance_edges if labels is not None else 3
    norm = {} if labels is not None else {"norm": "instance"}
    architecture = Architecture(
        name=name, arguments={"input_channels": channels, "output_channels": 3, "ngf": ngf, **norm}
    )
    return Card(
        name=f"{name}_ngf{ngf}",
        model_type="cyclegan" if labels is None else "pix2pixhd",
        direction="AtoB",
        generator=architecture,
        input=ImageSpec.of(3 if labels is None else 1),
        output=ImageSpec.of(3),
        size=size_rule(architecture),
        labels=labels,
        training=TrainingRecord(data="none", size=size, batch=1, steps=0, epochs=0.0, seed=0),
    )


def save_untrained_checkpoint(path: Path, card: Card) -> Path:
    """Write a checkpoint of a card's generator, with drawn pictures for examples.

    Raises:
        UsageError: no such generator.
    """
    torch.manual_seed(0)
    generator = new_generator(card.generator)
    size = card.training.size if card.training is not None else (256, 256)
    examples = [
        {part: torch.from_numpy(array) for part, array in picture.items()} for picture in drawn_pictures(card, size)
    ]
    networks = {"G": generator.state_dict()}
    if card.labels is not None and card.labels.styles:
        features = int(card.generator.arguments["input_channels"]) - card.labels.count - card.labels.instance_edges
        networks["styles"] = {"codes": torch.zeros(card.labels.styles, card.labels.count, features)}
    save_checkpoint(
        path,
        Checkpoint(cards={"G": card}, config="{}", networks=networks, examples={"G": examples}, training_state=None),
    )
    return path


def save_untrained(path: Path, name: str, ngf: int, size: int) -> Path:
    """Write the float ONNX file of generator `name` (such as `resnet_9blocks`) for pictures of size x size."""
    torch.manual_seed(0)
    card = untrained_card(name, ngf, (size, size))
    examples = [{"image": torch.rand(1, 3, size, size) * 2 - 1}]
    network = as_used(new_generator(card.generator), "image", None)
    trained = Trained(generator=network, card=card, examples=examples, statistics="image")
    card, _ = prepare(trained, Request(output=path, target="onnx", graph_io="float", size=(size, size)))
    onnx.save(build_graph(network, card), path)
    return path
