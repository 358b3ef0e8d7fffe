"""Every generator in every precision, static and dynamic, through the whole export: benchmarks/export_table.py."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from commands import REPOSITORY, environment

pytest.importorskip("tensorrt_rtx_bindings", reason="the plans are built with TensorRT-RTX")

GENERATORS = ["unet_128", "unet_256", "resnet_6", "resnet_9", "hd_global", "hd_local x1", "hd_local x2"]


def table(tmp_path, *arguments: str, timeout: float) -> dict[tuple[str, str, str], dict]:
    target = tmp_path / "table.json"
    command = [sys.executable, REPOSITORY / "benchmarks" / "export_table.py", "--json", target, *arguments]
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment() | {"COLUMNS": "140"}
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows = json.loads(target.read_text())["rows"]
    return {(row["generator"], row["precision"], row["sizes"]): row for row in rows}


def assert_right(rows, is_full: bool) -> None:
    assert set(rows) == {
        (generator, precision, sizes)
        for generator in GENERATORS
        for precision in ("fp32", "fp16", "int8")
        for sizes in ("static", "dynamic")
    }
    for (generator, precision, sizes), row in rows.items():
        which = f"{generator} {precision} {sizes}: {row}"
        if precision == "fp32":
            assert row["onnx_runtime_db"] >= 80 if is_full and "hd" in generator else row["max_abs"] <= 1e-4, which
        elif precision == "fp16":
            assert row["emulated_db"] >= 45, which
            assert row["onnx_mb"] < 0.6 * rows[generator, "fp32", sizes]["onnx_mb"], which
        else:
            assert row["onnx_runtime_db"] >= 35, which
            assert row["onnx_mb"] < 0.95 * rows[generator, "fp32", sizes]["onnx_mb"], which
        assert row["plan_mb"] > 0, which


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_small_widths_export_and_build(tmp_path):
    assert_right(table(tmp_path, timeout=900), is_full=False)


@pytest.mark.slow
@pytest.mark.timeout(14400)
def test_the_papers_widths_export_and_build(tmp_path):
    assert_right(table(tmp_path, "--full", timeout=14400), is_full=True)
