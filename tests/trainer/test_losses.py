"""Losses against a derivation of our own in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from i2i_trainer.losses import gan_loss
from i2i_trainer.models import build_model, config_type
from i2i_trainer.models.base import Batch

EXACT = {"rel": 1e-6, "abs": 1e-9}


def cross_entropy(logits: np.ndarray, wanted: float) -> float:
    """-[y log s(x) + (1 - y) log(1 - s(x))], averaged."""
    probability = 1 / (1 + np.exp(-logits))
    return float(-(wanted * np.log(probability) + (1 - wanted) * np.log(1 - probability)).mean())


@pytest.fixture
def logits():
    return torch.randn(2, 1, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("is_real", [True, False])
def test_the_vanilla_objective_is_binary_cross_entropy_on_logits(logits, is_real):
    assert gan_loss(logits, is_real, "vanilla").item() == pytest.approx(
        cross_entropy(logits.numpy(), float(is_real)), **EXACT
    )


@pytest.mark.parametrize("is_real", [True, False])
def test_the_lsgan_objective_is_the_squared_distance_to_the_wanted_verdict(logits, is_real):
    expected = ((logits.numpy() - float(is_real)) ** 2).mean()

    assert gan_loss(logits, is_real, "lsgan").item() == pytest.approx(expected, **EXACT)


@pytest.fixture
def pix2pix():
    torch.manual_seed(0)
    model = build_model("pix2pix", config_type("pix2pix")(ngf=4, ndf=4, lambda_l1=7.0, dropout=0.0), (32, 32))
    model.generators.double()
    model.discriminators.double()
    return model


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(3)
    return Batch(
        input=torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=random) * 2 - 1,
        target=torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=random) * 2 - 1,
    )


def verdict(model, image, candidate) -> np.ndarray:
    return model.discriminators["D"](torch.cat([image, candidate], 1)).detach().numpy()


def test_pix2pix_compares_generated_pairs_with_zeros_and_real_pairs_with_ones(pix2pix, batch):
    images = pix2pix.translate(batch)

    losses = pix2pix.discriminator_loss(batch, images)

    fake = verdict(pix2pix, batch.input, images["fake_B"].detach())
    real = verdict(pix2pix, batch.input, batch.target)
    assert losses["D_fake"].item() == pytest.approx(cross_entropy(fake, 0.0), **EXACT)
    assert losses["D_real"].item() == pytest.approx(cross_entropy(real, 1.0), **EXACT)


def test_pix2pix_wants_its_output_to_pass_for_real_and_to_be_near_the_target(pix2pix, batch):
    images = pix2pix.translate(batch)

    losses = pix2pix.generator_loss(batch, images)

    fake = images["fake_B"].detach()
    assert losses["G_GAN"].item() == pytest.approx(cross_entropy(verdict(pix2pix, batch.input, fake), 1.0), **EXACT)
    assert losses["G_L1"].item() == pytest.approx(7.0 * np.abs(fake.numpy() - batch.target.numpy()).mean(), **EXACT)


def test_the_discriminators_loss_sends_no_gradient_into_the_generator(pix2pix, batch):
    losses = pix2pix.discriminator_loss(batch, pix2pix.translate(batch))

    (losses["D_fake"] + losses["D_real"]).backward()

    assert all(p.grad is None for p in pix2pix.generators.parameters())
    assert all(p.grad is not None for p in pix2pix.discriminators.parameters())
