"""Expert trajectories: the parameters of networks after every epoch of their training on the real data.

MTT (Cazenavette et al., CVPR 2022) and its descendants match them. Experts are made once for a dataset, an image space,
an architecture and a recipe, and kept in the store, where every later distillation finds them.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.nn import functional as F

from ddrank import build
from ddrank.augment import DSA
from ddrank.data.samples import Batches
from ddrank.distill.base import Phase, Task, seconds_per_step
from ddrank.distill.gsam import gsam
from ddrank.distill.unroll import vector_of
from ddrank.progress import duration
from ddrank.store import digest
from ddrank.student import derived_seed, new_network
from ddrank.wording import counted

VERSION = 2  # raise it when the same key would get other trajectories
_MOST_BYTES = 1 << 30  # of trajectories in memory


@dataclass(frozen=True)
class ExpertRecipe:
    """How an expert is trained: SGD at a constant rate, DSA in plain mode on every batch.

    Attributes:
        model: a name of `conf/model`.
        epochs, batch_size, lr: of the training.
        mirror: whether DSA may flip.
        rho, alpha: radius and weight of GSAM (see `ddrank.distill.gsam`); rho 0 for plain gradients.
    """

    model: str
    epochs: int = 50
    batch_size: int = 256
    lr: float = 0.01
    mirror: bool = True
    rho: float = 0.0
    alpha: float = 0.0

    def effective(self) -> dict[str, Any]:
        """Of the settings but the model's, those that count."""
        aside = ("model",) if self.rho else ("model", "rho", "alpha")
        return {name: value for name, value in asdict(self).items() if name not in aside}


class Experts:
    """`count` experts of a recipe, read when they are asked for; those used last stay in memory.

    Args:
        last: the last epoch whose parameters will be asked for; later ones do not stay in memory.
    """

    def __init__(self, task: Task, recipe: ExpertRecipe, count: int, last: int):
        self._task, self._recipe, self._count, self._last = task, recipe, count, last
        self._architecture = build.identity(task.architecture(recipe.model))
        self._read: OrderedDict[int, Tensor] = OrderedDict()

    def __getitem__(self, number: int) -> Tensor:
        """The trajectory of one expert, float32 (last + 1, P), on the CPU: its parameters before the first epoch and
        after each one. One that the store has lost is made again."""
        if number not in self._read:
            kept = self._store(number)[: self._last + 1].clone()
            while self._read and (len(self._read) + 1) * kept.nbytes > _MOST_BYTES:
                self._read.popitem(last=False)
            self._read[number] = kept
        self._read.move_to_end(number)
        return self._read[number]

    def final(self, number: int) -> Tensor:
        """The parameters (P,) of one expert after its last epoch, on the CPU."""
        return self._store(number)[-1].clone()

    def order(self, turn: int, seed: int) -> int:
        """The number of the expert whose turn it is: all of them pass by in an order of chance, then in another."""
        generator = torch.Generator().manual_seed(derived_seed(seed, f"pass {turn // self._count} over the experts"))
        return int(torch.randperm(self._count, generator=generator)[turn % self._count])

    def make(self) -> None:
        """Train those that the store does not have."""
        missing, task, began = self._missing(), self._task, time.monotonic()
        if not missing:
            return
        epochs = counted(self._recipe.epochs, "epoch")
        what = f"{counted(len(missing), 'expert')} ({self._recipe.model} on {task.real.name}, {epochs} each)"
        with task.display.activity(f"training {what}", len(missing) * self._recipe.epochs) as advance:
            for number in missing:
                self._store(number, advance)
        task.display.say(f"trained {what} in {duration(time.monotonic() - began)}, kept in the store")

    def rehearse(self) -> list[Phase]:
        """What `make` will cost: nothing, or so many epochs."""
        if not (missing := self._missing()):
            return []
        steps = _Training(self._task, self._recipe, 0)
        taken = seconds_per_step(lambda _: steps.step(next(steps.batches())))
        shared = digest(self._key(0))
        return [Phase("epochs of experts", len(missing) * self._recipe.epochs, taken * len(steps), shared)]

    def _missing(self) -> list[int]:
        return [number for number in range(self._count) if not self._task.store.has_tensors(self._key(number))]

    def _key(self, number: int) -> dict:
        return {
            "kind": "expert",
            "version": VERSION,
            "train": self._task.samples.fingerprint,
            "model": self._architecture,
            "recipe": self._recipe.effective(),
            "precision": self._task.engine.precision,
            "seed": number,
        }

    def _store(self, number: int, advance: Callable[..., None] | None = None) -> Tensor:
        def compute() -> dict[str, Tensor]:
            if advance is not None:
                return {"trajectory": trajectory(self._task, self._recipe, number, advance)}
            with self._task.display.activity(f"training expert {number} again", self._recipe.epochs) as again:
                return {"trajectory": trajectory(self._task, self._recipe, number, again)}

        about = {"dataset": self._task.real.name, "model": self._recipe.model}
        return self._task.store.tensors(self._key(number), compute, about)["trajectory"]


def trajectory(task: Task, recipe: ExpertRecipe, seed: int, advance: Callable[..., None] = lambda: None) -> Tensor:
    """The parameters of one network before its training and after each of its epochs, float32 (epochs + 1, P), on the
    CPU.

    All its random numbers derive from `seed`, in streams of their own: no evaluated student begins as an expert does.
    """
    with isolate_rng(include_cuda=task.device == "cuda"):
        training = _Training(task, recipe, seed)
        first = vector_of(training.network).cpu()
        snapshots = first.new_empty(recipe.epochs + 1, len(first))
        snapshots[0] = first
        for epoch in range(recipe.epochs):
            for batch in training.batches():
                training.step(batch)
            snapshots[epoch + 1] = vector_of(training.network)
            advance()
    return snapshots


class _Training:
    def __init__(self, task: Task, recipe: ExpertRecipe, seed: int):
        samples = task.engine.place(task.samples)
        self.network = new_network(lambda: task.network(recipe.model), derived_seed(seed, "expert")).to(task.device)
        self._batches = Batches(samples, recipe.batch_size)
        self._forward = task.engine.forward(self.network.train())
        for size, count in self._batches.sizes.items():
            self._forward.expect((size, *samples.images.shape[1:]), count * recipe.epochs, training=True)
        self._parameters, self._recipe, self._engine = list(self.network.parameters()), recipe, task.engine
        self._optimizer = torch.optim.SGD(self._parameters, recipe.lr)
        self._dsa, self._device = DSA(mirror=recipe.mirror), task.device
        torch.manual_seed(derived_seed(seed, "expert's training"))

    def __len__(self) -> int:
        return len(self._batches)

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """The batches of one epoch."""
        yield from self._batches

    def step(self, batch: dict[str, Tensor]) -> None:
        images, labels = self._dsa(batch["image"].to(self._device)), batch["label"].to(self._device)

        def gradients() -> list[Tensor]:
            self._optimizer.zero_grad()
            with self._engine.autocast():
                logits = self._forward(images)
            F.cross_entropy(logits.float(), labels).backward()
            return [parameter.grad for parameter in self._parameters]

        rho, alpha = self._recipe.rho, self._recipe.alpha
        found = gsam(self._parameters, gradients, rho, alpha) if rho else gradients()
        for parameter, gradient in zip(self._parameters, found, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
