"""ONNX files through ONNX Runtime: on the CPU, or on an NVIDIA GPU with CUDA or TensorRT."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from i2i_runtime.card import METADATA_KEY, Card
from i2i_runtime.digest import file_sha256
from i2i_runtime.engines import nvinfer
from i2i_runtime.engines.base import Device, Engine, Tensor, TensorSpec, failure
from i2i_runtime.errors import DeviceError, ModelError, reason

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_PROVIDERS: dict[Device, tuple[str, ...]] = {
    "cpu": (_CPU,),
    "cuda": (_CUDA, _CPU),
    "tensorrt": (_TENSORRT, _CUDA, _CPU),
}
"""What runs a model on each device, and what runs the nodes that it cannot."""
_NAMES = {_CPU: "CPU", _CUDA: "CUDA", _TENSORRT: "TensorRT"}


def devices_here() -> tuple[Device, ...]:
    """The devices that this build of ONNX Runtime was made for, quickest first; their hardware may be missing."""
    available = ort.get_available_providers()
    return tuple(device for device in ("tensorrt", "cuda", "cpu") if _PROVIDERS[device][0] in available)


class OnnxRuntimeEngine(Engine):
    """An ONNX file in one ONNX Runtime session."""

    def __init__(self, path: Path, device: Device = "auto", threads: int | None = None) -> None:
        """Load `path`.

        Args:
            path: the ONNX file.
            device: `auto` takes CUDA where this ONNX Runtime has it; `cuda` and `tensorrt` insist.
            threads: CPU threads for one inference; None leaves the choice to ONNX Runtime.

        Raises:
            ModelError: not an ONNX model, or one that ONNX Runtime cannot run.
            DeviceError: the device that was asked for is not there.
        """
        self.name = path.name
        providers = _providers(device)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # Failures arrive as exceptions; its log would put a second line beside ours.
        if threads is not None:
            options.intra_op_num_threads = threads
        if providers[0] != _CPU and hasattr(ort, "preload_dlls"):
            # CUDA from wheels lies where the system does not look. What is missing shows below, and it prints it.
            with contextlib.redirect_stdout(io.StringIO()):
                ort.preload_dlls()
        try:
            self._session: Any = ort.InferenceSession(
                str(path), options, providers=[(name, _provider_options(name, path)) for name in providers]
            )
        except Exception as error:  # ONNX Runtime has a dozen classes without a public parent
            raise failure(f"{path}: not an ONNX model that ONNX Runtime can load", reason(error), str(error)) from error
        running = self._session.get_providers()[0]
        if running != providers[0]:
            # ONNX Runtime goes on without the provider it was asked for; a silent fall to the CPU is 50 times slower.
            raise DeviceError(f"{path}: expected {providers[0]}, ONNX Runtime fell back to {running}; use --device cpu")
        self.provider = f"ONNX Runtime {_NAMES[running]}"
        try:
            card_text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        except UnicodeDecodeError as error:
            raise ModelError(f"{path}: its metadata is no text ({reason(error)}); export the model again") from error
        self.card = Card.from_json(card_text, where=str(path)) if card_text else None
        self.inputs = tuple(_spec(node, path) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, path) for node in self._session.get_outputs())
        self._is_on_gpu = running != _CPU
        self._binding: Any = None
        self._on_gpu: dict[str, Any] = {}
        """The inputs' buffers in the GPU's memory, by name."""

    def _infer(self, inputs: Sequence[Tensor], outs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        wanted = self.outputs[: len(outs)]
        try:
            if None in [None if out is None else 0 for out in outs]:
                named = {spec.name: tensor for spec, tensor in zip(self.inputs, inputs, strict=True)}
                results = [np.asarray(result) for result in self._session.run([spec.name for spec in wanted], named)]
            else:
                results = [out for out in outs if out is not None]
                self._run_bound(inputs, results)
        except Exception as error:
            raise failure(f"{self.name}: inference failed", reason(error), str(error)) from error
        return tuple(results)

    def _run_bound(self, inputs: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        """Run into `results`: ONNX Runtime writes to them, from the GPU too, and checks their shape itself."""
        if self._binding is None:
            self._binding = self._session.io_binding()
        binding = self._binding
        # Both lists hold the arrays until the run is over.
        sent = [np.ascontiguousarray(tensor) for tensor in inputs]
        for spec, tensor in zip(self.inputs, sent, strict=True):
            if self._is_on_gpu:
                binding.bind_ortvalue_input(spec.name, self._to_gpu(spec.name, tensor))
            else:
                binding.bind_input(spec.name, "cpu", 0, spec.dtype.type, tensor.shape, tensor.ctypes.data)
        for spec, result in zip(self.outputs, results, strict=False):
            binding.bind_output(spec.name, "cpu", 0, spec.dtype.type, result.shape, result.ctypes.data)
        self._session.run_with_iobinding(binding)

    def _to_gpu(self, name: str, tensor: Tensor) -> Any:
        """Copy a tensor into the input's buffer on the GPU, which is made anew for another shape only."""
        kept = self._on_gpu.get(name)
        if kept is not None and tuple(kept.shape()) == tensor.shape:
            kept.update_inplace(tensor)
            return kept
        self._on_gpu[name] = ort.OrtValue.ortvalue_from_numpy(tensor, "cuda", 0)
        return self._on_gpu[name]

    def close(self) -> None:
        """See `Closing`: free what the session holds on the GPU."""
        self._binding = None
        self._on_gpu.clear()
        self._session = None


def _providers(device: Device) -> tuple[str, ...]:
    available = ort.get_available_providers()
    if device == "auto":
        return _PROVIDERS["cuda" if _CUDA in available else "cpu"]
    if device not in _PROVIDERS:
        raise DeviceError(
            f"--device {device}: ONNX Runtime has no way to it; an Intel {device.upper()} needs OpenVINO "
            "(--backend openvino), an NVIDIA GPU is --device cuda"
        )
    providers = _PROVIDERS[device]
    if providers[0] not in available:
        raise DeviceError(
            f"--device {device}: this ONNX Runtime has no {_NAMES[providers[0]]}; "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'i2i[gpu]', or use --device cpu"
        )
    return tuple(provider for provider in providers if provider in available)


def _provider_options(provider: str, path: Path) -> dict[str, str]:
    """TensorRT builds an engine for minutes, so it is kept; its own name for it does not depend on the weights."""
    folder = nvinfer.cache_folder()
    if provider != _TENSORRT or folder is None or not path.is_file():
        return {}
    own = folder / "onnxruntime" / f"{file_sha256(path)[:32]}-{ort.__version__}"
    try:
        # What lies here will be loaded as native code: nobody else may put it there.
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(own),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(own),
    }


def _spec(node: ort.NodeArg, path: Path) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise ModelError(f"{path}: tensor {node.name}: expected {' or '.join(_DTYPES)}, found {node.type}")
    shape = tuple(length if isinstance(length, int) else None for length in node.shape)
    return TensorSpec(name=node.name, shape=shape, dtype=np.dtype(dtype))
