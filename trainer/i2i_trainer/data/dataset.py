"""Datasets: examples by their number, as training tensors; what they draw hangs on seed, epoch and number alone."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch.utils.data

from i2i_runtime.errors import SourceError, UsageError
from i2i_trainer.config import RunConfig
from i2i_trainer.data.paired import (
    LABEL_LAYOUTS,
    PAIRED_LAYOUTS,
    Channels,
    Pair,
    find_labelled,
    find_pairs,
)
from i2i_trainer.data.rasters import Raster, read_raster
from i2i_trainer.data.transforms import Preprocess, Rasters, Sample
from i2i_trainer.data.unpaired import UNPAIRED_LAYOUTS, find_domains

if TYPE_CHECKING:
    from typing_extensions import Self

DataKind = Literal["paired", "unpaired"]
T = TypeVar("T")

_CHECKED = 1000
"""Pictures that are read before a training begins; of larger sets so many, evenly spaced."""


class Dataset(ABC, torch.utils.data.Dataset["Sample | SourceError"]):
    """Examples of `input` and `target`, and of `instances` where label maps have them.

    A key of `__getitem__` is (epoch, number). Crop and flip depend on these and the seed alone, so they are the same
    in any process and after a resume.
    """

    def __init__(self, preprocess: Preprocess, seed: int, cache_bytes: int = 0) -> None:
        self.preprocess = preprocess
        self._seed = seed
        self._cache = _Cache(cache_bytes)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> dict[str, Raster]:
        """The whole pictures of an example, as they lie on the disk.

        Raises:
            SourceError: it cannot be read.
        """

    @abstractmethod
    def _random(self, index: int, rng: np.random.Generator) -> Sample: ...

    def __getitem__(self, key: tuple[int, int]) -> Sample | SourceError:
        """An error is handed over as a value: torch would rewrap it, with a traceback inside its message."""
        epoch, index = key
        try:
            return self._random(index, np.random.default_rng((self._seed, epoch, index)))
        except SourceError as error:
            return error

    def fixed(self, index: int) -> Sample:
        """The whole example, without crop or flip.

        Raises:
            SourceError: it cannot be read.
        """
        return self.preprocess.fixed(self.read(index))

    def evenly(self, count: int | None = None) -> Iterator[Sample]:
        """`count` whole examples, evenly spaced; None: all of them.

        Of unpaired pictures so many of each domain: where one has fewer, its name is missing from the last samples.
        """
        for index in _evenly(len(self), count):
            yield self.fixed(index)

    def at(self, preprocess: Preprocess) -> Self:
        """The same examples at another size, with an empty cache."""
        other = copy.copy(self)
        other.preprocess, other._cache = preprocess, _Cache(self._cache.limit)
        return other

    @property
    def fewest(self) -> int:
        """Pictures of the smaller side."""
        return len(self)

    def share_cache(self, processes: int) -> None:
        """Tell that each of so many processes will hold a copy of this dataset with a cache of its own."""
        self._cache.share = max(1, processes)


class PairedDataset(Dataset):
    """Pairs of pictures, or label maps with photographs."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        channels: Channels,
        direction: Literal["AtoB", "BtoA"],
        preprocess: Preprocess,
        seed: int = 0,
        cache_bytes: int = 0,
    ) -> None:
        super().__init__(preprocess, seed, cache_bytes)
        self._pairs, self._channels = pairs, channels
        self._names = {"A": "input", "B": "target"} if direction == "AtoB" else {"B": "input", "A": "target"}

    def __len__(self) -> int:
        return len(self._pairs)

    def read(self, index: int) -> dict[str, Raster]:
        """See `Dataset`."""
        rasters = self._pairs[index].read(self._channels)
        return {self._names.get(name, name): raster for name, raster in rasters.items()}

    def _random(self, index: int, rng: np.random.Generator) -> Sample:
        loaded = self._cache.get(index, lambda: self.preprocess.load(self.read(index)))
        return self.preprocess.random(loaded, rng)


class UnpairedDataset(Dataset):
    """One picture of each domain: every one of the longer folder once an epoch, its company drawn at random."""

    def __init__(
        self,
        domains: Mapping[str, tuple[Sequence[Path], int]],
        preprocess: Preprocess,
        seed: int = 0,
        cache_bytes: int = 0,
    ) -> None:
        """Take the files and channels of `input` and of `target`."""
        super().__init__(preprocess, seed, cache_bytes)
        self._files = {name: files for name, (files, _) in domains.items()}
        self._channels = {name: channels for name, (_, channels) in domains.items()}

    def __len__(self) -> int:
        return max(map(len, self._files.values()))

    @property
    def fewest(self) -> int:
        """See `Dataset`."""
        return min(map(len, self._files.values()))

    def read(self, index: int) -> dict[str, Raster]:
        """See `Dataset`; the shorter folder begins again at its end."""
        return {name: self._read(name, index % len(files)) for name, files in self._files.items()}

    def evenly(self, count: int | None = None) -> Iterator[Sample]:
        """See `Dataset`."""
        chosen = {name: _evenly(len(files), count) for name, files in self._files.items()}
        for i in range(max(map(len, chosen.values()))):
            rasters = {name: self._read(name, numbers[i]) for name, numbers in chosen.items() if i < len(numbers)}
            yield self.preprocess.fixed(rasters)

    def _load(self, name: str, number: int) -> Rasters:
        return self.preprocess.load({name: self._read(name, number)})

    def _read(self, name: str, number: int) -> Raster:
        return read_raster(self._files[name][number], self._channels[name])

    def _random(self, index: int, rng: np.random.Generator) -> Sample:
        sample: Sample = {}
        # Of two folders of one length the second is drawn too: A and B never become pairs.
        longest = max(self._files, key=lambda name: len(self._files[name]))
        for name, files in self._files.items():
            drawn = int(rng.integers(len(files)))
            number = index if name == longest else drawn
            load = partial(self._load, name, number)
            loaded = self._cache.get((name, number), load)
            sample |= self.preprocess.random(loaded, rng)
        return sample


