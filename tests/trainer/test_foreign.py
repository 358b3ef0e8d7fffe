"""Other people's checkpoints: each published layout is recognised by its keys, and translates as its author's does."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

import foreign_networks as published
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from i2i_runtime.card import Architecture, ImageSpec, LabelSpec, SizeRule
from i2i_runtime.digest import file_sha256
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.checkpoint import FORMAT, Checkpoint, read_tensors, save_checkpoint
from i2i_trainer.foreign import recognise, state_dicts_of
from i2i_trainer.networks.build import build_generator, size_rule
from i2i_trainer.networks.words import parse_words
from i2i_trainer.trained import load_directions, load_trained

BOTH = ("weight", "bias")
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def save(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    (weights,) = state_dicts_of(read_tensors(path), str(path)).values()
    return weights


def picture_for(network: nn.Module, path: Path, channels: int) -> torch.Tensor:
    rule = load_trained(path).card.size
    side = max(rule.minimum, rule.multiple_of)
    random = torch.Generator().manual_seed(1)
    return torch.rand(1, channels, side, side + rule.multiple_of, dtype=torch.float64, generator=random) * 2 - 1


@torch.no_grad()
def assert_translates_as_its_author(network: nn.Module, path: Path, arch: str | None = None) -> None:
    """`network` is the author's, `path` the file of its weights."""
    trained = load_trained(path, arch=arch)
    ours = getattr(trained.generator, "generator", trained.generator).double()  # without the encoding of label maps
    channels = int(trained.card.generator.arguments["input_channels"])
    picture = picture_for(network, path, channels)
    theirs = published.as_upstream_tests(network.double())(picture.clone())
    assert theirs.std() > 1e-3  # something to compare
    torch.testing.assert_close(ours(picture), theirs, rtol=0, atol=1e-9)


