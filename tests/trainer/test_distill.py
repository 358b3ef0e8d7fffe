"""Distillation: whose student it is, what it learns from whom, how near it comes, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import foreign_networks as published
import numpy as np
import pytest
import torch
from commands import here, the_error_line
from drawings import write_labelled, write_pairs, write_unpaired
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from untrained import save_untrained

from i2i_runtime.card import Architecture, LabelSpec
from i2i_runtime.digest import file_sha256
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer import loop
from i2i_trainer.budget.machine import EngineTimes, MachineProfile, Table, read_profile, write_profile
from i2i_trainer.budget.search import choose
from i2i_trainer.budget.shape import StudentShape
from i2i_trainer.checkpoint import load_checkpoint
from i2i_trainer.config import RunConfig
from i2i_trainer.data.transforms import Preprocess
from i2i_trainer.loop import train
from i2i_trainer.models import config_type
from i2i_trainer.models.base import Batch, Task
from i2i_trainer.models.distill import Config, Model
from i2i_trainer.networks.build import build_generator
from i2i_trainer.networks.inference import LabelTranslator
from i2i_trainer.networks.patchgan import MultiscalePatchGAN, PatchGAN, patchgan_of
from i2i_trainer.trained import load_trained

STUDENT = "student_2blocks,width=8"
HD = {"ngf": 4, "ndf": 2, "n_downsampling": 2, "n_blocks": 2, "num_D": 2, "n_layers": 2, "n_local_blocks": 1}
TEACHERS = {
    "pix2pix": {"ngf": 4, "ndf": 4},
    "cyclegan": {"ngf": 4, "ndf": 4, "generator": "resnet_3blocks", "norm": "instance"},
    "pix2pixhd": {**HD, "n_enhancers": 1, "global_share": 0.0, "frozen_share": 0.0, "styles": 2},
}
DISCRIMINATORS = {"pix2pix": "D", "cyclegan": "D_A", "pix2pixhd": "D"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Pictures of all kinds: pairs, two sets, label maps with photographs."""
    folder = tmp_path_factory.mktemp("distill")
    for split, count, seed in (("train", 4, 0), ("val", 2, 100)):
        write_pairs(folder / "pairs" / split, count, 40, 40, first_seed=seed)
        write_labelled(folder / "labelled", split, count, 40, 40, first_seed=seed)
        write_unpaired(folder / "unpaired", split, count, count, 40, 40)
    return folder


@pytest.fixture(scope="module")
def data_of(home):
    return {"pix2pix": home / "pairs", "cyclegan": home / "unpaired", "pix2pixhd": home / "labelled"}


def settings(data: Path, out: Path, **changes) -> RunConfig:
    few = {"size": (32, 32), "steps": 2, "device": "cpu", "log_every": 1, "eval_every": 100, "sample_every": 100}
    return RunConfig(data=str(data), out=str(out), **{**few, **changes})


@pytest.fixture(scope="module")
def teachers(home, data_of):
    """A checkpoint of each model type, of a training of two steps."""
    for name, config in TEACHERS.items():
        labels = {"label_nc": 4} if name == "pix2pixhd" else {}
        run = settings(data_of[name], home / f"teacher_{name}", **labels)
        train(name, run, config_type(name)(**config), resume=None)
    return {name: home / f"teacher_{name}" / "last.pt" for name in TEACHERS}


def distil(teacher: Path, data: Path, out: Path, *more: object):
    """The command, in this process."""
    return here("i2i-train", "distill", "--teacher", teacher, "--data", data, "--out", out, "--steps", 2, *more)


@pytest.fixture(scope="module")
def students(home, teachers, data_of):
    """The folder of a run with each of the teachers: two steps, and an evaluation at their end."""
    for kind, teacher in teachers.items():
        done = distil(teacher, data_of[kind], home / f"student_{kind}", "--student", STUDENT, "--ema", 0)
        assert done.returncode == 0, done.stderr
    return {kind: home / f"student_{kind}" for kind in teachers}


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def model_of(teacher: Path, **changes) -> Model:
    """A student of 32x32 pixels, with the task that the teacher's card states."""
    torch.manual_seed(0)
    card = load_trained(teacher).card
    has_labels = card.labels is not None
    channels = card.labels.count + card.labels.instance_edges if has_labels else card.input.channels
    task = Task(size=(32, 32), input_channels=channels, has_labels=has_labels, direction=card.direction)
    return Model(Config(**{"teacher": str(teacher), "student": STUDENT, **changes}), task)


def batch_for(model: Model) -> Batch:
    task_channels = model.teacher.card.labels
    random = torch.Generator().manual_seed(1)
    target = torch.rand(2, 3, 32, 32, generator=random) * 2 - 1
    if task_channels is None:
        return Batch(input=torch.rand(2, 3, 32, 32, generator=random) * 2 - 1, target=target)
    ids = torch.randint(task_channels.count, (2, 1, 32, 32), generator=random)
    return Batch(input=model.teacher.generator.encoding(ids, ids), target=target, instances=ids, n_labels=4)


