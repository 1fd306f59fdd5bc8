"""The ranks that train a student together, seen from one of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore

from ddrank.errors import InputError
from ddrank.ranks.place import JOIN, Place

FOR_LONG = timedelta(days=30)  # followers wait for as long as their leader waits for another job's lock


@dataclass(frozen=True)
class Team:
    """`ranks` processes, of which this is `rank`. Every rank calls what it calls in the same order; a team of one
    changes nothing and talks to nobody."""

    rank: int = 0
    ranks: int = 1
    control: Any = None  # the group for everything but tensors on the device

    @property
    def leads(self) -> bool:
        """Whether this is the leader's process."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This rank's part of a batch; parts differ in length by one at most."""
        return batch.tensor_split(self.ranks)[self.rank]

    def weight(self, part: int, whole: int) -> float:
        """By what the mean over this rank's `part` of `whole` samples is multiplied, so that the mean over the ranks of
        all that is the mean over all samples."""
        return part * self.ranks / whole

    def told(self, value: Any) -> Any:
        """The leader's `value`, on every rank; those of the others are not looked at."""
        if self.ranks == 1:
            return value
        box = [value if self.leads else None]
        dist.broadcast_object_list(box, 0, group=self.control)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all ranks, for the leader; nothing for the others."""
        if self.ranks == 1:
            return [value]
        values = [None] * self.ranks if self.leads else None
        dist.gather_object(value, values, 0, group=self.control)
        return values or []

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, on every rank."""
        if self.ranks == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the ranks, on every rank."""
        return tensor if self.ranks == 1 else self.sum(tensor) / self.ranks


ALONE = Team()
_team = ALONE  # of this process


def team(ranks: int) -> Team:
    """The team in which this process trains a student on so many ranks."""
    if ranks == 1:
        return ALONE
    if ranks != _team.ranks:
        raise RuntimeError(f"a student for {ranks} ranks in a process of a team of {_team.ranks}")
    return _team


def addresses(place: Place) -> tuple[Store, int]:
    """Where the processes of `place` find each other, and its port: the leader has it, or torchrun."""
    of_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        place.address,
        place.port,
        is_master=place.rank == 0 and not of_torchrun,
        wait_for_workers=False,
        timeout=timedelta(seconds=JOIN),
    )
    return PrefixStore(f"ddrank/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store), store.port


def gather(place: Place, store: Store, device: str) -> Team:
    """Connect this process with the others of `place`; returns when all are there. Tensors on GPUs go through NCCL,
    all else through gloo. Raises InputError where there is no GPU for it."""
    global _team
    if device == "cuda":
        there = torch.cuda.device_count()
        if there != 1 and place.local_rank >= there:
            raise InputError(
                f"process {place.local_rank + 1} of those on its machine has no GPU, of which it sees {there}: start "
                "as many as there are GPUs, and give their number as engine.devices"
            )
        torch.cuda.set_device(place.local_rank % there)  # each may see its own alone
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")  # it would end the leader without a sentence
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.ranks, timeout=FOR_LONG)
    _team = Team(place.rank, place.ranks, dist.new_group(backend="gloo", timeout=FOR_LONG))
    return _team


def leave() -> None:
    """End the connection with the others."""
    global _team
    _team = ALONE
    if dist.is_initialized():
        dist.destroy_process_group()
