"""OpenVINO's own format (`.xml` with the weights in a `.bin` beside it) through OpenVINO, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino.frontend import FrontEndManager

from i2i_runtime.card import METADATA_KEY, Card
from i2i_runtime.engines.base import Device, Engine, Tensor, TensorSpec
from i2i_runtime.errors import DeviceError, ModelError, reason

_DTYPES = ("float32", "float16", "uint8", "int32", "int64")


class OpenVinoEngine(Engine):
    """An OpenVINO model, compiled for the CPU.

    Its card is the `rt_info` entry `card.METADATA_KEY`: `model.set_rt_info(card.to_json(), [METADATA_KEY])`.
    """

    def __init__(self, path: Path, device: Device = "auto", threads: int | None = None) -> None:
        """Load `path`.

        Args:
            path: the `.xml` file.
            device: `auto` or `cpu`.
            threads: CPU threads for one inference; None leaves the choice to OpenVINO.

        Raises:
            ModelError: no OpenVINO model, one without its weights, or one that OpenVINO cannot run.
            DeviceError: CUDA was asked for.
        """
        self.name = path.name
        if device == "cuda":
            raise DeviceError(
                f"--device cuda: OpenVINO runs {path.name} on the CPU; use --device cpu, or the model's .plan"
            )
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise ModelError(f"{path}: its weights are missing; expected {weights.name} beside it, copy both")
        # OpenVINO computes in bf16 where the CPU has it, 47 to 59 dB from the model; speed is a choice, not a default.
        properties: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        self._compiled: Any = None
        self._request: Any = None
        try:
            # Core.read_model tries every format that it knows on a file that is not its own, and prints what each says.
            reader = FrontEndManager().load_by_framework("ir")
            model = reader.convert(reader.load(str(path)))
            card_text = model.get_rt_info([METADATA_KEY]).astype(str) if model.has_rt_info([METADATA_KEY]) else None
            self._compiled = ov.Core().compile_model(model, "CPU", properties)
            self._request = self._compiled.create_infer_request()
        except Exception as error:  # RuntimeError mostly, also of pybind11's making
            raise ModelError(f"{path}: not a model that OpenVINO can load ({openvino_reason(error)})") from error
        if not (self._compiled.inputs and self._compiled.outputs):
            # What OpenVINO makes of any other XML file.
            raise ModelError(f"{path}: expected a model in OpenVINO's format, found one without input and output")
        self.provider = "OpenVINO CPU"
        self.card = Card.from_json(card_text, where=str(path)) if card_text else None
        self.inputs = tuple(_spec(port, path) for port in self._compiled.inputs)
        self.outputs = tuple(_spec(port, path) for port in self._compiled.outputs)

    def run(self, *inputs: Tensor) -> Tensor:
        """See `Engine.run`; the returned array is the caller's."""
        for spec, tensor in zip(self.inputs, inputs, strict=True):
            # OpenVINO converts types and reads on past a wrong shape without a word.
            spec.check(tensor, self.name)
        try:
            results = self._request.infer(list(inputs), share_inputs=True, share_outputs=False)
        except Exception as error:
            raise ModelError(f"{self.name}: inference failed ({openvino_reason(error)})") from error
        return np.asarray(results[0])

    def close(self) -> None:
        """See `Closing`: both hold the `.bin` mapped, and Windows does not replace a mapped file."""
        self._request = None
        self._compiled = None


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
