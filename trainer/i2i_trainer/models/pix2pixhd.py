"""Pix2PixHD: high-resolution paired translation, from label maps or pictures (Wang et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from i2i_runtime.card import Architecture
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.checkpoint import load_checkpoint, load_weights
from i2i_trainer.config import ModelConfig, option
from i2i_trainer.losses import (
    discriminator_gan_loss,
    feature_matching_loss,
    generator_gan_loss,
    perceptual_loss,
    sum_of,
)
from i2i_trainer.models import base
from i2i_trainer.models.base import Batch, Images, Losses, Stage, Task
from i2i_trainer.networks.build import check_size, new_generator
from i2i_trainer.networks.layers import init_weights
from i2i_trainer.networks.patchgan import MultiscalePatchGAN, check_scales
from i2i_trainer.networks.pix2pixhd import FeatureEncoder, LocalEnhancer
from i2i_trainer.networks.vgg import load_vgg19
from i2i_trainer.styles import cluster_styles


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """Defaults are the paper's."""

    ngf: int = option(64, "Features of the global generator's first layer; each enhancer has half as many.", minimum=1)
    n_downsampling: int = option(4, "Halvings in the global generator.", minimum=1)
    n_blocks: int = option(9, "Residual blocks in the global generator.", minimum=1)
    n_enhancers: int = option(0, "Local enhancers around the global generator; each doubles the side.", minimum=0)
    n_local_blocks: int = option(3, "Residual blocks in each enhancer.", minimum=1)
    global_share: float = option(
        0.5,
        "With enhancers: share of the steps in which the global generator learns alone, at its own size.",
        minimum=0,
        maximum=0.99,
    )
    frozen_share: float = option(
        0.05, "With enhancers: share in which they learn while it rests; the rest is for both.", minimum=0, maximum=0.99
    )
    global_weights: str = option("", "Checkpoint of a global generator to begin with, instead of --global-share.")
    ndf: int = option(64, "Features of the discriminators' first layer.", minimum=1)
    n_layers: int = option(3, "Strided layers of each discriminator.", minimum=1)
    num_D: int = option(3, "Discriminators, each on half the size of the one before.", minimum=1)  # noqa: N815
    norm: Literal["batch", "instance"] = option("instance", "Normalisation layers.")
    gan: Literal["vanilla", "lsgan", "hinge"] = option("lsgan", "GAN objective.")
    lambda_feat: float = option(10.0, "Weight of the feature-matching loss.", minimum=0)
    vgg: str = option("", "File of VGG19 weights (torchvision's), for the perceptual loss; without it there is none.")
    lambda_vgg: float = option(10.0, "Weight of the perceptual loss.", minimum=0)
    styles: int = option(0, "Style codes to choose from; 0: no feature encoder.", minimum=0)
    feat_num: int = option(3, "Features of the encoder.", minimum=1)
    nef: int = option(16, "Features of the encoder's first layer.", minimum=1)


