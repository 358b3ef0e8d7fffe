"""The order in which a training sees its pictures: a new shuffle each epoch, resumable at any step."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from i2i_runtime.errors import SourceError
from i2i_trainer.data.paired import PairedDataset
from i2i_trainer.models.base import Batch


class Order(Sampler[list[tuple[int, int]]]):
    """Yields the (epoch, index) keys of each step from `first_step` on."""

    def __init__(self, n_pictures: int, batch: int, seed: int, first_step: int, last_step: int) -> None:
        self._n_pictures = n_pictures
        self._batch = batch
        self._seed = seed
        self._steps = range(first_step, last_step)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        steps = steps_per_epoch(self._n_pictures, self._batch)
        shuffled_epoch, shuffle = -1, torch.empty(0)
        for step in self._steps:
            epoch, position = divmod(step, steps)
            if epoch != shuffled_epoch:
                # The shuffle hangs on seed and epoch alone: no state to save.
                generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
                shuffled_epoch, shuffle = epoch, torch.randperm(self._n_pictures, generator=generator)
            picked = shuffle[position * self._batch : (position + 1) * self._batch]
            yield [(epoch, int(index)) for index in picked]


def steps_per_epoch(n_pictures: int, batch: int) -> int:
    """Steps that see every picture once; the last one may be smaller."""
    return -(-n_pictures // batch)


def batches(dataset: PairedDataset, order: Order, workers: int, device: torch.device) -> Iterator[Batch]:
    """Batches on `device`, in `order`.

    Raises:
        SourceError: a picture that cannot be read.
    """
    loader: DataLoader[tuple[Tensor, Tensor] | SourceError] = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_as_they_are,
        worker_init_fn=_init_worker,
        pin_memory=device.type == "cuda",
        # Without it the loader draws from torch's generator, and a resumed run would differ from an unbroken one.
        generator=torch.Generator(),
    )
    for items in loader:
        pairs = []
        for item in items:
            if isinstance(item, SourceError):
                raise item
            pairs.append(item)
        inputs, targets = zip(*pairs, strict=True)
        yield Batch(
            input=torch.stack(inputs).to(device, non_blocking=True),
            target=torch.stack(targets).to(device, non_blocking=True),
        )


def _as_they_are(items: list[tuple[Tensor, Tensor] | SourceError]) -> list[tuple[Tensor, Tensor] | SourceError]:
    return items


def _init_worker(number: int) -> None:
    # One process a worker is parallel enough; OpenCV would start a thread for each core in each of them.
    cv2.setNumThreads(0)
