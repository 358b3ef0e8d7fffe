"""The small files of /proc and /sys: any may be missing, forbidden, or say something else than it should."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def read_text(path: Path) -> str | None:
    """Its text without the blanks and zero bytes at its ends; None where it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            found = file.readall()
    except OSError:
        return None
    # A sensor that is switched off may answer "try again": Python's answer to that is None, against its annotation.
    text: bytes | None = found
    return text.decode("utf-8", "replace").strip("\0 \n\t") if text is not None else None


def read_number(path: Path) -> float | None:
    """Its number; None where it cannot be read or holds something else."""
    try:
        # Some say their unit after the number.
        return float((read_text(path) or "").split(maxsplit=1)[0])
    except (IndexError, ValueError):
        return None


def read_numbers(paths: Iterable[Path]) -> list[float]:
    """Of those files that can be read."""
    return [number for number in map(read_number, paths) if number is not None]


def in_order(paths: Iterable[Path]) -> list[Path]:
    """With `cpu2` before `cpu10`."""
    return sorted(paths, key=lambda path: [int(part) if part.isdigit() else part for part in _parts(path)])


def _parts(path: Path) -> list[str]:
    return re.split(r"(\d+)", str(path))
