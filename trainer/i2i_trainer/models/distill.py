"""Distillation: a small, fast generator learns to repeat a trained one (after GAN Compression, Li et al. 2020)."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i_runtime.card import Architecture, Card
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.checkpoint import load_weights
from i2i_trainer.config import ModelConfig, RunConfig, flag, option
from i2i_trainer.data.unpaired import find_domains
from i2i_trainer.foreign import Direction
from i2i_trainer.losses import GanObjective, discriminator_gan_loss, generator_gan_loss, sum_of
from i2i_trainer.models import base
from i2i_trainer.models.base import Batch, Images, Losses, Part, Task
from i2i_trainer.networks.build import check_size, new_generator, size_rule
from i2i_trainer.networks.inference import LabelTranslator
from i2i_trainer.networks.layers import init_weights
from i2i_trainer.networks.patchgan import MultiscalePatchGAN, PatchGAN, check_patches, patchgan_of
from i2i_trainer.networks.pruning import start_from_teacher
from i2i_trainer.networks.taps import Taps, evenly, of_one_size, points_of
from i2i_trainer.networks.words import architecture_of
from i2i_trainer.trained import Trained, choose_direction, load_directions

_DEPTHS = 4
"""Places at which features are matched: as published before, between and behind thirds of the blocks."""
_PAIRED = ("pix2pix", "pix2pixhd")
"""Model types that learn pictures from pairs; any other has two sets of pictures, which pairs are as well."""

_NO_STUDENT = (
    "--student or --budget: expected one of them, found none; for example --student student_6blocks,width=32, or "
    "--budget 60fps --engine-profile machine.json"
)


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """Defaults are those of GAN Compression's published trainings."""

    teacher: str = option(
        "", "Checkpoint of the generator to repeat: RUN/best.pt, or another one that is known.", may_change=True
    )
    teacher_arch: str = option("", "Of someone else's generator what its keys do not tell, as i2i-export --arch.")
    teacher_sha256: str = option("", "Digest that the teacher's file must have; by default what it has at the start.")
    pairs: bool | None = option(
        None, "Whether --data holds pairs; by default as the teacher learnt, of someone else's ResNet as --data is."
    )
    student: str = option("", "The generator that learns: student_6blocks,width=32, resnet_6blocks,ngf=16, ...")
    budget: str = option("", "Time for a picture, 15ms or 60fps: chooses the student, for --engine-profile.")
    engine_profile: str = option("", "File of `i2i-export profile`: how fast the machine is that will run the student.")
    engine: str = option("", "The engine of --engine-profile that will run it; by default any in FP32 or FP16.")
    block: Literal["any", "plain", "grouped", "separable"] = option(
        "any", "Blocks of the student that --budget chooses; any: those with the most multiply-adds in the time."
    )
    init: Literal["teacher", "fresh"] = option(
        "teacher", "First weights of a student_N: pruned from the teacher and fitted to it, or fresh ones."
    )
    recon: Literal["teacher", "target"] = option(
        "teacher", "What outputs should be near: the teacher's, or with pairs the targets."
    )
    lambda_recon: float | None = option(None, "Weight of that L1 loss; by default 100 with pairs, else 10.", minimum=0)
    lambda_distill: float | None = option(
        None, "Weight of the feature loss; by default 1 with pairs, else 0.01.", minimum=0
    )
    lambda_gan: float = option(1.0, "Weight of the adversarial loss; 0: there is no discriminator.", minimum=0)
    gan: Literal["auto", "vanilla", "lsgan", "hinge"] = option("auto", "GAN objective; auto: the teacher's, or lsgan.")
    ndf: int = option(64, "First features of the discriminator, where the teacher's file holds none.", minimum=1)
    n_layers: int = option(3, "Strided layers of the discriminator, where the teacher's file holds none.", minimum=1)

    def unstated(self, flags: Set[str]) -> Set[str]:
        """A file's digest is that of its own teacher, and its student was chosen for its own budget and size."""
        others = {"teacher_sha256"} if "teacher" in flags else set()
        if self.budget and flags & {"size", "budget", "engine_profile", "engine", "block"}:
            others.add("student")
        return (others - flags) | {name for name in ("teacher_sha256", "student") if not getattr(self, name)}


