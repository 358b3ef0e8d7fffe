"""`i2i-export profile`: graphs like the exporter's, slopes from whole students, a file that is whole or not there."""

from __future__ import annotations

import signal
import time
from collections import Counter
from dataclasses import replace

import click
import numpy as np
import onnx
import pytest
import torch
from commands import here, run, start, the_error_line
from interpreter import python
from onnx import helper
from onnx_models import make_card
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from small_grid import SMALL

from i2i_export.cli import i2i_export
from i2i_export.fp16 import to_fp16
from i2i_export.graph import build_graph, exported_card
from i2i_export.int8 import convolutions, to_int8
from i2i_export.profile import Grid, Way, engine_times, measure, ways_here
from i2i_export.student_graph import student_graph
from i2i_runtime.engines import nvinfer
from i2i_runtime.errors import DeviceError
from i2i_trainer.budget.machine import EngineTimes, read_profile
from i2i_trainer.budget.predictor import predict
from i2i_trainer.budget.shape import BLOCK_KINDS, StudentShape
from i2i_trainer.networks.build import build_generator
from i2i_trainer.networks.words import architecture_of

SIZE = (16, 24)
STUDENTS = {
    "plain": StudentShape(width=24, inners=(16, 8)),
    "grouped with a half": StudentShape(block="grouped", width=32, half=8, inners=(16,)),
    "separable": StudentShape(block="separable", width=8, inners=(12,)),
}
ORT = Way(backend="onnxruntime", device="cpu", precision="fp32")


# Graphs


def exported(shape: StudentShape, graph_io: str) -> onnx.ModelProto:
    """The graph that the exporter makes of the real network."""
    generator = build_generator(shape.architecture()).eval()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter)  # biases of zeros are left out
    card = exported_card(make_card(SIZE), size=SIZE, graph_io=graph_io, statistics="running")
    return build_graph(generator, card)


def as_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    names = ["image", *(name for node in model.graph.node for name in node.output)]
    some = TensorData(lowest=np.float32(-1), highest=np.float32(1))
    ranges = TensorsData(CalibrationMethod.Percentile, dict.fromkeys(names, some))
    first, *_, last = convolutions(model)
    return to_int8(model, ranges, keep=[first, last])


def structure(model: onnx.ModelProto) -> Counter[object]:
    """How often there is each kind of node: what it is, what it is told, and what it reads, back to three nodes."""
    makers = {name: node for node in model.graph.node for name in node.output}
    held = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer}

    def described(name: str, depth: int) -> object:
        if name in held:
            return held[name]
        if name not in makers:
            return name
        node = makers[name]
        told = sorted((a.name, str(helper.get_attribute_value(a))) for a in node.attribute if a.name != "auto_pad")
        reads = tuple(described(each, depth - 1) for each in node.input) if depth else ()
        return node.op_type, tuple(told), reads

    return Counter(described(node.output[0], 3) for node in model.graph.node)


@pytest.mark.parametrize("shape", STUDENTS.values(), ids=STUDENTS)
def test_a_students_graph_has_the_nodes_of_the_exporters_in_fp32_and_int8(shape):
    model = exported(shape, "float")

    assert structure(student_graph(shape, SIZE)) == structure(model)
    assert structure(student_graph(shape, SIZE, "int8")) == structure(as_int8(model))


def test_a_students_graph_for_a_plan_has_the_nodes_of_the_exporters():
    shape = STUDENTS["plain"]

    own, model = student_graph(shape, SIZE, "fp16", "uint8"), to_fp16(exported(shape, "uint8"))

    assert structure(own) == structure(model)
    assert own.graph.input[0].type == model.graph.input[0].type


