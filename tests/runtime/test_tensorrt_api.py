"""Every name of TensorRT that our sources use exists in TensorRT 10, TensorRT 11 and TensorRT-RTX.

The libraries of TensorRT are not on PyPI, its bindings are: over a stub of the libraries they can be imported and
looked at, though nothing in them runs.
"""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands import REPOSITORY, environment
from plans import needs_rtx
from tensorrt_interface import missing, unnamed_objects, uses_of_cuda, uses_of_tensorrt

from i2i_runtime.engines.nvinfer import load_library

WHEELS = ("tensorrt_cu12_bindings==10.3.0", "tensorrt_cu13_bindings==10.16.1.11", "tensorrt_cu13_bindings==11.4.0.106")
"""The TensorRT of JetPack 6, of JetPack 7.2, and the newest."""


def test_the_names_are_read_from_the_sources():
    names = {use.name for use in uses_of_tensorrt()}

    assert {
        "ILogger.log",
        "IProgressMonitor.step_complete",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "Builder.create_network",
        "ITensor.shape",
        "IBuilderConfig.builder_optimization_level",
        "IOptimizationProfile.set_shape",
        "ParserError.desc",
        "ICudaEngine.get_tensor_dtype",
        "IExecutionContext.execute_async_v3",
        "DataType.HALF",
    } <= names
    assert {use.guard for use in uses_of_tensorrt() if use.name.startswith("EngineValidity")} == {
        "Runtime.get_engine_validity"
    }
    assert {use.guard for use in uses_of_tensorrt() if use.name.startswith(("IRuntimeConfig", "IRuntimeCache"))} == {
        "IRuntimeConfig.create_runtime_cache",
        "IRuntimeConfig.cuda_graph_strategy",
        "IRuntimeCache.serialize",
    }
    assert {use.keyword for use in uses_of_tensorrt()} == {"", "stream_handle"}
    assert {"cudaMalloc", "cudaMemcpyKind.cudaMemcpyHostToDevice", "cudaGraphLaunch", "cudaHostAlloc"} <= {
        use.name for use in uses_of_cuda()
    }


def test_no_object_of_tensorrt_escapes_the_reading():
    assert unnamed_objects() == []


def test_a_name_that_is_not_there_is_found(tmp_path):
    source = tmp_path / "source.py"
    source.write_text(
        "def f(trt, builder):\n"
        "    if hasattr(trt, 'Nowhere'):\n        g(trt)\n"
        "    if f and hasattr(trt, 'Never'):\n        trt.OnlyWithNever()\n"
        "    if f or hasattr(trt, 'Never'):\n        trt.Sometimes()\n"
        "    builder.create_wonder(speed=3)\n"
        "    thing = builder.create_network(trt.Flag.ON)\n"
        "def g(trt):\n    trt.OnlyWithNowhere()\n"
    )
    module = type("module", (), {"Builder": type("Builder", (), {"create_network": 0})})

    assert missing(uses_of_tensorrt([source]), module) == ["Builder.create_wonder", "Flag.ON", "Sometimes"]
    assert unnamed_objects([source]) == ["source.py:9: thing = builder.create_network(trt.Flag.ON)"]


@needs_rtx
def test_tensorrt_rtx_has_every_name():
    assert missing(uses_of_tensorrt(), load_library("tensorrt_rtx")) == []


def test_cuda_bindings_have_every_name():
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

    assert missing(uses_of_cuda(), cuda) == []


@pytest.mark.slow
@pytest.mark.parametrize("wheel", WHEELS)
def test_tensorrt_has_every_name(tmp_path, wheel):
    folder = unpack(wheel, tmp_path)
    libraries = stub_libraries(folder / "tensorrt_bindings" / "tensorrt.so", tmp_path / "lib")
    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
import tensorrt_bindings
from tensorrt_interface import missing, uses_of_tensorrt
print(json.dumps([tensorrt_bindings.__version__, missing(uses_of_tensorrt(), tensorrt_bindings)]))
"""
    variables = {**environment(), "LD_LIBRARY_PATH": str(libraries)}
    variables["PYTHONPATH"] += f":{REPOSITORY / 'tests'}"

    result = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=120, env=variables
    )

    assert result.returncode == 0, result.stderr
    version, names = json.loads(result.stdout.splitlines()[-1])
    assert wheel.endswith(f"=={version}")
    assert names == []


def unpack(wheel: str, folder: Path) -> Path:
    """Download a wheel from PyPI and unpack it."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "-q",
        "-d",
        folder,
        wheel,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if result.returncode:
        pytest.skip(f"{wheel} cannot be downloaded here: {result.stderr.strip().splitlines()[-1]}")
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "wheel")
    return folder / "wheel"


def stub_libraries(bindings: Path, folder: Path) -> Path:
    """Libraries that have the functions which `bindings` look for, and do nothing."""
    compiler, reader = shutil.which("cc") or shutil.which("gcc"), shutil.which("readelf")
    if compiler is None or reader is None:
        pytest.skip("no C compiler and readelf to make stub libraries with")
    dynamic = subprocess.run([reader, "-dW", bindings], capture_output=True, text=True, check=True).stdout
    symbols = subprocess.run([reader, "--dyn-syms", "-W", bindings], capture_output=True, text=True, check=True).stdout
    undefined = re.findall(r"\sGLOBAL\s+DEFAULT\s+UND\s+(\w+)\s*$", symbols, re.MULTILINE)
    # What this Python process has too is Python's or the C library's.
    wanted = sorted({name for name in undefined if not hasattr(ctypes.CDLL(None), name)})
    assert any(name.startswith("createInferBuilder") for name in wanted), wanted
    folder.mkdir()
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in wanted))
    for library in re.findall(r"\[(libnv\S+)\]", dynamic):
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", folder / library, source], check=True
        )
    return folder
