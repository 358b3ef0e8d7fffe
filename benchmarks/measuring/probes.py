"""What this machine can do at most, as measured: products in each library and precision, and copies.

A roof made of data sheets is out of reach, and its clocks are not those of this machine. What a library reaches here
with the simplest work there is, long products of large matrices and the 3x3 convolution of a residual block, is what a
model can hope for. Which of the two is quicker differs from library to library, so both are tried.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import statistics
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from i2i_runtime.engines import base, nvinfer
from i2i_runtime.engines.build import build_plan
from i2i_runtime.engines.manifest import Library
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import DeviceError, ModelError
from measuring.contestants import Array, Contestant, Running
from measuring.environment import usable_cores
from measuring.products import Products, write_graph
from measuring.record import PRECISIONS, Peak, Precision, Turn

if TYPE_CHECKING:
    import torch

OPENVINO: dict[Precision, base.Precision] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
"""What OpenVINO is asked for; INT8 layers say so themselves."""
_PLANS: tuple[Library, ...] = ("tensorrt", "tensorrt_rtx")
_COPY_MIB = 256
"""Of one array: several times the last cache of most machines, as STREAM asks for (McCalpin 1995)."""
_GPU_COPIES = 8
"""In a run, which on a fast GPU would else be little more than its start."""
_ON_CPU = {
    "gemm": Products(what="gemm", width=1024, count=4),
    "conv": Products(what="conv", width=256, side=64, count=2),
}
"""About 9 GFLOPs: 20 to 100 ms on most machines. The convolution is that of a ResNet generator at 256x256."""
_YARDSTICK_ON_CPU = Products(what="conv", width=256, side=32, count=1)
"""A short one, so that it has many runs in a turn."""
_ON_GPU = {
    "gemm": Products(what="gemm", width=4096, count=1),
    "conv": Products(what="conv", width=512, side=128, count=1),
}
_GPU_COUNTS = (16, 4)
"""Products of a run below FP32, where one may take no more than 0.2 ms, and in FP32, where a Jetson takes 50 ms."""
_TF32_SINCE = 8
"""Compute capability from which on a GPU rounds FP32 products to TF32, if a library lets it."""
_AS_TF32 = " as TF32"


@dataclass(frozen=True, kw_only=True)
class Probe(Contestant):
    """Does a known amount of the simplest work."""

    is_tf32: bool = False
    """Whether the library rounds FP32 to TF32."""

    @property
    @abstractmethod
    def what(self) -> Literal["gemm", "conv", "copy"]:
        """The kind of work."""

    @property
    @abstractmethod
    def amount(self) -> int:
        """Of a run: FLOPs, or bytes read and written."""

    @property
    @abstractmethod
    def precision(self) -> Precision | None:
        """None of a copy."""


@dataclass(frozen=True, kw_only=True)
class ProductProbe(Probe):
    """A chain of products; each library has a class of its own."""

    products: Products
    computed_in: Precision = "fp32"
    threads: int | None = None
    """CPU threads; None leaves the choice to the library."""

    @property
    def what(self) -> Literal["gemm", "conv", "copy"]:
        """See `Probe`."""
        return self.products.what

    @property
    def amount(self) -> int:
        """See `Probe`."""
        return self.products.flops

    @property
    def precision(self) -> Precision | None:
        """See `Probe`."""
        return self.computed_in


@dataclass(frozen=True, kw_only=True)
class EngineProbe(ProductProbe):
    """A chain of products as ONNX graph in one of the runtime's engines."""

    path: Path
    """The graph; a plan lies beside it."""
    backend: base.Backend | None = None
    engine_precision: base.Precision | None = None
    library: Library | None = None
    """What builds a plan and runs it; None runs the graph itself."""

    def open(self) -> Running:
        """See `Contestant`; builds the plan, if there has to be one and `$I2I_CACHE` does not hold it."""
        path = self.path
        if self.library is not None:
            path = self.path.with_suffix(f".{self.library}.plan")
            build_plan(self.path, path, self.library, card=None, precision=self.computed_in)
        device: base.Device = "cuda" if self.device == "cuda" else "cpu"
        return _RunningEngine(
            open_engine(path, device, self.threads, backend=self.backend, precision=self.engine_precision)
        )