class Model(base.Model[Config]):
    """Section 3.1: outputs and features of the student are those of its teacher, and look real.

    The teacher's outputs take the place of targets, which makes pairs of unpaired pictures. By default they do so
    where there are targets, too, unlike in the paper: a target holds what nobody could know from its input, and the
    mean of all that it might have been, which is what L1 asks for, is blurred; the teacher has decided for one.
    """

    step_order: tuple[Part, ...] = ("generator", "discriminator")

    def __init__(self, config: Config, task: Task) -> None:
        """See `base.Model`.

        Raises:
            ModelError: the teacher's file is no generator, or another one than at the start.
        """
        if not config.student:
            raise UsageError(_NO_STUDENT)
        self.config = config
        self.teacher = teacher = _load_teacher(config, task.direction)
        card = teacher.card
        if config.teacher_sha256 not in ("", card.made_with.source_sha256):
            raise ModelError(
                f"--teacher {config.teacher}: expected SHA-256 {config.teacher_sha256[:12]}..., which --teacher-sha256 "
                f"states or this training began with, found {str(card.made_with.source_sha256)[:12]}...; bring that "
                "file back, or start another run"
            )
        _check_task(config, teacher, task)
        is_paired = _learns_from_pairs(config, card)
        self.data = "paired" if is_paired else "unpaired"
        self.random_crop = card.model_type != "pix2pixhd"
        if config.recon == "target" and not is_paired:
            raise UsageError("--recon target: there are no targets without pairs; if --data holds pairs, add --pairs")
        self._lambda_recon = _first(config.lambda_recon, 100.0 if is_paired else 10.0)
        self._lambda_distill = _first(config.lambda_distill, 1.0 if is_paired else 0.01)
        self._gan = _objective(config, teacher)

        self._frozen = teacher.generator
        if isinstance(self._frozen, LabelTranslator):
            if self._frozen.style_codes is not None:
                self.style_codes = self._frozen.get_buffer("style_codes")
            self._frozen = self._frozen.generator
        given, returned = _channels(card)
        architecture = architecture_of(config.student, "--student", input_channels=given, output_channels=returned)
        check_size(architecture, task.size)
        self.translators = {"G": architecture}
        student = new_generator(architecture)
        self.generators = nn.ModuleDict({"G": student})
        its_points, teachers_points = points_of(student), points_of(self._frozen)
        self._depths = min(_DEPTHS, len(its_points), len(teachers_points)) if self._lambda_distill else 0
        self._seen = Taps(evenly(its_points, self._depths))
        self._wanted = Taps(evenly(teachers_points, self._depths))
        if self._depths:
            widths = zip(
                _widths(student, architecture, self._seen),
                _widths(self._frozen, card.generator, self._wanted),
                strict=True,
            )
            self.generators["adaptors"] = adaptors = Adaptors(nn.Conv2d(its, wanted, 1) for its, wanted in widths)
            init_weights(adaptors)

        self.discriminators, self._begins_as_teachers = nn.ModuleDict(), False
        if not config.lambda_gan:
            self.step_order = ("generator",)
            return
        # Of pairs it sees the input, too (pix2pix section 3.1).
        channels = task.output_channels + (task.input_channels if is_paired else 0)
        judge = _teachers_judge(config, teacher, task)
        self._begins_as_teachers = judge is not None and judge.input_channels == channels
        if judge is None or not self._begins_as_teachers:
            check_patches(task.size, config.n_layers)
            judge = PatchGAN(channels, config.ndf, config.n_layers, "instance")
        self.discriminators["D"] = judge
        init_weights(self.discriminators)

    @classmethod
    def settle(
        cls, run: RunConfig, config: Config, *, flags: Set[str], in_file: Set[str], say: Callable[[str], None]
    ) -> tuple[RunConfig, Config]:
        """What is translated follows from the teacher, and the student from the budget.

        Raises:
            UsageError: something is missing, or stated otherwise than the teacher has it.
            ModelError: a file that cannot be used.
        """
        stated = {*flags, *in_file}
        teacher = _load_teacher(config, run.direction if "direction" in stated else None)
        card = teacher.card
        facts = _run_of(card)
        for name, value in facts.items():
            if name in stated and getattr(run, name) != value:
                raise UsageError(
                    f"{flag(name)}: {_words(config)} has {value}, found {getattr(run, name)}; leave it "
                    "out: what a student translates is what its teacher does"
                )
        if card.training is not None and "size" not in stated:
            facts["size"] = card.training.size
        if "direction" not in stated:
            facts["direction"] = card.direction
        if config.recon == "target" and "best_by" not in stated:
            facts["best_by"] = "L1"
        run = dataclasses.replace(run, **facts)
        pairs = config.pairs
        if pairs is None and teacher.recognised is not None and not _learns_from_pairs(config, card):
            # Its method is a guess. Two folders can hold pairs as well, by their names; nobody says so.
            pairs = not find_domains(Path(run.data), ("train", ""))[0]
        settled = dataclasses.replace(
            config,
            pairs=pairs,
            student=_choose_student(run, config, card, flags, say),
            teacher_sha256=config.teacher_sha256 or card.made_with.source_sha256 or "",
        )
        return run, settled

    def start(self, batches: Iterable[Batch]) -> None:
        """The discriminator begins as the teacher's, and the student as near to the teacher as it can."""
        assert self.teacher is not None
        if self._begins_as_teachers:
            weights = self.teacher.discriminator or {}
            load_weights(self.discriminators["D"], weights, f"--teacher {self.config.teacher}: discriminator")
        if self.config.init == "teacher":
            start_from_teacher(self.generators["G"], self._frozen, map(self._given, batches))

    def _given(self, batch: Batch) -> Tensor:
        """What both generators take: of label maps with the features of a style, drawn anew each time."""
        assert self.teacher is not None
        whole = self.teacher.generator
        if not isinstance(whole, LabelTranslator):
            return batch.input
        codes = self.style_codes
        style = None if codes is None else torch.randint(len(codes), (1,)).to(batch.input.device)
        return whole.styled(batch.input, style)

    def translate(self, batch: Batch) -> Images:
        """Both generators' answers, and what went through them at the depths that are matched."""
        given = self._given(batch)
        with self._wanted.looking() as wanted, torch.no_grad():
            images = {"teacher_B": self._frozen(given)}
        with self._seen.looking() as seen:
            images["fake_B"] = self.generators["G"](given)
        for number in range(self._depths):
            images |= {f"teacher_{number}": wanted[number], f"student_{number}": seen[number]}
        return images

    def _judge(self, batch: Batch, image: Tensor) -> list[Tensor]:
        """Logits of each scale; a discriminator of pairs sees the input as well."""
        verdict = self.discriminators["D"](torch.cat([batch.input, image], 1) if self.data == "paired" else image)
        return [verdict] if isinstance(verdict, Tensor) else [scale[-1] for scale in verdict]

    def generator_loss(self, batch: Batch, images: Images) -> Losses:
        """Equation 5: the teacher's output met, its features met through 1x1 adaptors, the discriminator convinced."""
        wanted = images["teacher_B"] if self.config.recon == "teacher" else batch.target
        losses = {"G_recon": self._lambda_recon * functional.l1_loss(images["fake_B"], wanted)}
        if self._depths:
            adapted = self.generators["adaptors"]([images[f"student_{number}"] for number in range(self._depths)])
            errors = [
                functional.mse_loss(*of_one_size(features, images[f"teacher_{number}"]))
                for number, features in enumerate(adapted)
            ]
            losses["G_distill"] = self._lambda_distill * sum_of(errors)
        if self.config.lambda_gan:
            verdicts = [generator_gan_loss(logits, self._gan) for logits in self._judge(batch, images["fake_B"])]
            losses["G_GAN"] = self.config.lambda_gan * sum_of(verdicts)
        return losses

    def discriminator_loss(self, batch: Batch, images: Images) -> Losses:
        """The student's outputs against real pictures of the domain that the teacher translates to."""
        on_fake, on_real = (self._judge(batch, image) for image in (images["fake_B"].detach(), batch.target))
        return {
            "D_fake": sum_of([discriminator_gan_loss(logits, False, self._gan) for logits in on_fake]),
            "D_real": sum_of([discriminator_gan_loss(logits, True, self._gan) for logits in on_real]),
        }