@pytest.mark.parametrize("kind", TEACHERS)
def test_what_a_student_translates_follows_from_its_teacher(teachers, students, kind):
    teacher, student = load_trained(teachers[kind]).card, load_trained(students[kind] / "last.pt").card

    assert student.generator.name == "student_2blocks"
    for fact in ("model_type", "direction", "input", "output", "labels"):
        assert getattr(student, fact) == getattr(teacher, fact), fact
    assert student.training.size == teacher.training.size == (32, 32)


@pytest.mark.parametrize("kind", TEACHERS)
def test_its_card_says_whose_it_is(teachers, students, kind):
    teacher = load_trained(teachers[kind]).card
    record = load_trained(students[kind] / "best.pt").card.student

    assert (record.teacher, record.teacher_generator) == (f"teacher_{kind}", teacher.generator)
    assert record.teacher_sha256 == teacher.made_with.source_sha256
    assert record.pictures == 2
    assert 0 < record.psnr_db < 40


def test_its_card_says_what_it_lost(teachers, students, data_of):
    student = load_trained(students["pix2pix"] / "best.pt")
    teacher = load_trained(teachers["pix2pix"])
    preprocess = Preprocess(size=(32, 32), load_size=(32, 32), flip=False)
    psnr, own, teachers_own = [], [], []
    for path in sorted((data_of["pix2pix"] / "val").iterdir()):
        both = cv2.imread(str(path))
        pair = preprocess.fixed({"input": both[:, :40], "target": both[:, 40:]})
        found, wanted = student.generator(pair["input"][None])[0], teacher.generator(pair["input"][None])[0]
        psnr.append(10 * np.log10(4 / (found - wanted).square().mean().item()))
        own.append((found - pair["target"]).abs().mean().item())
        teachers_own.append((wanted - pair["target"]).abs().mean().item())
    record = student.card.student
    assert record.psnr_db == pytest.approx(np.mean(psnr), abs=1e-3)
    assert record.truth_l1 == pytest.approx(np.mean(own), abs=1e-5)
    assert record.teacher_truth_l1 == pytest.approx(np.mean(teachers_own), abs=1e-5)


def test_a_checkpoint_between_two_evaluations_claims_no_figures(teachers, data_of, tmp_path, monkeypatch):
    pictures: dict[int, int] = {}
    real_save = loop.save_checkpoint

    def keep(path, checkpoint):
        real_save(path, checkpoint)
        card = checkpoint.cards["G"]
        pictures[card.training.steps] = card.student.pictures

    monkeypatch.setattr(loop, "save_checkpoint", keep)
    run = settings(data_of["pix2pix"], tmp_path / "run", steps=4, eval_every=2, save_every=1)
    train("distill", run, config_type("distill")(teacher=str(teachers["pix2pix"]), student=STUDENT), resume=None)

    assert pictures == {0: 0, 1: 0, 2: 2, 3: 0, 4: 2}


def test_of_two_sets_it_is_measured_against_the_teacher_alone(students):
    (evaluated,) = [line for line in metrics(students["cyclegan"]) if "pictures" in line]

    assert evaluated.keys() == {
        "step", "pictures", "val_L1_to_teacher", "val_PSNR_to_teacher", "val_SSIM_to_teacher",
    }  # fmt: skip
    assert load_trained(students["cyclegan"] / "best.pt").card.student.truth_l1 is None


@pytest.mark.parametrize(("kind", "columns"), [("pix2pix", 4), ("cyclegan", 3)])
def test_sample_grids_show_input_teacher_student_and_the_target_of_pairs(students, kind, columns):
    (sheet,) = (students[kind] / "samples").iterdir()

    assert cv2.imread(str(sheet)).shape[1] == columns * 36 - 4


def test_the_other_direction_of_a_cyclegan_is_a_teacher_too(teachers, data_of, tmp_path):
    out = tmp_path / "run"

    distil(teachers["cyclegan"], data_of["cyclegan"], out, "--student", STUDENT, "--direction", "BtoA")

    back, student = load_trained(teachers["cyclegan"], direction="BtoA"), load_checkpoint(out / "last.pt")
    assert student.cards["G"].direction == "BtoA"
    model = Model(Config(teacher=str(teachers["cyclegan"]), student=STUDENT), Task(size=(32, 32), direction="BtoA"))
    picture = batch_for(model).input
    assert torch.equal(model.translate(batch_for(model))["teacher_B"], back.generator(picture))
    model.start([])
    first = load_checkpoint(teachers["cyclegan"]).networks["D_B"]
    assert all(torch.equal(weight, first[key]) for key, weight in model.discriminators["D"].state_dict().items())


