"""Models of label maps in the runtime: classes, instances, styles; without torch."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from commands import run, the_error_line
from drawings import write_labelled
from onnx import TensorProto, helper, numpy_helper
from onnx_models import make_card, negative_model, save

from i2i_runtime import LabelTranslator, Translator
from i2i_runtime.card import ImageSpec, LabelSpec
from i2i_runtime.errors import ModelError, SourceError, UsageError
from i2i_runtime.sources.label_maps import LabelMapsSource


def label_model(path, *, instances=True, styles=3, baked=None, size=(64, 64)):
    """Red is the class, green the instance, blue the style: each a number of grey levels that a test can read."""
    card = make_card(size)
    labels = LabelSpec(count=4, instance_edges=instances, styles=styles)
    export = replace(card.export, style=baked)
    card = replace(card, labels=labels, export=export, input=ImageSpec(channels=1, colour="GRAY"))
    shape = [1, 1, *size]
    inputs = [("labels", TensorProto.INT32, shape)]
    inputs += [("instances", TensorProto.INT32, shape)] if instances else []
    inputs += [("style", TensorProto.INT64, [1])] if styles and baked is None else []
    nodes, planes = [], []
    for name, scale in (("labels", 10), ("instances", 0.01), ("style", 50)):
        source = name if name in {i[0] for i in inputs} else "labels"
        if source != name:
            scale = 0
        nodes += [
            helper.make_node("Cast", [source], [f"{name}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [f"{name}_grey"]),
            helper.make_node("Add", [f"{name}_grey", "plane"], [f"{name}_plane"]),
        ]
        planes.append((f"{name}_scale", scale / 127.5))
    nodes += [
        helper.make_node("Concat", ["labels_plane", "instances_plane", "style_plane"], ["stacked"], axis=1),
        helper.make_node("Sub", ["stacked", "one"], ["result"]),
    ]
    constants = [numpy_helper.from_array(np.array(v, np.float32), name) for name, v in [*planes, ("one", 1.0)]]
    constants.append(numpy_helper.from_array(np.zeros(shape, np.float32), "plane"))
    return save(path, nodes, inputs, [("result", TensorProto.FLOAT, [1, 3, *size])], constants, card)


def maps(height=64, width=64) -> np.ndarray:
    labels = np.arange(width) * 4 // width
    instances = np.full(width, 2500)
    return np.dstack([np.tile(row, (height, 1)) for row in (labels, instances)]).astype(np.int32)


def test_classes_instances_and_style_reach_the_model(tmp_path):
    translator = LabelTranslator(label_model(tmp_path / "m.onnx"), style=2)

    picture = translator(maps())

    assert picture.shape == (64, 64, 3)
    assert picture[0, [0, 20, 40, 63], 2].tolist() == [0, 10, 20, 30]
    assert picture[0, 0, 1] == 25
    assert picture[0, 0, 0] == 100


def test_a_map_of_another_size_comes_back_at_its_own_and_its_ids_are_never_mixed(tmp_path):
    translator = LabelTranslator(label_model(tmp_path / "m.onnx"))

    picture = translator(maps(128, 128))

    assert picture.shape == (128, 128, 3)
    assert picture[0, 0, 1] == 25


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((8, 8, 1), np.int32), r"expected \(h, w, 2\) ids, found \(8, 8, 1\)"),
        (np.full((8, 8, 2), 4, np.int32), "expected label ids 0 to 3, found 4"),
    ],
)
def test_what_is_no_map_of_the_models_is_refused(tmp_path, wrong, message):
    with pytest.raises(SourceError, match=message):
        LabelTranslator(label_model(tmp_path / "m.onnx"))(wrong)


def test_of_a_style_that_was_built_in_there_is_no_other(tmp_path):
    path = label_model(tmp_path / "m.onnx", baked=1)

    assert np.array_equal(LabelTranslator(path)(maps()), LabelTranslator(path, style=1)(maps()))
    with pytest.raises(UsageError, match=r"has one style only; choose when exporting"):
        LabelTranslator(path, style=0)


def test_a_style_out_of_range_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(UsageError, match=r"--style 3: m\.onnx has styles 0 to 2"):
        LabelTranslator(label_model(tmp_path / "m.onnx"), style=3)


def test_pictures_and_label_maps_each_have_their_translator(tmp_path):
    with pytest.raises(ModelError, match="expected a model of label maps, found one of pictures"):
        LabelTranslator(negative_model(tmp_path / "n.onnx"))
    with pytest.raises(ModelError, match=r"takes label maps; use i2i-run --images LABELS"):
        Translator(label_model(tmp_path / "m.onnx"))


@pytest.fixture
def labelled(tmp_path):
    return write_labelled(tmp_path, "val", 3, 64, 64)


def test_maps_are_matched_without_the_endings_of_their_names(labelled):
    source = LabelMapsSource(str(labelled / "val_label"), str(labelled / "val_inst"))

    frames = list(source)

    ids = cv2.imread(str(labelled / "val_inst" / "town_000001_instanceIds.png"), cv2.IMREAD_UNCHANGED)
    assert [frame.name for frame in frames] == [f"town_{n:06d}_labelIds" for n in range(3)]
    assert np.array_equal(frames[1].image[:, :, 1], ids)
    assert ids.max() > 255


def test_a_broken_map_is_skipped_and_named(labelled):
    (labelled / "val_label" / "town_000001_labelIds.png").write_bytes(b"broken")
    source = LabelMapsSource(str(labelled / "val_label"))

    assert len(list(source)) == 2
    assert "town_000001_labelIds.png: not a picture" in source.skipped[0]


def test_an_instance_map_that_is_missing_is_named(labelled):
    (labelled / "val_inst" / "town_000002_instanceIds.png").unlink()

    with pytest.raises(SourceError, match="expected an instance map for each label map, found none for"):
        LabelMapsSource(str(labelled / "val_label"), str(labelled / "val_inst"))


def test_i2i_run_translates_a_folder_of_label_maps(labelled):
    model = label_model(labelled / "m.onnx")

    finished = run(
        "i2i-run", "--engine", model, "--images", labelled / "val_label", "--instances", labelled / "val_inst",
        "--style", 1, "--output", labelled / "results",
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr
    result = cv2.imread(str(labelled / "results" / "town_000000_labelIds.png"))
    labels = cv2.imread(str(labelled / "val_label" / "town_000000_labelIds.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(result[:, :, 2], labels * 10)
    assert set(result[:, :, 0].ravel()) == {50}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--images", "val_label"), "give --instances DIR"),
        (("--camera", "0"), "takes label maps; expected --images LABELS"),
        (("--images", "val_label", "--side-by-side"), "without --view, --side-by-side, --tile"),
        (("--images", "val_label", "--instances", "val_inst", "--style", "7"), "has styles 0 to 2"),
        (("--images", "val_label", "--instances", "val_inst", "--output", "val_inst"), "holds the input pictures"),
    ],
)
def test_what_does_not_go_with_a_model_of_label_maps_is_one_line(labelled, arguments, message):
    label_model(labelled / "m.onnx")

    finished = run("i2i-run", "--engine", "m.onnx", "--output", "results", *arguments, cwd=labelled)

    assert finished.returncode == 2
    assert message in the_error_line(finished)
