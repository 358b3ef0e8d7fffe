"""Roofs against numbers worked out by hand: a machine of 100 GFLOP/s in FP32 that copies 10 GB/s."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2i_export.cost import Cost, NodeCost, count
from measuring.products import Products, write_graph
from measuring.record import LayerCost, Peak, Workload
from measuring.roofline import roof, workload

GIGA = 10**9


def peak(per_second: float, what="gemm", precision="fp32", name="GEMM fp32, ONNX Runtime CPU") -> Peak:
    spread = (per_second, per_second)
    return Peak(what=what, name=name, device="cpu", precision=precision, per_second=per_second, spread=spread)


COPY = peak(10e9, "copy", None, "copy, CPU")
FP32 = peak(100e9)
FP16 = peak(400e9, "conv", "fp16", "conv fp16, OpenVINO CPU")
INT8 = peak(200e9, "conv", "int8", "conv int8, OpenVINO CPU")


def layer(kind: str, flops: int, moved: int, nodes: int = 1) -> LayerCost:
    return LayerCost(kind=kind, nodes=nodes, macs=flops // 2, flops=flops, bytes=moved)


def work(*layers: LayerCost, precision="fp32") -> Workload:
    return Workload(
        size=(256, 256),
        batch=1,
        precision=precision,
        macs=sum(each.macs for each in layers),
        published_macs=sum(each.macs for each in layers),
        flops=sum(each.flops for each in layers),
        bytes=sum(each.bytes for each in layers),
        parameters=0,
        parameter_bytes=0,
        layers=layers,
    )


NETWORK = work(layer("Conv", 50 * GIGA, GIGA, nodes=20), layer("InstanceNormalization", GIGA // 10, 2 * GIGA, nodes=20))
"""Its convolutions compute for 500 ms and move data for 100 ms, its norms compute for 1 ms and move data for 200 ms."""


def test_each_node_takes_the_longer_of_computing_and_moving():
    found = roof(1.0, NETWORK, "fp32", [FP32, COPY])

    # Not max(501, 300), which would have norms move data while convolutions compute.
    assert found.ideal_s == pytest.approx(0.500 + 0.200)
    assert found.percent_of_roof == pytest.approx(70.0)


def test_speed_is_compared_with_the_best_products():
    found = roof(1.0, NETWORK, "fp32", [peak(80e9), FP32, peak(90e9, "conv"), COPY])

    assert found.flops_per_second == pytest.approx(50.1e9)
    assert found.percent_of_peak == pytest.approx(50.1)


def test_intensity_is_flops_for_each_byte():
    assert roof(1.0, NETWORK, "fp32", [FP32, COPY]).intensity == pytest.approx(50.1 / 3)


def test_half_precision_has_its_own_peak_and_half_the_bytes():
    found = roof(1.0, NETWORK, "fp16", [FP32, FP16, COPY])

    assert found.ideal_s == pytest.approx(50 / 400 + 0.100)
    assert found.percent_of_peak == pytest.approx(100 * 50.1 / 400)
    assert found.intensity == pytest.approx(50.1 / 1.5)


def test_only_convolutions_are_int8():
    found = roof(1.0, NETWORK, "int8", [FP32, INT8, COPY])

    assert found.ideal_s == pytest.approx(50 / 200 + 0.200)
    assert found.intensity == pytest.approx(50.1 / 2.25)


def test_a_precision_that_nothing_is_quick_in_is_held_against_fp32():
    emulated = peak(1e9, "gemm", "bf16", "GEMM bf16, PyTorch CPU")

    for peaks in ([FP32, COPY], [FP32, emulated, COPY]):
        found = roof(1.0, NETWORK, "bf16", peaks)
        assert found.percent_of_peak == pytest.approx(50.1)
        assert "nothing here is quicker in bf16" in found.limit


def test_the_peak_of_another_precision_does_not_count():
    assert roof(1.0, NETWORK, "fp32", [FP32, FP16, INT8, COPY]).percent_of_peak == pytest.approx(50.1)


@given(st.sampled_from(["fp16", "int8"]), st.sampled_from(["fp32", "fp16", "int8"]))
def test_it_does_not_matter_in_which_precision_the_graph_was_counted(counted_in, precision):
    share = {"fp16": (0.5, 0.5), "int8": (0.25, 1.0)}[counted_in]
    layers = [
        dataclasses.replace(each, bytes=int(each.bytes * by)) for each, by in zip(NETWORK.layers, share, strict=True)
    ]
    peaks = [FP32, FP16, INT8, COPY]

    found = roof(1.0, work(*layers, precision=counted_in), precision, peaks)

    assert found.ideal_s == pytest.approx(roof(1.0, NETWORK, precision, peaks).ideal_s)


@given(st.floats(0.01, 100), st.floats(0.001, 100), st.sampled_from(["fp32", "fp16", "bf16", "int8"]))
def test_a_machine_that_is_slower_in_all_gives_the_same_percentages(slower, median_s, precision):
    peaks = [FP32, FP16, INT8, COPY]
    slow = [dataclasses.replace(each, per_second=each.per_second / slower) for each in peaks]

    one, other = roof(median_s, NETWORK, precision, peaks), roof(median_s * slower, NETWORK, precision, slow)

    assert other.percent_of_peak == pytest.approx(one.percent_of_peak)
    assert other.percent_of_roof == pytest.approx(one.percent_of_roof)


def test_without_a_copy_only_computing_counts():
    assert roof(1.0, NETWORK, "fp32", [FP32]).ideal_s == pytest.approx(0.501)


def test_without_products_there_is_no_roof():
    assert roof(1.0, NETWORK, "fp32", [COPY]) is None
    assert roof(1.0, NETWORK, "fp32", [INT8, COPY]) is None


# In words -------------------------------------------------------------------------------------------------------------


def test_computing_limits_a_network_of_convolutions():
    assert roof(1.0, NETWORK, "fp32", [FP32, COPY]).limit == (
        "computing: 71 % of the work's best time (700 ms) goes to Conv, at 100 GFLOP/s (GEMM fp32, ONNX Runtime CPU); "
        "this way reaches 70 % of that speed"
    )


def test_memory_limits_a_network_of_norms():
    norms = work(layer("Conv", GIGA, GIGA // 100), layer("Add", GIGA // 10, GIGA), layer("Relu", GIGA // 10, 2 * GIGA))

    assert roof(0.4, norms, "fp32", [FP32, COPY]).limit == (
        "memory: 97 % of the work's best time (310 ms) moves data, at 10 GB/s, most of it for Relu, Add; "
        "this way reaches 78 % of that speed"
    )


def test_overhead_limits_a_small_network():
    small = work(layer("Conv", GIGA // 100, 1000, nodes=50))

    assert roof(0.002, small, "fp32", [FP32, COPY]).limit == (
        "overhead: at this machine's best (GEMM fp32, ONNX Runtime CPU) the work takes 0.1 ms; "
        "starting a run and its 50 nodes takes the rest of 2 ms"
    )


def test_slow_kernels_are_no_overhead():
    assert roof(7.0, NETWORK, "fp32", [FP32, COPY]).limit == (
        "the library: at this machine's best (GEMM fp32, ONNX Runtime CPU) the work takes 700 ms, "
        "and 10.0 times as long this way; its kernels are slow here"
    )


# What there is to do --------------------------------------------------------------------------------------------------


def node(kind: str, macs: int = 0, flops: int = 0, read: int = 0, written: int = 0) -> NodeCost:
    return NodeCost(
        name="",
        kind=kind,
        layer="",
        macs=macs,
        published_macs=macs,
        flops=flops,
        bytes_read=read,
        bytes_written=written,
        weight_bytes=0,
    )


def cost(*nodes: NodeCost) -> Cost:
    return Cost(nodes=nodes, parameters=7, parameter_bytes=28, size=(256, 256), batch=1)


def test_nodes_that_cost_the_same_stand_together_the_dearest_first():
    add, small, large = node("Add", 0, 8, 64, 32), node("Conv", 50, 100, 40, 40), node("Conv", 500, 1000, 80, 40)

    assert workload(cost(add, large, small, large), (256, 256), 1).layers == (
        LayerCost(kind="Conv", nodes=2, macs=1000, flops=2000, bytes=240),
        LayerCost(kind="Conv", nodes=1, macs=50, flops=100, bytes=80),
        LayerCost(kind="Add", nodes=1, macs=0, flops=8, bytes=96),
    )


def test_nodes_that_cost_nothing_are_no_layers():
    assert workload(cost(node("Reshape"), node("Add", 0, 1, 8, 4)), (256, 256), 1).layers == (layer("Add", 1, 12),)


amounts = st.integers(0, 10**12)
nodes = st.builds(node, st.sampled_from(["Conv", "Add", "Pad"]), amounts, amounts, amounts, amounts)


@given(st.lists(nodes, max_size=20))
def test_no_operation_and_no_byte_is_lost(each):
    found = workload(cost(*each, *each), (256, 256), 2)

    for what in ("macs", "flops", "bytes"):
        assert getattr(found, what) == getattr(cost(*each, *each), what)
        if what != "macs":
            assert getattr(found, what) == sum(getattr(layer, what) for layer in found.layers)


def test_a_graph_of_products_computes(tmp_path: Path):
    products = Products(what="gemm", width=512, count=3)
    write_graph(tmp_path / "graph.onnx", products, "fp32")
    counted = workload(count(onnx.load(tmp_path / "graph.onnx")), (512, 512), 1)

    found = roof(products.flops / FP32.per_second, counted, "fp32", [FP32, COPY])

    assert counted.layers[0].kind == "MatMul"
    assert counted.layers[0].nodes == 3
    # The scaling before and the maximum after it move a matrix thrice.
    assert 100 < found.percent_of_peak < 101
    moved_s = 3 * 512 * 512 * 4 / COPY.per_second
    assert found.ideal_s == pytest.approx(products.flops / FP32.per_second + moved_s, rel=0.01)