@pytest.mark.parametrize("kind", TEACHERS)
def test_the_discriminator_begins_as_the_teachers(teachers, kind):
    model = model_of(teachers[kind])

    model.start([])

    theirs = load_checkpoint(teachers[kind]).networks[DISCRIMINATORS[kind]]
    ours = model.discriminators["D"].state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@given(
    channels=st.integers(1, 5),
    ndf=st.integers(1, 4),
    n_layers=st.integers(1, 4),
    norm=st.sampled_from(["batch", "instance"]),
    scales=st.integers(0, 3),
)
def test_a_discriminator_is_rebuilt_from_its_weights_alone(channels, ndf, n_layers, norm, scales):
    layout = (channels, ndf, n_layers)
    network = MultiscalePatchGAN(*layout, scales, norm) if scales else PatchGAN(*layout, norm)

    again = patchgan_of(network.state_dict(), (64, 64))

    assert type(again) is type(network)
    assert again.input_channels == channels
    again.load_state_dict(network.state_dict())


def test_weights_of_another_network_are_no_discriminator():
    assert patchgan_of(nn.Linear(2, 2).state_dict(), (64, 64)) is None


def logits_of(model: Model, batch: Batch, image: torch.Tensor) -> list[torch.Tensor]:
    """What the discriminator of each scale says: of a conditional one's input and image together."""
    seen = image if model.data == "unpaired" else torch.cat((batch.input, image), 1)
    verdict = model.discriminators["D"](seen)
    return [verdict] if isinstance(verdict, torch.Tensor) else [features[-1] for features in verdict]


BY_HAND = {
    "vanilla": (lambda x: -x.sigmoid().log().mean(), lambda x: -(1 - x.sigmoid()).log().mean()),
    "lsgan": (lambda x: (x - 1).square().mean(), lambda x: x.square().mean()),
}
"""How far logits are from a verdict of real, and of generated."""


@pytest.mark.parametrize(
    ("kind", "objective", "scales"), [("pix2pix", "vanilla", 1), ("cyclegan", "lsgan", 1), ("pix2pixhd", "lsgan", 2)]
)
def test_gan_losses_go_on_with_what_the_teachers_discriminator_knows(teachers, kind, objective, scales):
    model = model_of(teachers[kind], lambda_gan=7.0)
    model.start([])
    batch = batch_for(model)
    images = model.translate(batch)
    as_real, as_fake = BY_HAND[objective]

    found = model.generator_loss(batch, images) | model.discriminator_loss(batch, images)

    fake, real = (logits_of(model, batch, image) for image in (images["fake_B"], batch.target))
    assert len(fake) == scales
    torch.testing.assert_close(found["G_GAN"], 7 * sum(map(as_real, fake)))
    torch.testing.assert_close(found["D_fake"], sum(map(as_fake, fake)))
    torch.testing.assert_close(found["D_real"], sum(map(as_real, real)))


def test_a_student_that_begins_as_its_teacher_is_nearer_to_it_than_a_fresh_one(tmp_path):
    save_untrained(tmp_path / "teacher.pt", "resnet_2blocks")
    distances = {}
    for init in ("teacher", "fresh"):
        model = model_of(tmp_path / "teacher.pt", init=init)
        batch = batch_for(model)

        model.start([batch])

        images = model.translate(batch)
        distances[init] = functional.l1_loss(images["fake_B"], images["teacher_B"]).item()

    assert distances["teacher"] < 0.5 * distances["fresh"]


@pytest.mark.parametrize(("kind", "crops"), [("pix2pix", True), ("cyclegan", True), ("pix2pixhd", False)])
def test_pictures_are_cropped_where_they_were_in_the_teachers_training(teachers, kind, crops):
    assert model_of(teachers[kind]).random_crop is crops


def test_without_a_gan_loss_there_is_no_discriminator(teachers, data_of, tmp_path):
    line = (teachers["pix2pix"], data_of["pix2pix"], tmp_path / "run", "--student", STUDENT, "--lambda-gan", 0)

    first, second = distil(*line, "--resume"), distil(*line, "--resume", "--steps", 3)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    assert checkpoint.networks.keys() == {"G", "adaptors"}
    assert checkpoint.training_state["step"] == 3
    assert {key for line in metrics(tmp_path / "run") for key in line if key[:2] in ("G_", "D_")} == {
        "G_recon", "G_distill",
    }  # fmt: skip


@pytest.mark.parametrize("kind", TEACHERS)
def test_gradients_reach_the_student_and_the_adaptors_and_nobody_else(teachers, kind):
    model = model_of(teachers[kind])
    model.discriminators.requires_grad_(False)  # as the loop does for the generators' step
    before = {key: weight.clone() for key, weight in model.teacher.generator.state_dict().items()}
    batch = batch_for(model)

    sum(model.generator_loss(batch, model.translate(batch)).values()).backward()

    assert model.generators.keys() == {"G", "adaptors"}
    assert all(weight.grad is not None and weight.grad.any() for weight in model.generators.parameters())
    assert all(weight.grad is None for weight in model.teacher.generator.parameters())
    assert all(torch.equal(before[key], weight) for key, weight in model.teacher.generator.state_dict().items())


def test_no_gradient_of_the_discriminators_loss_reaches_the_student(teachers):
    model = model_of(teachers["pix2pix"])
    batch = batch_for(model)

    sum(model.discriminator_loss(batch, model.translate(batch)).values()).backward()

    assert all(weight.grad is None for weight in model.generators.parameters())
    assert all(weight.grad is not None for weight in model.discriminators.parameters())


