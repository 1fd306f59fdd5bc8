"""The machine a student is trained on: device, precision, threads, memory."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig

from ddrank import __version__
from ddrank.errors import InputError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SMALL_STEP = 3 * 64 * 32 * 32  # numbers in a batch of images
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Engine:
    """Where and in which precision students are trained."""

    device: str
    precision: str
    threads: int | None

    def trainer(self, epochs: int, **options: Any) -> Trainer:
        """A Lightning trainer for one fit that logs, saves and prints nothing of its own."""
        return Trainer(
            max_epochs=epochs,
            accelerator="gpu" if self.device == "cuda" else self.device,
            devices=1,
            precision=self.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **options,
        )

    @contextmanager
    def cores(self, pixels: int | None = None) -> Iterator[None]:
        """CPU threads for steps on `pixels` numbers: one for small steps, else (or without a number) all cores.

        A small step gains little from a second thread, and loses much where another program takes that core: the
        threads wait for each other at every operation.
        """
        before = torch.get_num_threads()
        small = pixels is not None and pixels <= _SMALL_STEP
        torch.set_num_threads(self.threads or (1 if small else _cores()))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def environment(self) -> dict[str, Any]:
        """What of this machine a result should remember."""
        packages = ("torch", "torchvision", "lightning", "kornia", "timm", "numpy")
        processor = torch.cuda.get_device_name() if self.device == "cuda" else platform.machine()
        return {
            "versions": {
                "ddrank": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in packages},
            },
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads or "one for small steps, else all cores",
            "processor": processor,
            "cores": _cores(),
        }


def start(config: DictConfig) -> Engine:
    """Set this process up as the `engine` config says. Raises InputError."""
    _quiet_lightning()
    if config.precision not in PRECISIONS:
        raise InputError(f"engine.precision is {config.precision!r}, expected one of {', '.join(PRECISIONS)}")
    device = _device(config.accelerator)
    if device == "cuda":
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    if config.allocator:
        _keep_memory()
    return Engine(device=device, precision=config.precision, threads=config.threads)


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device(accelerator: str) -> str:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if accelerator == "auto":
        return next((name for name in ("cuda", "mps") if available[name]), "cpu")
    if accelerator not in available:
        raise InputError(f"engine.accelerator is {accelerator!r}, expected one of auto, {', '.join(available)}")
    if not available[accelerator]:
        raise InputError(f"engine.accelerator={accelerator}, but this machine has none: choose auto or cpu")
    return accelerator


def _keep_memory() -> None:
    """Have glibc keep freed blocks: returning them to the kernel costs page faults at every training step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _quiet_lightning() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