CASES = {
    "unet_256": (published.unet, {}, {"norm": "batch", "dropout": 0.0, "ngf": 2}),
    "unet_128": (published.unet, {"downs": 7, "dropout": True}, {"norm": "batch"}),
    "unet_512": (published.unet, {"downs": 9, "ngf": 1}, {"norm": "batch", "ngf": 1}),
    "unet_32": (published.unet, {"downs": 5, "ngf": 3, "channels": (1, 4)}, {"input_channels": 1}),
    "unet_256 instance": (published.unet, {"norm": "instance"}, {"norm": "instance"}),
    "unet_64 affine": (published.unet, {"downs": 6, "norm": "instance_affine"}, {"norm": "instance_affine"}),
    "unet_64 of 2018": (published.unet, {"downs": 6, "norm": "instance_2018"}, {"norm": "instance"}),
    "unet_32 none": (published.unet, {"downs": 5, "norm": "none"}, {"norm": "none"}),
    "resnet_9blocks": (published.resnet, {}, {"norm": "instance", "ngf": 4, "dropout": 0.0}),
    "resnet_6blocks": (published.resnet, {"blocks": 6, "ngf": 5, "channels": (1, 3)}, {"ngf": 5, "input_channels": 1}),
    "resnet_6blocks batch": (published.resnet, {"blocks": 6, "norm": "batch"}, {"norm": "batch", "dropout": 0.0}),
    "resnet_9blocks batch": (
        published.resnet, {"norm": "batch", "dropout": True}, {"norm": "batch", "dropout": 0.5},
    ),
    "resnet_2blocks dropout": (published.resnet, {"blocks": 2, "dropout": True}, {"dropout": 0.5}),
    "resnet_2blocks affine": (published.resnet, {"blocks": 2, "norm": "instance_affine"}, {"norm": "instance_affine"}),
    "resnet_9blocks of 2018": (published.resnet, {"norm": "instance_2018"}, {"norm": "instance"}),
    "resnet_2blocks none": (published.resnet, {"blocks": 2, "norm": "none"}, {"norm": "none"}),
    "resnet_2blocks zero": (published.resnet, {"blocks": 2, "padding": "zero"}, {"padding": "zero", "dropout": 0.0}),
    "resnet_3blocks zero dropout": (
        published.resnet, {"blocks": 3, "padding": "zero", "dropout": True}, {"padding": "zero", "dropout": 0.5},
    ),
    "resnet_2blocks three halvings": (
        published.resnet, {"blocks": 2, "norm": "batch", "downs": 3}, {"n_downsampling": 3, "norm": "batch"},
    ),
    "resnet_9blocks CUT": (
        published.resnet, {"blur": (3, 4)}, {"antialias_down": 3, "antialias_up": 4, "norm": "instance"},
    ),
    "resnet_4blocks CUT batch": (
        published.resnet, {"blocks": 4, "blur": (3, 4), "norm": "batch"}, {"antialias_down": 3, "norm": "batch"},
    ),
    "resnet_6blocks CUT no_antialias_up": (
        published.resnet, {"blocks": 6, "blur": (3, 0), "dropout": True}, {"antialias_down": 3, "dropout": 0.5},
    ),
    "resnet_6blocks CUT no_antialias": (published.resnet, {"blocks": 6, "blur": (0, 4)}, {"antialias_up": 4}),
    "mobile_resnet_9blocks": (published.mobile_resnet, {}, {"ngf": 4, "norm": "instance", "separable_bias": None}),
    "mobile_resnet_9blocks batch": (
        published.mobile_resnet,
        {"norm": "batch", "separable_bias": False},
        {"norm": "batch", "separable_bias": False, "inner_norm": None},
    ),
    "mobile_resnet_9blocks batch inside too": (
        published.mobile_resnet,
        {"norm": "batch", "separable_bias": False, "inner": "batch"},
        {"norm": "batch", "inner_norm": "batch"},
    ),
    "mobile_resnet_9blocks pruned": (
        published.mobile_resnet,
        {"widths": (3, 6, 16, 12, 7), "middles": (8, 8, 8, 12, 12, 12, 4, 4, 4)},
        {"channels": "3_6_16_8_8_8_12_12_12_4_4_4_12_7"},
    ),
    "mobile_resnet_9blocks pruned batch": (
        published.mobile_resnet,
        {"widths": (3, 6, 16, 12, 7), "norm": "batch"},
        {"norm": "batch", "separable_bias": None},
    ),
    "mobile_resnet_3blocks zero": (
        published.mobile_resnet, {"middles": (16,) * 3, "padding": "zero"}, {"padding": "zero"},
    ),
    "global": (published.global_generator, {}, {"n_downsampling": 4, "n_blocks": 9, "input_channels": 36}),
    "global batch": (published.global_generator, {"downs": 3, "norm": "batch"}, {"n_downsampling": 3, "norm": "batch"}),
    "global two halvings batch": (
        published.global_generator, {"downs": 2, "blocks": 3, "norm": "batch"}, {"n_downsampling": 2, "n_blocks": 3},
    ),
    "global pictures": (published.global_generator, {"downs": 3, "channels": (3, 3)}, {"input_channels": 3}),
    "local": (published.Local, {}, {"n_enhancers": 1, "n_local_blocks": 3, "ngf": 4, "n_downsampling": 2}),
    "local 2": (
        published.Local,
        {"enhancers": 2, "ngf": 1, "local_blocks": 2, "blocks": 3},
        {"n_enhancers": 2, "n_local_blocks": 2, "n_blocks": 3, "ngf": 4},
    ),
    "local batch": (published.Local, {"norm": "batch", "channels": (3, 3)}, {"norm": "batch", "input_channels": 3}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_published_generator_is_recognised_and_translates_as_its_author(tmp_path, case):
    torch.manual_seed(0)
    make, settings_of_it, expected = CASES[case]
    network = published.as_if_trained(make(**settings_of_it))
    path = save(network, tmp_path / "latest_net_G.pth")

    found = recognise(weights_of(path), str(path))

    assert found.architecture.name == case.split(" ")[0]
    # None: left out, as it is where the default holds.
    assert {key: found.architecture.arguments.get(key) for key in expected} == expected
    assert_translates_as_its_author(network, path)


def test_the_running_averages_are_used_where_they_are_asked_for(tmp_path):
    network = published.as_if_trained(published.resnet(2, norm="batch"))
    path = save(network, tmp_path / "G.pth")
    picture = torch.rand(1, 3, 16, 16)

    trained = load_trained(path, statistics="running")

    torch.testing.assert_close(trained.generator(picture), network.eval()(picture))


def conv_keys(numbers, names=BOTH) -> set[str]:
    return {f"model.{number}.{name}" for number in numbers for name in names}


def test_the_layouts_of_this_test_have_the_published_keys():
    """Key by key as features.md A8 lists them: what else is here stands on these networks."""
    cyclegan = conv_keys((1, 4, 7, 19, 22, 26))
    cyclegan |= {f"model.{b}.conv_block.{i}.{k}" for b in range(10, 19) for i in (1, 5) for k in BOTH}
    assert published.resnet().state_dict().keys() == cyclegan

    dropout = conv_keys((1, 4, 7, 16, 19), ("weight",)) | conv_keys((23,))
    dropout |= {f"model.{n}.{k}" for n in (2, 5, 8, 17, 20) for k in BATCH_NORM}
    dropout |= {f"model.{b}.conv_block.{i}.weight" for b in range(10, 16) for i in (1, 6)}
    dropout |= {f"model.{b}.conv_block.{i}.{k}" for b in range(10, 16) for i in (2, 7) for k in BATCH_NORM}
    assert published.resnet(6, norm="batch", dropout=True).state_dict().keys() == dropout

    cut = conv_keys((1, 4, 8, 22, 26, 30)) | {f"model.{i}.filt" for i in (7, 11, 21, 25)}
    cut |= {f"model.{b}.conv_block.{i}.{k}" for b in range(12, 21) for i in (1, 5) for k in BOTH}
    assert published.resnet(blur=(3, 4)).state_dict().keys() == cut

    mobile = conv_keys((1, 4, 7, 19, 22, 26))
    mobile |= {
        f"model.{b}.conv_block.{i}.conv.{j}.{k}" for b in range(10, 19) for i in (1, 6) for j in (0, 2) for k in BOTH
    }
    assert published.mobile_resnet().state_dict().keys() == mobile

    hd = conv_keys((1, 4, 7, 10, 13, 25, 28, 31, 34, 38))
    hd |= {f"model.{b}.conv_block.{i}.{k}" for b in range(16, 25) for i in (1, 5) for k in BOTH}
    assert published.global_generator().state_dict().keys() == hd

    local = hd - conv_keys((38,)) | {f"model1_1.{i}.{k}" for i in (1, 4) for k in BOTH}
    local |= {f"model1_2.{b}.conv_block.{i}.{k}" for b in range(3) for i in (1, 5) for k in BOTH}
    local |= {f"model1_2.{i}.{k}" for i in (3, 7) for k in BOTH}
    assert published.Local(downs=4, blocks=9).state_dict().keys() == local

    unet = {"model.model.0.weight", "model.model.3.weight", "model.model.3.bias"}
    for deep in range(6):
        level = "model.model.1" + ".model.3" * deep
        unet |= {f"{level}.model.{i}.weight" for i in (1, 5)}
        unet |= {f"{level}.model.{i}.{k}" for i in (2, 6) for k in BATCH_NORM}
    innermost = "model.model.1" + ".model.3" * 6
    unet |= {f"{innermost}.model.{i}.weight" for i in (1, 3)} | {f"{innermost}.model.4.{k}" for k in BATCH_NORM}
    assert published.unet().state_dict().keys() == unet


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    blocks=st.integers(1, 12),
    ngf=st.integers(1, 6),
    norm=st.sampled_from(["batch", "instance", "instance_affine", "none"]),
    dropout=st.booleans(),
    channels=st.tuples(st.integers(1, 7), st.integers(1, 4)),
    blur=st.sampled_from([(0, 0), (3, 4), (3, 0), (0, 4)]),
    padding=st.sampled_from(["reflect", "zero"]),
)
def test_any_resnet_is_recognised(blocks, ngf, norm, dropout, channels, blur, padding):
    network = published.resnet(blocks, ngf, norm, dropout, channels, padding, blur)

    found = recognise(network.state_dict(), "here")

    arguments = found.architecture.arguments
    assert found.architecture.name == f"resnet_{blocks}blocks"
    assert (found.input_channels, found.output_channels) == channels
    assert (arguments["ngf"], arguments["norm"], arguments["dropout"]) == (ngf, norm, 0.5 * dropout)
    assert (arguments.get("antialias_down", 0), arguments.get("antialias_up", 0)) == blur
    build_generator(found.architecture).load_state_dict(found.weights, strict=True)


DAMAGED = {
    "unet": published.unet(5),
    "resnet": published.resnet(2, norm="batch"),
    "cut": published.resnet(2, blur=(3, 4)),
    "mobile": published.mobile_resnet(middles=(16, 16)),
    "global": published.global_generator(3),
    "local": published.Local(),
}


@settings(max_examples=60, deadline=None)
@given(family=st.sampled_from(sorted(DAMAGED)), which=st.floats(0, 0.999), how=st.integers(0, 4))
def test_one_key_that_is_not_as_published_is_one_line_and_never_a_wrong_network(family, which, how):
    weights = {k: t for k, t in DAMAGED[family].state_dict().items() if not k.endswith("num_batches_tracked")}
    key = list(weights)[int(which * len(weights))]
    tensor = weights.pop(key)
    if how == 1:
        weights[key] = tensor.repeat(2, *[1] * (tensor.dim() - 1))
    elif how == 2:
        weights[key] = tensor.sum()
    elif how == 3:
        weights[f"{key}.more"] = tensor
    elif how == 4:
        start, number, rest = re.split(r"(\d+)", key, maxsplit=1)
        weights[f"{start}{int(number) + 10**9}{rest}"] = tensor

    with pytest.raises(ModelError, match=r"^here: (nearest is|no generator)[^\n]*$"):
        recognise(weights, "here")


WRAPPED = {
    "as it is": lambda weights: weights,
    "state_dict": lambda weights: {"epoch": 3, "state_dict": weights},
    "netG": lambda weights: {"netG": weights, "netD": {}, "optimizer": {"state": {}, "param_groups": []}},
    "netG_A": lambda weights: {"netG_A": weights, "step": torch.tensor(4)},
    "model of a state_dict": lambda weights: {"model": {"state_dict": weights}},
    "averaged": lambda weights: {"params": {k: t * 0 for k, t in weights.items()}, "params_ema": weights},
    "DataParallel": lambda weights: {f"module.{k}": t for k, t in weights.items()},
    "compiled": lambda weights: {"G": {f"_orig_mod.module.{k}": t for k, t in weights.items()}},
    "of a whole training": lambda weights: {f"netG.{k}": t for k, t in weights.items()} | {"netD.x": torch.zeros(1)},
    "G_A of a whole training": lambda weights: {f"G_A.module.{k}": t for k, t in weights.items()},
    "_metadata": lambda weights: {**weights, "_metadata": {"": {"version": 1}}},
    "a format that is not ours": lambda weights: {"format": "pt", "state_dict": weights},
    "plain values beside": lambda weights: {**weights, "format": "pt", "epoch": 3},
    "parameters": lambda weights: {k: nn.Parameter(t) for k, t in weights.items()},
}


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
def test_what_a_training_put_around_the_weights_is_taken_off(tmp_path, wrapped, zipped):
    network = published.resnet(2)
    payload = WRAPPED[wrapped](network.state_dict())
    torch.save(payload, tmp_path / "G.pth", _use_new_zipfile_serialization=zipped)

    assert_translates_as_its_author(network, tmp_path / "G.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_float32(tmp_path, dtype):
    network = published.resnet(2, norm="batch").to(dtype)
    path = save(network, tmp_path / "G.pth")

    weights = weights_of(path)

    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}
    assert_translates_as_its_author(network, path)


def test_batch_norms_from_before_batches_were_counted_are_taken(tmp_path):
    network = published.resnet(2, norm="batch")
    weights = {k: t for k, t in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "G.pth")

    assert_translates_as_its_author(network, tmp_path / "G.pth")


def test_a_border_that_leaves_no_trace_can_be_stated(tmp_path):
    network = published.resnet(2, padding="replicate")
    path = save(network, tmp_path / "G.pth")

    assert_translates_as_its_author(network, path, arch="padding=replicate")
    with pytest.raises(AssertionError):
        assert_translates_as_its_author(network, path)


def test_the_card_says_what_is_known(tmp_path):
    folder = tmp_path / "horse2zebra_pretrained"
    folder.mkdir()
    path = save(published.resnet(channels=(1, 3)), folder / "latest_net_G.pth")

    trained = load_trained(path)
    card = trained.card

    assert (card.name, card.model_type, card.direction) == ("horse2zebra_pretrained", "cyclegan", "AtoB")
    assert card.input == ImageSpec(channels=1, colour="GRAY")
    assert card.output == ImageSpec(channels=3, colour="RGB")
    assert card.size == SizeRule(multiple_of=4, minimum=8)
    assert (card.labels, card.training, trained.examples) == (None, None, [])
    assert trained.statistics == "image"
    assert card.made_with.source_sha256 == file_sha256(path)
    # Equal to what our own trainings write, so that fine-tuning can compare them.
    expected = {"input_channels": 1, "output_channels": 3, "ngf": 4, "norm": "instance", "dropout": 0.0}
    assert card.generator == Architecture(name="resnet_9blocks", arguments=expected)


@pytest.mark.parametrize(
    ("file", "name", "direction"),
    [
        ("latest_net_G_A.pth", "maps", "AtoB"),
        ("latest_net_G_B.pth", "maps", "BtoA"),
        ("200_net_G.pth", "maps", "AtoB"),
        ("G.pth", "maps", "AtoB"),
        ("monet.pth", "monet", "AtoB"),
        ("BRIGHTNG.pth", "BRIGHTNG", "AtoB"),
    ],
)
def test_a_file_that_is_called_as_in_every_training_takes_the_folders_name(tmp_path, file, name, direction):
    folder = tmp_path / "maps"
    folder.mkdir()
    card = load_trained(save(published.resnet(1, 1), folder / file)).card

    assert (card.name, card.direction) == (name, direction)


@pytest.mark.parametrize(
    ("network", "model_type"),
    [
        (published.unet(5), "pix2pix"),
        (published.resnet(1, blur=(3, 4)), "cut"),
        (published.resnet(1, blur=(0, 4)), "cut"),
        (published.mobile_resnet(), "cyclegan"),
        (published.global_generator(3), "pix2pixhd"),
        (published.Local(), "pix2pixhd"),
    ],
)  # fmt: skip
def test_the_model_type_is_the_method_that_publishes_the_generator(network, model_type):
    assert recognise(network.state_dict(), "here").model_type == model_type


@pytest.mark.parametrize(
    ("channels", "arch", "labels"),
    [
        (36, "", LabelSpec(count=35, instance_edges=True)),
        (36, "labels=36", LabelSpec(count=36)),
        (36, "labels=35", LabelSpec(count=35, instance_edges=True)),
        (36, "labels=0", None),
        (3, "", None),
        (4, "", None),
        (3, "labels=2", LabelSpec(count=2, instance_edges=True)),
    ],
)
def test_pix2pixhds_channels_are_labels_and_edges(tmp_path, channels, arch, labels):
    path = save(published.global_generator(3, 1, channels=(channels, 3)), tmp_path / "G.pth")

    card = load_trained(path, arch=arch or None).card

    assert card.labels == labels
    assert card.input.channels == (channels if labels is None else 1)


def test_channels_that_can_be_classes_edges_or_features_are_to_be_stated(tmp_path):
    path = save(published.global_generator(3, 1, channels=(39, 3)), tmp_path / "G.pth")

    with pytest.raises(ModelError) as error:
        load_trained(path)
    assert str(error.value) == (
        f"{path}: 39 input channels: state the classes: --arch labels=39 (no edges), --arch labels=38 (and edges), "
        "--arch labels=0 (pictures), or 35 labels, edges and 3 encoder features, which are not supported"
    )
    for arch, labels in (("labels=39", LabelSpec(count=39)), ("labels=38", LabelSpec(count=38, instance_edges=True))):
        assert load_trained(path, arch=arch).card.labels == labels
    save(published.global_generator(3, 1, channels=(35, 3)), path)
    with pytest.raises(ModelError, match=r": 35 input channels: state the classes: --arch labels=35 \(no edges\)"):
        load_trained(path)


PADDING = r"; reflect padding assumed \(--arch padding=replicate states another\)"
STATISTICS = r"; the picture's statistics for its batch norms assumed \(--norm-statistics running takes training's\)"
DROPPED = (
    r"; running statistics of its instance norms dropped \(batch norms without scale and shift have the same keys\)"
)


@pytest.mark.parametrize(
    ("network", "given", "line"),
    [
        (
            published.Local(),
            {},
            r"a pix2pixHD local generator: local,input_channels=36,.*; 35 classes and instance edges assumed "
            r"\(--arch labels=N states them\)",
        ),
        (published.Local(), {"arch": "labels=36"}, r"a pix2pixHD local generator: local,[^;]*"),
        (published.global_generator(3, 1, channels=(3, 3)), {}, r"a pix2pixHD global generator: global,[^;]*"),
        (published.unet(5, norm="instance"), {}, r"a pix2pix U-Net: unet_32,[^;]*norm=instance[^;]*"),
        (published.unet(5), {}, rf"a pix2pix U-Net: unet_32,[^;]*{STATISTICS}"),
        (published.unet(5), {"statistics": "running"}, r"a pix2pix U-Net: unet_32,[^;]*"),
        (published.resnet(1, norm="instance_2018"), {}, rf"a CycleGAN ResNet: resnet_1blocks,[^;]*{PADDING}{DROPPED}"),
        (published.resnet(1, padding="zero"), {}, r"a CycleGAN ResNet: resnet_1blocks,[^;]*padding=zero[^;]*"),
        (published.resnet(1), {"arch": "padding=replicate"}, r"a CycleGAN ResNet: [^;]*padding=replicate[^;]*"),
        (
            published.resnet(1, channels=(6, 3)),
            {},
            rf"a CycleGAN ResNet: [^;]*; pictures of 6 channels assumed \(--arch labels=N states classes\){PADDING}",
        ),
        (published.resnet(1, blur=(3, 4)), {}, rf"a CUT ResNet: resnet_1blocks,[^;]*antialias_down=3[^;]*{PADDING}"),
        (published.mobile_resnet(), {}, rf"a GAN-Compression ResNet: mobile_resnet_9blocks,[^;]*{PADDING}"),
    ],
)
def test_what_was_recognised_and_assumed_is_one_line(tmp_path, network, given, line):
    recognised = load_trained(save(network, tmp_path / "G.pth"), **given).recognised

    assert re.fullmatch(line, recognised)


def test_batch_norms_without_scale_look_like_instance_norms_of_2018_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(published.NORMS, "instance_2018", lambda channels: nn.BatchNorm2d(channels, affine=False))
    network = published.as_if_trained(published.resnet(1, norm="instance_2018"))
    path = save(network, tmp_path / "G.pth")

    assert re.search(DROPPED, load_trained(path).recognised)
    assert_translates_as_its_author(network, path)  # of one picture both compute the same


BOTH_WAYS = {
    "netG": lambda a, b: {"netG_B": b, "netG_A": a, "epoch": 3},
    "G": lambda a, b: {"state_dict": {"G_A": {"state_dict": a}, "G_B": b}, "D_A": {}},
    "keys": lambda a, b: {f"netG_{n}.module.{k}": t for n, part in (("B", b), ("A", a)) for k, t in part.items()},
}


@pytest.mark.parametrize("form", BOTH_WAYS)
def test_a_file_of_both_directions_gives_both(tmp_path, form):
    there, back = published.resnet(1, 2), published.resnet(2, 3)
    path = tmp_path / "G_B.pth"
    torch.save(BOTH_WAYS[form](there.state_dict(), back.state_dict()), path)
    picture = torch.rand(1, 3, 16, 16)

    learnt = load_directions(path)

    assert list(learnt) == ["AtoB", "BtoA"]
    for direction, network in (("AtoB", there), ("BtoA", back), (None, there)):
        trained = load_trained(path, direction=direction)
        assert trained.card.direction == (direction or "AtoB")
        torch.testing.assert_close(trained.generator(picture), network(picture))


def test_of_a_file_of_one_named_direction_the_other_one_is_refused(tmp_path):
    path = tmp_path / "G.pth"
    torch.save({"netG_A": {}, "netG_B": published.resnet(1).state_dict()}, path)

    assert list(load_directions(path)) == ["BtoA"]
    with pytest.raises(UsageError, match=r"^--direction AtoB: .*G\.pth has learnt BtoA only$"):
        load_trained(path, direction="AtoB")


def test_a_wrong_generator_of_two_is_named(tmp_path):
    path = tmp_path / "G.pth"
    torch.save({"G_A": published.resnet(1).state_dict(), "G_B": published.discriminator().state_dict()}, path)

    with pytest.raises(ModelError, match=r"G\.pth \(BtoA\): this looks like a PatchGAN discriminator"):
        load_trained(path)


def test_label_maps_are_translated(tmp_path):
    network = published.global_generator(3, 1, channels=(6, 3))
    path = save(network, tmp_path / "G.pth")
    labels = torch.randint(0, 5, (1, 1, 16, 16))

    found = load_trained(path, arch="labels=5").generator(labels, torch.zeros_like(labels))

    one_hot = nn.functional.one_hot(labels[:, 0], 5).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(found, network(torch.cat([one_hot, torch.zeros(1, 1, 16, 16)], 1)))


def test_a_generator_with_encoded_features_is_refused(tmp_path):
    path = save(published.global_generator(3, 1, channels=(39, 3)), tmp_path / "G.pth")

    with pytest.raises(ModelError, match=r"^[^\n]*39 input channels are 35 labels and 4 more, [^\n]*latest_net_E\.pth"):
        load_trained(path, arch="labels=35")


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("unet_256", {"name": "unet_256"}),
        ("resnet_9blocks,norm=batch,dropout=0.5", {"name": "resnet_9blocks", "norm": "batch", "dropout": 0.5}),
        ("norm=instance", {"norm": "instance"}),
        ("labels=36, separable_bias=false", {"labels": 36, "separable_bias": False}),
        ("channels=16_32", {"channels": "16_32"}),
    ],
)
def test_arch_is_a_name_and_settings(text, overrides):
    assert parse_words(text, "--arch") == overrides


