"""D4M: Su, Hou, Gao, Tian and Tang, "D^4M: Dataset Distillation via Disentangled Diffusion Model" (CVPR 2024).

The latents of each class are clustered; its prototypes, the centres, are noised and denoised by a latent diffusion
model that is told the class, and decoded (algorithm 1). Labels are the teachers', made for every view.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from ddrank.distill.base import Distilled, Distiller, Phase, Task, rehearsal, seconds_per_step
from ddrank.distill.job import announce
from ddrank.distill.latents import LatentDiffusion
from ddrank.distill.settings import check_not_negative, check_positive
from ddrank.distill.small_diffusion import SmallDiffusion
from ddrank.distill.stable_diffusion import StableDiffusion, fingerprint
from ddrank.errors import InputError
from ddrank.progress import duration


@dataclass
class D4M(Distiller):
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
        check_positive(autoencoder_steps=self.autoencoder_steps, unet_steps=self.unet_steps)
        check_not_negative(guidance=self.guidance)
        if not 0 <= self.strength <= 1:
            raise InputError(f"method.distiller.strength is {self.strength}, expected a number from 0 to 1")
        for name in ("autoencoder_width", "unet_width"):
            if (width := getattr(self, name)) < 8 or width % 8:
                raise InputError(f"method.distiller.{name} is {width}, expected a multiple of 8")

    def parameters(self) -> dict[str, Any]:
        """The parameters; of a checkpoint its folder's name, wherever that lies, and a digest of what it holds."""
        folder = self.checkpoint and Path(self.checkpoint)
        return super().parameters() | {"checkpoint": folder and f"{folder.name} ({fingerprint(folder)})"}

    def rehearse(self, task: Task) -> list[Phase]:
        model = self._model(task)
        with task.engine.cores(_numbers(model, task)):
            return [*model.missing(), *self._rehearse(model, task)]

    def distill(self, task: Task) -> Distilled:
        fewest = int(torch.bincount(task.samples.labels, minlength=task.real.num_classes).min())
        if (self.km_expand or 1) * task.ipc > fewest:
            raise InputError(
                f"D4M needs km_expand * IPC = {(self.km_expand or 1) * task.ipc} images of each class of "
                f"{task.real.name}, one has {fewest} for training: choose a smaller ipc or method.distiller.km_expand"
            )
        model = self._model(task)
        name = f"D4M on {task.real.name}, IPC {task.ipc}"
        with isolate_rng(include_cuda=task.device == "cuda"), task.engine.cores(_numbers(model, task)):
            announce(name, [*model.missing(), *self._rehearse(model, rehearsal(task))], task.display)
            model.make()
            latents = self.prototypes(model, task)
            images = self._generate(model, latents, task)
        return Distilled(task.space.forward(images))

    def prototypes(self, model: LatentDiffusion, task: Task) -> Tensor:
        """The prototypes of all classes, class-major, scaled latents (classes * ipc, D, h, w)."""
        found, began = [], time.monotonic()
        with task.display.activity(f"latents of {task.real.name}", len(task.samples)) as advance:
            for label in range(task.real.num_classes):
                members = task.members(label)
                members, latents = members[torch.randperm(len(members), generator=task.generator)], []
                for part in members.split(model.batch):
                    latents.append(model.encode(task.real.kept.floats(part), task.generator))
                    advance(steps=len(part))
                found.append(centres(torch.cat(latents), task.ipc, self.km_expand))
        task.display.say(
            f"encoded {len(task.samples)} images of {task.real.name} and found {task.ipc} prototypes of each class in "
            f"{duration(time.monotonic() - began)}"
        )
        return torch.cat(found)

    def _generate(self, model: LatentDiffusion, latents: Tensor, task: Task) -> Tensor:
        """Pixels in [0, 1], (classes * ipc, C, H, W), from prototypes."""
        made = []
        with task.display.activity(f"D4M on {task.real.name}, IPC {task.ipc}", len(latents)) as advance:
            for part, labels in zip(latents.split(model.batch), task.labels.split(model.batch), strict=True):
                noised = (self.strength, self.steps, self.guidance)
                made.append(model.decode(model.denoise(part, labels, *noised, task.generator)))
                advance(steps=len(part))
        return torch.cat(made)

    def _model(self, task: Task) -> LatentDiffusion:
        if self.checkpoint is not None:
            return StableDiffusion(Path(self.checkpoint), task, self.negative)
        return SmallDiffusion(task, self.autoencoder_width, self.autoencoder_steps, self.unet_width, self.unet_steps)

    def _rehearse(self, model: LatentDiffusion, task: Task) -> list[Phase]:
        """What encoding and generating will cost, from one batch and one step."""
        pixels = task.real.kept.floats(torch.arange(min(model.batch, len(task.samples))))
        latents, labels = model.encode(pixels, task.generator), task.labels[: model.batch]
        latents = latents[torch.arange(len(labels)) % len(latents)]
        encoding = seconds_per_step(lambda _: model.encode(pixels, task.generator), steps=1) / len(pixels)
        model.scheduler.set_timesteps(self.steps)
        one = (latents.to(task.device), model.scheduler.timesteps[0], labels, self.guidance)
        denoising = seconds_per_step(lambda _: model.guided(*one), steps=1)
        decoding = seconds_per_step(lambda _: model.decode(latents), steps=1)
        each = (int(self.steps * self.strength) * denoising + decoding) / len(labels)
        return [
            Phase("images to encode", len(task.samples), encoding),
            Phase("images to generate", len(task.labels), each),
        ]


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


def _numbers(model: LatentDiffusion, task: Task) -> int:
    """How many numbers the images of a batch are, by which the threads are chosen."""
    return model.frame(torch.zeros(1, *task.samples.images.shape[1:])).numel() * model.batch