def test_the_teachers_file_stays_as_it_is_while_student_adaptors_and_discriminator_learn(teachers, students):
    first = model_of(teachers["pix2pix"])
    first.start([])
    last = load_checkpoint(students["pix2pix"] / "last.pt")

    assert file_sha256(teachers["pix2pix"]) == last.cards["G"].student.teacher_sha256
    assert last.networks.keys() == {"G", "adaptors", "D"}
    for name, network in {**first.generators, **first.discriminators}.items():
        key, weight = next(iter(network.state_dict().items()))
        assert not torch.equal(last.networks[name][key], weight), name


def test_the_losses_are_those_of_the_paper(teachers):
    model = model_of(teachers["cyclegan"], lambda_recon=3.0, lambda_distill=5.0, lambda_gan=7.0, gan="lsgan")
    batch = batch_for(model)
    images = model.translate(batch)

    losses = model.generator_loss(batch, images)

    # GAN Compression, equations 3 to 5, with what goes through the networks taken layer by layer.
    student, teacher = model.generators["G"].eval(), model.teacher.generator.model
    x, y = student.encoder(batch.input), teacher[:10](batch.input)
    seen, wanted = [x], [y]
    for block in student.blocks:
        seen.append(x := block(x))
    for block in teacher[10:13]:
        wanted.append(y := block(y))
    # Two blocks against three: before, in the middle and behind.
    matched = zip(model.generators["adaptors"], seen, [wanted[0], wanted[2], wanted[3]], strict=True)
    distance = sum(functional.mse_loss(adaptor(s), t) for adaptor, s, t in matched)
    output = student(batch.input)
    torch.testing.assert_close(losses["G_recon"], 3 * (output - teacher(batch.input)).abs().mean())
    torch.testing.assert_close(losses["G_distill"], 5 * distance)
    verdict = model.discriminators["D"](output)
    torch.testing.assert_close(losses["G_GAN"], 7 * (verdict - 1).square().mean())


def test_features_of_different_sizes_are_matched_at_the_smaller_one(teachers):
    model = model_of(teachers["pix2pix"])
    batch = batch_for(model)
    images = model.translate(batch)

    # A U-Net of 32 pixels: 16 and down to 2 on the way in, up to 16 on the way out.
    assert [images[f"teacher_{number}"].shape[-1] for number in range(3)] == [16, 2, 16]
    assert [images[f"student_{number}"].shape[-1] for number in range(3)] == [8, 8, 8]
    # Of the second alone: adaptors begin without a bias, so that nothing met by nothing costs nothing.
    for name in ("student_0", "teacher_0", "student_2", "teacher_2"):
        images[name] = torch.zeros_like(images[name])
    pooled = images["student_1"].reshape(2, 8, 2, 4, 2, 4).mean((3, 5))
    expected = functional.mse_loss(model.generators["adaptors"][1](pooled), images["teacher_1"])
    torch.testing.assert_close(model.generator_loss(batch, images)["G_distill"], expected)


@pytest.mark.parametrize(("kind", "recon", "distill"), [("pix2pix", 100, 1), ("cyclegan", 10, 0.01)])
def test_default_weights_are_those_of_the_published_trainings(teachers, kind, recon, distill):
    batch = batch_for(model_of(teachers[kind]))
    plain = model_of(teachers[kind], lambda_recon=1.0, lambda_distill=1.0)
    published_ones = model_of(teachers[kind])

    one, other = (model.generator_loss(batch, model.translate(batch)) for model in (plain, published_ones))

    torch.testing.assert_close(other["G_recon"], recon * one["G_recon"])
    torch.testing.assert_close(other["G_distill"], distill * one["G_distill"])
    torch.testing.assert_close(other["G_GAN"], one["G_GAN"])


def test_with_pairs_the_outputs_may_be_held_to_the_targets(teachers):
    model = model_of(teachers["pix2pix"], recon="target", lambda_recon=1.0)
    batch = batch_for(model)
    images = model.translate(batch)

    found = model.generator_loss(batch, images)["G_recon"]

    torch.testing.assert_close(found, (images["fake_B"] - batch.target).abs().mean())


def test_without_a_feature_loss_there_are_no_adaptors(teachers):
    model = model_of(teachers["pix2pix"], lambda_distill=0.0)
    batch = batch_for(model)

    assert model.generators.keys() == {"G"}
    assert model.generator_loss(batch, model.translate(batch)).keys() == {"G_recon", "G_GAN"}


def test_a_student_keeps_its_teachers_styles(teachers, students):
    teacher, student = load_trained(teachers["pix2pixhd"]), load_trained(students["pix2pixhd"] / "last.pt")

    assert student.card.labels == teacher.card.labels
    assert student.card.labels.styles == 2
    assert isinstance(student.generator, LabelTranslator)
    assert torch.equal(student.generator.style_codes, teacher.generator.style_codes)


