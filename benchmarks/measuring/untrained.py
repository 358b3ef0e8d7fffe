"""Exported generators with initial weights, for benchmarks of speed: it does not depend on what was learnt."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from i2i_export.delivery import prepare
from i2i_export.graph import build_graph
from i2i_export.request import Request
from i2i_runtime.card import Architecture, Card, ImageSpec
from i2i_trainer.networks.build import new_generator, size_rule
from i2i_trainer.networks.inference import as_used
from i2i_trainer.trained import Trained


def save_untrained(path: Path, name: str, ngf: int, size: int) -> Path:
    """Write the float ONNX file of generator `name` (such as `resnet_9blocks`) for pictures of size x size."""
    torch.manual_seed(0)
    arguments = {"input_channels": 3, "output_channels": 3, "ngf": ngf, "norm": "instance"}
    architecture = Architecture(name=name, arguments=arguments)
    card = Card(
        name=path.stem,
        model_type="cyclegan",
        direction="AtoB",
        generator=architecture,
        input=ImageSpec.of(3),
        output=ImageSpec.of(3),
        size=size_rule(architecture),
    )
    examples = [{"image": torch.rand(1, 3, size, size) * 2 - 1}]
    network = as_used(new_generator(architecture), "image", None)
    trained = Trained(generator=network, card=card, examples=examples, statistics="image")
    card, _ = prepare(trained, Request(output=path, target="onnx", graph_io="float", size=(size, size)))
    onnx.save(build_graph(network, card), path)
    return path
