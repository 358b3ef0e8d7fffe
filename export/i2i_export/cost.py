"""What one inference of an ONNX model has to do: multiply-adds, other operations, bytes moved, parameters.

Nothing is run. The shapes of all tensors are inferred at one size, and each node is counted by what its definition asks
for; what a library makes of it (Winograd, fused layers, other layouts) is what a measurement beside it shows.

**Multiply-adds** are those of convolutions and matrix products. A convolution has one for each value of its result and
each weight of the filter that made it, at the border too, where a factor is padding. A transposed convolution has one
for each value of its *input* and each weight that this value meets, at the border too, where products are cut off.
PyTorch's `FlopCounterMode` counts the same. torchprofile does not, and with it the published 56.8 G of CycleGAN's
ResNet-9 at 256x256 (Li et al. 2020, "GAN Compression", figure 1): it takes transposed convolutions at the pixels of
their *result*, with a stride of 2 four times as many. Three in four of those would multiply the zeros that a naive
program puts between pixels, and no library has them. Without them it is 49.6 G.

**FLOPs** are two for each multiply-add, one for each bias that is added, and of the rest: 6 a value of norms that
measure their own statistics (sum; subtract, square, sum; scale, shift), 2 of batch norm (scale, shift), 5 of a softmax
(largest, subtract, exponential, sum, divide), one for each value that a reduction reads or a pooling's windows hold,
and one for each value that any other operation writes, `Tanh` like `Add`. What only moves or converts values (`Pad`,
`Concat`, `Cast`, `QuantizeLinear`, ...) has none, so that a network has the same FLOPs in FP32, FP16 and INT8.

**Bytes** are those of layer after layer: each node reads its inputs and weights once from memory and writes its result
once, in the types of the graph. Free are reshapes, which are another look at the same memory, and conversions, which
the nodes around them do while they read or write. A tensor inside the graph is as narrow as a chain of conversions ever
makes it (INT8 between `QuantizeLinear` and `DequantizeLinear`); inputs, outputs and weights are as they are. A library
that fuses more than that moves less.

What follows from weights and shapes alone is worked out when a model is loaded, and counts as a weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from i2i_export.tileable import MARK
from i2i_runtime.engines.base import shape_words
from i2i_runtime.errors import ModelError, UsageError, reason

_VIEWS = {
    *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout"),
    *("Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"),
}
"""Their first input in another shape or type."""
_PICKS = {"Slice", "Gather", "GatherElements", "GatherND"}
"""They read no more of their first input than they write."""
_MOVES = {
    *_VIEWS,
    *_PICKS,
    *("Transpose", "Concat", "Split", "Pad", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "ReverseSequence"),
    *("Scatter", "ScatterElements", "ScatterND", "Compress", "Trilu", "CenterCropPad"),
}
"""No operation on a value."""
_OWN_STATISTICS = {"InstanceNormalization", "GroupNormalization", "LayerNormalization", "MeanVarianceNormalization"}
_POOLINGS = {"AveragePool", "MaxPool", "LpPool"}
_OVER_INPUT = {"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "ArgMax", "ArgMin", "CumSum", "CumProd"}
"""One operation for each value that they read, as of all that are called `Reduce...`."""
_NOT_COUNTED = {
    *("RNN", "LSTM", "GRU", "Attention", "LinearAttention", "CausalConvWithState", "DeformConv", "DFT", "STFT", "Det"),
    *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "RoiAlign", "MaxRoiPool", "Col2Im", "LRN"),
    *("NonMaxSuppression", "TopK", "Unique", "ImageDecoder"),
}
"""Operators of the standard whose work is more than a value at a time, and that no generator here has."""
_LONGEST_SHAPE = 64
"""Values of a tensor that may decide the shape of others; larger ones are weights, and their values are not needed."""


@dataclass(frozen=True)
class NodeCost:
    """What one node of a graph has to do."""

    name: str
    kind: str
    """Its ONNX operator."""
    layer: str
    """The layer of the PyTorch module that it comes from, as `i2i-export` names nodes; empty where it is not known."""
    macs: int
    """Multiply-adds."""
    published_macs: int
    """As papers count them with torchprofile: a transposed convolution's at the pixels of its result."""
    flops: int
    """Two for each multiply-add, and what there is beside."""
    bytes_read: int
    """Inputs and weights."""
    bytes_written: int
    weight_bytes: int
    """The part of `bytes_read` that the model itself holds, as it is stored."""


