"""A tileable graph is the network as it was, and with given statistics the same network in tiles."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import here, the_error_line
from drawings import drawing
from onnx import TensorProto, helper, numpy_helper
from onnx_models import make_card
from plans import needs_no_gpu, needs_rtx
from untrained import save_untrained, save_untrained_labels

from i2i_export.graph import build_graph, exported_card
from i2i_export.onnx_file import read_graph
from i2i_export.tileable import make_tileable
from i2i_runtime.card import Architecture
from i2i_runtime.engines.open import open_engine
from i2i_runtime.image import image_to_tensor, tensor_to_image
from i2i_runtime.norm_statistics import FOUND, INPUTS, own_statistics
from i2i_runtime.tiling import TiledTranslator, radius
from i2i_trainer.networks.build import build_generator, size_rule
from i2i_trainer.trained import load_trained

SIZE = (32, 32)
NETWORKS = {
    "resnet": ("resnet_1blocks", {}),
    "affine": ("resnet_1blocks", {"norm": "instance_affine"}),
    "mobile": ("mobile_resnet_1blocks", {}),
    "unet of its picture": ("unet_32", {}),
}


def export(source, target, *arguments):
    finished = here("i2i-export", source, "-o", target, *arguments)
    assert finished.returncode == 0, finished.stderr
    return finished


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, *inputs: np.ndarray) -> list[np.ndarray]:
    names = [value.name for value in model.graph.input]
    return session(model).run(None, dict(zip(names, inputs, strict=True)))


def picture(size=SIZE) -> np.ndarray:
    return (drawing(1, *size).transpose(2, 0, 1)[None] / 127.5 - 1).astype(np.float32)


@pytest.fixture(scope="module", params=NETWORKS)
def both(request, tmp_path_factory):
    """A network's graph as it is, its tileable one, and the channels of its norms."""
    name, arguments = NETWORKS[request.param]
    path = save_untrained(tmp_path_factory.mktemp("both") / "last.pt", name, SIZE, **arguments)
    trained = load_trained(path)
    card = exported_card(trained.card, size=SIZE, graph_io="float", statistics=trained.statistics)
    graph = build_graph(trained.generator, card)
    return graph, *make_tileable(graph, SIZE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("checkpoint") / "last.pt", pictures=2)


