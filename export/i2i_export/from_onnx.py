"""From an ONNX file to a plan or another engine, as on the device that will run it: without PyTorch."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import click
import onnx

from i2i_export import sizes, targets
from i2i_export.gate import default_gate
from i2i_export.parity import measure_parity
from i2i_export.proof import drawn_pictures, read_pictures
from i2i_export.report import say_written, show_parity
from i2i_export.request import Request
from i2i_export.staging import move_into_place, staging
from i2i_export.triton import add_to_repository, check_servable
from i2i_runtime.card import METADATA_KEY, Card
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import ModelError, UsageError, reason


def deliver_onnx(source: Path, request: Request) -> None:
    """Build an engine from an ONNX file.

    Raises:
        ModelError: no ONNX file, or a library is missing or refuses it.
        DeviceError: TensorRT without a GPU.
        UsageError: nothing to do, or a card that is not there.
        SinkError: the files cannot be written.
    """
    began = time.monotonic()
    targets.require(request.target)
    check_servable(request.triton, request.target)
    model, card = read_graph(source)
    if request.target == "onnx":
        if request.triton is None:
            raise UsageError(f"{source} is an ONNX file already; expected -o NAME.plan, -o NAME.xml or --triton DIR")
        made = source
    else:
        with staging(request.output) as folder:
            staged = folder / request.output.name
            targets.write(source, staged, request.target, card, request.build, request.use_cache)
            _prove(source, staged, card, request)
            move_into_place(folder, request.output)
        made = request.output
    if request.triton is not None:
        add_to_repository(request.triton, made, card, *targets.tensors(model))
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
            click.echo(f"{name}: not run here, this machine has no GPU", err=True)
            return
        try:
            reference = open_engine(source, device="cpu")
        except ModelError as error:
            click.echo(f"{name}: not compared with {source.name}: {error}", err=True)
            return
        where = request.pictures
        examples = read_pictures(where, card) if where else drawn_pictures(card, sizes.typical_size(card))
        gate = default_gate(card.export, max_abs=request.tolerance, min_psnr_db=request.min_psnr)
        with reference:
            record, _ = measure_parity(reference.run, engine, card, examples, gate)
    show_parity([record], card, gate, against=source.name)
    if not gate.passes(record):
        raise ModelError(f"{name}: {record.engine} {gate.shortfall(record)}; nothing was written")
    targets.set_card(staged, request.target, replace(card, parity=(*card.parity, record)))


def read_graph(path: Path) -> tuple[onnx.ModelProto, Card | None]:
    """An ONNX file without weights that lie in other files, and its card.

    Raises:
        ModelError: no ONNX file, or one whose weights lie outside its folder.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path}: no such ONNX file ({error.strerror})") from error
    except Exception as error:  # protobuf's own
        raise ModelError(f"{path}: not an ONNX file ({reason(error)})") from error
    if not model.graph.output:
        # Protobuf reads an empty file as an empty model.
        raise ModelError(f"{path}: expected an ONNX model, found one without outputs")
    home = path.resolve().parent
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and not (home / entry.value).resolve().is_relative_to(home):
                raise ModelError(
                    f"{path}: its weights {tensor.name} lie at {entry.value}, expected a file in the model's own folder"
                )
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    return model, Card.from_json(text, where=str(path)) if text else None
