"""Latent diffusion: images as latents of an autoencoder, and a network that takes noise out of latents, given a class.

What D4M needs of such a model, whoever has trained it: Stable Diffusion in a folder (`stable_diffusion`), or small
networks trained on the dataset (`small_diffusion`). From the latents on all is the same.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ddrank.distill.base import Phase
from ddrank.engine import Engine
from ddrank.errors import InputError


class LatentDiffusion(ABC):
    """An autoencoder, a denoising network and its scheduler, of the `diffusers` library (Rombach et al., CVPR 2022).

    Attributes:
        scale: what the autoencoder's latents are multiplied with, for a variance of about 1.
        conditions: what the network is told of each class, and last of none, (classes + 1, ...).
        batch: images that are encoded, or generated, at a time.
    """

    vae: nn.Module
    unet: nn.Module
    scheduler: Any
    scale: float
    conditions: Tensor
    batch: int

    def __init__(self, engine: Engine):
        self._engine = engine

    @abstractmethod
    def frame(self, pixels: Tensor) -> Tensor:
        """Pixels of the dataset, (N, C, H, W), as the autoencoder takes them, both in [0, 1]."""

    @abstractmethod
    def unframe(self, pixels: Tensor) -> Tensor:
        """The way back from `frame`."""

    @abstractmethod
    def predict(self, latents: Tensor, timestep: Tensor, conditions: Tensor) -> Tensor:
        """The noise in `latents` (N, D, h, w) at `timestep`, under `conditions` (N, ...)."""

    def missing(self) -> list[Phase]:
        """What has to be trained first, and what that will cost."""
        return []

    def make(self) -> None:  # noqa: B027, nothing is missing of a model in a folder
        """Train what is missing."""

    @torch.no_grad()
    def encode(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Scaled latents (N, D, h, w), on the CPU, of pixels (N, C, H, W) in [0, 1]: a draw from the posterior each."""
        images = 2 * self.frame(pixels.to(self._engine.device)) - 1
        with self._engine.autocast():
            posterior = self.vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(images.device)
        return (self.scale * (posterior.mean.float() + posterior.std.float() * noise)).cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels in [0, 1], (N, C, H, W), on the CPU, of scaled latents (N, D, h, w)."""
        with self._engine.autocast():
            images = self.vae.decode(latents.to(self._engine.device) / self.scale).sample.float()
        return self.unframe((images / 2 + 0.5).clamp(0, 1)).clamp(0, 1).cpu()

    @torch.no_grad()
    def denoise(
        self, latents: Tensor, labels: Tensor, strength: float, steps: int, guidance: float, generator: torch.Generator
    ) -> Tensor:
        """`latents` (N, D, h, w) noised and denoised, on the CPU: image-to-image (SDEdit, Meng et al., ICLR 2022) with
        classifier-free guidance (Ho and Salimans, 2022) towards the classes `labels` (N,).

        Of the scheduler's `steps`, the last int(steps * strength) are taken. At strength 0 these are none.
        """
        taken = int(steps * strength)
        if not taken:
            return latents
        self.scheduler.set_timesteps(steps)
        first = (steps - taken) * self.scheduler.order
        timesteps = self.scheduler.timesteps[first:]
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)
        noise = torch.randn(latents.shape, generator=generator)
        latents = self.scheduler.add_noise(latents, noise, timesteps[:1]).to(self._engine.device)
        for timestep in timesteps:
            scaled = self.scheduler.scale_model_input(latents, timestep)
            predicted = self.guided(scaled, timestep, labels, guidance)
            latents = self.scheduler.step(predicted, timestep, latents, **self._draws(generator)).prev_sample
        return latents.float().cpu()

    @torch.no_grad()
    def guided(self, latents: Tensor, timestep: Tensor, labels: Tensor, guidance: float) -> Tensor:
        """noise(nothing) + guidance * (noise(class) - noise(nothing)), of `latents` (N, D, h, w) on the device, at
        `timestep`, for the classes `labels` (N,)."""
        conditions = self.conditions[labels].to(latents.device)
        nothing = self.conditions[-1:].expand_as(conditions).to(latents.device)
        with self._engine.autocast():
            if guidance == 1:
                return self.predict(latents, timestep, conditions).float()
            both = self.predict(torch.cat([latents, latents]), timestep, torch.cat([nothing, conditions]))
        of_nothing, of_class = both.float().chunk(2)
        return of_nothing + guidance * (of_class - of_nothing)

    def _draws(self, generator: torch.Generator) -> dict[str, torch.Generator]:
        """The source of random numbers, for schedulers that add noise at every step."""
        return {"generator": generator} if "generator" in inspect.signature(self.scheduler.step).parameters else {}


def library(name: str) -> Any:
    """The library `name` of the extra `diffusion`. Raises InputError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"method=d4m generates images with the package {name}, which is not installed: "
            'pip install "ddrank[diffusion]"'
        ) from error