def norm_of_the_picture(epsilon: float = 1e-5) -> onnx.ModelProto:
    """A graph that is one instance norm."""
    tensor = (TensorProto.FLOAT, [1, 3, *SIZE])
    graph = helper.make_graph(
        [helper.make_node("InstanceNormalization", ["image", "s", "b"], ["result"], "norm", epsilon=epsilon)],
        "norm",
        [helper.make_tensor_value_info("image", *tensor)],
        [helper.make_tensor_value_info("result", *tensor)],
        [
            numpy_helper.from_array(np.float32(value) * np.ones(3, np.float32), name)
            for name, value in (("s", 2), ("b", 1))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_with_its_own_statistics_a_tileable_graph_is_the_network_as_it_was(both):
    graph, tileable, channels = both
    (wanted,) = run(graph, picture())

    assert np.abs(run(tileable, picture(), *own_statistics(channels, SIZE))[0] - wanted).max() < 1e-5


def test_given_its_own_statistics_back_it_makes_the_same_picture(both):
    graph, tileable, channels = both
    (wanted,) = run(graph, picture())
    nothing, own, window = own_statistics(channels, SIZE)
    _, found = run(tileable, picture(), nothing, own, window)

    assert np.abs(run(tileable, picture(), found, 0 * own, window)[0] - wanted).max() < 1e-5


def test_given_other_statistics_it_makes_another_picture(both):
    _, tileable, channels = both
    nothing, own, window = own_statistics(channels, SIZE)
    right, found = run(tileable, picture(), nothing, own, window)

    assert np.abs(run(tileable, picture(), 2 * found, 0 * own, window)[0] - right).max() > 1e-2


def test_the_own_statistics_can_be_moved_by_deviations_and_the_log_of_a_factor():
    tileable, channels = make_tileable(norm_of_the_picture(), SIZE)
    nothing, own, window = own_statistics(channels, SIZE)
    move = np.stack([np.full(channels, 0.5), np.full(channels, np.log(4))])[None].astype(np.float32)

    usual, _ = run(tileable, picture(), nothing, own, window)
    moved, _ = run(tileable, picture(), move, own, window)

    # The result is 2 * normalised + 1.
    assert np.allclose((moved - 1) / 2, ((usual - 1) / 2 - 0.5) / 2, atol=1e-5)


def test_statistics_are_those_under_the_window():
    tileable, channels = make_tileable(norm_of_the_picture(), SIZE)
    nothing, own, window = own_statistics(channels, SIZE)
    window[..., 20:] = 0

    _, found = run(tileable, picture(), nothing, own, window)

    under = picture()[0, :, :, :20].reshape(3, -1).astype(np.float64)
    assert np.allclose(found[0], [under.mean(1), under.var(1)], atol=1e-6)


def test_the_variance_is_right_where_the_mean_is_far_from_zero():
    tileable, channels = make_tileable(norm_of_the_picture(), SIZE)
    far = np.random.default_rng(0).normal(300, 0.1, (1, 3, *SIZE)).astype(np.float32)

    _, found = run(tileable, far, *own_statistics(channels, SIZE))

    assert np.allclose(found[0, 1], far[0].astype(np.float64).var(axis=(1, 2)), rtol=1e-3)


@pytest.mark.parametrize("options", [(), ("--io", "uint8"), ("--dynamic", "--max-batch", 2), ("--fp16",)])
def test_a_tileable_export_is_proven_as_any_other(tmp_path, checkpoint, options):
    export(checkpoint, tmp_path / "t.onnx", "--tileable", *options)

    model, card = read_graph(tmp_path / "t.onnx")
    assert [value.name for value in model.graph.input] == ["image", *INPUTS]
    assert [value.name for value in model.graph.output] == ["result", FOUND]
    assert card.export.norm_channels == model.graph.input[1].type.tensor_type.shape.dim[2].dim_value > 0
    assert card.parity


def test_statistics_of_an_fp16_graph_are_fp32(tmp_path, checkpoint):
    export(checkpoint, tmp_path / "t.onnx", "--tileable", "--fp16")

    model, _ = read_graph(tmp_path / "t.onnx")
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    sums = [
        name for node in model.graph.node if node.op_type == "ReduceSum" for name in (*node.input[:1], *node.output)
    ]
    assert sums
    assert {types[name] for name in sums} == {TensorProto.FLOAT}


@needs_rtx
@needs_no_gpu
@pytest.mark.parametrize("options", [("--fp16",), ("--dynamic",)])
def test_tensorrt_builds_a_tileable_graph(tmp_path, checkpoint, options):
    export(checkpoint, tmp_path / "t.plan", "--target", "tensorrt-rtx", "--tileable", *options)

    assert (tmp_path / "t.plan").stat().st_size > 0


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs OpenVINO")
def test_openvino_makes_the_same_tiles_as_onnx_runtime(tmp_path, checkpoint):
    image = drawing(2, 80, 112)
    results = []
    for name in ("t.onnx", "t.xml"):
        export(checkpoint, tmp_path / name, "--tileable")
        with TiledTranslator(tmp_path / name) as translator:
            results.append(translator(image).astype(int))

    assert np.abs(results[0] - results[1]).max() <= 1


def test_tiles_of_a_real_network_come_out_as_the_whole_frame_does(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr("i2i_runtime.tiling.SETTLED", 0.0)
    export(checkpoint, tmp_path / "t.onnx", "--tileable", "--size", 128)
    image = drawing(2, 160, 256)

    with TiledTranslator(tmp_path / "t.onnx", overlap=64, most_passes=8) as tiled:
        found = tiled(image)

    trained = load_trained(checkpoint)
    with torch.no_grad():
        whole = trained.generator(torch.from_numpy(image_to_tensor(image, trained.card.input)))
    wanted = tensor_to_image(whole[0].numpy(), trained.card.output)
    assert np.abs(found.astype(int) - wanted).max() <= 3


def test_a_model_of_running_statistics_tiles_as_it_is(tmp_path):
    checkpoint = save_untrained(tmp_path / "last.pt", norm="batch", batch=4)

    said = export(checkpoint, tmp_path / "t.onnx", "--tileable").stderr

    assert "it tiles as it is" in said
    with open_engine(tmp_path / "t.onnx") as engine:
        assert len(engine.inputs) == 1
    TiledTranslator(tmp_path / "t.onnx").close()


def test_eight_bits_are_refused(tmp_path, checkpoint):
    failed = here("i2i-export", checkpoint, "-o", tmp_path / "t.onnx", "--tileable", "--int8")

    assert failed.returncode == 2
    assert "--tileable and --int8" in the_error_line(failed)


def test_label_maps_are_refused(tmp_path):
    labels = save_untrained_labels(tmp_path / "labels.pt")

    failed = here("i2i-export", labels, "-o", tmp_path / "t.onnx", "--tileable")

    assert failed.returncode == 2
    assert "expected a model of pictures" in the_error_line(failed)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet_1blocks", {}),
        ("resnet_3blocks", {}),
        ("resnet_1blocks", {"n_downsampling": 3}),
        ("resnet_1blocks", {"antialias_down": 3, "antialias_up": 4}),
        ("mobile_resnet_2blocks", {"inner_norm": "none"}),
    ],
)
def test_no_pixel_is_seen_from_further_than_the_radius(name, arguments):
    torch.manual_seed(0)
    architecture = Architecture(name=name, arguments={"ngf": 2, "norm": "none", **arguments})
    card = make_card(None)
    reach = radius(type(card)(**{**vars(card), "generator": architecture, "size": size_rule(architecture)}))
    generator = build_generator(architecture).eval()
    middle, side = 96, 192
    seen = np.zeros((side, side), bool)
    for at in range(middle, middle + 8):
        image = torch.randn(1, 3, side, side, requires_grad=True)
        generator(image)[0, :, at, middle].sum().backward()
        rows = np.nonzero(image.grad[0].abs().sum(0).numpy().any(axis=1))[0]
        seen[rows - at + middle] = True
    distances = np.abs(np.nonzero(seen.any(axis=1))[0] - middle)

    assert reach - 12 <= distances.max() <= reach