class Model(base.Model[Config]):
    """Section 3: a coarse-to-fine generator, discriminators at several scales, feature matching, instance maps."""

    step_order = ("generator", "discriminator")
    random_crop = False

    def __init__(self, config: Config, task: Task) -> None:
        """See `base.Model`."""
        if config.styles and not task.has_labels:
            raise UsageError("--styles: a style belongs to a class; it needs label maps (--label-nc)")
        if config.global_weights and not config.n_enhancers:
            raise UsageError("--global-weights: expected --n-enhancers 1 or more, found 0")
        if config.ngf % 2**config.n_enhancers:
            raise UsageError(
                f"--ngf {config.ngf}: expected a multiple of {2**config.n_enhancers} for {config.n_enhancers} enhancers"
            )
        self.config = config
        arguments: dict[str, int | float | str | bool] = {
            "input_channels": task.input_channels + (config.feat_num if config.styles else 0),
            "output_channels": task.output_channels,
            "ngf": config.ngf,
            "n_downsampling": config.n_downsampling,
            "n_blocks": config.n_blocks,
            "norm": config.norm,
        }
        enhancing: dict[str, int | float | str | bool] = {
            "n_enhancers": config.n_enhancers,
            "n_local_blocks": config.n_local_blocks,
        }
        self._global = Architecture(name="global", arguments=arguments)
        self._local = Architecture(name="local", arguments=arguments | enhancing)
        check_size(self._local if config.n_enhancers else self._global, task.size)
        stage = self.stages()[0]
        check_scales((task.size[0] // stage.scale, task.size[1] // stage.scale), config.num_D)
        first = self._global if stage.scale > 1 or not config.n_enhancers else self._local
        self.translators = {"G": first}
        self.generators = nn.ModuleDict({"G": new_generator(first)})
        if config.styles:
            # The paper's four halvings, or fewer where images are too small for G to have four.
            halvings = min(4, config.n_downsampling)
            self.generators["E"] = FeatureEncoder(task.output_channels, config.feat_num, config.nef, halvings)
            init_weights(self.generators["E"])
        channels = task.input_channels + task.output_channels
        self.discriminators = nn.ModuleDict(
            {"D": MultiscalePatchGAN(channels, config.ndf, config.n_layers, config.num_D, config.norm)}
        )
        init_weights(self.discriminators)
        # No network of ours: it is never trained and never saved.
        self._vgg = None
        if config.vgg and config.lambda_vgg:
            smallest = min(task.size) // stage.scale
            if task.output_channels != 3 or smallest < 16:
                raise UsageError(
                    f"--vgg: expected outputs of 3 channels and 16 pixels at least, found {task.output_channels} and "
                    f"{smallest}; leave it out"
                )
            self._vgg = load_vgg19(Path(config.vgg))

    def start(self, batches: Iterable[Batch]) -> None:
        """Take up the global generator of an earlier training, where there is one."""
        path = Path(self.config.global_weights)
        if not self.config.global_weights:
            return
        checkpoint = load_checkpoint(path)
        card = checkpoint.cards.get("G")
        if card is None or card.generator != self._global:
            found = f"{card.generator.name} {card.generator.arguments}" if card else "none"
            raise ModelError(
                f"--global-weights {path}: expected a generator global {self._global.arguments}, found {found}"
            )
        local = self.generators["G"]
        assert isinstance(local, LocalEnhancer)
        local.load_global(checkpoint.networks["G"])
        for name in ("D", "E"):
            for networks in (self.discriminators, self.generators):
                if name in networks and name in checkpoint.networks:
                    load_weights(networks[name], checkpoint.networks[name], f"--global-weights {path}: network {name}")

    def stages(self) -> tuple[Stage, ...]:
        """The global generator alone, the enhancers while it rests, all of them (section 3.2)."""
        config = self.config
        if not config.n_enhancers:
            return (Stage(),)
        alone = 0.0 if config.global_weights else config.global_share
        if alone + config.frozen_share >= 1:
            raise UsageError(
                "--global-share and --frozen-share: expected less than 1 together, found "
                f"{alone + config.frozen_share:g}"
            )
        stages = (
            Stage(name="global", share=alone, scale=2**config.n_enhancers),
            Stage(name="frozen", share=config.frozen_share),
            Stage(name="joint", share=1.0 - alone - config.frozen_share),
        )
        return tuple(stage for stage in stages if stage.share > 0)

    def begin(self, stage: Stage) -> None:
        """See `base.Model`."""
        if not self.config.n_enhancers or stage.name == "global":
            return
        generator = self.generators["G"]
        if not isinstance(generator, LocalEnhancer):
            local = new_generator(self._local).to(next(generator.parameters()).device)
            assert isinstance(local, LocalEnhancer)
            local.load_global(generator.state_dict())
            self.generators["G"] = generator = local
            self.translators = {"G": self._local}
        for parameter in generator.trunk_parameters():
            parameter.requires_grad_(stage.name != "frozen")

    def translate(self, batch: Batch) -> Images:
        """See `base.Model`."""
        given = batch.input
        if "E" in self.generators:
            assert batch.instances is not None
            given = torch.cat([given, self.generators["E"](batch.target, batch.instances)], 1)
        return {"fake_B": self.generators["G"](given)}

    def _judge(self, batch: Batch, image: Tensor) -> list[list[Tensor]]:
        features: list[list[Tensor]] = self.discriminators["D"](torch.cat([batch.input, image], 1))
        return features

    def generator_loss(self, batch: Batch, images: Images) -> Losses:
        """Equation 5: all discriminators convinced and their features matched; the perceptual loss of section 4."""
        config, fake = self.config, self._judge(batch, images["fake_B"])
        losses = {"G_GAN": sum_of([generator_gan_loss(features[-1], config.gan) for features in fake])}
        if config.lambda_feat:
            with torch.no_grad():
                real = self._judge(batch, batch.target)
            losses["G_GAN_Feat"] = config.lambda_feat * feature_matching_loss(real, fake)
        if self._vgg is not None:
            self._vgg.to(batch.target.device)
            losses["G_VGG"] = config.lambda_vgg * perceptual_loss(self._vgg, images["fake_B"], batch.target)
        return losses

    def discriminator_loss(self, batch: Batch, images: Images) -> Losses:
        """Each discriminator compares generated with real images at its own scale (equation 2)."""
        fake = images["fake_B"].detach()
        if self.config.norm == "batch":
            on_fake, on_real = ([scale[-1] for scale in self._judge(batch, image)] for image in (fake, batch.target))
        else:
            # Instance norm keeps images apart: both at once are the same, and quicker.
            pairs = torch.cat([torch.cat([batch.input, image], 1) for image in (fake, batch.target)])
            both = [scale[-1].chunk(2) for scale in self.discriminators["D"](pairs)]
            on_fake, on_real = [fake for fake, _ in both], [real for _, real in both]
        gan = self.config.gan
        return {
            "D_fake": sum_of([discriminator_gan_loss(logits, False, gan) for logits in on_fake]),
            "D_real": sum_of([discriminator_gan_loss(logits, True, gan) for logits in on_real]),
        }

    def learn_styles(self, batches: Iterable[Batch], generators: nn.ModuleDict) -> None:
        """Cluster what the encoder makes of each object, class by class (section 3.4)."""
        if "E" in generators:
            self.style_codes = cluster_styles(generators["E"], batches, self.config.styles)
