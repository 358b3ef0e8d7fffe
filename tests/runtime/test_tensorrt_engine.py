"""Plans in the runtime: every refusal, on a GPU the real thing, and without one the order of its steps."""

from __future__ import annotations

import ctypes
import dataclasses
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from commands import run, the_error_line
from interpreter import python
from onnx_models import make_card, negative_model
from plans import RANGE, conv_model, needs_no_gpu, needs_rtx, rtx_plan

from i2i_runtime.digest import file_sha256
from i2i_runtime.engines import nvinfer
from i2i_runtime.engines.manifest import Manifest, manifest_path, read_manifest, write_manifest
from i2i_runtime.engines.nvinfer import Gpu, Messages
from i2i_runtime.engines.open import open_engine
from i2i_runtime.engines.tensorrt import TensorRtEngine
from i2i_runtime.errors import DeviceError, ModelError, OutOfMemoryError


def _has_tensorrt() -> bool:
    try:
        nvinfer.load_library("tensorrt")
    except ModelError:
        return False
    return True


needs_no_tensorrt = pytest.mark.skipif(_has_tensorrt(), reason="says what happens without TensorRT, and here it is")
needs_gpu = pytest.mark.skipif(nvinfer.gpu() is None, reason="there is no GPU to run a plan on")


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A real plan of TensorRT-RTX with its sidecar."""
    monkeypatch.setenv("I2I_CACHE", str(tmp_path / "cache"))
    rtx_plan(negative_model(tmp_path / "zebra.onnx"), card=make_card())
    return tmp_path / "zebra.plan"


def edit_manifest(plan: Path, **changes) -> None:
    manifest = read_manifest(plan)
    assert manifest is not None
    write_manifest(plan, dataclasses.replace(manifest, **changes))


def run_plan(plan: Path, *arguments: object):
    """`i2i-run` on one picture with `plan`."""
    pictures = plan.parent / "pictures"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "one.png"), np.zeros((64, 64, 3), np.uint8))
    return run("i2i-run", "--engine", plan, "--images", pictures, "--output", plan.parent / "out", *arguments)


# What the command says ------------------------------------------------------------------------------------------------


@needs_rtx
@needs_no_gpu
@pytest.mark.parametrize("arguments", [(), ("--trust-engine",), ("--device", "cuda")])
@pytest.mark.fault(31)
def test_without_a_gpu_a_plan_is_a_device_error(plan, arguments):
    result = run_plan(plan, *arguments)

    assert result.returncode == 6
    line = the_error_line(result)
    assert line.startswith(f"error: {plan}: a plan runs on an NVIDIA GPU (")
    assert line.endswith("; run the .onnx on the CPU")


@needs_rtx
def test_a_plan_does_not_run_on_the_cpu(plan):
    result = run_plan(plan, "--device", "cpu")

    assert result.returncode == 6
    assert "--device cpu: zebra.plan runs on an NVIDIA GPU; use the model's .onnx or .xml" in the_error_line(result)


@needs_rtx
@pytest.mark.parametrize("arguments", [(), ("--trust-engine",)])
@pytest.mark.fault(32)
def test_a_plan_that_was_altered_is_never_loaded(plan, arguments):
    plan.write_bytes(plan.read_bytes()[:-1])

    result = run_plan(plan, *arguments)

    assert result.returncode == 4
    assert "was cut off or altered; rebuild it: i2i-export zebra.onnx -o zebra.plan" in the_error_line(result)


@needs_rtx
@needs_no_gpu
def test_a_plan_without_a_sidecar_needs_trust_to_get_as_far_as_the_gpu(plan):
    manifest_path(plan).unlink()

    refused = run_plan(plan)
    (plan.parent / "pictures" / "one.png").unlink()
    (plan.parent / "pictures").rmdir()
    trusted = run_plan(plan, "--trust-engine")

    assert refused.returncode == 4
    assert the_error_line(refused).endswith("or run it all the same with --trust-engine")
    assert trusted.returncode == 6


@needs_rtx
@pytest.mark.fault(32)
def test_a_plan_of_another_version_says_both_versions_and_what_to_do(plan):
    edit_manifest(plan, library_version="1.0.0")

    result = run_plan(plan)

    assert result.returncode == 4
    version = nvinfer.load_library("tensorrt_rtx").__version__
    assert the_error_line(result) == (
        f"error: {plan}: built with TensorRT-RTX 1.0.0 for compute capability any, this is {version}; "
        "rebuild it: i2i-export zebra.onnx -o zebra.plan, or try it with --trust-engine"
    )


@needs_rtx
@needs_no_gpu
def test_a_plan_of_another_version_may_be_tried(plan):
    edit_manifest(plan, library_version="1.0.0")

    assert run_plan(plan, "--trust-engine").returncode == 6


@needs_rtx
@needs_no_tensorrt
def test_a_plan_of_a_library_that_is_not_here_says_what_to_install(plan):
    edit_manifest(plan, library="tensorrt")

    result = run_plan(plan)

    assert result.returncode == 4
    assert "TensorRT cannot be loaded (No module named 'tensorrt')" in the_error_line(result)
    assert "JetPack" in the_error_line(result)


@needs_no_tensorrt
def test_a_foreign_engine_is_taken_for_one_of_tensorrt(tmp_path):
    path = tmp_path / "foreign.engine"
    path.write_bytes(b"ftrt" + bytes(100))

    result = run_plan(path, "--trust-engine")

    assert result.returncode == 4
    assert "TensorRT cannot be loaded" in the_error_line(result)


@needs_rtx
@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_a_broken_sidecar_is_one_line(plan, text):
    manifest_path(plan).write_text(text)

    result = run_plan(plan, "--trust-engine")

    assert result.returncode == 4
    assert f"{manifest_path(plan)}: " in the_error_line(result)


@needs_rtx
def test_without_any_engine_library_a_plan_is_one_line(plan):
    code = """
