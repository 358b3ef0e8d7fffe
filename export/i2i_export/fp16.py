"""FP16 in the graph itself, with FP32 islands where real pictures ask for them.

TensorRT 11 and TensorRT-RTX take the types of the ONNX file as they are (strongly typed), and TensorRT 10 does so when
asked: a graph whose tensors say float16 needs no builder flag. FP16 everywhere costs trained generators 58 to 68 dB;
what it cannot hold are values beyond 65504 and weights that vanish. Both are looked for on real pictures, and only the
layers that need it stay in FP32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from i2i_export.emulation import EmulatedEngine, tensor_types
from i2i_export.parity import Inputs

LARGEST = 65504.0
"""The largest finite FP16 number."""
LIMIT = LARGEST / 4
"""Values beyond this on the pictures at hand stay in FP32: other pictures may be brighter."""
SMALLEST = 2.0**-10
"""A tensor without larger values loses them: below 2^-14 FP16 has fewer digits, below 2^-24 none."""
_SAMPLES = 20_000
"""Values of each tensor that are compared; a tensor may have a hundred million."""


@dataclass(frozen=True, kw_only=True)
class Island:
    """A layer that stays in FP32, and why."""

    node: str
    reason: str


def to_fp16(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of a float32 graph that computes in float16; inputs and outputs keep their types.

    Where a float16 tensor meets a float32 one, one Cast serves all its readers.

    Args:
        model: a checked model; node names are unique.
        keep: names of the nodes that stay in float32.

    Returns:
        A checked model.
    """
    types = tensor_types(model)
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    graph = typed.graph
    (opset,) = (entry.version for entry in typed.opset_import if entry.domain == "")
    weights = {tensor.name: tensor for tensor in graph.initializer}
    now = dict.fromkeys((name for name, kind in types.items() if kind == TensorProto.FLOAT), TensorProto.FLOAT)
    nodes: list[onnx.NodeProto] = []
    made: dict[tuple[str, int], str] = {}

    def as_type(name: str, wanted: int) -> str:
        """The name of a tensor in the type that a reader wants."""
        if now[name] == wanted:
            return name
        if (name, wanted) not in made:
            made[name, wanted] = new = f"{name}_{'fp16' if wanted == TensorProto.FLOAT16 else 'fp32'}"
            if name in weights:
                graph.initializer.append(_half(weights[name], new))
            else:
                nodes.append(helper.make_node("Cast", [name], [new], name=f"cast_{new}", to=wanted))
        return made[name, wanted]

    results = {value.name for value in graph.output if now.get(value.name)}
    for node in graph.node:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        for index, name in enumerate(node.input):
            if name in now:
                halves = node.name not in keep and _takes_half(schema.inputs, index)
                node.input[index] = as_type(name, TensorProto.FLOAT16 if halves else TensorProto.FLOAT)
        nodes.append(node)
        for index, name in enumerate(node.output):
            if types.get(name) != TensorProto.FLOAT or node.name in keep or not _takes_half(schema.outputs, index):
                continue
            now[name] = TensorProto.FLOAT16
            for attribute in node.attribute:
                if attribute.name == "to":
                    attribute.i = TensorProto.FLOAT16
                elif attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                    attribute.t.CopyFrom(_half(attribute.t, attribute.t.name))
    for name in results:
        if now[name] == TensorProto.FLOAT16:
            _rename(nodes, name, f"{name}_fp16")
            nodes.append(helper.make_node("Cast", [f"{name}_fp16"], [name], name=f"cast_{name}", to=TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    _drop_unused_weights(graph)
    onnx.checker.check_model(typed, full_check=True)
    return typed


def _takes_half(parameters: Sequence[Any], index: int) -> bool:
    """Whether a parameter may be float16: the sizes of a Resize, for example, may not."""
    return "tensor(float16)" in parameters[min(index, len(parameters) - 1)].types


def _half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    with np.errstate(over="ignore"):  # infinity: the range gate has seen to it, or the parity gate will
        return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name)


def _rename(nodes: list[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new


def _drop_unused_weights(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def out_of_range(model: onnx.ModelProto, inputs: Sequence[Inputs], limit: float = LIMIT) -> list[Island]:
    """The nodes of a float32 graph that read, hold or write what FP16 cannot hold on these inputs.

    That is values beyond `limit`, or tensors whose largest value is below `SMALLEST`.
    """
    largest: dict[str, float] = {}
    may_be_small: set[str] = set()

    def watch(node: onnx.NodeProto, name: str, result: NDArray[Any]) -> None:
        if result.dtype == np.float32 and result.size:
            # Unlike max, np.maximum passes NaN on.
            largest[name] = float(np.maximum(largest.get(name, 0.0), np.abs(result).max()))

    engine = EmulatedEngine(model, "the FP32 graph")
    for arrays in inputs:
        engine.trace(arrays, watch)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size:
            largest[tensor.name] = float(np.abs(array).max())
            if array.ndim < 2:
                # Small biases beside large sums are no loss.
                may_be_small.add(tensor.name)
    islands = []
    for node in model.graph.node:
        peaks = {name: largest[name] for name in (*node.input, *node.output) if name in largest}
        highest = float(np.max(list(peaks.values()), initial=0.0))
        lowest = min((peak for name, peak in peaks.items() if peak > 0 and name not in may_be_small), default=1.0)
        if not highest <= limit:  # NaN too
            islands.append(Island(node=node.name, reason=f"values up to {highest:.3g}"))
        elif lowest < SMALLEST:
            islands.append(Island(node=node.name, reason=f"no value above {lowest:.3g}"))
    return islands


def within_range(
    model: onnx.ModelProto,
    inputs: Sequence[Inputs],
    fails_on: Callable[[onnx.ModelProto], Inputs | None],
    keep: Collection[str] = (),
) -> tuple[onnx.ModelProto, list[Island]]:
    """An FP16 graph that is right on the given inputs, with as few layers in FP32 as that takes.

    Args:
        model: the float32 graph.
        inputs: its inputs, of real pictures.
        fails_on: tries an FP16 graph: None if it is good enough, else inputs on which it is not.
        keep: nodes that stay in FP32 in any case, and are no island.

    Returns:
        The graph, and the islands in it: the last try, if none passes.
    """
    islands = {island.node: island for island in out_of_range(model, inputs)}
    while True:
        typed = to_fp16(model, {*keep, *islands})
        failure = fails_on(typed)
        if failure is None:
            break
        new = [island for island in _where_it_goes_wrong(model, typed, failure) if island.node not in islands]
        if not new:
            break
        islands |= {island.node: island for island in new}
    return typed, list(islands.values())


def _where_it_goes_wrong(model: onnx.ModelProto, typed: onnx.ModelProto, inputs: Inputs) -> list[Island]:
    """The nodes that add most to the relative error of the FP16 graph, on one input."""
    right, found = _samples(model, inputs), _samples(typed, inputs)

    def error(name: str) -> float:
        if name not in right:
            return 0.0
        half = found[f"{name}_fp16"] if name not in found else found[name]
        with np.errstate(all="ignore"):
            value = float(np.linalg.norm(half - right[name])) / max(float(np.linalg.norm(right[name])), 1e-30)
        return value if np.isfinite(value) else np.inf

    added = {}
    for node in model.graph.node:
        before = max((error(name) for name in node.input), default=0.0)
        after = max(error(name) for name in node.output)
        if np.isfinite(before):
            added[node.name] = after - before
    worst = max(added.values(), default=0.0)
    if worst <= 0:
        return []
    return [
        Island(node=name, reason=f"adds {value:.2g} to the relative error")
        for name, value in added.items()
        if value >= worst / 4 or np.isinf(value)
    ]


def _samples(model: onnx.ModelProto, inputs: Inputs) -> dict[str, NDArray[np.float64]]:
    samples = {}

    def watch(node: onnx.NodeProto, name: str, result: NDArray[Any]) -> None:
        if result.dtype == np.float32:
            samples[name] = result.reshape(-1)[:: max(1, result.size // _SAMPLES)].astype(np.float64)

    EmulatedEngine(model, "the graph").trace(inputs, watch)
    return samples
