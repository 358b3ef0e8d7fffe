"""How long until something happens: benchmarks/startup.py, and what it measures with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import REPOSITORY, environment, the_error_line
from interpreter import python
from onnx_models import make_card, negative_model

from measuring.busy import busy_words
from measuring.environment import environment as machine
from measuring.processes import CommandError, forget, program, run_fresh
from measuring.record import Readings

STEPS = [
    "Python itself",
    "importing i2i_runtime, with NumPy and OpenCV",
    "importing the engine's library",
    "loading and compiling the model",
    "first inference",
]
REST = "all else: warming up, the picture, ending"


def startup(*arguments) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "startup.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment())


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[dict, str]:
    """The JSON file of a short run with a small model, and what was printed."""
    folder = tmp_path_factory.mktemp("startup")
    engine = negative_model(folder / "negative.onnx", make_card())
    finished = startup("--engine", engine, "--rounds", 3, "--json", folder / "startup.json")
    assert finished.returncode == 0, finished.stderr
    return json.loads((folder / "startup.json").read_text()), finished.stdout


def test_bare_python_is_quickest_and_a_picture_takes_longest(measured):
    starts = {start["name"]: start["wall_s"]["p50"] for start in measured[0]["starts"]}
    wholes = [picture["whole"]["wall_s"]["p50"] for picture in measured[0]["first_pictures"]]

    assert min(starts, key=starts.__getitem__) == "python -c pass"
    assert min(wholes) > starts["i2i-run --help"]
    assert starts["from i2i_runtime import Translator"] > starts["import i2i_runtime"]


def test_what_a_command_takes_is_told_over_bare_python(measured):
    bare, *others = measured[0]["starts"]

    assert bare["over_bare_s"] == {"p50": 0.0, "p90": 0.0}
    assert bare["over_bare"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert {start["name"] for start in others} == {
        "import i2i_runtime",
        "from i2i_runtime import Translator",
        "i2i-run --version",
        "i2i-run --help",
        "i2i-train --help",
        "i2i-export --help",
    }
    assert all(0 < start["over_bare_s"]["p50"] < start["wall_s"]["p50"] for start in others)
    assert all(start["over_bare"]["median"] > 1 for start in others)


def test_each_engine_has_the_way_to_its_first_picture(measured):
    pictures = {picture["engine"]: picture for picture in measured[0]["first_pictures"]}

    assert {"ONNX Runtime CPU fp32", "OpenVINO CPU fp32"} <= pictures.keys()
    for picture in pictures.values():
        assert list(picture["wall_s"]) == [*STEPS, "second inference", REST]
        assert all(picture["wall_s"][step]["p50"] > 0 for step in STEPS)


@pytest.mark.skipif(sys.platform == "win32", reason="there the system does not tell")
def test_processor_time_is_told_beside_the_time_on_the_clock(measured):
    starts = measured[0]["starts"]

    assert all(start["cpu_s"]["p50"] > 0 for start in starts)
    assert all(picture["cpu_s"].keys() == picture["wall_s"].keys() for picture in measured[0]["first_pictures"])


def test_goals_are_called_met_or_missed_by_the_figures_in_the_table(measured):
    figures, printed = measured
    starts = {start["name"]: start for start in figures["starts"]}

    assert [goal["name"] for goal in figures["goals"]] == ["i2i-run --help", "import i2i_runtime"]
    for goal in figures["goals"]:
        assert goal["wall_s"] == starts[goal["name"]]["wall_s"]["p50"]
        assert goal["is_met"] == (goal["wall_s"] < 0.3)
        assert goal["is_met_over_bare"] == (goal["over_bare_s"] < 0.3)
        assert f"{goal['name']} in 300 ms: {'met' if goal['is_met'] else 'missed'}, " in printed


def test_the_file_names_the_machine_and_the_command_without_folders(measured):
    machine = measured[0]["environment"]

    assert machine["command"].startswith("python benchmarks/startup.py --engine negative.onnx --rounds 3")
    assert machine["versions"]["numpy"]


def test_a_model_that_does_not_exist_is_one_line():
    finished = startup("--engine", "nowhere.onnx")

    assert finished.returncode == 4
    assert "nowhere.onnx" in the_error_line(finished)


def test_without_pytorch_the_commands_are_timed_and_the_picture_is_left_out(tmp_path):
    script = REPOSITORY / "benchmarks" / "startup.py"
    code = f"""
