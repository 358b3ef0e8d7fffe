"""Several processes that train together under torchrun; one process is a world of its own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from i2i_runtime.errors import DeviceError

_PATIENCE = timedelta(minutes=30)
"""How long processes wait for one that still lives: the first one may evaluate meanwhile."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a training, as one of them sees them."""

    rank: int = 0
    size: int = 1
    _control: Any = None
    """Process group on the CPU for flags and figures, whatever carries the gradients."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process; all must ask."""
        if self.size == 1:
            return flag
        together = torch.tensor(int(flag))
        dist.all_reduce(together, dist.ReduceOp.MAX, group=self._control)
        return bool(together)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of each value over all processes, on the CPU; all must ask."""
        values = values.cpu()
        if self.size > 1:
            dist.all_reduce(values, group=self._control)
            values /= self.size
        return values

    def compare(self, values: dict[str, Any]) -> dict[str, list[Any]]:
        """Of named values those in which the processes differ, each with the values of all; all must ask."""
        everyone: list[Any] = [values] * self.size
        if self.size > 1:
            dist.all_gather_object(everyone, values, group=self._control)
        return {
            name: [each[name] for each in everyone]
            for name in values
            if any(each[name] != values[name] for each in everyone)
        }

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in the first one, an empty list in the others; all must ask."""
        if self.size == 1:
            return [value]
        values = [None] * self.size if self.is_first else None
        dist.gather_object(value, values, group=self._control)
        return values or []

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """`network` with gradients that are the mean over all processes; itself where there is one process only."""
        if self.size == 1 or not any(parameter.requires_grad for parameter in network.parameters()):
            return network
        devices = [device] if device.type == "cuda" else None
        with warnings.catch_warnings():
            # Its successor is not in every torch that is supported.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            # Each process keeps its batch norms' averages; the first one's are saved.
            return DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside the wrapper of `World.wrap`."""
    return network.module if isinstance(network, DistributedDataParallel) else network


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Meet the other processes that torchrun started, where it did.

    Raises:
        DeviceError: one of them is gone.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    try:
        store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
        # torchrun keeps its store when it restarts the processes: addresses of those that are gone are still in it.
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"restart{restart}", store)  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
        yield World(rank=rank, size=size, _control=dist.new_group(backend="gloo", timeout=_PATIENCE))
    except RuntimeError as error:
        # NCCL has a class of its own; gloo says where in its sources the connection broke.
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise DeviceError(
                "another process of this training is gone, as torchrun will say; with torchrun --max-restarts N and "
                "--resume the job goes on from the last checkpoint by itself"
            ) from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process where torchrun started one process a GPU; other devices as they are."""
    if device == torch.device("cuda") and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device
