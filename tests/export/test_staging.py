"""What was good stays: several files are moved as one, and nobody else's file is written over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import here, the_error_line
from onnx import TensorProto, helper, numpy_helper
from untrained import save_untrained

from i2i_export.staging import move_into_place, staging
from i2i_export.targets import require
from i2i_runtime.errors import SinkError


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)


def test_all_files_are_moved_and_the_folder_beside_is_gone(tmp_path):
    write(tmp_path, a_plan="old")

    with staging(tmp_path / "a.plan") as folder:
        write(folder, a_plan="new", a_plan_json="new")
        move_into_place(folder, tmp_path / "a.plan")

    assert contents(tmp_path) == {"a.plan": "new", "a.plan.json": "new"}


def test_if_one_file_cannot_be_moved_all_stay_as_they_were(tmp_path, monkeypatch):
    """An engine that runs cannot be replaced on Windows: its sidecar must not be another's then."""
    write(tmp_path, a_plan="old", a_plan_json="old")
    replace = Path.replace

    def refuse_the_plan(path, target):
        if path.name == "a.plan" and path.read_text() == "new":
            raise PermissionError(13, "in use")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse_the_plan)

    def export():
        with staging(tmp_path / "a.plan") as folder:
            write(folder, a_plan="new", a_plan_json="new", a_parity_png="new")
            move_into_place(folder, tmp_path / "a.plan")

    with pytest.raises(SinkError, match=r"a\.plan: cannot be written"):
        export()

    assert contents(tmp_path) == {"a.plan": "old", "a.plan.json": "old"}


def test_a_folder_in_the_outputs_place_is_found_before_the_work(tmp_path):
    (tmp_path / "model.onnx").mkdir()

    finished = here("i2i-export", save_untrained(tmp_path / "last.pt"), "-o", tmp_path / "model.onnx")

    assert finished.returncode == 5
    assert "expected a file or nothing, found a folder" in the_error_line(finished)
    assert "exporting" not in finished.stderr


def test_weights_of_something_else_are_not_written_over(tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO's models have their weights in a second file")
    write(tmp_path, model_bin="precious")

    finished = here("i2i-export", save_untrained(tmp_path / "last.pt"), "-o", tmp_path / "model.xml")

    assert finished.returncode == 5
    assert "model.bin: it holds something else than an earlier export" in the_error_line(finished)
    assert (tmp_path / "model.bin").read_text() == "precious"


def test_an_earlier_export_is_written_over(tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO's models have their weights in a second file")
    write(tmp_path, model_bin="old", model_xml="old")

    require("openvino", tmp_path / "model.xml")


def test_the_weights_of_the_model_itself_are_not_written_over(tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO's models have their weights in a second file")
    weights = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "w")
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 4, 4])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, [1, 3, 4, 4])
    graph = helper.make_graph([helper.make_node("Mul", ["image", "w"], ["result"])], "g", [value], [result], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.bin", size_threshold=0)
    write(tmp_path, model_xml="an earlier export")
    before = (tmp_path / "model.bin").read_bytes()

    finished = here("i2i-export", tmp_path / "model.onnx", "-o", tmp_path / "model.xml")

    assert finished.returncode == 5
    assert (tmp_path / "model.bin").read_bytes() == before
