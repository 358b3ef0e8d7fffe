"""Which ways there are to run a model: measuring/ways.py."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from commands import run
from plans import conv_model, needs_no_gpu, needs_rtx, rtx_plan
from untrained import save_untrained, save_untrained_labels

from i2i_runtime.card import METADATA_KEY
from i2i_runtime.engines.cards import card_of
from i2i_runtime.errors import UsageError
from measuring.ways import Subject, Wanted, find_ways, why_not_the_gpu

openvino = pytest.importorskip("openvino", reason="one of the backends")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("run") / "best.pt")


@pytest.fixture(scope="module")
def dynamic_engine(checkpoint):
    path = checkpoint.with_name("any.onnx")
    assert run("i2i-export", checkpoint, "--dynamic", "--max-batch", 4, "-o", path).returncode == 0
    return path


@pytest.fixture(scope="module")
def static_engine(checkpoint):
    path = checkpoint.with_name("fixed.onnx")
    assert run("i2i-export", checkpoint, "-o", path).returncode == 0
    return path


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Where the checkpoint's exports are kept from one test to the next."""
    return tmp_path_factory.mktemp("exports")


def ways_of(folder, checkpoint=None, engine=None, pictures=None, **wanted):
    subject = Subject(checkpoint=checkpoint, engine=engine, direction=None, is_trained=True, pictures=pictures)
    return find_ways(subject, Wanted(**wanted), folder, lambda what: None)


def names(found):
    return [way.contestant.name for way in found.ways]


def test_a_checkpoint_is_run_by_everything_that_is_here(exports, checkpoint):
    found = ways_of(exports, checkpoint, precisions=("fp32",))

    assert names(found) == [
        "PyTorch eager CPU fp32, 32x32",
        "torch.compile CPU fp32, 32x32",
        "ONNX Runtime CPU fp32, 32x32",
        "OpenVINO CPU fp32, 32x32",
    ]
    assert list(found.graphs) == [((32, 32), 1)]


def test_pytorch_and_plain_onnx_runtime_are_the_baselines(exports, checkpoint):
    found = ways_of(exports, checkpoint, precisions=("fp32", "int8"))

    assert [way.row.name for way in found.ways if way.row.is_baseline] == [
        "PyTorch eager CPU fp32",
        "torch.compile CPU fp32",
        "ONNX Runtime CPU fp32",
    ]


@pytest.mark.slow
def test_an_export_that_is_refused_is_left_out_with_its_reason(tmp_path):
    labels = save_untrained_labels(tmp_path / "labels.pt")

    found = ways_of(tmp_path, labels, precisions=("fp32", "int8"), backends=("onnxruntime",))

    assert [way.row.precision for way in found.ways] == ["fp32"]
    assert len(found.left_out) == 1
    assert found.left_out[0].startswith("int8 for onnx: ")


def test_half_precision_is_not_pretended_on_a_cpu_that_lacks_it(exports, checkpoint):
    from i2i_runtime.engines.openvino import precisions

    found = ways_of(exports, checkpoint, precisions=("fp32", "fp16", "bf16"), backends=("onnxruntime", "openvino"))

    computed = {way.row.precision for way in found.ways if way.row.backend == "openvino"}
    assert computed == {{"f32": "fp32", "bf16": "bf16", "f16": "fp16"}[precision] for precision in precisions("cpu")}
    assert {way.row.precision for way in found.ways if way.row.backend == "onnxruntime"} == {"fp32"}


@pytest.mark.slow
def test_each_batch_has_an_export_of_its_own(exports, checkpoint):
    found = ways_of(
        exports,
        checkpoint,
        precisions=("fp32",),
        backends=("onnxruntime",),
        sizes=((32, 64),),
        batches=(1, 2),
    )

    assert [(way.row.size, way.row.batch, way.row.graph) for way in found.ways] == [
        ((32, 64), 1, "static, float"),
        ((32, 64), 2, "dynamic, float"),
    ]


def test_an_engine_alone_stands_beside_pytorch_with_initial_weights(tmp_path, static_engine):
    found = ways_of(tmp_path, engine=static_engine, precisions=("fp32",), backends=("torch", "onnxruntime"))

    assert [way.row.backend for way in found.ways] == ["torch", "onnxruntime"]
    assert "initial ones" in found.left_out[0]


def test_an_engine_of_free_size_is_measured_at_any(tmp_path, dynamic_engine):
    found = ways_of(tmp_path, engine=dynamic_engine, backends=("onnxruntime",), sizes=((64, 32),), batches=(3,))

    assert [(way.row.size, way.row.batch) for way in found.ways] == [((64, 32), 3)]


@pytest.mark.parametrize("asked", [{"sizes": ((64, 64),)}, {"batches": (4,)}])
def test_an_engine_of_one_size_refuses_others(tmp_path, static_engine, asked):
    with pytest.raises(UsageError, match="expected --sizes 32x32 --batch 1"):
        ways_of(tmp_path, engine=static_engine, backends=("onnxruntime",), **asked)


