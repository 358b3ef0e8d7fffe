"""Paired pictures: side by side in one file, matched by name in two folders, or label maps with their photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from i2i_runtime.errors import SourceError
from i2i_runtime.image import list_images, read_ids, without_common_ending
from i2i_trainer.data.rasters import Raster, read_raster

PAIRED_LAYOUTS = "DIR/train/*.jpg with A|B side by side, or DIR/trainA and DIR/trainB with equal names"
LABEL_LAYOUTS = "DIR/train_label, DIR/train_img and, for edges between objects, DIR/train_inst"


@dataclass(frozen=True, kw_only=True)
class Channels:
    """What the pictures of a pair hold."""

    a: int = 3
    b: int = 3
    labels: int = 0
    """Classes of the label maps that stand in A's place; 0 where A is a picture."""
    instances: bool = False
    """Whether label maps come with instance maps."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Where one pair lies: one file for both halves, or two."""

    a: Path
    b: Path | None = None
    """None where `a` holds A and B side by side."""
    instances: Path | None = None
    """Instance ids that belong to the label map `a`."""

    @property
    def paths(self) -> list[Path]:
        """Its files."""
        return [path for path in (self.a, self.b, self.instances) if path is not None]

    def read(self, channels: Channels) -> dict[str, Raster]:
        """The rasters `A`, `B` and, where there are any, `instances`, of one size.

        Raises:
            SourceError: unreadable, sizes that do not match, or label ids out of range.
        """
        if self.b is None:
            both = read_raster(self.a, channels.a)
            width = both.shape[1]
            if channels.a != channels.b or channels.labels:
                raise SourceError(f"{self.a}: A|B in one file have the same channels; use folders trainA and trainB")
            if width % 2:
                raise SourceError(f"{self.a}: expected A|B side by side, found an odd width of {width} pixels")
            return {"A": both[:, : width // 2], "B": both[:, width // 2 :]}
        rasters = {
            "A": read_labels(self.a, channels.labels) if channels.labels else read_raster(self.a, channels.a),
            "B": read_raster(self.b, channels.b),
        }
        if self.instances is not None and channels.instances:
            rasters["instances"] = read_ids(self.instances)
        (height, width), *_ = (raster.shape[:2] for raster in rasters.values())
        for path, raster in zip(self.paths, rasters.values(), strict=False):
            if raster.shape[:2] != (height, width):
                raise SourceError(
                    f"{self.a}: expected a pair of one size, found {width}x{height} here and "
                    f"{raster.shape[1]}x{raster.shape[0]} in {path}"
                )
        return rasters


def read_labels(path: Path, count: int) -> Raster:
    """Read a label map and check its ids.

    Raises:
        SourceError: unreadable, or an id that is no class.
    """
    ids = read_ids(path)
    if int(ids.max()) >= count:
        raise SourceError(
            f"{path}: expected label ids 0 to {count - 1}, found {int(ids.max())} "
            f"({np.count_nonzero(ids >= count) / ids.size:.1%} of the pixels are out of range); "
            "--label-nc says how many classes there are"
        )
    return ids


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
    _require_folder(root, PAIRED_LAYOUTS)
    for split in splits:
        if folders := two_folders(root, split):
            return match(*folders)
        if (root / split).is_dir() and (side_by_side := list_rasters(root / split)):
            return [Pair(a=path) for path in side_by_side]
    return []


def find_labelled(root: Path, splits: Sequence[str], *, instances: bool) -> list[Pair]:
    """The label maps with photographs (and instance maps) of the first of `splits` that `root` has them for.

    Raises:
        SourceError: no such folder, or folders whose names do not match.
    """
    _require_folder(root, LABEL_LAYOUTS)
    for split in splits:
        labels, images, ids = (root / f"{split}_{part}" for part in ("label", "img", "inst"))
        if not (labels.is_dir() and images.is_dir()):
            continue
        pairs = match(labels, images)
        if not instances:
            return pairs
        if not ids.is_dir():
            raise SourceError(f"{ids}: expected instance maps beside {labels.name}; add them, or use --no-instances")
        with_ids = {pair.a: pair.b for pair in match(labels, ids)}
        return [Pair(a=pair.a, b=pair.b, instances=with_ids[pair.a]) for pair in pairs]
    return []


def two_folders(root: Path, split: str) -> tuple[Path, Path] | None:
    """Folders of A and of B for a split: `trainA trainB`, `train/A train/B` or `A/train B/train`."""
    for a, b in (
        (f"{split}A", f"{split}B"),
        (Path(split, "A"), Path(split, "B")),
        (Path("A", split), Path("B", split)),
    ):
        if (root / a).is_dir() and (root / b).is_dir():
            return root / a, root / b
    return None


def list_rasters(folder: Path) -> list[Path]:
    """The files directly in `folder` that can be training pictures, in the order a person would count them."""
    return list_images(folder, also=(".npy",))


def _require_folder(root: Path, layouts: str) -> None:
    if not root.is_dir():
        raise SourceError(f"{root}: no such data folder; expected {layouts}")


def match(folder_a: Path, folder_b: Path) -> list[Pair]:
    """Pairs of equal names; an ending that all names of a folder share (`_labelIds`, `_A`) does not count."""
    names_a, names_b = _by_name(folder_a), _by_name(folder_b)
    if len(names_a) == len(names_b) == 1:
        return [Pair(a=a, b=b) for a, b in zip(names_a.values(), names_b.values(), strict=True)]
    if names_a.keys() != names_b.keys():
        names_a, names_b = without_common_ending(names_a), without_common_ending(names_b)
    alone = sorted(names_a.keys() ^ names_b.keys())
    if alone:
        raise SourceError(
            f"{folder_a} and {folder_b}: expected pictures with equal names, found {len(names_a)} and "
            f"{len(names_b)}; {len(alone)} have no partner, for example {', '.join(alone[:3])}"
        )
    return [Pair(a=path, b=names_b[name]) for name, path in names_a.items()]


def _by_name(folder: Path) -> dict[str, Path]:
    by_name: dict[str, Path] = {}
    for path in list_rasters(folder):
        if path.stem in by_name:
            raise SourceError(f"{folder}: expected one picture a name, found {by_name[path.stem].name} and {path.name}")
        by_name[path.stem] = path
    return by_name
