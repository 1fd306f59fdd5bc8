"""DC, gradient matching: Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching" (ICLR 2021), and DSA:
Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation" (ICML 2021).

Synthetic images are moved until a network's gradients on them are those on real images of their class, at points along
trainings on the synthetic images themselves (algorithm 1 of DC). Since the network stands still during a matching step,
the classes do not touch each other: their gradients on synthetic images are taken together (torch.func), as many as
memory should hold, where the network allows it; those on real images, batches of hundreds, one class after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ddrank import augment
from ddrank.augment.dsa import DSAParams, apply_dsa
from ddrank.data.samples import Batches, Samples
from ddrank.distill.base import Distillation, Iterative, Phase, Task, initial, seconds_per_step
from ddrank.distill.classwise import class_gradients, matched, works_together
from ddrank.distill.settings import check_not_negative, check_positive, one_of
from ddrank.errors import InputError

INITS = ("real", "noise")
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # IPC: outer, inner
_BATCH_NORM_IMAGES = 16  # real images of each class from which batch normalisation takes its statistics
_TOGETHER = 128  # synthetic images in one pass, more only where a single class has more


@dataclass
class DC(Iterative):
    """Gradient matching. One iteration is one network: `outer` matching steps, with training between them.

    Args:
        model: a name of `conf/model`; every iteration begins with a new network.
        iterations: networks.
        outer: matching steps for each network. None: the authors' for this IPC (`LOOPS`).
        inner: epochs that the network is trained on the synthetic images between two of them. None: likewise.
        lr, momentum: of SGD on the pixels.
        network_lr: of the networks' training by SGD, in batches of `net_batch`.
        real_batch: real images of each class at every matching step (all of the class where it has fewer).
        init: `real` (random real images) or `noise` (standard normal).
    """

    model: str = "convnet"
    iterations: int = 1000
    outer: int | None = None
    inner: int | None = None
    lr: float = 0.1
    momentum: float = 0.5
    network_lr: float = 0.01
    real_batch: int = 256
    net_batch: int = 256
    init: str = "noise"

    def __post_init__(self):
        one_of("init", self.init, INITS)
        above = ("iterations", "lr", "network_lr", "real_batch", "net_batch", "outer", "inner")
        check_positive(**{name: value for name in above if (value := getattr(self, name)) is not None})
        check_not_negative(momentum=self.momentum)

    def begin(self, task: Task) -> GradientMatching:
        return GradientMatching(self, task, *self.loops(task.ipc), self.augmentation())

    def loops(self, ipc: int) -> tuple[int, int]:
        """`outer` and `inner` for `ipc` images per class. Raises InputError where neither settings nor table say."""
        if self.outer is not None and self.inner is not None:
            return self.outer, self.inner
        if ipc not in LOOPS:
            known = ", ".join(map(str, LOOPS))
            raise InputError(
                f"method.distiller.outer and method.distiller.inner have published values for IPC {known}, none for "
                f"IPC {ipc}: give both"
            )
        outer, inner = LOOPS[ipc]
        return self.outer or outer, self.inner or inner

    def augmentation(self) -> augment.DSA | None:
        """What real and synthetic images undergo alike, and those that networks are trained on."""
        return None

    def rehearse(self, task: Task) -> list[Phase]:
        matching = self.begin(task)
        matching.new_network()
        steps = self.iterations * matching.outer
        phases = [Phase("matching steps", steps, seconds_per_step(lambda _: matching.match()))]
        if matching.outer > 1:
            epochs = self.iterations * (matching.outer - 1) * matching.inner
            phases.append(Phase("epochs of networks", epochs, seconds_per_step(lambda _: matching.train(1))))
        return phases


@dataclass
class DSA(DC):
    """Gradient matching under siamese augmentation: the parameters of `DC`, and

    Args:
        mirror: whether DSA may flip.
    """

    init: str = "real"
    mirror: bool = True

    def augmentation(self) -> augment.DSA:
        return augment.DSA(mirror=self.mirror)


class GradientMatching(Distillation):
    """The state of DC and DSA: images and their optimizer; a network lives for one iteration.

    All networks are one module that takes over the weights of new ones, so that one compilation serves them all.
    """

    def __init__(self, method: DC, task: Task, outer: int, inner: int, dsa: augment.DSA | None):
        images = initial(task, method.init).requires_grad_()
        super().__init__({"images": images}, [torch.optim.SGD([images], method.lr, momentum=method.momentum)])
        self.outer, self.inner = outer, inner
        self._method, self._task, self._dsa = method, task, dsa
        self._members = [task.members(label) for label in range(task.real.num_classes)]
        self._network = task.network(method.model).to(task.device).train()
        self._training = torch.optim.SGD(self._network.parameters(), method.network_lr)
        self._forward = task.engine.forward(self._network)
        for layer in self._batch_norms():
            layer.eval()
        self._together = works_together(self._network, images.shape[1:])
        self._expect()

    def step(self, iteration: int) -> dict[str, Tensor | float]:
        self.new_network()
        losses = [self.match()]
        for _ in range(self.outer - 1):
            self.train(self.inner)
            losses.append(self.match())
        return {"loss": torch.stack(losses).mean() / len(self._members)}

    def new_network(self) -> None:
        """Fresh weights for the network."""
        self._network.load_state_dict(self._task.network(self._method.model).state_dict())

    def match(self) -> Tensor:
        """One step on the images towards the real gradients of the network as it is. Returns the loss, over all
        classes."""
        self._freeze_batch_norm()
        images, (optimizer,) = self.tensors["images"], self.optimizers
        optimizer.zero_grad()
        total = torch.zeros((), device=images.device)
        for classes in torch.arange(len(self._members)).split(max(1, _TOGETHER // self._task.ipc)):
            loss = self._loss(classes.tolist())
            loss.backward()
            total += loss.detach()
        optimizer.step()
        return total

    def train(self, epochs: int) -> None:
        """Train the network on the images as they are, which get no gradient from it."""
        self._network.train()
        images = self.tensors["images"].detach().clone()
        batches = Batches(Samples(images, self._task.labels.to(images.device)), self._method.net_batch)
        for _ in range(epochs):
            for batch in batches:
                image = batch["image"]
                if self._dsa is not None:
                    image = apply_dsa(image, self._dsa.draw(len(image), image.shape[-2:], self._task.generator))
                self._training.zero_grad()
                self._cross_entropy(self._forward, image, batch["label"]).backward()
                self._training.step()
        self._training.zero_grad()

    def _loss(self, classes: list[int]) -> Tensor:
        """The distance of the gradients of some classes, summed over them."""
        task, ipc = self._task, self._task.ipc
        images = self.tensors["images"].unflatten(0, (-1, ipc))[classes]
        shared: list[DSAParams | None] = [None] * len(classes)
        if self._dsa is not None:
            drawn = self._dsa.draw_shared(images.shape[-2:], groups=len(classes), generator=task.generator)
            shared = [drawn[[row]] for row in range(len(classes))]
            each = torch.arange(len(classes)).repeat_interleave(ipc)
            images = apply_dsa(images.flatten(0, 1), drawn[each]).unflatten(0, (-1, ipc))
        labels = torch.tensor(classes, device=images.device)
        wanted = [self._real_gradients(label, params) for label, params in zip(classes, shared, strict=True)]
        found = class_gradients(self._network, images, labels, self._cross_entropy, self._together)
        return distance([torch.stack(parts) for parts in zip(*wanted, strict=True)], found)

    def _real_gradients(self, label: int, params: DSAParams | None) -> tuple[Tensor, ...]:
        images = self._draw(label, self._method.real_batch)
        if params is not None:
            images = apply_dsa(images, params)
        labels = torch.full((len(images),), label, device=images.device)
        loss = self._cross_entropy(self._forward, images, labels)
        return torch.autograd.grad(loss, list(matched(self._network).values()))

    def _cross_entropy(self, network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
        with self._task.engine.autocast():
            logits = network(images)
        return F.cross_entropy(logits.float(), labels)

    def _draw(self, label: int, count: int) -> Tensor:
        """Random real images of one class, without replacement."""
        members = self._members[label]
        index = members[torch.randperm(len(members), generator=self._task.generator)[:count]]
        return self._task.samples.floats(index).to(self._task.device)

    def _freeze_batch_norm(self) -> None:
        """Batch normalisation, where there is any: statistics from real images of all classes together, then kept."""
        if not (layers := self._batch_norms()):
            return
        self._network.train()
        with torch.no_grad():
            self._network(torch.cat([self._draw(label, _BATCH_NORM_IMAGES) for label in range(len(self._members))]))
        for layer in layers:
            layer.eval()

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self._network.modules() if isinstance(module, _BatchNorm)]

    def _expect(self) -> None:
        """Announce the batches of the whole distillation, which decide what is compiled."""
        shape, networks = self.tensors["images"].shape[1:], self._method.iterations
        for members in self._members:
            size = min(len(members), self._method.real_batch)
            self._forward.expect((size, *shape), networks * self.outer, training=True)
        samples = Samples(self.tensors["images"].detach(), self._task.labels)
        for size, count in Batches(samples, self._method.net_batch).sizes.items() if self.outer > 1 else ():
            self._forward.expect((size, *shape), networks * (self.outer - 1) * self.inner * count, training=True)


def distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """The distance of two sets of gradients, summed over classes, layers and output nodes (DC, section 3):
    1 - <a, b> / (|a| |b| + 1e-6) for the rows a and b of each output node.

    Both hold, for each matched parameter, (classes, *its shape), its first dimension being the output nodes.

    >>> a, b = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]]), torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    >>> round(float(distance([a], [b])), 4)
    1.0
    """
    return torch.stack([_rows_apart(*pair).sum() for pair in zip(real, synthetic, strict=True)]).sum()


def _rows_apart(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(2), b.flatten(2)
    norms = torch.linalg.vector_norm(a, dim=2) * torch.linalg.vector_norm(b, dim=2)
    return 1 - (a * b).sum(2) / (norms + 1e-6)
