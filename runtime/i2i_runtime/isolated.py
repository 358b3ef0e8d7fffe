"""Python in a process of its own that finds the same modules as this one, and none that lie about."""

from __future__ import annotations

import json
import sys

_SAME_MODULES = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "


def isolated_python(code: str, *arguments: str) -> list[str]:
    """The command that runs `code` with `arguments` as its `sys.argv[1:]`.

    `python -c` and `python -m` look for modules in the current folder first: an `av.py` that a user keeps beside his
    videos would be run. Here modules come from where this process has its own; `code` has `sys` already.
    """
    return [sys.executable, "-I", "-c", _SAME_MODULES + code, json.dumps(sys.path), *arguments]
