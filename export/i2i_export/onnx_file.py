"""Reading an ONNX file: its graph, its card, its tensors, and where its weights lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from i2i_runtime.card import METADATA_KEY, Card
from i2i_runtime.engines.base import TensorSpec
from i2i_runtime.errors import ModelError, reason


def read_graph(path: Path) -> tuple[onnx.ModelProto, Card | None]:
    """An ONNX file without weights that lie in other files, and its card.

    Raises:
        ModelError: no ONNX file, or one whose weights lie outside its folder.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path}: no ONNX file that can be read ({error.strerror})") from error
    except Exception as error:  # protobuf's own
        raise ModelError(f"{path}: not an ONNX file ({reason(error)})") from error
    if not model.graph.output:
        # Protobuf reads an empty file as an empty model.
        raise ModelError(f"{path}: expected an ONNX model, found one without outputs")
    home = path.resolve().parent
    for file in external_files(model, path):
        if not file.resolve().is_relative_to(home):
            raise ModelError(f"{path}: its weights lie at {file}, expected a file in the model's own folder")
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    return model, Card.from_json(text, where=str(path)) if text else None


def external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Files beside the model at `path` that hold weights of it."""
    entries = (entry for tensor in _weights(model) for entry in tensor.external_data if entry.key == "location")
    return list(dict.fromkeys(path.parent / entry.value for entry in entries))


def _weights(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a file holds: in its graph, inside nodes, in branches and functions."""
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        while graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
        for attribute in nodes.pop().attribute if nodes else ():
            yield from (attribute.t, *attribute.tensors, attribute.sparse_tensor.values)
            graphs += [attribute.g, *attribute.graphs]


def tensors(model: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a graph.

    Raises:
        ModelError: one of them is no tensor.
    """
    inputs, outputs = (tuple(_spec(value) for value in values) for values in (model.graph.input, model.graph.output))
    return inputs, outputs


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        raise ModelError(f"{value.name}: expected a tensor, found {value.type.WhichOneof('value') or 'no type'}")
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim)
    return TensorSpec(name=value.name, shape=shape, dtype=np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