import sys
for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "cuda", "onnxruntime", "openvino", "onnx", "torch"):
    sys.modules[name] = None
from i2i_runtime.engines.open import open_engine
from i2i_runtime.errors import ModelError
try:
    open_engine(sys.argv[1])
except ModelError as error:
    print(error)
"""

    message = python(code, plan).stdout

    assert message.startswith("TensorRT-RTX cannot be loaded (")
    assert message.endswith("; pip install 'i2i[tensorrt-rtx]'\n")


@needs_rtx
def test_without_cuda_bindings_one_line_says_what_to_install(plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)

    with pytest.raises(DeviceError, match=r"no way to the GPU \(.*\); pip install cuda-bindings, on JetPack 6"):
        open_engine(plan)


@pytest.mark.parametrize(
    ("version", "code", "hint"),
    [
        ("13.5.0", 35, "; on JetPack 6: pip install 'cuda-bindings<13'"),
        ("12.9.4", 35, ""),
        ("13.5.0", 2, ""),
        (None, 35, ""),
    ],
)
def test_a_driver_that_is_too_old_for_the_bindings_says_what_a_jetson_needs(monkeypatch, version, code, hint):
    def version_of(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", version_of)

    with pytest.raises(DeviceError) as raised:
        nvinfer.cuda_values(StubCuda(), (code,), "looking for a GPU")

    assert str(raised.value) == f"looking for a GPU: CUDA failed (out of memory){hint}"


# On a GPU -------------------------------------------------------------------------------------------------------------


@needs_gpu
@needs_rtx
@pytest.mark.parametrize("half", [False, True])
def test_a_plan_computes_what_onnx_runtime_computes(tmp_path, half):
    path = conv_model(tmp_path / "zebra.onnx", None, half=half)
    rtx_plan(path, shapes=(RANGE,), use_cache=False)
    rng = np.random.default_rng(1)

    with open_engine(path) as expected, open_engine(tmp_path / "zebra.plan") as engine:
        for size in ((8, 8), (32, 64), (16, 24)):
            image = rng.uniform(-1, 1, (1, 3, *size)).astype(np.float32)
            np.testing.assert_allclose(engine.run(image), expected.run(image), atol=0.01)
        with pytest.raises(ModelError, match="expected a shape from 1x3x8x8 to 1x3x32x64, found 1x3x8x65"):
            engine.run(np.zeros((1, 3, 8, 65), np.float32))


# A stub of the GPU ----------------------------------------------------------------------------------------------------
# It stands for TensorRT, CUDA and a GPU, so that `run` can be followed on a machine without one. It proves the order of
# the calls and the handling of memory and of failures, and nothing about TensorRT: that its names exist is in
# test_tensorrt_api.py, that it computes is above and needs a GPU.


class StubCuda:
    """Device memory in main memory, with a count of what is not freed."""

    cudaStreamNonBlocking = 1  # noqa: N815
    cudaHostAllocDefault = 0  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaError_t = SimpleNamespace(cudaSuccess=0, cudaErrorInsufficientDriver=35)  # noqa: N815

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array] = {}
        self.page_locked: dict[int, ctypes.Array] = {}
        self.streams = 0
        self.graphs: dict[int, list] = {}
        """The calls that each graph replays."""
        self.capturing: list | None = None
        self.launched = 0
        self.failing = ""

    def __getattr__(self, name: str):
        call = object.__getattribute__(self, f"_{name}")
        return (lambda *arguments: (2,)) if name == self.failing else call

    def _cudaMalloc(self, size: int):  # noqa: N802
        block = (ctypes.c_char * size)()
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def _cudaFree(self, address: int):  # noqa: N802
        del self.memory[address]
        return (0,)

    def _cudaHostAlloc(self, size: int, flags: int):  # noqa: N802
        block = (ctypes.c_char * size)()
        self.page_locked[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def _cudaFreeHost(self, address: int):  # noqa: N802
        del self.page_locked[address]
        return (0,)

    def _cudaStreamCreateWithFlags(self, flags: int):  # noqa: N802
        self.streams += 1
        return 0, 7

    def on_stream(self, call) -> None:
        """Do it now, or record it in the graph that is being captured."""
        call() if self.capturing is None else self.capturing.append(call)

    def _cudaStreamBeginCapture(self, stream: int, mode: int):  # noqa: N802
        self.capturing = []
        return (0,)

    def _cudaStreamEndCapture(self, stream: int):  # noqa: N802
        self.graphs[len(self.graphs) + 1], self.capturing = self.capturing, None
        return 0, len(self.graphs)

    def _cudaGraphInstantiate(self, graph: int, flags: int):  # noqa: N802
        self.graphs[-graph] = self.graphs[graph]
        return 0, -graph

    def _cudaGraphDestroy(self, graph: int):  # noqa: N802
        del self.graphs[graph]
        return (0,)

    _cudaGraphExecDestroy = _cudaGraphDestroy  # noqa: N815

    def _cudaGraphLaunch(self, graph: int, stream: int):  # noqa: N802
        self.launched += 1
        for call in self.graphs[graph]:
            call()
        return (0,)

    def _cudaGetLastError(self):  # noqa: N802
        return (0,)

    def _cudaStreamDestroy(self, stream: int):  # noqa: N802
        self.streams -= 1
        return (0,)

    def _cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int):  # noqa: N802
        device, host = (to, source) if kind == 1 else (source, to)

        def copy() -> None:
            assert size <= len(self.memory[device]), "a copy past the end of device memory"
            assert size <= len(self.page_locked[host]), "a copy past the end of page-locked memory"
            ctypes.memmove(to, source, size)

        self.on_stream(copy)
        return (0,)

    def _cudaStreamSynchronize(self, stream: int):  # noqa: N802
        return (0,)

    def _cudaGetErrorString(self, code: int):  # noqa: N802
        return 0, b"out of memory"


class StubContext:
    """Negates float32."""

    def __init__(self, shape: tuple[int, ...], messages: Messages, cuda: StubCuda) -> None:
        self.shape = shape
        self.cuda = cuda
        self.messages = messages
        self.addresses: dict[str, int] = {}
        self.works = True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not self.works:
            self.messages.add(1, "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (no luck. In f at /x.cpp:1)")
            return False
        count = int(np.prod(self.shape))
        source, to = (
            np.ctypeslib.as_array(ctypes.cast(self.addresses[name], ctypes.POINTER(ctypes.c_float)), (count,))
            for name in ("image", "result")
        )
        self.cuda.on_stream(lambda: np.negative(source, out=to))
        return True


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A plan of any height and width from 1 to 64 on the stub; `open` loads it."""
    shape, messages, cuda = (1, 3, -1, -1), Messages(), StubCuda()
    context = StubContext(shape, messages, cuda)
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: ("image", "result")[index],
        get_tensor_mode=lambda name: "in" if name == "image" else "out",
        get_tensor_dtype=lambda name: "float",
        get_tensor_format=lambda name: "linear",
        is_shape_inference_io=lambda name: False,
        get_tensor_shape=lambda name: shape,
        get_tensor_profile_shape=lambda name, profile: [(1, 3, 1, 1), (1, 3, 8, 8), (1, 3, 64, 64)],
        create_execution_context=lambda: context,
    )
    dtypes = {"FLOAT": "float", "HALF": "half", "UINT8": "u8", "INT8": "i8", "INT32": "i32", "INT64": "i64"}
    trt = SimpleNamespace(
        __version__="10.3.0",
        DataType=SimpleNamespace(**dtypes),
        TensorFormat=SimpleNamespace(LINEAR="linear"),
        TensorIOMode=SimpleNamespace(INPUT="in"),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda content: engine),
    )
    monkeypatch.setattr(nvinfer, "load_library", lambda which: trt)
    monkeypatch.setattr(nvinfer, "make_logger", lambda trt: (None, messages))
    monkeypatch.setattr(nvinfer, "cuda_runtime", lambda: cuda)
    monkeypatch.setattr(nvinfer, "require_gpu", lambda: Gpu(name="Stub", compute_capability="8.7"))
    path = tmp_path / "zebra.plan"
    path.write_bytes(b"ftrt")
    return SimpleNamespace(
        path=path, trt=trt, engine=engine, context=context, cuda=cuda, open=lambda: TensorRtEngine(path, trust=True)
    )


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (1, 3, height, width)).astype(np.float32)


