"""Losses against a derivation of our own in float64 NumPy: each loss, and each model type's objectives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from i2i_trainer.losses import (
    discriminator_gan_loss,
    feature_matching_loss,
    generator_gan_loss,
    perceptual_loss,
)
from i2i_trainer.models import build_model, config_type
from i2i_trainer.models.base import Batch, Task
from i2i_trainer.networks.vgg import Vgg19Features

EXACT = {"rel": 1e-6, "abs": 1e-9}
OBJECTIVES = ("vanilla", "lsgan", "hinge")


def judged(logits: np.ndarray, is_real: bool, objective: str) -> float:
    """What a discriminator should have said, and how far it is from it."""
    if objective == "vanilla":
        probability = 1 / (1 + np.exp(-logits))
        return float(-np.log(probability if is_real else 1 - probability).mean())
    if objective == "lsgan":
        return float(((logits - float(is_real)) ** 2).mean())
    return float(np.maximum(0, 1 - logits if is_real else 1 + logits).mean())


def fooled(logits: np.ndarray, objective: str) -> float:
    """How far a generator is from convincing."""
    return float(-logits.mean()) if objective == "hinge" else judged(logits, True, objective)


def random_tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("is_real", [True, False])
def test_the_discriminators_objective(objective, is_real):
    logits = random_tensor(2, 1, 5, 7) * 3

    found = discriminator_gan_loss(logits, is_real, objective)

    assert found.item() == pytest.approx(judged(logits.numpy(), is_real, objective), **EXACT)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_generators_objective(objective):
    logits = random_tensor(2, 1, 5, 7) * 3

    assert generator_gan_loss(logits, objective).item() == pytest.approx(fooled(logits.numpy(), objective), **EXACT)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_of_half_precision_verdicts_are_computed_in_single(objective):
    logits = (random_tensor(1, 1, 64, 64) * 3).half()

    assert discriminator_gan_loss(logits, True, objective).dtype == torch.float32
    assert generator_gan_loss(logits, objective).dtype == torch.float32


def features(seed: int, num_d: int, layers: int) -> list[list[torch.Tensor]]:
    """Of each scale and layer another shape."""
    return [
        [random_tensor(1, 2 + layer, 8 - layer, 9 - scale, seed=seed + 10 * scale + layer) for layer in range(layers)]
        for scale in range(num_d)
    ]


@pytest.mark.parametrize("num_d", [1, 2, 3])
@pytest.mark.parametrize("n_layers", [2, 3])
def test_feature_matching_sums_mean_differences_over_scales_and_layers_but_the_verdict(num_d, n_layers):
    real, fake = (features(seed, num_d, n_layers + 2) for seed in (0, 1000))

    found = feature_matching_loss(real, fake)

    expected = 0.0
    for k in range(num_d):
        for i in range(n_layers + 1):
            r, f = real[k][i].numpy(), fake[k][i].numpy()
            one_over_n_i = 1 / r.size
            expected += 4 / (n_layers + 1) * (1 / num_d) * one_over_n_i * np.abs(r - f).sum()
    assert found.item() == pytest.approx(expected, **EXACT)


def test_feature_matching_teaches_the_generated_side_only():
    real, fake = ([[random_tensor(1, 2, 3, 3, seed=s).requires_grad_() for _ in range(3)]] for s in (0, 1))

    feature_matching_loss(real, fake).backward()

    assert [r.grad for r in real[0]] == [None, None, None]
    assert fake[0][0].grad is not None


class FiveMaps(nn.Module):
    def forward(self, x):
        return [x * factor for factor in (1.0, 2.0, 3.0, 4.0, 5.0)]


def test_the_perceptual_loss_weighs_deeper_features_more():
    output, target = random_tensor(1, 3, 4, 4), random_tensor(1, 3, 4, 4, seed=1)

    found = perceptual_loss(FiveMaps(), output, target)

    mean = np.abs(output.numpy() - target.numpy()).mean()
    assert found.item() == pytest.approx(mean * (1 / 32 + 2 / 16 + 3 / 8 + 4 / 4 + 5), **EXACT)


def test_the_perceptual_loss_of_vgg19_is_what_its_layers_give():
    torch.manual_seed(0)
    vgg = Vgg19Features().double()
    output, target = random_tensor(1, 3, 16, 16).tanh().requires_grad_(), random_tensor(1, 3, 16, 16, seed=1).tanh()
    target.requires_grad_()

    found = perceptual_loss(vgg, output, target)
    found.backward()

    # Five groups of convolutions with a pooling between; a loss after the first of each.
    weights, expected = iter(vgg.state_dict().values()), 0.0
    x, y = output.detach(), target.detach()
    for group, convolutions in enumerate((2, 2, 4, 4, 1)):
        for number in range(convolutions):
            kernel, bias = next(weights), next(weights)
            x, y = (functional.conv2d(z, kernel, bias, padding=1).clamp(min=0) for z in (x, y))
            if number == 0:
                expected += (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)[group] * l1(x, y)
        if group < 4:
            x, y = functional.max_pool2d(x, 2), functional.max_pool2d(y, 2)
    assert found.item() == pytest.approx(expected, **EXACT)
    assert output.grad is not None
    assert target.grad is None


def double_model(name: str, task: Task, **settings):
    torch.manual_seed(0)
    model = build_model(name, config_type(name)(**settings), task)
    model.generators.double()
    model.discriminators.double()
    return model


def double_batch(channels: int = 3, size: int = 32, **more) -> Batch:
    given, target = (random_tensor(2, c, size, size, seed=s).tanh() for s, c in ((3, channels), (4, 3)))
    return Batch(input=given, target=target, **more)


def values(losses) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


def l1(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.abs(a.detach().numpy() - b.detach().numpy()).mean())


# pix2pix


@pytest.mark.parametrize("gan", OBJECTIVES)
def test_pix2pix_compares_pairs_and_adds_lambda_l1(gan):
    model = double_model("pix2pix", Task(size=(32, 32)), ngf=4, ndf=4, lambda_l1=7.0, dropout=0.0, gan=gan)
    batch = double_batch()
    images = model.translate(batch)

    found = values(model.discriminator_loss(batch, images)) | values(model.generator_loss(batch, images))

    def verdict(candidate):
        return model.discriminators["D"](torch.cat([batch.input, candidate], 1)).detach().numpy()

    assert found == {
        "D_fake": pytest.approx(judged(verdict(images["fake_B"]), False, gan), **EXACT),
        "D_real": pytest.approx(judged(verdict(batch.target), True, gan), **EXACT),
        "G_GAN": pytest.approx(fooled(verdict(images["fake_B"]), gan), **EXACT),
        "G_L1": pytest.approx(7.0 * l1(images["fake_B"], batch.target), **EXACT),
    }


# CycleGAN


@pytest.mark.parametrize("gan", OBJECTIVES)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_cyclegan_follows_its_equations_both_ways(gan, norm):
    model = double_model(
        "cyclegan", Task(size=(32, 32)), ngf=2, ndf=2, n_layers=2, gan=gan, norm=norm, lambda_cycle=6.0,
        lambda_identity=0.25,
    )  # fmt: skip
    batch = double_batch()
    images = model.translate(batch)

    found = values(model.generator_loss(batch, images)) | values(model.discriminator_loss(batch, images))

    g_a, g_b = model.generators["G_A"], model.generators["G_B"]
    fake_b, fake_a = g_a(batch.input), g_b(batch.target)

    def verdict(d, image):
        return model.discriminators[d](image).detach().numpy()

    assert found == {
        "G_A": pytest.approx(fooled(verdict("D_A", fake_b), gan), **EXACT),
        "G_B": pytest.approx(fooled(verdict("D_B", fake_a), gan), **EXACT),
        "cycle_A": pytest.approx(6.0 * l1(g_b(fake_b), batch.input), **EXACT),
        "cycle_B": pytest.approx(6.0 * l1(g_a(fake_a), batch.target), **EXACT),
        "idt_A": pytest.approx(6.0 * 0.25 * l1(g_a(batch.target), batch.target), **EXACT),
        "idt_B": pytest.approx(6.0 * 0.25 * l1(g_b(batch.input), batch.input), **EXACT),
        # The pools are filling: what they return is what they got.
        "D_A": pytest.approx(
            judged(verdict("D_A", batch.target), True, gan) + judged(verdict("D_A", fake_b), False, gan), **EXACT
        ),
        "D_B": pytest.approx(
            judged(verdict("D_B", batch.input), True, gan) + judged(verdict("D_B", fake_a), False, gan), **EXACT
        ),
    }


def test_cyclegan_without_identity_has_no_identity_loss():
    model = double_model("cyclegan", Task(size=(32, 32)), ngf=2, ndf=2, n_layers=2, lambda_identity=0.0)
    batch = double_batch()

    images = model.translate(batch)

    assert not any(name.startswith("idt") for name in images | model.generator_loss(batch, images))


def test_cyclegans_discriminators_see_what_the_pool_returns():
    model = double_model("cyclegan", Task(size=(32, 32)), ngf=2, ndf=2, n_layers=2, pool_size=2)
    batch = double_batch()
    images = model.translate(batch)
    older = random_tensor(2, 3, 32, 32, seed=9).tanh()
    for pool in model.pools.values():
        pool.query(older)  # full from here on
    # Both images of the batch are swapped: the first two numbers below 1/2 in a row of this generator.
    seed = next(s for s in range(100) if torch.manual_seed(s) and torch.rand(()) < 0.5 and torch.randint(2, ()) == 0
                and torch.rand(()) < 0.5 and torch.randint(2, ()) == 1)  # fmt: skip
    torch.manual_seed(seed)

    found = model.discriminator_loss(batch, images)["D_A"].item()

    def verdict(image):
        return model.discriminators["D_A"](image).detach().numpy()

    expected = judged(verdict(batch.target), True, "lsgan") + judged(verdict(older), False, "lsgan")
    assert found == pytest.approx(expected, **EXACT)


# pix2pixHD

HD = {"ngf": 2, "n_downsampling": 2, "n_blocks": 1, "ndf": 2, "n_layers": 2}


@pytest.mark.parametrize("gan", OBJECTIVES)
@pytest.mark.parametrize("num_d", [1, 3])
def test_pix2pixhd_sums_over_discriminators_and_matches_features(gan, num_d):
    model = double_model(
        "pix2pixhd", Task(size=(32, 32), input_channels=5, has_labels=True), **HD, gan=gan, num_D=num_d, lambda_feat=3.0
    )
    batch = double_batch(channels=5)
    images = model.translate(batch)

    found = values(model.generator_loss(batch, images)) | values(model.discriminator_loss(batch, images))

    def seen(image):
        scales = model.discriminators["D"](torch.cat([batch.input, image], 1))
        return [[layer.detach().numpy() for layer in layers] for layers in scales]

    fake, real = seen(images["fake_B"]), seen(batch.target)
    matching = sum(
        4 / 3 / num_d * np.abs(f - r).mean()
        for fs, rs in zip(fake, real, strict=True)
        for f, r in zip(fs[:-1], rs[:-1], strict=True)
    )
    assert found == {
        "G_GAN": pytest.approx(sum(fooled(layers[-1], gan) for layers in fake), **EXACT),
        "G_GAN_Feat": pytest.approx(3.0 * matching, **EXACT),
        "D_fake": pytest.approx(sum(judged(layers[-1], False, gan) for layers in fake), **EXACT),
        "D_real": pytest.approx(sum(judged(layers[-1], True, gan) for layers in real), **EXACT),
    }


def test_pix2pixhds_generator_sees_the_features_of_each_object():
    model = double_model("pix2pixhd", Task(size=(32, 32), input_channels=4, has_labels=True), **HD, styles=2, nef=2)
    instances = torch.arange(4).repeat_interleave(8)[None, None, None].expand(2, 1, 32, 32)
    batch = double_batch(channels=4, instances=instances, n_labels=3)

    found = model.translate(batch)["fake_B"]

    encoded = model.generators["E"](batch.target, instances)
    torch.testing.assert_close(found, model.generators["G"](torch.cat([batch.input, encoded], 1)), rtol=0, atol=1e-12)


# what all of them keep


SETTINGS = {
    "pix2pix": {"ngf": 2, "ndf": 2},
    "cyclegan": {"ngf": 2, "ndf": 2, "n_layers": 2},
    "pix2pixhd": HD,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_discriminators_losses_leave_the_generators_alone(name):
    model = double_model(name, Task(size=(32, 32)), **SETTINGS[name])
    batch = double_batch()

    sum(model.discriminator_loss(batch, model.translate(batch)).values()).backward()

    assert all(weight.grad is None for weight in model.generators.parameters())
    assert all(weight.grad is not None for weight in model.discriminators.parameters())


@pytest.mark.parametrize("name", SETTINGS)
def test_the_generators_losses_reach_every_weight_of_the_generators(name):
    model = double_model(name, Task(size=(32, 32)), **SETTINGS[name])
    batch = double_batch()

    sum(model.generator_loss(batch, model.translate(batch)).values()).backward()

    assert all(weight.grad is not None for weight in model.generators.parameters())
