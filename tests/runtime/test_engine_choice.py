"""`--engine auto`: of all ways to run a model here, the quickest that gives the right answer."""

from __future__ import annotations

import dataclasses
import itertools
import shutil

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_models import make_card, negative_model, save
from plans import needs_no_gpu, needs_rtx, rtx_plan

from i2i_runtime.card import METADATA_KEY, Card, LabelSpec, MadeWith
from i2i_runtime.engines import choose
from i2i_runtime.engines.cards import card_of
from i2i_runtime.engines.choose import choose_engine, cpu_notes
from i2i_runtime.errors import ModelError

ov = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'i2i[openvino]'")

SIZE = (64, 64)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test."""
    monkeypatch.setenv("I2I_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def card_from(checkpoint: str = "zebra", size=SIZE, **changes) -> Card:
    return dataclasses.replace(make_card(size, **changes), made_with=MadeWith(source_sha256=checkpoint))


def blur(path, card: Card | None = None, *, layers: int = 1, off: float = 0.0):
    """A model that blurs each channel `layers` times and adds `off`; so many layers take so much time."""
    height, width = (card and card.size.height) or "height", (card and card.size.width) or "width"
    weight = np.zeros((3, 3, 5, 5), np.float32)
    for channel in range(3):
        weight[channel, channel] = 1 / 25
    bias = np.full(3, off, np.float32)
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    names = ["image", *(f"x{i}" for i in range(layers - 1)), "result"]
    nodes = [
        helper.make_node("Conv", [a, "weight", *(["bias"] if b == "result" else [])], [b], pads=[2, 2, 2, 2])
        for a, b in itertools.pairwise(names)
    ]
    shape = [1, 3, height, width]
    return save(
        path, nodes, [("image", TensorProto.FLOAT, shape)], [("result", TensorProto.FLOAT, shape)], constants, card
    )


def to_openvino(path):
    """`path` in OpenVINO's format beside it, with its card."""
    model = ov.Core().read_model(path)
    (text,) = (entry.value for entry in onnx.load(path).metadata_props if entry.key == METADATA_KEY)
    model.set_rt_info(text, [METADATA_KEY])
    ov.save_model(model, path.with_suffix(".xml"), compress_to_fp16=False)
    return path.with_suffix(".xml")


def verdicts(choice, file: str) -> list[str]:
    return [row.verdict for row in choice.rows if row.file == file]


def test_every_library_is_tried_and_the_choice_is_one_that_is_right(tmp_path):
    choice = choose_engine(blur(tmp_path / "zebra.onnx", card_from(), layers=3), "cpu")

    tried = {(row.file, row.backend, row.precision) for row in choice.rows}
    assert {("zebra.onnx", "onnxruntime", None), ("zebra.onnx", "openvino", "f32")} <= tried
    assert [row.verdict for row in choice.rows].count("chosen") == 1
    assert all(row.psnr_db > 60 and row.median_ms > 0 for row in choice.rows if row.precision in (None, "f32"))
    assert choice.chosen.median_ms == min(row.median_ms for row in choice.rows)
    with choice.open() as engine:
        assert engine.provider == choice.chosen.provider
        assert engine.name == "zebra.onnx"


def test_other_exports_of_the_checkpoint_are_tried_in_all_formats(tmp_path):
    model = blur(tmp_path / "zebra.onnx", card_from())
    shutil.copy(model, tmp_path / "zebra-int8.onnx")
    to_openvino(model)

    choice = choose_engine(model, "cpu")

    assert {row.file for row in choice.rows} == {"zebra.onnx", "zebra-int8.onnx", "zebra.xml"}


