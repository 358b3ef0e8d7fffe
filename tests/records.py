"""Records as `latency.py` writes them, without measuring: a ResNet-9 on a CPU of 8 cores, and what goes wrong there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from measuring.record import (
    Environment,
    LayerCost,
    Model,
    Peak,
    Precision,
    Quality,
    Readings,
    Record,
    Row,
    Size,
    Turn,
    Workload,
)
from measuring.roofline import roof
from measuring.spread import summary

STARTS, ROUNDS = 3, 9
TORCH = "PyTorch eager CPU fp32"
_WAYS: tuple[tuple[str, str, Precision, str, float, float | None], ...] = (
    ("PyTorch eager", "torch", "fp32", "module, float", 0.130, None),
    ("torch.compile", "torch-compile", "fp32", "module, float", 0.112, 128.4),
    ("ONNX Runtime", "onnxruntime", "fp32", "static, float", 0.101, 117.2),
    ("ONNX Runtime", "onnxruntime", "fp32", "static, uint8", 0.103, 999.0),
    ("ONNX Runtime", "onnxruntime", "int8", "static, float", 0.074, 37.4),
    ("OpenVINO", "openvino", "fp32", "static, float", 0.079, 119.0),
    ("OpenVINO", "openvino", "fp16", "static, float", 0.060, None),
    ("OpenVINO", "openvino", "bf16", "static, float", 0.041, 51.3),
    ("OpenVINO", "openvino", "int8", "static, float", 0.036, 38.2),
)
"""Library, backend, precision, graph, seconds of a run at 256x256, and dB from PyTorch."""

ENVIRONMENT = Environment(
    command="python benchmarks/latency.py --checkpoint zebra.pt --sizes 256,512 --batch 1,4 --report zebra-report",
    date="2026-03-01T12:00:00+00:00",
    commit="1a2b3c4+",
    machine="Intel Xeon Platinum 8481C",
    cpu="Intel Xeon Platinum 8481C",
    cores=8,
    threads_per_core=2,
    instructions=("avx2", "avx512f", "avx512_vnni", "avx512_bf16"),
    memory_mib=32000.0,
    system="Ubuntu 24.04.1 LTS, Linux 6.8.0, in a container",
    governor=None,
    power_mode=None,
    is_virtual=True,
    gpus=(),
    python="CPython 3.11.7",
    versions={"i2i": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.23.2", "openvino": "2025.4.0"},
    load_before=0.1,
    settings={"OMP_NUM_THREADS": "8"},
)
PEAKS = (
    Peak(what="copy", name="copy, CPU", device="cpu", precision=None, per_second=81e9, spread=(74e9, 81e9)),
    Peak(
        what="gemm",
        name="GEMM fp32, ONNX Runtime CPU",
        device="cpu",
        precision="fp32",
        per_second=1.71e12,
        spread=(1.6e12, 1.71e12),
    ),
    Peak(
        what="conv",
        name="conv fp32, OpenVINO CPU",
        device="cpu",
        precision="fp32",
        per_second=1.92e12,
        spread=(1.8e12, 1.92e12),
    ),
    Peak(
        what="gemm",
        name="GEMM bf16, OpenVINO CPU",
        device="cpu",
        precision="bf16",
        per_second=3.8e12,
        spread=(3.6e12, 3.8e12),
    ),
    Peak(
        what="conv",
        name="conv int8, OpenVINO CPU",
        device="cpu",
        precision="int8",
        per_second=5.5e12,
        spread=(5e12, 5.5e12),
    ),
)


def record(sizes: Sequence[Size] = ((256, 256), (512, 512)), batches: Sequence[int] = (1, 4), seed: int = 0) -> Record:
    """Nine ways at each size and batch. OpenVINO fp16 fails, its int8 is throttled, torch.compile is never stable."""
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    workloads: list[Workload] = []
    # What the machine is like in each round, and so for all alike; in the sixth something else ran.
    machine = np.exp(random.normal(0, 0.01, ROUNDS)) * np.where(np.arange(ROUNDS) == 5, 1.08, 1.0)
    for size in sizes:
        for batch in batches:
            work = workload(size, batch)
            workloads.append(work)
            rows += [_row(way, work, machine, random) for way in _WAYS]
    return Record(
        environment=ENVIRONMENT,
        model=Model(
            name="zebra",
            file="zebra.pt",
            sha256="5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
            architecture="resnet_9blocks, ngf 64",
            is_trained=True,
        ),
        workloads=tuple(workloads),
        peaks=PEAKS,
        rows=tuple(rows),
        yardstick=turns(0.0066, machine, random),
        yardstick_name="GEMM fp32, ONNX Runtime CPU",
        yardstick_version="1.23.2",
        left_out=("TensorRT: not installed; pip install 'i2i[tensorrt]'",),
        advice=(
            f"At 256x256: use OpenVINO CPU bf16, 3.17 times as fast as {TORCH} (3.10 to 3.22), 51 dB from {TORCH}.",
            "Batches of 4 gain nothing there (1.01 times the images a second).",
        ),
    )


def workload(size: Size = (256, 256), batch: int = 1) -> Workload:
    """Of a ResNet-9 with 64 channels, its layers only roughly."""
    scale = batch * size[0] * size[1] / 256**2
    layers = tuple(
        LayerCost(kind=kind, nodes=nodes, macs=round(macs * scale), flops=round(flops * scale), bytes=round(by * scale))
        for kind, nodes, macs, flops, by in (
            ("Conv", 18, 43.5e9, 87.0e9, 193e6),
            ("Conv", 2, 4.8e9, 9.7e9, 52e6),
            ("ConvTranspose", 2, 4.8e9, 9.7e9, 44e6),
            ("Conv", 2, 1.2e9, 2.5e9, 38e6),
            ("InstanceNormalization", 23, 0, 0.24e9, 210e6),
            ("Relu", 14, 0, 0.03e9, 150e6),
            ("Add", 9, 0, 0.01e9, 113e6),
            ("Pad", 20, 0, 0, 120e6),
            ("Tanh", 1, 0, 0.001e9, 1.6e6),
        )
    )
    return Workload(
        size=size,
        batch=batch,
        macs=sum(layer.macs for layer in layers),
        published_macs=round(56.8e9 * scale),
        flops=sum(layer.flops for layer in layers),
        bytes=sum(layer.bytes for layer in layers),
        parameters=11_378_179,
        parameter_bytes=45_512_716,
        layers=layers,
    )


def turns(
    seconds: float, machine: Sequence[float], random: np.random.Generator, drift: float = 0.0
) -> tuple[Turn, ...]:
    """Turns of something that takes so long, on such a machine; `drift` is how much slower the last round is."""
    luck = np.exp(random.normal(0, 0.006, STARTS))
    found = []
    for number, factor in enumerate(machine):
        start = number * STARTS // len(machine)
        runs = max(3, min(25, round(0.5 / seconds)))
        noise = np.exp(random.normal(0, 0.008, runs)) + np.where(random.random(runs) < 0.03, 0.35, 0.0)
        level = seconds * luck[start] * factor * (1 + drift * number / len(machine))
        found.append(Turn(start=start, round=number, seconds=tuple(float(value) for value in level * noise)))
    return tuple(found)


def _row(
    way: tuple[str, str, Precision, str, float, float | None],
    work: Workload,
    machine: Sequence[float],
    random: np.random.Generator,
) -> Row:
    library, backend, precision, graph, seconds, psnr_db = way
    is_plain = precision == "fp32"
    row = Row(
        name=f"{library} CPU {precision}",
        backend=backend,
        device="cpu",
        precision=precision,
        size=work.size,
        batch=work.batch,
        threads=None,
        graph=graph,
        how=None if graph.startswith("module") else f"i2i-export zebra.pt -o zebra-{precision}.onnx",
        is_baseline=is_plain and backend in ("torch", "torch-compile", "onnxruntime"),
    )
    if precision == "fp16":
        return replace(row, failure="fp16-onnx-own-1.onnx: OpenVINO cannot compile it (unsupported element type f16)")
    is_throttled, is_compiled = (backend, precision) == ("openvino", "int8"), backend == "torch-compile"
    scale = work.batch * work.size[0] * work.size[1] / 256**2
    measured = turns(seconds * scale**0.99, machine, random, drift=0.12 if is_throttled else 0.0)
    return replace(
        row,
        load_s=tuple(float(value) for value in random.uniform(0.9, 1.1, STARTS) * (14.0 if is_compiled else 0.8)),
        first_s=tuple(float(value) for value in random.uniform(1.2, 1.5, STARTS) * seconds * scale),
        warm_up_runs=(24, 21, 30),
        is_stable=not is_compiled,
        turns=measured,
        host_mib=round(float(180 + 400 * seconds + 90 * scale), 1),
        readings=Readings(
            power_w=round(float(random.uniform(90, 120)), 1),
            power_of="CPU package",
            clock_mhz=2700.0 if is_throttled else 3000.0,
            clock_max_mhz=3000.0,
            temperature_c=96.0 if is_throttled else 71.0,
            throttled=("thermal",) if is_throttled else (),
            can_see_throttling=True,
            stolen=0.01,
            busy_elsewhere=0.02,
        ),
        quality=None
        if psnr_db is None
        else Quality(against=TORCH, pictures=4, psnr_db=psnr_db, ssim=1.0 if psnr_db > 100 else 0.987),
        roof=roof(summary(measured).p50, work, precision, PEAKS),
    )
