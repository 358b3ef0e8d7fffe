"""One door to TensorRT 10, TensorRT 11, TensorRT-RTX and the CUDA runtime.

The three libraries share almost all of their interface. What only some of them have is asked for with `hasattr`,
never by version. Variables are called after what they hold (`trt`, `builder`, `config`, `engine`, ...): the test of
the interface reads these names.
"""

from __future__ import annotations

import functools
import os
import re
from collections import deque
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from i2i_runtime.engines.manifest import Library
from i2i_runtime.errors import DeviceError, ModelError, reason

LIBRARY_NAMES: dict[Library, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
"""Each library as its makers write it."""
_INSTALL: dict[Library, str] = {
    "tensorrt": "a Jetson has it from JetPack (a venv needs --system-site-packages), elsewhere pip install tensorrt",
    "tensorrt_rtx": "pip install 'i2i[tensorrt-rtx]'",
}
_ERROR = 1
"""Severity: 0 is an internal error, 1 an error, 2 a warning, 3 information, 4 verbose."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU that CUDA calls number 0."""

    name: str
    compute_capability: str
    """For example `8.7`."""


class Messages:
    """What a library logs: its failures are None or False, and only the log says why."""

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=100)
        self.interrupt: BaseException | None = None
        """An exception of ours that must not cross the library's C++ frames; the caller raises it again."""

    def clear(self) -> None:
        """Forget everything: a new operation begins."""
        self._errors.clear()
        self.interrupt = None

    def add(self, severity: int, text: str) -> None:
        """Keep one line of the log if it is an error."""
        try:
            # Without a driver each step repeats that CUDA is not there, also where no GPU is needed.
            if severity <= _ERROR and "catchCudaError" not in text:
                self._errors.append(text)
        except KeyboardInterrupt as error:
            self.interrupt = error

    def reason(self) -> str:
        """Why the last operation failed, on one line. The first error is the cause, later ones its consequences.

        >>> messages = Messages()
        >>> messages.add(1, "IBuilder::build: Error Code 4: API Usage Error (no shape given. In f at /_src/n.cpp:40)")
        >>> messages.reason()
        'no shape given'
        """
        if not self._errors:
            return "it does not say why"
        line = reason(Exception(self._errors[0]))
        inner = re.search(r"Error Code \d+: [^(]*\((.+?)\.?\s+In \S+ at .*\)$", line)
        return inner[1] if inner else line


def load_library(which: Library) -> ModuleType:
    """Import TensorRT or TensorRT-RTX.

    Raises:
        ModelError: it is not installed, or cannot be loaded; says what to install.
    """
    try:
        library: ModuleType = _import(which)
    # A half installed wheel raises more than ImportError: its shared libraries are looked for with ctypes.
    except (ImportError, OSError) as error:
        raise ModelError(f"{LIBRARY_NAMES[which]} cannot be loaded ({reason(error)}); {_INSTALL[which]}") from error
    return library


def _import(which: Library) -> Any:
    if which == "tensorrt":
        import tensorrt

        return tensorrt
    try:
        import tensorrt_rtx
    except ModuleNotFoundError:
        # What the wheels bring; `tensorrt_rtx` itself is a source package that only passes their names on.
        import tensorrt_rtx_bindings

        return tensorrt_rtx_bindings
    return tensorrt_rtx


@functools.cache
def make_logger(trt: ModuleType) -> tuple[Any, Messages]:
    """The one logger of a library, and what it collects; it never prints.

    The library keeps a bare pointer to the first logger that it is given, so there is one and it lives forever.
    """
    messages = Messages()

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            # pybind11 refuses super().__init__().
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            messages.add(int(severity), text)

    return Logger(), messages


def create_network(trt: ModuleType, builder: Any) -> Any:
    """An empty network whose precision is the graph's own: TensorRT 11 and TensorRT-RTX know no other kind."""
    # Looked up by name: STRONGLY_TYPED is 1 in TensorRT 10 and 0 in TensorRT 11, where 1 means another thing.
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


def cuda_runtime() -> Any:
    """The CUDA runtime, from cuda-bindings.

    Raises:
        DeviceError: cuda-bindings is not installed.
    """
    try:
        from cuda.bindings import runtime as cuda
    except ImportError as error:
        raise DeviceError(
            f"no way to the GPU ({reason(error)}); pip install cuda-bindings, on JetPack 6 'cuda-bindings<13'"
        ) from error
    return cuda


def cuda_values(cuda: Any, result: tuple[Any, ...], doing: str) -> tuple[Any, ...]:
    """What a CUDA call gave behind its error code.

    Args:
        cuda: the CUDA runtime.
        result: the error code, then the values.
        doing: what the call was for, for the message.

    Raises:
        DeviceError: the call failed.
    """
    code, *values = result
    if code != cuda.cudaError_t.cudaSuccess:
        _, text = cuda.cudaGetErrorString(code)
        hint = _driver_hint() if code == cuda.cudaError_t.cudaErrorInsufficientDriver else ""
        raise DeviceError(f"{doing}: CUDA failed ({text.decode() if text else code}){hint}")
    return tuple(values)


def _driver_hint() -> str:
    """JetPack 6 has a driver for CUDA 12, and pip takes the newest cuda-bindings."""
    try:
        major = metadata.version("cuda-bindings").partition(".")[0]
    except metadata.PackageNotFoundError:
        return ""
    return "; on JetPack 6: pip install 'cuda-bindings<13'" if major.isdigit() and int(major) >= 13 else ""


def require_gpu() -> Gpu:
    """The GPU of this machine.

    Raises:
        DeviceError: there is none, its driver is missing or too old, or cuda-bindings is not installed.
    """
    cuda = cuda_runtime()
    doing = "looking for a GPU"
    (count,) = cuda_values(cuda, cuda.cudaGetDeviceCount(), doing)
    if count < 1:
        raise DeviceError(f"{doing}: this machine has none")
    (properties,) = cuda_values(cuda, cuda.cudaGetDeviceProperties(0), doing)
    return Gpu(name=properties.name.decode(), compute_capability=f"{properties.major}.{properties.minor}")


def gpu() -> Gpu | None:
    """The GPU of this machine; None where there is none or no way to it."""
    try:
        return require_gpu()
    except DeviceError:
        return None


def cache_folder() -> Path | None:
    """$I2I_CACHE, $XDG_CACHE_HOME/i2i or ~/.cache/i2i, and in it `engines`; None for a user without a home."""
    if own := os.environ.get("I2I_CACHE"):
        return Path(own) / "engines"
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    if Path(shared).is_absolute():
        return Path(shared) / "i2i" / "engines"
    try:
        return Path.home() / ".cache" / "i2i" / "engines"
    except RuntimeError:
        return None