@pytest.mark.parametrize("graph_io", ["float", "uint8"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("shape", STUDENTS.values(), ids=STUDENTS)
def test_every_graph_is_valid(shape, precision, graph_io):
    onnx.checker.check_model(student_graph(shape, SIZE, precision, graph_io), full_check=True)


@pytest.mark.parametrize("block", BLOCK_KINDS)
def test_a_plan_can_be_built_of_every_kind_of_block(block, tmp_path):
    """Built, not run: TensorRT-RTX does so without a GPU."""
    pytest.importorskip("tensorrt_rtx_bindings")
    from i2i_runtime.engines.build import build_plan

    graph = student_graph(StudentShape(block=block, width=16, half=8, inners=(16,)), SIZE, "fp16", "uint8")
    onnx.save(graph, tmp_path / "student.onnx")

    build_plan(
        tmp_path / "student.onnx", tmp_path / "student.plan", "tensorrt_rtx", card=None, precision="fp16",
        use_cache=False,
    )  # fmt: skip

    assert (tmp_path / "student.plan").stat().st_size > 1000


# From students to their parts


BLOCK_S = {"plain": 5e-6, "separable": 1e-6, "grouped": 2e-6}
"""Of a pair of channels, on a machine that we make up."""


def whole_s(shape: StudentShape) -> float:
    blocks = sum(BLOCK_S[shape.block] * (16 + shape.width * inner) for inner in shape.inners)
    return 1e-3 + 1e-4 * shape.width + 1e-3 * shape.half + blocks


def times_of(runs_of) -> EngineTimes:
    """What follows from the runs of all students of a whole profile."""
    grid = Grid()
    students = [shape for width in grid.widths for shape in grid.students(width)]
    return engine_times(ORT, "ONNX Runtime CPU", grid, {(ORT, shape): runs_of(shape) for shape in students})


def test_a_block_takes_what_a_student_with_blocks_takes_longer_than_one_without():
    # A third of the runs is undisturbed, and a neighbour slows the others.
    times = times_of(lambda shape: [whole_s(shape) * slowed for slowed in (1.0, 1.2, 1.4) * 6])

    assert times.ends.at(0, 32) == pytest.approx(1e-3 + 1e-4 * 32)
    assert times.half_ends.at(16, 32) == pytest.approx(1e-3 + 1e-4 * 32 + 16e-3)
    for kind, each_s in BLOCK_S.items():
        assert times.blocks[kind].at(64, 48) == pytest.approx(each_s * (16 + 64 * 48), rel=1e-3)


def test_a_kernel_that_is_off_the_others_line_is_believed_where_the_runs_agree():
    odd = Grid().student("plain", 64, 32)

    times = times_of(lambda shape: [whole_s(shape) * (1.2 if shape == odd else 1.0)] * 20)

    found = times.blocks["plain"].at(64, 32) * len(odd.inners)
    assert found == pytest.approx(1.2 * whole_s(odd) - whole_s(replace(odd, inners=())), rel=0.01)
    assert times.blocks["plain"].at(64, 96) == pytest.approx(BLOCK_S["plain"] * (16 + 64 * 96), rel=0.01)


def test_where_runs_disagree_by_a_tenth_half_of_the_blocks_are_within_a_tenth():
    random = np.random.default_rng(0)

    def noisy(shape: StudentShape) -> list[float]:
        return [whole_s(shape) * half for half in np.exp(random.normal(0, 0.1, 2)) for _ in range(10)]

    times = times_of(noisy)

    errors = {
        kind: [
            found / (each_s * (16 + width * inner))
            for width, line in zip(table.rows, table.seconds, strict=True)
            for inner, found in zip(table.columns, line, strict=True)
            if width * inner > 500
        ]
        for kind, each_s in BLOCK_S.items()
        for table in [times.blocks[kind]]
    }
    for kind in BLOCK_S:
        assert np.median(np.abs(np.array(errors[kind]) - 1)) < 0.1


def test_a_block_lost_in_the_noise_takes_more_than_nothing():
    grid = Grid()
    seconds = {(ORT, shape): [1e-3] for width in grid.widths for shape in grid.students(width)}

    assert engine_times(ORT, "ONNX Runtime CPU", grid, seconds).blocks["plain"].at(8, 8) > 0


def test_students_that_a_search_would_choose_are_measured_whole():
    profile = measure([ORT], SIZE, threads=1, grid=SMALL)

    (engine,) = profile.engines
    assert engine.trials
    for trial in engine.trials:
        student = architecture_of(trial.student, "--student", input_channels=3, output_channels=3)
        assert trial.predicted_s == predict(profile, student, engine.name)
        assert 0 < trial.measured_s < 1


def test_a_way_that_fails_here_becomes_a_note_without_a_path_of_this_machine():
    if nvinfer.gpu() is not None:
        pytest.skip("this machine has a GPU")
    on_gpu = Way(backend="onnxruntime", device="cuda", precision="fp32")

    found = measure([ORT, on_gpu], SIZE, grid=SMALL)

    assert [engine.name for engine in found.engines] == ["ONNX Runtime CPU fp32"]
    assert found.notes[0].startswith("onnxruntime cuda fp32: left out (")
    assert "/" not in found.notes[0]
    with pytest.raises(DeviceError, match="no engine here runs students: onnxruntime cuda fp32: left out"):
        measure([on_gpu], SIZE, grid=SMALL)


# The command


def test_a_machine_is_measured_without_pytorch(tmp_path):
    code = f"""
import sys
sys.modules["torch"] = None
from pathlib import Path
from i2i_export.profile import Grid, profile_machine
profile_machine(Path(sys.argv[1]), "cpu", (16, 24), (1, 3), 1, {SMALL!r})
"""

    finished = python(code, tmp_path / "box" / "machine.json")

    assert finished.returncode == 0, finished.stderr
    assert "ONNX Runtime CPU fp32" in finished.stdout
    assert f"{tmp_path / 'box' / 'machine.json'}: " in finished.stdout
    assert [path.name for path in (tmp_path / "box").iterdir()] == ["machine.json"]
    profile = read_profile(tmp_path / "box" / "machine.json")
    assert (profile.size, profile.channels, profile.threads) == (SIZE, (1, 3), 1)
    assert "/" not in profile.to_json()
    for engine in profile.engines:
        for block in BLOCK_KINDS:
            shape = StudentShape(block=block, width=16, half=8, inners=(16,), input_channels=1)
            assert 0 < predict(profile, shape, engine.name) < 1


def test_every_engine_that_is_installed_is_measured():
    pytest.importorskip("openvino")

    names = [str(way) for way in ways_here("cpu")]

    assert {"onnxruntime cpu fp32", "onnxruntime cpu int8", "openvino cpu fp32", "openvino cpu int8"} <= set(names)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_no_file(tmp_path, number):
    process = start("i2i-export", "profile", "--size", 64, "-o", tmp_path / "machine.json")
    for line in process.stderr:
        if line.startswith("students of width"):
            break
    process.send_signal(number)
    began = time.monotonic()
    said = process.communicate(timeout=60)[1]

    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == "stopped, nothing written"
    assert time.monotonic() - began < 30
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--size", "30"], 2, "--size 30x30: students take multiples of 4"),
        (["--device", "tpu"], 2, "'tpu' is not one of 'here', 'cpu', 'cuda'"),
        (["machine.json"], 2, "unexpected extra argument"),
        (["-o", "/"], 5, "found a folder; choose another --output"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    finished = here("i2i-export", "profile", *arguments)

    assert finished.returncode == code
    assert message in the_error_line(finished)


def test_a_gpu_that_is_not_there_is_a_device_error():
    if nvinfer.gpu() is not None:
        pytest.skip("this machine has a GPU")

    finished = here("i2i-export", "profile", "--device", "cuda")

    assert finished.returncode == 6
    assert "--device cuda: no NVIDIA GPU with a library" in the_error_line(finished)


def test_the_command_stands_beside_the_one_that_exports_a_file():
    assert "i2i-export profile" in here("i2i-export", "--help").stdout
    assert "Usage: i2i-export [OPTIONS] FILE" in run("i2i-export", "-h").stdout.replace(
        "python -m i2i_export", "i2i-export"
    )
    assert "machine.json" in here("i2i-export", "profile", "-h").stdout
    context = i2i_export.make_context("i2i-export", ["profile", "--device", "cpu", "-o", "box.json"])
    assert context.params["device"] == "cpu"
    with pytest.raises(click.NoSuchOption):
        i2i_export.make_context("i2i-export", ["profile", "--fp16"])


def test_a_checkpoint_that_is_called_profile_is_named_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profile").write_bytes(b"no checkpoint")

    finished = here("i2i-export", "./profile")

    assert finished.returncode == 4
    assert "profile" in the_error_line(finished)
