"""What is in a data folder, and what is wrong with it, before a training depends on it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from i2i_runtime.errors import SourceError
from i2i_runtime.image import read_ids
from i2i_trainer.data.paired import list_rasters, match, read_labels, two_folders
from i2i_trainer.data.rasters import Raster, read_raster

SPLITS = ("train", "val", "test")
_LABEL_PARTS = ("label", "inst", "img")


@dataclass(kw_only=True)
class Part:
    """The pictures of one folder of a split."""

    name: str
    count: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(height, width) to number of pictures."""
    ids: set[int] = field(default_factory=set)
    """Of label maps, the classes that occur."""
    problems: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Report:
    """All that was found."""

    layout: str
    parts: list[Part]
    problems: list[str] = field(default_factory=list)
    """What is wrong with the folders together: partners missing, sizes that differ, copies in train and test."""

    @property
    def all_problems(self) -> list[str]:
        """Every problem, those of single pictures first."""
        return [*(problem for part in self.parts for problem in part.problems), *self.problems]


@dataclass(frozen=True)
class _Picture:
    digest: str
    size: tuple[int, int] | None
    ids: frozenset[int] = frozenset()
    problem: str | None = None


def check_data(
    root: Path,
    *,
    label_nc: int = 0,
    channels: tuple[int, int] = (3, 3),
    unpaired: bool = False,
    on_picture: Callable[[], None] = lambda: None,
) -> Report:
    """Read every picture of a data folder and compare the folders.

    Args:
        root: a folder in any of the layouts that a training takes.
        label_nc: classes of label maps; 0 takes their ids as they come.
        channels: of the pictures of A and of B.
        unpaired: whether A and B are two sets without pairs, so that their names and sizes may differ.
        on_picture: called after each picture, from any thread.

    Raises:
        SourceError: no such folder, or none of the layouts in it.
    """
    if not root.is_dir():
        raise SourceError(f"{root}: no such data folder")
    folders = dict(_folders(root))
    if not folders:
        raise SourceError(
            f"{root}: expected train/, trainA/ and trainB/, or train_label/ and train_img/; found "
            f"{', '.join(sorted(p.name for p in root.iterdir())[:8]) or 'nothing'}"
        )
    pictures: dict[str, dict[Path, _Picture]] = {}
    parts = []
    with ThreadPoolExecutor() as threads:
        for name, folder in folders.items():

            def read(path: Path, name: str = name) -> _Picture:
                picture = _read(path, name, label_nc, channels)
                on_picture()
                return picture

            files = list_rasters(folder)
            pictures[name] = dict(zip(files, threads.map(read, files), strict=True))
            parts.append(_part(name, pictures[name]))
    report = Report(layout=_layout(folders, unpaired), parts=parts)
    if not unpaired:
        report.problems += [*_missing(root, folders), *_unmatched(folders, pictures)]
    report.problems += _copies(pictures)
    return report


def count_pictures(root: Path) -> int:
    """How many pictures `check_data` will read."""
    return sum(len(list_rasters(folder)) for _, folder in _folders(root)) if root.is_dir() else 0


def _folders(root: Path) -> Iterator[tuple[str, Path]]:
    found = list(_folders_of_splits(root))
    yield from found or ([("train", root)] if list_rasters(root) else [])


def _folders_of_splits(root: Path) -> Iterator[tuple[str, Path]]:
    for split in SPLITS:
        if both := two_folders(root, split):
            yield from zip((f"{split}A", f"{split}B"), both, strict=True)
        elif (root / split).is_dir():
            yield split, root / split
        for part in _LABEL_PARTS:
            if (root / f"{split}_{part}").is_dir():
                yield f"{split}_{part}", root / f"{split}_{part}"


def _layout(folders: dict[str, Path], unpaired: bool) -> str:
    if any("_" in name for name in folders):
        return "label maps"
    if any(name in SPLITS for name in folders):
        return "A|B side by side"
    return "unpaired folders" if unpaired else "paired folders"


def _read(path: Path, part: str, label_nc: int, channels: tuple[int, int]) -> _Picture:
    digest = ""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        raster: Raster
        ids: frozenset[int] = frozenset()
        if part.endswith("_label"):
            raster = read_labels(path, label_nc) if label_nc else read_ids(path)
            ids = frozenset(np.unique(raster).tolist())
        else:
            raster = (
                read_ids(path) if part.endswith("_inst") else read_raster(path, channels[part.endswith(("B", "_img"))])
            )
    except (OSError, SourceError) as error:
        return _Picture(digest, None, problem=str(error))
    height, width = raster.shape[:2]
    if part in SPLITS and width % 2:
        return _Picture(digest, None, problem=f"{path}: expected A|B side by side, found an odd width of {width}")
    return _Picture(digest, (height, width), ids)


def _part(name: str, pictures: dict[Path, _Picture]) -> Part:
    part = Part(name=name, count=len(pictures))
    for picture in pictures.values():
        if picture.size is not None:
            part.sizes[picture.size] += 1
        part.ids |= picture.ids
        if picture.problem is not None:
            part.problems.append(picture.problem)
    if not pictures:
        part.problems.append(f"{name}: the folder holds no pictures")
    return part


def _missing(root: Path, folders: dict[str, Path]) -> Iterator[str]:
    """Folders without which label maps cannot be trained on. A test part may have no photographs: it can be run."""
    has_instances = any(name.endswith("_inst") for name in folders)
    for split in SPLITS:
        if f"{split}_label" not in folders:
            continue
        if split == "train" and f"{split}_img" not in folders:
            yield f"{root / f'{split}_img'}: expected the photographs of {split}_label, found no such folder"
        if has_instances and f"{split}_inst" not in folders:
            yield f"{root / f'{split}_inst'}: expected instance maps as in the other parts, found no such folder"


def _unmatched(folders: dict[str, Path], pictures: dict[str, dict[Path, _Picture]]) -> Iterator[str]:
    """Partners that are missing, and pairs of two sizes."""
    for split in SPLITS:
        for first, second in (
            (f"{split}A", f"{split}B"),
            (f"{split}_label", f"{split}_img"),
            (f"{split}_label", f"{split}_inst"),
        ):
            if first not in folders or second not in folders:
                continue
            try:
                pairs = match(folders[first], folders[second])
            except SourceError as error:
                yield str(error)
                continue
            for pair in pairs:
                assert pair.b is not None
                sizes = pictures[first][pair.a].size, pictures[second][pair.b].size
                if None not in sizes and sizes[0] != sizes[1]:
                    shown = " and ".join(f"{size[1]}x{size[0]}" for size in sizes if size)
                    yield f"{pair.a}: expected a pair of one size, found {shown} in {pair.b}"


def _copies(pictures: dict[str, dict[Path, _Picture]]) -> Iterator[str]:
    """Pictures of which a training part and a held-out part have the same file: a test on them is none."""
    places: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for name, files in pictures.items():
        split = next(split for split in SPLITS if name.startswith(split))
        what = name.removeprefix(split)
        if what == "_inst":
            continue  # two streets without cars have the same instance map
        for path, picture in files.items():
            if picture.digest:
                places[what, picture.digest].setdefault(split, path)
    for where in places.values():
        if "train" in where and len(where) > 1:
            other = next(path for split, path in where.items() if split != "train")
            yield f"{other}: the same file as {where['train']}, so it is no test of what was learnt"