def test_in_training_each_style_has_its_turn(teachers):
    model = model_of(teachers["pix2pixhd"])
    batch = batch_for(model)
    outputs = [model.teacher.generator(batch.instances, batch.instances, torch.tensor([style])) for style in range(2)]
    torch.manual_seed(0)

    drawn = [model.translate(batch)["teacher_B"] for _ in range(8)]

    which = {next(i for i, output in enumerate(outputs) if torch.allclose(image, output)) for image in drawn}
    assert which == {0, 1}


@pytest.mark.parametrize("init", ["fresh", "teacher"])
def test_a_student_comes_nearer_to_its_teacher(home, tmp_path, init):
    save_untrained(tmp_path / "teacher.pt", "resnet_2blocks")
    config = config_type("distill")(teacher=str(tmp_path / "teacher.pt"), student=STUDENT, ndf=4, init=init)
    distances = {}
    for name, steps, rate in (("begun", 1, 0.0), ("trained", 100, 2e-3)):
        run = settings(home / "pairs", tmp_path / name, steps=steps, lr=rate, log_every=50)
        train("distill", run, config, resume=None)
        distances[name] = load_trained(tmp_path / name / "best.pt").card.student.psnr_db

    assert distances["trained"] > distances["begun"] + 1


def test_someone_elses_generator_is_a_teacher(home, data_of, tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "latest_net_G_A.pth"
    torch.save(published.resnet(blocks=2).state_dict(), path)

    done = distil(
        path, data_of["cyclegan"], tmp_path / "run", "--student", STUDENT, "--size", 32, "--direction", "BtoA",
        "--ndf", 4,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "a CycleGAN ResNet" in done.stderr  # what it was taken for
    assert "(--teacher-arch padding=replicate states another)" in done.stderr
    card = load_trained(tmp_path / "run" / "last.pt").card
    assert (card.model_type, card.direction) == ("cyclegan", "BtoA")
    assert card.student.teacher_generator.name == "resnet_2blocks"
    # There is no discriminator in that file.
    assert load_checkpoint(tmp_path / "run" / "last.pt").networks["D"]["model.0.weight"].shape == (4, 3, 4, 4)


def test_what_is_assumed_of_a_teacher_names_the_flags_of_this_command(data_of, tmp_path):
    torch.manual_seed(0)
    torch.save(published.unet(5).state_dict(), tmp_path / "net_G.pth")

    done = distil(
        tmp_path / "net_G.pth", data_of["pix2pix"], tmp_path / "run", "--student", STUDENT, "--size", 32, "--ndf", 4
    )

    assert done.returncode == 0, done.stderr
    assert "the picture's statistics for its batch norms assumed\n" in done.stderr


def test_a_teacher_of_label_maps_learnt_from_pairs_whoever_trained_it(tmp_path):
    torch.save(published.resnet(blocks=2).state_dict(), tmp_path / "net_G.pth")
    config = Config(teacher=str(tmp_path / "net_G.pth"), teacher_arch="labels=3", student=STUDENT)

    model = Model(config, Task(size=(32, 32), has_labels=True))

    assert (model.teacher.card.model_type, model.data) == ("cyclegan", "paired")


@pytest.mark.parametrize(
    ("data", "more", "inputs"),
    [("pix2pix", (), 6), ("cyclegan", (), 3), ("two folders", (), 3), ("two folders", ("--pairs",), 6)],
)
def test_of_someone_elses_resnet_the_data_say_whether_there_are_pairs(home, data_of, tmp_path, data, more, inputs):
    """pix2pix and CycleGAN publish the same one. Two folders are taken as two sets, whatever is in them."""
    torch.manual_seed(0)
    torch.save(published.resnet(blocks=2).state_dict(), tmp_path / "net_G.pth")
    write_pairs(tmp_path / "pairs" / "train", 4, 40, 40)
    for number, path in enumerate(sorted((tmp_path / "pairs" / "train").iterdir())):
        both = cv2.imread(str(path))
        for side, half in (("trainA", both[:, :40]), ("trainB", both[:, 40:])):
            (tmp_path / "folders" / side).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "folders" / side / f"{number}.png"), half)
    folder = data_of.get(data, tmp_path / "folders")
    line = (
        tmp_path / "net_G.pth", folder, tmp_path / "run", "--student", STUDENT, "--size", 32, "--ndf", 4, *more,
        "--resume",
    )  # fmt: skip

    first, second = distil(*line), distil(*line, "--steps", 3)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    # A discriminator of pairs sees the input, too.
    assert load_checkpoint(tmp_path / "run" / "last.pt").networks["D"]["model.0.weight"].shape[1] == inputs


