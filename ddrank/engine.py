"""The machine a student is trained on: device, precision, threads, workers, memory, compilation."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig
from torch import nn

from ddrank import __version__, ranks
from ddrank.crew import Crew, cores, possible
from ddrank.data.samples import Samples
from ddrank.errors import InputError
from ddrank.forward import Forward
from ddrank.ranks.place import place
from ddrank.ranks.strategy import Terminated, among
from ddrank.ranks.team import Team, team

if TYPE_CHECKING:
    from ddrank.data.stored_views import StoredViews

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_SMALL_STEP = 3 * 64 * 32 * 32  # numbers in a batch of images
_MOST_SHARED = 1 << 28  # numbers of the images that a worker is sent
_GPU_WORKERS = 4
_TRIM_SECONDS = 10.0
_IMPORTED = time.time()
_DEVICE_SHARE = 0.25  # of a process's part of the device memory, for one set of samples
PRECISIONS = ("32-true", "tf32", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Engine:
    """Where and how students are trained; only `precision` and the number of devices, and of these their kind, change
    their numbers by more than rounding.

    Attributes:
        device: cpu, cuda or mps.
        precision: one of PRECISIONS.
        threads: CPU threads for one student; "auto": one for small steps, else all cores; "all".
        workers: most processes that train students side by side.
        compile: whether networks are compiled; "auto": where it pays (see `ddrank.forward.Forward`).
        channels_last: whether images and weights lie that way; "auto": in reduced precision.
        allocator: keep freed memory in the process.
        checkpoint_every: minutes between two checkpoints of a fit, and before the first; 0: none.
        devices, nodes: how many devices of each of how many machines train a student together.
    """

    device: str = "cpu"
    precision: str = "32-true"
    threads: int | str = "auto"
    workers: int = 1
    compile: bool | str = False
    channels_last: bool | str = False
    allocator: bool = False
    checkpoint_every: float = 0.0
    devices: int = 1
    nodes: int = 1

    @property
    def ranks(self) -> int:
        """How many processes train a student together, with a device each."""
        return self.devices * self.nodes

    @property
    def team(self) -> Team:
        """Those processes, seen from this one."""
        return team(self.ranks)

    def ranks_for(self, batch_size: int, count: int, views: StoredViews | None = None) -> int:
        """How many processes train a student on `count` samples, or on stored `views` of them: one, where a batch has
        fewer than two samples for each of them, for batch normalisation cannot train on one."""
        smallest = min(batch_size, count) if views is None else min(views.sizes)
        return self.ranks if smallest >= 2 * self.ranks else 1

    def in_key(self, *batches: Any) -> dict[str, Any]:
        """What belongs into the key of a student with such batches (see `ranks_for`): several processes draw other
        augmentations, and on a CPU take the statistics of batch normalisation apart."""
        count = self.ranks_for(*batches)
        together = {"ranks": count, "statistics": "apart" if self.device == "cpu" else "whole"}
        return {"precision": self.precision} | (together if count > 1 else {})

    def alone(self) -> Engine:
        """The same engine for this process alone."""
        return replace(self, devices=1, nodes=1)

    def settle(self) -> None:
        """Set this process up accordingly; needed once in each process that trains."""
        _quiet_lightning()
        if self.allocator and (mallopt := _from_libc("mallopt")):
            # Freed blocks stay: returning them to the kernel costs page faults at every training step.
            mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(_M_ARENA_MAX, 1)  # what the backward pass frees serves the next forward pass
        if self.device == "cuda":
            tf32 = self.precision == "tf32"
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True

    def trim(self) -> None:
        """Give the memory that this process keeps but does not use back to the system."""
        if self.allocator and (trim := _from_libc("malloc_trim")):
            trim(0)

    def trainer(self, epochs: int, callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
        """A Lightning trainer for one fit that logs, saves and prints nothing of its own."""
        apart = [Terminated()] if self.ranks > 1 else []
        return Trainer(
            max_epochs=epochs,
            callbacks=[*callbacks, *apart, _Endings(), _Trimming(self)],
            accelerator="gpu" if self.device == "cuda" else self.device,
            precision="32-true" if self.precision == "tf32" else self.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            inference_mode=False,  # its tensors are of another kind, for which a network would be compiled once more
            **among(self.team, self.device),
            **options,
        )

    def forward(self, network: nn.Module) -> Forward:
        """How `network` is called in training and testing."""
        channels_last = self.channels_last
        if channels_last == "auto":
            reduced = self.precision.endswith("mixed")
            channels_last = reduced and (True if self.device == "cuda" else "compiled")
        mode = False if self.device == "mps" and self.compile == "auto" else self.compile
        return Forward(network, mode, channels_last)

    def autocast(self) -> torch.autocast:
        """The precision of a computation outside a trainer; gradients of 16-mixed would need a scale."""
        dtype = torch.float16 if self.precision == "16-mixed" else torch.bfloat16
        return torch.autocast(self.device, dtype, enabled=self.precision.endswith("mixed"))

    @property
    def test_batch(self) -> int:
        """Images in a test batch, at most. More are no faster on a CPU, and cost memory."""
        return 100 if self.device == "cpu" else 500

    def place(self, samples: Samples) -> Samples:
        """`samples` on the device, where they fit; else where they are, to be sent batch by batch."""
        if self.device != "cuda":
            return samples if self.device == "cpu" else samples.to(self.device)
        _, memory = torch.cuda.mem_get_info()
        return samples.to(self.device) if samples.nbytes < _DEVICE_SHARE * memory / self.workers else samples

    def threads_for(self, numbers: int) -> int:
        """CPU threads for a student whose training batches are `numbers` numbers.

        A small step gains little from a second thread, and loses much where another program takes that core: the
        threads wait for each other at every operation. It depends on the student alone, and holds for its tests too.
        """
        if isinstance(self.threads, int):
            return self.threads
        return 1 if self.threads == "auto" and numbers <= _SMALL_STEP else cores()

    def beside(self, numbers: int, total: int = 0) -> bool:
        """Whether students with training batches of `numbers` numbers are trained side by side; `total` numbers are all
        images that they are trained and tested on."""
        if self.workers < 2 or total > _MOST_SHARED:
            return False
        return numbers <= _SMALL_STEP if self.device == "cuda" else self.threads_for(numbers) * 2 <= max(2, cores())

    def crew(self) -> Crew | None:
        """The worker processes of this engine, none where one student is trained after the other. They are started on
        demand and serve all evaluations of this process."""
        return _crew(self) if self.workers > 1 else None

    @contextmanager
    def cores(self, numbers: int | None = None) -> Iterator[None]:
        """The CPU threads for a student whose training batches are `numbers` numbers; without one, all that it has."""
        before = torch.get_num_threads()
        own = self.threads if isinstance(self.threads, int) else cores()
        torch.set_num_threads(own if numbers is None else self.threads_for(numbers))
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
            **({"devices": self.ranks} if self.ranks > 1 else {}),
            "precision": self.precision,
            "threads": "one for small steps, else all cores" if self.threads == "auto" else self.threads,
            "workers": self.workers,
            "compile": self.compile,
            "processor": processor,
            "cores": cores(),
        }


class _Trimming(Callback):
    """Gives free memory back now and then. Blocks that stay in the process are cut into pieces in the course of a fit:
    at batches of 100 MB it would grow by as much every few seconds."""

    def __init__(self, engine: Engine):
        self._engine, self._last = engine, time.monotonic()

    def on_train_batch_end(self, *_: Any) -> None:
        if (now := time.monotonic()) - self._last >= _TRIM_SECONDS:
            self._engine.trim()
            self._last = now

    on_validation_batch_end = on_train_batch_end

    def on_fit_end(self, *_: Any) -> None:
        self._engine.trim()


class _Endings(Callback):
    """Signals end the process as they would without Lightning, which has exit statuses of its own for them."""

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            raise exception
        if isinstance(exception, SystemExit):  # what Lightning makes of SIGTERM
            raise SystemExit(128 + signal.SIGTERM) from exception

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if trainer.received_sigterm:  # after the last batch, where nothing asks any more
            raise SystemExit(128 + signal.SIGTERM)


def start(config: DictConfig) -> Engine:
    """The engine that the `engine` config says, with this process set up for it. Raises InputError."""
    if config.precision not in PRECISIONS:
        raise InputError(f"engine.precision is {config.precision!r}, expected one of {', '.join(PRECISIONS)}")
    device = _device(config.accelerator)
    if config.precision in ("tf32", "16-mixed") and device != "cuda":
        raise InputError(
            f"engine.precision={config.precision} needs a CUDA GPU, but the device is {device}: choose 32-true or "
            "bf16-mixed"
        )
    devices = _devices(config, device)
    ranks.expect(devices, config.nodes)
    engine = Engine(
        device=device,
        precision=config.precision,
        threads=config.threads,
        workers=1 if devices * config.nodes > 1 else _workers(config, device),
        compile=config.compile,
        channels_last=config.channels_last,
        allocator=config.allocator,
        checkpoint_every=config.checkpoint_every or 0.0,
        devices=devices,
        nodes=config.nodes,
    )
    engine.settle()
    return engine


@lru_cache(maxsize=1)
def _crew(engine: Engine) -> Crew:
    return Crew(engine, engine.workers)


def process_began() -> float:
    """When this process was started, seconds since 1970; where the system does not tell, when this was imported."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        return _IMPORTED