def sidecar(stub, **changes) -> None:
    fields = {
        "plan_sha256": file_sha256(stub.path),
        "onnx": "zebra.onnx",
        "onnx_sha256": "",
        "library": "tensorrt",
        "library_version": "10.3.0",
        "precision": "fp16",
        "gpu": "Orin",
        "compute_capability": "8.7",
        "hardware_compatible": False,
        "version_compatible": False,
        "platform": "linux-aarch64",
        "card": make_card(),
    }
    write_manifest(stub.path, Manifest(**{**fields, **changes}))


def test_stub_pictures_of_all_sizes_run_in_buffers_that_grow_and_are_freed(stub):
    with stub.open() as engine:
        assert engine.card is None
        assert engine.provider == "TensorRT 10.3.0 on Stub"
        assert [str(spec) for spec in (*engine.inputs, *engine.outputs)] == ["float32 1x3x?x?"] * 2
        for size in ((8, 8), (64, 64), (1, 5)):
            picture = image(*size)
            np.testing.assert_array_equal(engine.run(picture), -picture)
        assert sorted(len(block) for block in stub.cuda.memory.values()) == [3 * 64 * 64 * 4] * 2

    assert stub.cuda.memory == stub.cuda.page_locked == stub.cuda.graphs == {}
    assert stub.cuda.streams == 0
    engine.close()


