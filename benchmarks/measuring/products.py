"""Long chains of matrix products or convolutions, as ONNX graphs: work that a library can neither skip nor wait for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from measuring.record import Precision

Floats = NDArray[np.float32]
INPUT = "scale"
"""The graph's one input, a float32 of shape (1,): moving it costs nothing, and nothing can be computed before it."""
_KERNEL = 3
_LARGEST = 4.0
"""What INT8 holds of values that are about normally distributed."""
_OPSET, _IR_VERSION = 18, 10


@dataclass(frozen=True, kw_only=True)
class Products:
    """`count` products one after the other, each of the result of the one before and the same constant."""

    what: Literal["gemm", "conv"]
    """Of square matrices, or 3x3 convolutions of stride 1 with zeros around the picture."""
    width: int
    """Rows and columns of a matrix; channels of a picture."""
    side: int = 1
    """Height and width of a picture in pixels."""
    count: int

    @property
    def flops(self) -> int:
        """Of all products, 2 for each multiply-add; a border of zeros is multiplied as all else."""
        if self.what == "gemm":
            return 2 * self.width**3 * self.count
        return 2 * self.width**2 * _KERNEL**2 * self.side**2 * self.count

    def arrays(self) -> tuple[Floats, Floats]:
        """What the chain begins with, and what it is multiplied by: random, and results neither grow nor vanish.

        Zeros would draw less power than a network's values, and a GPU would clock higher than it can for one.
        """
        random = np.random.default_rng(0)
        width = self.width
        first, constant, terms = (
            ((width, width), (width, width), width)
            if self.what == "gemm"
            else ((1, width, self.side, self.side), (width, width, _KERNEL, _KERNEL), width * _KERNEL**2)
        )
        begin = random.standard_normal(first, np.float32)
        return begin, random.standard_normal(constant, np.float32) / np.float32(np.sqrt(terms))


def write_graph(path: Path, products: Products, precision: Precision) -> None:
    """Write the chain as an ONNX file.

    Args:
        path: the file; its folder exists.
        products: the chain.
        precision: `fp32`; `fp16`, which all constants and results are then of; or `int8`, with quantise and dequantise
            nodes as `i2i-export --int8` puts them, signed and symmetric, around all that a product reads and writes.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    begin, constant = products.arrays()
    float_type = np.float16 if precision == "fp16" else np.float32
    constants: dict[str, NDArray[np.generic]] = {
        "begin": begin.astype(float_type),
        "axes": np.arange(begin.ndim, dtype=np.int64),
    }
    nodes = []

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def eight_bit(value: str) -> str:
        quantised = add("QuantizeLinear", [value, "step", "zero"], f"{value}_int8")
        return add("DequantizeLinear", [quantised, "step", "zero"], f"{value}_dequantised")

    last = INPUT
    if precision == "fp16":
        last = add("Cast", [last], "scale_fp16", to=TensorProto.FLOAT16)
    last = add("Mul", ["begin", last], "scaled")
    if precision == "int8":
        weight_step = np.float32(np.abs(constant).max() / 127)
        constants["step"], constants["weight_step"] = np.array(_LARGEST / 127, np.float32), np.array(weight_step)
        constants["zero"] = np.array(0, np.int8)
        constants["weight_int8"] = np.round(constant / weight_step).astype(np.int8)
        last = eight_bit(last)
    else:
        constants["weight"] = constant.astype(float_type)
    for index in range(products.count):
        weight = "weight"
        if precision == "int8":
            # One for each product: libraries look for a quantised product with two dequantise nodes of its own.
            weight = add("DequantizeLinear", ["weight_int8", "weight_step", "zero"], f"weight_{index}")
        if products.what == "gemm":
            last = add("MatMul", [last, weight], f"product_{index}")
        else:
            last = add("Conv", [last, weight], f"product_{index}", pads=[_KERNEL // 2] * 4)
        if precision == "int8":
            last = eight_bit(last)
    # One value comes back, that no product can be left out for.
    last = add("ReduceMax", [last, "axes"], "largest", keepdims=1)
    if precision == "fp16":
        last = add("Cast", [last], "largest_fp32", to=TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        products.what,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1] * begin.ndim)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
