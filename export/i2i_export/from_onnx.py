"""From an ONNX file to a plan or another engine, as on the device that will run it: without PyTorch."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import click

from i2i_export import sizes, targets
from i2i_export.gate import default_gate
from i2i_export.onnx_file import external_files, read_graph, tensors
from i2i_export.parity import measure_parity
from i2i_export.proof import drawn_pictures, read_pictures
from i2i_export.report import say_written, show_parity
from i2i_export.request import Request
from i2i_export.staging import move_into_place, staging
from i2i_export.triton import add_to_repository, check_servable
from i2i_runtime.card import Card
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import ModelError, UsageError


def deliver_onnx(source: Path, request: Request) -> None:
    """Build an engine from an ONNX file.

    Raises:
        ModelError: no ONNX file, or a library is missing or refuses it.
        DeviceError: TensorRT without a GPU.
        UsageError: nothing to do, or a card that is not there.
        SinkError: the files cannot be written.
    """
    began = time.monotonic()
    model, card = read_graph(source)
    inputs, outputs = tensors(model)
    weights = external_files(model, source)
    profile = sizes.requested_profile(request)
    if profile is not None and card is not None and card.export is not None:
        card = replace(card, export=replace(card.export, profile=profile))
        sizes.check(card, profile.typical)
    if request.target != "onnx":
        targets.require(request.target, request.output, weights)
    if request.triton is not None:
        check_servable(request.triton, request.target, card, weights)
    if request.target == "onnx":
        if request.triton is None:
            raise UsageError(f"{source} is an ONNX file already; expected -o NAME.plan, -o NAME.xml or --triton DIR")
        made = source
    else:
        with staging(request.output) as folder:
            staged = folder / request.output.name
            targets.write(source, staged, request.target, card, inputs, request.build, request.use_cache, profile)
            _prove(source, staged, card, request)
            move_into_place(folder, request.output)
        made = request.output
    if request.triton is not None:
        add_to_repository(request.triton, made, card, inputs, outputs)
    if request.target != "onnx":
        say_written(request.output, began)


def _prove(source: Path, staged: Path, card: Card | None, request: Request) -> None:
    """Compare what was built with the graph in ONNX Runtime, where both can run."""
    name = request.output.name
    if card is None or card.export is None:
        click.echo(f"{name}: not compared with {source.name}, which carries no card", err=True)
        return
    with targets.opened(staged, request.target) as engine:
        if engine is None:
            return
        try:
            reference = open_engine(source, device="cpu")
        except ModelError as error:
            click.echo(f"{name}: not compared with {source.name}: {error}", err=True)
            return
        where, size = request.pictures, sizes.typical_size(card)
        examples = read_pictures(where, card, size) if where else drawn_pictures(card, size)
        gate = default_gate(card, request, is_plan=request.target in targets.PLANS)
        with reference:
            record, _ = measure_parity(reference.run, engine, card, examples, gate)
    show_parity([record], card, against=source.name)
    if not gate.passes(record):
        raise ModelError(f"{name}: {record.engine} {gate.shortfall(record)}; nothing was written")
    targets.set_card(staged, request.target, replace(card, parity=(*card.parity, record)))
