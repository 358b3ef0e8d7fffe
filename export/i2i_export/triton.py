"""A model repository for Triton Inference Server, from an exported model.

Layout and fields: Triton's "Model Repository" and "Model Configuration" documents. KServe serves the same folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from i2i_export.targets import Target
from i2i_runtime.card import METADATA_KEY, Card
from i2i_runtime.engines.base import TensorSpec
from i2i_runtime.errors import SinkError, UsageError, system_reason
from i2i_runtime.image import make_folder

_FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
}
_WAIT_MICROSECONDS = 2000
"""How long Triton waits for more requests to make a batch: far less than an inference of a generator."""


def check_servable(folder: Path, target: Target, card: Card | None, weights: Sequence[Path] = ()) -> None:
    """Find out before minutes are spent whether a model can go into a repository.

    Args:
        folder: the repository.
        target: what the model will be.
        card: its card.
        weights: files beside it that hold weights.

    Raises:
        UsageError: Triton has no backend for it, or it is not all in one file with its card.
        SinkError: nothing can be written there.
    """
    if target not in ("onnx", "tensorrt"):
        raise UsageError(f"--triton: Triton serves ONNX files and plans of TensorRT, not {target}; choose another")
    if card is None:
        raise UsageError("--triton: the model carries no card; export it from its checkpoint")
    if weights and target == "onnx":
        raise UsageError(f"--triton: expected a model in one file, found weights in {weights[0]}; export it again")
    make_folder(folder)


def add_to_repository(
    folder: Path, model: Path, card: Card | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Path:
    """Add a model to a repository: `folder/NAME/config.pbtxt` and `folder/NAME/VERSION/model.onnx`.

    A model that is there already gets a new version, which Triton serves from then on.

    Args:
        folder: the repository; made where it is missing.
        model: the exported `.onnx` or `.plan`; its stem is the model's name.
        card: the model's card: its sizes, and the batch of a dynamic graph.
        inputs: the model's inputs.
        outputs: the model's output.

    Returns:
        The version's folder.

    Raises:
        SinkError: it cannot be written.
    """
    backend = "onnxruntime" if model.suffix.lower() == ".onnx" else "tensorrt"
    assert card is not None, "check_servable came first"
    home = folder / model.stem
    beside = home / ".version.partial"
    try:
        home.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        shutil.copyfile(model, beside / _FILES[backend])
        taken = [int(path.name) for path in home.iterdir() if path.name.isdigit()]
        version = home / str(max(taken, default=0) + 1)
        new_config = home / ".config.pbtxt.partial"
        new_config.write_text(config_text(model.stem, backend, card, inputs, outputs), encoding="utf-8")
        new_config.replace(home / "config.pbtxt")
        beside.rename(version)
    except OSError as error:
        raise SinkError(f"{home}: the Triton model cannot be written ({system_reason(error)})") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    click.echo(f"{version}: for Triton")
    return version


def config_text(
    name: str, backend: str, card: Card, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> str:
    """`config.pbtxt`: tensors, dynamic batching where the graph takes batches, and a warm-up at the typical size."""
    profile = card.export.profile if card.export is not None else None
    # Every input of a batched model has a batch axis, and a style has none.
    batch = profile.batch if profile is not None and all(len(spec.shape) == 4 for spec in inputs) else 0
    typical: Mapping[str, int] = (
        {"height": profile.typical[0], "width": profile.typical[1]} if profile is not None else {}
    )
    lines = [
        f"name: {_quoted(name)}",
        f"backend: {_quoted(backend)}",
        f"max_batch_size: {batch}",
    ]
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            shape = spec.shape[1:] if batch else spec.shape
            dims = ", ".join("-1" if length is None else str(length) for length in shape)
            lines.append(f'{kind} [ {{ name: "{spec.name}" data_type: {_TYPES[spec.dtype.name]} dims: [ {dims} ] }} ]')
    if batch > 1:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_WAIT_MICROSECONDS} }}")
    samples = []
    for spec in inputs:
        axes = _sizes(spec, typical)
        dims = ", ".join(map(str, axes[1:] if batch else axes))
        samples.append(
            f'inputs {{ key: "{spec.name}" value {{ data_type: {_TYPES[spec.dtype.name]} dims: [ {dims} ] '
            "zero_data: true } }"
        )
    lines.append(f'model_warmup [ {{ name: "typical" batch_size: 1 {" ".join(samples)} }} ]')
    lines.append(f'parameters {{ key: "{METADATA_KEY}" value {{ string_value: {_quoted(card.to_json())} }} }}')
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A string of protobuf's text format, which knows JSON's escapes but not its pairs of surrogates."""
    return json.dumps(text, ensure_ascii=False)


def _sizes(spec: TensorSpec, typical: Mapping[str, int]) -> list[int]:
    """A shape without free axes: one image of the typical size."""
    if len(spec.shape) != 4:
        return [length or 1 for length in spec.shape]
    names = ("batch", "height", "width", "") if spec.dtype == "uint8" else ("batch", "", "height", "width")
    return [length or typical.get(name, 1) for length, name in zip(spec.shape, names, strict=True)]