@dataclass(frozen=True)
class Cost:
    """What one inference has to do; `str` says it on one line."""

    nodes: tuple[NodeCost, ...]
    """In the order of the graph, those that engines work out when they load a model left out."""
    parameters: int
    """Stored floating-point numbers, and integers that stand for some, but for single ones and the scales of
    quantisation. Ones and zeros of a norm that learns none count, biases that the exporter dropped as zeros do not."""
    parameter_bytes: int
    """As they are stored."""
    size: tuple[int, int] | None
    """(height, width) of the picture; None of a model that takes none."""
    batch: int
    """Pictures at once."""

    @property
    def macs(self) -> int:
        """Multiply-adds of all nodes."""
        return sum(node.macs for node in self.nodes)

    @property
    def published_macs(self) -> int:
        """Multiply-adds as papers count them, for comparison with theirs."""
        return sum(node.published_macs for node in self.nodes)

    @property
    def flops(self) -> int:
        """Operations of all nodes."""
        return sum(node.flops for node in self.nodes)

    @property
    def bytes(self) -> int:
        """Read and written by all nodes."""
        return sum(node.bytes_read + node.bytes_written for node in self.nodes)

    def __str__(self) -> str:
        at = [shape_words(self.size)] if self.size else []
        at += [f"batch {self.batch}"] if self.batch > 1 else []
        published = "" if self.published_macs == self.macs else f" ({_short(self.published_macs, '')} as papers count)"
        amounts = (
            _short(self.macs, " multiply-adds") + published,
            _short(self.flops, "FLOP"),
            _short(self.parameters, " parameters"),
            _short(self.bytes, "B") + " moved layer by layer",
        )
        return ", ".join(amounts) + (f" (at {', '.join(at)})" if at else "")


def count(model: onnx.ModelProto, size: tuple[int, int] | None = None, batch: int | None = None) -> Cost:
    """Count one inference.

    Args:
        model: any of our graphs, or another one of the standard's operators; its weights may lie in other files, which
            are not read.
        size: (height, width) in pixels of what enters a graph that takes several; None: the graph's own.
        batch: pictures at once; None: the graph's own, 1 where it takes several.

    Raises:
        UsageError: a graph that takes one size or batch only and another was asked for, or one that takes several and
            none was.
        ModelError: what cannot be counted: branches and loops, operators that are not known, shapes that depend on
            values, a size that the graph does not take.
    """
    _refuse_what_is_not_counted(model)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in _stored(graph)}
    # Before version 4 of the format what is stored had to be an input, too.
    inputs = [_fixed(value, size, batch) for value in graph.input if value.name not in weights]
    size, batch = _taken(inputs, size, batch)
    tensors = _tensors(model, weights, inputs, size)
    constants = _constants(graph, weights)
    memory = _Memory(graph, tensors, given={*weights, *(value.name for value in inputs)})
    nodes = []
    for node in graph.node:
        outputs = [name for name in node.output if name]
        if constants.issuperset(outputs):
            continue
        macs, others = _work(node, tensors)
        read = {name: memory.read(name) for name in node.input if name}
        if node.op_type in _PICKS:
            read[node.input[0]] = min(read[node.input[0]], sum(tensors[name].bytes for name in outputs))
        is_view = node.op_type in _VIEWS
        nodes.append(
            NodeCost(
                name=node.name,
                kind=node.op_type,
                layer=_layer(node),
                macs=macs,
                published_macs=_published(node, macs, tensors),
                flops=2 * macs + others,
                bytes_read=0 if is_view else sum(read.values()),
                bytes_written=0 if is_view else sum(memory.written(name) for name in outputs),
                weight_bytes=0 if is_view else sum(of for name, of in read.items() if name in constants),
            )
        )
    held = [tensors[name] for name in _parameters(graph, weights)]
    return Cost(
        nodes=tuple(nodes),
        parameters=sum(tensor.values for tensor in held),
        parameter_bytes=sum(tensor.bytes for tensor in held),
        size=size,
        batch=batch,
    )


def _short(amount: int, unit: str) -> str:
    """An amount in words.

    >>> _short(49_551_507_456, "FLOP"), _short(12_300, " parameters"), _short(36, " parameters")
    ('49.6 GFLOP', '12.3 k parameters', '36 parameters')
    """
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # What would be rounded to 1000.0 of the smaller prefix has the larger one.
        if amount >= 0.99995 * scale:
            return f"{amount / scale:.1f} {prefix}{unit}"
    return f"{amount} {unit.strip()}"


