"""Runs a piece of Python in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from commands import environment


def python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `code` to its end; its `sys.argv[1:]` are the `arguments`."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), **options)
