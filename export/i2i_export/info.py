"""`i2i-export --info`: what a file is, what it takes and returns, and who can run it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from i2i_export.staging import parts
from i2i_runtime.card import Card, StudentRecord
from i2i_runtime.digest import file_sha256
from i2i_runtime.engines import nvinfer
from i2i_runtime.engines.base import shape_words
from i2i_runtime.engines.manifest import Manifest, check_plan
from i2i_runtime.errors import I2IError, ModelError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto

Facts = Iterator[tuple[str, str]]


def show_info(path: Path) -> None:
    """Print facts, one a line, about a checkpoint, an ONNX file, a plan or an OpenVINO model.

    Raises:
        ModelError: no such file, or a broken one.
        UsageError: a file of another kind.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; expected a checkpoint, an .onnx, a .plan or an .xml")
    readers = {".pt": _checkpoint, ".pth": _checkpoint, ".onnx": _onnx, ".plan": _plan, ".engine": _plan, ".xml": _ir}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"--info {path}: expected {', '.join(readers)}; found {path.suffix or 'no suffix'}")
    facts = list(reader(path))
    for part in parts(path):
        facts += [("file", f"{part.name}, {part.stat().st_size / 1e6:.1f} MB"), ("SHA-256", file_sha256(part))]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(f"{name:<{width}}  {value}")


def _checkpoint(path: Path) -> Facts:
    from i2i_trainer.trained import load_directions

    for direction, trained in load_directions(path).items():
        parameters = sum(weights.numel() for weights in trained.generator.parameters())
        yield f"generator {direction}", f"{trained.card.generator.name}, {parameters / 1e6:.3f} M parameters"
        yield from _card(trained.card)
        yield "example pictures", str(len(trained.examples))
    yield "runs in", "PyTorch; export it for everything else: i2i-export " + path.name


def _onnx(path: Path) -> Facts:
    from i2i_export.onnx_file import read_graph, tensors

    model, card = read_graph(path)
    inputs, outputs = tensors(model)
    yield from _tensors(inputs, outputs)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    yield "graph", f"opset {opset}, {len(model.graph.node)} nodes: {_most_common(model)}"
    yield from _cost(model, card)
    yield from _card(card)
    yield "runs in", "ONNX Runtime (CPU, CUDA), OpenVINO; builds with TensorRT 10, 11 and TensorRT-RTX"
    if card is not None and card.export is not None and card.export.precision == "fp16":
        yield "", "ONNX Runtime on a CPU computes it in FP32: right, and no faster"


def _most_common(model: ModelProto) -> str:
    counts = Counter(node.op_type for node in model.graph.node)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common(6))


def _cost(model: ModelProto, card: Card | None) -> Facts:
    from i2i_export.cost import count

    profile = card.export.profile if card is not None and card.export is not None else None
    try:
        yield "one inference", str(count(model, profile.typical if profile is not None else None))
    except I2IError as error:
        yield "one inference", f"not counted: {error}"


def _plan(path: Path) -> Facts:
    manifest = check_plan(path, trust=True)
    if manifest is None:
        yield "sidecar", f"none: what built it is not known; {path.name} runs with --trust-engine only"
        return
    for shape in manifest.shapes:
        yield f"input {shape.name}", f"{shape_words(shape.smallest)} to {shape_words(shape.largest)}"
    yield "built from", f"{manifest.onnx}, SHA-256 {manifest.onnx_sha256}"
    yield from _cost_of_its_graph(path.with_name(manifest.onnx), manifest)
    yield "built by", f"{nvinfer.LIBRARY_NAMES[manifest.library]} {manifest.library_version} on {manifest.platform}"
    yield (
        "built on",
        f"{manifest.gpu} {manifest.compute_capability or ''}" if manifest.gpu else "a machine without a GPU",
    )
    yield from _card(manifest.card)
    yield "runs in", _who_runs(manifest)


def _cost_of_its_graph(graph: Path, manifest: Manifest) -> Facts:
    """Of the ONNX file that a plan was built from, where it and the package `onnx` are there."""
    if importlib.util.find_spec("onnx") is None or not graph.is_file() or file_sha256(graph) != manifest.onnx_sha256:
        return
    from i2i_export.onnx_file import read_graph

    with contextlib.suppress(ModelError):  # a plan can be told of without it
        model, _ = read_graph(graph)
        yield from _cost(model, manifest.card)