def _evenly(length: int, count: int | None) -> list[int]:
    count = length if count is None else min(count, length)
    return [number * length // count for number in range(count)]


class _Cache:
    """Keeps what it was asked for until it holds `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.share = limit, 1
        self._held: dict[Hashable, Rasters] = {}
        self._bytes = 0

    def get(self, key: Hashable, make: Callable[[], Rasters]) -> Rasters:
        if key in self._held:
            return self._held[key]
        made = make()
        size = sum(raster.nbytes for raster in made.values())
        if self._bytes + size <= self.limit // self.share:
            self._held[key] = made
            self._bytes += size
        return made


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a training learns from, and what it is measured on."""

    train: Dataset
    held_out: Dataset | None
    """None where there is neither val/ nor test/."""


def open_data(run: RunConfig, kind: DataKind, preprocess: Preprocess) -> Data:
    """Find, match and check the pictures of a run.

    Raises:
        SourceError: none, unreadable ones, or such that do not go together.
        UsageError: settings that do not go with the data.
    """
    train = open_split(run, kind, preprocess, ("train", ""))
    if train is None:
        layouts = UNPAIRED_LAYOUTS if kind == "unpaired" else LABEL_LAYOUTS if run.label_nc else PAIRED_LAYOUTS
        raise SourceError(f"{run.data}: no training pictures; expected {layouts}")
    return Data(train=train, held_out=open_split(run, kind, preprocess, ("val", "test")))


def open_split(run: RunConfig, kind: DataKind, preprocess: Preprocess, splits: Sequence[str]) -> Dataset | None:
    """The dataset of the first of `splits` that there is.

    Raises:
        SourceError: unreadable pictures, or such that do not go together.
        UsageError: settings that do not go with the data.
    """
    root = Path(run.data)
    channels = channels_of(run)
    # Processes of one machine under torchrun share its memory.
    cache_bytes = run.cache_mb * 2**20 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if kind == "unpaired":
        domains = find_domains(root, splits)
        if not domains[0]:
            return None
        checked = [
            usable(files, partial(read_raster, channels=count), skip_unreadable=run.skip_unreadable)
            for files, count in zip(domains, (channels.a, channels.b), strict=True)
        ]
        given, wanted = checked if run.direction == "AtoB" else checked[::-1]
        return UnpairedDataset(
            {"input": (given, run.input_channels), "target": (wanted, run.output_channels)},
            preprocess, run.seed, cache_bytes,
        )  # fmt: skip
    if run.label_nc:
        pairs = find_labelled(root, splits, instances=run.instances)
    else:
        pairs = find_pairs(root, splits)
        if not pairs and find_labelled(root, splits, instances=False):
            raise UsageError(f"{root}: holds label maps; say how many classes they have, for example --label-nc 35")
    if not pairs:
        return None
    pairs = usable(pairs, lambda pair: pair.read(channels), skip_unreadable=run.skip_unreadable)
    return PairedDataset(pairs, channels, run.direction, preprocess, run.seed, cache_bytes)


def channels_of(run: RunConfig) -> Channels:
    """The channels of A and of B; the direction says which is the input."""
    a, b = run.input_channels, run.output_channels
    if run.direction == "BtoA":
        a, b = b, a
    return Channels(a=a, b=b, labels=run.label_nc, instances=bool(run.label_nc) and run.instances)


def usable(items: Sequence[T], read: Callable[[T], object], *, skip_unreadable: bool) -> list[T]:
    """Read pictures once before hours of training depend on them: all, or of a large set an even choice.

    Returns:
        The items that can be used.

    Raises:
        SourceError: unusable ones and not `skip_unreadable`.
    """
    count = len(items) if skip_unreadable else min(len(items), _CHECKED)
    checked = [items[number] for number in _evenly(len(items), count)]

    def problem(item: T) -> str | None:
        try:
            read(item)
        except SourceError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as threads:
        problems = list(threads.map(problem, checked))
    broken = [problem for problem in problems if problem is not None]
    if not broken:
        return list(items)
    if not skip_unreadable:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise SourceError(f"{broken[0]}{more}; mend or delete it, or leave it out with --skip-unreadable")
    kept = [item for item, problem in zip(checked, problems, strict=True) if problem is None]
    if not kept:
        raise SourceError(f"none of {len(items)} pictures can be used; the first: {broken[0]}")
    return kept
