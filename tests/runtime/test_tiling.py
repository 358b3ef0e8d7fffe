"""A frame in tiles is the frame as a whole: for every model whose norms can be told, and the others are refused."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_models import make_card, negative_model, save

from i2i_export.graph import save_with_card
from i2i_export.tileable import make_tileable
from i2i_runtime.card import Architecture
from i2i_runtime.errors import BadOutputError, ModelError, UsageError
from i2i_runtime.tiling import (
    TiledTranslator,
    corrected,
    correction_between,
    distance,
    plan_line,
    plan_tiles,
)
from i2i_runtime.translator import Translator

FRAME = (100, 172)
TILE = (64, 64)
OVERLAP = 16


def photograph(height: int = FRAME[0], width: int = FRAME[1], pan: int = 0) -> np.ndarray:
    """Dark on the left and bright on the right, with texture that is finest below: no tile is like the frame."""
    y, x = np.mgrid[0:height, pan : pan + width].astype(np.float64)
    levels = 40 + 150 * x / 200 + 30 * np.sin(x * y / 300) * (y / height)
    return np.clip(np.dstack([levels, levels * 0.7 + 20, 255 - levels]), 0, 255).astype(np.uint8)


def largest_difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


def plain_card(size=None, **settings):
    """Of a model that may be tiled as it is: batch norm with the training's statistics."""
    card = make_card(size, **settings)
    return replace(
        card,
        generator=Architecture(name="resnet_1blocks", arguments={"norm": "batch"}),
        export=replace(card.export, norm_statistics="running"),
    )


def instance_card(size=None):
    return replace(make_card(size), generator=Architecture(name="resnet_1blocks"))


def write_network(path, *, is_tileable: bool, layers: int = 4):
    """Convolutions of 3x3 with instance norms between them: sees `layers` pixels far."""
    random = np.random.default_rng(3)
    nodes, constants, name, before = [], [], "image", 3
    for layer in range(layers):
        after = 3 if layer == layers - 1 else 6
        weights = random.normal(0, 0.4, (after, before, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], f"{layer}/Conv", pads=[1] * 4))
        if layer == layers - 1:
            nodes.append(helper.make_node("Tanh", [f"c{layer}"], ["result"], "Tanh"))
            break
        scale, bias = random.uniform(0.5, 1.5, after), random.normal(0, 0.3, after)
        constants += [
            numpy_helper.from_array(a.astype(np.float32), f"{n}{layer}") for n, a in (("s", scale), ("b", bias))
        ]
        inputs = [f"c{layer}", f"s{layer}", f"b{layer}"]
        nodes.append(helper.make_node("InstanceNormalization", inputs, [f"n{layer}"], f"{layer}/Norm", epsilon=1e-5))
        nodes.append(helper.make_node("Relu", [f"n{layer}"], [f"r{layer}"], f"{layer}/Relu"))
        name, before = f"r{layer}", after
    tensor = (TensorProto.FLOAT, ["batch", 3, "height", "width"])
    save(path, nodes, [("image", *tensor)], [("result", *tensor)], constants, instance_card())
    if is_tileable:
        import onnx

        model, channels = make_tileable(onnx.load(path), TILE)
        card = instance_card()
        save_with_card(model, replace(card, export=replace(card.export, norm_channels=channels)), path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("plain") / "plain.onnx", is_tileable=False)


@pytest.fixture(scope="module")
def tileable(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("tileable") / "tileable.onnx", is_tileable=True)


@given(data=st.data(), step=st.sampled_from([1, 4, 32]), tile=st.integers(2, 12), more=st.integers(0, 40))
def test_the_windows_of_all_tiles_add_up_to_one_everywhere(data, step, tile, more):
    tile, length = tile * step, (tile + more) * step
    overlap = data.draw(st.integers(0, tile // 2))

    line = plan_line(length, tile, overlap, step)

    total = np.zeros(length)
    for start, window in zip(line.starts, line.windows, strict=True):
        total[start : start + tile] += window
    assert np.allclose(total, 1, atol=1e-6)
    assert all(start % step == 0 for start in line.starts)
    assert all(after + overlap <= before + tile for before, after in zip(line.starts, line.starts[1:], strict=False))


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 200), graph_io=st.sampled_from(["float", "uint8"]))
def test_a_frame_of_any_size_becomes_its_negative_in_tiles(negatives, height, width, graph_io):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)

    assert largest_difference(negatives[graph_io](image), 255 - image) <= 1


@pytest.fixture(scope="module")
def negatives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("negatives")
    return {
        io: TiledTranslator(negative_model(folder / f"{io}.onnx", plain_card((64, 64), graph_io=io)), overlap=16)
        for io in ("float", "uint8")
    }


@pytest.mark.parametrize("graph_io", ["float", "uint8"])
def test_grey_models_make_grey_pictures(tmp_path, graph_io):
    model = negative_model(tmp_path / "grey.onnx", plain_card((64, 64), graph_io=graph_io, channels=1))
    grey = np.repeat(photograph()[:, :, :1], 3, axis=2)

    assert largest_difference(TiledTranslator(model)(grey), 255 - grey) <= 1


@pytest.fixture
def as_many_passes_as_allowed(monkeypatch):
    monkeypatch.setattr("i2i_runtime.tiling.SETTLED", 0.0)


