"""Runs the real commands as a user would, in processes of their own."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

MODULES = {
    "i2i-train": "i2i_trainer",
    "i2i-eval": "i2i_trainer.eval_cli",
    "i2i-export": "i2i_export",
    "i2i-run": "i2i_runtime",
}
_ENTRY_POINTS = {
    "i2i-train": "i2i_trainer.cli",
    "i2i-eval": "i2i_trainer.eval_cli",
    "i2i-export": "i2i_export.cli",
    "i2i-run": "i2i_runtime.cli",
}


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


def here(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """As `run`, with the program's entry point in this process: without the seconds that imports take."""
    main = importlib.import_module(_ENTRY_POINTS[program]).main
    line = [program, *map(str, arguments)]
    said, complained = io.StringIO(), io.StringIO()
    argv, on_sigterm = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv, code = line, 0
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, on_sigterm)
    return subprocess.CompletedProcess(line, code, said.getvalue(), complained.getvalue())


def start(program: str, *arguments: object, **options) -> subprocess.Popen[str]:
    """Start a command that the test will signal."""
    return subprocess.Popen(
        command_line(program, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        stdin=subprocess.DEVNULL,
        **options,
    )


def the_error_line(finished: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed command may say about its error."""
    assert "Traceback" not in finished.stderr, finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, finished.stderr
    assert finished.stderr.rstrip().endswith(lines[0]), finished.stderr
    return lines[0]
