"""From a path to an engine."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from i2i_runtime.engines.base import Backend, Device, Engine, Precision
from i2i_runtime.engines.manifest import PLAN_SUFFIXES
from i2i_runtime.errors import DeviceError, ModelError, UsageError, reason

_ONE_OF_EACH = (
    ("onnxruntime", "onnxruntime-gpu"),
    ("opencv-python", "opencv-python-headless"),
)
"""Distributions that install the same files: with both, the last one installed wins and its twin is broken."""


def open_engine(
    path: str | Path,
    device: Device = "auto",
    threads: int | None = None,
    *,
    trust: bool = False,
    backend: Backend | None = None,
    precision: Precision | None = None,
) -> Engine:
    """Load a model file with the engine that its suffix asks for.

    Args:
        path: an `.onnx` file (ONNX Runtime), a `.plan` or `.engine` (TensorRT, TensorRT-RTX) or an `.xml` (OpenVINO).
        device: where to run it.
        threads: CPU threads for one inference; None leaves the choice to the engine.
        trust: run a plan without a sidecar, or one that was built elsewhere: it is native code.
        backend: what runs an `.onnx` file; None is ONNX Runtime, or OpenVINO where `precision` asks for it.
        precision: what OpenVINO computes in; None is `f32`.

    Raises:
        UsageError: a backend or precision that this kind of file does not have.
        ModelError: no such file, an unknown kind of file, a broken file, no engine installed.
        DeviceError: the device is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such engine file; make one with i2i-export RUN/best.pt -o model.onnx")
    suffix = path.suffix.lower()
    library = {".onnx": backend or ("openvino" if precision else "onnxruntime"), ".xml": "openvino"}.get(suffix)
    if backend not in (None, library):
        raise UsageError(f"{path}: {backend} does not run {suffix or 'such'} files; leave the backend out")
    if precision and library != "openvino":
        raise UsageError(f"{path}: only OpenVINO has a choice of precision, {precision}; leave it out")
    if library == "onnxruntime":
        return _open_onnx(path, device, threads)
    if library == "openvino":
        return _open_openvino(path, device, threads, precision or "f32")
    if suffix in PLAN_SUFFIXES:
        return _open_plan(path, device, trust)
    hint = "; export the checkpoint first: i2i-export" if suffix == ".pt" else ""
    raise ModelError(
        f"{path}: expected an .onnx, {', '.join(PLAN_SUFFIXES)} or .xml file, found {path.suffix or 'no suffix'}{hint}"
    )


def _open_onnx(path: Path, device: Device, threads: int | None) -> Engine:
    try:
        from i2i_runtime.engines.onnxruntime import OnnxRuntimeEngine
    except ImportError as error:
        raise ModelError(
            f"no engine to run ONNX files ({reason(error)}); pip install 'i2i[cpu]', or 'i2i[gpu]' for an NVIDIA GPU"
        ) from error

    return OnnxRuntimeEngine(path, device, threads)


def _open_plan(path: Path, device: Device, trust: bool) -> Engine:
    # Its libraries are chosen by what the plan's sidecar says, and imported there.
    from i2i_runtime.engines.tensorrt import TensorRtEngine

    if device in ("cpu", "gpu", "npu"):
        where = "the CPU" if device == "cpu" else f"an Intel {device.upper()}"
        raise DeviceError(
            f"--device {device}: {path.name} runs on an NVIDIA GPU; use the model's .onnx or .xml on {where}"
        )
    return TensorRtEngine(path, trust=trust)


def _open_openvino(path: Path, device: Device, threads: int | None, precision: Precision) -> Engine:
    try:
        from i2i_runtime.engines.openvino import OpenVinoEngine
    except ImportError as error:
        raise ModelError(f"no engine to run OpenVINO models ({reason(error)}); pip install 'i2i[openvino]'") from error

    return OpenVinoEngine(path, device, threads, precision)


def wheel_conflicts() -> list[str]:
    """One line for each pair of installed packages that overwrite each other's files."""
    return [
        f"{one} and {two} are both installed and overwrite each other; "
        f"pip uninstall -y {one} {two}, then install the one you need"
        for one, two in _ONE_OF_EACH
        if _is_installed(one) and _is_installed(two)
    ]


def _is_installed(distribution: str) -> bool:
    """Asked by name: to read what all distributions are called takes a quarter of a second, at each start."""
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
