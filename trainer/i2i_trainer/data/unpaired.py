"""Unpaired pictures: a folder of domain A and a folder of domain B, of any two lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from i2i_runtime.errors import SourceError
from i2i_trainer.data.paired import list_rasters, two_folders

UNPAIRED_LAYOUTS = "DIR/trainA and DIR/trainB (also train/A, A/train), with any pictures in them"


def find_domains(root: Path, splits: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The pictures of A and of B of the first of `splits` that `root` has; two empty lists where there is none.

    Raises:
        SourceError: no such folder, or one of the two is empty.
    """
    if not root.is_dir():
        raise SourceError(f"{root}: no such data folder; expected {UNPAIRED_LAYOUTS}")
    for split in splits:
        if folders := two_folders(root, split):
            a, b = (list_rasters(folder) for folder in folders)
            for folder, files in zip(folders, (a, b), strict=True):
                if not files:
                    raise SourceError(f"{folder}: expected pictures of one domain, found none")
            return a, b
    return [], []