@pytest.mark.parametrize("text", ["", "norm=", "=3", "norm=batch,unet_256", "norm=batch,norm=batch", "a b=c", "x,,"])
def test_an_arch_of_another_form_is_a_usage_error(text):
    with pytest.raises(UsageError, match=r"^--arch [^\n]*for example resnet_9blocks[^\n]*$"):
        parse_words(text, "--arch")


@pytest.mark.parametrize(
    ("arch", "kind", "words"),
    [
        (
            "resnet_6blocks",
            ModelError,
            r"it is not resnet_6blocks,.*16 keys are unknown \(model\.16\.conv_block\..*leave --arch out",
        ),
        ("norm=batch", ModelError, r"it is not resnet_9blocks,.*norm=batch.*are missing"),
        ("unet_256", ModelError, r"it is not unet_256,.*unknown.*missing"),
        ("ngf=8", ModelError, r"model\.1\.weight is 4x3x7x7 for 8x3x7x7"),
        ("ngf=0", UsageError, r"--arch ngf=0: expected at least 1"),
        ("norm=group", UsageError, r"--arch norm: expected one of batch, instance.*'group' for resnet_9blocks"),
        ("ngf=many", UsageError, r"--arch ngf: expected int, found 'many'"),
        ("n_enhancers=2", UsageError, r"--arch n_enhancers=2: expected one of labels, input_channels.*"),
        ("vgg19", UsageError, r"--arch vgg19: .*expected unet_N"),
        ("unet_100", UsageError, r"--arch unet_100: .*expected unet_32"),
        ("labels=4", UsageError, r"--arch labels=4: expected a number of classes up to the 3 input channels"),
        ("labels=few", UsageError, r"--arch labels=few: expected a number"),
    ],
)
def test_an_arch_that_does_not_fit_says_so_in_one_line(tmp_path, arch, kind, words):
    path = save(published.resnet(), tmp_path / "G.pth")

    with pytest.raises(kind, match=words) as error:
        load_trained(path, arch=arch)
    assert "\n" not in str(error.value)


