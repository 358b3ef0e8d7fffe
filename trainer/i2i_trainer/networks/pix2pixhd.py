"""The coarse-to-fine generator and the feature encoder of pix2pixHD (Wang et al. 2018, sections 3.2 and 3.4)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from i2i_runtime.errors import UsageError
from i2i_trainer.checkpoint import load_weights
from i2i_trainer.networks.layers import (
    NormName,
    ResidualBlock,
    conv_stage,
    first_stage,
    half_size,
    last_stage,
    up_stage,
)

_HEAD = 3
"""Layers at the end of the global generator that make an image of its features; an enhancer takes the features."""


class GlobalGenerator(nn.Module):
    """G1: the residual generator for the whole picture at a coarse size.

    State-dict keys are those of the PyTorch reference implementation, where every convolution has a bias.
    """

    def __init__(
        self,
        input_channels: int,
        output_channels: int = 3,
        ngf: int = 64,
        n_downsampling: int = 4,
        n_blocks: int = 9,
        norm: NormName = "instance",
    ) -> None:
        """Build it.

        Args:
            input_channels: channels of the input: of label maps one a class, edges, features of an encoder.
            output_channels: channels of the output image.
            ngf: features of the first layer; doubled at each halving.
            n_downsampling: number of halvings; image sides must be multiples of 2**n_downsampling.
            n_blocks: residual blocks at the smallest size.
            norm: normalisation layers.
        """
        super().__init__()
        widths = [ngf * 2**i for i in range(n_downsampling + 1)]
        layers = first_stage(input_channels, ngf, norm, bias=True)
        for width in widths[:-1]:
            layers += conv_stage(width, width * 2, norm, stride=2, bias=True)
        layers += [ResidualBlock(widths[-1], norm, bias=True) for _ in range(n_blocks)]
        for width in reversed(widths[:-1]):
            layers += up_stage(width * 2, width, norm, bias=True)
        self.model: nn.Sequential = nn.Sequential(*layers, *last_stage(ngf, output_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to an image (n, c', h, w) in [-1, 1]."""
        return self.model(x)  # type: ignore[no-any-return]


class LocalEnhancer(nn.Module):
    """G1 without its last layers, inside enhancers that each double the side of the picture.

    State-dict keys are those of the PyTorch reference implementation.
    """

    def __init__(
        self,
        input_channels: int,
        output_channels: int = 3,
        ngf: int = 64,
        n_downsampling: int = 4,
        n_blocks: int = 9,
        norm: NormName = "instance",
        n_enhancers: int = 1,
        n_local_blocks: int = 3,
    ) -> None:
        """Build it.

        Args:
            input_channels: see `GlobalGenerator`.
            output_channels: see `GlobalGenerator`.
            ngf: features of G1's first layer; each enhancer has half as many as what it stands around.
            n_downsampling: see `GlobalGenerator`.
            n_blocks: residual blocks of G1.
            norm: normalisation layers.
            n_enhancers: number of enhancers; sides must be multiples of 2**(n_downsampling + n_enhancers).
            n_local_blocks: residual blocks of each enhancer.

        Raises:
            UsageError: `ngf` cannot be halved as often as there are enhancers.
        """
        super().__init__()
        if ngf % 2**n_enhancers:
            raise UsageError(f"--ngf {ngf}: expected a multiple of {2**n_enhancers} for {n_enhancers} enhancers")
        whole = GlobalGenerator(input_channels, output_channels, ngf, n_downsampling, n_blocks, norm)
        self.model = whole.model[:-_HEAD]
        self._last = f"model.{len(whole.model) - 2}."
        self._n_enhancers = n_enhancers
        for number in range(1, n_enhancers + 1):
            width = ngf // 2**number
            down = [
                *first_stage(input_channels, width, norm, bias=True),
                *conv_stage(width, width * 2, norm, stride=2, bias=True),
            ]
            up = [
                *(ResidualBlock(width * 2, norm, bias=True) for _ in range(n_local_blocks)),
                *up_stage(width * 2, width, norm, bias=True),
            ]
            if number == n_enhancers:
                up += last_stage(width, output_channels)
            self.add_module(f"model{number}_1", nn.Sequential(*down))
            self.add_module(f"model{number}_2", nn.Sequential(*up))
        self._halve = half_size()

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to an image (n, c', h, w) in [-1, 1]."""
        sizes = [x]
        for _ in range(self._n_enhancers):
            sizes.append(self._halve(sizes[-1]))
        features = self.model(sizes.pop())
        for number in range(1, self._n_enhancers + 1):
            down, up = self.get_submodule(f"model{number}_1"), self.get_submodule(f"model{number}_2")
            features = up(down(sizes.pop()) + features)
        return features  # type: ignore[no-any-return]

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """The weights that come from G1."""
        return self.model.parameters()

    def load_global(self, weights: dict[str, Tensor]) -> None:
        """Take G1's weights from the state dict of a `GlobalGenerator`; those of its last layers are left out.

        Raises:
            ModelError: they do not fit.
        """
        trunk = {
            key.removeprefix("model."): tensor for key, tensor in weights.items() if not key.startswith(self._last)
        }
        load_weights(self.model, trunk, "the global generator")


class FeatureEncoder(nn.Module):
    """E: features of an image that are equal over each object (section 3.4).

    State-dict keys are those of the PyTorch reference implementation.
    """

    def __init__(
        self,
        input_channels: int = 3,
        feat_num: int = 3,
        nef: int = 16,
        n_downsampling: int = 4,
        norm: NormName = "instance",
    ) -> None:
        """Build it.

        Args:
            input_channels: channels of the image.
            feat_num: features of each object.
            nef: features of the first layer; doubled at each halving.
            n_downsampling: number of halvings.
            norm: normalisation layers.
        """
        super().__init__()
        # The global generator without residual blocks.
        self.model = GlobalGenerator(input_channels, feat_num, nef, n_downsampling, 0, norm).model

    def forward(self, image: Tensor, instances: Tensor) -> Tensor:
        """(n, c, h, w) and ids (n, 1, h, w) to (n, feat_num, h, w) in [-1, 1], constant over each instance."""
        return instance_average(self.model(image), instances)


def instance_average(features: Tensor, instances: Tensor) -> Tensor:
    """Each pixel gets the mean of its instance's features (section 3.4, instance-wise average pooling).

    Args:
        features: (n, c, h, w).
        instances: (n, 1, h, w) integer ids.

    Returns:
        (n, c, h, w) of the features' type.
    """
    n, c, h, w = features.shape
    ids, which = torch.unique(instances.reshape(n, -1).long(), return_inverse=True)
    # An id may stand in several images of a batch: each image has places of its own.
    first_place = torch.arange(n, device=which.device)[:, None] * len(ids)
    which = (which + first_place).reshape(-1)
    pixels = features.permute(0, 2, 3, 1).reshape(-1, c)
    # Sums over pixels, of features here and of gradients on the way back: in bfloat16 a sum of ones ends at 256.
    sums = torch.zeros(n * len(ids), c, dtype=torch.promote_types(pixels.dtype, torch.float32), device=pixels.device)
    sums = sums.index_add(0, which, pixels.to(sums.dtype))
    counts = torch.bincount(which, minlength=len(sums)).clamp(min=1)
    means = (sums / counts[:, None]).index_select(0, which).to(features.dtype)
    return means.reshape(n, h, w, c).permute(0, 3, 1, 2)