def _workers(config: DictConfig, device: str) -> int:
    if device == "mps" or not possible():
        return 1
    if config.workers != "auto":
        return config.workers
    if sys.platform == "darwin":  # its libraries do not like to be forked
        return 1
    if device == "cuda":
        return max(1, min(_GPU_WORKERS, cores() // 2))
    return max(1, cores() // (config.threads if isinstance(config.threads, int) else 1))


def _device(accelerator: str) -> str:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if accelerator == "auto":
        return next((name for name in ("cuda", "mps") if available[name]), "cpu")
    if accelerator not in available:
        raise InputError(f"engine.accelerator is {accelerator!r}, expected one of auto, {', '.join(available)}")
    if not available[accelerator]:
        raise InputError(f"engine.accelerator={accelerator}, but this machine has none: choose auto or cpu")
    return accelerator


def _devices(config: DictConfig, device: str) -> int:
    there = torch.cuda.device_count() if device == "cuda" else 1
    if config.devices == "auto":
        return there
    started_here = place() is None  # others may see a GPU each
    if config.devices > there and (device == "mps" or (device == "cuda" and started_here)):
        raise InputError(f"engine.devices={config.devices}, but this machine has {there} ({device}): choose {there}")
    return config.devices


def _from_libc(name: str) -> Callable[..., int] | None:
    """A function of the C library, where it is glibc; others have none of these."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None


def _quiet_lightning() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
