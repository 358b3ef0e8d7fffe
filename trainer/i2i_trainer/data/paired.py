"""Paired pictures, side by side in one file or matched by name in two folders."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch.utils.data
from torch import Tensor

from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Image
from i2i_runtime.image import list_images, read_image
from i2i_trainer.data.transforms import Preprocess

_LAYOUTS = "DIR/train/*.jpg with A|B side by side, or DIR/trainA and DIR/trainB with equal names"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Where one pair lies: one file for both halves, or two."""

    a: Path
    b: Path | None = None
    """None where `a` holds A and B side by side."""

    def read(self) -> tuple[Image, Image]:
        """The two images, of one size.

        Raises:
            SourceError: unreadable, or sizes that do not match.
        """
        first = read_image(self.a)
        if self.b is None:
            width = first.shape[1]
            if width % 2:
                raise SourceError(f"{self.a}: expected A|B side by side, found an odd width of {width} pixels")
            return first[:, : width // 2], first[:, width // 2 :]
        second = read_image(self.b)
        if first.shape != second.shape:
            raise SourceError(
                f"{self.a}: expected a pair of one size, found {first.shape[1]}x{first.shape[0]} here and "
                f"{second.shape[1]}x{second.shape[0]} in {self.b}"
            )
        return first, second


def find_pairs(root: Path, splits: Sequence[str]) -> list[Pair]:
    """The pairs of the first of `splits` that `root` has.

    Args:
        root: the data folder.
        splits: names of a part, for example `train`, or "" for pictures directly in `root`.

    Returns:
        Pairs in natural order; empty where there is no such split.

    Raises:
        SourceError: no such folder, or two folders whose names do not match.
    """
    if not root.is_dir():
        raise SourceError(f"{root}: no such data folder; expected {_LAYOUTS}")
    for split in splits:
        for a, b in (
            (f"{split}A", f"{split}B"),
            (Path(split, "A"), Path(split, "B")),
            (Path("A", split), Path("B", split)),
        ):
            if (root / a).is_dir() and (root / b).is_dir():
                return _match(root / a, root / b)
        if (root / split).is_dir() and (side_by_side := list_images(root / split)):
            return [Pair(a=path) for path in side_by_side]
    return []


def _match(folder_a: Path, folder_b: Path) -> list[Pair]:
    by_stem_a, by_stem_b = _by_stem(folder_a), _by_stem(folder_b)
    alone = sorted(by_stem_a.keys() ^ by_stem_b.keys())
    if alone:
        raise SourceError(
            f"{folder_a} and {folder_b}: expected pictures with equal names, found {len(by_stem_a)} and "
            f"{len(by_stem_b)}; {len(alone)} have no partner, for example {', '.join(alone[:3])}"
        )
    return [Pair(a=path, b=by_stem_b[stem]) for stem, path in by_stem_a.items()]


def _by_stem(folder: Path) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in by_stem:
            raise SourceError(f"{folder}: expected one picture a name, found {by_stem[path.stem].name} and {path.name}")
        by_stem[path.stem] = path
    return by_stem


def check_pairs(root: Path, pairs: list[Pair], *, skip_unreadable: bool) -> list[Pair]:
    """Read every pair once before hours of training depend on it.

    Returns:
        The pairs that can be used.

    Raises:
        SourceError: no pairs at all, or unusable ones and not `skip_unreadable`.
    """
    if not pairs:
        raise SourceError(f"{root}: no training pictures; expected {_LAYOUTS}")
    with ThreadPoolExecutor() as threads:
        problems = list(threads.map(_problem, pairs))
    broken = [problem for problem in problems if problem is not None]
    if broken and not skip_unreadable:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise SourceError(f"{broken[0]}{more}; mend or delete it, or train with --skip-unreadable")
    usable = [pair for pair, problem in zip(pairs, problems, strict=True) if problem is None]
    if not usable:
        raise SourceError(f"{root}: none of {len(pairs)} training pairs can be used; the first: {broken[0]}")
    return usable


def _problem(pair: Pair) -> str | None:
    try:
        pair.read()
    except SourceError as error:
        return str(error)
    return None


class PairedDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor] | SourceError]):
    """Pairs as (input, target) tensors.

    An item is asked for by (epoch, index): its crop and flip depend on these and the seed alone, so they are the same
    in any process and after a resume.
    """

    def __init__(
        self, pairs: list[Pair], preprocess: Preprocess, direction: Literal["AtoB", "BtoA"], seed: int
    ) -> None:
        self.pairs = pairs
        self._preprocess = preprocess
        self._direction = direction
        self._seed = seed

    def _images(self, index: int) -> tuple[Image, Image]:
        a, b = self.pairs[index].read()
        return (a, b) if self._direction == "AtoB" else (b, a)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor] | SourceError:
        """An error is handed over as a value: torch would rewrap it, with a traceback inside its message."""
        epoch, index = key
        try:
            images = self._images(index)
        except SourceError as error:
            return error
        rng = np.random.default_rng((self._seed, epoch, index))
        source, target = self._preprocess.random(images, rng)
        return source, target

    def fixed(self, index: int) -> tuple[Tensor, Tensor]:
        """The whole pair, without crop or flip.

        Raises:
            SourceError: it cannot be read.
        """
        source, target = self._preprocess.fixed(self._images(index))
        return source, target