class _RunningEngine(Running):
    def __init__(self, engine: base.Engine) -> None:
        self.provider = engine.provider
        self._engine = engine
        self._scale = np.ones(1, np.float32)
        self._out: Array | None = None

    def run(self) -> None:
        """See `Running`."""
        self._out = self._engine.run(self._scale, out=self._out)

    def close(self) -> None:
        """See `Running`."""
        self._engine.close()


@dataclass(frozen=True, kw_only=True)
class TorchProbe(ProductProbe):
    """A chain of products in PyTorch, with its own settings: on a GPU FP32 convolutions are rounded to TF32."""

    def open(self) -> Running:
        """See `Contestant`."""
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise DeviceError("PyTorch finds no CUDA here")
        return _RunningTorch(self)


class _RunningTorch(Running):
    def __init__(self, probe: TorchProbe) -> None:
        import torch

        self._torch = torch
        self._products, self._is_on_gpu = probe.products, probe.device == "cuda"
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(probe.computed_in, torch.float32)
        self._begin, self._constant = [
            torch.from_numpy(array).to(probe.device, dtype) for array in probe.products.arrays()
        ]
        if self._is_on_gpu and probe.what == "conv":
            # What its half precision kernels are written for; and it may look for the quickest.
            self._begin = self._begin.contiguous(memory_format=torch.channels_last)
            self._constant = self._constant.contiguous(memory_format=torch.channels_last)
            torch.backends.cudnn.benchmark = True
        where = torch.cuda.get_device_name() if self._is_on_gpu else "CPU"
        self.provider = f"PyTorch {where}"

    def run(self) -> None:
        """See `Running`."""
        last = self._begin
        with self._torch.inference_mode():
            for _ in range(self._products.count):
                last = self._product(last)
        if self._is_on_gpu:
            self._torch.cuda.synchronize()

    def _product(self, last: torch.Tensor) -> torch.Tensor:
        if self._products.what == "gemm":
            return last @ self._constant
        return self._torch.nn.functional.conv2d(last, self._constant, padding="same")


@dataclass(frozen=True, kw_only=True)
class NumpyProbe(ProductProbe):
    """A chain of matrix products in NumPy, for a machine that has nothing else.

    Its threads are those that its BLAS took when it was loaded: `OPENBLAS_NUM_THREADS` sets them, `threads` cannot.
    """

    def open(self) -> Running:
        """See `Contestant`."""
        return _RunningNumpy(self.products)


class _RunningNumpy(Running):
    provider = "NumPy CPU"

    def __init__(self, products: Products) -> None:
        self._count = products.count
        self._begin, self._constant = products.arrays()
        self._results = [np.empty_like(self._begin) for _ in range(2)]

    def run(self) -> None:
        """See `Running`."""
        last = self._begin
        for index in range(self._count):
            last = np.matmul(last, self._constant, out=self._results[index % 2])


@dataclass(frozen=True, kw_only=True)
class CopyProbe(Probe):
    """Copies an array much larger than the caches: on a CPU in all threads, on a GPU within its memory.

    Counted is what is read and what is written. A cache that reads a line before it writes to it moves half as much
    again, which the program did not ask for.
    """

    mib: int = _COPY_MIB
    """Of the array."""
    threads: int | None = None
    """None takes all cores that this process may use."""

    @property
    def what(self) -> Literal["gemm", "conv", "copy"]:
        """See `Probe`."""
        return "copy"

    @property
    def amount(self) -> int:
        """See `Probe`."""
        return 2 * (self.mib << 20) * (_GPU_COPIES if self.device == "cuda" else 1)

    @property
    def precision(self) -> Precision | None:
        """See `Probe`."""
        return None

    def open(self) -> Running:
        """See `Contestant`."""
        size = self.mib << 20
        return _RunningGpuCopy(size) if self.device == "cuda" else _RunningCopy(size, self.threads or usable_cores())


