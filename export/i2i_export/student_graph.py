"""Graphs of students as an export makes them, node by node, in a hundredth of its time and without PyTorch.

What they compute means nothing: their weights are random. They are for measuring how long a student takes, on edge
boxes too, and are the same in all that time depends on. A test holds them against the exporter's.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from i2i_trainer.budget.shape import GROUP, Size, StudentShape

_OPSET = 18
_IR = 10
_SCALE = np.float32(0.05)
"""Of all quantised values: any is as quick as another."""


def student_graph(
    shape: StudentShape,
    size: Size,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    graph_io: Literal["float", "uint8"] = "float",
) -> onnx.ModelProto:
    """A student with random weights.

    Args:
        shape: its channels.
        size: (height, width) of the pictures; multiples of 4.
        precision: as of `i2i-export`; of INT8 the first convolution and the last stay FP32.
        graph_io: as of `i2i-export`.
    """
    graph = _Graph(half_precision=precision == "fp16")
    patch = 2 if shape.half else 4
    image = [1, shape.input_channels, *size]
    result = [1, shape.output_channels, *size]
    x = graph.picture_in(graph_io)
    x = graph.conv(x, shape.input_channels, shape.half or shape.width, 3 * patch, stride=patch, padding=patch)
    x = graph.node("Relu", [x])
    graph.is_int8 = precision == "int8"
    if shape.half:
        x = graph.node("Relu", [graph.conv(x, shape.half, shape.width, 3, stride=2)])
    for inner in shape.inners:
        branch = graph.node("Relu", [graph.step(x, shape.width, inner, shape.block)])
        # A quantised tensor is quantised for all of its readers.
        x = graph.node("Add", [graph.as_read(x), graph.step(branch, inner, shape.width, shape.block)])
    if shape.half:
        x = graph.conv(x, shape.width, shape.half * patch**2, 3)
        x = graph.node("DepthToSpace", [graph.node("Relu", [x])], mode="CRD", blocksize=patch)
    graph.is_int8 = False
    x = graph.conv(x, shape.half or shape.width, shape.output_channels * patch**2, 3)
    x = graph.node("Tanh", [graph.node("DepthToSpace", [x], mode="CRD", blocksize=patch)])
    graph.picture_out(x, graph_io)
    kind = TensorProto.UINT8 if graph_io == "uint8" else TensorProto.FLOAT
    if graph_io == "uint8":
        image, result = [1, *size, shape.input_channels], [1, *size, shape.output_channels]
    made = helper.make_graph(
        graph.nodes,
        "student",
        [helper.make_tensor_value_info("image", kind, image)],
        [helper.make_tensor_value_info("result", kind, result)],
        graph.weights,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


class _Graph:
    """Nodes and weights, and the precision of what is added next."""

    def __init__(self, *, half_precision: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.is_int8 = False
        self._real = np.float16 if half_precision else np.float32
        self._read_as: dict[str, str] = {}
        self._random = np.random.default_rng(0)

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node and give the name of its result."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, array: NDArray[np.generic]) -> str:
        """Add a tensor that the model holds."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def real(self, *values: float) -> str:
        """Add a number, or several, in the graph's precision."""
        return self.constant(np.array(values[0] if len(values) == 1 else values, self._real))

    def step(self, x: str, before: int, after: int, kind: str) -> str:
        """One of the two convolutions of a block, or what stands in its place."""
        if kind == "plain":
            return self.conv(x, before, after, 3)
        groups = before // GROUP if kind == "grouped" else before
        return self.conv(self.conv(x, before, before, 3, groups=groups, bias=False), before, after, 1)

    def conv(
        self,
        x: str,
        before: int,
        after: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = True,
    ) -> str:
        """A convolution; its weights keep the size of values, whichever they are."""
        weight_shape = (after, before // groups, kernel, kernel)
        if self.is_int8:
            # Each tensor's 8 bits are turned back just before its reader, and libraries fuse the three.
            x = self.as_read(x)
            weight = self.constant(self._random.integers(-127, 128, weight_shape, np.int8))
            scales, zeros = self.constant(np.full(after, _SCALE)), self.constant(np.zeros(after, np.int8))
            weight = self.node("DequantizeLinear", [weight, scales, zeros], axis=0)
        else:
            drawn = self._random.standard_normal(weight_shape) / np.sqrt(before // groups * kernel**2)
            weight = self.constant(drawn.astype(self._real))
        parts = [x, weight]
        if bias:
            parts.append(self.constant(self._random.standard_normal(after).astype(self._real)))
        result = self.node(
            "Conv",
            parts,
            group=groups,
            pads=[kernel // 2 if padding is None else padding] * 4,
            strides=[stride] * 2,
            dilations=[1, 1],
            kernel_shape=[kernel] * 2,
        )
        return self.as_read(result) if self.is_int8 else result

    def as_read(self, x: str) -> str:
        """What readers of a tensor see: of INT8 its rounded values."""
        if not self.is_int8 or x in self._read_as.values():
            return x
        if x not in self._read_as:
            scale = [self.constant(np.array(_SCALE)), self.constant(np.array(0, np.int8))]
            quantised = self.node("QuantizeLinear", [x, *scale])
            self._read_as[x] = self.node("DequantizeLinear", [quantised, *scale])
        return self._read_as[x]

    def picture_in(self, graph_io: str) -> str:
        """From what the graph is given to (1, c, h, w) in [-1, 1]."""
        real = helper.np_dtype_to_tensor_dtype(np.dtype(self._real))
        if graph_io == "float":
            return "image" if self._real is np.float32 else self.node("Cast", ["image"], to=real)
        x = self.node("Transpose", [self.node("Cast", ["image"], to=real)], perm=[0, 3, 1, 2])
        x = self.node("Gather", [x, self.constant(np.array([2, 1, 0]))], axis=1)
        return self.node("Add", [self.node("Mul", [x, self.real(2 / 255)]), self.real(-1)])

    def picture_out(self, x: str, graph_io: str) -> None:
        """From (1, c, h, w) in [-1, 1] to what the graph returns, `result`."""
        if graph_io == "uint8":
            x = self.node("Gather", [x, self.constant(np.array([2, 1, 0]))], axis=1)
            x = self.node("Add", [self.node("Mul", [x, self.real(127.5)]), self.real(128)])
            x = self.node("Transpose", [self.node("Clip", [x, self.real(0), self.real(255)])], perm=[0, 2, 3, 1])
            self.node("Cast", [x], to=TensorProto.UINT8)
        elif self._real is not np.float32:
            self.node("Cast", [x], to=TensorProto.FLOAT)
        self.nodes[-1].output[0] = "result"
