"""The ways to run a generator: an exported file in an engine, and PyTorch.

All take a tensor in host memory and return one there, on a GPU too: what `i2i-run` does for a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from i2i_runtime.engines import base
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import DeviceError, ModelError
from measuring.contestants import Array, Contestant, Running, random_inputs
from measuring.record import Precision, Size

if TYPE_CHECKING:
    import torch

    from i2i_trainer.trained import Direction, Trained


@dataclass(frozen=True, kw_only=True)
class EngineContestant(Contestant):
    """A file in the engine that `i2i-run` would open."""

    path: Path
    size: Size
    batch: int = 1
    threads: int | None = None
    backend: base.Backend | None = None
    engine_device: base.Device = "auto"
    engine_precision: base.Precision | None = None

    def open(self) -> Running:
        """See `Contestant`."""
        engine = open_engine(
            self.path,
            self.engine_device,
            self.threads,
            backend=self.backend,
            precision=self.engine_precision,
        )
        return _RunningEngine(engine, self.size, self.batch)


class _RunningEngine(Running):
    def __init__(self, engine: base.Engine, size: Size, batch: int) -> None:
        self.provider = engine.provider
        self._engine = engine
        self._inputs = random_inputs([(filled(spec, size, batch), spec.dtype) for spec in engine.inputs])
        self._out: Array | None = None

    def run(self) -> None:
        """See `Running`; into the same array each time, as `Translator` does."""
        self._out = self._engine.run(*self._inputs, out=self._out)

    def answer(self, inputs: Sequence[Array]) -> Array:
        """See `Running`."""
        return self._engine.run(*inputs)

    def close(self) -> None:
        """See `Running`."""
        self._engine.close()


def filled(spec: base.TensorSpec, size: Size, batch: int) -> tuple[int, ...]:
    """The shape of an input without free lengths, for pictures of (height, width) `size`.

    Raises:
        ModelError: a fixed length is another one.
    """
    if len(spec.shape) == 1:
        return tuple(length or 1 for length in spec.shape)
    wanted = (batch, *size, None) if spec.dtype == np.uint8 else (batch, None, *size)
    shape = tuple(length or free for length, free in zip(spec.shape, wanted, strict=True))
    if any(free not in (None, length) for length, free in zip(shape, wanted, strict=True)) or None in shape:
        raise ModelError(f"{spec.name}: expected {base.shape_words(wanted)}, found {spec}")
    return tuple(length for length in shape if length is not None)


@dataclass(frozen=True, kw_only=True)
class TorchContestant(Contestant):
    """The generator of a checkpoint in PyTorch, as its users run it: NCHW, `inference_mode`."""

    checkpoint: Path
    direction: Direction | None = None
    size: Size
    batch: int = 1
    threads: int | None = None
    precision: Precision = "fp32"
    """Below fp32 by autocast."""
    is_compiled: bool = False
    """With `torch.compile`, which compiles at the first run."""

    def open(self) -> Running:
        """See `Contestant`."""
        import torch

        from i2i_trainer.trained import load_trained

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise DeviceError("PyTorch finds no CUDA here")
        trained = load_trained(self.checkpoint, direction=self.direction)
        card, (height, width) = trained.card, self.size
        shapes: list[tuple[tuple[int, ...], np.dtype[Any]]] = []
        if card.labels is None:
            shapes.append(((self.batch, card.input.channels, height, width), np.dtype(np.float32)))
        else:
            maps = 1 + card.labels.instance_edges
            shapes += [((self.batch, 1, height, width), np.dtype(np.int32))] * maps
            shapes += [((1,), np.dtype(np.int64))] * bool(card.labels.styles)
        inputs = random_inputs(shapes)
        return _RunningTorch(self, trained, inputs)


class _RunningTorch(Running):
    def __init__(self, contestant: TorchContestant, trained: Trained, inputs: Sequence[Array]) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(contestant.device)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(contestant.precision)
        self._precision: Callable[[], AbstractContextManager[object]] = (
            (lambda: torch.autocast(self._device.type, dtype)) if dtype is not None else nullcontext
        )
        self._is_reference = dtype is None and not contestant.is_compiled
        generator = trained.generator.to(self._device)
        self._generator: Callable[..., torch.Tensor] = torch.compile(generator) if contestant.is_compiled else generator
        labels = trained.card.labels
        self._names = ["instances"] if labels is not None and labels.instance_edges else []
        self._names += ["style"] if labels is not None and labels.styles else []
        self._inputs = inputs
        where = torch.cuda.get_device_name(self._device) if contestant.device == "cuda" else "CPU"
        self.provider = f"PyTorch {where}"

    def run(self) -> None:
        """See `Running`."""
        self._translate(self._inputs)

    def answer(self, inputs: Sequence[Array]) -> Array:
        """See `Running`; what others are compared with is not rounded to TF32, which PyTorch's users get by default."""
        if not self._is_reference:
            return self._translate(inputs)
        with self._torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._translate(inputs)

    def _translate(self, inputs: Sequence[Array]) -> Array:
        with self._torch.inference_mode(), self._precision():
            given, *others = [self._torch.from_numpy(array).to(self._device) for array in inputs]
            result: Array = self._generator(given, **dict(zip(self._names, others, strict=True))).float().cpu().numpy()
        return result
