"""Losses, in the papers' terms. All are computed in float32 at least, whatever precision the networks run in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

GanObjective = Literal["vanilla", "lsgan", "hinge"]

_VGG_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Of relu1_1 to relu5_1: the deeper, the more it says about content (pix2pixHD's published training)."""


def discriminator_gan_loss(logits: Tensor, is_real: bool, objective: GanObjective) -> Tensor:
    """How far a discriminator's verdict is from `is_real`, averaged over all patches.

    `vanilla` is binary cross-entropy on logits (Goodfellow et al. 2014), `lsgan` the squared distance to 1 or 0 (Mao
    et al. 2017), `hinge` max(0, 1 - x) of real and max(0, 1 + x) of generated images (Lim and Ye 2017).
    """
    logits = _precise(logits)
    if objective == "hinge":
        return functional.relu(1.0 - logits if is_real else 1.0 + logits).mean()
    wanted = torch.full_like(logits, float(is_real))
    if objective == "vanilla":
        return functional.binary_cross_entropy_with_logits(logits, wanted)
    return functional.mse_loss(logits, wanted)


def generator_gan_loss(logits: Tensor, objective: GanObjective) -> Tensor:
    """How far a discriminator is from taking generated images for real; with `hinge` it is -x, without a margin."""
    if objective == "hinge":
        return -_precise(logits).mean()
    return discriminator_gan_loss(logits, True, objective)


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Distance between what discriminators see in real and in generated images (pix2pixHD equation 3).

    Args:
        real: features of each scale, layer by layer, the last being the verdict, which does not count.
        fake: the same of generated images.

    Returns:
        The sum over scales and layers of the mean absolute difference (the paper's 1/N_i), weighted as in the
        published training: 4 / (n_layers + 1) a layer, that is 1 with three strided layers, and 1 / num_D a scale.
    """
    terms = []
    for real_layers, fake_layers in zip(real, fake, strict=True):
        weight = 4.0 / len(real_layers[:-1]) / len(real)
        terms += [
            weight * functional.l1_loss(_precise(f), _precise(r).detach())
            for r, f in zip(real_layers[:-1], fake_layers[:-1], strict=True)
        ]
    return sum_of(terms)


def perceptual_loss(vgg: nn.Module, output: Tensor, target: Tensor) -> Tensor:
    """Distance between VGG19's features of two images (pix2pixHD section 4; Johnson et al. 2016).

    Images enter in [-1, 1] as they are, as in pix2pixHD's published training, not normalised as for classification.
    """
    with torch.no_grad():
        wanted = vgg(target)
    found = vgg(output)
    return sum_of(
        [
            weight * functional.l1_loss(_precise(f), _precise(w))
            for weight, f, w in zip(_VGG_WEIGHTS, found, wanted, strict=True)
        ]
    )


def sum_of(losses: list[Tensor]) -> Tensor:
    """Their sum, as a scalar tensor."""
    return torch.stack(losses).sum()


def _precise(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
