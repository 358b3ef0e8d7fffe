"""Probes do all the work that they are counted for, in the precision that they say, in each library that is here."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from plans import needs_rtx, rtx_plan
from tensorrt_interface import missing, uses_of_cuda

from i2i_export.cost import count
from i2i_runtime.engines.nvinfer import Gpu
from i2i_runtime.engines.open import open_engine
from measuring import probes
from measuring.probes import CopyProbe, EngineProbe, NumpyProbe, Probe, TorchProbe
from measuring.products import INPUT, Products, write_graph
from measuring.record import Turn
from measuring.worker import Worker

SMALL = {
    "gemm": Products(what="gemm", width=48, count=3),
    "conv": Products(what="conv", width=16, side=12, count=3),
}
each_kind = pytest.mark.parametrize("what", ["gemm", "conv"])
each_precision = pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])


def graph(folder: Path, products: Products, precision="fp32") -> Path:
    path = folder / f"{products.what}-{precision}.onnx"
    write_graph(path, products, precision)
    return path


# The graph ------------------------------------------------------------------------------------------------------------


@each_kind
@each_precision
def test_a_probe_counts_what_the_graph_has_to_do(tmp_path: Path, what, precision):
    counted = count(onnx.load(graph(tmp_path, SMALL[what], precision)))

    assert 2 * counted.macs == SMALL[what].flops


def test_products_of_matrices_have_two_flops_for_each_multiply_add():
    assert Products(what="gemm", width=1024, count=4).flops == 4 * 2 * 1024**3
    assert Products(what="conv", width=256, side=64, count=2).flops == 2 * 2 * 256 * 256 * 9 * 64 * 64


def reference(products: Products) -> np.ndarray:
    """The chain in float64."""
    last, constant = (torch.from_numpy(array).double() for array in products.arrays())
    for _ in range(products.count):
        last = last @ constant if products.what == "gemm" else torch.nn.functional.conv2d(last, constant, padding=1)
    return last.numpy()


@each_kind
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2), ("int8", 0.2)])
def test_the_result_is_that_of_all_products(tmp_path: Path, what, backend, precision, tolerance):
    path = graph(tmp_path, SMALL[what], precision)

    with open_engine(path, "cpu", 1, backend=backend) as engine:
        found = engine.run(np.ones(1, np.float32))

    assert found.item() == pytest.approx(reference(SMALL[what]).max(), rel=tolerance)


@each_kind
def test_values_neither_grow_nor_vanish(what):
    last = reference(Products(what=what, width=64, side=16, count=16))

    # The border of a picture loses some to the zeros around it.
    assert 0.2 < last.std() < 5


KERNELS = {
    ("gemm", "fp32"): "MatMul",
    ("conv", "fp32"): "Conv",
    ("gemm", "int8"): "QLinearMatMul",
    ("conv", "int8"): "QLinearConv",
}


@pytest.mark.parametrize(("what", "precision"), KERNELS)
def test_onnx_runtime_runs_each_product_in_the_precision(tmp_path: Path, what, precision):
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(
        graph(tmp_path, SMALL[what], precision), options, providers=["CPUExecutionProvider"]
    )
    session.run(None, {INPUT: np.ones(1, np.float32)})

    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [
        event["args"]["op_name"] for event in events if event["cat"] == "Node" and "kernel_time" in event["name"]
    ]
    assert kernels.count(KERNELS[what, precision]) == SMALL[what].count
    assert len(kernels) <= SMALL[what].count + 8


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="kernels' names are those of x86")
@pytest.mark.parametrize(("what", "precision"), KERNELS)
def test_openvino_runs_each_product_in_the_precision(tmp_path: Path, what, precision):
    compiled = openvino.Core().compile_model(
        graph(tmp_path, SMALL[what], precision), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    )
    request = compiled.create_infer_request()
    request.infer([np.ones(1, np.float32)])

    name = {"gemm": "FullyConnected", "conv": "Convolution"}[what]
    kernels = [each.exec_type.lower() for each in request.profiling_info if each.node_type == name]
    assert len(kernels) == SMALL[what].count
    assert all(kernel.endswith("i8" if precision == "int8" else "f32") for kernel in kernels)


@needs_rtx
@each_kind
@each_precision
def test_tensorrt_takes_the_graph(tmp_path: Path, what, precision):
    path = graph(tmp_path, SMALL[what], precision)

    rtx_plan(path, card=None, precision=precision, use_cache=False)

    assert path.with_suffix(".plan").stat().st_size > 0


# The probes of this machine -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[Probe]:
    """All that can run on this CPU."""
    return probes.probes("cpu", ["int8"], None, tmp_path_factory.mktemp("probes"))


def test_each_library_does_both_kinds_of_products_in_each_precision_that_it_has(here):
    names = [probe.name for probe in here]

    for what in ("GEMM", "conv"):
        for precision in ("fp32", "int8"):
            assert f"{what} {precision}, ONNX Runtime CPU" in names
            assert f"{what} {precision}, OpenVINO CPU" in names
        assert f"{what} fp32, PyTorch CPU" in names
    assert names.count("copy, CPU") == 1
    assert len(set(names)) == len(names)


def test_each_runs_in_a_process_of_its_own(here):
    for probe in here:
        with Worker(probe) as worker:
            assert worker.open().provider in ("ONNX Runtime CPU", "OpenVINO CPU", "PyTorch CPU", "NumPy CPU")
            found = probes.peak(probe, [Turn(start=0, round=0, seconds=worker.turn(0, 1))])

        # From a busy small board to the largest server.
        assert 1e7 < found.per_second < 1e15, probe.name
        assert (found.name, found.what, found.precision) == (probe.name, probe.what, probe.precision)


def test_a_precision_that_was_not_asked_for_is_left_out(tmp_path: Path):
    assert {probe.precision for probe in probes.probes("cpu", [], None, tmp_path)} == {None, "fp32"}


def test_the_cpu_of_a_precision_it_cannot_compute_in_has_no_probe_for_it(tmp_path: Path):
    can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    found = [probe.name for probe in probes.probes("cpu", ["bf16"], None, tmp_path) if probe.precision == "bf16"]

    assert found == (["GEMM bf16, OpenVINO CPU", "conv bf16, OpenVINO CPU"] if "BF16" in can else [])


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, f"i2i_runtime.engines.{module}", None)


def test_without_onnx_pytorch_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, "onnx")

    found = [probe.name for probe in probes.probes("cpu", ["int8"], None, tmp_path)]

    assert found == ["copy, CPU", "GEMM fp32, PyTorch CPU", "conv fp32, PyTorch CPU"]
    assert probes.yardstick("cpu", None, tmp_path).name == "short conv fp32, PyTorch CPU"


def test_without_any_library_numpy_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, "onnxruntime", "openvino", "torch")

    found = [probe.name for probe in probes.probes("cpu", ["int8"], None, tmp_path)]

    assert found == ["copy, CPU", "GEMM fp32, NumPy CPU"]
    assert probes.yardstick("cpu", None, tmp_path).name == "GEMM fp32, NumPy CPU"


def test_the_yardstick_is_the_same_each_time(tmp_path_factory: pytest.TempPathFactory):
    one, other = (probes.yardstick("cpu", 2, tmp_path_factory.mktemp("run")) for _ in range(2))

    assert one.name == other.name == "short conv fp32, ONNX Runtime CPU"
    assert one.amount == other.amount
    assert one.path.read_bytes() == other.path.read_bytes()


def test_the_yardstick_does_its_own_work_where_a_probe_wrote_its_graph_before(tmp_path: Path):
    (probe,) = [one for one in probes.probes("cpu", [], None, tmp_path) if one.name == "conv fp32, ONNX Runtime CPU"]
    yardstick = probes.yardstick("cpu", None, tmp_path)

    for each in (probe, yardstick):
        assert each.amount == 2 * count(onnx.load(each.path)).macs
    assert yardstick.amount == probe.amount / 8


@needs_rtx
def test_a_gpu_has_probes_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Only what is listed: nothing can be opened without the GPU.
    monkeypatch.setattr(probes.nvinfer, "gpu", lambda: Gpu(name="some GPU", compute_capability="8.7"))
    monkeypatch.setattr(probes, "_ON_GPU", SMALL)

    found = probes.probes("cuda", ["fp16", "bf16"], 4, tmp_path)

    names = {probe.name for probe in found}
    assert {probe.device for probe in found} == {"cuda"}
    assert "copy, GPU" in names
    assert {"GEMM fp32, TensorRT-RTX", "conv fp16, TensorRT-RTX", "GEMM bf16, PyTorch CUDA"} <= names
    # PyTorch rounds the FP32 of convolutions, not that of matrix products; TensorRT is told to round neither.
    assert {"conv fp32 as TF32, PyTorch CUDA", "GEMM fp32, PyTorch CUDA", "conv fp32, TensorRT-RTX"} <= names
    assert not any("bf16" in name for name in names if "TensorRT" in name)
    assert {probe.name for probe in found if probe.is_tf32} == {name for name in names if "as TF32" in name}


# What they do ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_keeps_to_its_threads(tmp_path: Path, backend):
    products = Products(what="gemm", width=512, count=4)
    path = graph(tmp_path, products)
    with EngineProbe(name="one", products=products, threads=1, path=path, backend=backend).open() as running:
        running.run()
        began, began_cpu = time.perf_counter(), time.process_time()
        for _ in range(5):
            running.run()
        # A busy machine makes this smaller only.
        assert time.process_time() - began_cpu < 1.3 * (time.perf_counter() - began)


def test_a_copy_uses_as_many_threads_as_it_may():
    before = threading.active_count()

    with CopyProbe(name="copy", mib=12, threads=3).open() as running:
        running.run()
        assert threading.active_count() - before == 3

    assert threading.active_count() == before


def test_a_copy_counts_what_is_read_and_what_is_written():
    assert CopyProbe(name="copy", mib=256).amount == 2 * 256 * 1024 * 1024


@pytest.mark.parametrize("kind", [NumpyProbe, TorchProbe])
def test_a_probe_that_is_no_graph_runs_here(kind):
    with kind(name="one", products=SMALL["gemm"]).open() as running:
        running.run()
        assert running.provider in ("NumPy CPU", "PyTorch CPU")


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    for probe in (
        CopyProbe(name="copy, GPU", device="cuda"),
        TorchProbe(name="GEMM fp32, PyTorch CUDA", device="cuda", products=SMALL["gemm"]),
    ):
        with Worker(probe) as worker, pytest.raises(Exception, match=r"GPU|CUDA") as caught:
            worker.open()
        assert "\n" not in str(caught.value)


def test_the_names_of_cuda_are_real():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    uses = uses_of_cuda([Path(probes.__file__)])

    assert {"cudaMalloc", "cudaMemcpyKind.cudaMemcpyDeviceToDevice", "cudaDeviceSynchronize"} <= {
        use.name for use in uses
    }
    assert missing(uses, runtime) == []


# Peaks ----------------------------------------------------------------------------------------------------------------


def test_the_peak_is_the_median_of_the_best_round():
    probe = NumpyProbe(name="one", products=Products(what="gemm", width=100, count=1))
    rounds = [(1.0, 0.001, 2.0), (0.5, 0.5, 0.25), (4.0, 4.0, 4.0)]

    found = probes.peak(probe, [Turn(start=0, round=index, seconds=each) for index, each in enumerate(rounds)])

    assert statistics.median(rounds[1]) == 0.5
    assert found.per_second == 2e6 / 0.5
    assert found.spread == (2e6 / 4.0, 2e6 / 0.5)
