"""How far predictions lie off: benchmarks/predictor.py, on a profile of a few small students."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import cv2
import pytest
from commands import REPOSITORY, environment, the_error_line
from small_grid import SMALL

from i2i_export.profile import Way, measure
from i2i_trainer.budget.machine import read_profile, write_profile

ENGINE = "ONNX Runtime CPU fp32"


def compared(*arguments) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "predictor.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment())


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    path = tmp_path_factory.mktemp("predictor") / "machine.json"
    write_profile(path, measure([Way(backend="onnxruntime", device="cpu", precision="fp32")], (16, 24), grid=SMALL))
    return path


def test_each_student_is_predicted_and_measured(machine, tmp_path):
    pytest.importorskip("matplotlib")

    done = compared(
        "--machine", machine, "--students", 6, "--json", tmp_path / "found.json", "--plot", tmp_path / "found.png"
    )

    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "found.json").read_text())
    students = figures["students"]
    assert len(students) == 6
    errors = sorted(abs(its["predicted_s"] / its["measured_s"] - 1) for its in students)
    assert figures["summary"][ENGINE]["median"] == pytest.approx((errors[2] + errors[3]) / 2)
    assert read_profile(tmp_path / "found.machine.json") == read_profile(machine)
    assert ENGINE in done.stdout
    assert cv2.imread(str(tmp_path / "found.png")).std() > 0


def test_other_pictures_than_colour_are_refused(machine, tmp_path):
    profile = replace(read_profile(machine), channels=(1, 3))
    write_profile(tmp_path / "grey.json", profile)

    done = compared("--machine", tmp_path / "grey.json")

    assert done.returncode == 2
    assert "is of pictures of 16x24 with 1 to 3 channels, expected 16x24 with 3 to 3" in the_error_line(done)
