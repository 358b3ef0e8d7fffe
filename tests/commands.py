"""Runs the real commands as a user would, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

MODULES = {"i2i-train": "i2i_trainer", "i2i-export": "i2i_export", "i2i-run": "i2i_runtime"}


def command_line(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", MODULES[program], *map(str, arguments)]


def environment() -> dict[str, str]:
    """The packages of this checkout, whether or not they are installed."""
    folders = [str(REPOSITORY / part) for part in ("runtime", "trainer", "export")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}


def run(program: str, *arguments: object, timeout: float = 300, **options) -> subprocess.CompletedProcess[str]:
    """Run `i2i-train`, `i2i-export` or `i2i-run` to its end."""
    return subprocess.run(
        command_line(program, *arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        stdin=subprocess.DEVNULL,
        **options,
    )


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a command that the test will signal."""
    return subprocess.Popen(
        command_line(program, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        stdin=subprocess.DEVNULL,
    )


def the_error_line(finished: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed command may say about its error."""
    assert "Traceback" not in finished.stderr, finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, finished.stderr
    assert finished.stderr.rstrip().endswith(lines[0]), finished.stderr
    return lines[0]
