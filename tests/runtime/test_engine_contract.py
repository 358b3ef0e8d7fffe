"""What every engine promises, and every way to ask for one: ONNX Runtime, and OpenVINO with both kinds of files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import make_card, model_with_weights_outside, negative_model, save
from plans import conv_model

from i2i_runtime.card import METADATA_KEY
from i2i_runtime.engines.base import DEVICES
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import DeviceError, ModelError, UsageError

FLOAT = TensorProto.FLOAT
WAYS = ("onnxruntime", "openvino", "openvino xml")


def open_with(way: str, path, **options):
    """The ONNX file `path` in an engine; `openvino xml` converts it first."""
    if not way.startswith("openvino"):
        return open_engine(path, backend="onnxruntime", **options)
    ov = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'i2i[openvino]'")
    if way == "openvino":
        return open_engine(path, backend="openvino", **options)
    model = ov.Core().read_model(path)
    card = {entry.key: entry.value for entry in onnx.load(path).metadata_props}.get(METADATA_KEY)
    if card:
        model.set_rt_info(card, [METADATA_KEY])
    ov.save_model(model, path.with_suffix(".xml"), compress_to_fp16=False)
    return open_engine(path.with_suffix(".xml"), **options)


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


def image(height: int = 8, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (1, 3, height, width)).astype(np.float32)


def two_outputs(path):
    """A model that returns the negative and the double."""
    nodes = [
        helper.make_node("Neg", ["image"], ["negative"]),
        helper.make_node("Add", ["image", "image"], ["double"]),
    ]
    shape = [1, 3, "height", "width"]
    outputs = [("negative", FLOAT, shape), ("double", FLOAT, shape)]
    return save(path, nodes, [("image", FLOAT, shape)], outputs, card=make_card(None))


@pytest.mark.parametrize("size", [(8, 16), None])
def test_it_describes_itself(tmp_path, way, size):
    with open_with(way, conv_model(tmp_path / "model.onnx", size)) as engine:
        shape = "1x3x8x16" if size else "1x3x?x?"
        assert [f"{spec.name} {spec}" for spec in engine.inputs] == [f"image float32 {shape}"]
        assert [f"{spec.name} {spec}" for spec in engine.outputs] == [f"result float32 {shape}"]
        assert engine.card == make_card(size)
        assert engine.provider == ("ONNX Runtime CPU" if way == "onnxruntime" else "OpenVINO CPU")


def test_all_engines_compute_the_same(tmp_path, way):
    path = conv_model(tmp_path / "model.onnx", None)

    with open_with("onnxruntime", path) as expected, open_with(way, path) as engine:
        np.testing.assert_allclose(engine.run(image()), expected.run(image()), atol=1e-4)


@pytest.mark.parametrize("size", [(8, 16), None])
def test_a_result_goes_into_the_array_that_is_given(tmp_path, way, size):
    with open_with(way, conv_model(tmp_path / "model.onnx", size)) as engine:
        out = np.full((1, 3, 8, 16), np.nan, np.float32)
        for seed in range(3):
            picture = image(seed=seed)
            expected = engine.run(picture)

            assert engine.run(picture, out=out) is out
            np.testing.assert_array_equal(out, expected)


def test_an_array_that_was_given_once_is_left_alone_afterwards(tmp_path, way):
    with open_with(way, conv_model(tmp_path / "model.onnx", None)) as engine:
        first = engine.run(image(seed=1), out=np.empty((1, 3, 8, 16), np.float32))
        kept = first.copy()
        engine.run(image(seed=2))
        engine.run(image(seed=3), out=np.empty((1, 3, 8, 16), np.float32))
        engine.run(image(24, 16), out=np.empty((1, 3, 24, 16), np.float32))

    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("given", ["transposed", "read-only"])
def test_an_input_of_any_layout_is_read_right(tmp_path, way, given):
    picture = image(16, 8).transpose(0, 1, 3, 2) if given == "transposed" else image()
    picture.flags.writeable = False

    with open_with(way, conv_model(tmp_path / "model.onnx", None)) as engine:
        expected = engine.run(picture.copy())
        np.testing.assert_array_equal(engine.run(picture), expected)
        np.testing.assert_array_equal(engine.run(picture, out=np.empty(picture.shape, np.float32)), expected)


def not_writeable() -> np.ndarray:
    array = np.empty((1, 3, 8, 16), np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty((1, 3, 8, 16), np.float64), "output result: expected float32 1x3x.x.*, found float64 1x3x8x16"),
        (np.empty((1, 4, 8, 16), np.float32), "output result: expected float32 1x3x.x.*, found float32 1x4x8x16"),
        (np.empty((3, 8, 16), np.float32), "output result: expected float32 1x3x.x.*, found float32 3x8x16"),
        (
            np.empty((1, 3, 16, 8), np.float32).transpose(0, 1, 3, 2),
            "output result: expected a plain array to write to",
        ),
        (not_writeable(), "output result: expected a plain array to write to"),
    ],
)
def test_an_array_that_cannot_hold_the_result_is_refused(tmp_path, way, out, message):
    with (
        open_with(way, conv_model(tmp_path / "model.onnx", None)) as engine,
        pytest.raises(ModelError, match=f"^model.(onnx|xml): {message}"),
    ):
        engine.run(image(), out=out)


@pytest.mark.parametrize("shape", [(1, 3, 8, 15), (1, 3, 4, 16), (1, 3, 16, 16), (1, 3, 16, 8)])
def test_an_array_of_another_size_than_the_result_is_refused_and_the_engine_goes_on(tmp_path, way, shape):
    with open_with(way, conv_model(tmp_path / "model.onnx", None)) as engine:
        expected = engine.run(image())
        with pytest.raises(ModelError, match=r"^model.(onnx|xml): ") as raised:
            engine.run(image(), out=np.empty(shape, np.float32))
        assert "\n" not in str(raised.value)

        np.testing.assert_array_equal(engine.run(image(), out=np.empty((1, 3, 8, 16), np.float32)), expected)


def test_all_outputs_are_there_and_run_gives_the_first(tmp_path, way):
    with open_with(way, two_outputs(tmp_path / "model.onnx")) as engine:
        negative, double = engine.run_all(image())

        np.testing.assert_array_equal(negative, -image())
        np.testing.assert_array_equal(double, image() * 2)
        np.testing.assert_array_equal(engine.run(image()), negative)
        np.testing.assert_array_equal(engine.run(image(), out=np.empty_like(negative)), negative)


def test_a_missing_input_is_named(tmp_path, way):
    with (
        open_with(way, conv_model(tmp_path / "model.onnx", None)) as engine,
        pytest.raises(ModelError, match=r"expected 1 inputs, image; found 0"),
    ):
        engine.run()


@pytest.mark.parametrize("graph_io", ["float", "uint8"])
@pytest.mark.parametrize("size", [(64, 64), None])
def test_warming_up_leaves_an_engine_that_runs(tmp_path, way, size, graph_io):
    with open_with(way, negative_model(tmp_path / "model.onnx", make_card(size, graph_io=graph_io))) as engine:
        engine.warm_up()
        engine.warm_up((32, 48))

        spec = engine.inputs[0]
        picture = np.ones([length or 64 for length in spec.shape], spec.dtype)
        assert engine.run(picture).shape == picture.shape


def test_warming_up_runs_at_a_size_that_the_model_takes(tmp_path):
    seen = []
    with open_engine(negative_model(tmp_path / "model.onnx", make_card(None, multiple_of=96))) as engine:
        infer = engine._infer
        engine._infer = lambda inputs, outs: seen.append(inputs[0].shape) or infer(inputs, outs)
        engine.warm_up()

    assert seen == [(1, 3, 288, 288)] * 3


def test_a_model_of_unknown_shapes_is_left_cold(tmp_path):
    with open_engine(negative_model(tmp_path / "model.onnx", make_card(None), bare=True)) as engine:
        engine._infer = pytest.fail
        engine.warm_up()


# Asking for one -------------------------------------------------------------------------------------------------------


def test_the_devices_are_these():
    assert DEVICES == ("auto", "cpu", "cuda", "tensorrt", "gpu", "npu")


@pytest.mark.parametrize("device", ["gpu", "npu"])
def test_onnx_runtime_says_what_runs_on_an_intel_device(tmp_path, device):
    path = negative_model(tmp_path / "model.onnx")

    with pytest.raises(DeviceError, match=rf"--device {device}: ONNX Runtime has no way to it; .* needs OpenVINO"):
        open_engine(path, device)


def test_tensorrt_in_onnx_runtime_that_is_not_there_is_a_device_error(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has TensorRT")

    with pytest.raises(DeviceError, match="--device tensorrt: this ONNX Runtime has no TensorRT; pip"):
        open_engine(negative_model(tmp_path / "model.onnx"), "tensorrt")


@pytest.mark.parametrize("device", ["gpu", "npu"])
def test_openvino_names_the_devices_that_are_there_instead(tmp_path, device):
    ov = pytest.importorskip("openvino")
    if any(name.startswith(device.upper()) for name in ov.Core().available_devices):
        pytest.skip(f"here is an Intel {device}")

    with pytest.raises(DeviceError, match=rf"--device {device}: OpenVINO finds no {device.upper()} here, only cpu; "):
        open_engine(negative_model(tmp_path / "model.onnx"), device, backend="openvino")


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_openvino_has_no_way_to_an_nvidia_gpu(tmp_path, device):
    with pytest.raises(DeviceError, match=rf"--device {device}: OpenVINO runs model.onnx on .*; use one of them, or"):
        open_with("openvino", negative_model(tmp_path / "model.onnx"), device=device)


def test_openvino_computes_in_bf16_where_the_cpu_can_and_says_so_where_it_cannot(tmp_path):
    ov = pytest.importorskip("openvino")
    path = conv_model(tmp_path / "model.onnx", None)

    if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with open_engine(path, precision="bf16") as engine:
            assert engine.provider == "OpenVINO CPU bf16"
    else:
        with pytest.raises(DeviceError, match=r"expected a precision that this CPU has, f32.*; found bf16"):
            open_engine(path, precision="bf16")


def test_a_plain_onnx_file_runs_in_onnx_runtime_and_a_precision_means_openvino(tmp_path):
    pytest.importorskip("openvino")
    path = negative_model(tmp_path / "model.onnx")

    with open_engine(path) as plain, open_engine(path, precision="f32") as precise:
        assert (plain.provider, precise.provider) == ("ONNX Runtime CPU", "OpenVINO CPU")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.xml", {"backend": "onnxruntime"}, "onnxruntime does not run .xml files; leave the backend out"),
        ("model.plan", {"backend": "openvino"}, "openvino does not run .plan files; leave the backend out"),
        (
            "model.onnx",
            {"backend": "onnxruntime", "precision": "f32"},
            "only OpenVINO has a choice of precision, f32; leave it out",
        ),
        ("model.plan", {"precision": "bf16"}, "only OpenVINO has a choice of precision, bf16; leave it out"),
    ],
)
def test_what_a_kind_of_file_does_not_have_is_a_usage_error(tmp_path, name, options, message):
    (tmp_path / name).write_bytes(b"x")

    with pytest.raises(UsageError, match=message):
        open_engine(tmp_path / name, **options)


@pytest.mark.parametrize(
    "content",
    [b"", b"I am not a model\n" * 9, bytes(range(256)) * 16, b"PK\x03\x04" + b"\0" * 100],
    ids=["empty", "text", "garbage", "zip"],
)
def test_a_file_that_is_no_onnx_model_is_one_line_in_openvino_too(tmp_path, content, capfd):
    (tmp_path / "garbage.onnx").write_bytes(content)

    with pytest.raises(ModelError, match=r"garbage.onnx: (not a model|expected an ONNX model)") as raised:
        open_with("openvino", tmp_path / "garbage.onnx")

    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_openvino_reads_no_weights_outside_the_models_folder(tmp_path):
    path = model_with_weights_outside(tmp_path)

    with pytest.raises(ModelError, match=r"model.onnx: not a model that OpenVINO can load"):
        open_with("openvino", path)
