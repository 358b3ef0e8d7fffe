"""The form in which a trained generator is used: no dropout, and batch norm decided once and for all.

pix2pix was published with batch norm in training mode at test time: at batch 1 each layer normalises with the
statistics of the one image, which is an instance norm with the batch norm's scale and shift. This module makes that
explicit, so that evaluation, sample pictures and export all show the same function.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i_runtime.card import LabelSpec
from i2i_trainer.networks.labels import LabelEncoding

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


class LabelTranslator(nn.Module):
    """A generator together with what makes its input of a label map: one-hot classes, edges, a style.

    The style stands in for the feature encoder of training: every pixel gets the code that the style has for its
    class (pix2pixHD section 3.4).
    """

    def __init__(self, labels: LabelSpec, generator: nn.Module, style_codes: Tensor | None = None) -> None:
        """Wrap.

        Args:
            labels: what the label maps hold.
            generator: takes the encoded label map and, where there are `style_codes`, their features.
            style_codes: (styles, classes, features).
        """
        super().__init__()
        self.encoding = LabelEncoding(labels.count, labels.instance_edges)
        self.generator = generator
        self.register_buffer("style_codes", style_codes)

    def forward(self, labels: Tensor, instances: Tensor | None = None, style: Tensor | None = None) -> Tensor:
        """Translate.

        Args:
            labels: (n, 1, h, w) class ids.
            instances: (n, 1, h, w) instance ids, where the generator was trained with edges.
            style: (1,) int64, number of the style; None is the first.

        Returns:
            (n, c, h, w) in [-1, 1].
        """
        return self.generator(self.styled(self.encoding(labels, instances), style))  # type: ignore[no-any-return]

    def styled(self, encoded: Tensor, style: Tensor | None = None) -> Tensor:
        """What the generator takes: an encoded label map and, where there are styles, the features of one."""
        if self.style_codes is not None:
            codes = self.get_buffer("style_codes")
            code = codes[0] if style is None else torch.index_select(codes, 0, style)[0]
            # One-hot times a table of codes: a convolution of one pixel.
            table = code.t()[:, :, None, None].to(encoded.dtype)
            encoded = torch.cat([encoded, functional.conv2d(encoded[:, : len(code)], table)], 1)
        return encoded


def as_used(
    generator: nn.Module,
    statistics: NormStatistics,
    labels: LabelSpec | None = None,
    style_codes: Tensor | None = None,
) -> nn.Module:
    """A trained generator as evaluation, samples and export use it.

    It takes one picture (`input`, (n, c, h, w) in [-1, 1]), or as `LabelTranslator` label maps where `labels` says so.
    """
    fixed = for_inference(generator, statistics)
    return fixed if labels is None else LabelTranslator(labels, fixed, style_codes).eval()
