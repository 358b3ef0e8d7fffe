"""A dynamic graph takes any size that its generator takes, and a plan of it the sizes that it was built for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import here, the_error_line
from drawings import drawing
from hypothesis import given
from hypothesis import strategies as st
from plans import needs_rtx
from untrained import STYLES, label_map, save_untrained, save_untrained_labels

from i2i_export.graph import save_with_card
from i2i_export.request import Request
from i2i_export.sizes import profile
from i2i_runtime import Translator
from i2i_runtime.card import METADATA_KEY, Card, SizeProfile, SizeRule
from i2i_runtime.engines.manifest import read_manifest
from i2i_runtime.image import plan_fit
from i2i_runtime.label_translator import LabelTranslator
from i2i_trainer.trained import load_trained

NETWORKS = {
    "resnet": (save_untrained, "resnet_1blocks", (32, 32), {}),
    "unet": (save_untrained, "unet_32", (32, 32), {"dropout": 0.5}),
    "global": (save_untrained_labels, "global", (32, 32), {}),
    "local": (save_untrained_labels, "local", (32, 32), {}),
    "local of two enhancers": (save_untrained_labels, "local", (32, 32), {"n_enhancers": 2, "ngf": 4}),
}
SIZES = [(32, 32), (64, 32), (32, 96), (64, 64)]
"""Multiples that all of these networks take."""


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, tmp_path_factory):
    """A checkpoint and its dynamic graph, exported once for all tests."""
    save, name, size, arguments = NETWORKS[request.param]
    folder = tmp_path_factory.mktemp("network")
    checkpoint = save(folder / "last.pt", name, size, pictures=1, **arguments)
    export(checkpoint, folder / "dynamic.onnx", "--dynamic", "--max-batch", 3)
    return checkpoint, folder / "dynamic.onnx"


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("resnet") / "last.pt", size=(32, 48), pictures=2)


@pytest.fixture(scope="module")
def float_model(resnet):
    path = resnet.with_name("float.onnx")
    export(resnet, path, "--dynamic")
    return path


@pytest.fixture(scope="module")
def uint8_model(resnet):
    path = resnet.with_name("uint8.onnx")
    export(resnet, path, "--dynamic", "--max-batch", 3, "--io", "uint8")
    return path


def export(checkpoint, target, *arguments) -> Card:
    finished = here("i2i-export", checkpoint, "-o", target, *arguments)
    assert finished.returncode == 0, finished.stderr
    (entry,) = (entry for entry in onnx.load(target).metadata_props if entry.key == METADATA_KEY)
    return Card.from_json(entry.value)


def axes(path) -> dict[str, list[int | str]]:
    graph = onnx.load(path).graph
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


def inputs_for(names, batch, height, width, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    if "image" in names:
        return {"image": rng.uniform(-1, 1, (batch, 3, height, width)).astype(np.float32)}
    maps = np.stack([label_map(seed + number, height, width) for number in range(batch)])
    return {
        "labels": np.ascontiguousarray(maps[:, None, :, :, 0]),
        "instances": np.ascontiguousarray(maps[:, None, :, :, 1]),
        "style": np.array([seed % STYLES]),
    }


def test_the_free_axes_are_called_batch_height_and_width(network):
    found = axes(network[1])

    assert found.pop("result") == ["batch", 3, "height", "width"]
    assert found.pop("style", [1]) == [1]
    assert found in (
        {"image": ["batch", 3, "height", "width"]},
        {name: ["batch", 1, "height", "width"] for name in ("labels", "instances")},
    )


def test_it_equals_torch_at_every_size_and_batch(network):
    checkpoint, path = network
    generator = load_trained(checkpoint).generator
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    for seed, (height, width) in enumerate(SIZES):
        for batch in (1, 2, 3):
            inputs = inputs_for(names, batch, height, width, seed)
            with torch.no_grad():
                # Each picture by itself: the parts of a batch have nothing to do with each other.
                wanted = [
                    generator(*(torch.from_numpy(a if a.ndim == 1 else a[i : i + 1]) for a in inputs.values()))
                    for i in range(batch)
                ]
            (found,) = session.run(None, inputs)
            assert found.shape == (batch, 3, height, width)
            np.testing.assert_allclose(found, torch.cat(wanted).numpy(), rtol=0, atol=1e-4)


def test_without_dynamic_every_axis_is_fixed(resnet, tmp_path):
    card = export(resnet, tmp_path / "static.onnx")

    assert axes(tmp_path / "static.onnx") == {"image": [1, 3, 32, 48], "result": [1, 3, 32, 48]}
    assert (card.size.height, card.size.width, card.export.profile) == (32, 48, None)


def test_the_card_says_what_was_asked_for(resnet, tmp_path):
    arguments = ("--dynamic", "--size", "64x80", "--min-size", "32x48", "--max-size", "128x96", "--max-batch", 4)

    card = export(resnet, tmp_path / "model.onnx", *arguments)

    assert card.export.profile == SizeProfile(smallest=(32, 48), typical=(64, 80), largest=(128, 96), batch=4)
    assert (card.size.height, card.size.width, card.size.multiple_of) == (None, None, 4)
    # The graph itself goes beyond what a plan of it would.
    assert (card.size.smallest, card.size.largest) == (None, None)


@pytest.mark.parametrize(
    ("size", "smallest", "largest"),
    [((32, 48), (16, 24), (64, 96)), ((36, 52), (16, 24), (72, 104)), ((8, 8), (8, 8), (16, 16))],
)
def test_by_default_a_profile_goes_from_half_to_twice_the_size(resnet, size, smallest, largest):
    """As far as the generator's multiple of 4, and its minimum of 8, allow."""
    request = Request(output=resnet, target="onnx", is_dynamic=True)

    assert profile(request, load_trained(resnet).card, size) == SizeProfile(
        smallest=smallest, typical=size, largest=largest
    )