class Adaptors(nn.ModuleList):
    """1x1 convolutions from a student's features to as many as its teacher has, one for each depth."""

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(n, c, h, w) of each depth to (n, d, h, w)."""
        return [adaptor(x) for adaptor, x in zip(self, features, strict=True)]


@torch.no_grad()
def _widths(generator: nn.Module, architecture: Architecture, taps: Taps) -> list[int]:
    """The channels at each point: the smallest picture that the generator takes tells them."""
    side, was_training = size_rule(architecture).minimum, generator.training
    with taps.looking() as seen:
        generator.eval()(torch.zeros(1, int(architecture.arguments["input_channels"]), side, side))
    generator.train(was_training)
    return [features.shape[1] for _, features in sorted(seen.items())]


def _load_teacher(config: Config, direction: Direction | None) -> Trained:
    if not config.teacher:
        raise UsageError("--teacher: expected a trained generator, found nothing; for example --teacher RUN/best.pt")
    path = Path(config.teacher)
    try:
        learnt = load_directions(path, arch=config.teacher_arch or None)
    except ModelError as error:
        raise ModelError(f"--teacher {_with_our_flags(str(error))}") from error
    except UsageError as error:
        raise UsageError(_with_our_flags(str(error))) from error
    first = next(iter(learnt.values()))
    # Someone else's generator alone does not tell which side of the user's folders was its input.
    is_alone = first.recognised is not None and len(learnt) == 1
    found = first if is_alone else choose_direction(learnt, direction, path)
    return dataclasses.replace(found, recognised=found.recognised and _with_our_flags(found.recognised))


def _with_our_flags(text: str) -> str:
    """What was said about a checkpoint names flags of `i2i-export`."""
    return re.sub(r" \(--norm-statistics [^)]*\)", "", text).replace("--arch", "--teacher-arch")


def _learns_from_pairs(config: Config, teacher: Card) -> bool:
    if teacher.labels is None:
        return teacher.model_type in _PAIRED if config.pairs is None else config.pairs
    if config.pairs is False:
        raise UsageError(f"--no-pairs: {_words(config)} takes label maps, which are pairs with pictures; leave it out")
    return True


def _teachers_judge(config: Config, teacher: Trained, task: Task) -> PatchGAN | MultiscalePatchGAN | None:
    """The discriminator of the teacher's training, with fresh weights; None where its file holds none."""
    try:
        return patchgan_of(teacher.discriminator or {}, task.size)
    except UsageError:
        raise UsageError(
            f"--size {task.size[0]}x{task.size[1]}: leaves the discriminator of {_words(config)} nothing to judge; "
            "use a larger one, or --lambda-gan 0"
        ) from None