def test_with_pairs_best_is_nearest_to_the_targets_if_those_are_what_is_learnt(teachers, data_of, tmp_path):
    done = distil(
        teachers["cyclegan"], data_of["pix2pix"], tmp_path / "run", "--student", STUDENT, "--ndf", 4, "--pairs",
        "--recon", "target",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert 'best_by = "L1"' in (tmp_path / "run" / "config.toml").read_text()


def test_a_student_may_be_a_teacher_in_its_turn(students, data_of, tmp_path):
    done = distil(students["pix2pix"] / "best.pt", data_of["pix2pix"], tmp_path / "run", "--student", "unet_32,ngf=2")

    assert done.returncode == 0, done.stderr
    card = load_trained(tmp_path / "run" / "last.pt").card
    assert (card.model_type, card.generator.name, card.student.teacher) == ("pix2pix", "unet_32", "student_pix2pix")


def test_the_settings_left_in_a_run_begin_the_same_training_again(students, tmp_path):
    again = here("i2i-train", "distill", "--config", students["pix2pixhd"] / "config.toml", "--out", tmp_path)

    assert again.returncode == 0, again.stderr
    one, other = (load_checkpoint(folder / "last.pt").networks for folder in (students["pix2pixhd"], tmp_path))
    assert all(torch.equal(weight, other["G"][key]) for key, weight in one["G"].items())


def test_a_training_goes_on_with_the_same_line_and_resume(teachers, data_of, tmp_path):
    line = (teachers["pix2pix"], data_of["pix2pix"], tmp_path / "run", "--student", STUDENT, "--resume")

    first, second = distil(*line), distil(*line, "--steps", 3)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == 3


def test_a_training_does_not_go_on_with_another_teacher(teachers, data_of, tmp_path):
    teacher = tmp_path / "teacher.pt"
    teacher.write_bytes(teachers["pix2pix"].read_bytes())
    distil(teacher, data_of["pix2pix"], tmp_path / "run", "--student", STUDENT)
    save_untrained(teacher, "resnet_2blocks")

    again = here("i2i-train", "distill", "--out", tmp_path / "run", "--resume", "--steps", 3)

    assert again.returncode == 4
    assert re.search(
        r"--teacher .*: expected SHA-256 \w{12}\.\.\., which .* this training began with, found \w{12}\.\.\.;",
        the_error_line(again),
    )


def test_a_teacher_may_be_moved_but_not_changed_for_another(teachers, data_of, tmp_path):
    before, after = tmp_path / "before.pt", tmp_path / "after.pt"
    before.write_bytes(teachers["pix2pix"].read_bytes())
    distil(before, data_of["pix2pix"], tmp_path / "run", "--student", STUDENT)
    before.rename(after)
    resume = ("i2i-train", "distill", "--out", tmp_path / "run", "--resume", "--steps")

    missing, moved = here(*resume, 3), here(*resume, 3, "--teacher", after)
    save_untrained(tmp_path / "other.pt", "resnet_2blocks")
    another = here(*resume, 4, "--teacher", tmp_path / "other.pt")

    assert (missing.returncode, moved.returncode, another.returncode) == (4, 0, 4), moved.stderr
    assert f"--teacher {before}: no such checkpoint" in the_error_line(missing)
    assert "this training began with" in the_error_line(another)
    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == 3


def test_the_settings_of_a_run_serve_another_teacher(students, tmp_path):
    """Which is held to its own digest, and to the GAN objective of its own discriminator, of which it has none."""
    teacher = save_untrained(tmp_path / "other.pt", "resnet_2blocks")
    line = (
        "i2i-train", "distill", "--config", students["pix2pix"] / "config.toml", "--teacher", teacher,
        "--out", tmp_path / "run", "--ndf", 4, "--resume",
    )  # fmt: skip

    first, second = here(*line), here(*line, "--steps", 3)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    record = load_trained(tmp_path / "run" / "last.pt").card.student
    assert record.teacher_sha256 == file_sha256(teacher)
    assert 'gan = "auto"' in (tmp_path / "run" / "config.toml").read_text()


CHOOSE = {"budget": "100fps", "engine-profile": "machine.json"}


@pytest.mark.parametrize(
    ("in_file", "flags"),
    [
        ({"gan": "auto", "teacher_sha256": ""}, {"teacher": "teacher.pt", "student": STUDENT}),
        ({"teacher": "teacher.pt", "teacher_sha256": ""}, {"student": STUDENT}),
        ({}, {"teacher": "teacher.pt", "student": STUDENT, "gan": "auto"}),
        ({"student": STUDENT}, {"teacher": "teacher.pt", **CHOOSE}),
        ({"student": "", **CHOOSE}, {"teacher": "teacher.pt"}),
    ],
)
def test_the_same_line_goes_on_whatever_it_left_open(teachers, data_of, tmp_path, monkeypatch, in_file, flags):
    monkeypatch.chdir(tmp_path)
    Path("teacher.pt").write_bytes(teachers["pix2pix"].read_bytes())
    write_profile(Path("machine.json"), a_machine())
    Path("base.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in in_file.items()))
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    line = (
        "i2i-train", "distill", "--config", "base.toml", *words, "--data", data_of["pix2pix"], "--out", "run",
        "--resume", "--steps",
    )  # fmt: skip

    first, second = here(*line, 2), here(*line, 3)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert load_checkpoint(tmp_path / "run" / "last.pt").training_state["step"] == 3


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("pix2pixhd", ("--label-nc", 9), r"--label-nc: the teacher .* has 4, found 9; leave it out"),
        ("pix2pixhd", ("--no-instances",), r"--instances: the teacher .* has True, found False; leave it out"),
        ("pix2pix", ("--label-nc", 4), r"--label-nc: the teacher .* has 0, found 4; leave it out"),
        ("pix2pix", ("--input-channels", 1), r"--input-channels: the teacher .* has 3, found 1"),
        ("cyclegan", ("--output-channels", 4), r"--output-channels: the teacher .* has 3, found 4"),
        ("pix2pix", ("--direction", "BtoA"), r"--direction BtoA: .* has learnt AtoB only"),
        ("pix2pix", ("--size", 40), r"--size 40x40: the teacher .* takes multiples of 32 from 32 on"),
        ("cyclegan", ("--size", 16), r"--size 16x16: leaves the discriminator of the teacher .* nothing to judge; use"),
        ("pix2pix", ("--student", "unet_64", "--size", 32), r"--size 32x32: unet_64 takes multiples of 64 from 64 on"),
        ("pix2pix", ("--teacher-arch", "norm=batch"), r"^error: --teacher-arch norm=batch: .* leave it out"),
        ("pix2pixhd", ("--no-pairs",), r"--no-pairs: the teacher .* takes label maps, which are pairs with pictures"),
        ("cyclegan", ("--recon", "target"), r"--recon target: there are no targets without pairs; if --data holds"),
        ("cyclegan", ("--best-by", "L1"), r"--best-by L1: distill has L1_to_teacher, PSNR_to_teacher, SSIM_to_teacher"),
    ],
)
def test_what_contradicts_the_teacher_is_refused_in_one_line(teachers, data_of, tmp_path, kind, more, message):
    done = distil(teachers[kind], data_of[kind], tmp_path / "run", "--student", STUDENT, *more)

    assert done.returncode == 2
    assert re.search(message, the_error_line(done))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "--student or --budget: expected one of them, found none"),
        (("--student", STUDENT, "--budget", "15ms"), "--student and --budget: expected one of them, found both"),
        (("--budget", "15ms"), "i2i-export profile --device here -o machine.json"),
        (("--engine-profile", "m.json"), "--engine-profile: chooses a student for a budget, found none"),
        (("--student", STUDENT, "--block", "plain"), "--student and --block: expected one of them, found both"),
        (("--student", "student_2blocks,widht=8"), "widht: expected one of width, half, inner, block, norm"),
        (("--student", "student_2blocks,width=wide"), "--student student_2blocks,width=wide: width: expected int"),
        (("--student", "tiny"), "--student tiny: generator 'tiny': expected unet_N"),
        (("--student", "width=8"), "--student width=8: generator '': expected unet_N"),
        (("--student", "student_2blocks,"), "--student student_2blocks,: expected a generator, settings or both"),
    ],
)
def test_a_student_that_is_not_named_well_is_refused_in_one_line(teachers, data_of, tmp_path, more, message):
    done = distil(teachers["pix2pix"], data_of["pix2pix"], tmp_path / "run", *more)

    assert done.returncode == 2
    assert message in the_error_line(done)