def test_stub_the_second_frame_of_a_size_is_captured_and_the_following_replay_it(stub):
    with stub.open() as engine:
        for seed in range(4):
            picture = np.random.default_rng(seed).uniform(-1, 1, (1, 3, 8, 8)).astype(np.float32)
            np.testing.assert_array_equal(engine.run(picture), -picture)

        assert (stub.cuda.launched, len(stub.cuda.graphs)) == (3, 1)


def test_stub_a_graph_is_never_replayed_for_another_size_nor_in_buffers_that_are_gone(stub):
    with stub.open() as engine:
        for size in ((8, 8), (4, 16), (64, 64), (8, 8)):
            for _ in range(3):
                picture = image(*size)
                np.testing.assert_array_equal(engine.run(picture), -picture)
            assert len(stub.cuda.graphs) == 1

        assert stub.cuda.launched == 8


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaGraphInstantiate", "the model"])
def test_stub_what_cannot_be_captured_runs_all_the_same_and_is_not_tried_again(stub, call, monkeypatch):
    stub.cuda.failing = call
    if call == "the model":
        execute = stub.context.execute_async_v3
        monkeypatch.setattr(
            stub.context, "execute_async_v3", lambda stream_handle: not stub.cuda.capturing and execute(stream_handle)
        )
    captures = []
    begin = stub.cuda._cudaStreamBeginCapture
    monkeypatch.setattr(
        stub.cuda, "_cudaStreamBeginCapture", lambda *given: captures.append(given) or begin(*given), raising=False
    )

    with stub.open() as engine:
        for _ in range(4):
            np.testing.assert_array_equal(engine.run(image(8, 8)), -image(8, 8))

    assert stub.cuda.launched == 0
    assert stub.cuda.capturing is None
    assert len(captures) <= 1


