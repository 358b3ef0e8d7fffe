"""The cards of a training's generators: what each takes, returns and has been trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from i2i_runtime import __version__
from i2i_runtime.card import Card, ImageSpec, LabelSpec, MadeWith, StudentRecord, TrainingRecord
from i2i_trainer.config import RunConfig, Size
from i2i_trainer.models.base import Model
from i2i_trainer.networks.build import size_rule


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What a student lost against its teacher, by the names of `evaluation.evaluate`."""

    step: int
    """At which it was measured."""
    pictures: int
    to_teacher: Mapping[str, float]
    """Of its outputs against the teacher's."""
    own: Mapping[str, float]
    """Against the targets, where there are any."""
    teachers_own: Mapping[str, float]
    """The same of the teacher."""


def cards_of(
    model: Model[Any],
    run: RunConfig,
    model_type: str,
    labels: LabelSpec | None,
    *,
    size: Size,
    step: int,
    epoch_steps: int,
    lost: Lost | None = None,
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
        lost: of a student, the last measurement; of another step it says nothing about this one.
    """
    teacher = model.teacher
    student = None if teacher is None else _student(teacher.card, lost if lost and lost.step == step else None)
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
            # It translates as its teacher does, and is measured on the same kind of data.
            model_type=model_type if teacher is None else teacher.card.model_type,
            direction=direction,
            generator=architecture,
            input=its_input,
            output=its_output,
            size=size_rule(architecture),
            labels=labels,
            training=record,
            student=student,
            made_with=MadeWith(versions={"i2i": __version__, "torch": torch.__version__}),
        )
        for (name, architecture), (direction, its_input, its_output) in zip(
            model.translators.items(), ways, strict=False
        )
    }


def _student(teacher: Card, lost: Lost | None) -> StudentRecord:
    record = StudentRecord(
        teacher=teacher.name,
        teacher_sha256=teacher.made_with.source_sha256 or "",
        teacher_generator=teacher.generator,
    )
    if lost is None:
        return record
    return dataclasses.replace(
        record,
        pictures=lost.pictures,
        psnr_db=lost.to_teacher.get("PSNR"),
        ssim=lost.to_teacher.get("SSIM"),
        truth_l1=lost.own.get("L1"),
        truth_ssim=lost.own.get("SSIM"),
        teacher_truth_l1=lost.teachers_own.get("L1"),
        teacher_truth_ssim=lost.teachers_own.get("SSIM"),
    )
