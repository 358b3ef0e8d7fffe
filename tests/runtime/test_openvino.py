"""OpenVINO's own format in the real OpenVINO, on the CPU."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from commands import run, the_error_line
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import python
from onnx_models import make_card, negative_model
from plans import conv_model

from i2i_runtime.card import METADATA_KEY
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import DeviceError, ModelError
from i2i_runtime.translator import Translator

ov = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'i2i[openvino]'")

from i2i_runtime.engines.openvino import openvino_reason  # noqa: E402  (imports OpenVINO)


def to_openvino(onnx, card=None):
    """What the exporter does: the card in `rt_info`, weights as they are."""
    model = ov.Core().read_model(onnx)
    if card is not None:
        model.set_rt_info(card.to_json(), [METADATA_KEY])
    path = onnx.with_suffix(".xml")
    ov.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.fixture
def onnx(tmp_path):
    return conv_model(tmp_path / "model.onnx", None)


@pytest.mark.parametrize("threads", [None, 1])
@pytest.mark.parametrize("size", [(8, 8), (16, 40)])
def test_it_computes_what_onnx_runtime_computes(onnx, size, threads):
    image = np.random.default_rng(1).uniform(-1, 1, (1, 3, *size)).astype(np.float32)

    with open_engine(onnx) as expected, open_engine(to_openvino(onnx), threads=threads) as engine:
        assert engine.inputs == expected.inputs
        assert [spec.name for spec in engine.outputs] == ["result"]
        assert engine.provider == "OpenVINO CPU"
        np.testing.assert_allclose(engine.run(image), expected.run(image), atol=1e-4)


def test_a_result_is_the_callers_and_outlives_the_next_run(onnx):
    with open_engine(to_openvino(onnx)) as engine:
        first = engine.run(np.ones((1, 3, 8, 8), np.float32))
        kept = first.copy()
        engine.run(np.zeros((1, 3, 8, 8), np.float32))

    np.testing.assert_array_equal(first, kept)


def test_an_array_that_is_no_plain_block_of_memory_is_read_right(onnx):
    image = np.random.default_rng(1).uniform(-1, 1, (1, 12, 8, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    image.flags.writeable = False

    with open_engine(to_openvino(onnx)) as engine:
        np.testing.assert_array_equal(engine.run(image), engine.run(image.copy()))


def test_the_card_survives_with_quotes_and_letters_of_all_kinds(onnx):
    card = make_card(None)
    strange = type(card)(**{**vars(card), "name": 'zèbre "<&>" \\ \n 斑马'})

    with open_engine(to_openvino(onnx, strange)) as engine:
        assert engine.card == strange


def test_a_model_without_a_card_has_none(onnx):
    with open_engine(to_openvino(onnx)) as engine:
        assert engine.card is None


@pytest.mark.parametrize("graph_io", ["float", "uint8"])
def test_a_picture_is_translated(tmp_path, graph_io):
    card = make_card((64, 64), graph_io=graph_io)
    path = to_openvino(negative_model(tmp_path / "model.onnx", card), card)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)

    with Translator(path) as translator:
        result = translator(picture)

    assert np.abs(result.astype(int) - (255 - picture.astype(int))).max() <= 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no /proc to see what is mapped")
def test_a_closed_engine_lets_go_of_its_files(onnx):
    path = to_openvino(onnx)

    with open_engine(path) as engine:
        engine.run(np.zeros((1, 3, 8, 8), np.float32))
    gc.collect()

    assert str(path.with_suffix(".bin")) not in Path("/proc/self/maps").read_text()
    engine.close()


def test_the_reason_of_a_failure_is_what_openvino_says_last():
    error = RuntimeError("Exception from src/inference/src/cpp/core.cpp:84:\nCheck 'x' failed\n\nNo such layer: Odd \n")

    assert openvino_reason(error) == "No such layer: Odd"
    assert openvino_reason(RuntimeError()) == "RuntimeError"


def test_missing_weights_are_named(onnx):
    path = to_openvino(onnx)
    path.with_suffix(".bin").unlink()

    with pytest.raises(
        ModelError, match=r"model.xml: its weights are missing; expected model.bin beside it, copy both"
    ):
        open_engine(path)


def test_weights_that_were_cut_off_are_a_model_error(onnx):
    path = to_openvino(onnx)
    path.with_suffix(".bin").write_bytes(b"")

    with pytest.raises(ModelError, match=r"model.xml: not a model that OpenVINO can load") as raised:
        open_engine(path)

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"", b"I am not a model", b"<svg></svg>", b"<?xml version='1.0'?><net", b"\x80<net"]
)
def test_a_file_that_is_no_openvino_model_is_one_line_and_nothing_else_is_printed(tmp_path, content):
    path = tmp_path / "model.xml"
    path.write_bytes(content)
    path.with_suffix(".bin").write_bytes(b"")

    result = run("i2i-run", "--engine", path, "--images", tmp_path, "--output", tmp_path / "out")

    assert result.returncode == 4
    assert result.stderr.startswith(f"error: {path}: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((1, 4, 8, 8), np.float32), "float32 1x4x8x8"),
        (np.zeros((1, 3, 8, 8), np.uint8), "uint8 1x3x8x8"),
        (np.zeros((3, 8, 8), np.float32), "float32 3x8x8"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(onnx, image, found):
    with (
        open_engine(to_openvino(onnx)) as engine,
        pytest.raises(ModelError, match=rf"input image: expected float32 1x3x\?x\?, found {found}"),
    ):
        engine.run(image)


def test_cuda_is_refused(onnx):
    with pytest.raises(DeviceError, match=r"--device cuda: OpenVINO runs model.xml on cpu.*; use .* the model's .plan"):
        open_engine(to_openvino(onnx), device="cuda")


def test_without_openvino_one_line_says_what_to_install(tmp_path, onnx):
    code = """
import sys
sys.modules["openvino"] = None
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import ModelError
try:
    open_engine(sys.argv[1])
except ModelError as error:
    print(error)
"""

    message = python(code, to_openvino(onnx)).stdout

    assert message.startswith("no engine to run OpenVINO models (")
    assert message.endswith("; pip install 'i2i[openvino]'\n")


def test_the_command_runs_it(tmp_path):
    path = to_openvino(negative_model(tmp_path / "model.onnx"), make_card())

    result = run("i2i-run", "--engine", path, "--images", tmp_path / "none", "--output", tmp_path / "out")

    assert result.returncode == 3
    assert "none" in the_error_line(result)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_damaged_model_is_a_model_error_or_still_runs(tmp_path_factory, data):
    path = to_openvino(negative_model(tmp_path_factory.mktemp("damaged") / "model.onnx"), make_card())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(32, 126))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    assert "\n" not in refusal(path)


def refusal(path) -> str:
    """What is said against a model; nothing if it runs. Any other error goes through."""
    try:
        Translator(path)(np.zeros((8, 8, 3), np.uint8))
    except ModelError as error:
        return str(error)
    return ""
