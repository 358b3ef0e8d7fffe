"""CycleGAN: translation between two sets of pictures without pairs (Zhu et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i_runtime.errors import UsageError
from i2i_trainer.config import ModelConfig, option
from i2i_trainer.image_pool import ImagePool
from i2i_trainer.losses import discriminator_gan_loss, generator_gan_loss
from i2i_trainer.models import base
from i2i_trainer.models.base import Batch, Images, Losses, Task
from i2i_trainer.networks.build import check_size, new_generator
from i2i_trainer.networks.layers import init_weights
from i2i_trainer.networks.patchgan import PatchGAN, check_patches
from i2i_trainer.networks.words import architecture_of


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """Defaults are the paper's."""

    generator: str = option(
        "auto",
        "resnet_9blocks, unet_256, student_6blocks,width=32, ...; auto: resnet_9blocks from 256 pixels on, else 6.",
    )
    ngf: int = option(64, "Features of the generators' first layer.", minimum=1)
    ndf: int = option(64, "Features of the discriminators' first layer.", minimum=1)
    n_layers: int = option(3, "Strided layers of the PatchGANs; 3 gives 70x70 patches.", minimum=1)
    norm: Literal["batch", "instance"] = option("instance", "Normalisation layers.")
    dropout: float = option(0.0, "Dropout in the generators.", minimum=0, maximum=1)
    gan: Literal["vanilla", "lsgan", "hinge"] = option("lsgan", "GAN objective.")
    lambda_cycle: float = option(10.0, "Weight of the cycle-consistency losses.", minimum=0)
    lambda_identity: float = option(0.5, "Weight of the identity losses, as a share of --lambda-cycle.", minimum=0)
    pool_size: int = option(50, "Generated images that a discriminator remembers.", minimum=0)


class Model(base.Model[Config]):
    """Section 3: G_A turns A into B, G_B turns B into A; D_A judges images of B, D_B images of A.

    A is the domain of the run's input: with --direction BtoA that of the folder B.
    """

    step_order = ("generator", "discriminator")
    data = "unpaired"

    def __init__(self, config: Config, task: Task) -> None:
        """See `base.Model`."""
        a, b = task.input_channels, task.output_channels
        if config.lambda_identity and a != b:
            raise UsageError(
                f"--lambda-identity {config.lambda_identity:g}: the identity loss needs equal channels, found {a} and "
                f"{b}; use --lambda-identity 0"
            )
        self.config = config
        name = config.generator
        if name == "auto":
            name = "resnet_9blocks" if min(task.size) >= 256 else "resnet_6blocks"
        self.translators = {
            network: architecture_of(
                name,
                "--generator",
                input_channels=given,
                output_channels=returned,
                ngf=config.ngf,
                norm=config.norm,
                dropout=config.dropout,
            )
            for network, given, returned in (("G_A", a, b), ("G_B", b, a))
        }
        check_size(self.translators["G_A"], task.size)
        check_patches(task.size, config.n_layers)
        self.generators = nn.ModuleDict({name: new_generator(its) for name, its in self.translators.items()})
        self.discriminators = nn.ModuleDict(
            {
                name: PatchGAN(channels, config.ndf, config.n_layers, config.norm)
                for name, channels in (("D_A", b), ("D_B", a))
            }
        )
        init_weights(self.discriminators)
        self.pools = {"D_A": ImagePool(config.pool_size), "D_B": ImagePool(config.pool_size)}

    def translate(self, batch: Batch) -> Images:
        """Each generator sees a real image of its own domain, one of the other, and the other's image to turn back."""
        a, b = batch.input, batch.target
        identity = bool(self.config.lambda_identity)
        fake_b, *idt_a = self._each(self.generators["G_A"], [a, b] if identity else [a])
        fake_a, rec_a, *idt_b = self._each(self.generators["G_B"], [b, fake_b, a] if identity else [b, fake_b])
        images = {"fake_B": fake_b, "fake_A": fake_a, "rec_A": rec_a, "rec_B": self.generators["G_A"](fake_a)}
        if identity:
            images |= {"idt_A": idt_a[0], "idt_B": idt_b[0]}
        return images

    def _each(self, network: nn.Module, images: list[Tensor]) -> tuple[Tensor, ...]:
        """A network's answer to each of several batches of images."""
        if self.translators["G_A"].arguments.get("norm") == "batch":
            return tuple(network(image) for image in images)
        # Instance norm keeps images apart: all at once are the same, and quicker.
        return network(torch.cat(images)).chunk(len(images))  # type: ignore[no-any-return]

    def generator_loss(self, batch: Batch, images: Images) -> Losses:
        """Equations 1 to 3, and the identity loss of section 5.2; cycle losses are weighted equally both ways."""
        config = self.config
        real = {"A": batch.input, "B": batch.target}
        losses: Losses = {}
        for g, there in (("A", "B"), ("B", "A")):
            verdict = self.discriminators[f"D_{g}"](images[f"fake_{there}"])
            losses[f"G_{g}"] = generator_gan_loss(verdict, config.gan)
            losses[f"cycle_{g}"] = config.lambda_cycle * functional.l1_loss(images[f"rec_{g}"], real[g])
            if config.lambda_identity:
                weight = config.lambda_cycle * config.lambda_identity
                losses[f"idt_{g}"] = weight * functional.l1_loss(images[f"idt_{g}"], real[there])
        return losses

    def discriminator_loss(self, batch: Batch, images: Images) -> Losses:
        """Real images against generated ones of now and of before (section 4: a history of 50 images)."""
        losses: Losses = {}
        for d, real, fake in (("D_A", batch.target, images["fake_B"]), ("D_B", batch.input, images["fake_A"])):
            on_real, on_fake = self._each(self.discriminators[d], [real, self.pools[d].query(fake.detach())])
            losses[d] = discriminator_gan_loss(on_real, True, self.config.gan) + discriminator_gan_loss(
                on_fake, False, self.config.gan
            )
        return losses
