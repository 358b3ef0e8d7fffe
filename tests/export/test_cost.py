"""What one inference costs is what the network's definition says, however the graph was written down."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import python
from onnx import TensorProto, helper, numpy_helper
from onnx_models import negative_model
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from i2i_export.cost import Cost, NodeCost, count
from i2i_export.fp16 import to_fp16
from i2i_export.graph import build_graph, exported_card
from i2i_export.int8 import tensor_ranges, to_int8
from i2i_export.tileable import make_tileable
from i2i_runtime.card import Architecture, Card, ImageSpec, LabelSpec, SizeProfile
from i2i_runtime.errors import ModelError, UsageError
from i2i_trainer.networks.build import build_generator, size_rule
from i2i_trainer.networks.inference import as_used

FLOAT = TensorProto.FLOAT
LABELS = LabelSpec(count=4, instance_edges=True, styles=3)
FEATURES = 2


def architecture_of(name: str, **arguments) -> Architecture:
    return Architecture(name=name, arguments={"input_channels": 3, "output_channels": 3, "ngf": 4, **arguments})


HD = {"input_channels": LABELS.count + LABELS.instance_edges + FEATURES, "n_downsampling": 2, "n_blocks": 1}
NETWORKS = {
    "resnet_9blocks": (architecture_of("resnet_9blocks", ngf=64), (256, 256)),
    "unet_256": (architecture_of("unet_256", ngf=64), (256, 256)),
    "unet_128": (architecture_of("unet_128"), (128, 128)),
    "mobile_resnet_9blocks": (architecture_of("mobile_resnet_9blocks"), (64, 96)),
    "global of 36 channels": (architecture_of("global", input_channels=36), (256, 512)),
    "local of 36 channels": (architecture_of("local", input_channels=36), (256, 512)),
    "CUT's resnet": (architecture_of("resnet_2blocks", antialias_down=3, antialias_up=4), (32, 48)),
    "resnet": (architecture_of("resnet_1blocks"), (32, 32)),
    "unet": (architecture_of("unet_32"), (32, 32)),
    "local": (architecture_of("local", n_local_blocks=1, **HD), (32, 32)),
}
"""Architectures as they are published, in width too (the first two) or narrow, and small ones; with their sizes."""


def used(name: str, labels: LabelSpec | None = None) -> nn.Module:
    """A generator as it is exported, without zeros that an exporter could leave out; of label maps with styles."""
    torch.manual_seed(0)
    generator = build_generator(NETWORKS[name][0])
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.normal_(0, 0.1)
    codes = torch.randn(labels.styles, labels.count, FEATURES) if labels is not None else None
    return as_used(generator, "image", labels, codes)


def graph_of(
    name: str, size: tuple[int, int] | None = None, *, graph_io: str = "float", is_dynamic: bool = False
) -> onnx.ModelProto:
    """The exported graph, made once for all tests; `local` takes label maps, all others pictures."""
    return _exported(name, size or NETWORKS[name][1], graph_io, is_dynamic)


@functools.cache
def _exported(name: str, size: tuple[int, int], graph_io: str, is_dynamic: bool) -> onnx.ModelProto:
    architecture, labels = NETWORKS[name][0], LABELS if name == "local" else None
    card = Card(
        name="fresh",
        model_type="pix2pix",
        direction="AtoB",
        generator=architecture,
        input=ImageSpec.of(architecture.arguments["input_channels"]),
        output=ImageSpec.of(3),
        size=size_rule(architecture),
        labels=labels,
    )
    profile = SizeProfile(smallest=size, typical=size, largest=size, batch=4) if is_dynamic else None
    card = exported_card(card, size=size, graph_io=graph_io, statistics="image", profile=profile)
    return build_graph(used(name, labels), card)


@pytest.fixture
def resnet() -> onnx.ModelProto:
    return graph_of("resnet")


@pytest.fixture
def unet() -> onnx.ModelProto:
    return graph_of("unet")


# against two other ways to count, of PyTorch's network


def by_hooks(generator: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-adds of the modules that are convolutions, from the shapes that pass through them."""
    found: list[int] = []

    def of_convolution(layer: nn.Conv2d, given: tuple[torch.Tensor], made: torch.Tensor) -> None:
        batch, channels, height, width = made.shape
        per_value = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        found.append(batch * channels * height * width * per_value)

    def of_transposed(layer: nn.ConvTranspose2d, given: tuple[torch.Tensor], made: torch.Tensor) -> None:
        batch, channels, height, width = given[0].shape
        per_value = layer.out_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        found.append(batch * channels * height * width * per_value)

    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(of_convolution)
        elif isinstance(module, nn.ConvTranspose2d):
            module.register_forward_hook(of_transposed)
    with torch.no_grad():
        generator(*inputs)
    return sum(found)


