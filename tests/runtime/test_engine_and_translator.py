"""From a model file to a translated picture, and every file that is no such model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import python
from onnx import TensorProto, helper, numpy_helper
from onnx_models import make_card, model_with_weights_outside, negative_model, save

from i2i_runtime.card import SizeRule
from i2i_runtime.engines.open import open_engine, wheel_conflicts
from i2i_runtime.errors import DeviceError, ModelError, UsageError
from i2i_runtime.translator import Assumptions, Translator

FLOAT, HALF, DOUBLE, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8


def picture(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def flat(height: int, width: int, colour: tuple[int, int, int] = (10, 100, 200)) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def largest_difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.fixture
def model(tmp_path):
    """Write the negative model, or one that differs from it, and give its path."""
    return lambda *arguments, **options: negative_model(tmp_path / "model.onnx", *arguments, **options)


@pytest.fixture
def custom_model(tmp_path):
    """Write a model of one node from tensors given as (name, type, shape)."""

    def write(inputs, outputs, operation="Neg", *, constants=(), card=None, **attributes) -> Path:
        names = [name for name, *_ in inputs] + [constant.name for constant in constants]
        node = helper.make_node(operation, names, [outputs[0][0]], **attributes)
        return save(tmp_path / "model.onnx", [node], inputs, outputs, constants, card)

    return write


def test_the_card_is_read_from_the_metadata_of_the_file(model):
    card = make_card(None, multiple_of=32)

    with open_engine(model(card)) as engine:
        assert engine.card == card


def test_an_engine_names_its_tensors_and_what_runs_it(model):
    with open_engine(model(make_card((32, 48)))) as engine:
        assert [str(spec) for spec in engine.inputs + engine.outputs] == ["float32 1x3x32x48"] * 2
        assert engine.provider == "ONNX Runtime CPU"


def test_sizes_that_may_vary_are_shown_as_question_marks(model):
    with open_engine(model(make_card(None))) as engine:
        assert str(engine.inputs[0]) == "float32 1x3x?x?"


@pytest.mark.parametrize("graph_io", ["float", "uint8"])
def test_a_picture_of_the_models_size_gets_the_exact_negative(model, graph_io):
    image = picture(64, 64)

    with Translator(model(make_card(graph_io=graph_io))) as translator:
        assert largest_difference(translator(image), 255 - image) <= 1


@pytest.fixture(scope="module")
def free_translators(tmp_path_factory):
    """Translators of free size, by (graph_io, multiple_of)."""
    folder = tmp_path_factory.mktemp("free")
    kinds = [(graph_io, multiple_of) for graph_io in ("float", "uint8") for multiple_of in (1, 32)]
    cards = {kind: make_card(None, graph_io=kind[0], multiple_of=kind[1]) for kind in kinds}
    return {kind: Translator(negative_model(folder / f"{kind[0]}{kind[1]}.onnx", card)) for kind, card in cards.items()}


@settings(max_examples=60, deadline=None)
@given(
    kind=st.tuples(st.sampled_from(["float", "uint8"]), st.sampled_from([1, 32])),
    height=st.integers(1, 100),
    width=st.integers(1, 100),
)
def test_a_model_of_free_size_gives_the_negative_of_any_picture(free_translators, kind, height, width):
    image = picture(height, width)

    assert largest_difference(free_translators[kind](image), 255 - image) <= 1


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize("graph_io", ["float", "uint8"])
@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (63, 65), (37, 91), (480, 640)])
def test_a_model_of_fixed_size_gives_any_picture_its_own_size_back(model, size, graph_io, fit):
    image = flat(*size)

    with Translator(model(make_card(graph_io=graph_io)), fit=fit) as translator:
        assert largest_difference(translator(image), 255 - image) <= 1


def test_pictures_of_several_sizes_may_follow_each_other(model):
    translator = Translator(model(make_card(None)))

    results = [translator(picture(*size)) for size in ((10, 20), (20, 10), (10, 20))]

    assert [r.shape for r in results] == [(10, 20, 3), (20, 10, 3), (10, 20, 3)]
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("graph_io", ["float", "uint8"])
def test_a_gray_model_sees_the_brightness_and_returns_it_in_all_three_channels(model, graph_io):
    image = flat(64, 64, (20, 120, 220))
    brightness = round(0.114 * 20 + 0.587 * 120 + 0.299 * 220)  # ITU-R BT.601

    with Translator(model(make_card(channels=1, graph_io=graph_io))) as translator:
        assert largest_difference(translator(image), 255 - flat(64, 64, (brightness,) * 3)) <= 1


def test_a_half_precision_graph_is_fed_half_precision(custom_model):
    path = custom_model([("image", HALF, [1, 3, 64, 64])], [("result", HALF, [1, 3, 64, 64])], card=make_card())
    image = picture(64, 64)

    with Translator(path) as translator:
        assert largest_difference(translator(image), 255 - image) <= 1


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (1.0, -1.0)])
def test_the_value_range_of_the_card_is_kept_on_both_sides(custom_model, value_range):
    card = make_card()
    spec = dataclasses.replace(card.input, value_range=value_range)
    card = dataclasses.replace(card, input=spec, output=spec)
    tensor = [1, 3, 64, 64]
    path = custom_model([("image", FLOAT, tensor)], [("result", FLOAT, tensor)], "Identity", card=card)
    image = picture(64, 64)

    with Translator(path) as translator:
        assert largest_difference(translator(image), image) <= 1


FIRST_CHANNEL_ONLY = numpy_helper.from_array(np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1), "first")


@pytest.mark.parametrize(("colour", "kept"), [("RGB", 2), ("BGR", 0)])
def test_the_colour_order_of_the_card_decides_which_channel_comes_first(custom_model, colour, kept):
    card = make_card()
    spec = dataclasses.replace(card.input, colour=colour, value_range=(0.0, 1.0))
    card = dataclasses.replace(card, input=spec, output=spec)
    tensor = [1, 3, 64, 64]
    path = custom_model(
        [("image", FLOAT, tensor)], [("result", FLOAT, tensor)], "Mul", constants=[FIRST_CHANNEL_ONLY], card=card
    )
    image = picture(64, 64)

    with Translator(path) as translator:
        result = translator(image)

    assert np.array_equal(np.flatnonzero(result.any(axis=(0, 1))), [kept])
    assert np.array_equal(result[..., kept], image[..., kept])


def test_a_model_without_a_card_runs_and_says_what_is_assumed(model):
    translator = Translator(model(bare=True))
    image = picture(64, 64)

    result = translator(image)

    assert largest_difference(result, 255 - image) <= 1
    assert translator.assumed == (
        "model.onnx carries no card: assuming RGB values from -1 to 1 (--colour, --value-range)"
    )


def test_a_model_with_a_card_assumes_nothing(model):
    assert Translator(model()).assumed is None


def test_a_model_of_free_size_without_a_card_gets_multiples_of_32(model):
    translator = Translator(model(make_card(None), bare=True))

    assert translator.card.size == SizeRule(multiple_of=32)


def test_a_uint8_model_without_a_card_is_taken_for_bgr_pictures(model):
    translator = Translator(model(make_card(graph_io="uint8"), bare=True))
    image = picture(64, 64)

    result = translator(image)

    assert largest_difference(result, 255 - image) <= 1
    assert translator.assumed == "model.onnx carries no card: assuming uint8 pictures, BGR"


def test_a_flag_changes_the_assumed_value_range(custom_model):
    # Twice the value: in [0, 255] that doubles the picture, in [-1, 1] it would push it away from grey.
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    tensor = [1, 3, 64, 64]
    path = custom_model([("image", FLOAT, tensor)], [("result", FLOAT, tensor)], "Mul", constants=[two])

    translator = Translator(path, assumptions=Assumptions(value_range=(0.0, 255.0)))

    assert np.array_equal(translator(flat(64, 64, (10, 50, 100))), flat(64, 64, (20, 100, 200)))
    assert "assuming RGB values from 0 to 255" in translator.assumed


def test_a_flag_changes_the_assumed_colour_order(custom_model):
    tensor = [1, 3, 64, 64]
    path = custom_model([("image", FLOAT, tensor)], [("result", FLOAT, tensor)], "Mul", constants=[FIRST_CHANNEL_ONLY])

    translator = Translator(path, assumptions=Assumptions(colour="BGR", value_range=(0.0, 1.0)))

    assert np.array_equal(translator(flat(64, 64, (10, 50, 100))), flat(64, 64, (10, 0, 0)))


@pytest.mark.parametrize("assumptions", [Assumptions(colour="BGR"), Assumptions(value_range=(0.0, 1.0))])
def test_a_flag_against_the_card_is_a_usage_error(model, assumptions):
    with pytest.raises(UsageError, match=r"model.onnx: its card states colour and value range; drop --colour and"):
        Translator(model(), assumptions=assumptions)


def test_a_flag_for_a_uint8_model_is_a_usage_error(model):
    with pytest.raises(UsageError, match=r"model.onnx: it takes uint8 pictures; drop --colour and --value-range"):
        Translator(model(make_card(graph_io="uint8"), bare=True), assumptions=Assumptions(colour="RGB"))


@pytest.mark.parametrize(
    ("inputs", "outputs", "operation", "found"),
    [
        pytest.param(
            [("a", FLOAT, [1, 3, 8, 8]), ("b", FLOAT, [1, 3, 8, 8])],
            [("r", FLOAT, [1, 3, 8, 8])],
            "Add",
            "found float32 1x3x8x8, float32 1x3x8x8 -> float32 1x3x8x8",
            id="two inputs",
        ),
        pytest.param(
            [("a", FLOAT, [1, 4, 8, 8])],
            [("r", FLOAT, [1, 4, 8, 8])],
            "Neg",
            "found float32 1x4x8x8 -> float32 1x4x8x8",
            id="four channels",
        ),
        pytest.param(
            [("a", FLOAT, [3, 8, 8])], [("r", FLOAT, [3, 8, 8])], "Neg", "found float32 3x8x8", id="three axes"
        ),
        pytest.param(
            [("a", FLOAT, [2, 3, 8, 8])], [("r", FLOAT, [2, 3, 8, 8])], "Neg", "found float32 2x3x8x8", id="batch of 2"
        ),
        pytest.param(
            [("a", FLOAT, ["n", "c", "h", "w"])],
            [("r", FLOAT, ["n", "c", "h", "w"])],
            "Neg",
            "found float32 ?x?x?x? -> float32 ?x?x?x?",
            id="unknown channels",
        ),
        pytest.param(
            [("a", FLOAT, [1, 3, 8, 8])],
            [("r", FLOAT, [1, 192])],
            "Flatten",
            "found float32 1x3x8x8 -> float32 1x192",
            id="a classifier",
        ),
    ],
)
@pytest.mark.fault(29)
def test_a_model_that_is_not_image_to_image_is_refused_with_what_was_found(
    custom_model, inputs, outputs, operation, found
):
    path = custom_model(inputs, outputs, operation)

    with pytest.raises(ModelError) as raised:
        Translator(path)

    assert str(raised.value).startswith("model.onnx: expected one input and one output, both float NCHW or both uint8")
    assert found in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_double_precision_model_is_refused_and_named(custom_model):
    path = custom_model([("image", DOUBLE, [1, 3, 8, 8])], [("result", DOUBLE, [1, 3, 8, 8])])

    with pytest.raises(ModelError, match=r"model.onnx: tensor image: expected .*float.* found tensor\(double\)"):
        Translator(path)


def test_a_model_of_another_size_than_its_card_says_is_refused(custom_model):
    path = custom_model([("image", FLOAT, [1, 3, 8, 8])], [("result", FLOAT, [1, 3, 8, 8])], card=make_card((64, 64)))

    with pytest.raises(ModelError, match=r"expected the size of its card, 64x64; found float32 1x3x8x8"):
        Translator(path)


def test_a_model_with_other_channels_than_its_card_says_is_refused(custom_model):
    path = custom_model(
        [("image", FLOAT, [1, 1, 64, 64])], [("result", FLOAT, [1, 1, 64, 64])], card=make_card((64, 64))
    )

    with pytest.raises(ModelError, match=r"expected 3 input and 3 output channels as its card says; found"):
        Translator(path)


def test_a_model_with_a_broken_card_is_refused_by_its_name(model):
    path = model()
    proto = onnx.load(path)
    proto.metadata_props[0].value = "{}"
    onnx.save(proto, path)

    with pytest.raises(ModelError, match=r"model.onnx: card version None is unknown"):
        Translator(path)


def test_a_model_that_returns_another_size_than_it_was_given_is_refused(custom_model):
    path = custom_model(
        [("image", FLOAT, [1, 3, "h", "w"])],
        [("result", FLOAT, [1, 3, "h2", "w2"])],
        "MaxPool",
        kernel_shape=[2, 2],
        strides=[2, 2],
    )

    with pytest.raises(ModelError, match=r"model.onnx: expected a result of the input's size, 64x32; found 32x16"):
        Translator(path)(picture(32, 64))


def test_nan_in_the_result_is_a_model_error(model):
    with pytest.raises(ModelError, match=r"model.onnx: the model returned NaN or infinity"):
        Translator(model(scale=float("nan")))(picture())


def test_infinities_of_both_signs_in_the_result_are_a_model_error(model):
    black_and_white = np.zeros((64, 64, 3), np.uint8)
    black_and_white[:32] = 255

    with pytest.raises(ModelError, match=r"model.onnx: the model returned NaN or infinity"):
        Translator(model(scale=float("inf")))(black_and_white)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
@pytest.mark.fault(31)
def test_cuda_that_is_not_there_is_a_device_error_and_no_fall_back(model):
    with pytest.raises(DeviceError, match=r"--device cuda: this ONNX Runtime has no CUDA; pip .*or use --device cpu"):
        Translator(model(), device="cuda")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"I am not a model\n" * 9, id="text"),
        pytest.param(bytes(range(256)) * 16, id="garbage"),
        pytest.param(b"\x80\x02}q\x00.", id="pickle"),
        pytest.param(b"PK\x03\x04" + b"\0" * 100, id="zip"),
    ],
)
@pytest.mark.fault(27)
def test_a_file_that_is_no_onnx_model_is_one_line_that_names_it(tmp_path, content):
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"garbage.onnx: not an ONNX model") as raised:
        open_engine(path)

    assert "\n" not in str(raised.value)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.fault(27)
def test_a_damaged_model_is_a_model_error_or_still_runs(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    content = bytearray(negative_model(path).read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    assert "\n" not in refusal(path)


def refusal(path: Path) -> str:
    """What is said against a model; nothing if it runs. Any other error goes through."""
    try:
        Translator(path)(picture(8, 8))
    except ModelError as error:
        return str(error)
    return ""


@pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 24),
    reason="ONNX Runtime up to 1.23, the last for Python 3.10, reads weights from any folder",
)
@pytest.mark.fault(28)
def test_weights_outside_the_models_folder_are_refused(tmp_path):
    path = model_with_weights_outside(tmp_path)

    with pytest.raises(ModelError, match=r"model.onnx: not an ONNX model that ONNX Runtime can load"):
        open_engine(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("best.pt", r"best.pt: expected an .onnx, .* or .xml file, found .pt; export the checkpoint first: i2i-export"),
        ("model.trt", r"model.trt: expected an .onnx, .plan, .engine or .xml file, found .trt$"),
        ("model", r"model: expected an .onnx, .plan, .engine or .xml file, found no suffix$"),
    ],
)
def test_another_kind_of_file_is_refused_by_its_suffix(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"x")

    with pytest.raises(ModelError, match=message):
        open_engine(tmp_path / name)


def test_a_missing_model_is_named_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(ModelError, match=r"none.onnx: no such engine file; make one with i2i-export"):
        open_engine(tmp_path / "none.onnx")


BLOCKED = """
import sys
sys.modules["onnxruntime"] = None
"""
BROKEN = """
import importlib.abc, sys
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            raise ImportError("libcudart.so.12: cannot open shared object file")
sys.meta_path.insert(0, Broken())
"""


@pytest.mark.parametrize("prelude", [BLOCKED, BROKEN])
def test_without_a_working_onnx_runtime_one_line_names_the_commands(model, prelude):
    code = f"""{prelude}
