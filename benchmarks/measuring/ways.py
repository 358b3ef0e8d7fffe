"""Which ways there are to run a model on this machine: what to export, what to open, and what cannot run here."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from i2i_runtime.card import Card, ExportRecord
from i2i_runtime.engines import nvinfer
from i2i_runtime.engines.cards import card_of
from i2i_runtime.engines.manifest import PLAN_SUFFIXES, read_manifest
from i2i_runtime.errors import DeviceError, ModelError, UsageError
from measuring.contestants import Contestant
from measuring.model_contestants import EngineContestant, TorchContestant
from measuring.other_process import in_other_process
from measuring.probes import OPENVINO
from measuring.record import PRECISIONS, Precision, Row, Size

if TYPE_CHECKING:
    from i2i_trainer.trained import Direction

Device = Literal["cpu", "cuda"]
_TORCH = ("torch", "torch-compile")
_PLANS = ("tensorrt", "tensorrt-rtx")
_ENGINES = ("onnxruntime", "openvino", *_PLANS)
BACKENDS = (*_TORCH, *_ENGINES)
_LIBRARIES = {
    "torch": ("torch", "i2i[train]"),
    "torch-compile": ("torch", "i2i[train]"),
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
    named: Sequence[str] = ()
    """Those of them that the user asked for by name: where one has no row it is said why."""
    precisions: Sequence[Precision] = PRECISIONS
    sizes: Sequence[Size | None] = (None,)
    """None is that of the model."""
    batches: Sequence[int] = (1,)
    device: Device = "cpu"
    threads: int | None = None


def default_device() -> Device:
    """`cuda` where a CUDA GPU is in reach, else `cpu`."""
    return "cuda" if nvinfer.gpu() is not None else "cpu"


def why_not_the_gpu(gpus: Sequence[str]) -> list[str]:
    """Why `default_device` is `cpu` on a machine that has GPUs, as one line; else none."""
    try:
        nvinfer.require_gpu()
    except DeviceError as error:
        return [f"the GPU ({gpus[0]}): {error}"] if gpus else []
    return []


def find_ways(subject: Subject, wanted: Wanted, folder: Path, on_progress: Callable[[str], None]) -> Ways:
    """Export what is needed into `folder`, and list all ways.

    Raises:
        UsageError: a size or batch that an engine file does not have; a file that does not say what it takes.
        ModelError: the checkpoint cannot be exported at all.
    """
    finder = _Finder(subject, wanted, folder, on_progress)
    finder.find()
    return finder.found


@dataclass(frozen=True, kw_only=True)
class _File:
    """An exported file, and what it is run at."""

    path: Path
    name: str
    """Of the user's own, or of what `how` makes."""
    size: Size
    batch: int
    card: Card
    how: str | None = None
    """The command that makes it, where the user has not got it yet."""

    @property
    def export(self) -> ExportRecord:
        assert self.card.export is not None, "i2i-export wrote the card"
        return self.card.export