import runpy, sys
sys.modules["torch"] = None
sys.path.insert(0, {str(script.parent)!r})
sys.argv[0] = "startup.py"
runpy.run_path({str(script)!r}, run_name="__main__")
"""

    finished = python(code, "--rounds", 1, "--json", tmp_path / "startup.json")

    assert finished.returncode == 0, finished.stderr
    figures = json.loads((tmp_path / "startup.json").read_text())
    assert [start["name"] for start in figures["starts"]][:2] == ["python -c pass", "import i2i_runtime"]
    assert figures["first_pictures"] == []
    # What NumPy and others load is known from the way of a picture only.
    assert not figures["is_first_from_disk"]
    assert figures["left_out"] == [
        "the first picture: no torch to make a model with; pip install 'i2i[export]', or give a model: --engine FILE"
    ]


def test_no_rounds_are_refused():
    finished = startup("--rounds", "0")

    assert finished.returncode == 2
    assert "--rounds" in the_error_line(finished)


def test_a_run_is_timed_from_start_to_end():
    finished = run_fresh([sys.executable, "-c", "import time; time.sleep(0.2)"])

    assert finished.wall_s > 0.2


@pytest.mark.skipif(sys.platform == "win32", reason="there the system does not tell")
def test_processor_time_is_that_of_the_one_process():
    busy = "import time\nwhile time.process_time() < 0.3: pass"

    run_fresh([sys.executable, "-c", busy])
    idle = run_fresh([sys.executable, "-c", "import time; time.sleep(0.3)"])

    assert run_fresh([sys.executable, "-c", busy]).cpu_s >= 0.3
    assert idle.cpu_s < 0.3


def test_a_command_that_fails_says_its_last_line():
    with pytest.raises(CommandError, match=r"^python[^ ]* -c .* ended with 3: no pictures$"):
        run_fresh([sys.executable, "-c", "import sys; print('error: no pictures', file=sys.stderr); sys.exit(3)"])


@pytest.mark.parametrize("name", ["i2i-run", "i2i-train", "i2i-export"])
def test_a_program_can_be_started_by_its_name(name):
    done = subprocess.run([*program(name), "--version"], capture_output=True, text=True, env=environment())

    assert done.stdout.startswith(f"{name}, version ")


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="tells what came from the disk")
def test_what_was_dropped_from_memory_is_read_from_the_disk_again(tmp_path):
    file = tmp_path / "large"
    file.write_bytes(os.urandom(8 << 20))
    code = [sys.executable, "-c", f"open({str(file)!r}, 'rb').read()"]
    assert forget([str(file)])
    if _is_in_memory(tmp_path):
        pytest.skip("this folder is no disk")

    first, again = run_fresh(code), run_fresh(code)

    assert first.read_mib >= 8
    assert again.read_mib < 8


def _is_in_memory(folder: Path) -> bool:
    kinds = {line.split()[1]: line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    mount = max((each for each in kinds if folder.is_relative_to(each)), key=len)
    return kinds[mount] in ("tmpfs", "ramfs")


def test_files_that_cannot_be_opened_are_passed_over(tmp_path):
    assert forget([str(tmp_path / "nowhere")]) == hasattr(os, "posix_fadvise")


@pytest.mark.parametrize(("elsewhere", "stolen"), [(0.2, None), (0.06, 0.06), (None, 0.3)])
def test_a_machine_that_others_use_is_called_busy(elsewhere, stolen):
    readings = [Readings(), Readings(busy_elsewhere=elsewhere, stolen=stolen), Readings(busy_elsewhere=0.01)]

    assert "CPU time meanwhile" in busy_words(machine(["startup.py"]), readings)


def test_a_machine_that_was_busy_before_is_quiet_if_nobody_used_it_meanwhile():
    quiet = [Readings(busy_elsewhere=0.05, stolen=0.01)]

    assert busy_words(replace(machine(["startup.py"]), load_before=2.0), quiet) is None


@pytest.mark.parametrize(("load", "is_busy"), [(None, False), (0.2, False), (0.5, True)])
def test_the_load_before_counts_where_nothing_else_is_known(load, is_busy):
    found = busy_words(replace(machine(["startup.py"]), load_before=load), [Readings()])

    assert (found is not None) == is_busy