@pytest.mark.usefixtures("as_many_passes_as_allowed")
def test_tiles_come_out_as_the_whole_frame_does(plain, tileable):
    image = photograph()

    tiled = TiledTranslator(tileable, tile=TILE, overlap=OVERLAP, most_passes=8)(image)

    assert largest_difference(tiled, Translator(plain)(image)) <= 2


def test_tiles_with_statistics_of_their_own_do_not(plain):
    image = photograph()
    plan = plan_tiles(FRAME, TILE, OVERLAP, instance_card().size)
    translator = Translator(plain)
    rows, columns, _ = next(iter(plan.tiles()))

    own = translator(np.ascontiguousarray(image[rows, columns]))

    assert largest_difference(own, translator(image)[rows, columns]) > 40


@pytest.mark.usefixtures("as_many_passes_as_allowed")
def test_every_pass_over_the_tiles_comes_nearer_to_the_whole_frame(plain, tileable):
    wanted = Translator(plain)(photograph()).astype(float)

    errors = [
        np.abs(TiledTranslator(tileable, tile=TILE, overlap=OVERLAP, most_passes=passes)(photograph()) - wanted).mean()
        for passes in (1, 2, 4)
    ]

    assert errors[0] > errors[1] > errors[2]


def test_the_next_frame_of_a_video_takes_one_pass(tileable):
    translator = TiledTranslator(tileable, tile=TILE, overlap=OVERLAP, from_previous=True)
    translator(photograph())
    first = translator.passes

    translator(photograph(pan=2))

    assert (first, translator.passes) == (first, 1)
    assert first > 1


def test_that_pass_is_nearer_to_the_whole_frame_than_one_without_the_frames_before(plain, tileable):
    wanted = Translator(plain)(photograph(pan=2)).astype(int)
    video = TiledTranslator(tileable, tile=TILE, overlap=OVERLAP, from_previous=True)
    video(photograph())

    following, alone = video(photograph(pan=2)), TiledTranslator(tileable, tile=TILE, overlap=OVERLAP, most_passes=1)

    assert 2 * np.abs(following - wanted).mean() < np.abs(alone(photograph(pan=2)) - wanted).mean()


def test_without_previous_frames_a_picture_always_comes_out_the_same(tileable):
    translator = TiledTranslator(tileable, tile=TILE, overlap=OVERLAP)
    first = translator(photograph())
    translator(255 - photograph())

    assert np.array_equal(translator(photograph()), first)


def test_a_frame_that_fits_into_one_tile_is_translated_as_it_is(plain, tileable):
    image = photograph(48, 40)

    assert largest_difference(TiledTranslator(tileable, tile=TILE)(image), Translator(plain)(image)) <= 1


def test_an_ordinary_translator_runs_a_tileable_model_as_the_model_it_was(plain, tileable):
    assert largest_difference(Translator(tileable)(photograph()), Translator(plain)(photograph())) <= 1


def test_what_moves_statistics_to_others_arrives_there():
    random = np.random.default_rng(0)
    before, after = (np.abs(random.normal(0, 2, (1, 2, 9))).astype(np.float32) for _ in range(2))

    arrived = corrected(before, correction_between(before, after))

    assert np.allclose(arrived, after, rtol=1e-5)
    assert distance(arrived, after) < 1e-5 < distance(before, after)


def test_a_model_with_instance_norm_that_is_not_tileable_is_refused_with_the_way_to_export_it(plain):
    with pytest.raises(ModelError, match=r"i2i-export CHECKPOINT --tileable -o plain\.onnx"):
        TiledTranslator(plain)


def test_so_is_one_with_batch_norm_of_each_pictures_own_statistics(tmp_path):
    card = replace(make_card(), generator=Architecture(name="unet_32"))

    with pytest.raises(ModelError, match="--tileable"):
        TiledTranslator(negative_model(tmp_path / "batch.onnx", card))


def test_a_model_without_a_card_is_tiled_with_a_warning(tmp_path):
    translator = TiledTranslator(negative_model(tmp_path / "foreign.onnx", bare=True))

    assert "carries no card" in translator.assumed
    assert "its tiles will differ in colour" in translator.assumed


def test_a_u_net_is_tiled_with_a_warning(tmp_path):
    card = replace(plain_card((64, 64)), generator=Architecture(name="unet_32"))

    assert "unet_32 looks at all of a picture" in TiledTranslator(negative_model(tmp_path / "unet.onnx", card)).assumed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile": (32, 32)}, "--tile 32x32: model.onnx takes 64x64 only; leave its size out"),
        ({"overlap": 40}, "--overlap 40: expected 0 to 32, half of a tile"),
    ],
)
def test_a_tile_or_an_overlap_that_does_not_fit_is_one_line(tmp_path, settings, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        TiledTranslator(negative_model(tmp_path / "model.onnx", plain_card((64, 64))), **settings)


def test_a_tile_that_is_no_multiple_is_one_line(tmp_path):
    model = negative_model(tmp_path / "model.onnx", plain_card(None, multiple_of=4))

    with pytest.raises(UsageError, match="takes multiples of 4"):
        TiledTranslator(model, tile=(62, 64))


def test_a_model_that_returns_nan_is_told_as_such(tmp_path):
    model = negative_model(tmp_path / "nan.onnx", plain_card((64, 64)), scale=float("nan"))

    with pytest.raises(BadOutputError, match="NaN"):
        TiledTranslator(model)(photograph())
