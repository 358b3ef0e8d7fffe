"""What every engine is: a card, inputs, one output, and a way to run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from i2i_runtime.card import Card
from i2i_runtime.closing import Closing
from i2i_runtime.errors import ModelError

Tensor = npt.NDArray[Any]
Device = Literal["auto", "cpu", "cuda"]


def shape_words(shape: Iterable[int | None]) -> str:
    """A shape for a message.

    >>> shape_words((1, 3, -1, None))
    '1x3x?x?'
    """
    return "x".join("?" if length is None or length < 0 else str(length) for length in shape)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, shape and type of an engine's input or output."""

    name: str
    shape: tuple[int | None, ...]
    """None where the length may vary."""
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype} {shape_words(self.shape)}"

    def check(self, tensor: Tensor, where: str) -> None:
        """Refuse a tensor of another type or shape, for libraries that would read past its end.

        Raises:
            ModelError: names `where` it was given, what was expected and what was found.
        """
        found = TensorSpec(name=self.name, shape=tensor.shape, dtype=tensor.dtype)
        fits = len(self.shape) == tensor.ndim and all(
            expected in (None, length) for expected, length in zip(self.shape, tensor.shape, strict=True)
        )
        if not fits or tensor.dtype != self.dtype:
            raise ModelError(f"{where}: input {self.name}: expected {self}, found {found}")


class Engine(Closing):
    """A loaded model. Owned by one thread at a time; closed by `with`."""

    name: str
    """The file it came from, for messages."""
    card: Card | None
    """None for a file that carries none."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    provider: str
    """What really runs it, for example `ONNX Runtime CPU`."""

    @abstractmethod
    def run(self, *inputs: Tensor) -> Tensor:
        """Run the model's inputs, in the order of `self.inputs`, and return its single output.

        Raises:
            ModelError: the engine refuses the inputs or fails.
        """

    def close(self) -> None:
        """See `Closing`; what Python frees by itself needs no more than this."""