def _title(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"


def _refuse_what_is_not_counted(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ModelError(f"{_title(node)}: a branch or a loop, whose work depends on values, cannot be counted")
        if node.domain not in ("", "ai.onnx"):
            raise ModelError(f"{_title(node)}: expected operators of the ONNX standard, found one of {node.domain}")
        if node.op_type in _NOT_COUNTED:
            raise ModelError(f"{_title(node)}: an operator whose work is not known here cannot be counted")


def _stored(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """The tensors that a graph holds, each under the name by which nodes read it; without their values where large."""
    for tensor in graph.initializer:
        yield _header(tensor, tensor.name)
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                yield _header(attribute.t, node.output[0])


def _may_be_a_shape(tensor: TensorProto) -> bool:
    values: int = math.prod(tensor.dims)
    return values <= _LONGEST_SHAPE


def _header(tensor: TensorProto, name: str) -> TensorProto:
    header = TensorProto(name=name, data_type=tensor.data_type, dims=tensor.dims)
    if _may_be_a_shape(tensor):
        header.CopyFrom(tensor)
        header.name = name
    return header


def _fixed(value: onnx.ValueInfoProto, size: tuple[int, int] | None, batch: int | None) -> onnx.ValueInfoProto:
    """An input without free axes."""
    made = onnx.ValueInfoProto()
    made.CopyFrom(value)
    lengths: dict[int, int | None] = {0: batch or 1}
    if (pixels := _pixels(value)) is not None:
        lengths |= zip(pixels, size or (None, None), strict=True)
    for number, axis in enumerate(made.type.tensor_type.shape.dim):
        if not axis.HasField("dim_value"):
            if number not in lengths:
                raise ModelError(f"input {value.name}: axis {number} may have any length: it cannot be counted")
            if (length := lengths[number]) is None:
                raise UsageError(f"input {value.name} takes several sizes; expected one to count at")
            axis.dim_value = length
    return made


def _pixels(value: onnx.ValueInfoProto) -> tuple[int, int] | None:
    """The axes of height and width: uint8 graphs take NHWC, all others NCHW. None of what is no picture."""
    tensor = value.type.tensor_type
    if len(tensor.shape.dim) != 4:
        return None
    return (1, 2) if tensor.elem_type == TensorProto.UINT8 else (2, 3)


def _taken(
    inputs: Iterable[onnx.ValueInfoProto], size: tuple[int, int] | None, batch: int | None
) -> tuple[tuple[int, int] | None, int]:
    """Size and batch of the first input that is a picture, which must be those that were asked for."""
    for value in inputs:
        if (pixels := _pixels(value)) is not None:
            shape = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
            found = shape[pixels[0]], shape[pixels[1]]
            if size is not None and size != found:
                raise UsageError(
                    f"size {shape_words(size)}: the graph takes {shape_words(found)} only; export it with --dynamic"
                )
            if batch is not None and batch != shape[0]:
                raise UsageError(f"batch {batch}: the graph takes {shape[0]} only; export it with --dynamic")
            return found, shape[0]
    return None, batch or 1


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    element: int
    """Type: `TensorProto.FLOAT`, ..."""

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.values * helper.tensor_dtype_to_np_dtype(self.element).itemsize


_Tensors = dict[str, _Tensor]


def _tensors(
    model: onnx.ModelProto,
    weights: dict[str, TensorProto],
    inputs: list[onnx.ValueInfoProto],
    size: tuple[int, int] | None,
) -> _Tensors:
    """Shape and type of every tensor.

    They are inferred on a copy that has large weights as inputs, since a copy of the weights may take a gigabyte.
    """
    sketch = onnx.ModelProto(ir_version=max(4, model.ir_version), opset_import=model.opset_import)
    graph = sketch.graph
    graph.name = "sketch"
    graph.node.extend(node for node in model.graph.node if weights.keys().isdisjoint(node.output))
    graph.input.extend(inputs)
    for tensor in weights.values():
        if _may_be_a_shape(tensor):
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for value in model.graph.output:
        # The exporter's names of free axes say nothing of their length.
        output = graph.output.add(name=value.name)
        output.type.tensor_type.elem_type = value.type.tensor_type.elem_type
    try:
        inferred = onnx.shape_inference.infer_shapes(sketch, strict_mode=True, data_prop=True).graph
    except Exception as error:  # its own class, and others where a graph is no graph
        at = f" at {shape_words(size)}" if size else ""
        raise ModelError(f"the shapes of its tensors cannot be inferred{at} ({reason(error)})") from error
    found: _Tensors = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        its = value.type.tensor_type
        if its.HasField("shape") and all(axis.HasField("dim_value") for axis in its.shape.dim):
            found[value.name] = _Tensor(tuple(axis.dim_value for axis in its.shape.dim), its.elem_type)
    found |= {name: _Tensor(tuple(tensor.dims), tensor.data_type) for name, tensor in weights.items()}
    for node in model.graph.node:
        for name in (*node.input, *node.output):
            if name and name not in found:
                raise ModelError(f"{_title(node)}: the shape of {name} cannot be inferred")
    return found


def _constants(graph: onnx.GraphProto, weights: Iterable[str]) -> set[str]:
    """What is known when a model is loaded: weights, and what follows from them and from shapes."""
    constants = set(weights)
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or constants.issuperset(name for name in node.input if name):
            constants.update(name for name in node.output if name)
    return constants


def _parameters(graph: onnx.GraphProto, weights: dict[str, TensorProto]) -> set[str]:
    """Names of the stored tensors that are a network's parameters."""
    found = set()
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name not in weights or not weights[name].dims:
                continue
            if node.op_type in ("Resize", "Upsample") and index:
                # Scales: how large the result is.
                continue
            is_float = helper.tensor_dtype_to_np_dtype(weights[name].data_type).kind == "f"
            is_quantisation = node.op_type in ("QuantizeLinear", "DequantizeLinear")
            if index == 0 if is_quantisation else is_float:
                found.add(name)
    return found


class _Memory:
    """How many bytes of each tensor go over the bus; see the head of this file."""

    def __init__(self, graph: onnx.GraphProto, tensors: _Tensors, given: set[str]) -> None:
        self._tensors = tensors
        self._given = given
        self._outputs = {value.name for value in graph.output}
        self._source: dict[str, str] = {}
        self._views: dict[str, list[str]] = {}
        self._readers: set[str] = set()
        for node in graph.node:
            if node.op_type in _VIEWS:
                self._source[node.output[0]] = node.input[0]
                self._views.setdefault(node.input[0], []).append(node.output[0])
            else:
                self._readers.update(node.input)

    def read(self, name: str) -> int:
        """Bytes that a node reads of an input."""
        narrowest = self._tensors[name].bytes
        while name in self._source:
            name = self._source[name]
            narrowest = min(narrowest, self._tensors[name].bytes)
        return self._tensors[name].bytes if name in self._given else narrowest

    def written(self, name: str) -> int:
        """Bytes that a node writes of a result: the widest that anyone reads of it."""
        wanted = list(self._wanted(name))
        return max(wanted) if wanted else self._tensors[name].bytes

    def _wanted(self, name: str) -> Iterator[int]:
        if name in self._outputs:
            yield self._tensors[name].bytes
        if name in self._readers:
            yield self.read(name)
        for view in self._views.get(name, []):
            yield from self._wanted(view)


def _work(node: onnx.NodeProto, tensors: _Tensors) -> tuple[int, int]:
    """Multiply-adds of a node, and its other operations."""
    kind, given, made = node.op_type, [tensors.get(name) for name in node.input], tensors[node.output[0]]
    first = given[0] if given else None
    has_bias = len(given) > 2 and given[2] is not None
    if first is None:
        return 0, made.values
    if kind in ("Conv", "ConvTranspose"):
        assert given[1] is not None
        # Of a filter for each output channel (m, c / groups, ...), or for each input channel (c, m / groups, ...).
        at = made if kind == "Conv" else first
        return at.values * math.prod(given[1].shape[1:]), made.values if has_bias else 0
    if kind == "MatMul":
        return made.values * first.shape[-1], 0
    if kind == "Gemm":
        is_transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return made.values * first.shape[0 if is_transposed else 1], made.values if has_bias else 0
    if kind == "Einsum":
        return _einsum(node, [tensor.shape for tensor in given if tensor is not None]), 0
    if kind in _MOVES:
        return 0, 0
    if kind in _OWN_STATISTICS:
        return 0, 6 * first.values
    if kind == "BatchNormalization":
        return 0, 2 * first.values
    if kind in ("Softmax", "LogSoftmax"):
        return 0, 5 * first.values
    if kind in _POOLINGS:
        window = next(attribute.ints for attribute in node.attribute if attribute.name == "kernel_shape")
        return 0, made.values * math.prod(window)
    if kind in _OVER_INPUT or kind.startswith("Reduce"):
        return 0, first.values
    return 0, sum(tensors[name].values for name in node.output if name)


def _published(node: onnx.NodeProto, macs: int, tensors: _Tensors) -> int:
    if node.op_type != "ConvTranspose":
        return macs
    given, made = tensors[node.input[0]].shape, tensors[node.output[0]].shape
    return macs * math.prod(made[2:]) // math.prod(given[2:])


def _einsum(node: onnx.NodeProto, shapes: list[tuple[int, ...]]) -> int:
    (equation,) = (attribute.s.decode() for attribute in node.attribute if attribute.name == "equation")
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(terms) != 2 or "." in equation:
        raise ModelError(f"{_title(node)}: expected a product of two tensors, found {equation}: it cannot be counted")
    lengths = {
        letter: length
        for term, shape in zip(terms, shapes, strict=True)
        for letter, length in zip(term, shape, strict=True)
    }
    return math.prod(lengths.values())


def _layer(node: onnx.NodeProto) -> str:
    """`model.10` of `model.10/Conv_2`, and of what a tileable graph has for `model.10/InstanceNormalization`."""
    before, mark, _ = node.name.partition(MARK)
    layer, _, operator = before.partition("/")
    return layer if mark or operator.split("_")[0] == node.op_type else ""