def test_stub_a_failure_in_the_middle_of_a_new_size_does_not_spoil_the_next_frame(stub):
    with stub.open() as engine:
        engine.run(image(8, 8))
        stub.cuda.failing = "cudaHostAlloc"
        with pytest.raises(OutOfMemoryError, match="out of memory"):
            engine.run(image(64, 64))
        stub.cuda.failing = ""

        np.testing.assert_array_equal(engine.run(image(8, 8)), -image(8, 8))
        np.testing.assert_array_equal(engine.run(image(64, 64)), -image(64, 64))


def test_stub_a_result_goes_into_the_array_that_is_given_and_one_of_another_size_is_refused(stub):
    out = np.empty((1, 3, 8, 8), np.float32)

    with stub.open() as engine:
        assert engine.run(image(8, 8), out=out) is out
        np.testing.assert_array_equal(out, -image(8, 8))
        with pytest.raises(ModelError, match=r"output result: expected float32 1x3x4x8, found float32 1x3x8x8"):
            engine.run(image(4, 8), out=out)


def test_stub_warming_up_leaves_nothing_for_the_first_frame_to_prepare(stub):
    with stub.open() as engine:
        engine.warm_up((8, 8))

        assert (stub.cuda.launched, len(stub.cuda.graphs)) == (2, 1)


def test_stub_tensorrt_rtx_captures_graphs_itself(compiling):
    compiling.trt.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    compiling.config.cuda_graph_strategy = "none"

    with TensorRtEngine(compiling.path) as engine:
        for _ in range(3):
            np.testing.assert_array_equal(engine.run(image(8, 8)), -image(8, 8))

    assert (compiling.config.cuda_graph_strategy, compiling.cuda.launched) == ("whole", 0)


def test_stub_a_result_is_the_callers_and_an_array_of_any_layout_is_read_right(stub):
    picture = image(8, 16).transpose(0, 1, 3, 2)

    with stub.open() as engine:
        first = engine.run(picture)
        engine.run(image(4, 4))

    np.testing.assert_array_equal(first, -picture)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (image(65, 8), "expected a shape from 1x3x1x1 to 1x3x64x64, found 1x3x65x8; build the plan for a wider range"),
        (image(8, 8)[0], r"input image: expected float32 1x3x\?x\?, found float32 3x8x8"),
        (image(8, 8).astype(np.float16), r"input image: expected float32 1x3x\?x\?, found float16 1x3x8x8"),
        (image(8, 8)[:, :2], r"input image: expected float32 1x3x\?x\?, found float32 1x2x8x8"),
    ],
)
def test_stub_a_tensor_that_the_plan_was_not_built_for_never_reaches_the_gpu(stub, tensor, message):
    with stub.open() as engine, pytest.raises(ModelError, match=message):
        engine.run(tensor)

    assert stub.context.addresses == {}


def test_stub_a_failed_inference_says_why(stub):
    stub.context.works = False

    with stub.open() as engine, pytest.raises(ModelError, match=r"^zebra.plan: inference failed \(no luck\)$"):
        engine.run(image(8, 8))


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaHostAlloc", "cudaMemcpyAsync", "cudaStreamSynchronize"])
@pytest.mark.fault(33)
def test_stub_a_failed_cuda_call_says_why_and_the_engine_still_closes(stub, call):
    with stub.open() as engine:
        stub.cuda.failing = call
        with pytest.raises(OutOfMemoryError, match=r"^zebra.plan: CUDA failed \(out of memory\)$"):
            engine.run(image(8, 8))

    assert stub.cuda.memory == stub.cuda.page_locked == {}
    assert stub.cuda.streams == 0


