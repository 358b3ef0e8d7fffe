"""What every engine is: a card, inputs, outputs, and a way to run."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from i2i_runtime.card import Card
from i2i_runtime.closing import Closing
from i2i_runtime.errors import ModelError, OutOfMemoryError
from i2i_runtime.image import plan_fit

Tensor = npt.NDArray[Any]
Device = Literal["auto", "cpu", "cuda", "tensorrt", "gpu", "npu"]
"""`cuda` and `tensorrt` are ways to an NVIDIA GPU, `gpu` and `npu` those of Intel, through OpenVINO."""
Backend = Literal["onnxruntime", "openvino"]
"""The library that runs an ONNX file."""
Precision = Literal["f32", "bf16", "f16"]
"""What OpenVINO computes an FP32 model in; `bf16` is quicker on a CPU that has it, 47 to 59 dB from the model."""
DEVICES: tuple[Device, ...] = get_args(Device)
_NO_MEMORY = re.compile(r"out.?of.?memory|memoryallocation|failed to allocate|bad.?alloc|alloc_failed", re.IGNORECASE)
"""What ONNX Runtime, OpenVINO, TensorRT and CUDA say of it."""
_WARM_UP_RUNS = 3
_WARM_UP_SIZE = (256, 256)
"""(height, width) in pixels where a model says nothing of the sizes that it is meant for."""


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

    def check(self, tensor: Tensor, where: str, role: Literal["input", "output"] = "input") -> None:
        """Refuse a tensor of another type or shape, for libraries that would read or write past its end.

        Raises:
            ModelError: names `where` it was given, what was expected and what was found.
        """
        found = TensorSpec(name=self.name, shape=tensor.shape, dtype=tensor.dtype)
        fits = len(self.shape) == tensor.ndim and all(
            expected in (None, length) for expected, length in zip(self.shape, tensor.shape, strict=True)
        )
        if not fits or tensor.dtype != self.dtype:
            raise ModelError(f"{where}: {role} {self.name}: expected {self}, found {found}")


def is_lack_of_memory(said: str) -> bool:
    """Whether that is what a library complains of."""
    return _NO_MEMORY.search(said) is not None


def failure(what: str, why: str, said: str = "") -> ModelError | OutOfMemoryError:
    """The error for a library's failure: libraries tell a lack of memory in words only.

    Args:
        what: which model, and what it was doing.
        why: the library's reason, on one line.
        said: all that the library said, where that is longer.
    """
    if is_lack_of_memory(f"{why} {said}"):
        return OutOfMemoryError(f"{what}: out of memory ({why}); use --tile, an --fp16 export or a smaller --size")
    return ModelError(f"{what} ({why})")


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

    def run(self, *inputs: Tensor, out: Tensor | None = None) -> Tensor:
        """Run the model and give its first output.

        Args:
            inputs: the model's inputs, in the order of `self.inputs`.
            out: is filled and returned: a writeable C-contiguous array of the output's shape and type. Without it the
                result is a new array, the caller's own.

        Raises:
            ModelError: the engine refuses the inputs or `out`, or fails.
        """
        self._check_inputs(inputs)
        if out is not None:
            self.outputs[0].check(out, self.name, "output")
            if not (out.flags.c_contiguous and out.flags.writeable):
                raise ModelError(f"{self.name}: output {self.outputs[0].name}: expected a plain array to write to")
        (result,) = self._infer(inputs, (out,))
        return result

    def run_all(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the model and give all its outputs, in the order of `self.outputs`, in new arrays.

        Raises:
            ModelError: the engine refuses the inputs or fails.
        """
        self._check_inputs(inputs)
        return self._infer(inputs, (None,) * len(self.outputs))

    def warm_up(self, size: tuple[int, int] | None = None) -> None:
        """Run a few times on zeros, so that the first real frame does not pay for what a library does once.

        Does nothing where the model's shapes are not known.

        Args:
            size: (height, width) of the frames to come, for a model that takes several sizes.

        Raises:
            ModelError: the model fails.
        """
        shapes = self._warm_up_shapes(size)
        if None in shapes:
            return
        zeros = [np.zeros(shape, spec.dtype) for spec, shape in zip(self.inputs, shapes, strict=True) if shape]
        out = self.run(*zeros)
        for _ in range(_WARM_UP_RUNS - 1):
            self.run(*zeros, out=out)

    @abstractmethod
    def _infer(self, inputs: Sequence[Tensor], outs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """Run checked inputs and give the first `len(outs)` outputs.

        Args:
            inputs: of the types and shapes of `self.inputs`, of any layout.
            outs: for each output the array to fill, or None for a new one. A plain array of the right type; its shape
                is right as far as `self.outputs` says it.

        Raises:
            ModelError: the engine fails, or an array of `outs` has another shape than the result.
        """

    def close(self) -> None:
        """See `Closing`; what Python frees by itself needs no more than this."""

    def _check_inputs(self, inputs: Sequence[Tensor]) -> None:
        if len(inputs) != len(self.inputs):
            raise ModelError(
                f"{self.name}: expected {len(self.inputs)} inputs, {', '.join(spec.name for spec in self.inputs)}; "
                f"found {len(inputs)}"
            )
        for spec, tensor in zip(self.inputs, inputs, strict=True):
            spec.check(tensor, self.name)

    def _check_result(self, index: int, shape: Sequence[int], out: Tensor) -> None:
        """Refuse an `out` of another shape than the one that the result turned out to have."""
        if tuple(shape) != out.shape:
            spec = self.outputs[index]
            expected = TensorSpec(name=spec.name, shape=tuple(shape), dtype=spec.dtype)
            expected.check(out, self.name, "output")

    def _warm_up_shapes(self, size: tuple[int, int] | None) -> list[tuple[int, ...] | None]:
        """A shape for each input; None where it is not known."""
        sizes: list[tuple[int, int] | None] = [size]
        if self.card is not None:
            rule, export, training = self.card.size, self.card.export, self.card.training
            sizes += [
                export.profile.typical if export and export.profile else None,
                training.size if training else None,
            ]
            sizes += [plan_fit(*_WARM_UP_SIZE, rule).model]
            sizes = [given for given in sizes if given and rule.allows(given)]
        height, width = next(filter(None, sizes), (None, None))
        shapes: list[tuple[int, ...] | None] = []
        for spec in self.inputs:
            # uint8 graphs take NHWC, all others NCHW.
            free = (1, height, width, None) if spec.dtype == np.uint8 else (1, None, height, width)
            known = [length or guess for length, guess in zip(spec.shape, free, strict=False)]
            shape = tuple(length for length in known if length)
            shapes.append(shape if len(shape) == len(spec.shape) else None)
        return shapes