def _objective(config: Config, teacher: Trained) -> GanObjective:
    """The GAN objective: a discriminator that goes on from an earlier training knows that of it."""
    if config.gan != "auto":
        return config.gan
    try:
        before = json.loads(teacher.settings)["model"]["gan"]
    except (KeyError, TypeError, ValueError):  # someone else's, or of a model type without
        before = None
    return before if before in ("vanilla", "lsgan", "hinge") else "lsgan"


def _check_task(config: Config, teacher: Trained, task: Task) -> None:
    """Refuse pictures that are not the teacher's: with `settle` there are none."""
    card = teacher.card
    given = card.input.channels if card.labels is None else card.labels.count + card.labels.instance_edges
    wanted = (card.labels is not None, given, card.output.channels)
    found = (task.has_labels, task.input_channels, task.output_channels)
    if wanted != found:
        kinds = [f"{given} channels of {'labels' if has_labels else 'pictures'} to {returned}"
                 for has_labels, given, returned in (wanted, found)]  # fmt: skip
        raise UsageError(f"{_words(config)} translates {kinds[0]}, found settings for {kinds[1]}")
    if not card.size.allows(task.size):
        raise UsageError(
            f"--size {task.size[0]}x{task.size[1]}: {_words(config)} takes multiples of {card.size.multiple_of} from "
            f"{card.size.minimum} on"
        )


def _channels(teacher: Card) -> tuple[int, int]:
    """What a generator itself takes and returns: of labels one channel a class, edges, features of a style."""
    arguments = teacher.generator.arguments
    return int(arguments["input_channels"]), int(arguments["output_channels"])


def _choose_student(run: RunConfig, config: Config, teacher: Card, flags: Set[str], say: Callable[[str], None]) -> str:
    """The words for the student: as they were stated, or those of the best one within the budget."""
    for name in [name for name in ("budget", "engine_profile", "engine", "block") if name in flags]:
        if "student" in flags:
            raise UsageError(f"--student and {flag(name)}: expected one of them, found both")
        if not config.budget:
            raise UsageError(f"{flag(name)}: chooses a student for a budget, found none; for example --budget 60fps")
    if config.student:
        return config.student
    if not config.budget:
        raise UsageError(_NO_STUDENT)
    if not config.engine_profile:
        raise UsageError(
            f"--budget {config.budget}: on which machine? there run i2i-export profile --device here -o machine.json, "
            "and give --engine-profile machine.json"
        )
    from i2i_trainer.budget.machine import read_profile
    from i2i_trainer.budget.search import choose, parse_budget

    profile = read_profile(Path(config.engine_profile))
    profile.check(run.size, _channels(teacher))
    choice = choose(
        profile,
        parse_budget(config.budget),
        engine=config.engine or None,
        block=None if config.block == "any" else config.block,
    )
    words, its = choice.student.words(), profile.engine(choice.engine)
    threads = "" if profile.threads is None or its.device == "cuda" else f" --threads {profile.threads}"
    say(
        f"--budget {config.budget}: {words}, for which {choice.engine} should take {1e3 * choice.predicted_s:.3g} to "
        f"{1e3 * choice.longest_s:.3g} ms; there i2i-export {its.export_options} and i2i-run {its.run_options}{threads}"
    )
    return words


def _run_of(teacher: Card) -> dict[str, Any]:
    """The settings of a run that follow from what a generator translates."""
    facts: dict[str, Any] = {"output_channels": teacher.output.channels}
    if teacher.labels is None:
        return facts | {"label_nc": 0, "input_channels": teacher.input.channels}
    return facts | {"label_nc": teacher.labels.count, "instances": teacher.labels.instance_edges}


def _words(config: Config) -> str:
    return f"the teacher {config.teacher}"


def _first(stated: float | None, default: float) -> float:
    return default if stated is None else stated