def test_a_much_quicker_export_that_is_right_wins(tmp_path):
    card = card_from(size=(256, 256))
    model = blur(tmp_path / "zebra.onnx", card, layers=60)
    # On a grey picture, 0 in [-1, 1], the blur of it and nothing at all are the same.
    shape = [1, 3, 256, 256]
    zero = numpy_helper.from_array(np.array(0, np.float32), "zero")
    node = helper.make_node("Mul", ["image", "zero"], ["result"])
    sides = [("image", TensorProto.FLOAT, shape)], [("result", TensorProto.FLOAT, shape)]
    save(tmp_path / "zebra-quick.onnx", [node], *sides, [zero], card)
    grey = np.full((256, 256, 3), 128, np.uint8)

    choice = choose_engine(model, "cpu", pictures=[grey])

    assert choice.chosen.file == "zebra-quick.onnx"
    assert all("times as slow" in verdict for verdict in verdicts(choice, "zebra.onnx"))


def test_a_wrong_answer_never_wins_however_quick(tmp_path):
    model = blur(tmp_path / "zebra.onnx", card_from(), layers=30)
    blur(tmp_path / "zebra-fast.onnx", card_from(), layers=1)

    choice = choose_engine(model, "cpu")

    assert choice.chosen.file == "zebra.onnx"
    for verdict in verdicts(choice, "zebra-fast.onnx"):
        assert verdict.startswith("wrong answer: ")
        assert verdict.endswith(" dB, expected at least 40")


@pytest.mark.parametrize(("off", "is_right"), [(0.01, True), (0.03, False)])
def test_what_is_right_is_decided_at_40_db(tmp_path, off, is_right):
    # An offset of x in [-1, 1] is 127.5 x grey levels: 46 dB and 36.5 dB.
    model = blur(tmp_path / "zebra.onnx", card_from())
    blur(tmp_path / "zebra-int8.onnx", card_from(), off=off)

    choice = choose_engine(model, "cpu")

    wrong = [verdict.startswith("wrong") for verdict in verdicts(choice, "zebra-int8.onnx")]
    assert wrong == [not is_right] * len(wrong) != []


def test_a_uint8_export_is_compared_with_a_float_one_as_a_picture(tmp_path):
    model = negative_model(tmp_path / "zebra.onnx", card_from())
    negative_model(tmp_path / "zebra-uint8.onnx", card_from(graph_io="uint8"))

    choice = choose_engine(model, "cpu")

    assert all(row.psnr_db >= 48 for row in choice.rows)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"direction": "BtoA"}, "other.onnx was not tried: it has another direction"),
        ({"size": dataclasses.replace(card_from().size, height=32)}, "other.onnx was not tried: it has another size"),
        ({"made_with": MadeWith(source_sha256="horse")}, None),
        ({"made_with": MadeWith()}, None),
    ],
)
def test_a_file_that_does_something_else_is_not_tried(tmp_path, change, note):
    model = negative_model(tmp_path / "zebra.onnx", card_from())
    negative_model(tmp_path / "other.onnx", dataclasses.replace(card_from(), **change))

    choice = choose_engine(model, "cpu")

    assert {row.file for row in choice.rows} == {"zebra.onnx"}
    assert [line for line in choice.notes if "other" in line] == ([note] if note else [])


def test_a_file_that_cannot_be_run_is_a_line_of_the_table(tmp_path):
    model = negative_model(tmp_path / "zebra.onnx", card_from())
    to_openvino(negative_model(tmp_path / "copy.onnx", card_from())).with_suffix(".bin").unlink()

    choice = choose_engine(model, "cpu")

    (verdict,) = set(verdicts(choice, "copy.xml"))
    assert "its weights are missing" in verdict
    assert choice.chosen.file in ("zebra.onnx", "copy.onnx")


@needs_rtx
@needs_no_gpu
def test_a_plan_without_a_gpu_is_a_line_of_the_table(tmp_path):
    model = negative_model(tmp_path / "zebra.onnx", card_from())
    rtx_plan(model, card=card_from())

    choice = choose_engine(model)

    (verdict,) = verdicts(choice, "zebra.plan")
    assert "a plan runs on an NVIDIA GPU" in verdict


