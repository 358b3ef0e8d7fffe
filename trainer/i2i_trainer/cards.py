"""The cards of a training's generators: what each takes, returns and has been trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch

from i2i_runtime import __version__
from i2i_runtime.card import Card, ImageSpec, LabelSpec, MadeWith, TrainingRecord
from i2i_trainer.config import RunConfig, Size
from i2i_trainer.models.base import Model
from i2i_trainer.networks.build import size_rule


def cards_of(
    model: Model[Any],
    run: RunConfig,
    model_type: str,
    labels: LabelSpec | None,
    *,
    size: Size,
    step: int,
    epoch_steps: int,
) -> dict[str, Card]:
    """Network name to card, of each generator that translates: first that of the run's direction.

    Args:
        model: whose generators they are.
        run: settings of the run.
        model_type: its name.
        labels: what the label maps hold; None where the input is a picture.
        size: (height, width) of the training images in this stage.
        step: steps that are done.
        epoch_steps: steps of an epoch.
    """
    codes = model.style_codes
    if labels is not None and codes is not None:
        labels = dataclasses.replace(labels, styles=len(codes))
    given, returned = ImageSpec.of(run.input_channels), ImageSpec.of(run.output_channels)
    back: Literal["AtoB", "BtoA"] = "BtoA" if run.direction == "AtoB" else "AtoB"
    record = TrainingRecord(
        data=Path(run.data).resolve().name,
        size=size,
        batch=run.batch,
        steps=step,
        epochs=step / epoch_steps,
        seed=run.seed,
    )
    ways = ((run.direction, given if labels is None else ImageSpec.of(1), returned), (back, returned, given))
    return {
        name: Card(
            name=Path(run.out).resolve().name,
            model_type=model_type,
            direction=direction,
            generator=architecture,
            input=its_input,
            output=its_output,
            size=size_rule(architecture),
            labels=labels,
            training=record,
            made_with=MadeWith(versions={"i2i": __version__, "torch": torch.__version__}),
        )
        for (name, architecture), (direction, its_input, its_output) in zip(
            model.translators.items(), ways, strict=False
        )
    }
