"""From a generator to an ONNX graph, with the card inside."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import Tensor, nn

from i2i_runtime.card import METADATA_KEY, Card, ExportRecord, ImageSpec, MadeWith
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.networks.inference import NormStatistics

OPSET = 18
"""The lowest that torch's exporter writes, and one that TensorRT 10 (up to 20) and 11 (up to 25) both read."""

GraphIo = Literal["float", "uint8"]


def build_graph(generator: nn.Module, size: tuple[int, int], graph_io: GraphIo, card: Card) -> onnx.ModelProto:
    """Export a generator for images of one size.

    Args:
        generator: a fixed function of one image (or label map), in evaluation mode.
        size: (height, width).
        graph_io: `float` takes and returns (1, c, h, w) float32 in the card's value range; `uint8` takes and returns
            (1, h, w, c) uint8, BGR or grey. Label maps enter as `labels` (1, 1, h, w) int32, with `instances` of the
            same shape and `style` (1,) int64 where the card has them; the result is that of a float graph.
        card: its value range, channels, labels and style.

    Returns:
        A checked model without a card.

    Raises:
        ModelError: the exporter does not keep what it was asked for.
        UsageError: a uint8 graph of other than grey or colour pictures.
    """
    height, width = size
    module: nn.Module = generator
    examples = {"image": torch.zeros(1, card.input.channels, height, width)}
    if card.labels is not None:
        if graph_io == "uint8":
            raise UsageError("--io uint8: a label map enters as it is; expected --io float for this model")
        module, examples = _label_graph(generator, card, height, width)
    elif graph_io == "uint8":
        for spec in (card.input, card.output):
            if spec.channels not in (1, 3):
                raise UsageError(
                    f"--io uint8: expected grey or colour pictures, found {spec.channels} channels; use --io float"
                )
        examples = {"image": torch.zeros(1, height, width, card.input.channels, dtype=torch.uint8)}
        module = _Uint8Graph(generator, card.input, card.output).eval()
    # The exporter reports its progress on stdout, by logging and by warnings that are of no use to a user.
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(examples.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(examples),
                output_names=["result"],
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)
    assert program is not None, "torch.onnx.export with dynamo returns a program"
    model = program.model_proto
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written.get("") != OPSET:
        raise ModelError(f"export: expected ONNX opset {OPSET}, torch {torch.__version__} wrote {written}")
    _forget_where_it_was_made(model)
    onnx.checker.check_model(model, full_check=True)
    return model


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
    style: int | None = None,
    opset: int = OPSET,
) -> Card:
    """The trainer's card with what the export decided.

    Raises:
        UsageError: a style that the model does not have.
    """
    styles = card.labels.styles if card.labels is not None else 0
    if style is not None and not 0 <= style < styles:
        raise UsageError(f"--style {style}: this model has {f'styles 0 to {styles - 1}' if styles else 'no styles'}")
    versions = {**card.made_with.versions, "onnx": onnx.__version__, "torch": torch.__version__}
    return replace(
        card,
        size=replace(card.size, height=size[0], width=size[1]),
        export=ExportRecord(opset=opset, precision="fp32", graph_io=graph_io, norm_statistics=statistics, style=style),
        made_with=MadeWith(versions=versions, source_sha256=card.made_with.source_sha256),
    )


def save_with_card(model: onnx.ModelProto, card: Card, path: Path) -> None:
    """Write an ONNX file that carries its card."""
    del model.metadata_props[:]
    model.metadata_props.append(onnx.StringStringEntryProto(key=METADATA_KEY, value=card.to_json()))
    onnx.save(model, path)