def by_pytorch(generator: nn.Module, *inputs: torch.Tensor) -> int:
    """What PyTorch's own counter finds; it looks at functions, not at modules, and counts FLOPs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator(*inputs)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "local"])
def test_multiply_adds_are_those_of_pytorchs_network(name):
    architecture, size = NETWORKS[name]
    with torch.device("meta"):  # shapes without values: nothing is computed
        generator = build_generator(architecture).eval()
        image = torch.zeros(1, architecture.arguments["input_channels"], *size)

    found = count(graph_of(name)).macs

    assert found == by_pytorch(generator, image)
    if "antialias_down" not in architecture.arguments:  # its blur filters are no modules
        assert found == by_hooks(generator, image)


def test_the_codes_of_a_style_are_a_convolution_too():
    generator = used("local", LABELS)
    maps = torch.zeros(1, 1, 32, 32, dtype=torch.int32)

    found = count(graph_of("local")).macs

    assert found == by_pytorch(generator, maps, maps, torch.tensor([0]))
    assert found > by_hooks(generator.generator, torch.zeros(1, HD["input_channels"], 32, 32))


def test_published_counts_have_transposed_convolutions_at_the_pixels_of_their_result():
    """Of CycleGAN's generator at 256x256 "GAN Compression" (Li et al. 2020) states 56.8 G and 11.4 M parameters."""
    cost = count(graph_of("resnet_9blocks"))

    assert cost.published_macs == pytest.approx(56.8e9, abs=0.05e9)
    assert cost.macs == pytest.approx(49.55e9, abs=0.01e9)
    assert cost.parameters == pytest.approx(11.4e6, abs=0.05e6)


def test_parameters_are_the_networks():
    learnt = sum(weights.numel() for weights in used("unet").parameters())

    cost = count(graph_of("unet"))

    assert (cost.parameters, cost.parameter_bytes) == (learnt, 4 * learnt)


def test_the_scales_of_a_resize_are_no_parameters():
    scales = np.array([1, 1, 2, 2], np.float32)
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["result"], mode="nearest")]

    assert count(model(nodes, {"x": [1, 3, 8, 8]}, {"scales": scales})).parameters == 0


# against sums of ones: where each factor is 1 the result's values add up to the number of products


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    weights: dict[str, np.ndarray] | None = None,
    result: int = FLOAT,
    kinds: dict[str, int] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, (kinds or {}).get(name, FLOAT), shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("result", result, None)],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def products(result: torch.Tensor | np.ndarray) -> int:
    return int(result.sum())


SMALL = st.integers(1, 3)


