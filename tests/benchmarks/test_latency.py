"""`python benchmarks/latency.py` from a checkpoint to table, JSON and report, with real engines."""

from __future__ import annotations

import subprocess
import sys

import pytest
from commands import REPOSITORY, environment, run, the_error_line
from untrained import save_untrained, save_untrained_labels

from measuring.record import read_record

pytest.importorskip("openvino", reason="one of the backends")
SHORT = ("--starts", "2", "--rounds", "2", "--seconds", "0.05", "--warm-up", "0.5")


def latency(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, REPOSITORY / "benchmarks" / "latency.py", *arguments]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=500, env=environment() | {"COLUMNS": "140"}
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of everything but torch.compile, which takes minutes on a busy machine."""
    folder = tmp_path_factory.mktemp("latency")
    checkpoint = save_untrained(folder / "best.pt", size=(64, 64))
    finished = latency(
        "--checkpoint", checkpoint, "--backends", "torch,onnxruntime,openvino", "--batch", "1,2", *SHORT,
        "--json", folder / "a.json", "--report", folder / "report",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return finished, read_record(folder / "a.json"), folder


def test_every_way_is_measured(measured):
    _, record, _ = measured

    measured_rows = {(row.backend, row.precision, row.batch) for row in record.rows}
    assert {(name, "fp32", batch) for name in ("torch", "onnxruntime", "openvino") for batch in (1, 2)} <= measured_rows
    # Random weights may not survive INT8; then it says so.
    assert ("onnxruntime", "int8", 1) in measured_rows or any(line.startswith("int8") for line in record.left_out)
    assert all(row.failure is None and len(row.turns) == 2 and len(row.load_s) == 2 for row in record.rows)


def test_the_yardstick_has_a_turn_in_each_round(measured):
    _, record, _ = measured

    # Of each batch, which are measured one after the other.
    assert {turn.round for turn in record.yardstick} == {0, 1, 2, 3}


def test_quality_stands_beside_speed(measured):
    _, record, _ = measured

    for row in record.rows:
        if row.backend == "torch":
            assert row.quality is None
        else:
            assert row.quality is not None
            assert row.quality.against == "PyTorch eager CPU fp32"
            assert row.quality.psnr_db > (80 if row.precision == "fp32" else 20)
            assert row.quality.ssim is not None


def test_operations_peaks_and_the_share_of_them_that_is_reached(measured):
    _, record, _ = measured

    assert [(work.size, work.batch) for work in record.workloads] == [((64, 64), 1), ((64, 64), 2)]
    single, double = record.workloads
    assert double.macs == 2 * single.macs
    assert {peak.what for peak in record.peaks} >= {"gemm", "copy"}
    assert all(row.roof is not None and row.roof.percent_of_roof > 0 for row in record.rows)


def test_memory_and_the_machine_are_read(measured):
    _, record, _ = measured

    assert all(row.host_mib is not None and row.host_mib > 10 for row in record.rows)
    assert record.environment.cores >= 1
    assert record.environment.versions["onnxruntime"]


def test_the_terminal_shows_the_table_the_advice_and_where_the_files_are(measured):
    finished, record, folder = measured

    assert "ONNX Runtime" in finished.stdout
    assert any(line in " ".join(finished.stdout.split()) for line in record.advice)
    assert f"figures: {folder / 'a.json'}" in finished.stdout
    assert f"report: {folder / 'report' / 'report.md'}" in finished.stdout


def test_the_report_has_pictures(measured):
    _, _, folder = measured

    report = (folder / "report" / "report.md").read_text()

    pictures = list((folder / "report").glob("*.png"))
    assert len(pictures) >= 3
    assert all(picture.name in report for picture in pictures)


def test_nothing_of_this_machine_but_what_it_is_goes_into_the_files(measured):
    _, _, folder = measured

    for file in (folder / "a.json", folder / "report" / "report.md"):
        assert str(folder) not in file.read_text()
        assert str(REPOSITORY) not in file.read_text()


@pytest.mark.slow
def test_a_model_of_label_maps_is_measured_too(tmp_path):
    checkpoint = save_untrained_labels(tmp_path / "town.pt")

    finished = latency(
        "--checkpoint", checkpoint, "--backends", "torch,onnxruntime", "--precisions", "fp32", *SHORT,
        "--json", tmp_path / "a.json",
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr
    torch_row, ort_row = read_record(tmp_path / "a.json").rows
    assert torch_row.failure is None
    assert ort_row.quality is not None
    assert ort_row.quality.psnr_db > 80


@pytest.mark.slow
def test_an_engine_file_is_measured_without_its_checkpoint(tmp_path):
    engine = tmp_path / "model.onnx"
    assert run("i2i-export", save_untrained(tmp_path / "best.pt"), "-o", engine).returncode == 0

    finished = latency("--engine", engine, "--backends", "onnxruntime,openvino", *SHORT, "--json", tmp_path / "a.json")

    assert finished.returncode == 0, finished.stderr
    rows = read_record(tmp_path / "a.json").rows
    by_way = {(row.backend, row.precision): row for row in rows}
    assert by_way.keys() >= {("onnxruntime", "fp32"), ("openvino", "fp32")}
    quality = by_way["openvino", "fp32"].quality
    assert quality is not None
    assert quality.against == "ONNX Runtime CPU fp32"


def test_it_works_without_torch_onnx_and_matplotlib(tmp_path):
    engine = tmp_path / "model.onnx"
    assert run("i2i-export", save_untrained(tmp_path / "best.pt"), "-o", engine).returncode == 0
    # Of an edge box: found by every process that is started, before anything else.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('torch', 'onnx', 'matplotlib', 'pynvml', 'psutil'):\n    sys.modules[name] = None\n"
    )
    command = [sys.executable, REPOSITORY / "benchmarks" / "latency.py", "--engine", engine, *SHORT]
    extra = ["--json", tmp_path / "a.json", "--report", tmp_path / "report"]
    paths = environment()
    paths["PYTHONPATH"] = f"{tmp_path}:{paths['PYTHONPATH']}"

    finished = subprocess.run([*command, *extra], capture_output=True, text=True, timeout=300, env=paths)

    assert finished.returncode == 0, finished.stderr
    record = read_record(tmp_path / "a.json")
    assert {(row.backend, row.precision) for row in record.rows} >= {("onnxruntime", "fp32"), ("openvino", "fp32")}
    assert not any(row.failure for row in record.rows)
    assert (tmp_path / "report" / "report.md").is_file()
    said = " ".join(record.left_out)
    assert "PyTorch" in said
    assert "onnx counts the operations" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "expected --checkpoint, --engine or both"),
        (("--untrained", "resnet"), "expected NAME:NGF[:SIZE]"),
        (("--untrained", "perceptron:64"), "perceptron"),
        (("--untrained", "resnet_9blocks:8", "--rounds", "2"), "--rounds 2: expected at least one for each"),
        (("--engine", "nothing.onnx"), "nothing.onnx: no such"),
        (("--checkpoint", "nothing.pt"), "nothing.pt"),
        (("--engine", "nothing.onnx", "--json", f"{__file__}/a.json"), "choose another output"),
        (("--checkpoint", "best.pt", "--batch", "0"), "expected numbers from 1 on"),
        (("--checkpoint", "best.pt", "--precisions", "fp8"), "expected some of fp32,fp16,bf16,int8"),
    ],
)
def test_a_mistake_is_one_line(arguments, expected):
    finished = latency(*arguments)

    assert finished.returncode in (2, 4, 5)
    assert expected in the_error_line(finished)
