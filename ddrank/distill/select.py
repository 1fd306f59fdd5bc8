"""Selection baselines: real images chosen at random or by their features; and noise, the control.

Features are the embedding of a network trained on the real data, as in the comparisons of the DC papers.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ddrank.data.real import check_ipc
from ddrank.distill.base import Distilled, Distiller, Phase, Task
from ddrank.distill.job import announce
from ddrank.errors import InputError
from ddrank.models import embed


class Random(Distiller):
    """Real images drawn at random: `draws` independent sets.

    One draw at IPC 1 is some 0.05 better or worse than another: the control shall not hang on its luck with one.
    """

    computes = False

    def __init__(self, draws: int = 5):
        if draws < 1:
            raise InputError(f"method.distiller.draws is {draws}, expected 1 or more")
        self.draws = draws

    def distill(self, task: Task) -> Distilled:
        first, *others = (task.real.draw(task.ipc, task.generator, task.samples).floats() for _ in range(self.draws))
        return Distilled(first, others=tuple(others))


class Noise(Distiller):
    """Standard normal noise: images without any information."""

    computes = False

    def distill(self, task: Task) -> Distilled:
        shape = (len(task.labels), *task.samples.images.shape[1:])
        return Distilled(torch.randn(shape, generator=task.generator))


class Selection(Distiller):
    """Chooses real images of each class by their features under a trained network (`model` of `conf/model`)."""

    wants_trained = True
    takes_gradients = False

    def __init__(self, model: str = "convnet"):
        self.model = model

    @abstractmethod
    def choose(self, features: Tensor, ipc: int) -> Tensor:
        """Indices (ipc,) of the chosen rows of `features` (n, D), n >= ipc."""

    def rehearse(self, task: Task) -> list[Phase]:
        return task.training(self.model)

    def distill(self, task: Task) -> Distilled:
        if training := self.rehearse(task):
            announce(f"{type(self).__name__} on {task.real.name}", training, task.display)
        network = task.trained(self.model)
        chosen = []
        for label, name in enumerate(task.real.class_names):
            members = task.members(label)
            check_ipc(task.ipc, len(members), task.real.name, name)
            features = _features(network, task, members)
            chosen.append(members[self.choose(features, task.ipc)])
        return Distilled(task.samples.floats(torch.cat(chosen)))


class Herding(Selection):
    """Herding: Welling, "Herding Dynamical Weights to Learn" (ICML 2009), as in iCaRL (Rebuffi et al., CVPR 2017).

    Each choice brings the mean of the chosen features as near as possible to the class mean.
    """

    def choose(self, features: Tensor, ipc: int) -> Tensor:
        mean, total = features.mean(0), torch.zeros_like(features[0])
        left = torch.ones(len(features), dtype=torch.bool)
        chosen = []
        for count in range(1, ipc + 1):
            distances = (mean - (total + features) / count).square().sum(1)
            best = int(distances.masked_fill(~left, float("inf")).argmin())
            chosen.append(best)
            left[best] = False
            total = total + features[best]
        return torch.tensor(chosen)


class KCenter(Selection):
    """Greedy k-center: Sener and Savarese, "Active Learning for CNNs: A Core-Set Approach" (ICLR 2018), algorithm 1.

    Starts from the image nearest the class mean; each further one is the farthest from all chosen so far.
    """

    def choose(self, features: Tensor, ipc: int) -> Tensor:
        chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
        nearest = (features - features[chosen[0]]).square().sum(1)
        nearest[chosen[0]] = -1
        while len(chosen) < ipc:
            chosen.append(int(nearest.argmax()))
            nearest = torch.minimum(nearest, (features - features[chosen[-1]]).square().sum(1))
            nearest[chosen[-1]] = -1
        return torch.tensor(chosen)


class KMeans(Selection):
    """The images nearest to the centres of k-means (scikit-learn, ten starts), a different one for each centre."""

    def choose(self, features: Tensor, ipc: int) -> Tensor:
        from scipy.optimize import linear_sum_assignment
        from sklearn.cluster import KMeans as SklearnKMeans

        centres = SklearnKMeans(ipc, n_init=10, random_state=0).fit(features.numpy()).cluster_centers_
        distances = torch.cdist(torch.as_tensor(centres, dtype=features.dtype), features)
        return torch.as_tensor(linear_sum_assignment(distances.numpy())[1])


@torch.no_grad()
def _features(network: torch.nn.Module, task: Task, members: Tensor) -> Tensor:
    parts = [embed(network, task.samples.floats(part).to(task.device)) for part in members.split(500)]
    return torch.cat(parts).float().cpu()
