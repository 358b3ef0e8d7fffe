"""From a loaded generator to the files that were asked for: all of them, proven, or none."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import onnx

from i2i_export import sizes, targets
from i2i_export.emulation import EmulatedEngine
from i2i_export.fp16 import within_range
from i2i_export.gate import Gate, default_gate
from i2i_export.graph import PICTURE_IO, build_graph, exported_card, save_with_card
from i2i_export.int8 import good_enough
from i2i_export.onnx_file import tensors
from i2i_export.parity import (
    Case,
    Example,
    Inputs,
    NotFiniteError,
    engine_inputs,
    measure_parity,
    save_strip,
    worst_psnr,
)
from i2i_export.proof import drawn_pictures, read_pictures
from i2i_export.reference import torch_reference
from i2i_export.report import say_written, show_parity
from i2i_export.request import GraphIo, Request, Sides
from i2i_export.staging import move_into_place, staging
from i2i_export.tileable import MARK, make_tileable
from i2i_export.triton import add_to_repository, check_servable
from i2i_runtime.card import Card, ParityRecord
from i2i_runtime.engines.base import Engine
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import DeviceError, ModelError, UsageError
from i2i_trainer.trained import Trained


def deliver_checkpoint(trained: Trained, request: Request) -> None:
    """Export a generator, prove every step that can run here, and write the files.

    Raises:
        ModelError: a proof failed, or a library refuses the graph; nothing was written.
        DeviceError: the target is built on its device only; the ONNX file that is needed there was written.
        UsageError: settings that do not fit the model.
        SinkError: the files cannot be written.
    """
    began = time.monotonic()
    targets.require(request.target, request.output)
    if request.triton is not None:
        check_servable(request.triton, request.target, trained.card)
    if trained.recognised is not None:
        click.echo(f"recognised: {trained.recognised}", err=True)
    card, examples = prepare(trained, request)
    click.echo(sizes.announcement(card), err=True)
    model = build_graph(trained.generator, card)
    if request.is_tileable:
        model, card = _tileable(model, card)
    deliver_graph(model, trained, card, examples, request)
    say_written(request.output, began)


def prepare(trained: Trained, request: Request) -> tuple[Card, Sequence[Example]]:
    """Decide what the export will be like: its card without results, and the inputs that it is proven on.

    Raises:
        UsageError: settings that do not fit the model.
    """
    size = request.size or sizes.usual_size(trained.card)
    card = exported_card(
        trained.card,
        size=size,
        graph_io=_graph_io(request, trained.card),
        statistics=trained.statistics,
        precision=request.precision,
        style=request.style,
        profile=sizes.profile(request, trained.card, size),
    )
    sizes.check(card, size)
    if request.is_tileable and card.labels is not None:
        raise UsageError("--tileable: expected a model of pictures; label maps are translated as a whole")
    return card, _examples(trained, request, size)


def deliver_graph(
    model: onnx.ModelProto, trained: Trained, card: Card, examples: Sequence[Example], request: Request
) -> Card:
    """Bring a float32 graph into its precision, prove it, and write the files of the target.

    Args:
        model: what `build_graph` made of the generator.
        trained: the generator.
        card: from `prepare`, as are the examples.
        examples: inputs for the proof, and for the ranges of INT8.
        request: what the user asked for.

    Returns:
        The card with the proof's records.

    Raises:
        See `deliver_checkpoint`.
    """
    with staging(request.output) as folder:
        proof = _Proof(trained, card, examples, default_gate(card, request, is_plan=False), folder)
        model, card = _in_precision(model, card, proof, request)
        return _deliver(model, card, proof, request, folder)


def _tileable(model: onnx.ModelProto, card: Card) -> tuple[onnx.ModelProto, Card]:
    assert card.export is not None
    model, channels = make_tileable(model, sizes.typical_size(card))
    if not channels:
        click.echo("note: no norm of this model looks at the whole picture: it tiles as it is", err=True)
    return model, replace(card, export=replace(card.export, norm_channels=channels))


class _Proof:
    """Holds what every step of an export is measured against."""

    def __init__(self, trained: Trained, card: Card, examples: Sequence[Example], gate: Gate, folder: Path) -> None:
        self.examples, self.gate = examples, gate
        self.records: list[ParityRecord] = []
        self.worst: tuple[float, Case] | None = None
        self.reference, self._folder = torch_reference(trained.generator, card), folder

    def measure(self, engine: Engine, card: Card, examples: Sequence[Example]) -> None:
        """Record how an engine fares on some examples.

        Raises:
            ModelError: it does not pass.
        """
        self.record(card, *measure_parity(self.reference, engine, card, examples, self.gate))

    def record(self, card: Card, record: ParityRecord, case: Case) -> None:
        """Keep what was measured.

        Raises:
            ModelError: it does not pass.
        """
        self.records.append(record)
        if not self.gate.passes(record):
            show_parity(self.records, card)
            raise ModelError(
                f"{record.engine} {self.gate.shortfall(record)}; nothing was written. "
                "Another precision, --tolerance or --min-psnr changes what passes"
            )
        assert record.worst_psnr_db is not None
        if self.worst is None or record.worst_psnr_db < self.worst[0]:
            self.worst = record.worst_psnr_db, case

    def any_inputs(self, card: Card) -> Inputs:
        """One example as an engine takes it."""
        return next(engine_inputs(card, self.examples[:1], at_every_size=False))

    def onnx_runtime(self, model: onnx.ModelProto, card: Card) -> Engine:
        """A graph in ONNX Runtime on the CPU."""
        path = self._folder / "trial.onnx"
        save_with_card(model, card, path)
        return open_engine(path, device="cpu")


class _Trial:
    """Tries FP16 graphs in true FP16 arithmetic, and keeps what was found of the one that passes."""

    def __init__(self, proof: _Proof, card: Card) -> None:
        self.found: tuple[ParityRecord, Case] | None = None
        self._proof, self._card = proof, card

    def __call__(self, typed: onnx.ModelProto) -> Inputs | None:
        """The inputs on which a graph is worst, if that is not good enough."""
        proof = self._proof
        try:
            found = measure_parity(
                proof.reference, EmulatedEngine(typed, "fp16"), self._card, proof.examples, proof.gate
            )
        except NotFiniteError:
            return proof.any_inputs(self._card)
        if proof.gate.passes(found[0]):
            self.found = found
            return None
        return found[1].inputs


def _in_precision(model: onnx.ModelProto, card: Card, proof: _Proof, request: Request) -> tuple[onnx.ModelProto, Card]:
    """The graph in the precision that was asked for, measured, and the card that tells which layers stayed FP32."""
    assert card.export is not None
    kept: list[str] = []
    examples = proof.examples
    if request.precision == "fp16":
        around = [node.name for node in model.graph.node if node.name.startswith(PICTURE_IO) or MARK in node.name]

        inputs = list(engine_inputs(card, examples))
        trial = _Trial(proof, card)
        model, islands = within_range(model, inputs, trial, keep=around)
        islands = [island for island in islands if island.node not in around]
        for island in islands:
            click.echo(f"stays FP32: {island.node} ({island.reason})", err=True)
        kept = [island.node for island in islands]
        if trial.found is not None:
            proof.record(card, *trial.found)
        else:
            proof.measure(EmulatedEngine(model, "fp16"), card, examples)
    elif request.precision == "int8":
        # Never proven on the pictures that set the ranges.
        for_ranges, examples = examples[::2], _for_proof(proof, request)
        inputs = list(engine_inputs(card, for_ranges))
        answered = [(arrays, proof.reference(*arrays)) for arrays in inputs]
        # One picture, in all its styles, at the typical size.
        few = len(list(engine_inputs(card, for_ranges[:1], at_every_size=False)))

        def psnr(quantised: onnx.ModelProto) -> float:
            with proof.onnx_runtime(quantised, card) as engine:
                return worst_psnr(engine, card, answered)

        def quick_psnr(quantised: onnx.ModelProto) -> float:
            with proof.onnx_runtime(quantised, card) as engine:
                return worst_psnr(engine, card, answered[:few])

        model, kept = good_enough(
            model,
            inputs,
            psnr,
            quick_psnr,
            proof.gate.min_psnr_db or 0.0,
            request.calibration,
            with_outputs=request.target not in targets.PLANS,
        )
        click.echo(f"stay FP32: {', '.join(kept)}", err=True)
    card = replace(card, export=replace(card.export, kept_fp32=tuple(kept)))
    with proof.onnx_runtime(model, card) as engine:
        proof.measure(engine, card, examples)
    return model, card


def _save_strip(proof: _Proof, card: Card, folder: Path, name: str) -> None:
    assert proof.worst is not None
    save_strip(folder / f"{name}.parity.png", proof.worst[1], card)


def _device_command(graph: str, request: Request) -> str:
    """What builds the same plan on the device."""
    build = request.build
    words: list[object] = ["i2i-export", graph, "-o", request.output.name, "--target", request.target]
    for option, value in (
        ("--workspace", build.workspace_mib),
        ("--optimization-level", build.optimization_level),
        ("--timing-cache", build.timing_cache),
        ("--hardware-compatible", build.hardware_compatible),
        ("--version-compatible", build.version_compatible),
        ("--triton", request.triton),
    ):
        if value is True:
            words.append(option)
        elif value not in (None, False):
            words += [option, value]
    return shlex.join(map(str, words))


def _for_proof(proof: _Proof, request: Request) -> Sequence[Example]:
    """All examples, or of INT8 those that did not set the ranges."""
    return proof.examples[1::2] if request.precision == "int8" else proof.examples


def _deliver(model: onnx.ModelProto, card: Card, proof: _Proof, request: Request, folder: Path) -> Card:
    """Write the target's files into the staging folder, measure what can run, and move all into place."""
    name = request.output.name
    graph = folder / (name if request.target == "onnx" else f"{name}.onnx")
    (folder / "trial.onnx").unlink(missing_ok=True)
    card = replace(card, parity=tuple(proof.records))
    save_with_card(model, card, graph)
    if request.target == "onnx":
        staged = graph
    else:
        staged = folder / name
        if (obstacle := targets.obstacle(request.target)) is not None:
            # What the device needs is not thrown away.
            show_parity(proof.records, card)
            _save_strip(proof, card, folder, name)
            move_into_place(folder, request.output)
            raise DeviceError(
                f"{name}: not built, {obstacle}; its graph is proven and written: on the device run "
                f"{_device_command(graph.name, request)}"
            )
        targets.write(graph, staged, request.target, card, tensors(model)[0], request.build, request.use_cache)
        with targets.opened(staged, request.target) as engine:
            if engine is not None:
                proof.gate = default_gate(card, request, is_plan=request.target in targets.PLANS)
                proof.measure(engine, card, _for_proof(proof, request))
        if engine is not None:
            # Only now: OpenVINO holds a file that it runs.
            card = replace(card, parity=tuple(proof.records))
            targets.set_card(staged, request.target, card)
        if request.target == "openvino":
            graph.unlink()
    show_parity(proof.records, card)
    _save_strip(proof, card, folder, name)
    move_into_place(folder, request.output)
    if request.triton is not None:
        add_to_repository(request.triton, request.output, card, *tensors(model))
    return card