class _Finder:
    def __init__(self, subject: Subject, wanted: Wanted, folder: Path, on_progress: Callable[[str], None]) -> None:
        self._subject, self._wanted, self._folder, self._on_progress = subject, wanted, folder, on_progress
        self.found = Ways()
        self._named = set(wanted.named)
        self._explained: set[str] = set()
        """Backends of which a reason was given."""
        self._refused: dict[Path, str] = {}
        """Why there is no such export."""

    def find(self) -> None:
        for size in self._wanted.sizes:
            for batch in self._wanted.batches:
                if self._subject.engine is not None:
                    self._of_engine(self._subject.engine, size, batch)
                else:
                    self._of_checkpoint(size, batch)
        for backend in self._named - self._explained - {way.row.backend for way in self.found.ways}:
            if self._subject.engine is not None:
                self._leave_out(
                    f"{_NAMES[backend]}: it does not run {self._subject.engine.name}; "
                    "of --checkpoint alone i2i-export makes a file for it"
                )

    # A checkpoint -----------------------------------------------------------------------------------------------------

    def _of_checkpoint(self, asked: Size | None, batch: int) -> None:
        plain = self._export("fp32", "onnx", asked, batch)
        if isinstance(plain, str):
            raise ModelError(plain)
        self.found.graphs[plain.size, batch] = plain.path
        self._torch(plain.card, plain.size, batch)
        for backend in _ENGINES:
            for precision in self._wanted.precisions:
                if not self._can(backend, precision):
                    continue
                target = backend if backend in _PLANS else "onnx"
                file = self._export(_stored_in(backend, precision), target, asked, batch)
                if isinstance(file, str):
                    self._leave_out(file, backend)
                else:
                    self._add(file, backend, precision)

    def _export(self, precision: Precision, target: str, asked: Size | None, batch: int) -> _File | str:
        """The exported file, or why there is none."""
        checkpoint = self._subject.checkpoint
        assert checkpoint is not None
        suffix = ".onnx" if target == "onnx" else ".plan"
        sides = f"{asked[0]}x{asked[1]}" if asked else "own"
        path = self._folder / f"{precision}-{target}-{sides}-{batch}{suffix}"
        if path in self._refused:
            return self._refused[path]
        options = [] if precision == "fp32" else [f"--{precision}"]
        options += ["--target", target] if target != "onnx" else []
        options += ["--direction", self._subject.direction] if self._subject.direction else []
        options += ["--size", sides] if asked else []
        # A graph of a fixed size is what an export is by default; of a fixed batch it is always one.
        options += ["--dynamic", "--max-batch", str(batch)] if batch > 1 else []
        options += [] if self._subject.is_trained else _ANY_LOSS
        pictures = self._subject.pictures
        if not path.is_file():
            self._on_progress(f"exporting {precision} for {target}")
            command = ["-m", "i2i_export", str(checkpoint), *options, *_pictures(pictures), "-o", str(path)]
            finished = subprocess.run([sys.executable, *command], capture_output=True, text=True)
            if finished.returncode != 0:
                lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
                said = lines[-1].removeprefix("error: ") if lines else "i2i-export failed"
                self._refused[path] = f"{precision} for {_NAMES.get(target, target)}: {said}"
                return self._refused[path]
        card = card_of(path)
        assert card is not None, "i2i-export writes a card"
        name = f"{checkpoint.stem}{'' if precision == 'fp32' else f'-{precision}'}{suffix}"
        # Reports are made to be shown: no folder of this machine is in them.
        shown = _pictures(Path(pictures).name or pictures if pictures else None)
        how = shlex.join(["i2i-export", checkpoint.name, *options, *shown, "-o", name])
        return _File(path=path, name=name, size=_sizes_of(card), batch=batch, card=card, how=how)

    # An engine file ---------------------------------------------------------------------------------------------------

    def _of_engine(self, path: Path, asked: Size | None, batch: int) -> None:
        if not path.is_file():
            raise ModelError(f"{path}: no such engine file; make one with i2i-export RUN/best.pt -o model.onnx")
        card = card_of(path)
        if card is None or card.export is None:
            raise UsageError(
                f"{path}: it carries no card of i2i-export, which says what goes in; give the checkpoint: --checkpoint"
            )
        size = _allowed(path, card, asked, batch)
        own = _File(path=path, name=path.name, size=size, batch=batch, card=card)
        files = {"openvino": own}
        graph: _File | None = own
        if path.suffix.lower() in PLAN_SUFFIXES:
            manifest = read_manifest(path)
            library = "tensorrt-rtx" if manifest is not None and manifest.library == "tensorrt_rtx" else "tensorrt"
            self._named |= {library} & set(self._wanted.backends)
            files = {library: own}
            beside = path.with_name(f"{path.name}.onnx")
            its = card_of(beside)
            graph = None
            if its is not None and its.export is not None:
                graph = replace(own, path=beside, name=beside.name, card=its)
        if graph is not None and graph.path.suffix.lower() == ".onnx":
            self.found.graphs[size, batch] = graph.path
            files |= {"onnxruntime": graph, "openvino": graph}
        self._torch(card, size, batch)
        for backend, file in files.items():
            for precision in self._wanted.precisions:
                stored = file.export.precision
                if stored in (precision, _stored_in(backend, precision)) and self._can(backend, precision):
                    self._add(file, backend, precision)
        if card.export.precision not in self._wanted.precisions:
            self._leave_out(f"{path.name} itself: it is in {card.export.precision}, which --precisions leaves out")

    # Both -------------------------------------------------------------------------------------------------------------

    def _torch(self, card: Card, size: Size, batch: int) -> None:
        device = self._wanted.device
        for backend in _TORCH:
            for precision in self._wanted.precisions:
                if not self._can(backend, precision):
                    continue
                checkpoint = self._subject.checkpoint or self._initial_weights(card)
                if checkpoint is None:
                    return
                row = self._row(backend, precision, size, batch, "module, float", None)
                contestant = TorchContestant(
                    name=_full_name(row),
                    device=device,
                    checkpoint=checkpoint,
                    direction=self._subject.direction,
                    size=size,
                    batch=batch,
                    threads=row.threads,
                    precision=precision,
                    is_compiled=backend == "torch-compile",
                )
                self.found.ways.append(Way(row=row, contestant=contestant, file=None, card=card))

    def _initial_weights(self, card: Card) -> Path | None:
        """A checkpoint of an engine's architecture: as fast as the trained one, which is not at hand."""
        path = self._folder / "initial.pt"
        if path.is_file():
            return path
        if importlib.util.find_spec("onnx") is None:
            self._leave_out("PyTorch with initial weights: onnx is not installed; pip install 'i2i[export]'", *_TORCH)
            return None
        try:
            make_checkpoint(path, card)
        except DeviceError as error:
            self._leave_out(f"PyTorch with initial weights: {error}", *_TORCH)
            return None
        self._leave_out(
            "PyTorch with the engine's weights: it runs initial ones, which are as fast; --checkpoint gives yours"
        )
        return path

    def _add(self, file: _File, backend: str, precision: Precision) -> None:
        how = file.how
        if backend == "openvino":
            computed = [] if OPENVINO[precision] == "f32" else ["--precision", OPENVINO[precision]]
            run_it = shlex.join(["i2i-run", "--engine", file.name, "--backend", "openvino", *computed])
            how = f"{how}; then {run_it}" if how else run_it
        graph = f"{'dynamic' if file.export.profile else 'static'}, {file.export.graph_io}"
        row = self._row(backend, precision, file.size, file.batch, graph, how)
        contestant = EngineContestant(
            name=_full_name(row),
            device=row.device,
            path=file.path,
            size=file.size,
            batch=file.batch,
            threads=row.threads,
            backend=(backend if file.path.suffix.lower() == ".onnx" else None),  # type: ignore[arg-type]
            engine_device="cuda" if row.device == "cuda" else "cpu",
            engine_precision=OPENVINO[precision] if backend == "openvino" else None,
        )
        self.found.ways.append(Way(row=row, contestant=contestant, file=file.path, card=file.card))

    def _row(self, backend: str, precision: Precision, size: Size, batch: int, graph: str, how: str | None) -> Row:
        device = self._device_of(backend)
        return Row(
            name=f"{_NAMES[backend]} {device.upper()} {precision}",
            backend=backend,
            device=device,
            precision=precision,
            size=size,
            batch=batch,
            # An engine on a GPU has no use for them.
            threads=self._wanted.threads if device == "cpu" or backend in _TORCH else None,
            graph=graph,
            how=how,
            is_baseline=precision == "fp32" and backend in ("torch", "torch-compile", "onnxruntime"),
        )

    def _can(self, backend: str, precision: Precision) -> bool:
        """Whether it was asked for and there is a way to it here; said once where not."""
        if backend not in self._wanted.backends:
            return False
        device = "cpu" if backend == "openvino" else "cuda" if backend in _PLANS else self._wanted.device
        if device != self._wanted.device:
            if backend in self._named:
                self._leave_out(f"{_NAMES[backend]}: it is measured with --device {device} only", backend)
            return False
        module, extra = _LIBRARIES[backend]
        if importlib.util.find_spec(module) is None:
            name = "PyTorch" if module == "torch" else _NAMES[backend]
            self._leave_out(f"{name}: not installed; pip install '{extra}'", backend)
            return False
        why = self._why_not(backend, precision)
        if why is not None:
            self._leave_out(why, backend)
        return why is None

    def _why_not(self, backend: str, precision: Precision) -> str | None:
        """Why a library that is here does not compute in a precision."""
        device = self._device_of(backend)
        if backend in _TORCH and precision != "fp32":
            # Autocast is what users of a GPU know; on a CPU it gains something on the newest servers only.
            if device == "cpu":
                return "PyTorch on a CPU: it is measured in fp32 only"
            if precision == "int8":
                return "int8 in PyTorch: i2i-export quantises graphs only"
        if backend == "onnxruntime" and precision == "fp16" and device == "cpu":
            return "fp16 in ONNX Runtime: a CPU computes it in FP32, no faster"
        if backend in ("onnxruntime", *_PLANS) and precision == "bf16":
            return f"bf16 in {_NAMES[backend]}: i2i-export makes no such files"
        if backend == "openvino":
            from i2i_runtime.engines.openvino import precisions

            if OPENVINO[precision] not in precisions("cpu"):
                return f"{precision} in OpenVINO: this CPU does not compute in it"
        return None

    def _device_of(self, backend: str) -> Device:
        if backend == "onnxruntime" and self._wanted.device == "cuda":
            from i2i_runtime.engines.onnxruntime import devices_here

            if "cuda" not in devices_here():
                self._leave_out("ONNX Runtime on the GPU: this one is built for CPUs; pip install 'i2i[gpu]'")
                return "cpu"
        return self._wanted.device

    def _leave_out(self, why: str, *backends: str) -> None:
        self._explained.update(backends)
        if why not in self.found.left_out:
            self.found.left_out.append(why)


def _stored_in(backend: str, precision: Precision) -> Precision:
    """In which precision the file is that a backend computes in a precision."""
    # OpenVINO computes a graph of FP32 in what it is asked for; layers in INT8 say so themselves.
    return "fp32" if backend == "openvino" and precision != "int8" else precision


def _pictures(where: str | None) -> list[str]:
    return ["--pictures", where] if where else []


def make_checkpoint(path: Path, generator: Card | tuple[str, int, Size]) -> None:
    """Write initial weights of a card's generator, or of one of a name, ngf and size.

    Raises:
        UsageError: no such generator.
        DeviceError: too little memory.
    """
    in_other_process(_save_untrained, path, generator)


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
