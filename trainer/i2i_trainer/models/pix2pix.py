"""Pix2Pix: paired translation with a conditional GAN and L1 (Isola et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from i2i_trainer.config import ModelConfig, option
from i2i_trainer.losses import discriminator_gan_loss, generator_gan_loss
from i2i_trainer.models import base
from i2i_trainer.models.base import Batch, Images, Losses, Task
from i2i_trainer.networks.build import check_size, new_generator
from i2i_trainer.networks.layers import init_weights
from i2i_trainer.networks.patchgan import PatchGAN, check_patches
from i2i_trainer.networks.unet import unet_for
from i2i_trainer.networks.words import architecture_of


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """Defaults are the paper's."""

    generator: str = option(
        "auto",
        "unet_256, resnet_9blocks, student_6blocks,width=32, ...; auto: the deepest U-Net up to 256 that fits --size.",
    )
    ngf: int = option(64, "Features of the generator's first level.", minimum=1)
    ndf: int = option(64, "Features of the discriminator's first layer.", minimum=1)
    n_layers: int = option(3, "Strided layers of the PatchGAN; 3 gives 70x70 patches.", minimum=1)
    norm: Literal["batch", "instance"] = option("batch", "Normalisation layers.")
    dropout: float = option(0.5, "Dropout in the generator's inner decoder levels.", minimum=0, maximum=1)
    gan: Literal["vanilla", "lsgan", "hinge"] = option("vanilla", "GAN objective.")
    lambda_l1: float = option(100.0, "Weight of the L1 loss.", minimum=0)


class Model(base.Model[Config]):
    """Section 3: G(input) must look real beside its input, and be near its target."""

    step_order = ("discriminator", "generator")

    def __init__(self, config: Config, task: Task) -> None:
        """See `base.Model`."""
        self.config = config
        name = unet_for(*task.size) if config.generator == "auto" else config.generator
        architecture = architecture_of(
            name,
            "--generator",
            input_channels=task.input_channels,
            output_channels=task.output_channels,
            ngf=config.ngf,
            norm=config.norm,
            dropout=config.dropout,
        )
        check_size(architecture, task.size)
        check_patches(task.size, config.n_layers)
        self.translators = {"G": architecture}
        self.generators = nn.ModuleDict({"G": new_generator(architecture)})
        channels = task.input_channels + task.output_channels
        self.discriminators = nn.ModuleDict({"D": PatchGAN(channels, config.ndf, config.n_layers, config.norm)})
        init_weights(self.discriminators)

    def translate(self, batch: Batch) -> Images:
        """See `base.Model`."""
        return {"fake_B": self.generators["G"](batch.input)}

    def discriminator_loss(self, batch: Batch, images: Images) -> Losses:
        """Two comparisons: generated with input against zeros, real with input against ones (section 3.1)."""
        discriminator, gan = self.discriminators["D"], self.config.gan
        fake = discriminator(torch.cat([batch.input, images["fake_B"].detach()], 1))
        real = discriminator(torch.cat([batch.input, batch.target], 1))
        return {
            "D_fake": discriminator_gan_loss(fake, False, gan),
            "D_real": discriminator_gan_loss(real, True, gan),
        }

    def generator_loss(self, batch: Batch, images: Images) -> Losses:
        """The discriminator should be convinced, and the target met (equation 4)."""
        verdict = self.discriminators["D"](torch.cat([batch.input, images["fake_B"]], 1))
        return {
            "G_GAN": generator_gan_loss(verdict, self.config.gan),
            "G_L1": self.config.lambda_l1 * functional.l1_loss(images["fake_B"], batch.target),
        }
