"""A fourth model type is one file: that of docs/extending.md, in a copy of the packages, run as a user runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import MODULES, REPOSITORY
from drawings import write_unpaired

from i2i_trainer.models import model_names
from i2i_trainer.models.base import Batch, Task

EXAMPLE = REPOSITORY / "docs" / "examples" / "cut.py"
PAGE = REPOSITORY / "docs" / "extending.md"


@pytest.fixture(scope="module")
def cut():
    """The example as a module, though it lies in no package."""
    specification = importlib.util.spec_from_file_location("cut_of_the_docs", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules[specification.name]


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """Runs a command of a copy of the packages in which the example is a model type, in a folder with pictures."""
    home = tmp_path_factory.mktemp("extended")
    for package in ("runtime", "trainer", "export"):
        shutil.copytree(REPOSITORY / package, home / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLE, home / "trainer" / "i2i_trainer" / "models")
    write_unpaired(home / "data", "train", 3, 4)
    write_unpaired(home / "data", "test", 2, 2)
    path = os.pathsep.join(str(home / package) for package in ("runtime", "trainer", "export"))

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", MODULES[program], *map(str, arguments)],
            cwd=home, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    run.home = home
    return run


def test_the_page_shows_the_file_which_is_short_and_no_model_type_of_ours():
    code = EXAMPLE.read_text(encoding="utf-8")

    assert code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) < 100
    assert "cut" not in model_names()


def test_it_is_a_command_whose_settings_are_its_own(extended):
    listed, helped = extended("i2i-train", "--help"), extended("i2i-train", "cut", "--help")

    assert (listed.returncode, helped.returncode) == (0, 0), listed.stderr + helped.stderr
    assert "CUT: one-sided unpaired translation" in listed.stdout
    for flag in ("--lambda-nce", "--nce-t", "--num-patches", "--n-blocks", "--resume", "--ema"):
        assert flag in helped.stdout


def test_it_trains_resumes_and_is_exported(extended):
    trained = extended(
        "i2i-train", "cut", "--data", "data", "--out", "run", "--size", 32, "--n-blocks", 5, "--ngf", 4, "--ndf", 4,
        "--steps", 3, "--log-every", 1, "--device", "cpu",
    )  # fmt: skip
    resumed = extended("i2i-train", "cut", "--out", "run", "--resume", "--steps", 4)
    exported = extended("i2i-export", "run/last.pt", "-o", "cut.onnx")

    for finished in (trained, resumed, exported):
        assert finished.returncode == 0, finished.stderr
    logged = (extended.home / "run" / "metrics.jsonl").read_text().splitlines()
    lines = [line for line in map(json.loads, logged) if "lr" in line]  # not those of evaluations
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    losses = {"G_GAN", "NCE", "NCE_Y", "D_fake", "D_real"}
    assert all(losses == line.keys() - {"step", "epoch", "lr", "images_per_s"} for line in lines)
    # Half the cross-entropy of finding one of at most 256 patches, not told apart yet.
    assert 0.1 < lines[0]["NCE"] < np.log(256)
    assert (extended.home / "run" / "index.html").exists()
    assert "PyTorch" in exported.stdout + exported.stderr


def test_what_it_cannot_do_it_says(extended):
    finished = extended(
        "i2i-train", "cut", "--data", "data", "--out", "grey", "--size", 32, "--input-channels", 1, "--steps", 1
    )

    assert finished.returncode == 2
    assert "error: cut: one encoder sees inputs and outputs; expected pictures of equal channels" in finished.stderr


def test_patch_nce_equals_its_definition_in_float64(cut):
    rng = np.random.default_rng(0)
    fake, origin = rng.normal(size=(2, 3, 8, 5))[0], rng.normal(size=(3, 8, 5))
    temperature = 0.07

    expected = []
    for image in range(3):
        total = 0.0
        for i in range(5):
            v = fake[image, :, i] / np.linalg.norm(fake[image, :, i])
            scores = [v @ origin[image, :, j] / np.linalg.norm(origin[image, :, j]) / temperature for j in range(5)]
            total -= np.log(np.exp(scores[i]) / np.exp(scores).sum())
        expected.append(total / 5)

    vectors = torch.from_numpy(np.concatenate([fake, origin])).requires_grad_()
    found = cut.patch_nce_loss(vectors, temperature)
    found.sum().backward()

    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12)
    assert vectors.grad[:3].abs().sum() > 0
    assert vectors.grad[3:].abs().sum() == 0, "the origin is given, not learnt"


def test_its_losses_are_the_papers(cut):
    torch.manual_seed(0)
    task = Task(size=(32, 32))
    model = cut.Model(cut.Config(n_blocks=5, ngf=4, ndf=4, lambda_nce=2.0, num_patches=4096), task)
    batch = Batch(input=torch.rand(2, 3, 32, 32) * 2 - 1, target=torch.rand(2, 3, 32, 32) * 2 - 1)
    images = model.translate(batch)
    encode, project = model.generators["G"], model.generators["F"]

    def nce(made, origin):
        """Over all places of a layer, whose order changes nothing."""
        torch.manual_seed(1)
        queries = project(encode(made, encode=True), 4096)
        torch.manual_seed(1)
        keys = project(encode(origin, encode=True), 4096)
        terms = [cut.patch_nce_loss(torch.cat(pair), 0.07).mean() for pair in zip(queries, keys, strict=True)]
        return sum(terms) / len(terms)

    losses = model.generator_loss(batch, images)

    # Both halves of the loss weigh the same, and lambda is the weight of their mean.
    torch.testing.assert_close(losses["NCE"], nce(images["fake_B"], batch.input))
    torch.testing.assert_close(losses["NCE_Y"], nce(images["idt_B"], batch.target))
    verdict = model.discriminators["D"](images["fake_B"])
    torch.testing.assert_close(losses["G_GAN"], (verdict - 1).square().mean())
    channels = [layer.shape[1] for layer in encode(batch.input, encode=True)]
    assert channels == [3, 8, 16, 16, 16]


def test_the_encoder_is_the_generators_own(cut):
    """The features are those after the padding, both strided convolutions and the first and fifth block."""
    model = cut.Model(cut.Config(n_blocks=5, ngf=4, ndf=4), Task(size=(32, 32)))
    generator = model.generators["G"]
    kinds = [type(generator.model[number]).__name__ for number in (0, 4, 7, 10, 14)]

    assert kinds == ["ReflectionPad2d", "Conv2d", "Conv2d", "ResidualBlock", "ResidualBlock"]
    assert [generator.model[number].stride for number in (4, 7)] == [(2, 2), (2, 2)]
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(generator(image), generator.model(image))
    torch.testing.assert_close(generator(image, encode=True)[-1], generator.model[:15](image))
