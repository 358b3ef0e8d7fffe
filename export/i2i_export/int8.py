"""INT8 with quantise/dequantise nodes in the graph, calibrated on real pictures.

The form that TensorRT, TensorRT-RTX, OpenVINO and ONNX Runtime all read: signed and symmetric, weights by channel,
biases in FP32. Transposed convolutions stay in FP32, which no CPU has in INT8 and where generators lose most; so do the
first and the last convolution.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from i2i_export.graph import quiet
from i2i_export.request import Calibration
from i2i_runtime.errors import ModelError

Inputs = tuple[NDArray[Any], ...]

_METHODS = {"percentile": CalibrationMethod.Percentile, "entropy": CalibrationMethod.Entropy}
_PERCENTILE = 99.99
_SMALLEST_SHARE = 0.5
"""A graph with fewer of its convolutions in INT8 is refused: it would hardly be faster."""


def to_int8(
    model: onnx.ModelProto,
    inputs: Sequence[Inputs],
    *,
    calibration: Calibration = "percentile",
    only: Collection[str] | None = None,
    keep: Collection[str] = (),
) -> onnx.ModelProto:
    """A copy of a float32 graph whose convolutions take and hold int8.

    Args:
        model: a checked model.
        inputs: its inputs, of real pictures, from which the range of each tensor is taken.
        calibration: `percentile` cuts off the rarest 0.01 %, `entropy` loses the least information.
        only: names of the convolutions to quantise; None for all.
        keep: names of those that stay in float32.

    Returns:
        A checked model.

    Raises:
        ModelError: the quantiser fails.
    """
    names = [value.name for value in model.graph.input]
    options: dict[str, bool | int | float] = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        # TensorRT takes no biases in INT32.
        "QuantizeBias": False,
        # One picture's tensors at a time: a generator of 2048x1024 has gigabytes of them.
        "CalibMaxIntermediateOutputs": 1,
    }
    if calibration == "percentile":
        options["CalibPercentile"] = _PERCENTILE
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        # By way of a file: the quantiser empties a model that it is given in memory.
        onnx.save(model, source)
        try:
            quantize_static(
                source,
                target,
                _Pictures(names, inputs),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=_METHODS[calibration],
                nodes_to_quantize=None if only is None else list(only),
                nodes_to_exclude=list(keep),
                extra_options=options,
            )
        except ImportError as error:
            raise ModelError(f"--calibration {calibration} needs {error.name}; pip install {error.name}") from error
        quantised = onnx.load(target)
    quantised.producer_name, quantised.producer_version = model.producer_name, model.producer_version
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, names: Sequence[str], inputs: Sequence[Inputs]) -> None:
        self._rest = iter([dict(zip(names, arrays, strict=True)) for arrays in inputs])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._rest, None)


def convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions, in the order in which they run."""
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def good_enough(
    model: onnx.ModelProto,
    inputs: Sequence[Inputs],
    psnr: Callable[[onnx.ModelProto], float],
    min_psnr_db: float,
    calibration: Calibration = "percentile",
) -> tuple[onnx.ModelProto, list[str]]:
    """An INT8 graph of at least a quality, with as few convolutions in FP32 as that takes.

    Args:
        model: the float32 graph.
        inputs: for the calibration.
        psnr: quality of a graph in dB.
        min_psnr_db: the lowest that is good enough.
        calibration: see `to_int8`.

    Returns:
        The graph, and the names of the convolutions that stay in FP32.

    Raises:
        ModelError: with the figures, if half of the convolutions in FP32 do not suffice.
    """
    names = convolutions(model)
    kept = list(dict.fromkeys([names[0], names[-1]]))
    found = psnr(graph := to_int8(model, inputs, calibration=calibration, keep=kept))
    if found >= min_psnr_db:
        return graph, kept
    first = found
    rest = [name for name in names if name not in kept]
    # How good the graph is with this convolution alone in INT8; one picture tells the order.
    alone = {name: psnr(to_int8(model, inputs[:1], calibration=calibration, only=[name])) for name in rest}
    by_harm = sorted(rest, key=alone.__getitem__)
    most = int(len(names) * (1 - _SMALLEST_SHARE)) - len(kept)
    count = 1
    while count <= most:
        tried = kept + by_harm[:count]
        found = psnr(graph := to_int8(model, inputs, calibration=calibration, keep=tried))
        if found >= min_psnr_db:
            return graph, tried
        if count == most:
            break
        count = min(2 * count, most)
    raise ModelError(
        f"--int8: {first:.1f} dB from PyTorch, and {found:.1f} dB with {count if most > 0 else 0} of {len(rest)} inner "
        f"convolutions left in FP32; expected --min-psnr {min_psnr_db:g}. Use --fp16, or a lower --min-psnr"
    )
