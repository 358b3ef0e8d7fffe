"""From a generator to an ONNX graph, with the card inside."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from i2i_export.request import GraphIo, Precision
from i2i_export.sizes import typical_size
from i2i_runtime.card import METADATA_KEY, Card, ExportRecord, ImageSpec, MadeWith, SizeProfile
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.networks.inference import NormStatistics

OPSET = 18
"""The lowest that torch's exporter writes, and one that TensorRT 10 (up to 20) and 11 (up to 25) both read."""


def build_graph(generator: nn.Module, card: Card) -> onnx.ModelProto:
    """Export a generator in FP32.

    Args:
        generator: a fixed function of one image (or label map), in evaluation mode.
        card: an `exported_card`. A `float` graph takes and returns (n, c, h, w) float32 in its value range; a `uint8`
            graph (n, h, w, c) uint8, BGR or grey. Label maps enter as `labels` (n, 1, h, w) int32, with `instances` of
            the same shape and `style` (1,) int64 where the card has them; the result is that of a float graph.
            With a `profile` n, h and w are free, else n is 1 and h and w are the card's.

    Returns:
        A checked model without a card, whose nodes are named after the layers that they come from.

    Raises:
        ModelError: the exporter does not keep what it was asked for.
        UsageError: a uint8 graph of other than grey or colour pictures.
    """
    assert card.export is not None
    height, width = typical_size(card)
    module: nn.Module = generator
    examples = {"image": torch.zeros(1, card.input.channels, height, width)}
    axes = {0: "batch", 2: "height", 3: "width"}
    if card.labels is not None:
        if card.export.graph_io == "uint8":
            raise UsageError("--io uint8: a label map enters as it is; expected --io float for this model")
        module, examples = _label_graph(generator, card, height, width)
    elif card.export.graph_io == "uint8":
        for spec in (card.input, card.output):
            if spec.channels not in (1, 3):
                raise UsageError(
                    f"--io uint8: expected grey or colour pictures, found {spec.channels} channels; use --io float"
                )
        examples = {"image": torch.zeros(1, height, width, card.input.channels, dtype=torch.uint8)}
        axes = {0: "batch", 1: "height", 2: "width"}
        module = _Uint8Graph(generator, card.input, card.output).eval()
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(examples.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(examples),
            output_names=["result"],
            dynamic_shapes=_free_axes(module, examples, axes) if card.export.profile else None,
            verbose=False,
        )
    assert program is not None, "torch.onnx.export with dynamo returns a program"
    model = program.model_proto
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written.get("") != OPSET:
        raise ModelError(f"export: expected ONNX opset {OPSET}, torch {torch.__version__} wrote {written}")
    if card.export.profile:
        # The exporter derives 4*((height - 1)//4) + 4 and the like: of the sizes that a model takes, height.
        for axis, name in axes.items():
            model.graph.output[0].type.tensor_type.shape.dim[axis].dim_param = name
    _name_nodes_after_layers(model)
    _forget_where_it_was_made(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _free_axes(module: nn.Module, examples: dict[str, Tensor], axes: dict[int, str]) -> Any:
    shapes = tuple(axes if example.dim() == 4 else None for example in examples.values())
    # torch names the arguments of a `forward(*inputs)` by the tuple that they make.
    return (shapes,) if isinstance(module, _LabelGraph) else shapes


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters and quantisers print, log and warn: of no use to a user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _label_graph(generator: nn.Module, card: Card, height: int, width: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """A module of exactly the inputs that the card's labels ask for, and an example of each."""
    assert card.labels is not None
    assert card.export is not None
    examples = {"labels": torch.zeros(1, 1, height, width, dtype=torch.int32)}
    if card.labels.instance_edges:
        examples["instances"] = torch.zeros(1, 1, height, width, dtype=torch.int32)
    if card.labels.styles and card.export.style is None:
        examples["style"] = torch.zeros(1, dtype=torch.int64)
    return _LabelGraph(generator, list(examples), card.export.style).eval(), examples


class _LabelGraph(nn.Module):
    """Names the inputs of a `LabelTranslator` that are there, and builds in a style that was chosen."""

    def __init__(self, generator: nn.Module, names: list[str], style: int | None) -> None:
        super().__init__()
        self.generator, self._names = generator, names
        self.register_buffer("style", None if style is None else torch.tensor([style]))

    def forward(self, *inputs: Tensor) -> Tensor:
        named = dict(zip(self._names, inputs, strict=True))
        if self.style is not None:
            named["style"] = self.get_buffer("style")
        return self.generator(**named)  # type: ignore[no-any-return]


class _Uint8Graph(nn.Module):
    """Pre- and post-processing around a generator: (1, h, w, c) uint8 BGR to the same.

    The casts are the first and the last node: TensorRT takes no other operation on UINT8.
    """

    def __init__(self, generator: nn.Module, given: ImageSpec, returned: ImageSpec) -> None:
        super().__init__()
        self.generator = generator
        self._given, self._returned = given, returned
        # A buffer and index_select, since x[:, [2, 1, 0]] becomes a GatherND between two transpositions.
        self.register_buffer("bgr", torch.tensor([2, 1, 0]))

    def forward(self, image: Tensor) -> Tensor:
        low, high = self._given.value_range
        x = image.to(torch.float32).permute(0, 3, 1, 2)
        x = self.generator(self._swap(x, self._given) * ((high - low) / 255.0) + low)
        low, high = self._returned.value_range
        scale = 255.0 / (high - low)
        # The cast cuts off: half a grey level makes it round.
        grey = self._swap(x, self._returned) * scale + (0.5 - low * scale)
        return grey.clamp(0.0, 255.0).permute(0, 2, 3, 1).to(torch.uint8)

    def _swap(self, x: Tensor, spec: ImageSpec) -> Tensor:
        return torch.index_select(x, 1, self.get_buffer("bgr")) if spec.colour == "RGB" else x


PICTURE_IO = "picture_io"
"""The layer name of what a uint8 graph does around its generator."""


def _name_nodes_after_layers(model: onnx.ModelProto) -> None:
    """`generator.model.10/Conv`: reports of single layers must tell which one."""
    taken: Counter[str] = Counter()
    is_wrapped = model.graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "['']")
        # From ['', 'generator', 'generator.model', 'generator.model.1', 'conv2d'].
        inner = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
        layer = inner[-1] if inner else PICTURE_IO if is_wrapped else "graph"
        name = f"{layer.replace('generator.', '')}/{node.op_type}"
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"


def _forget_where_it_was_made(model: onnx.ModelProto) -> None:
    """The exporter writes stack traces with local paths into every node."""
    del model.metadata_props[:]
    model.producer_name, model.producer_version, model.doc_string = "i2i", "", ""
    graph = model.graph
    del graph.metadata_props[:]
    for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for item in part:
            del item.metadata_props[:]
            item.doc_string = ""


def exported_card(
    card: Card,
    *,
    size: tuple[int, int],
    graph_io: GraphIo,
    statistics: NormStatistics,
    precision: Precision = "fp32",
    style: int | None = None,
    profile: SizeProfile | None = None,
) -> Card:
    """The trainer's card with what the export decided.

    Raises:
        UsageError: a style that the model does not have.
    """
    styles = card.labels.styles if card.labels is not None else 0
    if style is not None and not 0 <= style < styles:
        raise UsageError(f"--style {style}: this model has {f'styles 0 to {styles - 1}' if styles else 'no styles'}")
    versions = {**card.made_with.versions, "onnx": onnx.__version__, "torch": torch.__version__}
    height, width = (None, None) if profile else size
    return replace(
        card,
        size=replace(card.size, height=height, width=width),
        export=ExportRecord(
            opset=OPSET,
            precision=precision,
            graph_io=graph_io,
            norm_statistics=statistics,
            style=style,
            profile=profile,
        ),
        made_with=MadeWith(versions=versions, source_sha256=card.made_with.source_sha256),
    )


def save_with_card(model: onnx.ModelProto, card: Card, path: Path) -> None:
    """Write an ONNX file that carries its card."""
    del model.metadata_props[:]
    model.metadata_props.append(onnx.StringStringEntryProto(key=METADATA_KEY, value=card.to_json()))
    onnx.save(model, path)
