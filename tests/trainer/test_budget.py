"""From a measured machine to the time of any student, and to the largest student that keeps a time."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import python
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from i2i_runtime.card import Architecture
from i2i_runtime.errors import ModelError, SinkError, UsageError
from i2i_trainer.budget.machine import EngineTimes, MachineProfile, Table, Trial, read_profile, write_profile
from i2i_trainer.budget.predictor import predict
from i2i_trainer.budget.search import BLOCKS, MARGIN, choose, parse_budget
from i2i_trainer.budget.shape import BLOCK_KINDS, GROUP, StudentShape
from i2i_trainer.networks.build import build_generator

SIZE = (256, 256)
WIDTHS, HALVES = (8, 16, 32, 64), (8, 32)
FP32, INT8 = "ONNX Runtime CPU fp32", "ONNX Runtime CPU int8"
SLOWER = {"plain": 1.0, "grouped": 1.5, "separable": 2.0}


def block_s(kind: str, width: float, inner: float) -> float:
    """Seconds of a block of a machine that we make up, of the form that convolutions have."""
    return SLOWER[kind] * (20 + 2 * width + 3 * inner + width * inner) * 1e-6


def ends_s(width: float, half: float) -> float:
    return (500 + 10 * width + 40 * half + half * width) * 1e-6


def table(rows, columns, of) -> Table:
    seconds = tuple(tuple(of(row, column) for column in columns) for row in rows)
    return Table(rows=tuple(rows), columns=tuple(columns), seconds=seconds)


def engine_times(precision: str = "fp32", factor: float = 1.0) -> EngineTimes:
    return EngineTimes(
        backend="onnxruntime",
        device="cpu",
        precision=precision,
        provider="ONNX Runtime CPU",
        ends=table([0], WIDTHS, lambda half, width: factor * ends_s(width, 0)),
        half_ends=table(HALVES, WIDTHS, lambda half, width: factor * ends_s(width, half)),
        blocks={
            kind: table(
                [width for width in WIDTHS if kind != "grouped" or width % GROUP == 0],
                [16, 64] if kind == "grouped" else [8, 64],
                lambda width, inner, kind=kind: factor * block_s(kind, width, inner),
            )
            for kind in BLOCK_KINDS
        },
        trials=(),
    )


def make_profile(*engines: EngineTimes) -> MachineProfile:
    return MachineProfile(
        machine="made up",
        cpu="made up",
        cores=2,
        threads=None,
        system="Linux x86_64",
        versions={"i2i": "0.1.0"},
        date="2026-01-01T00:00:00+00:00",
        size=SIZE,
        channels=(3, 3),
        busy_elsewhere=0.0,
        engines=engines or (engine_times(), engine_times("int8", 0.5)),
    )


PROFILE = make_profile()


@st.composite
def shapes(draw, largest=64) -> StudentShape:
    block = draw(st.sampled_from(BLOCK_KINDS))
    step = GROUP if block == "grouped" else 8
    channels = st.integers(1, largest // step).map(lambda number: number * step)
    return StudentShape(
        block=block,
        width=draw(channels),
        half=draw(st.sampled_from([0, 8, 24, 32])),
        inners=tuple(draw(st.lists(channels, max_size=12))),
    )


# A student by its numbers


@given(shapes())
def test_a_students_numbers_and_its_architecture_say_the_same(shape):
    assert StudentShape.of(shape.architecture()) == shape


@settings(max_examples=20, deadline=None)
@given(shapes(), st.integers(1, 4), st.integers(1, 4))
def test_the_network_has_these_numbers_and_multiply_adds(shape, given_channels, returned):
    shape = replace(shape, input_channels=given_channels, output_channels=returned)
    network = build_generator(shape.architecture())

    with FlopCounterMode(display=False) as counted, torch.no_grad():
        network(torch.zeros(1, given_channels, 16, 24))

    # Two operations for each multiply-add.
    assert 2 * shape.macs((16, 24)) == counted.get_total_flops()
    middles = [next(layer for layer in block.branch if isinstance(layer, nn.ReLU)) for block in network.blocks]
    assert len(middles) == len(shape.inners)


def test_what_an_architecture_leaves_out_is_what_the_network_has_by_default():
    bare = StudentShape.of(Architecture(name="student_6blocks"))

    assert bare == StudentShape(width=32, inners=(32,) * 6)
    network, explicit = (build_generator(a) for a in (Architecture(name="student_6blocks"), bare.architecture()))
    assert [p.shape for p in network.parameters()] == [p.shape for p in explicit.parameters()]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet_9blocks", {}, "generator 'resnet_9blocks': times are known of students only"),
        ("student_sixblocks", {}, "generator 'student_sixblocks': times are known of students only"),
        ("student_6blocks", {"norm": "instance"}, "norm instance: times are known without norms; expected none or"),
        ("student_6blocks", {"block": "dense"}, "block dense: expected plain, grouped, separable"),
        ("student_2blocks", {"inner": "8_8_8"}, "inner '8_8_8': expected 2 numbers joined by underscores"),
    ],
)
def test_another_generator_is_refused(name, arguments, message):
    with pytest.raises(UsageError, match=message):
        predict(PROFILE, Architecture(name=name, arguments=arguments), FP32)


# Predictions


@given(shapes())
def test_a_prediction_is_the_sum_of_the_ends_and_the_blocks(shape):
    found = predict(PROFILE, shape.architecture(), FP32)

    whole = ends_s(shape.width, shape.half) + sum(block_s(shape.block, shape.width, inner) for inner in shape.inners)
    assert found == pytest.approx(whole)


@given(shapes(largest=128))
def test_a_student_outside_of_what_was_measured_is_predicted_along_the_last_line(shape):
    found = predict(PROFILE, shape, FP32)

    whole = ends_s(shape.width, shape.half) + sum(block_s(shape.block, shape.width, inner) for inner in shape.inners)
    assert found == pytest.approx(whole)


def test_batch_norm_takes_no_time():
    with_norm = Architecture(name="student_4blocks", arguments={"norm": "batch"})

    assert predict(PROFILE, with_norm, FP32) == predict(PROFILE, replace(with_norm, arguments={}), FP32)


def test_12_channels_take_as_long_as_16():
    twelve, sixteen = (predict(PROFILE, StudentShape(width=32, inners=(inner,)), FP32) for inner in (12, 16))

    assert twelve == sixteen


def test_no_prediction_is_below_zero():
    falling = table([8, 16], [8, 16], lambda width, inner: 1.0 / width)

    assert falling.at(160, 8) > 0


@pytest.mark.parametrize(
    ("arguments", "engine", "message"),
    [
        ({"input_channels": 1}, FP32, "is of pictures of 256x256 with 3 to 3 channels, expected 256x256 with 1 to 3"),
        ({}, "TensorRT fp16", "engine 'TensorRT fp16': not measured on this machine; expected one of ONNX Runtime"),
    ],
)
def test_what_cannot_be_predicted_is_said(arguments, engine, message):
    with pytest.raises(UsageError, match=message):
        predict(PROFILE, Architecture(name="student_4blocks", arguments=arguments), engine)


def test_a_kind_of_block_that_was_not_measured_is_said():
    plain_only = replace(engine_times(), blocks={"plain": engine_times().blocks["plain"]})

    with pytest.raises(UsageError, match="separable blocks: not measured in ONNX Runtime CPU fp32; expected plain"):
        predict(make_profile(plain_only), StudentShape(block="separable", width=8, inners=(8,)), FP32)


# Budgets and the search


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15ms", 0.015), ("60fps", 1 / 60), (" 7.5 MS ", 0.0075), ("0.5s", 0.5), ("250us", 250e-6), (".5 fps", 2.0)],
)
def test_a_budget_is_a_time_or_a_rate(text, seconds):
    assert parse_budget(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "15", "fast", "0ms", "0fps", "-5ms", "nan ms", "inf fps", "1e3ms", "15 ms 60fps"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(UsageError, match="expected a time or a rate above 0 such as 15ms or 60fps"):
        parse_budget(text)


@settings(max_examples=30, deadline=None)
@given(st.floats(4e-3, 0.2), st.sampled_from([None, *BLOCK_KINDS]))
def test_the_choice_keeps_the_budget_and_nothing_larger_does(budget, block):
    choice = choose(PROFILE, budget, block=block)

    assert choice.longest_s == pytest.approx(choice.predicted_s * (1 + MARGIN))
    assert choice.longest_s <= budget
    assert choice.predicted_s == predict(PROFILE, choice.student, choice.engine)
    assert choice.macs == choice.student.macs(SIZE)
    for kind, width, half, count in product([block] if block else BLOCK_KINDS, WIDTHS, (0, *HALVES), BLOCKS):
        if half > width or (kind == "grouped" and width % GROUP):
            continue
        other = StudentShape(block=kind, width=width, half=half, inners=(width,) * count)
        if predict(PROFILE, other, FP32) * (1 + MARGIN) <= budget:
            assert other.macs(SIZE) <= choice.macs


def test_a_student_of_4_blocks_sees_more_than_a_discriminator_judges_and_one_of_3_does_not():
    def seen(blocks: int) -> int:
        network = build_generator(StudentShape(width=8, inners=(8,) * blocks).architecture())
        for parameter in network.parameters():
            nn.init.constant_(parameter, 0.01)  # positive, so that no ReLU stops a signal
        image = torch.rand(1, 3, 128, 128, requires_grad=True)
        network(image)[0, 0, 64, 64].backward()
        rows = image.grad.abs().sum((0, 1, 3)).nonzero()
        return int(rows.max() - rows.min()) + 1

    assert seen(3) < 70 <= seen(4)
    assert min(BLOCKS) == 4


def test_what_loses_a_little_is_chosen_by_its_name_only():
    assert choose(PROFILE, 0.01).engine == FP32
    assert choose(make_profile(engine_times(), engine_times("bf16", 0.5)), 0.01).engine == FP32
    assert choose(PROFILE, 0.01, engine=INT8).macs > choose(PROFILE, 0.01).macs
    with pytest.raises(UsageError, match=r"only engines that lose a little .* with one of 'ONNX Runtime CPU int8'"):
        choose(make_profile(engine_times("int8")), 0.01)


def test_the_choice_is_among_the_widths_that_were_measured():
    widths = {choose(PROFILE, budget / 1000).student.width for budget in range(2, 100, 10)}

    assert widths <= set(WIDTHS)


def test_blocks_whose_trials_were_late_get_a_larger_margin():
    trials = tuple(
        Trial(block=block, student="one", predicted_s=0.01, measured_s=0.01 * late)
        for block, late in (("plain", 0.9), ("plain", 1.3), ("plain", 1.1), ("grouped", 1.5))
    )
    profile = make_profile(replace(engine_times(), trials=trials))

    margins = {
        block: its.longest_s / its.predicted_s - 1
        for block in BLOCK_KINDS
        for its in [choose(profile, 0.01, block=block)]
    }

    assert margins == pytest.approx({"plain": 0.3, "grouped": 0.5, "separable": MARGIN})


@pytest.mark.parametrize("measured", [(), (0.008, 0.009)])
def test_students_that_were_never_late_leave_the_least_margin(measured):
    early = tuple(Trial(block="plain", student="one", predicted_s=0.01, measured_s=seconds) for seconds in measured)

    choice = choose(make_profile(replace(engine_times(), trials=early)), 0.01, block="plain")

    assert choice.longest_s == pytest.approx(choice.predicted_s * (1 + MARGIN))


def test_the_channels_of_the_pictures_are_those_that_were_measured():
    student = choose(replace(PROFILE, channels=(1, 2)), 0.02).student

    assert (student.input_channels, student.output_channels) == (1, 2)


@pytest.mark.parametrize(("size", "channels"), [((128, 256), (3, 3)), (SIZE, (36, 3))])
def test_other_pictures_than_those_that_were_measured_are_refused_with_the_command_that_measures_them(size, channels):
    PROFILE.check(SIZE, (3, 3))
    with pytest.raises(UsageError) as error:
        PROFILE.check(size, channels)

    assert str(error.value) == (
        "the profile of made up is of pictures of 256x256 with 3 to 3 channels, expected "
        f"{size[0]}x{size[1]} with {channels[0]} to 3 channels; there run i2i-export profile "
        f"--size {size[0]}x{size[1]} --input-channels {channels[0]} --output-channels 3"
    )


def test_where_nothing_is_quick_enough_the_quickest_is_named():
    with pytest.raises(UsageError) as error:
        choose(PROFILE, 1e-4)

    fastest = (ends_s(8, 0) + 4 * block_s("plain", 8, 8)) * 1e3
    assert str(error.value) == (
        "budget 0.1 ms: no student keeps it at 256x256; the fastest is "
        f"student_4blocks,width=8,half=0,block=plain,norm=none in {FP32} with {fastest:.3g} to "
        f"{fastest * (1 + MARGIN):.3g} ms"
    )


@pytest.mark.parametrize(
    ("its", "name", "exported", "run"),
    [
        ({}, "ONNX Runtime CPU fp32", "-o student.onnx", "--engine student.onnx"),
        ({"precision": "int8"}, "ONNX Runtime CPU int8", "--int8 -o student.onnx", "--engine student.onnx"),
        (
            {"backend": "openvino", "precision": "bf16", "provider": "OpenVINO CPU bf16"},
            "OpenVINO CPU bf16",
            "-o student.onnx",
            "--engine student.onnx --backend openvino --precision bf16",
        ),
        (
            {"device": "cuda", "precision": "fp16", "provider": "ONNX Runtime CUDA"},
            "ONNX Runtime CUDA fp16",
            "--fp16 -o student.onnx",
            "--engine student.onnx --device cuda",
        ),
        (
            {"backend": "tensorrt", "device": "cuda", "precision": "fp16", "provider": "TensorRT"},
            "TensorRT fp16",
            "--fp16 -o student.plan",
            "--engine student.plan",
        ),
    ],
)
def test_an_engine_has_a_name_and_says_how_to_use_it(its, name, exported, run):
    engine = replace(engine_times(), **its)

    assert (engine.name, engine.export_options, engine.run_options) == (name, exported, run)


# The file


def test_a_profile_is_read_as_it_was_written(tmp_path):
    write_profile(tmp_path / "machine.json", PROFILE)

    assert read_profile(tmp_path / "machine.json") == PROFILE
    assert [path.name for path in tmp_path.iterdir()] == ["machine.json"]


def changed(**fields) -> str:
    return json.dumps({**json.loads(PROFILE.to_json()), **fields})


def with_engine(**fields) -> str:
    engine = json.loads(PROFILE.to_json())["engines"][0]
    return changed(engines=[{**engine, **fields}])


def ends(**fields) -> dict[str, object]:
    return {"rows": [0], "columns": [8, 16], "seconds": [[1.0, 2.0]], **fields}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a JSON file"),
        ("[1]", "expected a file of i2i-export profile, found something else"),
        (changed(version=99), "version 99 is unknown, this i2i reads version 1"),
        (changed(colour="red"), "unknown field 'colour'"),
        (changed(cores="two"), "cores: expected int, found 'two'"),
        (changed(size=[0, 256]), "expected at least 1 pixel and 1 channel, found"),
        (changed(engines=[]), "expected times of at least one engine, found none"),
        (with_engine(precision="fp8"), "precision: expected one of fp32, bf16, fp16, int8"),
        (with_engine(ends=ends(columns=[16, 8])), "ends: expected ascending numbers of channels, found \\[16, 8\\]"),
        (with_engine(ends=ends(seconds=[[1.0]])), "ends: expected 1 x 2 times"),
        (with_engine(half_ends=ends(seconds=[[1.0, 0.0]])), "half_ends: expected times above 0, found 0"),
        (with_engine(blocks={}), "blocks: expected plain, grouped, separable, found none"),
        (with_engine(blocks={"dense": ends()}), "blocks: expected plain, grouped, separable, found 'dense'"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "machine.json").write_text(text)

    with pytest.raises(ModelError, match=message) as error:
        read_profile(tmp_path / "machine.json")

    assert str(error.value).startswith(str(tmp_path / "machine.json"))
    assert "\n" not in str(error.value)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError, match=r"make one with i2i-export profile -o machine\.json"):
        read_profile(tmp_path / "machine.json")


def test_a_profile_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "machine.json").mkdir()

    with pytest.raises(SinkError, match="choose another --output"):
        write_profile(tmp_path / "machine.json", PROFILE)

    assert [path.name for path in tmp_path.iterdir()] == ["machine.json"]


def test_the_package_needs_neither_torch_nor_onnx():
    code = """
import sys
for name in ("torch", "onnx"):
    sys.modules[name] = None
from i2i_trainer.budget import machine, predictor, search, shape
"""

    assert python(code).returncode == 0