def _graph_io(request: Request, card: Card) -> GraphIo:
    if request.graph_io != "auto":
        return request.graph_io
    takes_pictures = card.labels is None and {card.input.channels, card.output.channels} <= {1, 3}
    # A GPU is sent a quarter of the bytes; on a CPU the conversion inside the graph is no faster.
    return "uint8" if takes_pictures and request.target in targets.PLANS else "float"


def _examples(trained: Trained, request: Request, size: Sides) -> Sequence[Example]:
    if request.pictures:
        examples: list[Example] = read_pictures(request.pictures, trained.card, request.max_size or size)
    elif trained.examples:
        examples = [{name: part.numpy() for name, part in example.items()} for example in trained.examples]
    elif request.precision == "int8":
        advice = (
            "give --pictures DIR" if trained.card.labels is None else "use --fp16: label maps come with checkpoints"
        )
        raise UsageError(f"--int8: its ranges come from real inputs, and this file brings none; {advice}")
    else:
        examples = drawn_pictures(trained.card, size)
        click.echo(
            "note: this file brings no pictures: it is proven on drawn ones; --pictures DIR takes yours",
            err=True,
        )
    if request.precision == "int8" and len(examples) < 2:
        raise UsageError("--int8: expected at least 2 pictures, some for the ranges and others for the proof; found 1")
    return examples