def _student(record: StudentRecord) -> str:
    """Whose it is, and what it lost."""
    whose = f"of {record.teacher} ({record.teacher_generator.name})"
    if record.psnr_db is None:
        return f"{whose}, not measured"
    near = f"PSNR {record.psnr_db:.1f} dB" + (f", SSIM {record.ssim:.3f}" if record.ssim is not None else "")
    words = f"{whose}: {near} to it on {record.pictures} held-out pictures"
    if record.truth_l1 is not None and record.teacher_truth_l1 is not None:
        words += f"; L1 to the truth {record.truth_l1:.3f}, its teacher's {record.teacher_truth_l1:.3f}"
    return words


def _who_runs(manifest: Manifest) -> str:
    library = nvinfer.LIBRARY_NAMES[manifest.library]
    version = manifest.library_version
    if manifest.version_compatible:
        version += f" or a later {version.partition('.')[0]}.x"
    gpus = (
        "every GPU from compute capability 8.0 on"
        if manifest.hardware_compatible
        else (
            f"compute capability {manifest.compute_capability}"
            if manifest.compute_capability
            else "every GPU it supports"
        )
    )
    gpu = nvinfer.gpu()
    here = "no GPU here" if gpu is None else f"here: {gpu.name}, {gpu.compute_capability}"
    return f"{library} {version}, {gpus} ({here})"


def _ir(path: Path) -> Facts:
    if importlib.util.find_spec("openvino") is None:
        raise ModelError(f"{path}: OpenVINO is not installed; pip install 'i2i[openvino]'")
    from i2i_runtime.engines.open import open_engine

    with open_engine(path) as engine:
        yield from _tensors(engine.inputs, engine.outputs)
        yield from _card(engine.card)
    yield "runs in", "OpenVINO on Intel, AMD and ARM CPUs, Intel GPUs and NPUs"


def _tensors(inputs: object, outputs: object) -> Facts:
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:  # type: ignore[attr-defined]
            yield f"{kind} {spec.name}", str(spec)


def _card(card: Card | None) -> Facts:
    if card is None:
        yield "card", "none: i2i-run assumes RGB in [-1, 1]"
        return
    size = card.size
    sides = f"{size.height}x{size.width}" if size.height and size.width else f"multiples of {size.multiple_of}"
    low, high = card.input.value_range
    yield "model", f"{card.name}: {card.model_type}, {card.direction}, {card.generator.name}"
    yield "arguments", ", ".join(f"{name}={value}" for name, value in card.generator.arguments.items()) or "defaults"
    yield (
        "pictures",
        (
            f"{card.input.channels} {card.input.colour} to {card.output.channels} {card.output.colour}, "
            f"values {low:g} to {high:g}, {sides}"
        ),
    )
    if card.labels is not None:
        edges = "with instance edges" if card.labels.instance_edges else "without instances"
        yield "labels", f"{card.labels.count} classes, {edges}, {card.labels.styles} styles"
    if card.training is not None:
        height, width = card.training.size
        yield (
            "training",
            f"{card.training.data}, {height}x{width}, {card.training.steps} steps, batch {card.training.batch}",
        )
    if (student := card.student) is not None:
        yield "student", _student(student)
    if card.export is not None:
        yield "export", f"{card.export.precision}, {card.export.graph_io} I/O, {card.export.norm_statistics} statistics"
        if card.export.kept_fp32:
            yield "layers in FP32", ", ".join(card.export.kept_fp32)
        if (profile := card.export.profile) is not None:
            range_of_sizes = f"{shape_words(profile.smallest)} to {shape_words(profile.largest)}"
            yield "profile", f"{range_of_sizes}, batch up to {profile.batch}"
    for record in card.parity:
        yield (
            "proof",
            f"{record.engine}: PSNR {record.psnr_db:.1f} dB, max abs {record.max_abs:.2g}, {record.pictures} pictures",
        )
    if card.made_with.source_sha256:
        yield "made from", f"SHA-256 {card.made_with.source_sha256}"
    if card.made_with.versions:
        yield "made with", ", ".join(f"{name} {version}" for name, version in card.made_with.versions.items())
