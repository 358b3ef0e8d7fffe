"""ONNX files become plans in the real TensorRT-RTX, which builds without a GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper
from onnx_models import make_card, negative_model, save
from plans import RANGE, conv_model, needs_no_gpu, needs_rtx, rtx_plan

from i2i_runtime.engines import build, nvinfer
from i2i_runtime.engines.build import BuildOptions, build_plan
from i2i_runtime.engines.manifest import Manifest, check_plan, manifest_path, read_manifest
from i2i_runtime.engines.nvinfer import Gpu, gpu, load_library
from i2i_runtime.errors import DeviceError, ModelError, SinkError, UsageError

pytestmark = needs_rtx


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("I2I_CACHE", str(folder))
    return folder


@pytest.fixture
def model(tmp_path):
    return conv_model(tmp_path / "zebra.onnx")


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("engines/*.plan"))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if "partial" in path.name]


@pytest.mark.parametrize(
    ("half", "size", "shapes"),
    [
        pytest.param(False, (16, 24), (), id="fp32"),
        pytest.param(True, (16, 24), (), id="fp16"),
        pytest.param(False, None, (RANGE,), id="fp32 of any size"),
        pytest.param(True, None, (RANGE,), id="fp16 of any size"),
    ],
)
def test_a_plan_is_built_with_the_sidecar_that_belongs_to_it(tmp_path, half, size, shapes):
    path = conv_model(tmp_path / "zebra.onnx", size, half=half)
    precision, card = "fp16" if half else "fp32", make_card(size)

    report = rtx_plan(path, shapes=shapes, precision=precision, card=card)

    plan = tmp_path / "zebra.plan"
    here = gpu()
    assert plan.read_bytes().startswith(b"vtrt")
    assert check_plan(plan) == report.manifest
    assert report.manifest == Manifest(
        plan_sha256=hashlib.sha256(plan.read_bytes()).hexdigest(),
        onnx="zebra.onnx",
        onnx_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        library="tensorrt_rtx",
        library_version=load_library("tensorrt_rtx").__version__,
        precision=precision,
        shapes=shapes,
        gpu=here.name if here else None,
        compute_capability=None,
        hardware_compatible=False,
        version_compatible=False,
        platform=build.this_platform(),
        card=card,
        build_seconds=report.manifest.build_seconds,
    )
    assert report.manifest.build_seconds
    assert report.notes == ()
    assert not report.from_cache
    assert report.seconds > 0
    assert leftovers(tmp_path) == []


def test_half_the_precision_is_half_the_weights(tmp_path):
    sizes = []
    for half in (False, True):
        dtype, kind = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
        weight = onnx.numpy_helper.from_array(np.ones((256, 256, 3, 3), dtype), "weight")
        node = onnx.helper.make_node("Conv", ["image", "weight"], ["result"], pads=[1, 1, 1, 1])
        tensor = [("image", kind, [1, 256, 16, 16])], [("result", kind, [1, 256, 16, 16])]
        path = save(tmp_path / f"{half}.onnx", [node], *tensor, [weight])
        rtx_plan(path)
        sizes.append(path.with_suffix(".plan").stat().st_size)

    assert sizes[0] - sizes[1] > 0.9 * 256 * 256 * 9 * 2


def test_a_graph_with_pictures_at_both_ends_is_built(tmp_path):
    path = negative_model(tmp_path / "model.onnx", make_card(graph_io="uint8"))

    assert rtx_plan(path).manifest.plan_sha256


def test_a_second_build_of_the_same_model_comes_from_the_cache(tmp_path, model, cache):
    first = rtx_plan(model)
    again = rtx_plan(model, tmp_path / "again.engine")

    assert again.from_cache
    assert again.manifest == first.manifest
    assert (tmp_path / "again.engine").read_bytes() == (tmp_path / "zebra.plan").read_bytes()
    assert check_plan(tmp_path / "again.engine") == first.manifest
    assert len(entries(cache)) == 1
    assert cache.joinpath("engines").stat().st_mode & 0o777 == 0o700


def test_a_plan_from_the_cache_is_a_copy_and_no_second_name(tmp_path, model, cache):
    rtx_plan(model)
    (entry,) = entries(cache)

    assert entry.stat().st_nlink == 1
    assert (tmp_path / "zebra.plan").stat().st_nlink == 1


def test_the_card_and_the_name_are_the_callers_not_the_cached_ones(tmp_path, model):
    rtx_plan(model)
    other = conv_model(tmp_path / "horse.onnx")
    assert other.read_bytes() == model.read_bytes()

    report = rtx_plan(other, card=None)

    assert report.from_cache
    assert (report.manifest.card, report.manifest.onnx) == (None, "horse.onnx")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"options": BuildOptions(optimization_level=1)}, id="another level"),
        pytest.param({"options": BuildOptions(workspace_mib=64)}, id="another workspace"),
        pytest.param({"precision": "fp16"}, id="another precision"),
        pytest.param({"use_cache": False}, id="no cache"),
        pytest.param(
            {"shapes": (dataclasses.replace(RANGE, largest=(1, 3, 64, 64)),)}, id="another range"
        ),
    ],
)  # fmt: skip
def test_another_kind_of_build_is_not_answered_from_the_cache(tmp_path, change):
    path = conv_model(tmp_path / "zebra.onnx", None)
    rtx_plan(path, shapes=(RANGE,))

    assert not rtx_plan(path, **{"shapes": (RANGE,), **change}).from_cache


def test_another_model_is_not_answered_from_the_cache(tmp_path, model):
    rtx_plan(model)
    conv_model(model, seed=1)

    assert not rtx_plan(model).from_cache


def test_a_plan_of_an_older_recipe_is_built_again(model, monkeypatch):
    # Not `undo`, which would give up the cache of this test, too.
    with monkeypatch.context() as older:
        older.setattr(build, "_RECIPE", build._RECIPE - 1)
        rtx_plan(model)

    assert not rtx_plan(model).from_cache
    assert rtx_plan(model).from_cache


def test_a_model_that_is_swapped_after_it_was_read_has_no_part_in_the_plan(model, monkeypatch):
    content = model.read_bytes()

    def swap_and_load(which: str) -> object:
        model.write_bytes(b"I am another file")
        return load_library(which)

    monkeypatch.setattr(nvinfer, "load_library", swap_and_load)

    report = rtx_plan(model)

    assert report.manifest.onnx_sha256 == hashlib.sha256(content).hexdigest()
    assert check_plan(model.with_suffix(".plan")) == report.manifest


def test_a_file_beyond_what_protobuf_holds_is_not_read(tmp_path):
    path = tmp_path / "zebra.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 31)

    with pytest.raises(ModelError, match=r"zebra.onnx: expected an ONNX file of less than 2 GiB, found 2048 MiB"):
        rtx_plan(path)


@pytest.mark.parametrize("name", ["a\\b.onnx", "a\nb.onnx", "a\x1b[2J.onnx", "\udcff.onnx"])
def test_a_name_that_no_sidecar_may_hold_is_one_line_before_the_build(tmp_path, model, name):
    path = model.rename(tmp_path / name)

    with pytest.raises(UsageError, match=r"expected a name without backslashes and control characters") as raised:
        rtx_plan(path, tmp_path / "zebra.plan", on_progress=lambda *step: pytest.fail("it was built"))

    assert str(raised.value).isprintable()
    assert str(raised.value).isascii()


@pytest.mark.parametrize("damage", ["cut", "altered", "no sidecar", "broken sidecar", "no plan"])
def test_a_damaged_entry_of_the_cache_is_built_again(model, cache, damage):
    first = rtx_plan(model)
    (entry,) = entries(cache)
    content = entry.read_bytes()
    if damage == "cut":
        entry.write_bytes(content[:-1])
    elif damage == "altered":
        entry.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "no sidecar":
        manifest_path(entry).unlink()
    elif damage == "broken sidecar":
        manifest_path(entry).write_text("{")
    else:
        entry.unlink()

    again = rtx_plan(model)

    assert not again.from_cache
    assert check_plan(model.with_suffix(".plan")) == again.manifest
    assert check_plan(entry) == again.manifest
    assert again.manifest.onnx_sha256 == first.manifest.onnx_sha256
    assert rtx_plan(model).from_cache


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(model, cache):
    cache.write_text("a file where the folder should be")

    assert not rtx_plan(model).from_cache
    assert check_plan(model.with_suffix(".plan"))


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"I2I_CACHE": "/a"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/i2i"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/c"}, "/c/.cache/i2i"),
        ({"HOME": "/c"}, "/c/.cache/i2i"),
    ],
)
def test_the_cache_lies_where_the_environment_says(monkeypatch, variables, folder):
    for name in ("I2I_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert nvinfer.cache_folder() == Path(folder) / "engines"


def test_weights_beside_the_model_are_built_in_and_never_cached(tmp_path, cache):
    path = conv_model(tmp_path / "zebra.onnx")
    proto = onnx.load(path)
    external_data_helper.convert_model_to_external_data(proto, location="weights.bin", size_threshold=0)
    onnx.save(proto, path)

    assert not rtx_plan(path).from_cache
    assert not rtx_plan(path).from_cache
    assert entries(cache) == []


def test_progress_is_told_from_nothing_to_all(model):
    told: list[tuple[str, int, int]] = []

    rtx_plan(model, on_progress=lambda *step: told.append(step))

    phases = {phase for phase, *_ in told}
    assert "Building engine" in phases
    for phase in phases:
        steps = [(done, total) for name, done, total in told if name == phase]
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1]
        assert all(done <= total for done, total in steps)


def test_an_exception_of_the_progress_ends_the_build_and_keeps_the_old_plan(model):
    rtx_plan(model)
    plan = model.with_suffix(".plan")
    old = plan.read_bytes()
    conv_model(model, seed=1)

    def fail(*step: object) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        rtx_plan(model, on_progress=fail)

    assert plan.read_bytes() == old
    assert check_plan(plan)


def test_ctrl_c_ends_a_build(model):
    def interrupt(*step):
        """What Python's handler of the signal does while our code runs between two steps of the builder."""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rtx_plan(model, on_progress=interrupt)

    assert not model.with_suffix(".plan").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an ONNX model, found one without outputs"),
        (b"I am not a model\n" * 9, "the ONNX parser refuses it .*Failed to parse the ONNX model"),
        (None, "no such ONNX file"),
    ],
)
def test_a_file_that_is_no_onnx_model_is_one_line_that_names_it(tmp_path, content, message):
    path = tmp_path / "zebra.onnx"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ModelError, match=message) as raised:
        rtx_plan(path)

    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    assert not path.with_suffix(".plan").exists()


