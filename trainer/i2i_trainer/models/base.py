"""What every model type gives the training loop: networks, losses, and how each network is rebuilt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Generic, Literal, TypeVar

from torch import Tensor, nn

from i2i_runtime.card import Architecture
from i2i_trainer.config import ModelConfig, RunConfig, Size
from i2i_trainer.image_pool import ImagePool
from i2i_trainer.trained import Direction, Trained

ConfigT = TypeVar("ConfigT", bound=ModelConfig)

Part = Literal["generator", "discriminator"]
Images = dict[str, Tensor]
"""Images of one step by their names in the papers, for example `fake_B`; (n, c, h, w) in [-1, 1]."""
Losses = dict[str, Tensor]
"""Scalars by their names in the papers; the loop descends on their sum."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a model is to translate."""

    size: Size
    """(height, width) of the training images."""
    input_channels: int = 3
    """As the generator sees them: of label maps one a class, and one of edges between instances."""
    output_channels: int = 3
    has_labels: bool = False
    """Whether the input is a label map."""
    direction: Direction = "AtoB"
    """Which of the data's two sides is the input."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Training images. Of unpaired data `input` shows domain A and `target` domain B."""

    input: Tensor
    """(n, c, h, w) in [-1, 1]; of label maps one-hot with edges, 0 or 1."""
    target: Tensor
    """(n, c, h, w) in [-1, 1]."""
    instances: Tensor | None = None
    """(n, 1, h, w) instance ids, or the label ids themselves where there are no instance maps; None of pictures."""
    n_labels: int = 0
    """How many of the input's channels are classes."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a training in which the same weights learn."""

    name: str = ""
    share: float = 1.0
    """Its share of all steps."""
    scale: int = 1
    """Images are this many times smaller than `--size` in each direction."""


class Model(ABC, Generic[ConfigT]):
    """A model type. The loop owns optimisers, devices and saving; this owns networks and losses."""

    step_order: tuple[Part, ...]
    """Which of the two is updated first; where one has no networks, `__init__` leaves it out."""
    data: Literal["paired", "unpaired"] = "paired"
    """What it learns from; where that hangs on the settings, `__init__` says so."""
    random_crop: bool = True
    """Whether images are by default loaded a little larger and cropped at random; `__init__` may say so, too."""
    discriminator_weight: ClassVar[float] = 0.5
    """The discriminator's objective is halved, which slows it against the generator (pix2pix section 3.3)."""

    generators: nn.ModuleDict
    """What the generators' optimiser trains; the loop may put a wrapper around each."""
    discriminators: nn.ModuleDict
    translators: dict[str, Architecture]
    """The generators that turn an input into an output: first that of the run's direction, then the one back."""
    pools: Mapping[str, ImagePool] = MappingProxyType({})
    """State of the discriminators' memory."""
    teacher: Trained | None = None
    """The generator that it learns to repeat, where there is one: it never changes and is never saved."""
    style_codes: Tensor | None = None
    """(styles, classes, features): what stands in for a feature encoder when there is no image to encode."""

    @classmethod
    def settle(
        cls, run: RunConfig, config: ConfigT, *, flags: Set[str], in_file: Set[str], say: Callable[[str], None]
    ) -> tuple[RunConfig, ConfigT]:
        """Fill in settings that follow from something else than settings; called before a new training only.

        Args:
            run: settings of the run.
            config: settings of the model type.
            flags: which of both the user stated on the command line.
            in_file: which the user stated in a file; flags win.
            say: shows the user a line about what was chosen.

        Raises:
            UsageError: something is missing, or stated otherwise than it is.
        """
        return run, config

    @abstractmethod
    def __init__(self, config: ConfigT, task: Task) -> None:
        """Build the networks of the first stage, with fresh weights from torch's random generator.

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

    def start(self, batches: Iterable[Batch]) -> None:
        """Take up weights of an earlier training; called once, before the first step of a new one.

        Args:
            batches: a few training images, on the training's device (the networks are on the CPU still); read only as
                far as they are asked for.
        """

    def stages(self) -> tuple[Stage, ...]:
        """The parts of a training, in order."""
        return (Stage(),)

    def begin(self, stage: Stage) -> None:
        """Bring the networks into the form of a stage, keeping what was learnt in the one before."""

    def learn_styles(self, batches: Iterable[Batch], generators: nn.ModuleDict) -> None:
        """Set `style_codes` from training images, where the model has any, with the generators that will be used."""
