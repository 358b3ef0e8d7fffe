"""Which ways there are to run a model on this machine: what to export, what to open, and what cannot run here."""

from __future__ import annotations

import importlib.util
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from i2i_runtime.card import Card
from i2i_runtime.engines import base, nvinfer
from i2i_runtime.engines.cards import card_of
from i2i_runtime.engines.manifest import PLAN_SUFFIXES
from i2i_runtime.errors import ModelError, UsageError
from measuring.contestants import Contestant
from measuring.model_contestants import EngineContestant, TorchContestant
from measuring.record import Precision, Row, Size

if TYPE_CHECKING:
    from i2i_trainer.trained import Direction

Device = Literal["cpu", "cuda"]
BACKENDS = ("torch", "torch-compile", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
_LIBRARIES = {
    "torch": ("torch", "i2i[train]"),
    "onnxruntime": ("onnxruntime", "i2i[cpu]' or 'i2i[gpu]"),
    "openvino": ("openvino", "i2i[openvino]"),
    "tensorrt": ("tensorrt", "i2i[tensorrt]"),
    "tensorrt-rtx": ("tensorrt_rtx_bindings", "i2i[tensorrt-rtx]"),
}
"""The module of each backend, and the extra that brings it."""
_NAMES = {
    "torch": "PyTorch eager",
    "torch-compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
}
_OPENVINO: dict[Precision, base.Precision] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_ANY_LOSS = ("--min-psnr", "1", "--tolerance", "2")
"""Of random weights only the speed is of interest."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: a checkpoint, an engine file, or an engine file with the checkpoint that it was made of."""

    checkpoint: Path | None
    engine: Path | None
    direction: Direction | None
    is_trained: bool
    pictures: str | None
    """A folder or glob pattern to calibrate INT8 on."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A row that is still empty, and the contestant that will fill it."""

    row: Row
    contestant: Contestant
    file: Path | None
    """The exported file that it runs; None of PyTorch."""
    card: Card | None
    """What the inputs are like: of the file, or of PyTorch's FP32 export."""


@dataclass
class Ways:
    """All that is to be measured."""

    ways: list[Way] = field(default_factory=list)
    graphs: dict[tuple[Size, int], Path] = field(default_factory=dict)
    """By size and batch the ONNX graph whose operations are counted."""
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asked for."""

    backends: Sequence[str] = BACKENDS
    precisions: Sequence[Precision] = PRECISIONS
    sizes: Sequence[Size | None] = (None,)
    """None is that of the model."""
    batches: Sequence[int] = (1,)
    device: Device = "cpu"
    threads: int | None = None


def default_device() -> Device:
    """`cuda` where a CUDA GPU is in reach, else `cpu`."""
    return "cuda" if nvinfer.gpu() is not None else "cpu"


def find_ways(subject: Subject, wanted: Wanted, folder: Path, on_progress: Callable[[str], None]) -> Ways:
    """Export what is needed into `folder`, and list all ways.

    Raises:
        UsageError: a size or batch that an engine file does not have; a file that does not say what it takes.
        ModelError: the checkpoint cannot be exported at all.
    """
    finder = _Finder(subject, wanted, folder, on_progress)
    finder.find()
    return finder.found


class _Finder:
    def __init__(self, subject: Subject, wanted: Wanted, folder: Path, on_progress: Callable[[str], None]) -> None:
        self._subject, self._wanted, self._folder, self._on_progress = subject, wanted, folder, on_progress
        self.found = Ways()
        self._is_missing: set[str] = set()

    def find(self) -> None:
        for size in self._wanted.sizes:
            for batch in self._wanted.batches:
                if self._subject.engine is not None:
                    self._of_engine(self._subject.engine, size, batch)
                else:
                    self._of_checkpoint(size, batch)

    # A checkpoint -----------------------------------------------------------------------------------------------------

    def _of_checkpoint(self, size: Size | None, batch: int) -> None:
        plain = self._export("fp32", "onnx", size, batch)
        if isinstance(plain, str):
            raise ModelError(plain)
        card = card_of(plain)
        assert card is not None, "i2i-export writes a card"
        size = _sizes_of(card)
        self.found.graphs[size, batch] = plain
        self._torch(card, size, batch)
        for precision in self._wanted.precisions:
            if precision == "bf16":
                # Nothing to export: libraries compute a float32 graph in it.
                self._openvino(plain, size, batch, ("bf16",), self._how("fp32", "onnx", batch))
                continue
            if precision == "fp16" and self._wanted.device == "cpu":
                self._openvino(plain, size, batch, ("fp16",), self._how("fp32", "onnx", batch))
                continue
            path = plain if precision == "fp32" else self._export(precision, "onnx", size, batch)
            how = self._how(precision, "onnx", batch)
            if isinstance(path, str):
                self.found.left_out.append(path)
                continue
            self._onnx_runtime(path, size, batch, precision, how)
            self._openvino(path, size, batch, (precision,), how)
        if self._wanted.device == "cuda":
            self._plans(size, batch)

    def _plans(self, size: Size, batch: int) -> None:
        for backend in ("tensorrt", "tensorrt-rtx"):
            if not self._is_here(backend):
                continue
            for precision in self._wanted.precisions:
                if precision == "bf16":
                    continue
                path = self._export(precision, backend, size, batch)
                if isinstance(path, str):
                    self.found.left_out.append(path)
                else:
                    self._add(path, backend, "cuda", precision, size, batch, how=self._how(precision, backend, batch))

    def _export(self, precision: Precision, target: str, size: Size | None, batch: int) -> Path | str:
        """The exported file, or why there is none."""
        assert self._subject.checkpoint is not None
        suffix = ".onnx" if target == "onnx" else ".plan"
        sides = f"{size[0]}x{size[1]}" if size else "own"
        path = self._folder / f"{precision}-{target}-{sides}-{batch}{suffix}"
        if path.is_file():
            return path
        self._on_progress(f"exporting {precision} for {target}")
        options = self._options(precision, target, batch) + (["--size", sides] if size else [])
        if self._subject.pictures:
            options += ["--pictures", self._subject.pictures]
        if not self._subject.is_trained:
            options += _ANY_LOSS
        command = ["-m", "i2i_export", str(self._subject.checkpoint), "-o", str(path), *options]
        finished = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        if finished.returncode == 0:
            return path
        said = [line.removeprefix("error: ") for line in finished.stderr.splitlines() if line.startswith("error: ")]
        return f"{precision} for {_NAMES.get(target, target)}: {said[-1] if said else 'i2i-export failed'}"

    def _options(self, precision: Precision, target: str, batch: int) -> list[str]:
        options = [] if precision == "fp32" else [f"--{precision}"]
        options += ["--target", target] if target != "onnx" else []
        options += ["--direction", self._subject.direction] if self._subject.direction else []
        # A graph of a fixed size is what an export is by default; of a fixed batch it is always one.
        return options + (["--dynamic", "--max-batch", str(batch)] if batch > 1 else [])

    def _how(self, precision: Precision, target: str, batch: int) -> str:
        checkpoint = self._subject.checkpoint
        assert checkpoint is not None
        output = f"{checkpoint.stem}{'' if precision == 'fp32' else f'-{precision}'}"
        options = self._options(precision, target, batch)
        suffix = "onnx" if target == "onnx" else "plan"
        return " ".join(["i2i-export", checkpoint.name, *options, "-o", f"{output}.{suffix}"])

    # An engine file ---------------------------------------------------------------------------------------------------

    def _of_engine(self, path: Path, size: Size | None, batch: int) -> None:
        if not path.is_file():
            raise ModelError(f"{path}: no such engine file; make one with i2i-export RUN/best.pt -o model.onnx")
        card = card_of(path)
        graph = path.with_name(f"{path.name}.onnx") if path.suffix.lower() in PLAN_SUFFIXES else path
        if card is None or card.export is None:
            raise UsageError(
                f"{path}: it carries no card of i2i-export, which says what goes in; give the checkpoint: --checkpoint"
            )
        size = _allowed(path, card, size, batch)
        if graph.suffix.lower() == ".onnx" and graph.is_file():
            self.found.graphs[size, batch] = graph
        if self._subject.checkpoint is not None or self._is_here("torch"):
            self._torch(card, size, batch)
        precision = card.export.precision
        if path.suffix.lower() in PLAN_SUFFIXES:
            self._add(path, "tensorrt", "cuda", precision, size, batch)
        elif path.suffix.lower() == ".xml":
            self._openvino(path, size, batch, [precision] if precision != "fp32" else self._wanted.precisions, None)
            return
        if graph.is_file():
            self._onnx_runtime(graph, size, batch, precision, None)
            if self._wanted.device == "cpu":
                wanted = self._wanted.precisions if precision == "fp32" else [precision]
                self._openvino(
                    graph, size, batch, [each for each in wanted if each != "int8" or precision == "int8"], None
                )

    # Both -------------------------------------------------------------------------------------------------------------

    def _torch(self, card: Card, size: Size, batch: int) -> None:
        backends = [backend for backend in ("torch", "torch-compile") if backend in self._wanted.backends]
        if not backends or not self._is_here("torch"):
            return
        checkpoint = self._subject.checkpoint or self._initial_weights(card)
        device = self._wanted.device
        for backend in backends:
            for precision in self._wanted.precisions:
                # Autocast is what users of a GPU know; on a CPU it gains something on the newest servers only.
                if precision == "int8" or (precision != "fp32" and device == "cpu"):
                    continue
                row = self._row(backend, device, precision, size, batch, "module, float", None)
                contestant = TorchContestant(
                    name=_full_name(row),
                    device=device,
                    checkpoint=checkpoint,
                    direction=self._subject.direction,
                    size=size,
                    batch=batch,
                    threads=self._wanted.threads,
                    precision=precision,
                    is_compiled=backend == "torch-compile",
                )
                self.found.ways.append(Way(row=row, contestant=contestant, file=None, card=card))

    def _initial_weights(self, card: Card) -> Path:
        """A checkpoint of an engine's architecture: as fast as the trained one, which is not at hand."""
        path = self._folder / "initial.pt"
        if not path.is_file():
            self.found.left_out.append(
                "PyTorch with the engine's weights: it runs initial ones, which are as fast; --checkpoint gives yours"
            )
            make_checkpoint(path, card)
        return path

    def _onnx_runtime(self, path: Path, size: Size, batch: int, precision: Precision, how: str | None) -> None:
        if not self._is_here("onnxruntime"):
            return
        from i2i_runtime.engines.onnxruntime import devices_here

        device = self._wanted.device
        if device == "cuda" and "cuda" not in devices_here():
            self._leave_out("ONNX Runtime on the GPU: this one is built for CPUs; pip install 'i2i[gpu]'")
            device = "cpu"
        if precision == "fp16" and device == "cpu":
            self._leave_out("fp16 in ONNX Runtime: a CPU computes it in FP32, no faster")
            return
        self._add(path, "onnxruntime", device, precision, size, batch, how=how)

    def _openvino(self, path: Path, size: Size, batch: int, precisions: Sequence[Precision], how: str | None) -> None:
        if self._wanted.device != "cpu" or not self._is_here("openvino"):
            return
        from i2i_runtime.engines.openvino import precisions as precisions_here

        for precision in precisions:
            # Layers in INT8 say so themselves; all others are computed in FP32.
            computed = "f32" if precision == "int8" else _OPENVINO[precision]
            if computed not in precisions_here("cpu"):
                self._leave_out(f"{precision} in OpenVINO: this CPU does not compute in it")
                continue
            file = how.split()[-1] if how else path.name
            run_it = f"i2i-run --engine {file} --backend openvino" + (
                f" --precision {computed}" if computed != "f32" else ""
            )
            self._add(
                path,
                "openvino",
                "cpu",
                precision,
                size,
                batch,
                engine_precision=computed,
                how=f"{how}; then {run_it}" if how else run_it,
            )

    def _add(
        self,
        path: Path,
        backend: str,
        device: Device,
        precision: Precision,
        size: Size,
        batch: int,
        *,
        engine_precision: base.Precision | None = None,
        how: str | None = None,
    ) -> None:
        if backend not in self._wanted.backends or precision not in self._wanted.precisions:
            return
        card = card_of(path)
        assert card is not None
        assert card.export is not None
        graph = f"{'dynamic' if card.export.profile else 'static'}, {card.export.graph_io}"
        row = self._row(backend, device, precision, size, batch, graph, how)
        is_onnx = path.suffix.lower() == ".onnx"
        contestant = EngineContestant(
            name=_full_name(row),
            device=device,
            path=path,
            size=size,
            batch=batch,
            threads=self._wanted.threads if device == "cpu" else None,
            backend=(backend if is_onnx else None),  # type: ignore[arg-type]
            engine_device="cuda" if device == "cuda" else "cpu",
            engine_precision=engine_precision,
        )
        self.found.ways.append(Way(row=row, contestant=contestant, file=path, card=card))

    def _row(
        self, backend: str, device: Device, precision: Precision, size: Size, batch: int, graph: str, how: str | None
    ) -> Row:
        return Row(
            name=f"{_NAMES[backend]} {device.upper()} {precision}",
            backend=backend,
            device=device,
            precision=precision,
            size=size,
            batch=batch,
            threads=self._wanted.threads,
            graph=graph,
            how=how,
            is_baseline=precision == "fp32" and backend in ("torch", "torch-compile", "onnxruntime"),
        )

    def _is_here(self, backend: str) -> bool:
        """Whether it was asked for and is installed; said once where not."""
        module, extra = _LIBRARIES[backend]
        if backend != "torch" and backend not in self._wanted.backends:
            return False
        if importlib.util.find_spec(module) is not None:
            return True
        self._leave_out(f"{_NAMES[backend]}: not installed; pip install '{extra}'")
        return False

    def _leave_out(self, why: str) -> None:
        if why not in self.found.left_out:
            self.found.left_out.append(why)


def make_checkpoint(path: Path, generator: Card | tuple[str, int, Size]) -> None:
    """Write initial weights of a card's generator, or of one of a name, ngf and size.

    Raises:
        UsageError: no such generator.
    """
    # In a process of its own: PyTorch would stay in this one.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        processes.submit(_save_untrained, path, generator).result()


def _save_untrained(path: Path, generator: Card | tuple[str, int, Size]) -> None:
    from measuring.untrained import save_untrained_checkpoint, untrained_card

    save_untrained_checkpoint(path, generator if isinstance(generator, Card) else untrained_card(*generator))


def _sizes_of(card: Card) -> Size:
    profile = card.export.profile if card.export is not None else None
    if profile is not None:
        return profile.typical
    assert card.size.height is not None
    assert card.size.width is not None
    return card.size.height, card.size.width


def _allowed(path: Path, card: Card, size: Size | None, batch: int) -> Size:
    """The size to measure an engine file at.

    Raises:
        UsageError: it does not take that.
    """
    profile = card.export.profile if card.export is not None else None
    own = _sizes_of(card)
    if profile is None and (batch > 1 or size not in (None, own)):
        raise UsageError(
            f"{path}: expected --sizes {own[0]}x{own[1]} --batch 1, which it was exported for; give --checkpoint to "
            "measure others, or export with --dynamic"
        )
    if profile is not None and batch > profile.batch and path.suffix.lower() in PLAN_SUFFIXES:
        raise UsageError(f"{path}: expected --batch up to {profile.batch}, found {batch}; export with --max-batch")
    if size is not None and not card.size.allows(size):
        raise UsageError(f"{path}: expected --sizes in multiples of {card.size.multiple_of}, found {size[0]}x{size[1]}")
    return size or own


def _full_name(row: Row) -> str:
    """Unlike any other row's."""
    return f"{row.name}, {row.size[0]}x{row.size[1]}" + (f", batch {row.batch}" if row.batch > 1 else "")