def test_a_size_that_the_network_does_not_take_is_refused(tmp_path, dynamic_engine):
    with pytest.raises(UsageError, match="multiples of 4"):
        ways_of(tmp_path, engine=dynamic_engine, backends=("onnxruntime",), sizes=((63, 63),))


def test_a_library_that_is_not_installed_is_left_out_with_what_installs_it(exports, checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)

    found = ways_of(exports, checkpoint, precisions=("fp32",), backends=("onnxruntime", "openvino"))

    assert [way.row.backend for way in found.ways] == ["onnxruntime"]
    assert found.left_out == ["OpenVINO: not installed; pip install 'i2i[openvino]'"]


def test_the_command_makes_the_very_file_that_was_measured(tmp_path, static_engine, monkeypatch):
    commands = []

    def export(command, **options):
        commands.append(command[3:])
        shutil.copy(static_engine, command[-1])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", export)
    found = ways_of(
        tmp_path,
        tmp_path / "my run" / "best 1.pt",
        pictures="some where/*.png",
        backends=("openvino",),
        precisions=("int8",),
        sizes=((32, 64),),
        batches=(2,),
    )

    given = ["--int8", "--size", "32x64", "--dynamic", "--max-batch", "2", "--pictures", "some where/*.png"]
    assert commands[-1][1:-2] == given
    (way,) = found.ways
    assert way.row.how == (
        "i2i-export 'best 1.pt' --int8 --size 32x64 --dynamic --max-batch 2 --pictures '*.png' -o 'best 1-int8.onnx'; "
        "then i2i-run --engine 'best 1-int8.onnx' --backend openvino"
    )


def test_an_openvino_file_in_fp32_has_no_int8_row(tmp_path, static_engine):
    model = openvino.Core().read_model(static_engine)
    model.set_rt_info(card_of(static_engine).to_json(), METADATA_KEY)
    openvino.save_model(model, tmp_path / "fixed.xml", compress_to_fp16=False)

    found = ways_of(tmp_path, engine=tmp_path / "fixed.xml", backends=("openvino",), precisions=("fp32", "int8"))

    assert [way.row.precision for way in found.ways] == ["fp32"]


@needs_rtx
def test_a_plan_is_run_by_the_library_that_built_it(tmp_path):
    plan = tmp_path / "conv.plan"
    rtx_plan(conv_model(tmp_path / "conv.onnx"), plan)

    (way,) = ways_of(tmp_path, engine=plan, backends=("tensorrt", "tensorrt-rtx"), device="cuda", threads=2).ways

    assert (way.row.backend, way.row.name) == ("tensorrt-rtx", "TensorRT-RTX CUDA fp32")
    assert way.row.threads is way.contestant.threads is None


@needs_rtx
def test_a_plan_on_a_cpu_says_what_it_needs(tmp_path):
    plan = tmp_path / "conv.plan"
    rtx_plan(conv_model(tmp_path / "conv.onnx"), plan)

    found = ways_of(tmp_path, engine=plan, backends=("tensorrt-rtx",), device="cpu")

    assert found.ways == []
    assert found.left_out == ["TensorRT-RTX: it is measured with --device cuda only"]


@pytest.mark.parametrize(
    ("backend", "device", "precision", "said"),
    [
        ("tensorrt", "cpu", "fp32", "TensorRT: it does not run fixed.onnx; of --checkpoint alone i2i-export makes"),
        ("openvino", "cuda", "fp32", "OpenVINO: it is measured with --device cpu only"),
        ("torch", "cpu", "bf16", "PyTorch on a CPU: it is measured in fp32 only"),
        ("onnxruntime", "cpu", "int8", "fixed.onnx itself: it is in fp32, which --precisions leaves out"),
    ],
)
def test_what_was_asked_for_and_cannot_run_is_said(tmp_path, static_engine, backend, device, precision, said):
    found = ways_of(
        tmp_path, engine=static_engine, backends=(backend,), named=(backend,), device=device, precisions=(precision,)
    )

    assert found.ways == []
    assert any(line.startswith(said) for line in found.left_out)


def test_of_what_nobody_asked_for_nothing_is_said(tmp_path, static_engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)

    found = ways_of(tmp_path, engine=static_engine, backends=("onnxruntime",), precisions=("fp32",))

    assert found.left_out == []


def test_without_onnx_an_engine_is_measured_without_pytorch(tmp_path, static_engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)

    found = ways_of(tmp_path, engine=static_engine, backends=("torch", "onnxruntime"), precisions=("fp32",))

    assert [way.row.backend for way in found.ways] == ["onnxruntime"]
    assert found.left_out == ["PyTorch with initial weights: onnx is not installed; pip install 'i2i[export]'"]


@needs_no_gpu
def test_a_gpu_that_cannot_be_used_is_not_passed_over_in_silence():
    (line,) = why_not_the_gpu(("NVIDIA H200, driver 580",))

    assert line.startswith("the GPU (NVIDIA H200, driver 580): ")
    assert why_not_the_gpu(()) == []
