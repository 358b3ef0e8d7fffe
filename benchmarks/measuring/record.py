"""The JSON file of `latency.py`: what was measured, where, and how. Everything in a report comes from it alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from i2i_runtime.card import decode
from i2i_runtime.errors import UsageError, reason

VERSION = 1
Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""As `i2i-export` calls them; of `torch` and OpenVINO what is computed in."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine, what is installed, and the command: what a figure must name to mean anything."""

    command: str
    """As typed, without folders of this machine."""
    date: str
    """UTC, ISO 8601, to the second."""
    commit: str | None
    """Of this checkout, with `+` where files were changed; None where there is no git."""
    machine: str
    """One line: CPU or GPU name, for titles."""
    cpu: str
    cores: int
    """That this process may use."""
    threads_per_core: int | None
    instructions: tuple[str, ...]
    """Of those that matter here: avx2, avx512f, avx512_vnni, avx_vnni, avx512_bf16, amx_bf16, amx_int8; of ARM asimd,
    asimdhp, asimddp, i8mm, bf16."""
    memory_mib: float
    system: str
    governor: str | None
    """Of the CPU's clock; None where it cannot be read."""
    power_mode: str | None
    """nvpmodel's on a Jetson."""
    is_virtual: bool | None
    gpus: tuple[str, ...]
    """Name, driver, power limit, as one line each."""
    python: str
    versions: dict[str, str]
    """Of the libraries that run models."""
    load_before: float | None
    """Load average over the last minute as the run began, over the number of cores; above 0.3 the machine was busy."""
    settings: dict[str, str]
    """Environment variables that change speed, where they are set: OMP_NUM_THREADS and the like."""


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What the machine did while a contestant ran, over all of its turns. None where it cannot be read."""

    power_w: float | None = None
    """Mean, of what `power_of` names."""
    power_of: str | None = None
    """`GPU 0`, `CPU package`, `VDD_IN`."""
    clock_mhz: float | None = None
    """Mean, of the GPU where it ran there, else of the CPU's cores."""
    clock_max_mhz: float | None = None
    """What the hardware says it could do."""
    temperature_c: float | None = None
    """Highest."""
    throttled: tuple[str, ...] = ()
    """Reasons, in words: `thermal`, `power cap`. Empty where there were none, or none can be read."""
    can_see_throttling: bool = False
    utilisation: float | None = None
    """Mean of the GPU's, 0 to 1."""
    stolen: float | None = None
    """Share of the CPU time, 0 to 1, that the hypervisor gave to others."""
    busy_elsewhere: float | None = None
    """Share of the CPU time that other processes of this machine took."""


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """The nodes of a graph that are of one kind and cost the same, all together."""

    kind: str
    """ONNX operator."""
    nodes: int
    macs: int
    """Multiply-adds."""
    flops: int
    """2 for each multiply-add, 1 for each addition or other operation on a value."""
    bytes: int
    """Read and written, if each tensor goes to memory and back."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What one inference has to do, counted from the ONNX graph."""

    size: Size
    batch: int
    precision: Precision = "fp32"
    """Of the graph that was counted: its bytes are those of this precision, its FLOPs those of each."""
    macs: int
    published_macs: int
    """As papers count them: transposed convolutions at the pixels of their result."""
    flops: int
    bytes: int
    parameters: int
    parameter_bytes: int
    layers: tuple[LayerCost, ...]
    """Dearest first. A kind stands here once for each cost that its nodes have: what holds for one of them, such as
    whether it computes or moves data, holds for all in the entry. Nodes that cost nothing have none."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What a library reached in a probe: matrix products, convolutions, or a copy."""

    what: Literal["gemm", "conv", "copy"]
    name: str
    """For example `GEMM fp32, ONNX Runtime CPU`."""
    device: str
    """`cpu`, `cuda`."""
    precision: Precision | None
    """None of a copy."""
    is_tf32: bool = False
    """Of FP32, whether it was rounded to TF32, which TensorRT is told not to do."""
    per_second: float
    """Best round's median: FLOP/s, or bytes/s read and written."""
    spread: tuple[float, float]
    """Lowest and highest round's median."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Some runs one after the other; a round is one turn of each contestant."""

    start: int
    """Number of the process that it ran in, 0 for the first."""
    round: int
    """Counted over all starts; equal numbers stand beside each other in time."""
    seconds: tuple[float, ...]
    """Of each run."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How far the results are from those of `against`, on the same inputs."""

    against: str
    """`PyTorch fp32`, or `ONNX Runtime fp32` where there is no PyTorch."""
    pictures: int
    psnr_db: float
    """Of the picture that fares worst; 999 where they are the same. Of values, not of 8-bit grey levels."""
    ssim: float | None
    """Mean; None of pictures too small for it, and without torchmetrics."""