def test_without_a_teacher_there_is_nothing_to_learn(data_of, tmp_path):
    done = here("i2i-train", "distill", "--data", data_of["pix2pix"], "--out", tmp_path / "run", "--student", STUDENT)

    assert done.returncode == 2
    assert "--teacher: expected a trained generator, found nothing" in the_error_line(done)


def test_in_python_a_task_that_is_not_the_teachers_is_refused(tmp_path):
    save_untrained(tmp_path / "labels.pt", "resnet_1blocks", labels=LabelSpec(count=4, instance_edges=True))
    config = Config(teacher=str(tmp_path / "labels.pt"), student=STUDENT)

    with pytest.raises(UsageError, match="translates 5 channels of labels to 3, found settings for 3 channels of pict"):
        Model(config, Task(size=(32, 32)))


def test_a_missing_teacher_is_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"--teacher .*none\.pt: no such checkpoint"):
        Model(Config(teacher=str(tmp_path / "none.pt"), student=STUDENT), Task(size=(32, 32)))


def test_a_student_is_evaluated_like_its_teacher(students, data_of, tmp_path):
    student, report = students["pix2pix"] / "best.pt", tmp_path / "figures.json"

    done = here("i2i-eval", student, "--data", data_of["pix2pix"], "--json", report)

    assert done.returncode == 0, done.stderr
    record = load_trained(student).card.student
    assert json.loads(report.read_text())["L1"] == pytest.approx(record.truth_l1, abs=1e-5)


def test_the_student_is_rebuilt_from_its_card_alone(teachers, data_of, tmp_path):
    distil(teachers["pix2pix"], data_of["pix2pix"], tmp_path / "run", "--student", "resnet_2blocks,ngf=4,dropout=0.5")

    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")

    architecture = checkpoint.cards["G"].generator
    assert architecture == Architecture(
        name="resnet_2blocks", arguments={"input_channels": 3, "output_channels": 3, "ngf": 4, "dropout": 0.5}
    )
    build_generator(architecture).load_state_dict(checkpoint.networks["G"])