def test_a_layer_that_the_library_does_not_know_is_named(tmp_path):
    tensors = [[(name, TensorProto.FLOAT, [1, 3, 8, 8])] for name in ("image", "result")]
    node = onnx.helper.make_node("Mystery", ["image"], ["result"], name="the_odd_one")

    with pytest.raises(ModelError, match=r"the ONNX parser refuses it .Mystery: .*Plugin not found") as raised:
        rtx_plan(save(tmp_path / "zebra.onnx", [node], *tensors))

    assert "\n" not in str(raised.value)


def test_types_that_do_not_agree_are_refused_because_the_graph_is_strongly_typed(tmp_path):
    tensors = [("image", TensorProto.FLOAT, [1, 3, 8, 8])], [("result", TensorProto.FLOAT, [1, 3, 8, 8])]
    half = onnx.numpy_helper.from_array(np.ones(1, np.float16), "half")
    node = onnx.helper.make_node("Mul", ["image", "half"], ["result"])

    with pytest.raises(ModelError, match=r"zebra.onnx: the (plan cannot be built|ONNX parser refuses it)") as raised:
        rtx_plan(save(tmp_path / "zebra.onnx", [node], *tensors, [half]))

    assert "\n" not in str(raised.value)


def with_range(**changes):
    return (dataclasses.replace(RANGE, **changes),)


