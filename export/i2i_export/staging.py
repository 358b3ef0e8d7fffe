"""The files of one export: written all or none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i2i_runtime.errors import SinkError, system_reason
from i2i_runtime.image import make_folder


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A folder beside the output, so that its files can be moved in one step each; gone in the end."""
    make_folder(output.parent)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.stem}.", suffix=".partial", dir=output.parent))
    try:
        yield folder
    except OSError as error:
        raise SinkError(f"{output}: cannot be written ({system_reason(error)})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into_place(folder: Path, output: Path) -> None:
    """Move what the staging folder holds to where `output` is; if one file cannot be moved all stays as it was."""
    before = folder / "before"
    before.mkdir()
    # What the file's name stands for comes last: whoever sees it sees what belongs to it, too.
    moves = [(path, output.parent / path.name) for path in folder.iterdir() if path != before]
    moves.sort(key=lambda move: move[1].name == output.name)
    moved: list[Path] = []
    try:
        for path, target in moves:
            if target.exists():
                target.replace(before / target.name)
            moved.append(target)
            path.replace(target)
    except OSError:
        for target in moved:
            target.unlink(missing_ok=True)
            if (before / target.name).exists():
                (before / target.name).replace(target)
        raise


def parts(path: Path) -> list[Path]:
    """The files that make a model: OpenVINO has its weights in a second one."""
    return [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]
