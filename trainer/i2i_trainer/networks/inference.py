"""The form in which a trained generator is used: no dropout, and batch norm decided once and for all.

pix2pix was published with batch norm in training mode at test time: at batch 1 each layer normalises with the
statistics of the one image, which is an instance norm with the batch norm's scale and shift. This module makes that
explicit, so that evaluation, sample pictures and export all show the same function.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import nn

NormStatistics = Literal["image", "running"]


def for_inference(generator: nn.Module, statistics: NormStatistics) -> nn.Module:
    """A copy of `generator` that is a fixed function of one image.

    Args:
        generator: a trained generator; it is left as it is.
        statistics: `image` turns every batch norm into the instance norm that it is at batch 1 in training mode;
            `running` keeps batch norm, with the averages gathered in training.

    Returns:
        The generator in evaluation mode, without dropout and without gradients.
    """
    generator = copy.deepcopy(generator).eval().requires_grad_(False)
    if statistics == "image":
        _replace_batch_norms(generator)
    return generator


def _replace_batch_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _as_instance_norm(child))
        else:
            _replace_batch_norms(child)


@torch.no_grad()
def _as_instance_norm(norm: nn.BatchNorm2d) -> nn.InstanceNorm2d:
    """Both use the biased variance and the same eps, so the two are equal at batch 1."""
    instance = nn.InstanceNorm2d(norm.num_features, eps=norm.eps, affine=True).to(norm.weight)
    instance.weight.copy_(norm.weight)
    instance.bias.copy_(norm.bias)
    return instance.eval().requires_grad_(False)


def default_statistics(batch: int) -> NormStatistics:
    """What a generator was trained with: at batch 1 its batch norms saw one image at a time, above it several."""
    return "image" if batch == 1 else "running"
