"""`python benchmarks/scaling.py` with real exports and engines."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from commands import REPOSITORY, environment, the_error_line
from interpreter import python
from untrained import save_untrained

pytest.importorskip("openvino", reason="one of the engines")
from measuring.untrained import save_untrained_checkpoint, untrained_card

matplotlib = pytest.importorskip("matplotlib", reason="draws the curves")
ENGINES = {"ONNX Runtime CPU", "OpenVINO CPU"}


def scaling(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, REPOSITORY / "benchmarks" / "scaling.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=500, env=environment())


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[dict, str, Path]:
    """All curves of a small generator: JSON, what was printed, and the report's folder."""
    folder = tmp_path_factory.mktemp("scaling")
    checkpoint = save_untrained(folder / "best.pt", "resnet_1blocks", size=(64, 64))
    finished = scaling(
        "--checkpoint", checkpoint, "--short", "--sizes", "512,64", "--batch", "1,4", "--threads", "1,2",
        "--widths", "2,64", "--json", folder / "a.json", "--report", folder / "report",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return json.loads((folder / "a.json").read_text()), finished.stdout, folder / "report"


def curves(measured, kind) -> list[dict]:
    return [curve for curve in measured[0]["curves"] if curve["kind"] == kind]


@pytest.mark.slow
def test_every_engine_runs_a_graph_of_free_sizes_and_graphs_of_fixed_ones(measured):
    found = {(curve["engine"], curve["graph"]) for curve in curves(measured, "latency")}

    assert found == {(engine, graph) for engine in ENGINES for graph in ("dynamic", "static")}


@pytest.mark.slow
def test_64_times_the_pixels_take_longer_and_need_more_memory(measured):
    for kind in ("latency", "memory"):
        for curve in curves(measured, kind):
            small, large = curve["points"]
            assert (small["label"], large["label"]) == ("64x64", "512x512")
            assert large["y"] > small["y"]


@pytest.mark.slow
def test_latency_has_the_exponent_of_its_rounds(measured):
    for curve in curves(measured, "latency"):
        small, large = curve["points"]
        times = [two / one for one, two in zip(small["rounds"], large["rounds"], strict=True)]
        assert 64 ** curve["law"]["exponent"] == pytest.approx(statistics.median(times), rel=1e-6)
        assert curve["law"]["low"] <= curve["law"]["exponent"] <= curve["law"]["high"]


@pytest.mark.slow
def test_each_point_holds_its_rounds(measured):
    for curve in curves(measured, "latency"):
        for point in curve["points"]:
            assert len(point["rounds"]) == 5
            assert (point["low"], point["high"]) == (min(point["rounds"]), max(point["rounds"]))


@pytest.mark.slow
def test_throughput_counts_the_pictures_of_a_batch(measured):
    assert {curve["engine"] for curve in curves(measured, "throughput")} == ENGINES
    for curve in curves(measured, "throughput"):
        single = next(
            point
            for other in curves(measured, "latency")
            for point in other["points"]
            if (other["engine"], other["graph"], point["label"]) == (curve["engine"], "dynamic", "64x64")
        )
        assert [point["x"] for point in curve["points"]] == [1, 4]
        # It is the same contestant.
        assert curve["points"][0]["y"] == pytest.approx(1 / single["y"])


@pytest.mark.slow
def test_efficiency_is_against_one_thread(measured):
    assert {curve["engine"] for curve in curves(measured, "efficiency")} == ENGINES
    for curve in curves(measured, "efficiency"):
        assert [point["x"] for point in curve["points"]] == [1, 2]
        assert curve["points"][0]["rounds"] == pytest.approx([1] * 5)


@pytest.mark.slow
def test_a_wider_generator_has_more_parameters_and_a_longer_proof(measured):
    by_step = {curve["engine"]: curve["points"] for curve in curves(measured, "export")}

    assert {"export to ONNX", "proof"} <= by_step.keys()
    narrow, wide = by_step["proof"]
    # The widths differ by 32, and parameters grow with the square of it, nearly.
    assert wide["x"] > 500 * narrow["x"]
    assert wide["y"] > narrow["y"]
    assert all(point["y"] > 0 for points in by_step.values() for point in points)


@pytest.mark.slow
def test_the_build_of_a_plan_is_timed_where_its_library_is_installed(measured):
    pytest.importorskip("tensorrt_rtx_bindings")

    (curve,) = [curve for curve in curves(measured, "export") if curve["engine"] == "TensorRT-RTX build"]
    assert len(curve["points"]) == 2


@pytest.mark.slow
def test_what_the_curves_say_is_printed_and_kept(measured):
    figures, printed, _ = measured

    assert any(re.search(r"latency grows as pixels\^\d\.\d\d \(", line) for line in figures["findings"])
    for line in figures["findings"]:
        assert line in printed
    assert not figures["left_out"] or all(line in printed for line in figures["left_out"])


@pytest.mark.slow
def test_the_file_names_machine_and_command(measured):
    machine = measured[0]["environment"]

    assert machine["command"].startswith("python benchmarks/scaling.py --checkpoint best.pt --short --sizes 512,64")
    assert machine["versions"]["onnxruntime"]


@pytest.mark.slow
def test_the_report_has_a_plot_and_a_table_of_each_kind(measured):
    folder = measured[2]
    page = (folder / "scaling.md").read_text()

    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    assert len(pictures) == 5
    assert all((folder / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert len(re.findall(r"(?m)^\| --- \| ---: ", page)) == 5
    assert str(folder) not in page


@pytest.mark.slow
def test_a_width_that_cannot_be_exported_is_left_out_and_the_others_are_kept(tmp_path):
    checkpoint = save_untrained_checkpoint(tmp_path / "best.pt", untrained_card("local", 4, (64, 64)))

    finished = scaling(
        "--checkpoint", checkpoint, "--short", "--curves", "export", "--widths", "3,4", "--json", tmp_path / "a.json"
    )

    assert finished.returncode == 0, finished.stderr
    figures = json.loads((tmp_path / "a.json").read_text())
    assert {len(curve["points"]) for curve in figures["curves"]} == {1}
    assert [line for line in figures["left_out"] if line.startswith("export of local, ngf 3: ")]


@pytest.mark.slow
def test_one_kind_alone_can_be_asked_for(tmp_path):
    checkpoint = save_untrained(tmp_path / "best.pt", "resnet_1blocks", size=(32, 32))

    finished = scaling(
        "--checkpoint", checkpoint, "--short", "--curves", "batch", "--sizes", "32", "--batch", "1,2",
        "--json", tmp_path / "a.json",
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr
    assert {curve["kind"] for curve in json.loads((tmp_path / "a.json").read_text())["curves"]} == {"throughput"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--curves", "pixels,colour"], 2, "expected some of pixels,batch,threads,export; found colour"),
        (["--batch", "0"], 2, "expected numbers from 1 on"),
        (["--checkpoint", "nowhere.pt"], 4, "nowhere.pt"),
        (["--report", __file__], 2, "expected a folder for the report, found a file"),
    ],
)
def test_a_mistake_is_one_line(arguments, code, said):
    finished = scaling(*arguments)

    assert finished.returncode == code
    assert said in the_error_line(finished)


def test_without_pytorch_one_line_says_what_to_install():
    script = REPOSITORY / "benchmarks" / "scaling.py"
    code = f"""
import runpy, sys
sys.modules["torch"] = None
sys.path.insert(0, {str(script.parent)!r})
runpy.run_path({str(script)!r}, run_name="__main__")
"""

    finished = python(code)

    assert finished.returncode == 2
    assert the_error_line(finished) == (
        "error: scaling.py exports models itself, and torch is missing; pip install 'i2i[export]'"
    )


def test_a_size_that_the_model_does_not_take_is_one_line(tmp_path):
    checkpoint = save_untrained(tmp_path / "best.pt", "resnet_1blocks", size=(32, 32))

    finished = scaling("--checkpoint", checkpoint, "--sizes", "32,33")

    assert finished.returncode == 2
    assert "multiples of 4 from 8 on; found 33x33" in the_error_line(finished)