@st.composite
def convolutions(draw):
    """Batch, groups, channels and filters of a group, kernel, stride, dilation, and sides that hold the kernel."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride, dilation = draw(st.tuples(SMALL, SMALL)), draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    sides = tuple(draw(st.integers(d * (k - 1) + 1, 12)) for k, d in zip(kernel, dilation, strict=True))
    return draw(SMALL), draw(SMALL), draw(SMALL), draw(SMALL), kernel, stride, dilation, sides


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.tuples(*[st.integers(0, 2)] * 4), st.booleans())
def test_a_convolution_has_a_multiply_add_for_each_of_its_products(shape, pads, has_bias):
    batch, groups, channels, filters, kernel, stride, dilation, sides = shape
    weights = {"w": ones(groups * filters, channels, *kernel)} | ({"b": ones(groups * filters)} if has_bias else {})
    node = helper.make_node(
        "Conv", ["x", *weights], ["result"], group=groups, strides=stride, dilations=dilation, pads=pads
    )

    cost = count(model([node], {"x": [batch, groups * channels, *sides]}, weights))

    top, left, bottom, right = pads
    padded = torch.ones(batch, groups * channels, sides[0] + top + bottom, sides[1] + left + right, dtype=torch.float64)
    result = functional.conv2d(padded, torch.from_numpy(weights["w"]).double(), None, stride, 0, dilation, groups)
    assert cost.macs == products(result)
    assert cost.flops == 2 * cost.macs + has_bias * result.numel()


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.integers(0, 1), st.integers(0, 1), st.booleans())
def test_a_transposed_convolution_too_with_what_it_cuts_off(shape, cut, more, has_bias):
    batch, groups, channels, filters, kernel, stride, dilation, sides = shape
    full = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(sides, stride, dilation, kernel, strict=True)]
    cut, more = (cut if min(full) > 2 * cut else 0), (more if more < min(stride) else 0)
    weights = {"w": ones(groups * channels, filters, *kernel)} | ({"b": ones(groups * filters)} if has_bias else {})
    node = helper.make_node(
        "ConvTranspose",
        ["x", *weights],
        ["result"],
        group=groups,
        strides=stride,
        dilations=dilation,
        pads=[cut] * 4,
        output_padding=[more] * 2,
    )

    cost = count(model([node], {"x": [batch, groups * channels, *sides]}, weights))

    image = torch.ones(batch, groups * channels, *sides, dtype=torch.float64)
    whole = functional.conv_transpose2d(
        image, torch.from_numpy(weights["w"]).double(), None, stride, 0, 0, groups, dilation
    )
    made = batch * groups * filters * math.prod(side - 2 * cut + more for side in full)
    assert cost.macs == products(whole)
    assert cost.flops == 2 * cost.macs + has_bias * made


@settings(max_examples=40, deadline=None)
@given(st.lists(SMALL, max_size=2), SMALL, SMALL, SMALL, st.sampled_from(["both", "left", "right", "none"]))
def test_a_matrix_product_has_a_multiply_add_for_each_of_its_products(batch, rows, inner, columns, batched):
    left = [*(batch if batched in ("both", "left") else []), rows, inner]
    right = [*(batch if batched in ("both", "right") else []), inner, columns]

    cost = count(model([helper.make_node("MatMul", ["a", "b"], ["result"])], {"a": left, "b": right}))

    assert cost.macs == products(np.matmul(np.ones(left), np.ones(right)))
    assert cost.flops == 2 * cost.macs


@settings(max_examples=40, deadline=None)
@given(SMALL, SMALL, SMALL, st.booleans(), st.booleans(), st.booleans())
def test_a_linear_layer_adds_its_bias(rows, inner, columns, left_is_turned, right_is_turned, has_bias):
    left, right = np.ones((rows, inner)), np.ones((inner, columns))
    weights = {"b": ones(*(right.T if right_is_turned else right).shape)} | ({"c": ones(columns)} if has_bias else {})
    node = helper.make_node("Gemm", ["a", *weights], ["result"], transA=left_is_turned, transB=right_is_turned)

    cost = count(model([node], {"a": (left.T if left_is_turned else left).shape}, weights))

    assert cost.macs == products(left @ right)
    assert cost.flops == 2 * cost.macs + has_bias * rows * columns


@pytest.mark.parametrize("equation", ["bij,bjk->bik", "bhid,bhjd->bhij", "ij,jk", "i, j -> ij"])
def test_an_einsum_of_two_tensors_has_a_multiply_add_for_each_of_its_products(equation):
    lengths = dict(zip("bhijkd", (2, 3, 4, 5, 6, 7), strict=True))
    shapes = [[lengths[letter] for letter in term.strip()] for term in equation.partition("->")[0].split(",")]
    node = helper.make_node("Einsum", ["a", "b"], ["result"], equation=equation)

    cost = count(model([node], dict(zip("ab", shapes, strict=True))))

    assert cost.macs == products(np.einsum(equation, *map(np.ones, shapes)))


# what is no multiply-add


VALUES = 2 * 4 * 6 * 8
OPERATIONS = {
    "Relu": (VALUES, {}, {}),
    "Tanh": (VALUES, {}, {}),
    "Mish": (VALUES, {}, {}),
    "InstanceNormalization": (6 * VALUES, {"s": ones(4), "b": ones(4)}, {}),
    "LayerNormalization": (6 * VALUES, {"s": ones(8)}, {}),
    "BatchNormalization": (2 * VALUES, {"s": ones(4), "b": ones(4), "m": ones(4), "v": ones(4)}, {}),
    "Softmax": (5 * VALUES, {}, {}),
    "AveragePool": (VALUES, {}, {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "MaxPool": (9 * 2 * 4 * 4 * 6, {}, {"kernel_shape": [3, 3]}),
    "GlobalAveragePool": (VALUES, {}, {}),
    "ReduceMean": (VALUES, {"axes": np.array([2, 3])}, {}),
    "Resize": (4 * VALUES, {"": ones(), " ": ones(), "sizes": np.array([2, 4, 12, 16])}, {"mode": "linear"}),
    "Transpose": (0, {}, {"perm": [0, 2, 3, 1]}),
    "Pad": (0, {"pads": np.array([0, 0, 3, 3, 0, 0, 3, 3])}, {"mode": "reflect"}),
    "Cast": (0, {}, {"to": TensorProto.FLOAT16}),
    "Reshape": (0, {"shape": np.array([2, -1])}, {}),
}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_operations_beside_multiply_adds(kind):
    operations, weights, attributes = OPERATIONS[kind]
    names = [name.strip() for name in weights]
    node = helper.make_node(kind, ["x", *names], ["result"], **attributes)
    result = TensorProto.FLOAT16 if kind == "Cast" else FLOAT

    cost = count(model([node], {"x": [2, 4, 6, 8]}, {name: weights[name] for name in names if name}, result))

    assert (cost.macs, cost.flops) == (0, operations)


# bytes


def moved(cost: Cost) -> dict[str, tuple[int, int]]:
    """Bytes that the nodes of each kind read and write."""
    return {node.kind: (node.bytes_read, node.bytes_written) for node in cost.nodes}


def node(kind: str, given: str, made: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(kind, given.split(), [made], **attributes)


def test_each_node_reads_its_inputs_and_weights_and_writes_its_result():
    nodes = [node("Conv", "x w", "y", pads=[1, 1, 1, 1]), node("Relu", "y", "z"), node("Add", "y z", "result")]

    cost = count(model(nodes, {"x": [1, 3, 10, 10]}, {"w": ones(8, 3, 3, 3)}))

    image, weight, features = 4 * 3 * 100, 4 * 8 * 3 * 9, 4 * 8 * 100
    assert moved(cost) == {
        "Conv": (image + weight, features),
        "Relu": (features, features),
        "Add": (2 * features, features),
    }
    assert [its.weight_bytes for its in cost.nodes] == [weight, 0, 0]
    assert cost.bytes == image + weight + 6 * features


def test_what_is_read_twice_by_one_node_is_read_once():
    cost = count(model([node("Mul", "x x", "result")], {"x": [10]}))

    assert moved(cost) == {"Mul": (40, 40)}


def test_a_part_is_read_and_not_the_whole():
    weights = {"from": np.array([2]), "to": np.array([5]), "axis": np.array([0])}

    cost = count(model([node("Slice", "x from to axis", "result")], {"x": [100, 10]}, weights))

    assert moved(cost)["Slice"] == (4 * 30 + 3 * 8, 4 * 30)


def test_reshapes_are_free_and_what_they_show_is_read_where_it_lies():
    nodes = [node("Relu", "x", "y"), node("Reshape", "y shape", "z"), node("Relu", "z", "result")]

    cost = count(model(nodes, {"x": [10, 10]}, {"shape": np.array([100])}))

    assert [(its.kind, its.bytes_read, its.bytes_written) for its in cost.nodes] == [
        ("Relu", 400, 400),
        ("Reshape", 0, 0),
        ("Relu", 400, 400),
    ]


def test_conversions_are_done_by_the_nodes_around_them():
    half = TensorProto.FLOAT16
    nodes = [
        node("Cast", "x", "x16", to=half),
        node("Relu", "x16", "y16"),
        node("Cast", "y16", "y", to=FLOAT),
        node("Tanh", "y", "z"),
        node("Cast", "z", "z16", to=half),
        node("Sigmoid", "z16", "r16"),
        node("Cast", "r16", "result", to=FLOAT),
    ]

    cost = count(model(nodes, {"x": [100]}))

    # Inside it is as narrow as it ever is; what comes and goes is what the graph says.
    assert {kind: its for kind, its in moved(cost).items() if kind != "Cast"} == {
        "Relu": (400, 200),
        "Tanh": (200, 200),
        "Sigmoid": (200, 400),
    }
    assert moved(cost)["Cast"] == (0, 0)


def test_between_quantise_and_dequantise_lies_int8():
    scale = {"s": np.array(0.1, np.float32), "zero": np.array(0, np.int8)}
    weights = {"w": np.zeros((8, 3, 1, 1), np.int8), **scale}
    nodes = [
        node("QuantizeLinear", "x s zero", "xq"),
        node("DequantizeLinear", "xq s zero", "xd"),
        node("DequantizeLinear", "w s zero", "wd"),
        node("Conv", "xd wd", "y"),
        node("QuantizeLinear", "y s zero", "yq"),
        node("DequantizeLinear", "yq s zero", "yd"),
        node("Relu", "yd", "result"),
    ]

    cost = count(model(nodes, {"x": [1, 3, 10, 10]}, weights))

    assert moved(cost)["Conv"] == (4 * 300 + 24, 800)
    assert moved(cost)["Relu"] == (800, 4 * 800)
    assert (cost.macs, cost.parameters, cost.parameter_bytes) == (800 * 3, 24, 24)


def test_a_tensor_that_is_read_as_it_is_too_is_not_narrow():
    nodes = [
        node("Relu", "x", "y"),
        node("Cast", "y", "y16", to=TensorProto.FLOAT16),
        node("Tanh", "y16", "z16"),
        node("Cast", "z16", "z", to=FLOAT),
        node("Add", "y z", "result"),
    ]

    cost = count(model(nodes, {"x": [100]}))

    assert moved(cost)["Relu"] == (400, 400)
    assert moved(cost)["Tanh"] == (200, 200)
    assert moved(cost)["Add"] == (400 + 200, 400)


def test_what_follows_from_weights_is_a_weight():
    nodes = [
        node("Transpose", "w", "turned"),
        node("Mul", "turned two", "scaled"),
        node("MatMul", "x scaled", "result"),
    ]

    cost = count(model(nodes, {"x": [5, 7]}, {"w": ones(9, 7), "two": np.array(2, np.float32)}))

    assert [its.kind for its in cost.nodes] == ["MatMul"]
    assert cost.nodes[0].weight_bytes == 4 * 7 * 9
    assert cost.parameters == 63


def test_what_follows_from_shapes_is_worked_out_before():
    """As other exporters write a doubling of height and width, of any size."""
    weights = {"from": np.array([2]), "to": np.array([4]), "two": np.array([2, 2])}
    nodes = [
        node("Shape", "x", "shape"),
        node("Slice", "shape from to", "sides"),
        node("Mul", "sides two", "doubled"),
        node("Shape", "x", "again"),
        node("Slice", "again zero from", "others"),
        node("Concat", "others doubled", "sizes", axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["result"], mode="nearest"),
    ]
    graph = model(nodes, {"x": ["n", 3, "h", "w"]}, weights | {"zero": np.array([0])})

    cost = count(graph, (10, 20))

    assert [its.kind for its in cost.nodes] == ["Resize"]
    assert cost.nodes[0].bytes_written == 4 * 3 * 20 * 40


# the same network in other graphs


@pytest.mark.parametrize(
    ("name", "graph_io"), [("resnet", "float"), ("resnet", "uint8"), ("unet", "float"), ("local", "float")]
)
def test_a_dynamic_graph_costs_what_the_static_one_does(name, graph_io):
    static = count(graph_of(name, (32, 64), graph_io=graph_io))

    dynamic = count(graph_of(name, graph_io=graph_io, is_dynamic=True), (32, 64))

    assert (dynamic.macs, dynamic.flops, dynamic.bytes) == (static.macs, static.flops, static.bytes)
    assert (dynamic.parameters, dynamic.size, dynamic.batch) == (static.parameters, (32, 64), 1)


@pytest.mark.parametrize(("name", "graph_io"), [("resnet", "float"), ("resnet", "uint8"), ("unet", "float")])
def test_four_pictures_cost_four_times_as_much_but_for_the_weights(name, graph_io):
    graph = graph_of(name, graph_io=graph_io, is_dynamic=True)

    one, four = count(graph, (64, 32)), count(graph, (64, 32), 4)

    weights = sum(its.weight_bytes for its in one.nodes)
    assert (four.macs, four.flops) == (4 * one.macs, 4 * one.flops)
    assert four.bytes - weights == 4 * (one.bytes - weights)
    assert four.parameters == one.parameters


def test_four_label_maps_are_four_times_the_multiply_adds():
    graph = graph_of("local", is_dynamic=True)

    assert count(graph, (32, 32), 4).macs == 4 * count(graph, (32, 32)).macs


def test_bytes_in_and_out_cost_a_few_operations_a_value_more(resnet):
    cost, plain = count(graph_of("resnet", graph_io="uint8")), count(resnet)

    assert (cost.macs, cost.parameters, cost.size) == (plain.macs, plain.parameters, plain.size)
    # A factor and a shift before; the same and a clip behind.
    assert cost.flops == plain.flops + (2 + 3) * 3 * 32 * 32
    first = next(its for its in cost.nodes if its.kind == "Transpose")
    assert first.bytes_read == 3 * 32 * 32


def test_half_precision_moves_half_the_bytes_for_the_same_work(resnet):
    half, full = count(to_fp16(resnet)), count(resnet)

    assert (half.macs, half.flops, half.parameters) == (full.macs, full.flops, full.parameters)
    assert 2 * half.parameter_bytes == full.parameter_bytes
    # The picture comes and the result goes in FP32, and the widths of borders are no floats.
    borders = sum(its.weight_bytes for its in full.nodes if its.kind == "Pad")
    as_before = 2 * 4 * 3 * 32 * 32 + borders
    assert 2 * (half.bytes - as_before) == full.bytes - as_before


def test_islands_of_single_precision_move_more(unet):
    names = [its.name for its in unet.graph.node if its.op_type == "InstanceNormalization"]

    assert count(to_fp16(unet)).bytes < count(to_fp16(unet, names)).bytes < count(unet).bytes
    assert count(to_fp16(unet, names)).flops == count(unet).flops


def test_int8_is_the_same_work_with_smaller_weights(resnet):
    pictures = [(np.random.default_rng(seed).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32),) for seed in range(2)]
    quantised = to_int8(resnet, tensor_ranges(resnet, pictures))

    int8, full = count(quantised), count(resnet)

    assert (int8.macs, int8.flops, int8.parameters) == (full.macs, full.flops, full.parameters)
    convolved = sum(
        math.prod(tensor.dims)
        for tensor in quantised.graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4
    )
    assert convolved > 0
    assert full.parameter_bytes - int8.parameter_bytes == 3 * convolved
    assert int8.bytes < full.bytes


def test_a_tileable_graph_has_more_to_do_beside_the_same_multiply_adds(resnet):
    tileable, _ = make_tileable(resnet, (32, 32))

    cost, plain = count(tileable), count(resnet)

    assert cost.macs == plain.macs
    assert cost.flops > plain.flops
    assert {its.layer for its in plain.nodes} < {its.layer for its in cost.nodes}


def test_weights_in_constant_nodes_are_weights(resnet):
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(resnet)
    graph = rewritten.graph
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in graph.initializer]
    del graph.initializer[:]
    nodes = [*constants, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)

    assert count(rewritten) == count(resnet)


def test_weights_that_are_inputs_too_as_in_old_files_are_weights(resnet):
    old = onnx.ModelProto()
    old.CopyFrom(resnet)
    old.ir_version = 3
    old.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in old.graph.initializer
    )

    assert count(old) == count(resnet)


def test_weights_in_other_files_are_not_read():
    graph = model([node("MatMul", "x w", "result")], {"x": [1, 2**20]})
    graph.graph.initializer.append(
        TensorProto(name="w", data_type=FLOAT, dims=[2**20, 2**20], data_location=TensorProto.EXTERNAL)
    )
    graph.graph.initializer[0].external_data.add(key="location", value="not there")

    cost = count(graph)

    assert (cost.macs, cost.parameter_bytes) == (2**40, 2**42)


# which node, which size, in words


def test_a_node_names_the_layer_that_it_comes_from(resnet):
    layers = Counter(its.layer for its in count(resnet).nodes)

    assert layers["model.1"] == 1
    assert [its.kind for its in count(resnet).nodes if its.layer == "model.10.conv_block.1"] == ["Conv"]
    assert "" not in layers


def test_so_do_the_nodes_in_place_of_a_norm(resnet):
    tileable, _ = make_tileable(resnet, (32, 32))

    of_a_norm = [its for its in count(tileable).nodes if its.layer == "model.2"]

    assert len(of_a_norm) > 10
    assert {its.name.partition("/statistics.")[0] for its in of_a_norm} == {"model.2/InstanceNormalization"}


@pytest.mark.parametrize("name", ["", "Conv_7", "/model/model.1/Conv", "block/add"])
def test_names_that_others_give_say_nothing_of_layers(name):
    graph = model([helper.make_node("Relu", ["x"], ["result"], name)], {"x": [3]})

    assert count(graph).nodes == (NodeCost(name, "Relu", "", 0, 0, 3, 12, 12, 0),)


@pytest.mark.parametrize(
    ("sides", "line"),
    [
        (
            (1000, 1000),
            "27.0 M multiply-adds, 54.0 MFLOP, 27 parameters, 16.0 MB moved layer by layer (at 1000x1000)",
        ),
        ((3, 3), "243 multiply-adds, 486 FLOP, 27 parameters, 252 B moved layer by layer (at 3x3)"),
        # Not 1000.0 k multiply-adds.
        (
            (188, 197),
            "1.0 M multiply-adds, 2.0 MFLOP, 27 parameters, 592.7 kB moved layer by layer (at 188x197)",
        ),
    ],
)
def test_a_cost_says_itself_on_one_line(sides, line):
    graph = model([node("Conv", "x w", "result", pads=[1, 1, 1, 1])], {"x": [1, 3, "h", "w"]}, {"w": ones(1, 3, 3, 3)})

    assert str(count(graph, sides)) == line


def test_a_batch_is_said_where_there_is_one():
    graph = model([node("Relu", "x", "result")], {"x": [4, 3, 8, 8]})

    assert str(count(graph)).endswith("(at 8x8, batch 4)")


def test_it_needs_neither_torch_nor_onnx_runtime(tmp_path):
    path = negative_model(tmp_path / "model.onnx")
    code = """
