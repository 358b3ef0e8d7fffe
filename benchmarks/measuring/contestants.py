"""What takes turns: something that is opened in a process of its own, and then run again and again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.closing import Closing

Array = NDArray[Any]


class Running(Closing):
    """A contestant that is loaded. Used by one thread; closed by `with`."""

    provider: str
    """What really runs it, for example `ONNX Runtime CPU`."""

    @abstractmethod
    def run(self) -> None:
        """Do the work once; it is done when this returns, on a GPU too."""

    def answer(self, inputs: Sequence[Array]) -> Array:
        """Translate inputs in host memory, in the order of the exported model's; a probe has nothing to answer."""
        raise NotImplementedError

    def close(self) -> None:
        """See `Closing`."""


@dataclass(frozen=True, kw_only=True)
class Contestant(ABC):
    """Says how to open something; small, and sent to the process that will run it."""

    name: str
    device: str = "cpu"
    """`cpu` or `cuda`: which of the machine's sensors are of interest."""

    @abstractmethod
    def open(self) -> Running:
        """Import what is needed, load and compile, in the process that will run it.

        Raises:
            I2IError: it cannot run here.
        """


def random_inputs(shapes: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> list[Array]:
    """Values of the whole range, the same each time: pictures of [-1, 1], grey levels, class and style 0."""
    random = np.random.default_rng(0)
    made: list[Array] = []
    for shape, dtype in shapes:
        if dtype.kind == "f":
            made.append(random.uniform(-1, 1, shape).astype(dtype))
        elif dtype == np.uint8:
            made.append(random.integers(0, 256, shape, np.uint8))
        else:
            made.append(np.zeros(shape, dtype))
    return made