def test_files_without_text_or_sense_beside_it_are_passed_over(tmp_path):
    model = negative_model(tmp_path / "zebra.onnx", card_from())
    for name in ("a.onnx", "b.xml", "c.plan", "d.engine"):
        (tmp_path / name).write_bytes(b"\x80garbage")
    (tmp_path / "folder.onnx").mkdir()

    assert {row.file for row in choose_engine(model, "cpu").rows} == {"zebra.onnx"}


def test_a_model_that_returns_nan_is_no_choice(tmp_path):
    with pytest.raises(ModelError, match=r"zebra.onnx: the model returned NaN or infinity"):
        choose_engine(negative_model(tmp_path / "zebra.onnx", card_from(), scale=float("nan")), "cpu")


def test_a_device_that_nothing_here_has_is_one_line(tmp_path):
    if any(name.startswith("NPU") for name in ov.Core().available_devices):
        pytest.skip("here is an NPU")

    with pytest.raises(ModelError, match=r"zebra.onnx: no engine here gives the right answer: none for --device npu"):
        choose_engine(negative_model(tmp_path / "zebra.onnx", card_from()), "npu")


def test_a_file_that_is_no_model_is_refused_as_by_any_engine(tmp_path):
    (tmp_path / "zebra.onnx").write_bytes(b"garbage")

    with pytest.raises(ModelError, match=r"zebra.onnx: not an ONNX model"):
        choose_engine(tmp_path / "zebra.onnx", "cpu")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"none.onnx: no such engine file"):
        choose_engine(tmp_path / "none.onnx", "cpu")


def test_a_model_without_a_card_is_chosen_for_too(tmp_path):
    choice = choose_engine(negative_model(tmp_path / "zebra.onnx", bare=True), "cpu")

    assert choice.chosen.file == "zebra.onnx"
    assert any("does not say which checkpoint" in note for note in choice.notes)


def test_a_model_of_free_size_is_tried_at_the_size_of_the_pictures(tmp_path):
    model = negative_model(tmp_path / "zebra.onnx", card_from(size=None))
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)

    assert choose_engine(model, "cpu", pictures=[picture]).chosen.psnr_db >= 48