import sys
for name in ("torch", "onnxruntime", "onnxscript", "i2i_trainer"):
    sys.modules[name] = None
import onnx
from i2i_export.cost import count
print(count(onnx.load(sys.argv[1])))
"""

    finished = python(code, path)

    assert finished.stdout.startswith("0 multiply-adds, 12.3 kFLOP, "), finished.stderr


# what cannot be counted


def test_a_graph_of_one_size_is_counted_at_no_other(resnet):
    with pytest.raises(UsageError, match=r"size 64x64: the graph takes 32x32 only; export it with --dynamic"):
        count(resnet, (64, 64))
    with pytest.raises(UsageError, match=r"batch 4: the graph takes 1 only"):
        count(resnet, None, 4)
    assert count(resnet, (32, 32), 1) == count(resnet)


def test_a_graph_of_many_sizes_wants_one():
    with pytest.raises(UsageError, match="input x takes several sizes; expected one"):
        count(model([node("Relu", "x", "result")], {"x": [1, 3, "h", "w"]}))


def test_a_size_that_the_network_does_not_take_is_refused_by_name():
    with pytest.raises(ModelError, match=r"cannot be inferred at 36x36 .*Concat"):
        count(graph_of("unet", is_dynamic=True), (36, 36))


BRANCH = helper.make_graph([node("Identity", "x", "o")], "b", [], [helper.make_tensor_value_info("o", FLOAT, None)])


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (model([node("NonZero", "x", "result")], {"x": [3]}, result=TensorProto.INT64), "NonZero result: the shape of"),
        (
            model([node("LSTM", "x x x", "result")], {"x": [1, 1, 1]}),
            "LSTM result: an operator whose work is not known",
        ),
        (
            model([helper.make_node("FusedConv", ["x"], ["result"], "first", domain="com.microsoft")], {"x": [3]}),
            "FusedConv first: expected operators of the ONNX standard, found one of com.microsoft",
        ),
        (
            model(
                [node("If", "c", "result", then_branch=BRANCH, else_branch=BRANCH)],
                {"x": [3], "c": []},
                kinds={"c": TensorProto.BOOL},
            ),
            "If result: a branch or a loop",
        ),
        (model([node("Relu", "x", "result")], {"x": ["n", "c", 8, 8]}), "input x: axis 1 may have any length"),
        (
            model([node("Einsum", "x x x", "result", equation="i,i,i->i")], {"x": [3]}),
            "Einsum result: expected a product of two tensors, found i,i,i->i",
        ),
        (model([node("Relu", "missing", "result")], {"x": [3]}), "the shapes of its tensors cannot be inferred"),
    ],
)
def test_what_cannot_be_counted_is_one_line_with_the_node(made, line):
    with pytest.raises(ModelError, match=line) as caught:
        count(made)

    assert "\n" not in str(caught.value)
