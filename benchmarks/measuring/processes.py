"""What a command costs from its start to its end, in a fresh process each time."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from i2i_runtime.errors import I2IError

_BLOCK = 512
"""Bytes that Linux counts reading from disk in, whatever the disk's blocks are."""
_MODULES = {"i2i-run": "i2i_runtime", "i2i-train": "i2i_trainer", "i2i-export": "i2i_export"}


class CommandError(I2IError):
    """A command failed; its text is one line for a person."""


class Finished(NamedTuple):
    """One run."""

    wall_s: float
    cpu_s: float | None
    """Of the process and its children, in user and kernel mode; None where the system does not tell."""
    read_mib: float | None
    """Read from disk; what was in memory already does not count."""


def program(name: str) -> list[str]:
    """How to start `i2i-run` and its like: the script beside this Python, or else `python -m`."""
    script = shutil.which(name, path=sysconfig.get_path("scripts"))
    return [script] if script is not None else [sys.executable, "-m", _MODULES[name]]


def run_fresh(command: Sequence[str]) -> Finished:
    """Run a command to its end; what it prints goes nowhere.

    Raises:
        CommandError: it did not end with 0.
    """
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        finished = _wait(process, began)
        if process.returncode != 0:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            said = lines[-1].removeprefix("error: ") if lines else "it does not say why"
            name = shlex.join([Path(command[0]).name, *command[1:]])
            raise CommandError(f"{name} ended with {process.returncode}: {said}")
    return finished


def _wait(process: subprocess.Popen[bytes], began: float) -> Finished:
    if sys.platform == "win32":
        process.wait()
        return Finished(time.perf_counter() - began, None, None)
    # Tells of this child alone what `resource.getrusage` tells of all children together.
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    read_mib = usage.ru_inblock * _BLOCK / 2**20 if sys.platform == "linux" else None
    return Finished(wall_s, usage.ru_utime + usage.ru_stime, read_mib)


def forget(files: Iterable[str]) -> bool:
    """Ask the system to drop what it holds of files in memory, so that they are read from disk once more.

    It keeps what processes have mapped, such as the libraries of the Python that runs this.

    Returns:
        Whether this system can be asked.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    # What is not on the disk yet cannot be dropped.
    os.sync()
    for file in files:
        try:
            number = os.open(file, os.O_RDONLY)
        except OSError:
            continue
        try:
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(number)
    return True