def test_a_model_of_label_maps_is_tried_on_drawn_maps(tmp_path):
    nodes = [
        helper.make_node("Cast", ["labels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["instances"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "y"], ["sum"]),
        helper.make_node("Sin", ["sum"], ["grey"]),
        helper.make_node("Concat", ["grey", "grey", "grey"], ["result"], axis=1),
    ]
    inputs = [(name, TensorProto.INT32, [1, 1, *SIZE]) for name in ("labels", "instances")]
    card = dataclasses.replace(card_from(), labels=LabelSpec(count=5, instance_edges=True))
    model = save(tmp_path / "street.onnx", nodes, inputs, [("result", TensorProto.FLOAT, [1, 3, *SIZE])], card=card)

    choice = choose_engine(model, "cpu")

    assert choice.chosen.verdict == "chosen"
    assert len(choice.rows) >= 2


def test_a_model_without_a_card_that_takes_no_pictures_says_what_to_do(tmp_path):
    shape = [1, 16]
    model = save(
        tmp_path / "odd.onnx",
        [helper.make_node("Neg", ["vector"], ["result"])],
        [("vector", TensorProto.FLOAT, shape)],
        [("result", TensorProto.FLOAT, shape)],
    )

    with pytest.raises(ModelError, match=r"odd.onnx: no engine can be chosen for .* \(float32 1x16 .*name an engine"):
        choose_engine(model, "cpu")


# The second start -----------------------------------------------------------------------------------------------------


def test_the_second_start_tries_nothing(tmp_path, cache, monkeypatch):
    model = negative_model(tmp_path / "zebra.onnx", card_from())
    first = choose_engine(model, "cpu", 1)
    assert [path.name.endswith(".choice.json") for path in cache.iterdir()] == [True]
    assert cache.stat().st_mode & 0o777 == 0o700

    monkeypatch.setattr(choose, "open_engine", pytest.fail)
    second = choose_engine(model, "cpu", 1)

    assert (first.is_from_cache, second.is_from_cache) == (False, True)
    assert dataclasses.replace(second, is_from_cache=False) == first


@pytest.mark.parametrize("change", ["weights", "another export", "threads", "pictures"])
def test_what_may_change_the_choice_is_tried_anew(tmp_path, change):
    model = negative_model(tmp_path / "zebra.onnx", card_from())
    choose_engine(model, "cpu", 1)
    threads, pictures = 1, None
    if change == "weights":
        negative_model(model, card_from(), scale=-0.5)
    elif change == "another export":
        to_openvino(model)
    elif change == "threads":
        threads = 2
    else:
        pictures = [np.zeros((*SIZE, 3), np.uint8)]

    assert not choose_engine(model, "cpu", threads, pictures=pictures).is_from_cache


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rows": 3}', "\x00"])
def test_a_broken_entry_of_the_cache_is_written_anew(tmp_path, cache, content):
    model = negative_model(tmp_path / "zebra.onnx", card_from())
    choose_engine(model, "cpu")
    (entry,) = cache.iterdir()
    entry.write_text(content)

    assert not choose_engine(model, "cpu").is_from_cache
    assert choose_engine(model, "cpu").is_from_cache


def test_without_a_place_for_a_cache_it_chooses_all_the_same(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")

    assert choose_engine(negative_model(tmp_path / "zebra.onnx", card_from()), "cpu").chosen.file == "zebra.onnx"


# What is said ---------------------------------------------------------------------------------------------------------


def test_the_explanation_has_a_line_for_each_way(tmp_path):
    choice = choose_engine(blur(tmp_path / "zebra.onnx", card_from(), layers=2), "cpu")

    head, *lines = choice.explain().splitlines()

    assert head.split() == ["engine", "median", "ms", "range", "ms", "PSNR", "dB", "verdict"]
    assert len(lines) == len(choice.rows) + len(choice.notes)
    for line, row in zip(lines, choice.rows, strict=False):
        assert line.startswith(row.name)
        assert line.endswith(row.verdict)
    assert [line for line in lines if line.endswith("  chosen")]


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        (
            "flags\t\t: fpu avx2",
            ["this CPU has neither bf16 nor int8 (VNNI) instructions: reduced precision gains little"],
        ),
        ("flags\t\t: fpu avx2 avx_vnni", ["this CPU has no bf16 instructions: reduced precision gains little"]),
        ("flags\t\t: avx512_vnni avx512_bf16", []),
        ("Features\t: fp asimd asimddp", ["this CPU has no bf16 instructions: reduced precision gains little"]),
        ("model name\t: none", []),
    ],
)
def test_what_the_cpu_lacks_is_read_from_its_flags(tmp_path, monkeypatch, flags, note):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n\nprocessor\t: 1\n{flags}\n")
    monkeypatch.setattr(choose, "_CPU_INFO", tmp_path / "cpuinfo")

    assert cpu_notes() == note


# Cards without loading a model ----------------------------------------------------------------------------------------


def test_the_card_is_found_in_each_kind_of_file(tmp_path):
    strange = dataclasses.replace(card_from(), name='zèbre "<&>" \\ \n 斑马 ' * 20)
    path = blur(tmp_path / "zebra.onnx", strange)

    assert card_of(path) == strange
    assert card_of(to_openvino(path)) == strange
    assert card_of(negative_model(tmp_path / "bare.onnx", bare=True)) is None
    assert card_of(tmp_path / "none.onnx") is None


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_file_has_a_card_or_none_but_never_an_error(tmp_path_factory, data):
    path = negative_model(tmp_path_factory.mktemp("damaged") / "model.onnx", card_from())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    assert isinstance(card_of(path), Card | None)
