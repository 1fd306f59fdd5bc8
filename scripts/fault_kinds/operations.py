"""What processes of the nursery do with a store, besides the commands."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ddrank.errors import InputError
from ddrank.leaderboard.report import complain
from ddrank.store import Store

if TYPE_CHECKING:
    from torch import Tensor

COUNT = 16  # entries of each kind
_OLD = 1e9  # seconds since 1970


def value_key(number: int) -> dict[str, Any]:
    return {"kind": "accuracy", "seed": number}


def tensor_key(number: int) -> dict[str, Any]:
    return {"kind": "teacher", "seed": number}


def compute() -> int:
    """Ask a store for all entries, in an order of this process's own; say which were computed here. Exit status 2 where
    the store cannot be used."""
    try:
        _compute()
    except InputError as error:
        complain(str(error))
        return 2
    return 0


def fill() -> None:
    """Keep all entries, and beside them what `gc` is there to remove: entries of an earlier version, unfinished files,
    locks of nobody."""
    store = Store("store")
    for number in range(COUNT):
        store.keep(value_key(number), _value(number))
        store.keep_tensors(tensor_key(number), _tensors(number))
        store.keep(value_key(number) | {"version": -1}, _value(number))
        for left in (store.root / f"measurements/.left-{number}.json", store.root / f"locks/{number}.lock"):
            left.write_text("")
            os.utime(left, (_OLD, _OLD))


def _compute() -> None:
    import torch

    def value(number: int) -> dict[str, Any]:
        print("computed value", number, flush=True)
        return _value(number)

    def tensors(number: int) -> dict[str, Tensor]:
        print("computed tensors", number, flush=True)
        return _tensors(number)

    store = Store("store")
    for number in torch.randperm(COUNT, generator=torch.Generator().manual_seed(os.getpid())).tolist():
        assert store.value(value_key(number), lambda number=number: value(number)) == _value(number)
        found = store.tensors(tensor_key(number), lambda number=number: tensors(number))
        assert torch.equal(found["weight"], _tensors(number)["weight"])


def _value(number: int) -> dict[str, Any]:
    return {"accuracy": number / COUNT, "losses": [[epoch, number + epoch / 8] for epoch in range(50)]}


def _tensors(number: int) -> dict[str, Tensor]:
    import torch

    return {"weight": torch.full((20_000,), float(number)), "steps": torch.tensor(number)}
