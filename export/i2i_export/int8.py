"""INT8 with quantise/dequantise nodes in the graph, calibrated on real pictures.

The form that TensorRT, TensorRT-RTX, OpenVINO and ONNX Runtime all read: signed and symmetric, weights by channel,
biases in FP32. Transposed convolutions stay in FP32, which no CPU has in INT8 and where generators lose most; so do the
first convolution and the one that makes the result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from i2i_export.graph import quiet
from i2i_export.parity import Inputs
from i2i_export.request import Calibration
from i2i_runtime.errors import ModelError

_METHODS = {"percentile": CalibrationMethod.Percentile, "entropy": CalibrationMethod.Entropy}
_PERCENTILE = 99.99
_SMALLEST_SHARE = 0.5
"""A graph with fewer of its convolutions in INT8 is refused: it would hardly be faster."""
MARGIN_DB = 3.0
"""By how much the pictures that set the ranges must beat the gate: others fare worse."""


def tensor_ranges(
    model: onnx.ModelProto, inputs: Sequence[Inputs], calibration: Calibration = "percentile"
) -> TensorsData:
    """The range of every tensor that a convolution reads or writes.

    Args:
        model: a float32 graph.
        inputs: its inputs, of real pictures of any sizes.
        calibration: `percentile` cuts off the rarest 0.01 %, `entropy` loses the least information.

    Raises:
        ModelError: the calibration fails.
    """
    names = [value.name for value in model.graph.input]
    options = {"percentile": _PERCENTILE} if calibration == "percentile" else {}
    with tempfile.TemporaryDirectory() as folder, quiet():
        source = Path(folder, "float.onnx")
        onnx.save(model, source)
        try:
            calibrator = create_calibrator(
                source,
                ["Conv"],
                augmented_model_path=str(Path(folder, "augmented.onnx")),
                calibrate_method=_METHODS[calibration],
                extra_options=options,
            )
            for arrays in inputs:
                # Histograms add up. One picture at a time: of 2048x1024 its tensors take gigabytes.
                calibrator.collect_data(_OnePicture(dict(zip(names, arrays, strict=True))))
            return calibrator.compute_data()
        except ImportError as error:
            raise ModelError(f"--calibration {calibration} needs {error.name}; pip install {error.name}") from error


def to_int8(
    model: onnx.ModelProto,
    ranges: TensorsData,
    *,
    only: Collection[str] | None = None,
    keep: Collection[str] = (),
    with_outputs: bool = True,
) -> onnx.ModelProto:
    """A copy of a float32 graph whose convolutions take and hold int8.

    Args:
        model: a checked model.
        ranges: its `tensor_ranges`.
        only: names of the convolutions to quantise; None for all.
        keep: names of those that stay in float32.
        with_outputs: whether what a convolution writes is int8, too: ONNX Runtime and OpenVINO compute in int8 only
            then; TensorRT computes in int8 anyway, and an instance norm that follows sees finer values.

    Returns:
        A checked model.
    """
    options: dict[str, object] = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    if not with_outputs:
        options["OpTypesToExcludeOutputQuantization"] = ["Conv"]
    with quiet():
        quantiser = QDQQuantizer(
            onnx.shape_inference.infer_shapes(model),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=ranges,
            nodes_to_quantize=list(only) if only is not None else [],
            nodes_to_exclude=list(keep),
            op_types_to_quantize=["Conv"],
            # TensorRT takes neither zero points beside 0 nor biases in INT32.
            extra_options=options,
        )
        quantiser.quantize_model()
        quantiser.model.clean_initializers()
        quantiser.model.topological_sort()
    quantised: onnx.ModelProto = quantiser.model.model
    quantised.producer_name, quantised.producer_version = model.producer_name, model.producer_version
    del quantised.metadata_props[:]
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


class _OnePicture(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, named: dict[str, NDArray[Any]]) -> None:
        self._rest = [named]

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return self._rest.pop() if self._rest else None


def convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions, in the order in which they run."""
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def _outermost(model: onnx.ModelProto) -> list[str]:
    """The first convolution, and the one that makes the result: of a U-Net it is transposed, and stays FP32 anyway."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers[model.graph.output[0].name]
    while node.op_type not in ("Conv", "ConvTranspose"):
        node = makers[node.input[0]]
    names = convolutions(model)
    return list(dict.fromkeys([names[0], *([node.name] if node.op_type == "Conv" else [])]))


def good_enough(
    model: onnx.ModelProto,
    inputs: Sequence[Inputs],
    psnr: Callable[[onnx.ModelProto], float],
    quick_psnr: Callable[[onnx.ModelProto], float],
    min_psnr_db: float,
    calibration: Calibration = "percentile",
    *,
    with_outputs: bool = True,
) -> tuple[onnx.ModelProto, list[str]]:
    """An INT8 graph of at least a quality, with as few convolutions in FP32 as that takes.

    Args:
        model: the float32 graph.
        inputs: for the calibration.
        psnr: quality of a graph in dB, on the pictures that set the ranges.
        quick_psnr: the same on fewer of them, to order the convolutions by what each of them costs.
        min_psnr_db: the lowest that is good enough, on other pictures.
        calibration: see `tensor_ranges`.
        with_outputs: see `to_int8`.

    Returns:
        The graph, and the names of the convolutions that stay in FP32.

    Raises:
        ModelError: with the figures, if half of the convolutions in FP32 do not suffice.
    """
    names = convolutions(model)
    kept = _outermost(model)
    ranges = tensor_ranges(model, inputs, calibration)
    quantised = partial(to_int8, model, ranges, with_outputs=with_outputs)
    found = psnr(graph := quantised(keep=kept))
    enough = min_psnr_db + MARGIN_DB
    if found >= enough:
        return graph, kept
    first = found
    rest = [name for name in names if name not in kept]
    click.echo(f"int8: {first:.1f} dB of {enough:g}; trying {len(rest)} convolutions one by one ...", err=True)
    # How good the graph is with this convolution alone in INT8.
    alone = {name: quick_psnr(quantised(only=[name])) for name in rest}
    by_harm = sorted(rest, key=alone.__getitem__)
    most = int(len(names) * (1 - _SMALLEST_SHARE)) - len(kept)
    count = 1
    while count <= most:
        tried = kept + by_harm[:count]
        found = psnr(graph := quantised(keep=tried))
        if found >= enough:
            return graph, tried
        if count == most:
            break
        count = min(2 * count, most)
    raise ModelError(
        f"--int8: {first:.1f} dB from PyTorch, and {found:.1f} dB with {count if most > 0 else 0} of {len(rest)} inner "
        f"convolutions left in FP32; expected {enough:g} on the pictures that set the ranges, for --min-psnr "
        f"{min_psnr_db:g} on others. Use --fp16, or a lower --min-psnr"
    )
