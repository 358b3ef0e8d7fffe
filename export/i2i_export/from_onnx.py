"""From an ONNX file to a plan or another engine, as on the device that will run it: without PyTorch."""

from __future__ import annotations

import time
from pathlib import Path

import onnx

from i2i_export import targets
from i2i_export.report import say_written
from i2i_export.request import Request
from i2i_export.staging import move_into_place, staging
from i2i_export.triton import add_to_repository, check_servable
from i2i_runtime.card import METADATA_KEY, Card
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
            targets.write(source, folder / request.output.name, request.target, card, request.build, request.use_cache)
            move_into_place(folder, request.output)
        made = request.output
    if request.triton is not None:
        add_to_repository(request.triton, made, card, *targets.tensors(model))
    if request.target != "onnx":
        say_written(request.output, began)


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
