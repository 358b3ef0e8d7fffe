"""INT8 is symmetric quantise/dequantise pairs around the inner convolutions, good enough or refused with figures."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
import torch
from commands import here, the_error_line
from drawings import drawing
from foreign_networks import as_if_trained, resnet
from onnx import TensorProto, helper, numpy_helper
from plans import needs_rtx, rtx_plan
from untrained import save_untrained

from i2i_export import delivery, int8
from i2i_export.int8 import convolutions, tensor_ranges, to_int8
from i2i_runtime.card import METADATA_KEY, Card
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import ModelError
from i2i_runtime.image import write_image


def export(checkpoint, target, *arguments):
    finished = here("i2i-export", checkpoint, "-o", target, "--int8", *arguments)
    assert finished.returncode == 0, finished.stderr
    return finished


def card_in(path) -> Card:
    (entry,) = (entry for entry in onnx.load(path).metadata_props if entry.key == METADATA_KEY)
    return Card.from_json(entry.value)


def with_biases(generator):
    for module in generator.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.bias.normal_(0, 0.3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("resnet") / "last.pt"
    return save_untrained(path, "resnet_2blocks", pictures=6, change=with_biases)


@pytest.fixture(scope="module")
def quantised(checkpoint):
    path = checkpoint.with_name("int8.onnx")
    export(checkpoint, path, "--min-psnr", 15)
    return path


@pytest.fixture(scope="module")
def graph(quantised):
    return onnx.load(quantised).graph


def weights(graph) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def made_by(graph) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def in_int8(graph) -> list[str]:
    """Convolutions whose input and weights both are dequantised."""
    makers = made_by(graph)
    return [
        node.name
        for node in graph.node
        if node.op_type in ("Conv", "ConvTranspose")
        and all(name in makers and makers[name].op_type == "DequantizeLinear" for name in node.input[:2])
    ]


# the graph


def test_the_graph_is_valid(quantised):
    onnx.checker.check_model(onnx.load(quantised), full_check=True)


def test_all_zero_points_are_zero(graph):
    """TensorRT takes symmetric quantisation only."""
    nodes = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]

    assert nodes
    for node in nodes:
        zero = weights(graph)[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()


def test_weights_are_int8_with_a_scale_for_each_output_channel(graph):
    makers, arrays = made_by(graph), weights(graph)
    for node in graph.node:
        if node.name in in_int8(graph):
            dequantise = makers[node.input[1]]
            weight, scale = arrays[dequantise.input[0]], arrays[dequantise.input[1]]
            assert weight.dtype == np.int8
            assert scale.shape == (len(weight),)
            assert np.abs(weight.astype(int)).reshape(len(weight), -1).max(1).min() > 100, "the range is not used"


def test_biases_are_not_quantised(graph):
    makers, arrays = made_by(graph), weights(graph)
    biases = [node.input[2] for node in graph.node if node.op_type == "Conv" and len(node.input) > 2]

    assert biases
    assert not any(name in makers for name in biases)
    assert {arrays[name].dtype for name in biases} == {np.dtype(np.float32)}
    assert TensorProto.INT32 not in {tensor.data_type for tensor in graph.initializer}


def test_the_first_the_last_and_the_transposed_convolutions_are_left_alone(graph):
    names = [node.name for node in graph.node if node.op_type == "Conv"]

    assert in_int8(graph) == names[1:-1]
    arrays = weights(graph)
    for node in graph.node:
        if node.op_type == "ConvTranspose" or node.name in (names[0], names[-1]):
            assert arrays[node.input[1]].dtype == np.float32


def test_layers_keep_their_names_and_the_card_names_those_in_float32(graph, quantised):
    assert card_in(quantised).export.kept_fp32 == ("model.1/Conv", convolutions(onnx.load(quantised))[-1])


@needs_rtx
def test_tensorrt_rtx_builds_it(quantised, tmp_path):
    rtx_plan(quantised, tmp_path / "model.plan", card=None, precision="int8")

    assert (tmp_path / "model.plan").stat().st_size > 0


# quality


def test_onnx_runtime_keeps_the_quality_that_was_asked_for(quantised):
    (record,) = card_in(quantised).parity

    assert record.engine == "ONNX Runtime CPU"
    assert record.worst_psnr_db >= record.min_psnr_db == 15
    assert record.worst_psnr_db < 60, "nothing was quantised"


def test_its_result_is_near_that_of_the_float_graph_on_a_picture_that_it_has_not_seen(checkpoint, quantised, tmp_path):
    assert here("i2i-export", checkpoint, "-o", tmp_path / "float.onnx").returncode == 0
    image = drawing(77, 32, 32).transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1

    with open_engine(tmp_path / "float.onnx") as one, open_engine(quantised) as other:
        error = np.square(one.run(image) - other.run(image)).mean()

    assert 0 < error < 4 * 10 ** (-20 / 10)


@pytest.fixture
def search(monkeypatch):
    """Runs the search for a graph of 40 dB with figures instead of measurements."""

    def run(figures, names=8):
        """`figures`: quality by the number of layers in float32. Layer n alone in INT8 is at n dB."""
        monkeypatch.setattr(int8, "convolutions", lambda model: [f"c{n}" for n in range(names)])
        monkeypatch.setattr(int8, "tensor_ranges", lambda model, inputs, calibration: None)
        monkeypatch.setattr(int8, "to_int8", lambda model, ranges, only=(), keep=(), with_outputs=True: (only, keep))
        monkeypatch.setattr(int8, "_outermost", lambda model: ["c0", f"c{names - 1}"])
        return int8.good_enough(
            None,
            [],
            psnr=lambda graph: figures[len(graph[1])],
            quick_psnr=lambda graph: float(graph[0][0][1:]),
            min_psnr_db=40 - int8.MARGIN_DB,
        )[1]

    return run


def test_a_graph_that_is_good_at_once_keeps_nothing_more(search):
    assert search({2: 40.0}) == ["c0", "c7"]


def test_the_layers_that_harm_most_go_first(search):
    assert search({2: 30.0, 3: 35.0, 4: 41.0}) == ["c0", "c7", "c1", "c2"]


def test_no_more_than_half_of_the_convolutions_go_to_float32(search):
    with pytest.raises(ModelError, match=r"30\.0 dB .* 32\.0 dB with 2 of 6 .* expected 40 .* --min-psnr 37 "):
        search({2: 30.0, 3: 31.0, 4: 32.0})


def test_a_network_with_no_convolution_to_spare_is_refused(search):
    with pytest.raises(ModelError, match=r"30\.0 dB .* with 0 of 1 inner"):
        search({2: 30.0}, names=3)


def test_more_layers_stay_in_float32_where_more_is_asked(checkpoint, quantised, tmp_path):
    (record,) = card_in(quantised).parity

    finished = export(checkpoint, tmp_path / "better.onnx", "--min-psnr", f"{record.worst_psnr_db + 1.5:.1f}")

    fewer, more = card_in(quantised).export.kept_fp32, card_in(tmp_path / "better.onnx").export.kept_fp32
    assert set(fewer) < set(more)
    assert f"stay FP32: {', '.join(more)}" in finished.stderr
    assert card_in(tmp_path / "better.onnx").parity[0].worst_psnr_db > record.worst_psnr_db


def test_a_quality_that_cannot_be_had_is_refused_with_figures(checkpoint, tmp_path):
    finished = here("i2i-export", checkpoint, "-o", tmp_path / "model.onnx", "--int8", "--min-psnr", 80)

    assert finished.returncode == 4
    line = the_error_line(finished)
    first, best = map(float, re.findall(r"(\d+\.\d) dB", line))
    assert 10 < first <= best < 80
    assert "--min-psnr 80" in line
    assert "--fp16" in line
    assert list(tmp_path.iterdir()) == []


# calibration


def test_the_pictures_that_set_the_ranges_are_not_those_of_the_proof(checkpoint, tmp_path, monkeypatch):
    calibrated, proven = [], []
    ranges, measure = int8.tensor_ranges, delivery._Proof.measure

    def record_ranges(model, inputs, calibration):
        calibrated.extend(arrays[0] for arrays in inputs)
        return ranges(model, inputs, calibration)

    def record_proof(self, engine, card, examples):
        proven.extend(example["input"][None] for example in examples)
        return measure(self, engine, card, examples)

    monkeypatch.setattr(int8, "tensor_ranges", record_ranges)
    monkeypatch.setattr(delivery._Proof, "measure", record_proof)

    export(checkpoint, tmp_path / "model.onnx", "--min-psnr", 15)

    assert (len(calibrated), len(proven)) == (3, 3)
    assert not any(np.array_equal(one, other) for one in calibrated for other in proven)
    assert card_in(tmp_path / "model.onnx").parity[0].pictures == 3


def test_a_range_is_as_wide_as_the_pictures_make_it():
    """By hand: the largest value of the brightest picture is 127 steps."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["result"], name="c")],
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, [1, 1, 8, 8])],
        [numpy_helper.from_array(np.full((1, 1, 1, 1), 2, np.float32), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    dark, bright = (np.linspace(-peak, peak, 64, dtype=np.float32).reshape(1, 1, 8, 8) for peak in (0.5, 4))

    scales = {}
    for name, pictures in (("dark", [dark]), ("both", [dark, bright])):
        found = to_int8(model, tensor_ranges(model, [(picture,) for picture in pictures])).graph
        first = next(node for node in found.node if node.op_type == "QuantizeLinear" and node.input[0] == "image")
        scales[name] = weights(found)[first.input[1]].item()

    assert scales["dark"] == pytest.approx(0.5 / 127, rel=0.02)
    assert scales["both"] == pytest.approx(4 / 127, rel=0.02)


@pytest.mark.parametrize("calibration", ["percentile", "entropy"])
def test_both_ways_to_choose_a_range_work(checkpoint, tmp_path, calibration):
    export(checkpoint, tmp_path / "model.onnx", "--calibration", calibration, "--min-psnr", 15)

    assert len(in_int8(onnx.load(tmp_path / "model.onnx").graph)) >= 4
    assert card_in(tmp_path / "model.onnx").parity[0].worst_psnr_db >= 15


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("zebra") / "latest_net_G.pth"
    torch.save(as_if_trained(resnet(blocks=6, ngf=2)).state_dict(), path)
    return path


def test_a_file_without_pictures_needs_some(foreign, tmp_path):
    finished = here("i2i-export", foreign, "-o", tmp_path / "model.onnx", "--int8", "--size", 32)

    assert finished.returncode == 2
    assert "--int8" in the_error_line(finished)
    assert "give --pictures DIR" in the_error_line(finished)
    assert list(tmp_path.iterdir()) == []


def test_one_picture_is_not_enough_for_ranges_and_proof(foreign, tmp_path):
    write_image(tmp_path / "0.png", drawing(0))

    arguments = ("--int8", "--size", 32, "--pictures", tmp_path)
    finished = here("i2i-export", foreign, "-o", tmp_path / "model.onnx", *arguments)

    assert finished.returncode == 2
    assert "at least 2 pictures" in the_error_line(finished)


def test_pictures_of_the_users_own(foreign, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(5):
        write_image(pictures / f"{number}.png", drawing(number))

    export(foreign, tmp_path / "model.onnx", "--size", 32, "--pictures", pictures, "--min-psnr", 10)

    assert card_in(tmp_path / "model.onnx").parity[0].pictures == 2


def test_fp16_and_int8_exclude_each_other(checkpoint, tmp_path):
    finished = here("i2i-export", checkpoint, "-o", tmp_path / "model.onnx", "--int8", "--fp16")

    assert finished.returncode == 2
    assert "--fp16 and --int8: expected one of them" in the_error_line(finished)