@dataclass(frozen=True, kw_only=True)
class Roof:
    """Where a row stands below the machine's roof (Williams et al. 2009, Roofline)."""

    flops_per_second: float
    intensity: float
    """FLOPs for each byte that moves in this precision: where the row stands along the roof."""
    percent_of_peak: float
    """Of the best that any library reached here in this precision, in matrix products or convolutions. Above 100 where
    a library multiplies less (Winograd)."""
    ideal_s: float
    """Sum over the nodes of the longer of computing and moving data at the measured peaks. Each tensor is taken to go
    to memory and back: fused nodes and caches can do better."""
    percent_of_roof: float
    """`ideal_s` over the median."""
    limit: str
    """In words, for a person: what limits it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to run the model, at one size and batch."""

    name: str
    """For example `ONNX Runtime CPU int8`."""
    backend: str
    """`torch`, `torch-compile`, `onnxruntime`, `openvino`, `tensorrt`, `tensorrt-rtx`."""
    device: str
    """`cpu`, `cuda`."""
    precision: Precision
    size: Size
    batch: int
    threads: int | None
    """None: the library's choice."""
    graph: str
    """`static`, `dynamic` or `module`, and what goes in and out: `static, float`."""
    how: str | None
    """The command that makes the file, where it is not there yet."""
    is_baseline: bool = False
    failure: str | None = None
    """One line; then nothing below is filled."""
    load_s: tuple[float, ...] = ()
    """Of each start: importing the library, reading and compiling the model."""
    first_s: tuple[float, ...] = ()
    """Of each start: the first inference."""
    warm_up_runs: tuple[int, ...] = ()
    """Of each start: runs until the time was stable."""
    is_stable: bool = True
    """Whether each start became so."""
    turns: tuple[Turn, ...] = ()
    host_mib: float | None = None
    """Most resident memory of the process that ran nothing else; median over the starts."""
    device_mib: float | None = None
    readings: Readings = field(default_factory=Readings)
    quality: Quality | None = None
    roof: Roof | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What two rows of two runs have in common if they are the same thing."""
        return (self.backend, self.device, self.precision, self.size, self.batch, self.threads, self.graph)


@dataclass(frozen=True, kw_only=True)
class Model:
    """What was measured."""

    name: str
    file: str
    """Without its folder."""
    sha256: str
    architecture: str
    """`resnet_9blocks, ngf 64`; `unknown` of a file without a card."""
    is_trained: bool


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of `latency.py`."""

    version: int = VERSION
    what: Literal["latency"] = "latency"
    environment: Environment
    model: Model
    workloads: tuple[Workload, ...]
    peaks: tuple[Peak, ...]
    rows: tuple[Row, ...]
    yardstick: tuple[Turn, ...]
    """Turns of a fixed piece of work, one in each round: what the machine itself was like at that time. Rows of unlike
    sizes and batches have rounds of their own."""
    yardstick_name: str
    yardstick_device: str = "cpu"
    """Rows of another device cannot be measured against it."""
    yardstick_version: str = ""
    """Of the library that does it: another one may be faster, and then it is another yardstick."""
    left_out: tuple[str, ...]
    """What was asked for and cannot run here, each with the reason, on one line."""
    advice: tuple[str, ...]
    """What to use, and what to mind, one sentence each."""

    def write(self, path: Path) -> None:
        """Write it.

        Raises:
            SinkError: it cannot be written.
        """
        # It imports OpenCV, which is none of the machine's description.
        from measuring.output import write_json

        write_json(path, asdict(self))


def read_record(path: Path) -> Record:
    """Read what `Record.write` wrote.

    Raises:
        UsageError: no such file, or another kind of file.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: expected a JSON file of latency.py ({reason(error)})") from error
    if not isinstance(data, dict) or data.get("what") != "latency" or data.get("version") != VERSION:
        raise UsageError(f"{path}: expected a JSON file of latency.py, version {VERSION}; found another kind")
    return decode(Record, data, path.name)
