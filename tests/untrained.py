"""Checkpoints as a training writes them, without the training: random weights that are far from a fresh network's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from drawings import drawing, outlines
from torch import nn

from i2i_runtime.card import Architecture, Card, ImageSpec, LabelSpec, TrainingRecord
from i2i_trainer.checkpoint import Checkpoint, save_checkpoint
from i2i_trainer.data.transforms import to_tensor
from i2i_trainer.networks.build import build_generator, size_rule
from i2i_trainer.networks.layers import init_weights

CLASSES = 4
STYLES = 3
FEATURES = 2
HD = {"ngf": 2, "n_downsampling": 2, "n_blocks": 1}


def save_untrained(
    path: Path,
    name: str = "resnet_1blocks",
    size: tuple[int, int] = (32, 32),
    *,
    labels: LabelSpec | None = None,
    batch: int = 1,
    pictures: int = 4,
    change: Callable[[nn.Module], None] | None = None,
    title: str = "drawings",
    **arguments: int | float | str | bool,
) -> Path:
    """Write the checkpoint of generator `name` with `arguments`; `change` may alter its weights.

    The running statistics of its norms are not those of a fresh one either. It brings its own example pictures.
    """
    torch.manual_seed(0)
    channels = 3 if labels is None else labels.count + labels.instance_edges + (FEATURES if labels.styles else 0)
    architecture = Architecture(
        name=name, arguments={"input_channels": channels, "output_channels": 3, "ngf": 4, **arguments}
    )
    generator = build_generator(architecture)
    init_weights(generator, gain=0.1)
    with torch.no_grad():
        for _ in range(3):
            generator(torch.randn(2, channels, *size) * 2 + 0.5)
        if change is not None:
            change(generator)
    card = Card(
        name=title,
        model_type="pix2pix" if labels is None else "pix2pixhd",
        direction="AtoB",
        generator=architecture,
        input=ImageSpec.of(3 if labels is None else 1),
        output=ImageSpec.of(3),
        size=size_rule(architecture),
        labels=labels,
        training=TrainingRecord(data="drawings", size=size, batch=batch, steps=3, epochs=1.0, seed=0),
    )
    networks = {"G": generator.state_dict()}
    if labels is not None and labels.styles:
        networks["styles"] = {"codes": torch.randn(labels.styles, labels.count, FEATURES) * 3}
    save_checkpoint(
        path,
        Checkpoint(
            cards={"G": card},
            config="{}",
            networks=networks,
            examples={"G": [_example(seed, size, labels) for seed in range(pictures)]},
            training_state=None,
        ),
    )
    return path


def save_untrained_labels(path: Path, name: str = "global", size: tuple[int, int] = (32, 32), **settings) -> Path:
    """As `save_untrained`, of a pix2pixHD with instance edges and styles to choose from."""
    labels = LabelSpec(count=CLASSES, instance_edges=True, styles=STYLES)
    own = {"n_local_blocks": 1} if name == "local" else {}
    return save_untrained(path, name, size, labels=labels, **{**HD, **own, **settings})


def label_map(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    """(h, w, 2) int32: class ids of a drawing, and instance ids that tell apart what stands left and right."""
    labels = (drawing(seed, height, width)[:, :, 0] // 64).astype(np.int32)
    return np.dstack((labels, labels * 1000 + (np.arange(width) * 3 // width).astype(np.int32)))


def _example(seed: int, size: tuple[int, int], labels: LabelSpec | None) -> dict[str, torch.Tensor]:
    if labels is None:
        return {"input": to_tensor(outlines(drawing(seed, *size))).half()}
    maps = torch.from_numpy(label_map(seed, *size)).permute(2, 0, 1).contiguous()
    return {"input": maps[:1]} | ({"instances": maps[1:]} if labels.instance_edges else {})