class _RunningCopy(Running):
    provider = "NumPy CPU"

    def __init__(self, size: int, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        parts = [np.array_split(np.empty(size // 8), threads) for _ in range(2)]
        self._sources, self._targets = parts
        for each in parts:
            # Memory lies near the core that first writes to it, and there is none before that.
            list(self._pool.map(lambda part: part.fill(1.0), each))

    def run(self) -> None:
        """See `Running`; NumPy lets other threads go on while it copies."""
        list(self._pool.map(np.copyto, self._targets, self._sources))

    def close(self) -> None:
        """See `Running`."""
        self._pool.shutdown()


class _RunningGpuCopy(Running):
    def __init__(self, size: int) -> None:
        self.provider = f"CUDA on {nvinfer.require_gpu().name}"
        self._cuda = cuda = nvinfer.cuda_runtime()
        self._size = size
        self._places: list[int] = []
        for _ in range(2):
            (place,) = nvinfer.cuda_values(cuda, cuda.cudaMalloc(size), f"{size >> 20} MiB to copy")
            self._places.append(place)

    def run(self) -> None:
        """See `Running`."""
        cuda = self._cuda
        source, target = self._places
        within = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        for _ in range(_GPU_COPIES):
            nvinfer.cuda_values(cuda, cuda.cudaMemcpyAsync(target, source, self._size, within, 0), "copying")
        nvinfer.cuda_values(cuda, cuda.cudaDeviceSynchronize(), "copying")

    def close(self) -> None:
        """See `Running`."""
        while self._places:
            self._cuda.cudaFree(self._places.pop())


def _work(what: Literal["gemm", "conv"], device: str, precision: Precision) -> Products:
    """What a probe of this device is to do."""
    if device == "cpu":
        return _ON_CPU[what]
    return replace(_ON_GPU[what], count=_GPU_COUNTS[precision == "fp32"])


def probes(device: str, precisions: Sequence[Precision], threads: int | None, folder: Path) -> list[Probe]:
    """All probes of a device that can run here, FP32 always among them: no INT8 graph is without FP32 layers.

    Without onnx, which writes the graphs, only PyTorch and NumPy are left. Whether PyTorch finds the GPU shows when
    its probe is opened.

    Args:
        device: `cpu` or `cuda`.
        precisions: those that rows are in; what a library does not have is left out.
        threads: CPU threads; None leaves the choice to each library.
        folder: where graphs and plans are written.
    """
    found = [*_copies(device, threads)]
    for precision in PRECISIONS:
        if precision == "fp32" or precision in precisions:
            for what in ("gemm", "conv"):
                found += _products(_work(what, device, precision), device, precision, threads, folder)
    if device == "cpu" and all(probe.what == "copy" for probe in found):
        found.append(_numpy())
    return found


def yardstick(device: str, threads: int | None, folder: Path) -> Probe:
    """The one probe that has a turn in each round: FP32 convolutions in the plainest library of the device.

    A disturbed machine slows them as it slows a generator, whose work they are; matrix products follow it less well.
    That is ONNX Runtime, or else what is there, in the end NumPy; a run on a GPU without a library for products has one
    on the CPU. Its name says which work it is and in which library: only times of equal yardsticks can be compared.
    """
    for one in dict.fromkeys((device, "cpu")):
        work = _YARDSTICK_ON_CPU if one == "cpu" else _work("conv", one, "fp32")
        for probe in _products(work, one, "fp32", threads, folder):
            return replace(probe, name=f"short {probe.name}") if one == "cpu" else probe
    return _numpy()


def peak(probe: Probe, turns: Sequence[Turn]) -> Peak:
    """What a probe reached in the best of its rounds.

    Args:
        probe: the probe.
        turns: at least one.
    """
    rates = [probe.amount / statistics.median(turn.seconds) for turn in turns]
    return Peak(
        what=probe.what,
        name=probe.name,
        device=probe.device,
        precision=probe.precision,
        is_tf32=probe.is_tf32,
        per_second=max(rates),
        spread=(min(rates), max(rates)),
    )


def _copies(device: str, threads: int | None) -> Iterator[Probe]:
    if device == "cpu":
        yield CopyProbe(name="copy, CPU", threads=threads)
    elif nvinfer.gpu() is not None:
        yield CopyProbe(name="copy, GPU", device=device)


def _numpy() -> Probe:
    return NumpyProbe(name="GEMM fp32, NumPy CPU", products=_work("gemm", "cpu", "fp32"))


def _products(
    products: Products, device: str, precision: Precision, threads: int | None, folder: Path
) -> Iterator[Probe]:
    """One chain in all libraries that can run it here, the plainest first."""
    title = f"{'GEMM' if products.what == 'gemm' else 'conv'} {precision}"
    if importlib.util.find_spec("onnx") is not None:
        if device == "cuda":
            yield from _engines_of_gpu(title, products, precision, folder)
        else:
            yield from _engines_of_cpu(title, products, precision, threads, folder)
    if importlib.util.find_spec("torch") is not None and (
        precision != "int8" if device == "cuda" else precision == "fp32"
    ):
        # Its products of matrices are not rounded, unless one asks for that.
        is_tf32 = products.what == "conv" and _can_round(device, precision)
        yield TorchProbe(
            name=f"{title}{_AS_TF32 * is_tf32}, PyTorch {device.upper()}",
            is_tf32=is_tf32,
            device=device,
            products=products,
            computed_in=precision,
            threads=threads,
        )


def _engines_of_cpu(
    title: str, products: Products, precision: Precision, threads: int | None, folder: Path
) -> Iterator[Probe]:
    graph = functools.partial(_graph, folder, products, "cpu", "int8" if precision == "int8" else "fp32")
    with contextlib.suppress(ImportError):
        import onnxruntime  # noqa: F401

        # It computes in no other float type on a CPU.
        if precision in ("fp32", "int8"):
            yield EngineProbe(
                name=f"{title}, ONNX Runtime CPU",
                products=products,
                computed_in=precision,
                threads=threads,
                path=graph(),
                backend="onnxruntime",
            )
    with contextlib.suppress(ImportError):
        from i2i_runtime.engines.openvino import precisions

        if OPENVINO[precision] in precisions("cpu"):
            yield EngineProbe(
                name=f"{title}, OpenVINO CPU",
                products=products,
                computed_in=precision,
                threads=threads,
                path=graph(),
                backend="openvino",
                engine_precision=OPENVINO[precision],
            )


def _engines_of_gpu(title: str, products: Products, precision: Precision, folder: Path) -> Iterator[Probe]:
    if nvinfer.gpu() is None or precision == "bf16":
        return
    graph = functools.partial(_graph, folder, products, "cuda", precision)
    with contextlib.suppress(ImportError):
        from i2i_runtime.engines.onnxruntime import devices_here

        # It has no INT8 kernels there: it computes such a graph in FP32.
        if "cuda" in devices_here() and precision != "int8":
            is_tf32 = _can_round("cuda", precision)
            yield EngineProbe(
                name=f"{title}{_AS_TF32 * is_tf32}, ONNX Runtime CUDA",
                is_tf32=is_tf32,
                device="cuda",
                products=products,
                computed_in=precision,
                path=graph(),
                backend="onnxruntime",
            )
    for library in _PLANS:
        with contextlib.suppress(ModelError):
            nvinfer.load_library(library)
            yield EngineProbe(
                name=f"{title}, {nvinfer.LIBRARY_NAMES[library]}",
                device="cuda",
                products=products,
                computed_in=precision,
                path=graph(),
                library=library,
            )


def _graph(folder: Path, products: Products, device: str, precision: Precision) -> Path:
    """The chain as ONNX file, written if it is not there yet."""
    shape = f"{products.width}x{products.side}x{products.count}"
    path = folder / f"probe-{products.what}-{shape}-{device}-{precision}.onnx"
    if not path.is_file():
        write_graph(path, products, precision)
    return path


def _can_round(device: str, precision: Precision) -> bool:
    """Whether this GPU rounds FP32 where a library lets it."""
    gpu = nvinfer.gpu() if device == "cuda" and precision == "fp32" else None
    return gpu is not None and int(gpu.compute_capability.partition(".")[0]) >= _TF32_SINCE
