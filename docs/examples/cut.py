"""CUT: one-sided unpaired translation with a contrastive loss between patches (Park et al. 2020)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i_runtime.card import Architecture
from i2i_runtime.errors import UsageError
from i2i_trainer.config import ModelConfig, option
from i2i_trainer.losses import discriminator_gan_loss, generator_gan_loss
from i2i_trainer.models import base
from i2i_trainer.models.base import Batch, Images, Losses, Task
from i2i_trainer.networks.build import check_size
from i2i_trainer.networks.layers import init_weights
from i2i_trainer.networks.patchgan import PatchGAN, check_patches
from i2i_trainer.networks.resnet import ResnetGenerator


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """Defaults are the paper's."""

    n_blocks: int = option(9, "Residual blocks of the generator.", minimum=5, maximum=99)
    ngf: int = option(64, "Features of the generator's first layer.", minimum=1)
    ndf: int = option(64, "Features of the discriminator's first layer.", minimum=1)
    lambda_nce: float = option(1.0, "Weight of the contrastive loss.", minimum=0)
    nce_t: float = option(0.07, "Temperature of the contrastive loss.", minimum=1e-3)
    num_patches: int = option(256, "Patches of a layer that are compared with each other.", minimum=2)


class Generator(ResnetGenerator):
    """A residual generator that shows what its encoder sees; weights and output are those of its base."""

    def forward(self, image: Tensor, *, encode: bool = False) -> Any:
        """The translated image; with `encode` the features of padding, both halvings, first and fifth block."""
        seen = [image := layer(image) for layer in list(self.model)[: 15 if encode else None]]
        return [seen[number] for number in (0, 4, 7, 10, 14)] if encode else image


class Projection(nn.ModuleList):
    """F, a small MLP for each layer: features of random places to vectors that can be compared (section 3)."""

    def forward(self, layers: list[Tensor], count: int) -> list[Tensor]:
        """(n, c, h, w) of each layer to (n, 256, patches): the same places in all images, `count` at most."""
        places = [torch.randperm(its[0, 0].numel(), device=its.device)[:count] for its in layers]
        return [mlp(x.flatten(2)[:, :, at, None])[..., 0] for mlp, x, at in zip(self, layers, places, strict=True)]


class Model(base.Model[Config]):
    """Section 3: outputs look like B, and each patch of an output like the input's patch at the same place."""

    step_order = ("discriminator", "generator")
    data = "unpaired"

    def __init__(self, config: Config, task: Task) -> None:
        """See `base.Model`."""
        if task.has_labels or task.input_channels != task.output_channels:
            raise UsageError("cut: one encoder sees inputs and outputs; expected pictures of equal channels")
        self.config, channels, width = config, task.input_channels, config.ngf * 4
        arguments: dict[str, Any] = {"input_channels": channels, "output_channels": channels, "ngf": config.ngf}
        self.translators = {"G": Architecture(name=f"resnet_{config.n_blocks}blocks", arguments=arguments)}
        check_size(self.translators["G"], task.size)
        check_patches(task.size, n_layers=3)
        widths = (channels, width // 2, width, width, width)
        mlps = (nn.Sequential(nn.Conv2d(c, 256, 1), nn.ReLU(), nn.Conv2d(256, 256, 1)) for c in widths)
        self.generators = nn.ModuleDict({"G": Generator(config.n_blocks, **arguments), "F": Projection(mlps)})
        self.discriminators = nn.ModuleDict({"D": PatchGAN(channels, config.ndf, norm="instance")})
        init_weights(nn.ModuleList([self.generators, self.discriminators]))

    def translate(self, batch: Batch) -> Images:
        """The input across, and an image of B, which G should leave as it is."""
        fake, identity = self.generators["G"](torch.cat([batch.input, batch.target])).chunk(2)
        return {"fake_B": fake, "idt_B": identity}

    def generator_loss(self, batch: Batch, images: Images) -> Losses:
        """Equation 5: D convinced, and patches of fake and identity image recognised among those of their origin."""
        verdict, half = self.discriminators["D"](images["fake_B"]), self.config.lambda_nce / 2
        pictures = torch.cat([images["fake_B"], images["idt_B"], batch.input, batch.target])
        layers = self.generators["F"](self.generators["G"](pictures, encode=True), self.config.num_patches)
        nce, idt = torch.stack([patch_nce_loss(its, self.config.nce_t) for its in layers]).mean(0).chunk(2)
        return {"G_GAN": generator_gan_loss(verdict, "lsgan"), "NCE": half * nce.mean(), "NCE_Y": half * idt.mean()}

    def discriminator_loss(self, batch: Batch, images: Images) -> Losses:
        """See `base.Model`."""
        judge, fake = self.discriminators["D"], images["fake_B"].detach()
        return {"D_fake": discriminator_gan_loss(judge(fake), False, "lsgan"),
                "D_real": discriminator_gan_loss(judge(batch.target), True, "lsgan")}  # fmt: skip


def patch_nce_loss(vectors: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each patch's origin (equation 3); (2n, c, patches), origins behind, to (n,)."""
    with torch.autocast(vectors.device.type, enabled=False):  # cosines need single precision
        query, key = functional.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float)), dim=1).chunk(2)
        cosines = key.detach().transpose(1, 2) @ query / temperature
        return (cosines.logsumexp(1) - cosines.diagonal(dim1=1, dim2=2)).mean(1)
