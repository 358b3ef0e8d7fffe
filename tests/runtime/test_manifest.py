"""The sidecar of a plan, and which plans may be loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import make_card

from i2i_runtime.digest import file_sha256
from i2i_runtime.engines import manifest as manifest_module
from i2i_runtime.engines.manifest import (
    Manifest,
    ShapeRange,
    check_plan,
    load_plan,
    manifest_path,
    read_manifest,
    write_manifest,
)
from i2i_runtime.errors import ModelError, SinkError

CONTENT = b"vtrt native code"


def make_manifest(content: bytes = CONTENT, **changes) -> Manifest:
    fields = {
        "plan_sha256": hashlib.sha256(content).hexdigest(),
        "onnx": "zebra.onnx",
        "onnx_sha256": "0" * 64,
        "library": "tensorrt",
        "library_version": "10.3.0",
        "precision": "fp16",
        "shapes": (ShapeRange(name="image", smallest=(1, 3, 8, 8), typical=(1, 3, 16, 16), largest=(1, 3, 64, 64)),),
        "gpu": "Orin",
        "compute_capability": "8.7",
        "hardware_compatible": False,
        "version_compatible": True,
        "platform": "linux-aarch64",
        "card": make_card(),
    }
    return Manifest(**{**fields, **changes})


@pytest.fixture
def plan(tmp_path):
    """A plan with the sidecar that belongs to it."""
    path = tmp_path / "zebra.plan"
    path.write_bytes(CONTENT)
    write_manifest(path, make_manifest())
    return path


def test_a_files_digest_is_that_of_its_bytes(plan):
    assert file_sha256(plan) == hashlib.sha256(CONTENT).hexdigest()


def test_what_is_written_is_read_back(plan):
    assert manifest_path(plan).name == "zebra.plan.json"
    assert read_manifest(plan) == make_manifest()


@given(text=st.text(), size=st.tuples(st.integers(1), st.integers(1)))
def test_a_manifest_of_any_texts_and_shapes_survives_json(text, size):
    shape = (1, 3, *size)
    manifest = make_manifest(
        precision=text,
        gpu=None,
        compute_capability=None,
        shapes=(ShapeRange(name=text, smallest=shape, typical=shape, largest=shape),),
        card=None,
    )

    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_plan_without_a_sidecar_has_no_manifest(tmp_path):
    assert read_manifest(tmp_path / "zebra.plan") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected a JSON object, found list"),
        ("{}", "version None is unknown, this i2i reads version 1"),
        ('{"version": 1}', "plan_sha256: missing, expected str"),
        (dataclasses.replace(make_manifest(), library="cutlass").to_json(), "library: expected one of tensorrt, t"),
        (
            make_manifest(onnx="../zebra.onnx").to_json(),
            r"onnx: expected a file name without .* found '\.\./zebra.onnx'; b",
        ),
        (make_manifest(onnx="a\\b").to_json(), r"onnx: expected a file name without a folder and control characters"),
        (make_manifest(onnx="a\nb").to_json(), r"onnx: expected a file name without .*, found 'a\\nb'; build the plan"),
        (make_manifest(onnx="\x1b[2J").to_json(), r"onnx: expected a file name without .*, found '\\x1b\[2J'; build"),
        (make_manifest(onnx="\u2028").to_json(), r"onnx: expected a file name without"),
        (make_manifest(onnx="").to_json(), r"onnx: expected a file name without"),
        (make_manifest(onnx="..").to_json(), r"onnx: expected a file name without"),
        (make_manifest().to_json().replace('"smallest"', '"least"'), "unknown field 'least'"),
    ],
)
def test_a_broken_sidecar_is_one_line_that_names_it(plan, text, message):
    manifest_path(plan).write_text(text)

    with pytest.raises(ModelError, match=message) as raised:
        check_plan(plan)

    assert str(raised.value).startswith(str(manifest_path(plan)))
    assert "\n" not in str(raised.value)


def test_a_sidecar_that_is_no_text_is_one_line(plan):
    manifest_path(plan).write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ModelError, match=r"zebra.plan.json: cannot be read"):
        check_plan(plan)


def test_a_card_in_a_sidecar_is_checked_as_one_in_an_onnx_file_is(plan):
    data = json.loads(make_manifest().to_json())
    data["card"]["output"]["value_range"] = [1.0, 1.0]
    manifest_path(plan).write_text(json.dumps(data))

    with pytest.raises(ModelError, match=r"card.output.value_range: expected two different values"):
        check_plan(plan)


def test_a_plan_as_it_was_built_is_loaded_with_its_manifest(plan):
    assert check_plan(plan) == make_manifest()
    assert load_plan(plan) == (CONTENT, make_manifest())


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"!", b""])
def test_a_plan_that_differs_from_its_sidecar_is_refused_trusted_or_not(plan, content, trust):
    plan.write_bytes(content)

    with pytest.raises(ModelError, match=r"cut off or altered; rebuild it: i2i-export zebra.onnx -o zebra.plan$"):
        check_plan(plan, trust)


@pytest.mark.parametrize(
    ("onnx", "command"),
    [
        ("zèbre 斑马.onnx", "i2i-export 'zèbre 斑马.onnx' -o zebra.plan"),
        ("x; rm -rf ~ #", "i2i-export 'x; rm -rf ~ #' -o zebra.plan"),
        ("$(reboot)'`id`", """i2i-export '$(reboot)'"'"'`id`' -o zebra.plan"""),
        ("--output=x", "i2i-export ./--output=x -o zebra.plan"),
    ],
)
def test_a_name_in_a_command_to_run_is_a_name_to_every_shell(plan, onnx, command):
    write_manifest(plan, make_manifest(onnx=onnx))
    plan.write_bytes(b"altered")

    with pytest.raises(ModelError) as raised:
        check_plan(plan)

    assert str(raised.value).endswith(f"rebuild it: {command}")
    assert shlex.split(command)[1].removeprefix("./") == onnx


def test_a_plan_without_a_sidecar_runs_only_when_trusted(plan):
    manifest_path(plan).unlink()

    with pytest.raises(ModelError, match=r"a plan is native code, and there is no zebra.plan.json .* --trust-engine$"):
        check_plan(plan)
    assert check_plan(plan, trust=True) is None
    assert load_plan(plan, trust=True) == (CONTENT, None)


def test_a_missing_plan_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match=r"zebra.plan: cannot be read \(No such file"):
        check_plan(tmp_path / "zebra.plan", trust=True)


def test_a_pair_that_is_replaced_while_it_is_read_is_read_again(plan, monkeypatch):
    newer = make_manifest(b"newer")
    read = iter([make_manifest(), newer])
    plan.write_bytes(b"newer")
    monkeypatch.setattr(manifest_module, "read_manifest", lambda path: next(read))

    assert load_plan(plan) == (b"newer", newer)


def test_a_sidecar_that_cannot_be_written_is_a_sink_error_and_leaves_the_old_one(plan):
    beside = plan.with_name(".zebra.plan.json.partial")
    beside.mkdir()

    with pytest.raises(SinkError, match=r"zebra.plan.json: cannot write the plan's sidecar"):
        write_manifest(plan, make_manifest(b"newer"))

    assert read_manifest(plan) == make_manifest()