def test_our_own_checkpoints_need_no_arch(tmp_path):
    payload = {"format": FORMAT, "cards": {}, "config": "{}", "networks": {}, "examples": {}, "training_state": None}
    torch.save(payload, tmp_path / "last.pt")

    with pytest.raises(UsageError, match=r"--arch unet_256: .*last\.pt is a checkpoint of i2i-train.*leave it out"):
        load_trained(tmp_path / "last.pt", arch="unet_256")


def test_nothing_had_to_be_recognised_in_our_own(tmp_path):
    card = load_trained(save(published.resnet(1), tmp_path / "G.pth")).card
    networks = {"G": published.resnet(1).state_dict()}
    ours = Checkpoint(cards={"G": card}, config="{}", networks=networks, examples={}, training_state=None)
    save_checkpoint(tmp_path / "last.pt", ours)

    assert load_trained(tmp_path / "last.pt").recognised is None


@pytest.mark.parametrize(
    ("sums", "is_taken"),
    [
        ("SHA256 (G.pth) = " + 64 * "0", True),
        (64 * "0" + "  another.pth", True),
        ("G.pth: see the web page", True),
        (64 * "0" + "  G.pth", False),
    ],
    ids=["BSD", "of another file", "prose", "ours"],
)
def test_only_our_lines_of_sums_count(tmp_path, sums, is_taken):
    path = save(published.resnet(1), tmp_path / "G.pth")
    (tmp_path / "G.pth.sha256").write_text(sums + "\n")

    if is_taken:
        load_trained(path)
    else:
        with pytest.raises(ModelError, match=r"its SHA-256 is not the one in G\.pth\.sha256"):
            load_trained(path)


