"""FP16 is in the graph itself, is right as a GPU computes it, and leaves FP32 where real pictures ask for it."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import here
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxconverter_common.float16 import convert_float_to_float16
from plans import needs_rtx, rtx_plan
from torch import nn
from untrained import save_untrained, save_untrained_labels

from i2i_export.emulation import EmulatedEngine, tensor_types
from i2i_export.fp16 import LIMIT, out_of_range, to_fp16, within_range
from i2i_export.graph import build_graph, exported_card
from i2i_export.parity import engine_inputs
from i2i_runtime.card import METADATA_KEY, Card
from i2i_trainer.trained import load_trained

FP16, FP32 = TensorProto.FLOAT16, TensorProto.FLOAT


def graph_of(nodes, *, shape=(1, 2, 4, 4), constants=(), result_type=FP32) -> onnx.ModelProto:
    """A graph from `image` to `result`; constants are (name, array)."""
    graph = helper.make_graph(
        [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes],
        "test",
        [helper.make_tensor_value_info("image", FP32, shape)],
        [helper.make_tensor_value_info("result", result_type, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants],
    )
    for number, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def emulated(model, image) -> np.ndarray:
    return EmulatedEngine(model, "test").run(image)


def onnx_runtime(model, *inputs) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


def psnr(wanted, found) -> float:
    """Of values in [-1, 1]; minus infinity where they are not even numbers."""
    if not np.isfinite(found).all():
        return -math.inf
    return 10 * math.log10(4 / max(float(np.square(wanted.astype(np.float64) - found).mean()), 1e-30))


def halves(array) -> np.ndarray:
    """Rounded to what half precision can hold, as float32."""
    return np.asarray(array, np.float32).astype(np.float16).astype(np.float32)


def generator_graph(checkpoint) -> tuple[onnx.ModelProto, list[tuple[np.ndarray, ...]]]:
    """The FP32 graph of a checkpoint, and its example pictures."""
    trained = load_trained(checkpoint)
    card = exported_card(trained.card, size=(32, 32), graph_io="float", statistics=trained.statistics)
    examples = [{part: tensor.numpy() for part, tensor in example.items()} for example in trained.examples]
    return build_graph(trained.generator, card), list(engine_inputs(card, examples, at_every_size=False))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return generator_graph(save_untrained(tmp_path_factory.mktemp("resnet") / "last.pt"))


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    return generator_graph(save_untrained(tmp_path_factory.mktemp("unet") / "last.pt", "unet_32", dropout=0.5))


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return generator_graph(save_untrained_labels(tmp_path_factory.mktemp("labels") / "last.pt"))


@pytest.fixture(params=["resnet", "unet", "labels"])
def generator(request):
    return request.getfixturevalue(request.param)


# the graph


def test_everything_is_float16_but_the_inputs_and_the_result(generator):
    model, _ = generator

    typed = to_fp16(model)

    onnx.checker.check_model(typed, full_check=True)
    floats = {name for name, kind in tensor_types(typed).items() if kind == FP32}
    assert floats == {name for name in ("image", "result") if name in tensor_types(model)}
    assert [value.type for value in typed.graph.input] == [value.type for value in model.graph.input]
    assert [value.type for value in typed.graph.output] == [value.type for value in model.graph.output]


def test_the_graph_that_is_given_stays_as_it_is(resnet):
    model, _ = resnet
    before = model.SerializeToString(deterministic=True)

    to_fp16(model, keep={model.graph.node[3].name})

    assert model.SerializeToString(deterministic=True) == before


def test_the_weights_take_half_the_room(resnet):
    model, _ = resnet

    def size(of):
        return sum(numpy_helper.to_array(tensor).nbytes for tensor in of.graph.initializer)

    assert size(to_fp16(model)) < 0.6 * size(model)


def test_a_layer_that_is_kept_computes_in_float32_with_its_own_weights(resnet):
    model, _ = resnet
    kept = next(node for node in model.graph.node if node.op_type == "ConvTranspose")

    types = tensor_types(to_fp16(model, keep={kept.name}))

    assert {types[name] for name in kept.input[1:]} == {FP32}
    assert types[kept.output[0]] == FP32
    (weights,) = (t for t in to_fp16(model, keep={kept.name}).graph.initializer if t.name == kept.input[1])
    before = next(t for t in model.graph.initializer if t.name == kept.input[1])
    np.testing.assert_array_equal(numpy_helper.to_array(weights), numpy_helper.to_array(before))


def test_one_cast_serves_all_readers_of_a_tensor():
    readers = [helper.make_node("Relu", ["x"], [f"y{number}"], name=f"reader{number}") for number in range(3)]
    model = graph_of(
        [
            helper.make_node("Neg", ["image"], ["x"], name="first"),
            *readers,
            helper.make_node("Sum", ["y0", "y1", "y2", "image"], ["result"]),
        ]
    )

    typed = to_fp16(model, keep={"first"})

    casts = [(node.input[0], node.attribute[0].i) for node in typed.graph.node if node.op_type == "Cast"]
    assert sorted(casts) == [("image", FP16), ("result_fp16", FP32), ("x", FP16)]


def test_a_result_that_another_layer_reads_keeps_its_name_and_its_value():
    model = graph_of(
        [helper.make_node("Neg", ["image"], ["result"]), helper.make_node("Relu", ["result"], ["nobody_reads_this"])]
    )
    image = halves(np.linspace(-1, 1, 32).reshape(1, 2, 4, 4))

    for keep in ((), ("Neg_0",), ("Relu_1",)):
        typed = to_fp16(model, keep)
        np.testing.assert_array_equal(emulated(typed, image), -image)
        np.testing.assert_array_equal(onnx_runtime(typed, image), -image)


def test_what_may_not_be_float16_stays_float32():
    scales = np.array([1, 1, 2, 2], np.float32)
    model = graph_of(
        [
            helper.make_node("Relu", ["image"], ["x"]),
            # A Resize takes its scales in float32 only, and so does QuantizeLinear (before opset 19) all it takes.
            helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest"),
            helper.make_node("QuantizeLinear", ["y", "step", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["z"]),
            helper.make_node("Neg", ["z"], ["result"]),
        ],
        constants=[("scales", scales), ("step", np.float32(0.25)), ("zero", np.int8(0))],
    )
    image = (np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4) - 8) / 4

    typed = to_fp16(model)

    types = tensor_types(typed)
    assert (types["scales"], types["step"], types["y"]) == (FP32, FP32, FP16)
    wanted = -np.maximum(image, 0).repeat(2, 2).repeat(2, 3)
    np.testing.assert_array_equal(emulated(typed, image), wanted)
    np.testing.assert_array_equal(onnx_runtime(typed, image), wanted)


def test_a_constant_with_two_readers_may_be_of_both_types():
    scales = np.array([1, 1, 2, 2], np.float32)
    model = graph_of(
        [
            helper.make_node("Resize", ["image", "", "scales"], ["x"], mode="nearest"),
            helper.make_node("Reshape", ["scales", "shape"], ["factors"]),
            helper.make_node("Mul", ["x", "factors"], ["result"]),
        ],
        constants=[("scales", scales), ("shape", np.array([1, 1, 1, 4]))],
        shape=(1, 1, 2, 2),
    )

    types = tensor_types(to_fp16(model))

    assert (types["scales"], types["scales_fp16"], types["factors"]) == (FP32, FP16, FP16)


@pytest.mark.parametrize("operator", ["Constant", "ConstantOfShape", "Cast"])
def test_layers_that_state_their_type_state_float16(operator):
    seven = numpy_helper.from_array(np.array([7], np.float32), "seven")
    nodes = {
        "Constant": [helper.make_node("Constant", [], ["seven"], value=seven)],
        "ConstantOfShape": [helper.make_node("ConstantOfShape", ["one"], ["seven"], value=seven)],
        "Cast": [helper.make_node("Cast", ["ids"], ["seven"], to=FP32)],
    }[operator]
    model = graph_of(
        [*nodes, helper.make_node("Mul", ["image", "seven"], ["result"])],
        constants=[("one", np.array([1])), ("ids", np.array([7], np.int32))],
    )
    image = np.ones((1, 2, 4, 4), np.float32)

    for keep, kind in (((), FP16), (model.graph.node[0].name, FP32)):
        typed = to_fp16(model, [keep] if keep else ())
        assert tensor_types(typed)["seven"] == kind
        np.testing.assert_array_equal(emulated(typed, image), 7 * image)
        np.testing.assert_array_equal(onnx_runtime(typed, image), 7 * image)


# the arithmetic


@pytest.mark.parametrize("name", ["resnet", "unet"])
def test_it_computes_what_the_converter_of_onnx_computes(request, name):
    model, inputs = request.getfixturevalue(name)
    theirs = convert_float_to_float16(onnx.ModelProto.FromString(model.SerializeToString()), keep_io_types=True)

    for arrays in inputs[:2]:
        found = EmulatedEngine(to_fp16(model), "ours").run(*arrays)
        wanted = EmulatedEngine(theirs, "theirs").run(*arrays)
        # Theirs moves weights under 1e-7 up to it.
        assert psnr(wanted, found) > 90


def test_an_fp32_graph_is_emulated_as_onnx_runtime_runs_it(generator):
    model, inputs = generator

    found = EmulatedEngine(model, "test").run(*inputs[0])

    np.testing.assert_allclose(found, onnx_runtime(model, *inputs[0]), rtol=0, atol=1e-5)


def test_every_tensor_is_rounded_to_half_precision():
    """Against the same sums written down in NumPy."""
    rng = np.random.default_rng(0)
    image = rng.normal(0, 3, (1, 2, 4, 4)).astype(np.float32)
    factor, shift = (rng.normal(0, 1, (1, 2, 1, 1)).astype(np.float32) for _ in range(2))
    model = graph_of(
        [
            helper.make_node("Mul", ["image", "factor"], ["x"]),
            helper.make_node("Add", ["x", "shift"], ["y"]),
            helper.make_node("Mul", ["y", "y"], ["result"]),
        ],
        constants=[("factor", factor), ("shift", shift)],
    )

    y = halves(halves(halves(image) * halves(factor)) + halves(shift))
    np.testing.assert_array_equal(emulated(to_fp16(model), image), halves(y * y))
    # With the sum in FP32 its operands are what FP16 has left of them, and its result is rounded for its reader.
    y = halves(halves(halves(image) * halves(factor)) + shift)
    np.testing.assert_array_equal(emulated(to_fp16(model, keep={"Add_1"}), image), halves(y * y))


def test_a_convolution_adds_up_in_float32_and_rounds_once():
    rng = np.random.default_rng(1)
    image = rng.normal(0, 1, (1, 64, 1, 1)).astype(np.float32)
    weight = rng.normal(0, 1, (1, 64, 1, 1)).astype(np.float32)
    model = graph_of(
        [helper.make_node("Conv", ["image", "weight"], ["result"])],
        constants=[("weight", weight)],
        shape=image.shape,
    )

    found = emulated(to_fp16(model), image).item()

    wanted = halves(np.sum(halves(image).astype(np.float64) * halves(weight)))
    assert abs(found - wanted) <= np.spacing(np.float16(wanted))


@pytest.mark.parametrize(
    ("value", "held"), [(65504, 65504), (70000, np.inf), (-70000, -np.inf), (1e-8, 0), (6e-8, 2**-24)]
)
def test_what_half_precision_cannot_hold(value, held):
    model = graph_of([helper.make_node("Identity", ["image"], ["result"])], shape=(1,))

    assert emulated(to_fp16(model), np.array([value], np.float32)) == np.float32(held)
    assert emulated(model, np.array([value], np.float32)) == np.float32(value)


def test_onnx_runtime_on_a_cpu_does_not_show_what_a_gpu_would():
    """Why there is an emulation: 300 x 300 is more than half precision holds, and the runtime computes it in float."""
    model = graph_of(
        [
            helper.make_node("Mul", ["image", "factor"], ["x"]),
            helper.make_node("Mul", ["x", "factor"], ["y"]),
            helper.make_node("Div", ["y", "factor"], ["z"]),
            helper.make_node("Div", ["z", "factor"], ["result"]),
        ],
        constants=[("factor", np.float32(300))],
    )
    typed, image = to_fp16(model), np.ones((1, 2, 4, 4), np.float32)

    assert np.isinf(emulated(typed, image)).all()
    np.testing.assert_allclose(onnx_runtime(typed, image), image, rtol=1e-3)


# any graph

_CHANNELS = 2


@st.composite
def chains(draw) -> onnx.ModelProto:
    """Layers of generators in any order; each reads the one before it, and some an earlier one, too."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    constants = [
        ("scales", np.array([1, 1, 2, 2], np.float32)),
        ("border", np.array([0, 0, 1, 1, 0, 0, 1, 1])),
        ("first", np.array([0, 1])),
        ("some", np.float32(0.75)),
    ]
    nodes: list[onnx.NodeProto] = []
    names, shapes = ["image"], [(4, 4)]
    for number in range(draw(st.integers(1, 6))):
        kind = draw(
            st.sampled_from(
                [
                    "Relu",
                    "Tanh",
                    "Mul",
                    "Conv",
                    "Norm",
                    "Resize",
                    "Pad",
                    "Gather",
                    "Join",
                    "Ids",
                    "Constant",
                    "AveragePool",
                ]
            )
        )
        x, y, size = names[-1], f"x{number}", shapes[-1]
        if kind in ("Relu", "Tanh"):
            nodes.append(helper.make_node(kind, [x], [y]))
        elif kind == "Mul":
            nodes.append(helper.make_node("Mul", [x, "some"], [y]))
        elif kind == "Conv":
            constants.append((f"w{number}", rng.normal(0, 0.5, (_CHANNELS, _CHANNELS, 1, 1)).astype(np.float32)))
            nodes.append(helper.make_node("Conv", [x, f"w{number}"], [y]))
        elif kind == "Norm":
            for part in "ab":
                constants.append((f"{part}{number}", rng.normal(1, 0.2, _CHANNELS).astype(np.float32)))
            nodes.append(helper.make_node("InstanceNormalization", [x, f"a{number}", f"b{number}"], [y]))
        elif kind == "Resize":
            nodes.append(helper.make_node("Resize", [x, "", "scales"], [y], mode="nearest"))
            size = (2 * size[0], 2 * size[1])
        elif kind == "Pad":
            nodes.append(helper.make_node("Pad", [x, "border"], [y], mode="edge"))
            size = (size[0] + 2, size[1] + 2)
        elif kind == "Gather":
            nodes.append(helper.make_node("Gather", [x, "first"], [y], axis=1))
        elif kind == "Join":
            other = draw(st.sampled_from([name for name, its in zip(names, shapes, strict=True) if its == size]))
            nodes.append(helper.make_node("Add", [x, other], [y]))
        elif kind == "Ids":
            nodes += [
                helper.make_node("Cast", [x], [f"i{number}"], to=TensorProto.INT32),
                helper.make_node("Cast", [f"i{number}"], [y], to=FP32),
            ]
        elif kind == "Constant":
            value = numpy_helper.from_array(rng.normal(0, 1, 1).astype(np.float32), "c")
            nodes += [
                helper.make_node("Constant", [], [f"c{number}"], value=value),
                helper.make_node("Sub", [x, f"c{number}"], [y]),
            ]
        else:
            nodes.append(helper.make_node("AveragePool", [x], [y], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        names.append(y)
        shapes.append(size)
    nodes[-1].output[0] = "result"
    return graph_of(nodes, constants=constants, shape=(1, _CHANNELS, 4, 4))


@settings(max_examples=40, deadline=None)
@given(chains(), st.integers(0, 99))
def test_with_every_layer_kept_nothing_changes(model, seed):
    image = np.random.default_rng(seed).uniform(-1, 1, (1, _CHANNELS, 4, 4)).astype(np.float32)

    typed = to_fp16(model, keep={node.name for node in model.graph.node})

    assert FP16 not in tensor_types(typed).values()
    np.testing.assert_array_equal(emulated(typed, image), emulated(model, image))


@settings(max_examples=60, deadline=None)
@given(chains(), st.data())
def test_with_any_layers_kept_the_graph_is_valid_and_its_types_are_what_was_asked_for(model, data):
    kept = data.draw(st.sets(st.sampled_from([node.name for node in model.graph.node])))

    typed = to_fp16(model, kept)

    onnx.checker.check_model(typed, full_check=True)
    types, before = tensor_types(typed), tensor_types(model)
    for node in model.graph.node:
        for name in node.output:
            if before[name] == FP32 and name != "result":
                assert types[name] == (FP32 if node.name in kept else FP16), (node.name, name)
    casts = [(node.input[0], node.attribute[0].i) for node in typed.graph.node if node.name.startswith("cast_")]
    assert len(casts) == len(set(casts))
    # ONNX Runtime is stricter than the checker about the types of a graph.
    assert onnx_runtime(typed, np.zeros((1, _CHANNELS, 4, 4), np.float32)).dtype == np.float32


# islands: generators that half precision breaks


def convs(generator: nn.Module) -> list[nn.Module]:
    return [module for module in generator.modules() if isinstance(module, nn.Conv2d)]


def norms(generator: nn.Module) -> list[nn.Module]:
    return [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]


def large_before_a_norm(generator: nn.Module) -> None:
    """The norm divides by what the convolution multiplied with: in float32 nothing changes."""
    convs(generator)[1].weight.mul_(1e5)


def vanishing_weights(generator: nn.Module) -> None:
    """Weights that half precision rounds to 0 or to its smallest steps, between large values and a norm."""
    norms(generator)[0].weight.mul_(1e3)
    norms(generator)[0].bias.mul_(1e3)
    convs(generator)[1].weight.mul_(1e-7)


def large_residual_stream(generator: nn.Module) -> None:
    """Large from before the blocks until after them, where a convolution makes it small again, without a norm."""
    scale = 3e5
    convs(generator)[2].weight.mul_(scale)
    next(module for module in generator.modules() if isinstance(module, nn.ConvTranspose2d)).weight.div_(scale)
    for norm in norms(generator):
        norm.bias.zero_()
        norm.running_mean.zero_()


BROKEN = {
    "large_before_a_norm": (large_before_a_norm, {}),
    "vanishing_weights": (vanishing_weights, {"norm": "batch"}),
    # Of a training at batch 4: its norms become part of its convolutions.
    "large_residual_stream": (large_residual_stream, {"norm": "batch", "batch": 4}),
}


@pytest.fixture(scope="module", params=BROKEN)
def broken(request, tmp_path_factory):
    change, arguments = BROKEN[request.param]
    return save_untrained(tmp_path_factory.mktemp(request.param) / "last.pt", pictures=2, change=change, **arguments)


def test_a_generator_that_half_precision_breaks_is_right_with_a_few_layers_in_float32(broken):
    model, inputs = generator_graph(broken)
    wanted = [onnx_runtime(model, *arrays) for arrays in inputs]

    def quality(typed):
        return min(psnr(right, emulated(typed, *arrays)) for right, arrays in zip(wanted, inputs, strict=True))

    assert quality(to_fp16(model)) < 20

    typed, islands = within_range(model, inputs, lambda typed: None if quality(typed) >= 45 else inputs[0])

    assert quality(typed) >= 45
    assert 0 < len(islands) <= len(model.graph.node) / 2, islands
    assert {island.node for island in islands} < {node.name for node in model.graph.node}
    assert all(island.reason.startswith(("values up to ", "no value above ", "adds ")) for island in islands)
    assert FP16 in tensor_types(typed).values()


def test_the_export_keeps_those_layers_says_so_and_writes_it_into_the_card(broken, tmp_path):
    finished = here("i2i-export", broken, "-o", tmp_path / "model.onnx", "--fp16")

    assert finished.returncode == 0, finished.stderr
    (entry,) = (e for e in onnx.load(tmp_path / "model.onnx").metadata_props if e.key == METADATA_KEY)
    card = Card.from_json(entry.value)
    said = [line for line in finished.stderr.splitlines() if line.startswith("stays FP32: ")]
    assert [line.split()[2] for line in said] == list(card.export.kept_fp32) != []
    emulation, on_cpu = card.parity
    assert (emulation.engine, on_cpu.engine) == ("FP16 emulation", "ONNX Runtime CPU")
    assert emulation.worst_psnr_db >= emulation.min_psnr_db == 45


@needs_rtx
def test_tensorrt_rtx_builds_a_graph_with_islands(broken, tmp_path):
    model, inputs = generator_graph(broken)
    islands = {island.node for island in out_of_range(model, inputs)} or {model.graph.node[4].name}
    onnx.save(to_fp16(model, islands), tmp_path / "model.onnx")

    rtx_plan(tmp_path / "model.onnx", card=None, precision="fp16")

    assert (tmp_path / "model.plan").stat().st_size > 0


def test_a_generator_that_half_precision_does_not_break_has_no_islands(generator):
    model, inputs = generator
    wanted = onnx_runtime(model, *inputs[0])

    typed, islands = within_range(
        model,
        inputs,
        lambda typed: None if psnr(wanted, EmulatedEngine(typed, "t").run(*inputs[0])) > 45 else inputs[0],
    )

    assert islands == []
    assert typed.SerializeToString(deterministic=True) == to_fp16(model).SerializeToString(deterministic=True)


def test_values_near_the_largest_half_stay_in_float32_since_other_pictures_may_be_brighter():
    nodes = [helper.make_node("Mul", ["image", "factor"], ["x"]), helper.make_node("Div", ["x", "factor"], ["result"])]
    image = np.ones((1, 2, 4, 4), np.float32)
    found = {
        factor: out_of_range(graph_of(nodes, constants=[("factor", np.float32(factor))]), [(image,)])
        for factor in (LIMIT, LIMIT * 1.01)
    }

    assert found[LIMIT] == []
    assert [island.node for island in found[LIMIT * 1.01]] == ["Mul_0", "Div_1"]


def test_the_picture_that_is_brightest_decides():
    model = graph_of(
        [helper.make_node("Mul", ["image", "factor"], ["result"])], constants=[("factor", np.float32(100))]
    )
    dark, bright = (np.full((1, 2, 4, 4), value, np.float32) for value in (1, 1000))

    assert out_of_range(model, [(dark,)]) == []
    assert [island.node for island in out_of_range(model, [(dark,), (bright,), (dark,)])] == ["Mul_0"]


def test_nan_is_out_of_range():
    model = graph_of([helper.make_node("Log", ["image"], ["result"])])

    assert [island.node for island in out_of_range(model, [(-np.ones((1, 2, 4, 4), np.float32),)])] == ["Log_0"]


def test_giving_up_returns_the_last_try(resnet):
    model, inputs = resnet
    tries = []

    typed, islands = within_range(model, inputs[:1], lambda typed: tries.append(typed) or inputs[0])

    assert 1 < len(tries) <= len(model.graph.node) + 1
    kept = {island.node for island in islands}
    assert typed.SerializeToString(deterministic=True) == to_fp16(model, kept).SerializeToString(deterministic=True)


def test_a_style_that_is_built_in_and_instance_edges_survive(tmp_path):
    """Ids above 2048 are no half precision numbers: they may not pass through one before they are compared."""
    checkpoint = save_untrained_labels(tmp_path / "last.pt")

    finished = here("i2i-export", checkpoint, "-o", tmp_path / "model.onnx", "--fp16", "--style", 1)

    assert finished.returncode == 0, finished.stderr
    model = onnx.load(tmp_path / "model.onnx")
    labels = np.zeros((1, 1, 32, 32), np.int32)
    outputs = []
    for right in (26001, 26002):
        instances = np.full((1, 1, 32, 32), 26001, np.int32)
        instances[..., 16:] = right
        outputs.append(EmulatedEngine(model, "test").run(labels, instances))
        with torch.no_grad():
            generator = load_trained(checkpoint).generator
            wanted = generator(torch.from_numpy(labels), torch.from_numpy(instances), torch.tensor([1])).numpy()
        assert psnr(wanted, outputs[-1]) > 45
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01
