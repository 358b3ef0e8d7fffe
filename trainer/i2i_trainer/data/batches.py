"""The order in which a training sees its pictures: a new shuffle each epoch, resumable at any step."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence

import cv2
import torch
from torch.utils.data import DataLoader, Sampler

from i2i_runtime.errors import SourceError
from i2i_trainer.data.dataset import Dataset
from i2i_trainer.data.transforms import Sample

Key = tuple[int, int]
"""(epoch, number of the example)."""


class Order(Sampler[list[Key]]):
    """The keys of each step, of which one of several processes takes its share.

    The last step of an epoch is filled up from the beginning of its shuffle, so that every step and every process has
    the same number of pictures: two processes with batch 1 do what one does with batch 2.
    """

    def __init__(
        self, n_pictures: int, batch: int, seed: int, steps: range, *, rank: int = 0, world_size: int = 1
    ) -> None:
        """Choose.

        Args:
            n_pictures: pictures of an epoch.
            batch: pictures of a step in one process.
            seed: of the shuffles.
            steps: the steps to do.
            rank: number of this process.
            world_size: how many processes there are.
        """
        self._n_pictures, self._batch, self._seed, self._steps = n_pictures, batch, seed, steps
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Key]]:
        together = self._batch * self._world_size
        steps = steps_per_epoch(self._n_pictures, together)
        shuffled_epoch, shuffle = -1, torch.empty(0)
        for step in self._steps:
            epoch, position = divmod(step, steps)
            if epoch != shuffled_epoch:
                # The shuffle hangs on seed and epoch alone: no state to save.
                generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
                shuffled_epoch, shuffle = epoch, torch.randperm(self._n_pictures, generator=generator)
            first = position * together + self._rank * self._batch
            yield [(epoch, int(shuffle[i % self._n_pictures])) for i in range(first, first + self._batch)]


def steps_per_epoch(n_pictures: int, batch: int) -> int:
    """Steps that see every picture once."""
    return -(-n_pictures // batch)


def samples(dataset: Dataset, order: Order, workers: int, *, pin_memory: bool) -> Iterator[Sample]:
    """The samples of each step as batches on the CPU, in `order`.

    Raises:
        SourceError: a picture that cannot be read.
    """
    dataset.share_cache(workers)
    loader: DataLoader[Sample | SourceError] = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_as_they_are,
        worker_init_fn=_init_worker,
        pin_memory=pin_memory,
        # The one way to start processes that every system has; a fork of a process with threads can hang.
        multiprocessing_context="spawn" if workers else None,
        # Without it the loader draws from torch's generator, and a resumed run would differ from an unbroken one.
        generator=torch.Generator(),
    )
    for items in loader:
        yield stack(items)


def stack(items: Sequence[Sample | SourceError]) -> Sample:
    """Samples of one batch: each name's tensors as (n, c, h, w).

    Raises:
        SourceError: one of them is an error.
    """
    whole = []
    for item in items:
        if isinstance(item, SourceError):
            raise item
        whole.append(item)
    return {name: torch.stack([item[name] for item in whole]) for name in whole[0]}


def _as_they_are(items: list[Sample | SourceError]) -> list[Sample | SourceError]:
    return items


def _init_worker(worker: int) -> None:
    # One process a worker is parallel enough; OpenCV would start a thread for each core in each of them.
    cv2.setNumThreads(0)
    # Ctrl-C and a cluster's SIGTERM reach the whole group; the training still needs its pictures to end well.
    # When it is gone, torch's own watch ends the workers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
