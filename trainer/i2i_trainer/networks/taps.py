"""A look inside a generator while it runs: its features at matched depths, for feature distillation.

Generators differ in how many layers they have and how wide and large those are. What they have in common is a middle
of residual blocks, or of a U-Net's levels, and there a share of the way through is a place in every one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional

from i2i_runtime.errors import UsageError
from i2i_trainer.networks.student import StudentGenerator
from i2i_trainer.networks.unet import UnetGenerator

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """A place in a network."""

    module: nn.Module
    is_input: bool = False
    """What the module is given, in place of what it returns."""


def points_of(generator: nn.Module) -> list[Point]:
    """Places in a generator's middle, in the order in which a picture comes to them.

    Of residual generators what the first block is given and what each returns; of a U-Net what each level is given on
    the way in, and returns on the way out.

    Raises:
        UsageError: neither kind.
    """
    if isinstance(generator, UnetGenerator):
        levels = generator.levels()
        return [Point(level, is_input=True) for level in levels] + [Point(level) for level in reversed(levels)]
    if isinstance(generator, StudentGenerator):
        return [Point(generator.blocks, is_input=True), *map(Point, generator.blocks)]
    # The other residual blocks keep their layers under this name, which is that of the reference implementations.
    blocks = [module for module in generator.modules() if hasattr(module, "conv_block")]
    if not blocks:
        raise UsageError(f"{type(generator).__name__}: expected a generator of residual blocks or a U-Net")
    return [Point(blocks[0], is_input=True), *map(Point, blocks)]


def evenly(things: Sequence[T], count: int) -> list[T]:
    """`count` of some things, evenly spaced, from the first to the last."""
    return [things[round(number * (len(things) - 1) / max(1, count - 1))] for number in range(count)]


class Taps:
    """Shows what goes through a network at some points, while it is asked to look.

    Forward hooks, so that the network is called as it always is, in whatever wrapper; a copy of the network has taps of
    its own, which nobody looks through.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self._seen: dict[int, Tensor] | None = None
        for number, point in enumerate(points):
            point.module.register_forward_hook(partial(self._see, number, point.is_input))

    def _see(self, number: int, is_input: bool, module: nn.Module, given: tuple[Any, ...], returned: Tensor) -> None:
        if self._seen is not None:
            self._seen[number] = given[0] if is_input else returned

    @contextmanager
    def looking(self) -> Iterator[dict[int, Tensor]]:
        """Number of the point to its features (n, c, h, w), once the network has run inside."""
        seen: dict[int, Tensor] = {}
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None


def of_one_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, c, h, w) and (n, d, h', w'), both at the smaller height and width: the larger ones averaged."""
    (height, width), (its_height, its_width) = one.shape[-2:], other.shape[-2:]
    size = min(height, its_height), min(width, its_width)
    one, other = (x if x.shape[-2:] == size else functional.adaptive_avg_pool2d(x, size) for x in (one, other))
    return one, other