def without(weights, key):
    return {k: t for k, t in weights.items() if k != key}


@functools.cache
def wrong_contents():
    resnet, patchgan = published.resnet().state_dict(), published.discriminator().state_dict()
    encoder = published.resnet(0, downs=4).state_dict()
    vgg = {f"features.{i}.{k}": torch.zeros(s) for i in (0, 2) for k, s in (("weight", (64, 3, 3, 3)), ("bias", 64))}
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict()
    multiscale = {"scale0_layer0.0.weight": torch.zeros(64, 39, 4, 4)}
    return {
        "latest_net_D.pth": (patchgan, r"PatchGAN discriminator .*file, latest_net_G\.pth"),
        "30_net_D_A.pth": (patchgan, r"PatchGAN discriminator .*file, 30_net_G_A\.pth"),
        "netD.pth": (multiscale, r"PatchGAN discriminator .*generator's file, netG\.pth"),
        "latest_net_E.pth": (encoder, r"feature encoder \(latest_net_E\.pth\).*latest_net_G\.pth"),
        "latest_net_F.pth": ({"mlp_0.0.weight": torch.zeros(256, 3)}, r"CUT's feature network.*latest_net_G\.pth"),
        "optimizer.pth": (optimizer, r"an optimizer's state; expected the generator's file, latest_net_G\.pth"),
        "vgg.pth": (vgg, r"expected a U-Net .* found features\.0\.weight 64x3x3x3, features\.0\.bias 64, .*--arch"),
        "missing.pth": (
            without(resnet, "model.13.conv_block.5.weight"),
            r"nearest is resnet_9blocks,input_channels=3.*: 1 is missing \(model\.13\.conv_block\.5\.weight\).*--arch",
        ),
        "first.pth": (without(resnet, "model.1.weight"), r"nearest is a ResNet, of which model\.1\.weight is missing"),
        "more.pth": (
            resnet | {f"model.30.{k}": torch.zeros(1) for k in ("weight", "bias", "scale")},
            r"nearest is resnet_9.*norm=instance,.*: 3 keys are unknown \(model\.30\.weight, model\.30\.bias, \.\.\.\)",
        ),
        "shape.pth": (
            resnet | {"model.4.weight": torch.zeros(8, 2, 3, 3)},
            r"1 has another shape \(model\.4\.weight is 8x2x3x3 for 8x4x3x3\)",
        ),
        "unet.pth": (
            without(published.unet(5).state_dict(), "model.model.0.weight"),
            r"nearest is a U-Net, of which model\.model\.0\.weight is missing",
        ),
        "mobile.pth": (
            without(published.mobile_resnet().state_dict(), "model.4.weight"),
            r"nearest is GAN-Compression's mobile ResNet, of which a convolution is missing",
        ),
        "local.pth": (
            without(published.Local().state_dict(), "model1_1.4.weight"),
            r"nearest is local,.*1 is missing \(model1_1\.4\.weight\)",
        ),
        "nothing.pth": ({}, r"expected a generator's state dict, or one under .*found nothing"),
        "list.pth": ([1, 2], r"expected a generator's state dict, found list"),
        "other.pth": ({"epoch": 3, "loss": 0.1}, r"expected a generator's state dict, .*found epoch, loss"),
    }  # fmt: skip


