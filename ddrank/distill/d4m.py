"""D4M: Su, Hou, Gao, Tian and Tang, "D^4M: Dataset Distillation via Disentangled Diffusion Model" (CVPR 2024).

The latents of each class are clustered; its prototypes, the centres, are noised and denoised by a latent diffusion
model that is told the class, and decoded (algorithm 1). Labels are the teachers', made for every view.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddrank.distill.base import Distillation, InParts, Iterative, Phase, Task, seconds_per_step
from ddrank.distill.latents import LatentDiffusion
from ddrank.distill.settings import check_not_negative, check_positive
from ddrank.distill.small_diffusion import SmallDiffusion
from ddrank.distill.stable_diffusion import StableDiffusion, fingerprint
from ddrank.errors import InputError

_TRAINED_ON = 1000  # steps of noise, of Stable Diffusion and of the small model


@dataclass
class D4M(Iterative):
    """Disentangled diffusion.

    Args:
        checkpoint: a folder of Stable Diffusion (1 or 2, as `diffusers` saves it), whose prompts are the names of the
            classes; null for a small model that is trained on the dataset and kept in the store.
        strength: how far prototypes are noised, from 0 (they are decoded as they are) to 1.
        guidance: towards the class; null for 8 with a checkpoint, as published, and 3 without.
        steps: of the scheduler, for strength 1.
        km_expand: mini-batch k-means takes `km_expand` * IPC latents at a time, each once; null for k-means on all.
        negative: the prompt that a checkpoint is guided away from.
        autoencoder_width, autoencoder_steps, unet_width, unet_steps: channels at the full size, and training steps, of
            the two small networks.
    """

    checkpoint: str | None = None
    strength: float = 0.7
    guidance: float | None = None
    steps: int = 50
    km_expand: int | None = 1
    negative: str = "cartoon, anime, painting"
    autoencoder_width: int = 32
    autoencoder_steps: int = 10000
    unet_width: int = 64
    unet_steps: int = 20000

    def __post_init__(self):
        if self.guidance is None:
            self.guidance = 8.0 if self.checkpoint else 3.0
        check_positive(steps=self.steps, km_expand=1 if self.km_expand is None else self.km_expand)
        if self.steps > _TRAINED_ON:
            raise InputError(
                f"method.distiller.steps is {self.steps}, expected at most {_TRAINED_ON}: models know no more"
            )
        check_positive(autoencoder_steps=self.autoencoder_steps, unet_steps=self.unet_steps)
        check_not_negative(guidance=self.guidance)
        if not 0 <= self.strength <= 1:
            raise InputError(f"method.distiller.strength is {self.strength}, expected a number from 0 to 1")
        for name in ("autoencoder_width", "unet_width"):
            if (width := getattr(self, name)) < 8 or width % 8:
                raise InputError(f"method.distiller.{name} is {width}, expected a multiple of 8")

    @property
    def takes_gradients(self) -> bool:
        """Whether the model has yet to be trained."""
        return self.checkpoint is None

    def parameters(self) -> dict[str, Any]:
        """The parameters; of a checkpoint its folder's name, wherever that lies, and a digest of what it holds."""
        folder = self.checkpoint and Path(self.checkpoint)
        return super().parameters() | {"checkpoint": folder and f"{folder.name} ({fingerprint(folder)})"}

    def unused(self) -> Sequence[str]:
        of_small = ("autoencoder_width", "autoencoder_steps", "unet_width", "unet_steps")
        return ("negative",) if self.checkpoint is None else of_small

    def length(self, task: Task) -> int:
        """Classes whose prototypes are found, then batches of images."""
        kind = SmallDiffusion if self.checkpoint is None else StableDiffusion
        return task.real.num_classes + -(-len(task.labels) // kind.batch)

    def begin(self, task: Task) -> Distillation:
        generation = Generation(self, task, self._model(task))
        with generation.cores():
            generation.model.make()
        return generation

    def rehearse(self, task: Task) -> list[Phase]:
        """The model, where it is missing; a batch to encode, a step of denoising, a batch to decode."""
        generation = Generation(self, task, self._model(task))
        with generation.cores():
            return [*generation.model.missing(), *generation.rehearse()]

    def _model(self, task: Task) -> LatentDiffusion:
        if self.checkpoint is not None:
            return StableDiffusion(Path(self.checkpoint), task, self.negative)
        return SmallDiffusion(task, self.autoencoder_width, self.autoencoder_steps, self.unet_width, self.unet_steps)


class Generation(InParts):
    """The prototypes of class after class, and then the images, batch after batch."""

    def __init__(self, d4m: D4M, task: Task, model: LatentDiffusion):
        super().__init__(task, torch.arange(len(task.labels)).split(model.batch))
        self._d4m, self.model = d4m, model
        self._prototypes: list[Tensor] = []
        fewest = int(torch.bincount(task.samples.labels, minlength=task.real.num_classes).min())
        if (needed := (d4m.km_expand or 1) * task.ipc) > fewest:
            raise InputError(
                f"D4M needs km_expand * IPC = {needed} images of each class of {task.real.name}, one has {fewest} for "
                "training: choose a smaller ipc or method.distiller.km_expand"
            )

    def step(self, iteration: int) -> dict[str, Tensor | float]:
        classes = self.task.real.num_classes
        with self.cores():
            if iteration < classes:
                prototypes, distance = self.prototypes(iteration)
                self._prototypes.append(prototypes)
                return {"loss": distance}
            part, ipc = self.parts[iteration - classes], self.task.ipc
            latents = torch.stack([self._prototypes[index // ipc][index % ipc] for index in part.tolist()])
            self.finished.append(self.generated(latents, self.task.labels[part]))
        return {}

    def prototypes(self, label: int) -> tuple[Tensor, float]:
        """Those of a class, scaled latents (ipc, D, h, w), and the mean square by which its latents are off them."""
        task, model = self.task, self.model
        members = task.members(label)
        members = members[torch.randperm(len(members), generator=task.generator)]
        encoded = [model.encode(task.real.kept.floats(part), task.generator) for part in members.split(model.batch)]
        latents = torch.cat(encoded)
        found = centres(latents, task.ipc, self._d4m.km_expand)
        nearest = torch.cdist(latents.flatten(1), found.flatten(1)).amin(1)
        return found, float(nearest.square().mean()) / found[0].numel()

    def generated(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images (n, C, H, W) in the task's space, from prototypes (n, D, h, w) of classes `labels` (n,)."""
        d4m = self._d4m
        noised = (d4m.strength, d4m.steps, d4m.guidance)
        pixels = self.model.decode(self.model.denoise(latents, labels, *noised, self.task.generator))
        if not bool(pixels.isfinite().all()):
            raise InputError(
                f"D4M's diffusion model gives NaN for {self.task.real.name}: choose engine.precision=32-true, or "
                "another method.distiller.checkpoint"
            )
        return self.task.space.forward(pixels)

    def rehearse(self) -> list[Phase]:
        """What encoding and generating will cost, from one batch and one step."""
        d4m, task, model = self._d4m, self.task, self.model
        pixels = task.real.kept.floats(torch.arange(min(model.batch, len(task.samples))))
        latents, labels = model.encode(pixels, task.generator), task.labels[: model.batch]
        latents = latents[torch.arange(len(labels)) % len(latents)]
        encoding = seconds_per_step(lambda _: model.encode(pixels, task.generator), steps=1) / len(pixels)
        model.scheduler.set_timesteps(d4m.steps)
        one = (latents.to(task.device), model.scheduler.timesteps[0], labels, d4m.guidance)
        denoising = seconds_per_step(lambda _: model.guided(*one), steps=1)
        decoding = seconds_per_step(lambda _: model.decode(latents), steps=1)
        each = (int(d4m.steps * d4m.strength) * denoising + decoding) / len(labels)
        return [
            Phase("images to encode", len(task.samples), encoding),
            Phase("images to generate", len(task.labels), each),
        ]

    def cores(self) -> AbstractContextManager[None]:
        """The threads that images of this size are worth."""
        framed = self.model.frame(torch.zeros(1, *self.task.samples.images.shape[1:]))
        return self.task.engine.cores(framed.numel() * self.model.batch)

    def state(self) -> dict[str, Any]:
        return super().state() | {"prototypes": self._prototypes}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._prototypes = state["prototypes"]


def centres(latents: Tensor, count: int, expand: int | None) -> Tensor:
    """The `count` centres (count, D, h, w) of k-means by scikit-learn on `latents` (n, D, h, w).

    With `expand`, of its mini-batch k-means as published: `expand` * `count` latents at a time in their order, what is
    left over at the end unused. Without, of k-means on all of them, the best of ten starts.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    rows = latents.flatten(1).numpy()
    if expand is None:
        kmeans = KMeans(count, n_init=10, random_state=0).fit(rows)
    else:
        size = expand * count
        kmeans = MiniBatchKMeans(count, batch_size=size, n_init="auto", random_state=0)
        for start in range(0, len(rows) - size + 1, size):
            kmeans.partial_fit(rows[start : start + size])
    return torch.as_tensor(kmeans.cluster_centers_, dtype=latents.dtype).view(count, *latents.shape[1:])