import sys
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import ModelError
try:
    open_engine(sys.argv[1])
except ModelError as error:
    print(error)
"""

    message = python(code, model()).stdout

    assert message.startswith("no engine to run ONNX files (")
    assert message.endswith("; pip install 'i2i[cpu]', or 'i2i[gpu]' for an NVIDIA GPU\n")


@pytest.mark.fault(44)
def test_two_wheels_that_overwrite_each_other_are_named(tmp_path, monkeypatch):
    for name in ("onnxruntime", "onnxruntime-gpu"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.20.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.20.0\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])

    conflicts = wheel_conflicts()

    assert conflicts == [
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
        "pip uninstall -y onnxruntime onnxruntime-gpu, then install the one you need"
    ]


def test_several_pictures_go_through_a_model_of_any_batch_in_one_run(tmp_path, monkeypatch):
    shape = ["batch", 3, "height", "width"]
    path = save(
        tmp_path / "any.onnx",
        [helper.make_node("Neg", ["image"], ["result"])],
        [("image", TensorProto.FLOAT, shape)],
        [("result", TensorProto.FLOAT, shape)],
    )
    pictures = [np.full((32, 32, 3), grey, np.uint8) for grey in (10, 60, 200)]
    with Translator(path) as translator:
        batches = []
        run = translator._engine.run
        monkeypatch.setattr(translator._engine, "run", lambda *given, out: batches.append(len(given[0])) or run(*given))

        together = translator.batch(pictures)
        apart = translator.batch([pictures[0], np.full((64, 32, 3), 60, np.uint8)])

    assert batches == [3, 1, 1], "pictures of two sizes do not fit into one tensor"
    assert [int(result[0, 0, 0]) for result in together] == [245, 195, 55]
    assert [result.shape for result in apart] == [(32, 32, 3), (64, 32, 3)]
