"""Losses, in the papers' terms."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

GanObjective = Literal["vanilla", "lsgan"]


def gan_loss(logits: Tensor, is_real: bool, objective: GanObjective) -> Tensor:
    """How far a discriminator's verdict is from `is_real`, averaged over all patches.

    `vanilla` is binary cross-entropy on logits (Goodfellow et al. 2014, in the non-saturating form for generators);
    `lsgan` is the squared distance to 1 or 0 (Mao et al. 2017).
    """
    wanted = torch.full_like(logits, float(is_real))
    if objective == "vanilla":
        return functional.binary_cross_entropy_with_logits(logits, wanted)
    return functional.mse_loss(logits, wanted)
