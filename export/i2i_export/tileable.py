"""Graphs whose instance norms take their statistics from outside where they are asked to.

An instance norm normalises with mean and variance over the whole picture. A tile has others, so tiles that are
translated by themselves differ in colour and contrast. Thumbnail Instance Normalization (Chen et al. 2022, "Towards
Ultra-Resolution Neural Style Transfer via Thumbnail Instance Normalization") gives all tiles the statistics of one
small picture. The graph made here serves the thumbnail, the tiles and ordinary use, and tells the statistics of every
pass, so that those of the tiles can be put together to those of the frame; `i2i_runtime.norm_statistics` names what
it takes and gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from i2i_runtime.engines.base import shape_words
from i2i_runtime.errors import ModelError
from i2i_runtime.norm_statistics import FOUND, GIVEN, OWN, WINDOW

MARK = "/statistics."
"""Stands in the name of every node that measures or applies statistics: FP16 has too few digits for their sums."""
_SMALLEST_WEIGHT = 1e-12
"""Keeps a window without any weight from a division by zero."""


def norm_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The norms of a graph that look at the whole picture."""
    return [node for node in model.graph.node if node.op_type == "InstanceNormalization"]


def make_tileable(model: onnx.ModelProto, size: tuple[int, int]) -> tuple[onnx.ModelProto, int]:
    """A copy of a float32 graph of one picture that takes and gives the statistics of its norms.

    Every instance norm becomes (x - mean) * scale / sqrt(variance + eps) + bias, with the picture's own mean and
    variance or the given ones. The variance is the mean square about the mean, in a second pass: the difference of
    the mean square and the squared mean would lose all digits where a channel's mean is far from zero.

    Args:
        model: a checked model; node names are unique.
        size: (height, width) of the picture, or of a dynamic graph a size that it takes.

    Returns:
        A checked model, and the channels of all its norms together: 0 of a graph without such norms, which is left as
        it is and gives the same for a tile as for the frame around it, wherever it cannot see beyond the tile.

    Raises:
        ModelError: a norm whose picture is not a whole fraction of the input's size.
    """
    norms = norm_nodes(model)
    if not norms:
        return model, 0
    made = _Graph(model, size)
    for node in model.graph.node:
        if node.op_type == "InstanceNormalization":
            made.add_norm(node)
        else:
            made.nodes.append(node)
    return made.finish()


