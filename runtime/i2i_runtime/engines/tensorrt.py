"""Plans through TensorRT or TensorRT-RTX, on an NVIDIA GPU.

What goes to the GPU and back passes through page-locked memory, which the GPU reads by itself; and the work of a frame
is recorded once as a CUDA graph and replayed, which costs the CPU one call instead of one for each layer.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from i2i_runtime.engines import nvinfer
from i2i_runtime.engines.base import Engine, Tensor, TensorSpec, failure, is_lack_of_memory, shape_words
from i2i_runtime.engines.manifest import Library, Manifest, load_plan, rebuild_command
from i2i_runtime.errors import DeviceError, ModelError, OutOfMemoryError

_RTX_MAGIC = b"vtrt"
"""The first bytes of a plan of TensorRT-RTX."""


@dataclass(frozen=True, kw_only=True)
class _Buffer:
    """Room for a tensor on the GPU and, page-locked, in main memory."""

    device: int
    """Address on the GPU."""
    host: int
    """Address in main memory."""
    room: int
    """Bytes at each of them."""


class TensorRtEngine(Engine):
    """A plan on the GPU, with its own stream and buffers."""

    def __init__(self, path: Path, *, trust: bool = False) -> None:
        """Load `path`.

        Args:
            path: the `.plan` or `.engine` file.
            trust: run it without a sidecar, or though its sidecar names another version or GPU.

        Raises:
            ModelError: no plan, one that was altered, or one for another GPU or version; its library is missing.
            DeviceError: there is no GPU, or none that TensorRT-RTX runs the plan on.
        """
        self.name = path.name
        self._buffers: dict[str, _Buffer] = {}
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        """The inputs' shapes that everything below is made for; None before the first run and after a failure."""
        self._host: dict[str, Tensor] = {}
        """Each tensor's page-locked memory as an array of its present shape."""
        self._is_warm = False
        """Whether these shapes have run: TensorRT finishes its own preparations in the first run."""
        self._graph: Any = None
        """The work of a frame as a CUDA graph; None until it is captured."""
        self._stream: Any = None
        content, manifest = load_plan(path, trust)
        self.card = manifest.card if manifest else None
        library: Library = manifest.library if manifest else _library_of(content)
        trt = nvinfer.load_library(library)
        if manifest and not trust:
            _check_version(path, manifest, str(trt.__version__))
        try:
            gpu = nvinfer.require_gpu()
        except DeviceError as error:
            raise DeviceError(f"{path}: a plan runs on an NVIDIA GPU ({error}); run the .onnx on the CPU") from error
        if manifest and not trust:
            _check_gpu(path, manifest, gpu)
        self._cuda = nvinfer.cuda_runtime()
        logger, self._messages = nvinfer.make_logger(trt)
        self._messages.clear()
        # The runtime must outlive the engine, and the engine its context.
        self._runtime = runtime = trt.Runtime(logger)
        if hasattr(runtime, "get_engine_validity"):
            _check_validity(trt, runtime, path, content, gpu)
        if manifest and manifest.version_compatible:
            # Such a plan brings its own lean runtime, which is host code.
            runtime.engine_host_code_allowed = True
        self._engine = engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            line = f"{path}: {nvinfer.LIBRARY_NAMES[library]} cannot load it on {gpu.name} ({self._messages.reason()})"
            # The header of such a plan was checked: what is left is its compiler, which does not know every GPU.
            raise DeviceError(f"{line}; run the .onnx") if library == "tensorrt_rtx" else ModelError(line)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs = tuple(_spec(trt, engine, name, path) for name in inputs)
        self.outputs = tuple(_spec(trt, engine, name, path) for name in names if name not in inputs)
        self._kernels = _kernels_file(manifest, gpu, str(trt.__version__)) if manifest else None
        self._may_capture = True
        self._runtime_cache: Any = None
        self._runtime_config = runtime_config = None
        if hasattr(engine, "create_runtime_config"):
            self._runtime_config = runtime_config = engine.create_runtime_config()
            # TensorRT-RTX compiles kernels as it runs, so it must capture its graphs itself.
            if hasattr(runtime_config, "cuda_graph_strategy"):
                runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
                self._may_capture = False
            # TensorRT has no such cache: its plans hold compiled kernels.
            if self._kernels and hasattr(runtime_config, "create_runtime_cache"):
                self._runtime_cache = _use_runtime_cache(runtime_config, self._kernels)
                # That old kernels were refused explains no later failure.
                self._messages.clear()
        self._context = (
            engine.create_execution_context()
            if runtime_config is None or (self._may_capture and self._runtime_cache is None)
            else engine.create_execution_context(runtime_config)
        )
        if self._context is None:
            raise OutOfMemoryError(f"{path}: no room to run it on {gpu.name} ({self._messages.reason()})")
        self.provider = f"{nvinfer.LIBRARY_NAMES[library]} {trt.__version__} on {gpu.name}"
        (self._stream,) = self._checked(
            # The default stream would wait for this one, and this one for it.
            self._cuda.cudaStreamCreateWithFlags(self._cuda.cudaStreamNonBlocking)
        )

    def _infer(self, inputs: Sequence[Tensor], outs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        self._messages.clear()
        if tuple(tensor.shape for tensor in inputs) != self._shapes:
            self._prepare(inputs)
        for index, (spec, out) in enumerate(zip(self.outputs, outs, strict=False)):
            if out is not None:
                self._check_result(index, self._host[spec.name].shape, out)
        for spec, tensor in zip(self.inputs, inputs, strict=True):
            np.copyto(self._host[spec.name], tensor)
        self._launch()
        self._checked(self._cuda.cudaStreamSynchronize(self._stream))
        results = []
        for spec, out in zip(self.outputs, outs, strict=False):
            result = np.empty_like(self._host[spec.name]) if out is None else out
            np.copyto(result, self._host[spec.name])
            results.append(result)
        return tuple(results)

    def _prepare(self, inputs: Sequence[Tensor]) -> None:
        """Make everything ready for inputs of these shapes."""
        # A graph is bound to the context as it was, and to the buffers.
        self._drop_graph()
        self._shapes, self._is_warm = None, False
        context = self._context
        for spec, tensor in zip(self.inputs, inputs, strict=True):
            self._set_shape(spec, tensor)
        shapes = [tensor.shape for tensor in inputs] + [self._output_shape(spec) for spec in self.outputs]
        for spec, shape in zip((*self.inputs, *self.outputs), shapes, strict=True):
            size = int(np.prod(shape)) * spec.dtype.itemsize
            buffer = self._buffer(spec.name, size)
            block = (ctypes.c_byte * size).from_address(buffer.host)
            self._host[spec.name] = np.frombuffer(memoryview(block), spec.dtype).reshape(shape)
            if not context.set_tensor_address(spec.name, buffer.device):
                raise ModelError(f"{self.name}: tensor {spec.name} is refused ({self._messages.reason()})")
        self._shapes = tuple(tensor.shape for tensor in inputs)

    def _launch(self) -> None:
        """Put the work of a frame on the stream: at first call by call, then as a graph."""
        if self._graph is None and self._is_warm and self._may_capture:
            self._graph = self._captured()
            # What refuses once would refuse every frame.
            self._may_capture = self._graph is not None
        if self._graph is None:
            self._enqueue()
            self._is_warm = True
        else:
            self._checked(self._cuda.cudaGraphLaunch(self._graph, self._stream))

    def _enqueue(self) -> None:
        """Inputs to the GPU, the model, outputs back."""
        cuda, context = self._cuda, self._context
        for spec in self.inputs:
            host, buffer = self._host[spec.name], self._buffers[spec.name]
            to_device = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
            self._checked(cuda.cudaMemcpyAsync(buffer.device, buffer.host, host.nbytes, to_device, self._stream))
        if not context.execute_async_v3(stream_handle=int(self._stream)):
            raise failure(f"{self.name}: inference failed", self._messages.reason())
        for spec in self.outputs:
            host, buffer = self._host[spec.name], self._buffers[spec.name]
            to_host = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
            self._checked(cuda.cudaMemcpyAsync(buffer.host, buffer.device, host.nbytes, to_host, self._stream))

    def _captured(self) -> Any:
        """The work of a frame as a graph that can be launched; None where something in it cannot be captured."""
        cuda = self._cuda
        recording = launchable = None
        # Other threads may use CUDA meanwhile.
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with contextlib.suppress(ModelError, OutOfMemoryError):
            self._checked(cuda.cudaStreamBeginCapture(self._stream, mode))
            try:
                self._enqueue()
            finally:
                # Also ends a capture that failed: the stream would refuse all work until then.
                (recording,) = self._checked(cuda.cudaStreamEndCapture(self._stream))
            (launchable,) = self._checked(cuda.cudaGraphInstantiate(recording, 0))
        if recording is not None:
            cuda.cudaGraphDestroy(recording)
        if launchable is None:
            # CUDA and TensorRT remember the failure and would report it with the next call.
            cuda.cudaGetLastError()
            self._messages.clear()
        return launchable

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._cuda.cudaGraphExecDestroy(self._graph)
            self._graph = None

    def close(self) -> None:
        """See `Closing`: free the buffers, the stream and what TensorRT holds; keep the kernels that were compiled."""
        if self._stream is None:
            return
        if self._kernels and hasattr(self._runtime_cache, "serialize"):
            # They save the next start its time, and their loss costs no more. After a CUDA error this raises too.
            with contextlib.suppress(Exception):
                _write_kernels(self._kernels, bytes(self._runtime_cache.serialize()))
        self._drop_graph()
        self._host.clear()
        for name in list(self._buffers):
            self._free(name)
        self._cuda.cudaStreamDestroy(self._stream)
        self._stream = None
        self._context = None
        self._runtime_cache = None
        self._runtime_config = None
        self._engine = None
        self._runtime = None

    def _set_shape(self, spec: TensorSpec, tensor: Tensor) -> None:
        """Tell the context an input's shape, after checking that the plan was built for it."""
        spec.check(tensor, self.name)
        if None not in spec.shape:
            return
        engine, context = self._engine, self._context
        smallest, _, largest = (tuple(shape) for shape in engine.get_tensor_profile_shape(spec.name, 0))
        if any(not low <= found <= high for low, found, high in zip(smallest, tensor.shape, largest, strict=True)):
            raise ModelError(
                f"{self.name}: input {spec.name}: expected a shape from {shape_words(smallest)} to "
                f"{shape_words(largest)}, found {shape_words(tensor.shape)}; build the plan for a wider range"
            )
        if not context.set_input_shape(spec.name, tensor.shape):
            raise ModelError(
                f"{self.name}: the shape {shape_words(tensor.shape)} is refused ({self._messages.reason()})"
            )

    def _output_shape(self, spec: TensorSpec) -> tuple[int, ...]:
        context = self._context
        shape = tuple(context.get_tensor_shape(spec.name))
        if any(length < 0 for length in shape):
            raise ModelError(
                f"{self.name}: output {spec.name}: its shape {shape_words(shape)} depends on the picture's values"
            )
        return shape

    def _buffer(self, name: str, size: int) -> _Buffer:
        """A tensor's buffer, of at least `size` bytes; it grows and never shrinks."""
        cuda, kept = self._cuda, self._buffers.get(name)
        if kept is not None and size <= kept.room:
            return kept
        if kept is not None:
            self._host.pop(name, None)
            self._checked(self._free(name))
        (device,) = self._checked(cuda.cudaMalloc(size))
        try:
            (host,) = self._checked(cuda.cudaHostAlloc(size, cuda.cudaHostAllocDefault))
        except (ModelError, OutOfMemoryError):
            cuda.cudaFree(device)
            raise
        self._buffers[name] = buffer = _Buffer(device=int(device), host=int(host), room=size)
        return buffer

    def _free(self, name: str) -> tuple[Any, ...]:
        buffer = self._buffers.pop(name)
        self._cuda.cudaFreeHost(buffer.host)
        freed: tuple[Any, ...] = self._cuda.cudaFree(buffer.device)
        return freed

    def _checked(self, result: tuple[Any, ...]) -> tuple[Any, ...]:
        try:
            return nvinfer.cuda_values(self._cuda, result, self.name)
        except DeviceError as error:
            raise (OutOfMemoryError if is_lack_of_memory(str(error)) else ModelError)(str(error)) from error


def _library_of(content: bytes) -> Library:
    return "tensorrt_rtx" if content.startswith(_RTX_MAGIC) else "tensorrt"


def _check_version(path: Path, manifest: Manifest, version: str) -> None:
    """A plan runs in the version that built it; a version compatible one in later versions of the same major number."""
    built, here = _release(manifest.library_version), _release(version)
    is_later = built[:1] == here[:1] != () and built <= here
    if manifest.library_version != version and not (manifest.version_compatible and is_later):
        raise _built_for_another(path, manifest, version)


def _release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, without zeros at the end.

    >>> _release("10.3.0.post1"), _release("10.16.1.11"), _release("10.3+jp6"), _release("unknown")
    ((10, 3), (10, 16, 1, 11), (10, 3), ())
    """
    numbers = re.match(r"[0-9]+(\.[0-9]+)*", version)
    release = [int(number) for number in numbers[0].split(".")] if numbers else []
    while release and release[-1] == 0:
        release.pop()
    return tuple(release)


def _check_gpu(path: Path, manifest: Manifest, gpu: nvinfer.Gpu) -> None:
    """A plan runs on the kind of GPU that it was built for; a hardware compatible one on all from Ampere on."""
    expected, found = manifest.compute_capability, gpu.compute_capability
    if expected in (None, found) or (manifest.hardware_compatible and int(found.partition(".")[0]) >= 8):
        return
    raise _built_for_another(path, manifest, f"{gpu.name}, {found}")


def _built_for_another(path: Path, manifest: Manifest, found: str) -> ModelError:
    library = nvinfer.LIBRARY_NAMES[manifest.library]
    target = manifest.compute_capability or "any"
    return ModelError(
        f"{path}: built with {library} {manifest.library_version} for compute capability {target}, this is {found}; "
        f"rebuild it: {rebuild_command(manifest.onnx, path.name)}, or try it with --trust-engine"
    )


def _check_validity(trt: ModuleType, runtime: Any, path: Path, content: bytes, gpu: nvinfer.Gpu) -> None:
    """TensorRT-RTX tells from a plan's header whether it can load it here."""
    validity, diagnostics = runtime.get_engine_validity(content[: runtime.engine_header_size])
    if validity == trt.EngineValidity.INVALID:
        names = [name for name, flag in trt.EngineInvalidityDiagnostics.__members__.items() if int(flag) & diagnostics]
        line = (
            f"{path}: this TensorRT-RTX {trt.__version__} cannot run it ({', '.join(names) or 'it does not say why'})"
        )
        # The rest is about this machine: an unknown GPU, an old driver, no room.
        if names and not {"VERSION_MISMATCH", "MALFORMED_ENGINE"} & set(names):
            raise DeviceError(f"{line} on {gpu.name}, {gpu.compute_capability}; run the .onnx")
        raise ModelError(f"{line}; rebuild it from its ONNX file with i2i-export")


def _kernels_file(manifest: Manifest, gpu: nvinfer.Gpu, version: str) -> Path | None:
    """Where the kernels are kept that TensorRT-RTX compiles of a plan on a GPU; None without a cache."""
    folder = nvinfer.cache_folder()
    if folder is None:
        return None
    kind = "\n".join((manifest.plan_sha256, gpu.name, gpu.compute_capability, version))
    return folder / f"{hashlib.sha256(kind.encode()).hexdigest()[:32]}.kernels"


def _use_runtime_cache(runtime_config: Any, kernels: Path) -> Any:
    """A cache for compiled kernels, with those of earlier processes in it; None if it is refused."""
    runtime_cache = runtime_config.create_runtime_cache()
    if runtime_cache is None:
        return None
    with contextlib.suppress(OSError):
        # It checks itself whether they fit this machine, and stays empty if not.
        runtime_cache.deserialize(kernels.read_bytes())
    return runtime_cache if runtime_config.set_runtime_cache(runtime_cache) else None


def _write_kernels(kernels: Path, content: bytes) -> None:
    """Move the kernels into their place in one step: other processes may run the same plan."""
    if kernels.is_file() and kernels.read_bytes() == content:
        return
    # What lies here will run on the GPU: nobody else may put it there.
    kernels.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = kernels.with_name(f".{kernels.name}.{os.getpid()}.partial")
    try:
        beside.write_bytes(content)
        beside.replace(kernels)
    finally:
        beside.unlink(missing_ok=True)


def _spec(trt: ModuleType, engine: Any, name: str, path: Path) -> TensorSpec:
    dtypes = {
        trt.DataType.FLOAT: "float32",
        trt.DataType.HALF: "float16",
        trt.DataType.UINT8: "uint8",
        trt.DataType.INT8: "int8",
        trt.DataType.INT32: "int32",
        trt.DataType.INT64: "int64",
    }
    dtype = dtypes.get(engine.get_tensor_dtype(name))
    if dtype is None:
        found = engine.get_tensor_dtype(name)
        raise ModelError(f"{path}: tensor {name}: expected {' or '.join(dtypes.values())}, found {found}")
    if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR or engine.is_shape_inference_io(name):
        raise ModelError(f"{path}: tensor {name}: expected plain rows of values on the GPU; build it with i2i-export")
    shape = tuple(None if length < 0 else length for length in engine.get_tensor_shape(name))
    return TensorSpec(name=name, shape=shape, dtype=np.dtype(dtype))