def test_a_budget_chooses_the_student_once(teachers, data_of, tmp_path):
    profile = tmp_path / "machine.json"
    write_profile(profile, a_machine())
    more = ("--budget", "100 fps", "--engine-profile", profile, "--resume")
    line = (teachers["pix2pix"], data_of["pix2pix"], tmp_path / "run", *more)

    first = distil(*line)
    profile.unlink()  # another search would miss it
    second = distil(*line, "--steps", 3)
    third = here("i2i-train", "distill", "--config", tmp_path / "run" / "config.toml", "--out", tmp_path / "again")

    assert [done.returncode for done in (first, second, third)] == [0, 0, 0], (
        first.stderr + second.stderr + third.stderr
    )
    chosen = choose(a_machine(), 0.01).student
    for folder in ("run", "again"):
        assert StudentShape.of(load_trained(tmp_path / folder / "last.pt").card.generator) == chosen
    assert re.search(
        r"--budget 100 fps: student_\d+blocks,width=16,.* ONNX Runtime CPU fp32 should take .* ms; there i2i-export",
        first.stderr,
    )


def slower(machine: MachineProfile) -> MachineProfile:
    (its,) = machine.engines
    ends = replace(its.ends, seconds=((4e-3, 4e-3),))
    half_ends = replace(its.half_ends, seconds=((4e-3, 4e-3), (4e-3, 4e-3)))
    return replace(machine, engines=(replace(its, ends=ends, half_ends=half_ends),))


@pytest.mark.parametrize(
    ("flags", "budget_s", "machine"),
    [(("--budget", "20ms"), 0.02, "machine.json"), (("--engine-profile", "slower.json"), 0.01, "slower.json")],
)
def test_what_a_student_is_chosen_for_wins_over_the_one_in_a_file(
    teachers, data_of, tmp_path, monkeypatch, flags, budget_s, machine
):
    monkeypatch.chdir(tmp_path)
    write_profile(tmp_path / "machine.json", a_machine())
    write_profile(tmp_path / "slower.json", slower(a_machine()))
    distil(
        teachers["pix2pix"], data_of["pix2pix"], tmp_path / "run", "--budget", "10ms", "--engine-profile",
        "machine.json",
    )  # fmt: skip

    done = here("i2i-train", "distill", "--config", "run/config.toml", "--out", "again", *flags)

    assert done.returncode == 0, done.stderr
    one, other = (StudentShape.of(load_trained(tmp_path / run / "last.pt").card.generator) for run in ("run", "again"))
    assert other == choose(read_profile(Path(machine)), budget_s).student != one


def test_with_another_size_the_student_of_a_budget_is_chosen_again(teachers, data_of, tmp_path):
    write_profile(tmp_path / "machine.json", a_machine())
    (tmp_path / "base.toml").write_text(
        f'budget = "10ms"\nstudent = "{STUDENT}"\nengine_profile = "{tmp_path / "machine.json"}"\n'
    )
    config = ("--config", tmp_path / "base.toml")

    done = distil(teachers["pix2pix"], data_of["pix2pix"], tmp_path / "run", *config, "--size", 64)

    assert done.returncode == 2
    assert "32x32" in the_error_line(done)  # what was profiled


def test_processes_of_one_training_say_once_which_student_was_chosen(teachers, data_of, tmp_path, monkeypatch):
    write_profile(tmp_path / "machine.json", a_machine())
    more = ("--budget", "10ms", "--engine-profile", tmp_path / "machine.json", "--resume")
    said = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)  # as torchrun does

        said[rank] = distil(teachers["pix2pix"], data_of["pix2pix"], tmp_path / rank, *more).stderr

    assert "--budget 10ms: student_" in said["0"]
    assert "nothing to resume yet" in said["0"]
    assert "--budget 10ms: student_" not in said["1"]
    assert "nothing to resume yet" not in said["1"]


def a_machine() -> MachineProfile:
    """One that we make up: a block takes a millisecond, whatever its width."""
    table = Table(rows=(8, 16), columns=(8, 16), seconds=((1e-3, 1e-3), (1e-3, 1e-3)))
    ends = Table(rows=(0,), columns=(8, 16), seconds=((1e-3, 1e-3),))
    times = EngineTimes(
        backend="onnxruntime", device="cpu", precision="fp32", provider="ONNX Runtime CPU",
        ends=ends, half_ends=table, blocks={"plain": table}, trials=(),
    )  # fmt: skip
    return MachineProfile(
        machine="made up", cpu="made up", cores=2, threads=None, system="Linux x86_64", versions={},
        date="2026-01-01T00:00:00+00:00", size=(32, 32), channels=(3, 3),
        busy_elsewhere=0.0, engines=(times,),
    )  # fmt: skip


def test_other_settings_of_a_run_stay_the_users(teachers, data_of, tmp_path):
    run = RunConfig(data="pictures", out="x", batch=3, flip=False)
    config = Config(teacher=str(teachers["pix2pixhd"]), student=STUDENT)

    settled, _ = Model.settle(run, config, flags={"batch"}, in_file={"flip"}, say=print)

    assert settled == replace(run, size=(32, 32), label_nc=4, instances=True)