@pytest.mark.parametrize("file", wrong_contents())
def test_a_file_that_is_no_known_generators_is_one_line_that_helps(tmp_path, file):
    contents, words = wrong_contents()[file]
    torch.save(contents, tmp_path / file)

    with pytest.raises(ModelError, match=words) as error:
        load_trained(tmp_path / file)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / file}: ")


@pytest.mark.parametrize(
    ("contents", "found"),
    [(b"", "an empty one"), (b"hello\nworld", r"b'hello\\nworld'"), (b"<!DOCTYPE html>", "b'<!DOCTYPE ht'")],
    ids=["empty", "text", "a web page"],
)
def test_a_file_that_torch_did_not_write_is_named(tmp_path, contents, found):
    path = tmp_path / "latest_net_G.pth"
    path.write_bytes(contents)

    with pytest.raises(ModelError, match=rf"expected tensors and JSON only in a file of torch\.save, found .*{found}"):
        load_trained(path)


def test_a_file_that_was_cut_off_is_named(tmp_path):
    path = save(published.resnet(1), tmp_path / "G.pth")
    path.write_bytes(path.read_bytes()[:2000])

    with pytest.raises(ModelError, match=r"^[^\n]*not a whole checkpoint[^\n]*$"):
        load_trained(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.jit")
@pytest.mark.parametrize("name", ["G.pth", "it's.pt"])
def test_a_torchscript_program_is_named_and_the_advice_works(tmp_path, recwarn, monkeypatch, name):
    network = published.resnet(1)
    torch.jit.script(network).save(tmp_path / name)
    recwarn.clear()

    with pytest.raises(ModelError, match=r"^[^\n]*: a TorchScript program, expected a state dict; [^\n]*$") as error:
        load_trained(tmp_path / name)
    assert "weights_only" not in str(error.value)
    assert not recwarn
    monkeypatch.chdir(tmp_path)
    exec(str(error.value).partition("in Python: ")[2], {"torch": torch})
    assert_translates_as_its_author(network, tmp_path / "G.pth")


def test_torchs_advice_to_run_the_code_is_never_passed_on(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Re-running `torch.load` with `weights_only` set to `False` will likely succeed")

    path = save(published.resnet(1), tmp_path / "G.pth")
    monkeypatch.setattr(torch, "load", refuse)

    with pytest.raises(ModelError, match=r"it could run code; save the state_dict\(\)") as error:
        load_trained(path)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("length", [0x80, 0x4B50])  # begins like a pickle, like a zip file
def test_a_safetensors_file_is_named_with_how_to_convert_it(tmp_path, length):
    path = tmp_path / "G.safetensors"
    header = b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + b"\0")

    with pytest.raises(ModelError) as error:
        load_trained(path)
    assert str(error.value) == (
        f"{path}: a safetensors file, expected one of torch.save; in Python: "
        "torch.save(safetensors.torch.load_file('G.safetensors'), 'G.pth')"
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, zipped):
    trap = tmp_path / "trap"

    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(trap),)

    weights = {**published.resnet(1).state_dict(), "model.30.weight": Malicious()}
    torch.save(weights, tmp_path / "G.pth", _use_new_zipfile_serialization=zipped)

    with pytest.raises(ModelError, match=r"^[^\n]*it could run code; save the state_dict\(\)[^\n]*$"):
        load_trained(tmp_path / "G.pth")
    assert not trap.exists()


