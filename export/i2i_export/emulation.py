"""True FP16 arithmetic of an ONNX graph on a CPU, and a look at every tensor inside it.

ONNX Runtime on a CPU computes an FP16 graph in FP32 and drops pairs of casts, which flatters it. Here each node is run
by itself in FP32 and its result is rounded to what the graph says the tensor is: what tensor cores do, which add up in
FP32 and round when they write.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from i2i_export.onnx_file import tensors
from i2i_runtime.engines.base import Engine
from i2i_runtime.errors import ModelError, reason

Watch = Callable[[onnx.NodeProto, str, NDArray[Any]], None]
"""Is called with a node, the name of its result, and the result."""

_WIDER: dict[int, int] = {TensorProto.FLOAT16: TensorProto.FLOAT}
_THREADS = 4


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type (`TensorProto.FLOAT`, ...) of every tensor of a graph, by name."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


class EmulatedEngine(Engine):
    """Runs a graph node by node; see the head of this file."""

    provider = "FP16 emulation"
    card = None

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        """Take a checked model; `name` is for messages."""
        self.name = name
        self._model = model
        self._types = tensor_types(model)
        self._constants = {tensor.name: _fp32(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
        self.inputs, self.outputs = tensors(model)
        self._sessions: dict[str, ort.InferenceSession] = {}
        last_use = {name: node.name for node in model.graph.node for name in node.input}
        for spec in self.outputs:
            last_use.pop(spec.name, None)
        self._done_after: dict[str, list[str]] = {}
        for name, node_name in last_use.items():
            self._done_after.setdefault(node_name, []).append(name)

    def _infer(self, inputs: Sequence[NDArray[Any]], outs: Sequence[NDArray[Any] | None]) -> tuple[NDArray[Any], ...]:
        results = self.trace(inputs)[: len(outs)]
        for index, (result, out) in enumerate(zip(results, outs, strict=True)):
            if out is not None:
                self._check_result(index, result.shape, out)
                out[...] = result
        return tuple(result if out is None else out for result, out in zip(results, outs, strict=True))

    def trace(self, inputs: Sequence[NDArray[Any]], watch: Watch | None = None) -> tuple[NDArray[Any], ...]:
        """Run, let `watch` see the result of every node, and give all outputs.

        Raises:
            ModelError: ONNX Runtime refuses a node.
        """
        values: dict[str, NDArray[Any]] = {
            spec.name: _fp32(array) for spec, array in zip(self.inputs, inputs, strict=True)
        }
        for node in self._model.graph.node:
            given = {name: values[name] if name in values else self._constants[name] for name in node.input if name}
            for name, array in zip(node.output, self._run_node(node, given), strict=True):
                values[name] = self._rounded(name, array)
                if watch is not None:
                    watch(node, name, values[name])
            for name in self._done_after.get(node.name, []):
                values.pop(name, None)
        return tuple(values[spec.name].astype(spec.dtype, copy=False) for spec in self.outputs)

    def _run_node(self, node: onnx.NodeProto, given: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            if node.name not in self._sessions:
                self._sessions[node.name] = self._session(node, given)
            return [np.asarray(result) for result in self._sessions[node.name].run(list(node.output), given)]
        except Exception as error:  # ONNX Runtime has a dozen classes without a public parent
            raise ModelError(f"{self.name}: {node.op_type} {node.name} cannot be emulated ({reason(error)})") from error

    def _session(self, node: onnx.NodeProto, given: dict[str, NDArray[Any]]) -> ort.InferenceSession:
        """The node as a model of its own, in FP32; weights are inputs, so that no session holds a copy of them."""
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        for attribute in alone.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = _WIDER.get(attribute.i, attribute.i)
            elif attribute.name == "value" and attribute.t.data_type in _WIDER:
                attribute.t.CopyFrom(numpy_helper.from_array(_fp32(numpy_helper.to_array(attribute.t))))
        graph = helper.make_graph(
            [alone],
            "node",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
                for name, array in given.items()
            ],
            [helper.make_tensor_value_info(name, self._wider_type(name), None) for name in node.output],
        )
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Every session has threads of its own, and a graph has a hundred nodes.
        options.intra_op_num_threads = min(_THREADS, os.cpu_count() or 1)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        single = helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        return ort.InferenceSession(single.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def _wider_type(self, name: str) -> int:
        return _WIDER.get(self._types[name], self._types[name])

    def _rounded(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        if self._types[name] != TensorProto.FLOAT16:
            return array
        with np.errstate(over="ignore"):  # infinity is what the GPU would write
            return array.astype(np.float16).astype(np.float32)


def _fp32(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float16 else array