@pytest.mark.fault(33)
def test_stub_a_plan_that_does_not_load_or_has_no_room_says_why(stub):
    stub.engine.create_execution_context = lambda: None
    with pytest.raises(OutOfMemoryError, match=r"zebra.plan: no room to run it on Stub"):
        stub.open()

    stub.trt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda content: None)
    with pytest.raises(ModelError, match=r"zebra.plan: TensorRT cannot load it"):
        stub.open()


def test_stub_types_and_layouts_that_numpy_does_not_have_are_refused(stub):
    stub.engine.get_tensor_format = lambda name: "chw32"
    with pytest.raises(ModelError, match="tensor image: expected plain rows of values"):
        stub.open()

    stub.engine.get_tensor_dtype = lambda name: "bf16"
    with pytest.raises(ModelError, match=r"tensor image: expected float32 or .* found bf16"):
        stub.open()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        (
            {"library_version": "10.3.1"},
            "built with TensorRT 10.3.1 for compute capability 8.7, this is 10.3.0; rebuild",
        ),
        ({"library_version": "10.1.0", "version_compatible": True}, None),
        ({"library_version": "10.2.9.post1", "version_compatible": True}, None),
        ({"library_version": "10.3", "version_compatible": True}, None),
        ({"library_version": "9.1.0", "version_compatible": True}, "built with TensorRT 9.1.0"),
        ({"library_version": "11.0.0", "version_compatible": True}, "built with TensorRT 11.0.0"),
        (
            {"library_version": "10.16.1.11", "version_compatible": True},
            "built with TensorRT 10.16.1.11 .*, this is 10.3",
        ),
        (
            {"library_version": "10.3.0.30", "version_compatible": True},
            "built with TensorRT 10.3.0.30 .*, this is 10.3",
        ),
        ({"library_version": "unknown", "version_compatible": True}, "built with TensorRT unknown"),
        ({"library_version": "10.1.0", "onnx": "a b.onnx"}, "rebuild it: i2i-export 'a b.onnx' -o zebra.plan, or try"),
        ({"compute_capability": "8.6"}, "10.3.0 for compute capability 8.6, this is Stub, 8.7; rebuild it: i2i-export"),
        ({"compute_capability": "8.6", "hardware_compatible": True}, None),
        ({"compute_capability": None}, None),
    ],
)
@pytest.mark.fault(32)
def test_stub_a_plan_is_loaded_where_it_was_built_for_only(stub, changes, message):
    sidecar(stub, **changes)

    if message is None:
        with TensorRtEngine(stub.path) as engine:
            assert engine.card == make_card()
        return
    with pytest.raises(ModelError, match=message):
        TensorRtEngine(stub.path)
    stub.open().close()


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (2, DeviceError, r"TensorRT-RTX 10.3.0 cannot run it \(UNSUPPORTED_CC\) on Stub, 8.7; run the .onnx$"),
        (4, DeviceError, r"cannot run it \(OLD_CUDA_DRIVER\) on Stub, 8.7; run the .onnx$"),
        (1, ModelError, r"cannot run it \(VERSION_MISMATCH\); rebuild it from its ONNX file with i2i-export$"),
        (2 | 32, ModelError, r"cannot run it \(UNSUPPORTED_CC, MALFORMED_ENGINE\); rebuild it"),
        (0, ModelError, r"cannot run it \(it does not say why\); rebuild it"),
    ],
)
def test_stub_a_gpu_that_tensorrt_rtx_does_not_run_on_is_no_fault_of_the_plan(stub, flags, error, message):
    names = {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4, "MALFORMED_ENGINE": 32}
    stub.trt.EngineValidity = SimpleNamespace(INVALID=2)
    stub.trt.EngineInvalidityDiagnostics = SimpleNamespace(__members__=names)
    stub.trt.Runtime = lambda logger: SimpleNamespace(
        engine_header_size=4, get_engine_validity=lambda header: (2, flags), deserialize_cuda_engine=pytest.fail
    )

    with pytest.raises(error, match=message):
        stub.open()


