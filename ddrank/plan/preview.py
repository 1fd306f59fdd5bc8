"""The store, looked at: nothing is added to it, and nothing goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ddrank.store import Store, digest


class Preview(Store):
    """A store that is read and never written: what has to be computed stays in memory, for as long as this does."""

    def __init__(self, root: Path | str):
        self.root, self.used = Path(root), set()  # the folder is not made
        self._computed: dict[str, dict[str, Tensor]] = {}

    def tensors(
        self,
        key: Mapping[str, Any],
        compute: Callable[[], Mapping[str, Tensor]],
        about: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        if (found := self.find_tensors(key)) is not None:
            return found
        name = digest(key)
        if name not in self._computed:
            self._computed[name] = dict(compute())
        return self._computed[name]

    def value(self, key: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        found = self.lookup(key)
        return compute() if found is None else found

    def keep(
        self, key: Mapping[str, Any], value: dict[str, Any], about: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        return value

    def keep_tensors(
        self, key: Mapping[str, Any], tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None
    ) -> None:
        self._computed[digest(key)] = dict(tensors)

    def drop_tensors(self, key: Mapping[str, Any]) -> None:
        pass
