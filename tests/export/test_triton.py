"""A Triton model repository says in Triton's own format what the model is; it is read here by Triton's own types."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import onnxruntime
import pytest
from commands import here, the_error_line
from google.protobuf import text_format
from onnx_models import make_card, negative_model
from plans import needs_rtx
from untrained import save_untrained, save_untrained_labels

from i2i_export.onnx_file import tensors
from i2i_export.triton import add_to_repository, config_text
from i2i_runtime.card import METADATA_KEY, Architecture, Card, SizeProfile
from i2i_runtime.digest import file_sha256
from i2i_runtime.errors import SinkError

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
model_config = pytest.importorskip(
    "tritonclient.grpc.model_config_pb2", reason="Triton's types: pip install tritonclient"
)


def read(text: str):
    """The configuration as Triton reads it, which knows every field or refuses the file."""
    return text_format.Parse(text, model_config.ModelConfig())


def served(repository, name):
    return read((repository / name / "config.pbtxt").read_text(encoding="utf-8"))


def type_name(tensor) -> str:
    return model_config.DataType.Name(tensor.data_type)


def facts(tensors_of_config) -> list[tuple[str, str, list[int]]]:
    return [(tensor.name, type_name(tensor), list(tensor.dims)) for tensor in tensors_of_config]


EXPORTS = {
    "static": (save_untrained, ()),
    "batches": (save_untrained, ("--dynamic", "--max-batch", 4)),
    "uint8": (save_untrained, ("--dynamic", "--io", "uint8")),
    "labels": (save_untrained_labels, ("--dynamic", "--max-batch", 2)),
}
SIZE = (32, 48)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports by their names, made when first asked for: the file, and its configuration as Triton reads it."""
    made = {}

    def get(name):
        if name not in made:
            save, arguments = EXPORTS[name]
            folder = tmp_path_factory.mktemp(name)
            checkpoint = save(folder / "last.pt", size=SIZE, pictures=1)
            finished = here(
                "i2i-export", checkpoint, "-o", folder / "model.onnx", "--triton", folder / "models", *arguments
            )
            assert finished.returncode == 0, finished.stderr
            made[name] = folder / "model.onnx", served(folder / "models", "model")
        return made[name]

    return get


# the configuration


def test_a_model_of_one_size_is_served_as_it_is(exported):
    path, config = exported("static")

    assert (config.name, config.backend, config.max_batch_size) == ("model", "onnxruntime", 0)
    assert facts(config.input) == [("image", "TYPE_FP32", [1, 3, *SIZE])]
    assert facts(config.output) == [("result", "TYPE_FP32", [1, 3, *SIZE])]
    assert not config.HasField("dynamic_batching")
    assert file_sha256(path.parent / "models" / "model" / "1" / "model.onnx") == file_sha256(path)


def test_a_model_that_takes_batches_is_batched_by_the_server(exported):
    _, config = exported("batches")

    # The batch axis is Triton's own then, and goes without saying.
    assert config.max_batch_size == 4
    assert facts(config.input) == [("image", "TYPE_FP32", [3, -1, -1])]
    assert facts(config.output) == [("result", "TYPE_FP32", [3, -1, -1])]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0


def test_a_uint8_model_takes_and_returns_bytes(exported):
    _, config = exported("uint8")

    assert facts(config.input) == [("image", "TYPE_UINT8", [-1, -1, 3])]
    assert facts(config.output) == [("result", "TYPE_UINT8", [-1, -1, 3])]


def test_a_model_of_one_picture_at_a_time_waits_for_no_batch(exported):
    _, config = exported("uint8")

    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")


def test_a_style_has_no_batch_axis_and_so_the_model_has_none(exported):
    _, config = exported("labels")

    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert facts(config.input) == [
        ("labels", "TYPE_INT32", [-1, 1, -1, -1]),
        ("instances", "TYPE_INT32", [-1, 1, -1, -1]),
        ("style", "TYPE_INT64", [1]),
    ]
    assert facts(config.output) == [("result", "TYPE_FP32", [-1, 3, -1, -1])]


@pytest.mark.parametrize("name", EXPORTS)
def test_the_warm_up_is_a_request_that_the_model_takes(exported, name):
    """Run here as Triton would: zeros of the stated shapes, behind a batch axis where there is one."""
    path, config = exported(name)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    (warm_up,) = config.model_warmup
    batch = [warm_up.batch_size] if config.max_batch_size else []
    kinds = {"TYPE_FP32": np.float32, "TYPE_UINT8": np.uint8, "TYPE_INT32": np.int32, "TYPE_INT64": np.int64}
    zeros = {key: np.zeros([*batch, *sample.dims], kinds[type_name(sample)]) for key, sample in warm_up.inputs.items()}
    (result,) = session.run(None, zeros)

    assert all(sample.zero_data for sample in warm_up.inputs.values())
    assert result.shape == ((1, *SIZE, 3) if name == "uint8" else (1, 3, *SIZE))


@pytest.mark.parametrize("name", EXPORTS)
def test_the_card_of_an_export_is_in_the_parameters(exported, name):
    path, config = exported(name)

    (entry,) = (entry for entry in onnx.load(path).metadata_props if entry.key == METADATA_KEY)
    card = Card.from_json(config.parameters[METADATA_KEY].string_value)
    assert card == Card.from_json(entry.value)
    assert len(card.parity) == 1


