"""OpenVINO's own format (`.xml` with the weights in a `.bin` beside it) and ONNX files through OpenVINO.

It runs them on a CPU of any maker, and on Intel's GPUs and NPUs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino.frontend import FrontEndManager

from i2i_runtime.card import METADATA_KEY, Card
from i2i_runtime.engines.base import Device, Engine, Precision, Tensor, TensorSpec, failure
from i2i_runtime.errors import DeviceError, ModelError, reason

_DTYPES = ("float32", "float16", "uint8", "int32", "int64")
_DEVICES: dict[Device, str] = {"auto": "CPU", "cpu": "CPU", "gpu": "GPU", "npu": "NPU"}
_CAPABILITIES: dict[Precision, str] = {"bf16": "BF16", "f16": "FP16"}
"""Each reduced precision as OpenVINO lists it among a device's capabilities."""


@functools.cache
def _core() -> Any:
    """The one door to OpenVINO; it looks for devices once, which takes a while."""
    return ov.Core()


def devices_here() -> tuple[Device, ...]:
    """The devices of this machine that OpenVINO can use."""
    # Two GPUs are called GPU.0 and GPU.1.
    present = {name.partition(".")[0] for name in _core().available_devices}
    return tuple(device for device in ("cpu", "gpu", "npu") if _DEVICES[device] in present)


def precisions(device: Device = "cpu") -> tuple[Precision, ...]:
    """What a device of this machine can compute an FP32 model in; an NPU has no choice."""
    found = _core().get_property(_DEVICES[device], "OPTIMIZATION_CAPABILITIES")
    others = tuple(precision for precision, capability in _CAPABILITIES.items() if capability in found)
    return ("f32", *others) if _DEVICES[device] != "NPU" else ("f32",)


class OpenVinoEngine(Engine):
    """A model compiled by OpenVINO.

    Its card is the `rt_info` entry `card.METADATA_KEY`: `model.set_rt_info(card.to_json(), [METADATA_KEY])`. Of an ONNX
    file it is in the metadata, which OpenVINO puts into `rt_info` below `framework`.
    """

    def __init__(
        self, path: Path, device: Device = "auto", threads: int | None = None, precision: Precision = "f32"
    ) -> None:
        """Load `path`.

        Args:
            path: the `.xml` or `.onnx` file.
            device: `cpu`, `gpu` or `npu`; `auto` is the CPU.
            threads: CPU threads for one inference; None leaves the choice to OpenVINO.
            precision: what it computes in; INT8 layers of a quantised model stay INT8.

        Raises:
            ModelError: no OpenVINO model, one without its weights, or one that OpenVINO cannot run.
            DeviceError: the device is not there, or does not have the precision.
        """
        self.name = path.name
        target = _target(path, device, precision)
        is_onnx = path.suffix.lower() == ".onnx"
        weights = path.with_suffix(".bin")
        if not is_onnx and not weights.is_file():
            raise ModelError(f"{path}: its weights are missing; expected {weights.name} beside it, copy both")
        # OpenVINO computes in bf16 where the CPU has it, 47 to 59 dB from the model; speed is a choice, not a default.
        properties: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY"}
        if target != "NPU":  # It computes in f16 and refuses the question.
            properties["INFERENCE_PRECISION_HINT"] = precision
        if threads is not None and target == "CPU":
            properties["INFERENCE_NUM_THREADS"] = threads
        self._compiled: Any = None
        self._request: Any = None
        self._bound: Any = None
        """A request that writes into arrays of the caller; the other keeps its results until they are copied."""
        try:
            # Core.read_model tries every format that it knows on a file that is not its own, and prints what each says.
            reader = FrontEndManager().load_by_framework("onnx" if is_onnx else "ir")
            model = reader.convert(reader.load(str(path)))
            key = ["framework", METADATA_KEY] if is_onnx else [METADATA_KEY]
            card_text = model.get_rt_info(key).astype(str) if model.has_rt_info(key) else None
            self._compiled = _core().compile_model(model, target, properties)
            self._request = self._compiled.create_infer_request()
        except Exception as error:  # RuntimeError mostly, also of pybind11's making
            raise failure(f"{path}: not a model that OpenVINO can load", openvino_reason(error), str(error)) from error
        if not (self._compiled.inputs and self._compiled.outputs):
            # What OpenVINO makes of any other XML file, and of an empty ONNX file.
            kind = "an ONNX model" if is_onnx else "a model in OpenVINO's format"
            raise ModelError(f"{path}: expected {kind}, found one without input and output")
        self.provider = f"OpenVINO {target}" + ("" if precision == "f32" else f" {precision}")
        self.card = Card.from_json(card_text, where=str(path)) if card_text else None
        self.inputs = tuple(_spec(port, path) for port in self._compiled.inputs)
        self.outputs = tuple(_spec(port, path) for port in self._compiled.outputs)

    def _infer(self, inputs: Sequence[Tensor], outs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        try:
            if None in [None if out is None else 0 for out in outs]:
                found = self._request.infer(list(inputs), share_inputs=True, share_outputs=False)
                return tuple(np.asarray(found[index]) for index in range(len(outs)))
            results = [out for out in outs if out is not None]
            shapes = self._run_bound(inputs, results)
        except Exception as error:
            raise failure(f"{self.name}: inference failed", openvino_reason(error), str(error)) from error
        for index, (shape, result) in enumerate(zip(shapes, results, strict=True)):
            self._check_result(index, shape, result)
        return tuple(results)

    def _run_bound(self, inputs: Sequence[Tensor], results: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """Run into `results`, and give the shapes that the results have."""
        if self._bound is None:
            self._bound = self._compiled.create_infer_request()
        tensors = [ov.Tensor(result, shared_memory=True) for result in results]
        for index, tensor in enumerate(tensors):
            self._bound.set_output_tensor(index, tensor)
        self._bound.infer(list(inputs), share_inputs=True, share_outputs=True)
        return [tuple(tensor.shape) for tensor in tensors]

    def close(self) -> None:
        """See `Closing`: they hold the `.bin` mapped, and Windows does not replace a mapped file."""
        self._bound = None
        self._request = None
        self._compiled = None


def _target(path: Path, device: Device, precision: Precision) -> str:
    """What OpenVINO calls the device."""
    present = devices_here()
    if device not in _DEVICES:
        raise DeviceError(
            f"--device {device}: OpenVINO runs {path.name} on {', '.join(present)}; use one of them, or the model's "
            f"{'.plan' if path.suffix.lower() == '.xml' else '.onnx in ONNX Runtime'}"
        )
    if device != "auto" and device not in present:
        raise DeviceError(
            f"--device {device}: OpenVINO finds no {device.upper()} here, only {', '.join(present)}; "
            "use one of them, or install the device's driver"
        )
    if precision not in (can := precisions(device)):
        raise DeviceError(
            f"{path}: expected a precision that this {_DEVICES[device]} has, {' or '.join(can)}; found {precision}"
        )
    return _DEVICES[device]


def openvino_reason(error: Exception) -> str:
    """Why OpenVINO failed, on one line: it says where in its source first, and what last."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return reason(Exception(lines[-1].strip() if lines else type(error).__name__))


def _spec(port: ov.ConstOutput, path: Path) -> TensorSpec:
    name = port.any_name
    dtype = np.dtype(port.element_type.to_dtype())
    if dtype.name not in _DTYPES:
        raise ModelError(f"{path}: tensor {name}: expected {' or '.join(_DTYPES)}, found {dtype}")
    shape = tuple(None if length.is_dynamic else length.get_length() for length in port.partial_shape)
    return TensorSpec(name=name, shape=shape, dtype=dtype)