def test_the_proof_runs_at_all_sizes_and_as_a_batch(resnet, tmp_path, monkeypatch):
    from i2i_runtime.engines.onnxruntime import OnnxRuntimeEngine

    shapes, run = [], OnnxRuntimeEngine.run

    def recorded(engine, *inputs):
        shapes.append(inputs[0].shape)
        return run(engine, *inputs)

    monkeypatch.setattr(OnnxRuntimeEngine, "run", recorded)
    export(resnet, tmp_path / "model.onnx", "--dynamic", "--max-batch", 2)

    assert sorted(set(shapes)) == [(1, 3, 16, 24), (1, 3, 32, 48), (1, 3, 64, 96), (2, 3, 32, 48)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dynamic", "--min-size", 64), "--min-size 64x64 --size 32x48 --max-size 64x96: expected each side"),
        (("--dynamic", "--max-size", 32), "--max-size 32x32: expected each side"),
        (("--dynamic", "--min-size", "16x64", "--max-size", "64x64"), "--min-size 16x64 --size 32x48"),
        (("--dynamic", "--min-size", 30), "--min-size 30x30: resnet_1blocks takes multiples of 4 from 8 on"),
        (("--dynamic", "--min-size", 4), "--min-size 4x4: resnet_1blocks takes multiples of 4 from 8 on"),
        (("--dynamic", "--max-size", 98), "--max-size 98x98: resnet_1blocks takes multiples of 4"),
        (("--dynamic", "--size", 50), "--size 50x50: resnet_1blocks takes multiples of 4"),
        (("--min-size", 16), "--min-size: expected --dynamic beside it"),
        (("--max-size", 64), "expected --dynamic beside it"),
        (("--max-batch", 2), "expected --dynamic beside it"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(resnet, tmp_path, arguments, message):
    finished = here("i2i-export", resnet, "-o", tmp_path / "model.onnx", *arguments)

    assert finished.returncode == 2
    assert message in the_error_line(finished)
    assert list(tmp_path.iterdir()) == []


# uint8 graphs


@pytest.mark.parametrize("batch", [1, 3])
def test_a_dynamic_uint8_graph_takes_pictures_of_any_size(resnet, uint8_model, batch):
    session = onnxruntime.InferenceSession(uint8_model, providers=["CPUExecutionProvider"])
    pictures = np.stack([drawing(seed, 40, 64) for seed in range(batch)])
    (found,) = session.run(None, {"image": pictures})

    assert axes(uint8_model)["result"] == ["batch", "height", "width", 3]
    tensor = torch.from_numpy(pictures[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    with torch.no_grad():
        wanted = (load_trained(resnet).generator(tensor).numpy().transpose(0, 2, 3, 1)[..., ::-1] + 1) * 127.5
    assert np.abs(found - wanted).max() <= 1


@pytest.mark.parametrize("precision", ["--fp16", "--int8"])
def test_precision_and_free_sizes_go_together(resnet, tmp_path, precision):
    card = export(resnet, tmp_path / "model.onnx", "--dynamic", "--max-batch", 2, precision, "--min-psnr", 10)

    assert axes(tmp_path / "model.onnx")["image"] == ["batch", 3, "height", "width"]
    assert card.parity[-1].engine == "ONNX Runtime CPU"
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)


# plans


def plan_of(model, folder, **sizes):
    """The manifest of a plan, built from a dynamic graph as on a device; `sizes` replace its profile."""
    graph = onnx.load(model)
    (entry,) = (entry for entry in graph.metadata_props if entry.key == METADATA_KEY)
    card = Card.from_json(entry.value)
    profile = replace(card.export.profile, **sizes)
    save_with_card(graph, replace(card, export=replace(card.export, profile=profile)), folder / "model.onnx")
    finished = here("i2i-export", folder / "model.onnx", "-o", folder / "model.plan", "--target", "tensorrt-rtx")
    assert finished.returncode == 0, finished.stderr
    return read_manifest(folder / "model.plan")


@needs_rtx
def test_a_plan_takes_the_sizes_of_its_profile(uint8_model, tmp_path):
    manifest = plan_of(uint8_model, tmp_path, smallest=(16, 16), typical=(32, 48), largest=(64, 80), batch=2)

    (shape,) = manifest.shapes
    assert shape.name == "image"
    assert (shape.smallest, shape.typical, shape.largest) == ((1, 16, 16, 3), (1, 32, 48, 3), (2, 64, 80, 3))
    size = manifest.card.size
    assert (size.height, size.width, size.smallest, size.largest) == (None, None, (16, 16), (64, 80))


@needs_rtx
def test_a_profile_of_one_size_is_built_all_the_same(float_model, tmp_path):
    manifest = plan_of(float_model, tmp_path, smallest=(32, 32), typical=(32, 32), largest=(32, 32), batch=1)

    (shape,) = manifest.shapes
    assert shape.smallest == shape.largest == (1, 3, 32, 32)
    assert (manifest.card.size.smallest, manifest.card.size.largest) == ((32, 32), (32, 32))


@needs_rtx
@pytest.mark.parametrize("network", ["global"], indirect=True)
def test_every_input_of_a_label_models_plan_has_its_range(network, tmp_path):
    shapes = {shape.name: shape for shape in plan_of(network[1], tmp_path).shapes}

    assert list(shapes) == ["labels", "instances"]
    assert {shape.largest for shape in shapes.values()} == {(3, 1, 64, 64)}


SIDES = st.integers(1, 400)


@st.composite
def limited(draw) -> SizeRule:
    """As the card of a plan has it: limits that keep the rule themselves."""
    multiple = draw(st.sampled_from([1, 4, 32]))
    minimum = multiple * draw(st.integers(1, 2))
    low = [minimum + multiple * draw(st.integers(0, 4)) for _ in range(2)]
    high = [side + multiple * draw(st.integers(0, 6)) for side in low]
    return SizeRule(multiple_of=multiple, minimum=minimum, smallest=(low[0], low[1]), largest=(high[0], high[1]))


@given(SIDES, SIDES, limited(), st.sampled_from(["letterbox", "stretch"]))
def test_a_frame_of_any_size_fits_between_the_limits(height, width, rule, mode):
    fit = plan_fit(height, width, rule, mode)

    assert rule.allows(fit.model), fit
    assert all(1 <= scaled <= side for scaled, side in zip(fit.scaled, fit.model, strict=True)), fit


@given(SIDES, SIDES, limited())
def test_a_frame_is_scaled_down_only_where_it_is_larger_than_the_largest(height, width, rule):
    fit = plan_fit(height, width, rule)

    is_too_large = height > rule.largest[0] or width > rule.largest[1]
    assert (fit.scaled != (height, width)) == is_too_large
    if is_too_large:
        # As large as it may be, with its aspect kept to the pixel.
        assert fit.scaled[0] == rule.largest[0] or fit.scaled[1] == rule.largest[1]
        scale = min(rule.largest[0] / height, rule.largest[1] / width)
        assert all(abs(a - b * scale) <= 1 for a, b in zip(fit.scaled, (height, width), strict=True))


@given(SIDES, SIDES, limited(), st.sampled_from(["letterbox", "stretch"]))
def test_a_frame_comes_back_in_its_own_size(height, width, rule, mode):
    frame = np.full((height, width, 3), 7, np.uint8)

    fit = plan_fit(height, width, rule, mode)

    fitted = fit.apply(frame)
    assert fitted.shape == (*fit.model, 3)
    assert (fitted == 7).all()
    assert fit.undo(fitted).shape == frame.shape


@given(SIDES, SIDES, limited())
def test_ids_of_a_map_of_any_size_fit_and_stay_ids(height, width, rule):
    maps = np.random.default_rng(0).choice(np.array([3, 70000], np.int32), (height, width, 2))

    fitted = plan_fit(height, width, rule, "stretch").apply_to_ids(maps)

    assert rule.allows(fitted.shape[:2])
    assert set(np.unique(fitted)) <= {3, 70000}


# in the runtime


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (5, 7), (100, 61)])
@pytest.mark.parametrize("graph_io", ["float", "uint8"])
def test_pictures_of_odd_sizes_are_translated_in_their_own_size(request, resnet, size, graph_io):
    picture = drawing(3, *size)

    with Translator(request.getfixturevalue(f"{graph_io}_model")) as translator:
        found = translator(picture)
        fit = plan_fit(*size, translator.card.size)

    assert found.shape == picture.shape
    tensor = torch.from_numpy(fit.apply(picture)[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)[None]
    with torch.no_grad():
        levels = (load_trained(resnet).generator(tensor)[0].numpy().transpose(1, 2, 0)[:, :, ::-1] + 1) * 127.5
    wanted = fit.undo(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    assert np.abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (5, 7), (70, 41)])
@pytest.mark.parametrize("network", ["global", "local of two enhancers"], indirect=True)
def test_label_maps_of_odd_sizes_are_translated_in_their_own_size(network, size):
    _, path = network
    maps = label_map(0, *size)
    with LabelTranslator(path, style=1) as translator:
        found = translator(maps)
        fit = plan_fit(*size, translator.card.size)

    assert found.shape == (*size, 3)
    labels, instances = (
        torch.from_numpy(np.ascontiguousarray(its)) for its in fit.apply_to_ids(maps).transpose(2, 0, 1)
    )
    with torch.no_grad():
        output = load_trained(network[0]).generator(labels[None, None], instances[None, None], torch.tensor([1]))
    levels = (output[0].numpy().transpose(1, 2, 0)[:, :, ::-1] + 1) * 127.5
    wanted = fit.undo(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    assert np.abs(found.astype(int) - wanted).max() <= 1