@pytest.mark.parametrize("name", ["resnet_2blocks", "mobile_resnet_2blocks"])
def test_the_smallest_size_of_the_rule_is_translated(name):
    variants = [{}]
    if name == "resnet_2blocks":
        variants = [{"n_downsampling": n, "antialias_down": d, "antialias_up": u}
                    for n, d, u in ((1, 0, 0), (3, 0, 0), (2, 3, 4), (2, 4, 3), (2, 5, 2))]  # fmt: skip
    for variant in variants:
        architecture = Architecture(name=name, arguments={"ngf": 2, **variant})
        rule = size_rule(architecture)
        size = (rule.minimum, rule.minimum + rule.multiple_of)

        assert build_generator(architecture)(torch.zeros(1, 3, *size)).shape == (1, 3, *size)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's exporter uses what torch deprecates
@pytest.mark.parametrize(
    "network",
    [published.resnet(1, 2, blur=(3, 4)), published.mobile_resnet((2, 4, 6, 4, 2), (4, 8), "batch")],
    ids=["CUT", "GAN-Compression"],
)
def test_the_new_generators_are_the_same_in_onnx_at_any_size(tmp_path, network):
    generator = load_trained(save(published.as_if_trained(network), tmp_path / "G.pth")).generator
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}

    program = torch.onnx.export(
        generator, (torch.zeros(1, 3, 16, 24),), input_names=["input"], dynamo=True, dynamic_shapes=(sides,),
        verbose=False,
    )  # fmt: skip

    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    picture = torch.rand(1, 3, 32, 20)
    (found,) = session.run(None, {"input": picture.numpy()})
    np.testing.assert_allclose(found, generator(picture).numpy(), rtol=0, atol=1e-4)
    assert {node.domain for node in program.model_proto.graph.node} == {""}


@pytest.mark.parametrize("channels", ["1_2", "a_2_3_4_5_6", "4_8_16_0_8_4"])
def test_pruned_channels_that_do_not_fit_are_refused(channels):
    architecture = Architecture(name="mobile_resnet_1blocks", arguments={"channels": channels})

    with pytest.raises(ModelError, match="expected 6 numbers joined by underscores"):
        build_generator(architecture)
