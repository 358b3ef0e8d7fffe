"""ONNX files through ONNX Runtime, on the CPU or a CUDA GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from i2i_runtime.card import METADATA_KEY, Card
from i2i_runtime.engines.base import Device, Engine, Tensor, TensorSpec
from i2i_runtime.errors import DeviceError, ModelError, reason

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class OnnxRuntimeEngine(Engine):
    """An ONNX file in one ONNX Runtime session."""

    def __init__(self, path: Path, device: Device = "auto", threads: int | None = None) -> None:
        """Load `path`.

        Args:
            path: the ONNX file.
            device: `auto` takes CUDA where this ONNX Runtime has it; `cuda` insists on it.
            threads: CPU threads for one inference; None leaves the choice to ONNX Runtime.

        Raises:
            ModelError: not an ONNX model, or one that ONNX Runtime cannot run.
            DeviceError: CUDA was asked for and is not there.
        """
        self.name = path.name
        providers = _providers(device)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # Failures arrive as exceptions; its log would put a second line beside ours.
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime has a dozen classes without a public parent
            raise ModelError(f"{path}: not an ONNX model that ONNX Runtime can load ({reason(error)})") from error
        running = self._session.get_providers()[0]
        if running != providers[0]:
            # ONNX Runtime goes on without the provider it was asked for; a silent fall to the CPU is 50 times slower.
            raise DeviceError(f"{path}: expected {providers[0]}, ONNX Runtime fell back to {running}; use --device cpu")
        self.provider = f"ONNX Runtime {running.removesuffix('ExecutionProvider')}"
        try:
            card_text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        except UnicodeDecodeError as error:
            raise ModelError(f"{path}: its metadata is no text ({reason(error)}); export the model again") from error
        self.card = Card.from_json(card_text, where=str(path)) if card_text else None
        self.inputs = tuple(_spec(node, path) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, path) for node in self._session.get_outputs())

    def run(self, *inputs: Tensor) -> Tensor:
        """See `Engine.run`; the returned array is the caller's."""
        named = {spec.name: tensor for spec, tensor in zip(self.inputs, inputs, strict=True)}
        try:
            (output,) = self._session.run([self.outputs[0].name], named)
        except Exception as error:
            raise ModelError(f"{self.name}: inference failed ({reason(error)})") from error
        return np.asarray(output)


def _providers(device: Device) -> list[str]:
    has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise DeviceError(
            "--device cuda: this ONNX Runtime has no CUDA; "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'i2i[gpu]', or use --device cpu"
        )
    if has_cuda and device != "cpu":
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def _spec(node: ort.NodeArg, path: Path) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise ModelError(f"{path}: tensor {node.name}: expected {' or '.join(_DTYPES)}, found {node.type}")
    shape = tuple(length if isinstance(length, int) else None for length in node.shape)
    return TensorSpec(name=node.name, shape=shape, dtype=np.dtype(dtype))