@pytest.mark.parametrize(
    ("size", "shapes", "message"),
    [
        (None, (), r"input image is 1x3x\?x\?; expected its smallest, typical and largest shape"),
        (None, with_range(name="picture"), r"a shape range for picture; expected one of its inputs: image"),
        (None, with_range(largest=(1, 3, 8, 8)), r"expected smallest <= typical <= largest, found 1x3x8x8, 1x3x16x16"),
        (None, with_range(smallest=(3, 8, 8)), r"the smallest shape is 3x8x8, which does not fit 1x3x\?x\?"),
        (None, with_range(typical=(1, 4, 8, 8)), r"the typical shape is 1x4x8x8, which does not fit 1x3x\?x\?"),
        (None, with_range(smallest=(1, 3, 0, 8)), r"the smallest shape is 1x3x0x8, which does not fit"),
        ((16, 24), (RANGE,), r"the smallest shape is 1x3x8x8, which does not fit 1x3x16x24"),
    ],
)
def test_a_shape_range_that_does_not_fit_the_model_is_a_usage_error(tmp_path, size, shapes, message):
    path = conv_model(tmp_path / "zebra.onnx", size)

    with pytest.raises(UsageError, match=message) as raised:
        rtx_plan(path, shapes=shapes)

    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(hardware_compatible=True), "TensorRT-RTX does not have hardware compatibility: "),
        (BuildOptions(version_compatible=True), "TensorRT-RTX does not have version compatibility: "),
        (BuildOptions(timing_cache=Path("t.cache")), "TensorRT-RTX does not have a timing cache: "),
        (BuildOptions(optimization_level=6), "optimization level: expected 0 to 5, found 6"),
        (BuildOptions(workspace_mib=0), "workspace: expected at least 1 MiB, found 0"),
    ],
)
def test_an_option_that_cannot_be_kept_is_refused_and_not_ignored(model, options, message):
    with pytest.raises(UsageError, match=message):
        rtx_plan(model, options=options)


