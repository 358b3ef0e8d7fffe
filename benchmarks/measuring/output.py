"""Files that a benchmark writes: tried before anything is measured, and whole or not there at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from i2i_runtime.errors import SinkError, system_reason
from i2i_runtime.image import make_folder


def check_output(path: Path | None) -> None:
    """See that a file can be written, before minutes of measuring; nothing to see of None.

    Raises:
        SinkError: it cannot.
    """
    if path is None:
        return
    make_folder(path.parent)
    if path.is_dir():
        raise SinkError(f"{path}: expected a file to write, found a folder; choose another output")


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Write what JSON can say; see `write_output`."""
    write_output(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_output(path: Path, text: str) -> None:
    """Write a file beside `path`, whose folder is made, and move it into place.

    Raises:
        SinkError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise SinkError(f"{path}: cannot be written ({system_reason(error)}); choose another output") from error
