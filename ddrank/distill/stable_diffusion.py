"""Stable Diffusion from a folder, as `diffusers` saves it: prompts are the names of the dataset's classes.

Its images come from outside the dataset: what it was trained on is in what it makes.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from ddrank.data import RealDataset
from ddrank.data.readers import sha256_of
from ddrank.distill.base import Task
from ddrank.distill.latents import LatentDiffusion, library
from ddrank.errors import InputError

_KEPT_SIZE = 224  # pixels: D4M's code keeps its images at this size, smaller ones are made of them
_SYNSET = re.compile(r"n\d{8}")
_PARTS = ("vae", "unet", "scheduler", "tokenizer", "text_encoder")


class StableDiffusion(LatentDiffusion):
    """Stable Diffusion 1 or 2, read from `folder` and nowhere else.

    Images are resized to the pixels that it was trained on, and back by way of 224, as in D4M's code; grey ones are
    given three equal channels, and the mean of the three back.
    """

    batch = 4

    def __init__(self, folder: Path, task: Task, negative: str):
        super().__init__(task.engine)
        diffusers, transformers = library("diffusers"), library("transformers")
        _check(folder)
        prompts = _prompts(task.real)
        transformers.utils.logging.disable_progress_bar()  # the display has its own
        try:
            self.vae = diffusers.AutoencoderKL.from_pretrained(folder, **_local(folder, "vae"))
            self.unet = diffusers.UNet2DConditionModel.from_pretrained(folder, **_local(folder, "unet"))
            self.scheduler = _scheduler(folder / "scheduler", diffusers)
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            encoder = transformers.CLIPTextModel.from_pretrained(
                folder / "text_encoder",
                local_files_only=True,
                use_safetensors=True,
                variant=_variant(folder / "text_encoder"),
            )
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise _unreadable(folder, (str(error).strip() or type(error).__name__).splitlines()[0]) from error
        if self.unet.config.in_channels != self.vae.config.latent_channels:
            raise _unreadable(folder, "its unet takes more than latents: it is made for inpainting or the like")
        for network in (self.vae, self.unet, encoder):
            network.float().eval().requires_grad_(False).to(task.device)
        self.scale = self.vae.config.scaling_factor
        self.conditions = _embedded([*prompts, negative], tokenizer, encoder, task.device)
        self._channels, self._size = task.real.channels, task.real.size
        self._trained_on = self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def frame(self, pixels: Tensor) -> Tensor:
        coloured = pixels.expand(-1, 3, -1, -1) if self._channels == 1 else pixels
        return _resized(coloured, self._trained_on, tv.InterpolationMode.BILINEAR)

    def unframe(self, pixels: Tensor) -> Tensor:
        kept = _resized(pixels, _KEPT_SIZE, tv.InterpolationMode.BICUBIC).clamp(0, 1)
        resized = _resized(kept, self._size, tv.InterpolationMode.BILINEAR)
        return resized.mean(1, keepdim=True) if self._channels == 1 else resized

    def predict(self, latents: Tensor, timestep: Tensor, conditions: Tensor) -> Tensor:
        return self.unet(latents, timestep, encoder_hidden_states=conditions).sample


def fingerprint(folder: Path) -> str:
    """A digest of what the files of a checkpoint hold; of weights in other forms than safetensors, which are not read,
    by their names and sizes."""
    found = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        facts = file.stat()
        found.update(f"{file.relative_to(folder).as_posix()} {facts.st_size} ".encode())
        if file.suffix in (".json", ".safetensors"):
            found.update(_content(file, facts.st_size, facts.st_mtime_ns).encode())
    return found.hexdigest()[:16]


@cache
def _content(file: Path, size: int, changed: int) -> str:
    """The sha256 of a file, of gigabytes perhaps, read once a process."""
    return sha256_of(file)


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(
            f"method.distiller.checkpoint is {str(folder)!r}, which is no folder: give one with a Stable Diffusion "
            "model as diffusers saves it, or null for a small model trained on the dataset"
        )
    if absent := [part for part in _PARTS if not (folder / part).is_dir()]:
        raise _unreadable(folder, f"it has no {absent[0]}")
    if (folder / "text_encoder_2").exists():
        raise _unreadable(folder, "it has two text encoders, as Stable Diffusion XL has")


def _prompts(real: RealDataset) -> list[str]:
    """The names of the classes in words."""
    if synset := next((name for name in real.class_names if _SYNSET.fullmatch(name)), None):
        raise InputError(
            f"a class of {real.name} has no name but {synset}, which is no prompt for method.distiller.checkpoint: put "
            "words.txt (synset, tab, words) into the folder of the dataset, as its archive has it"
        )
    return [name.replace("_", " ") for name in real.class_names]


def _unreadable(folder: Path, reason: str) -> InputError:
    return InputError(
        f"{folder} cannot be used as method.distiller.checkpoint ({reason}): give a folder of Stable Diffusion 1 or 2 "
        f"with {', '.join(_PARTS)}, weights as safetensors"
    )


def _local(folder: Path, part: str) -> dict[str, Any]:
    """How a part is read: from the folder alone, and no pickles."""
    where = {"subfolder": part, "variant": _variant(folder / part), "local_files_only": True}
    return where | {"use_safetensors": True, "low_cpu_mem_usage": False}  # true would ask for another package


def _variant(folder: Path) -> str | None:
    """`fp16`, where there are weights of that kind alone."""
    files = [path.name for path in folder.glob("*.safetensors")]
    return "fp16" if files and all(".fp16." in name for name in files) else None


def _scheduler(folder: Path, diffusers: Any) -> Any:
    """The scheduler that the folder names: that of its model, as published."""
    name = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8")).get("_class_name", "")
    kind = getattr(diffusers, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ValueError(f"its scheduler is {name!r}, which the installed diffusers does not have")
    return kind.from_pretrained(folder, local_files_only=True)


@torch.no_grad()
def _embedded(prompts: list[str], tokenizer: Any, encoder: Any, device: str) -> Tensor:
    """The text encoder's states (N, L, D) for prompts, on the CPU."""
    tokens = tokenizer(
        prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    return torch.cat([encoder(part.to(device))[0].cpu() for part in tokens.input_ids.split(100)])


def _resized(pixels: Tensor, size: int, how: tv.InterpolationMode) -> Tensor:
    return pixels if pixels.shape[-1] == size else tv.resize(pixels, [size, size], how, antialias=True)