def test_a_plan_may_not_be_written_over_its_model(model):
    with pytest.raises(UsageError, match=r"zebra.onnx: expected a name that ends in .plan or .engine"):
        rtx_plan(model, model)


def test_a_folder_that_is_not_there_is_told_before_the_build(tmp_path, model):
    with pytest.raises(SinkError, match=r"zebra.plan: no such folder: .*none"):
        rtx_plan(model, tmp_path / "none" / "zebra.plan", on_progress=lambda *step: pytest.fail("it was built"))


@pytest.mark.parametrize("step", ["open", "sidecar", "plan"])
def test_a_disk_that_fails_leaves_the_old_plan_and_its_sidecar(tmp_path, model, monkeypatch, step):
    rtx_plan(model)
    plan = model.with_suffix(".plan")
    old = plan.read_bytes(), read_manifest(plan)
    conv_model(model, seed=1)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "open":
        (tmp_path / ".zebra.plan.partial").mkdir()
    else:
        failing = "zebra.plan" if step == "plan" else "zebra.plan.json"
        replace = Path.replace
        monkeypatch.setattr(Path, "replace", lambda me, to: full() if to.name == failing else replace(me, to))

    with pytest.raises(SinkError, match=r"zebra.plan.*: cannot write the plan"):
        rtx_plan(model, use_cache=False)

    monkeypatch.undo()
    assert (plan.read_bytes(), read_manifest(plan)) == old
    assert check_plan(plan)
    if step != "open":
        assert leftovers(tmp_path) == []


def test_a_first_build_that_fails_leaves_no_sidecar_alone(tmp_path, model, monkeypatch):
    replace = Path.replace

    def fail_at_the_plan(me: Path, to: Path) -> Path:
        if to.name == "zebra.plan":
            raise OSError(28, "No space left on device")
        return replace(me, to)

    monkeypatch.setattr(Path, "replace", fail_at_the_plan)

    with pytest.raises(SinkError, match=r"zebra.plan: cannot write the plan \(No space left on device\)"):
        rtx_plan(model, use_cache=False)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["zebra.onnx"]


