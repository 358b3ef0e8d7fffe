"""What every model type gives the training loop: networks, losses, and a card for what it learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, TypeVar

from torch import Tensor, nn

from i2i_runtime.card import Architecture, SizeRule
from i2i_trainer.config import ModelConfig, Size

ConfigT = TypeVar("ConfigT", bound=ModelConfig)

Part = Literal["generator", "discriminator"]
Images = dict[str, Tensor]
"""Images of one step by their names in the papers, for example `fake_B`; (n, c, h, w) in [-1, 1]."""
Losses = dict[str, Tensor]
"""Scalars by their names in the papers; the loop descends on their sum."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Training images, (n, c, h, w) float32 in [-1, 1]; `input` and `target` follow the direction."""

    input: Tensor
    target: Tensor


class Model(ABC, Generic[ConfigT]):
    """A model type. The loop owns optimisers, devices and saving; this owns networks and losses."""

    step_order: ClassVar[tuple[Part, Part]]
    """Which of the two is updated first."""
    discriminator_weight: ClassVar[float] = 0.5
    """The discriminator's objective is halved, which slows it against the generator (pix2pix section 3.3)."""

    generators: nn.ModuleDict
    discriminators: nn.ModuleDict

    @abstractmethod
    def __init__(self, config: ConfigT, size: Size) -> None:
        """Build the networks for images of `size`, with fresh weights from torch's random generator.

        Raises:
            UsageError: the settings do not go together.
        """

    @abstractmethod
    def translate(self, batch: Batch) -> Images:
        """Run the generators once; both losses use what comes out."""

    @abstractmethod
    def generator_loss(self, batch: Batch, images: Images) -> Losses:
        """The generators' losses, weighted."""

    @abstractmethod
    def discriminator_loss(self, batch: Batch, images: Images) -> Losses:
        """The discriminators' losses, before `discriminator_weight`; no gradient reaches the generators."""

    @abstractmethod
    def generator(self) -> tuple[nn.Module, Architecture, SizeRule]:
        """The generator to evaluate and export, how to rebuild it, and the image sizes it takes."""

    def networks(self) -> dict[str, nn.Module]:
        """Every network under its name in a checkpoint."""
        return {**self.generators, **self.discriminators}