def test_stub_a_plan_that_tensorrt_rtx_does_not_load_is_a_device_error(stub):
    stub.path.write_bytes(b"vtrt")
    stub.trt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda content: None)

    with pytest.raises(DeviceError, match=r"zebra.plan: TensorRT-RTX cannot load it on Stub .*; run the .onnx$"):
        stub.open()


class StubRuntimeCache:
    """Keeps what it is given and adds a kernel when it is used."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        self.content = blob
        return True

    def serialize(self) -> bytes:
        return self.content or b"a kernel"


@pytest.fixture
def compiling(stub, tmp_path, monkeypatch):
    """The stub with kernels that are compiled when a context is made; the caches that contexts were made with."""
    monkeypatch.setenv("I2I_CACHE", str(tmp_path / "cache"))
    used: list[StubRuntimeCache] = []

    def set_runtime_cache(cache: StubRuntimeCache) -> bool:
        used.append(cache)
        return True

    config = SimpleNamespace(create_runtime_cache=StubRuntimeCache, set_runtime_cache=set_runtime_cache)
    stub.engine.create_runtime_config = lambda: config
    stub.engine.create_execution_context = lambda given=None: stub.context
    stub.config, stub.used = config, used
    stub.kernels = lambda: sorted((tmp_path / "cache").rglob("*.*"))
    sidecar(stub)
    return stub


def test_stub_kernels_are_compiled_once_and_found_by_the_next_process(compiling):
    with TensorRtEngine(compiling.path) as engine:
        engine.run(image(8, 8))
        assert compiling.kernels() == []
    (kernels,) = compiling.kernels()
    assert (kernels.suffix, kernels.read_bytes()) == (".kernels", b"a kernel")
    assert kernels.parent.stat().st_mode & 0o777 == 0o700
    kernels.write_bytes(b"kernels of an earlier process")

    with TensorRtEngine(compiling.path):
        assert compiling.used[-1].content == b"kernels of an earlier process"
    assert compiling.kernels() == [kernels]


@pytest.mark.parametrize("other", ["GPU", "version", "plan"])
def test_stub_kernels_of_another_kind_are_not_mixed(compiling, monkeypatch, other):
    TensorRtEngine(compiling.path).close()
    if other == "GPU":
        monkeypatch.setattr(nvinfer, "require_gpu", lambda: Gpu(name="Twin", compute_capability="8.7"))
    elif other == "version":
        compiling.trt.__version__ = "10.3.1"
        sidecar(compiling, library_version="10.3.1")
    else:
        compiling.path.write_bytes(b"ftrt other")
        sidecar(compiling)
    TensorRtEngine(compiling.path).close()

    assert [cache.content for cache in compiling.used] == [b"", b""]
    assert len(compiling.kernels()) == 2


def test_stub_a_plan_that_nothing_vouches_for_keeps_no_kernels(compiling):
    manifest_path(compiling.path).unlink()

    compiling.open().close()

    assert (compiling.used, compiling.kernels()) == ([], [])


@pytest.mark.parametrize("trouble", ["no place", "no cache", "refused", "serialize", "tensorrt"])
def test_stub_a_plan_runs_without_kept_kernels_too(compiling, tmp_path, monkeypatch, trouble):
    if trouble == "no place":
        (tmp_path / "cache").write_text("a file where the folder should be")
    elif trouble == "no cache":
        compiling.config.create_runtime_cache = lambda: None
    elif trouble == "refused":
        compiling.config.set_runtime_cache = lambda cache: False
    elif trouble == "serialize":
        monkeypatch.setattr(StubRuntimeCache, "serialize", lambda me: 1 / 0)
    else:
        # TensorRT 10.16 and 11 have such a config, and nothing to cache.
        del compiling.config.create_runtime_cache
    picture = image(8, 8)

    with TensorRtEngine(compiling.path) as engine:
        np.testing.assert_array_equal(engine.run(picture), -picture)

    assert compiling.cuda.memory == {}
    assert compiling.kernels() == []
