"""Pix2Pix: paired translation with a conditional GAN and L1 (Isola et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from i2i_runtime.card import Architecture, SizeRule
from i2i_runtime.errors import UsageError
from i2i_trainer.config import ModelConfig, Size, option
from i2i_trainer.losses import gan_loss
from i2i_trainer.models import base
from i2i_trainer.models.base import Batch, Images, Losses
from i2i_trainer.networks.build import build_generator
from i2i_trainer.networks.layers import init_weights
from i2i_trainer.networks.patchgan import PatchGAN
from i2i_trainer.networks.unet import unet_downs, unet_for


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """Defaults are the paper's."""

    generator: str = option("auto", "unet_256, unet_128, ...; auto: the deepest up to unet_256 that fits --size.")
    ngf: int = option(64, "Features of the generator's first level.", minimum=1)
    ndf: int = option(64, "Features of the discriminator's first layer.", minimum=1)
    n_layers: int = option(3, "Strided layers of the PatchGAN; 3 gives 70x70 patches.", minimum=1)
    norm: Literal["batch", "instance"] = option("batch", "Normalisation layers.")
    dropout: float = option(0.5, "Dropout in the generator's inner decoder levels.", minimum=0, maximum=1)
    gan: Literal["vanilla", "lsgan"] = option("vanilla", "GAN objective.")
    lambda_l1: float = option(100.0, "Weight of the L1 loss.", minimum=0)


class Model(base.Model[Config]):
    """Section 3: G(input) must look real beside its input, and be near its target."""

    step_order = ("discriminator", "generator")

    def __init__(self, config: Config, size: Size) -> None:
        """See `base.Model`."""
        self.config = config
        name = unet_for(*size) if config.generator == "auto" else config.generator
        multiple = 2 ** unet_downs(name)
        if any(side % multiple for side in size):
            raise UsageError(
                f"--size {size[0]}x{size[1]}: {name} takes multiples of {multiple}; "
                f"use --generator {unet_for(*size)} or another size"
            )
        if min(size) // 2**config.n_layers < 3:
            raise UsageError(
                f"--n-layers {config.n_layers}: images of {size[0]}x{size[1]} leave the PatchGAN nothing to judge; "
                "use fewer layers or a larger --size"
            )
        self._size_rule = SizeRule(multiple_of=multiple, minimum=multiple)
        self._architecture = Architecture(
            name=name,
            arguments={
                "input_channels": 3,
                "output_channels": 3,
                "ngf": config.ngf,
                "norm": config.norm,
                "dropout": config.dropout,
            },
        )
        self.generators = nn.ModuleDict({"G": build_generator(self._architecture)})
        self.discriminators = nn.ModuleDict({"D": PatchGAN(6, config.ndf, config.n_layers, config.norm)})
        init_weights(self.generators)
        init_weights(self.discriminators)

    def translate(self, batch: Batch) -> Images:
        """See `base.Model`."""
        return {"fake_B": self.generators["G"](batch.input)}

    def discriminator_loss(self, batch: Batch, images: Images) -> Losses:
        """Two comparisons: generated with input against zeros, real with input against ones (section 3.1)."""
        discriminator, gan = self.discriminators["D"], self.config.gan
        fake = discriminator(torch.cat([batch.input, images["fake_B"].detach()], 1))
        real = discriminator(torch.cat([batch.input, batch.target], 1))
        return {"D_fake": gan_loss(fake, False, gan), "D_real": gan_loss(real, True, gan)}

    def generator_loss(self, batch: Batch, images: Images) -> Losses:
        """The discriminator should be convinced, and the target met (equation 4)."""
        verdict = self.discriminators["D"](torch.cat([batch.input, images["fake_B"]], 1))
        return {
            "G_GAN": gan_loss(verdict, True, self.config.gan),
            "G_L1": self.config.lambda_l1 * functional.l1_loss(images["fake_B"], batch.target),
        }

    def generator(self) -> tuple[nn.Module, Architecture, SizeRule]:
        """See `base.Model`."""
        return self.generators["G"], self._architecture, self._size_rule
