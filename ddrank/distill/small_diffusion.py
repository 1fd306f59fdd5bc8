"""A small latent diffusion model of the dataset itself: an autoencoder and a class-conditional U-Net, trained once for
a dataset and kept in the store, each as soon as it is there.

It has seen the training images and nothing else. In place of Stable Diffusion's negative prompt stands a class of its
own for "no class", which a tenth of the labels are replaced with (Ho and Salimans, 2022).
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ddrank.data import Samples
from ddrank.data.samples import Batches
from ddrank.distill.base import Phase, Task, seconds_per_step
from ddrank.distill.latents import LatentDiffusion, library
from ddrank.progress import duration
from ddrank.student import derived_seed

VERSION = 1  # raise it when the same key would get other weights
_LATENT_CHANNELS, _GROUPS = 4, 8
_LR, _WARM_UP = 2e-3, 100  # of AdamW; steps
_BATCH, _UNET_BATCH = 64, 128
_KL = 1e-4  # weight of the posterior's divergence, for each number of a latent
_DROPPED = 0.1  # part of the labels
_MEASURED = 2000  # images whose latents give the scale
_MEMORY = 1 / 12  # part of the U-Net's training that its averaged weights look back on


class SmallDiffusion(LatentDiffusion):
    """`AutoencoderKL` and `UNet2DModel`, without attention: see `D4M` for the arguments.

    Images of up to 16 pixels are halved once, of up to 64 twice, larger ones three times; what cannot be halved once
    more, by the U-Net, is given a black margin.
    """

    batch = _BATCH

    def __init__(self, task: Task, autoencoder_width: int, autoencoder_steps: int, unet_width: int, unet_steps: int):
        super().__init__(task.engine)
        self._task, self._diffusers = task, library("diffusers")
        self._size = task.real.size
        self._halvings = 1 if self._size <= 16 else 2 if self._size <= 64 else 3
        coarsest = 2 ** (self._halvings + 1)
        self._margin = -self._size % coarsest
        self._widths = autoencoder_width, unet_width
        self._steps = autoencoder_steps, unet_steps
        with isolate_rng():
            self.vae, self.unet = self.new_vae().eval(), self.new_unet().eval()
        self.scale = 1.0
        self.conditions = torch.arange(task.real.num_classes + 1)
        noise = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}  # Stable Diffusion's
        self.scheduler = self._diffusers.DDIMScheduler(
            **noise, num_train_timesteps=1000, clip_sample=False, steps_offset=1, set_alpha_to_one=False
        )

    def frame(self, pixels: Tensor) -> Tensor:
        before = self._margin // 2
        return F.pad(pixels, (before, self._margin - before) * 2)

    def unframe(self, pixels: Tensor) -> Tensor:
        before = self._margin // 2
        return pixels[..., before : before + self._size, before : before + self._size]

    def predict(self, latents: Tensor, timestep: Tensor, conditions: Tensor) -> Tensor:
        return self.unet(latents, timestep, class_labels=conditions).sample

    def missing(self) -> list[Phase]:
        return [part.rehearse() for part in self._trainings() if not self._task.store.has_tensors(part.key)]

    def make(self) -> None:
        autoencoder, unet = self._trainings()
        about = {"dataset": self._task.real.name}
        kept = self._task.store.tensors(autoencoder.key, autoencoder.run, about)
        self.scale = float(kept.pop("scale"))
        self.vae.load_state_dict(kept)
        self.unet.load_state_dict(self._task.store.tensors(unet.key, unet.run, about))

    def new_vae(self) -> nn.Module:
        """An untrained autoencoder, on the device."""
        widths = [self._widths[0] * min(2, level + 1) for level in range(self._halvings + 1)]
        made = self._diffusers.AutoencoderKL(
            in_channels=self._task.real.channels,
            out_channels=self._task.real.channels,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=1,
            latent_channels=_LATENT_CHANNELS,
            norm_num_groups=_GROUPS,
            sample_size=self._size + self._margin,
            mid_block_add_attention=False,
        )
        return made.to(self._task.device)

    def new_unet(self) -> nn.Module:
        """An untrained U-Net, on the device."""
        made = self._diffusers.UNet2DModel(
            sample_size=(self._size + self._margin) // 2**self._halvings,
            in_channels=_LATENT_CHANNELS,
            out_channels=_LATENT_CHANNELS,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            block_out_channels=(self._widths[1], 2 * self._widths[1]),
            layers_per_block=1,
            norm_num_groups=_GROUPS,
            add_attention=False,
            num_class_embeds=self._task.real.num_classes + 1,
        )
        return made.to(self._task.device)

    def _trainings(self) -> tuple[_Autoencoder, _UNet]:
        samples, precision = self._task.real.kept, self._task.engine.precision
        key = {"version": VERSION, "train": samples.fingerprint, "precision": precision}
        of_vae = key | {"kind": "autoencoder", "width": self._widths[0], "steps": self._steps[0]}
        of_unet = {"kind": "latent diffusion", "width": self._widths[1], "steps": self._steps[1], "autoencoder": of_vae}
        return (
            _Autoencoder("autoencoder", of_vae, self._steps[0], self, self._task),
            _UNet("diffusion model", of_unet, self._steps[1], self, self._task),
        )


class _Training(ABC):
    """One of the two networks in training: `steps` of AdamW, warmed up, then along half a cosine to 0.

    Its random numbers derive from its name alone: every distillation that has to train it gets the same weights.

    Attributes:
        key: of its weights in the store.
        loss: what its loss is called.
    """

    batch_size: int
    loss: str

    def __init__(self, name: str, key: dict[str, Any], steps: int, model: SmallDiffusion, task: Task):
        self.name, self.key, self.steps, self.model, self.task = name, key, steps, model, task
        self._device = task.device

    @abstractmethod
    def samples(self) -> Samples:
        """What it is trained on."""

    @abstractmethod
    def few(self) -> Samples:
        """A batch of the same shape, for a rehearsal."""

    @abstractmethod
    def begin(self) -> None:
        """An untrained network and its optimizer."""

    @abstractmethod
    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch of `samples`, and the part of it that is worth telling."""

    @abstractmethod
    def result(self) -> dict[str, Tensor]:
        """What goes into the store."""

    def run(self) -> dict[str, Tensor]:
        """All of its steps: what goes into the store."""
        display, began, what = self.task.display, time.monotonic(), f"{self.name} of {self.task.real.name}"
        told = torch.zeros(self.steps)
        with isolate_rng(include_cuda=self._device == "cuda"):
            torch.manual_seed(derived_seed(0, self.name))
            self.begin()
            with (
                Batches(self.samples(), self.batch_size) as batches,
                display.activity(f"training the {what}", self.steps) as advance,
            ):
                for step, batch in zip(range(self.steps), _endless(batches), strict=False):
                    told[step] = self.step(batch)
                    advance(f"{self.loss} {told[step]:.4f}")
            trained = self.result()
        loss, taken = float(told[-100:].mean()), duration(time.monotonic() - began)
        display.say(f"trained the {what} in {taken}: {self.loss} {loss:.4f}, kept in the store")
        return trained

    def rehearse(self) -> Phase:
        """What `run` will cost, from a few steps that leave nothing behind."""
        with isolate_rng(include_cuda=self._device == "cuda"):
            self.begin()
            (batch,) = Batches(self.few(), self.batch_size)
            return Phase(f"steps of the {self.name}", self.steps, seconds_per_step(lambda _: self.step(batch)))

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        """One step; the loss that is worth telling."""
        images, labels = batch["image"].to(self._device), batch["label"].to(self._device)
        with self.task.engine.autocast():
            loss, told = self.losses(images, labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        return told.detach()

    def _optimise(self, network: nn.Module) -> None:
        self._optimizer = torch.optim.AdamW(network.parameters(), _LR)
        warm_up, steps = min(_WARM_UP, self.steps // 10 + 1), self.steps
        self._schedule = LambdaLR(
            self._optimizer, lambda step: min(1, (step + 1) / warm_up) * (1 + math.cos(math.pi * step / steps)) / 2
        )


class _Autoencoder(_Training):
    batch_size, loss = _BATCH, "squared error"

    def samples(self) -> Samples:
        return self.task.real.kept

    def few(self) -> Samples:
        return self.task.real.kept[torch.arange(min(self.batch_size, len(self.task.real.kept)))]

    def begin(self) -> None:
        self._vae = self.model.new_vae().train()
        self._optimise(self._vae)

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of pixels in [-1, 1], and the posterior's divergence from a standard normal."""
        images = 2 * self.model.frame(images) - 1
        posterior = self._vae.encode(images).latent_dist
        error = F.mse_loss(self._vae.decode(posterior.sample()).sample.float(), images)
        return error + _KL * posterior.kl().mean() / posterior.mean[0].numel(), error

    def result(self) -> dict[str, Tensor]:
        self.model.vae, self.model.scale = self._vae.eval(), 1.0
        chosen = torch.randperm(len(self.task.real.kept))[:_MEASURED]
        generator = torch.Generator().manual_seed(derived_seed(0, "scale of the latents"))
        latents = [self.model.encode(self.task.real.kept.floats(part), generator) for part in chosen.split(_BATCH)]
        return self._vae.state_dict() | {"scale": 1 / torch.cat(latents).std()}


class _UNet(_Training):
    batch_size, loss = _UNET_BATCH, "squared error of the noise"

    def samples(self) -> Samples:
        """The latents of all images."""
        kept, generator = self.task.real.kept, torch.Generator().manual_seed(derived_seed(0, "latents to train on"))
        latents = [
            self.model.encode(kept.floats(part), generator) for part in torch.arange(len(kept)).split(self.model.batch)
        ]
        return Samples(torch.cat(latents), kept.labels)

    def few(self) -> Samples:
        side = self.model.unet.config.sample_size
        count = min(self.batch_size, len(self.task.real.kept))
        return Samples(torch.randn(count, _LATENT_CHANNELS, side, side), torch.zeros(count, dtype=torch.long))

    def begin(self) -> None:
        self._unet = self.model.new_unet().train()
        decay = max(0.0, 1 - 1 / (_MEMORY * self.steps))
        self._average = AveragedModel(self._unet, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self._optimise(self._unet)

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        told = super().step(batch)
        self._average.update_parameters(self._unet)
        return told

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of the noise (Ho, Jain and Abbeel, NeurIPS 2020, equation 14)."""
        scheduler = self.model.scheduler
        noise = torch.randn_like(images)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(images),), device=images.device)
        dropped = torch.rand(len(images), device=images.device) < _DROPPED
        labels = labels.masked_fill(dropped, self.task.real.num_classes)
        predicted = self._unet(scheduler.add_noise(images, noise, timesteps), timesteps, class_labels=labels).sample
        error = F.mse_loss(predicted.float(), noise)
        return error, error

    def result(self) -> dict[str, Tensor]:
        return self._average.module.state_dict()


def _endless(batches: Batches) -> Iterator[dict[str, Tensor]]:
    """Pass after pass."""
    while True:
        yield from batches