@pytest.fixture
def as_tensorrt(model, monkeypatch):
    """Builds as for TensorRT, with TensorRT-RTX in its place: its timing caches are real and empty."""
    monkeypatch.setitem(sys.modules, "tensorrt", load_library("tensorrt_rtx"))
    monkeypatch.setattr(nvinfer, "require_gpu", lambda: Gpu(name="Stub", compute_capability="8.7"))

    def build_as_tensorrt(timing_cache: Path, **options: object) -> build.BuildReport:
        return build_plan(
            model,
            model.with_suffix(".plan"),
            "tensorrt",
            card=None,
            precision="fp32",
            options=BuildOptions(timing_cache=timing_cache),
            **options,
        )

    return build_as_tensorrt


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
@pytest.mark.parametrize("content", [None, b"", b"I am no timing cache"])
def test_a_timing_cache_is_written_after_the_build(tmp_path, as_tensorrt, content):
    path = tmp_path / "kernels.cache"
    if content is not None:
        path.write_bytes(content)

    report = as_tensorrt(path)

    assert report.notes == ()
    assert path.read_bytes() not in (content, b"")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("prepare", "error", "message"),
    [
        (lambda path: path.mkdir(), UsageError, "cannot read the timing cache (Is a directory)"),
        (lambda path: path.parent.rmdir(), SinkError, "cannot write the timing cache (No such file or directory)"),
    ],
)
def test_a_timing_cache_without_a_place_is_told_before_the_build(tmp_path, as_tensorrt, prepare, error, message):
    path = tmp_path / "folder" / "kernels.cache"
    path.parent.mkdir()
    prepare(path)

    with pytest.raises(error) as raised:
        as_tensorrt(path, on_progress=lambda *step: pytest.fail("it was built"))

    assert str(raised.value) == f"{path}: {message}; name another file, or leave it out"


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_a_timing_cache_that_fails_after_the_build_leaves_the_build_good(tmp_path, model, as_tensorrt):
    path = tmp_path / "folder" / "kernels.cache"
    path.parent.mkdir()

    def remove_the_folder(*step: object) -> None:
        if path.parent.exists():
            path.parent.rmdir()

    report = as_tensorrt(path, on_progress=remove_the_folder)

    assert report.notes == (
        f"{path}: cannot write the timing cache (No such file or directory); "
        "the plan is good, the next build times its kernels anew",
    )
    assert check_plan(model.with_suffix(".plan")) == report.manifest


def test_a_sidecar_holds_no_local_path(tmp_path, model):
    rtx_plan(model)

    text = manifest_path(model.with_suffix(".plan")).read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["library"] == "tensorrt_rtx"


@needs_no_gpu
def test_tensorrt_without_a_gpu_says_where_to_build(model, monkeypatch):
    # Stands for an installed TensorRT: what is tested comes before its first use.
    monkeypatch.setitem(sys.modules, "tensorrt", load_library("tensorrt_rtx"))

    with pytest.raises(DeviceError) as raised:
        build_plan(model, model.with_suffix(".plan"), "tensorrt", card=None, precision="fp32")

    assert str(raised.value).startswith("TensorRT builds for the GPU of this machine and there is none (")
    assert str(raised.value).endswith("; on the device run: i2i-export zebra.onnx -o zebra.plan")


def test_a_library_that_is_not_installed_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)

    with pytest.raises(ModelError, match=r"TensorRT-RTX cannot be loaded \(.*\); pip install 'i2i\[tensorrt-rtx\]'"):
        rtx_plan(model)
    with pytest.raises(
        ModelError, match=r"TensorRT cannot be loaded \(.*\); a Jetson has it from JetPack .*pip install"
    ):
        build_plan(model, model.with_suffix(".plan"), "tensorrt", card=None, precision="fp32")