class _Graph:
    """The new graph while it grows."""

    def __init__(self, model: onnx.ModelProto, size: tuple[int, int]) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self._weights_of = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._shapes = _shapes(model, size)
        self._size = size
        self.new: dict[str, NDArray[Any]] = {}
        self._windows: dict[tuple[int, int], str] = {}
        self._found: tuple[list[str], list[str]] = [], []
        self.nodes: list[onnx.NodeProto] = []
        channels = [self._shapes[node.input[0]][1] for node in norm_nodes(model)]
        self.channels = sum(channels)
        self._given = [(f"norm_mean_{number}", f"norm_variance_{number}") for number in range(len(channels))]
        self._pixels = self.constant("norm_pixels", np.array([2, 3], np.int64))
        self._last = self.constant("norm_last_axis", np.array([3], np.int64))
        self._read_given(channels)
        self._is_own = self.add(
            "graph", "is_own", "Greater", OWN, self.constant("norm_half", np.array([0.5], np.float32))
        )

    def add(self, layer: str, what: str, operation: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and name its result after it."""
        name = f"{layer}{MARK}{what}"
        self.nodes.append(helper.make_node(operation, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """An initializer, written once."""
        self.new.setdefault(name, value)
        return name

    def _read_given(self, channels: Sequence[int]) -> None:
        """(1, 2, c) to a (1, c, 1, 1) mean and variance for each norm."""
        given = self.add("graph", "given", "Transpose", GIVEN, perm=[0, 2, 1])
        given = self.add("graph", "given4", "Unsqueeze", given, self._last)
        lengths = self.constant("norm_channels", np.array(channels, np.int64))
        names = [f"norm_means{MARK}given", f"norm_variances{MARK}given"]
        ones = self.constant("norm_one_each", np.array([1, 1], np.int64))
        self.nodes.append(helper.make_node("Split", [given, ones], names, name=f"graph{MARK}kinds", axis=2))
        for index, name in enumerate(names):
            each = [pair[index] for pair in self._given]
            self.nodes.append(helper.make_node("Split", [name, lengths], each, name=f"{name}_by_norm", axis=1))

    def _weights(self, x: str) -> str:
        """The window at the size of a norm's picture, (n, 1, h, w), that sums to one."""
        sides = self._shapes[x][2:]
        factors = tuple(whole // side for whole, side in zip(self._size, sides, strict=True))
        if any(side * factor != whole for side, factor, whole in zip(sides, factors, self._size, strict=True)):
            raise ModelError(
                f"--tileable: expected norms at whole fractions of the picture's {shape_words(self._size)}, found "
                f"one at {shape_words(sides)}; leave --tileable out"
            )
        key = factors[0], factors[1]
        if key not in self._windows:
            layer = f"window_{factors[0]}x{factors[1]}"
            small = WINDOW
            if factors != (1, 1):
                small = self.add(layer, "smaller", "AveragePool", WINDOW, kernel_shape=factors, strides=factors)
            total = self.add(layer, "sum", "ReduceSum", small, self._pixels, keepdims=1)
            least = self.constant("norm_least", np.array([_SMALLEST_WEIGHT], np.float32))
            total = self.add(layer, "total", "Max", total, least)
            self._windows[key] = self.add(layer, "weights", "Div", small, total)
        return self._windows[key]

    def add_norm(self, node: onnx.NodeProto) -> None:
        """The nodes in place of one instance norm."""
        x, scale, bias = node.input
        layer = node.name
        weights = self._weights(x)
        (epsilon,) = (attribute.f for attribute in node.attribute if attribute.name == "epsilon")
        eps = self.constant(f"norm_eps_{epsilon:g}", np.array([epsilon], np.float32))

        mean = self._weighted_mean(layer, "mean", x, weights)
        centred = self.add(layer, "centred", "Sub", x, mean)
        squares = self.add(layer, "squares", "Mul", centred, centred)
        variance = self._weighted_mean(layer, "variance", squares, weights)
        spread = self.add(layer, "spread", "Add", variance, eps)
        given_mean, given_variance = self._given[len(self._found[0])]
        self._found[0].append(mean)
        self._found[1].append(variance)

        move = self.add(layer, "move", "Mul", given_mean, self.add(layer, "own_deviation", "Sqrt", spread))
        # x was centred on its own mean for the variance, and need not be centred anew on the other.
        off = self.add(layer, "off", "Sub", given_mean, mean)
        off = self.add(layer, "used_off", "Where", self._is_own, move, off)
        moved = self.add(layer, "moved_spread", "Mul", spread, self.add(layer, "ratio", "Exp", given_variance))
        given = self.add(layer, "given_spread", "Add", given_variance, eps)
        used = self.add(layer, "used_spread", "Where", self._is_own, moved, given)
        deviation = self.add(layer, "used_deviation", "Sqrt", used)
        factor = self.add(layer, "factor", "Div", self._per_channel(scale), deviation)
        shift = self.add(
            layer, "shift", "Sub", self._per_channel(bias), self.add(layer, "off_scaled", "Mul", off, factor)
        )
        scaled = self.add(layer, "scaled", "Mul", centred, factor)
        self.nodes.append(helper.make_node("Add", [scaled, shift], [node.output[0]], name=f"{layer}{MARK}result"))

    def _weighted_mean(self, layer: str, what: str, x: str, weights: str) -> str:
        """(n, c, h, w) to (n, c, 1, 1), with weights (n, 1, h, w) that sum to one."""
        weighted = self.add(layer, f"{what}_weighted", "Mul", x, weights)
        return self.add(layer, what, "ReduceSum", weighted, self._pixels, keepdims=1)

    def _per_channel(self, weights: str) -> str:
        """A norm's scale or bias (c,) as (1, c, 1, 1)."""
        return self.constant(f"{weights}_4d", self._weights_of[weights].reshape(1, -1, 1, 1))

    def finish(self) -> tuple[onnx.ModelProto, int]:
        """The model, and the channels of its norms."""
        parts = [
            self.add("graph", f"found_{name}s", "Concat", *found, axis=1)
            for name, found in zip(("mean", "variance"), self._found, strict=True)
        ]
        both = self.add("graph", "found", "Concat", *parts, axis=2)
        both = self.add("graph", "found3", "Squeeze", both, self._last)
        self.nodes.append(helper.make_node("Transpose", [both], [FOUND], name=f"graph{MARK}result", perm=[0, 2, 1]))
        graph = self.model.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        picture = graph.input[0].type.tensor_type
        is_uint8 = picture.elem_type == TensorProto.UINT8
        axes = [axis.dim_param or axis.dim_value for axis in picture.shape.dim]
        sides = axes[1:3] if is_uint8 else axes[2:4]
        graph.input.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in ((GIVEN, [1, 2, self.channels]), (OWN, [1]), (WINDOW, [axes[0], 1, *sides]))
        )
        graph.output.append(helper.make_tensor_value_info(FOUND, TensorProto.FLOAT, [axes[0], 2, self.channels]))
        used = {name for node in graph.node for name in node.input}
        weights = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(weights)
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self.new.items())
        onnx.checker.check_model(self.model, full_check=True)
        return self.model, self.channels


def _shapes(model: onnx.ModelProto, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor for one picture of a size."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        lengths = {"batch": 1, "height": size[0], "width": size[1]}
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_value = lengths[axis.dim_param]
    graph = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    return {
        value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