@pytest.mark.parametrize("graph_io", ["float", "uint8"])
@pytest.mark.parametrize("size", [(64, 80), None])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_dimensions_are_those_of_the_onnx_file(tmp_path, size, graph_io, channels):
    card = make_card(size, graph_io=graph_io, channels=channels)
    if size is None:
        profile = SizeProfile(smallest=(8, 8), typical=(16, 24), largest=(32, 32), batch=2)
        card = replace(card, export=replace(card.export, profile=profile))
    model = onnx.load(negative_model(tmp_path / "model.onnx", card))

    config = read(config_text("model", "onnxruntime", card, *tensors(model)))

    for found, value in zip((*config.input, *config.output), (*model.graph.input, *model.graph.output), strict=True):
        axes = [axis.dim_value or -1 for axis in value.type.tensor_type.shape.dim]
        assert list(found.dims) == (axes[1:] if config.max_batch_size else axes)
        assert found.name == value.name


AWKWARD = 'Zürich "Straße" \\ 街 \t\n\x01 \U0001f3d9 ${x} #'


def test_the_card_comes_back_whatever_is_in_its_names(tmp_path):
    card = replace(make_card(), name=AWKWARD, generator=Architecture(name="unet_64", arguments={AWKWARD: AWKWARD}))
    model = onnx.load(negative_model(tmp_path / "model.onnx", card))

    config = read(config_text(AWKWARD, "onnxruntime", card, *tensors(model)))

    assert config.name == AWKWARD
    assert Card.from_json(config.parameters[METADATA_KEY].string_value) == card


def test_a_plan_of_tensorrt_is_served_by_tensorrt(tmp_path):
    model = onnx.load(negative_model(tmp_path / "model.onnx", make_card()))
    (tmp_path / "zebra.plan").write_bytes(b"a plan")

    version = add_to_repository(tmp_path / "models", tmp_path / "zebra.plan", make_card(), *tensors(model))

    assert (version / "model.plan").read_bytes() == b"a plan"
    assert served(tmp_path / "models", "zebra").backend == "tensorrt"


# the repository


def test_a_second_export_is_a_second_version_and_the_first_stays(tmp_path):
    source = negative_model(tmp_path / "model.onnx", make_card())
    repository = tmp_path / "models"
    assert here("i2i-export", source, "--triton", repository).returncode == 0
    first = file_sha256(repository / "model" / "1" / "model.onnx")
    negative_model(source, make_card(), scale=-0.5)

    finished = here("i2i-export", source, "--triton", repository)

    assert finished.returncode == 0, finished.stderr
    assert f"{repository / 'model' / '2'}: for Triton" in finished.stdout
    assert sorted(path.name for path in (repository / "model").iterdir()) == ["1", "2", "config.pbtxt"]
    assert file_sha256(repository / "model" / "1" / "model.onnx") == first
    assert file_sha256(repository / "model" / "2" / "model.onnx") == file_sha256(source) != first


def test_the_next_version_is_above_the_highest(tmp_path):
    (tmp_path / "models" / "model" / "9").mkdir(parents=True)
    (tmp_path / "models" / "model" / "labels.txt").touch()
    source = negative_model(tmp_path / "model.onnx", make_card())

    assert here("i2i-export", source, "--triton", tmp_path / "models").returncode == 0

    assert (tmp_path / "models" / "model" / "10" / "model.onnx").is_file()


def test_a_disk_that_fails_leaves_the_version_before(tmp_path, monkeypatch):
    model = negative_model(tmp_path / "model.onnx", make_card())
    arguments = (tmp_path / "models", model, make_card(), *tensors(onnx.load(model)))
    add_to_repository(*arguments)

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(SinkError, match="No space left on device"):
        add_to_repository(*arguments)

    assert sorted(path.name for path in (tmp_path / "models" / "model").iterdir()) == ["1", "config.pbtxt"]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param("model.xml", "openvino", marks=needs_openvino),
        pytest.param("model.plan", "tensorrt-rtx", marks=needs_rtx),
    ],
)
@pytest.mark.parametrize("source", ["checkpoint", "ONNX file"])
def test_what_triton_does_not_serve_is_refused_before_anything_is_written(tmp_path, source, name, target):
    made = tmp_path / "made"
    if source == "checkpoint":
        path = save_untrained(tmp_path / "last.pt", pictures=1)
    else:
        path = negative_model(tmp_path / "model.onnx", make_card())

    finished = here("i2i-export", path, "-o", made / name, "--target", target, "--triton", made / "models")

    assert finished.returncode == 2
    assert f"--triton: Triton serves ONNX files and plans of TensorRT, not {target}" in the_error_line(finished)
    assert not made.exists()


def test_a_model_without_a_card_is_refused(tmp_path):
    source = negative_model(tmp_path / "model.onnx", bare=True)

    finished = here("i2i-export", source, "--triton", tmp_path / "models")

    assert finished.returncode == 2
    assert "carries no card" in the_error_line(finished)
    assert not (tmp_path / "models").exists()
