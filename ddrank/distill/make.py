"""One distillation: from a config to a file, which is made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig
from torch import nn

from ddrank import build, pictures
from ddrank.config import model_named
from ddrank.data import fit_space, load_real, write_distilled
from ddrank.data.distilled import FILE, read_metadata
from ddrank.distill.base import Distiller, Task
from ddrank.engine import Engine
from ddrank.errors import InputError
from ddrank.models import build as build_model
from ddrank.progress import Display
from ddrank.store import Store, digest
from ddrank.student import derived_seed
from ddrank.teacher import TeacherRoom

DEFAULT_SEED = 0


def make_if_embedded(config: DictConfig, engine: Engine, store: Store, display: Display) -> None:
    """Before an evaluation: on an embedded dataset, make the distilled data of `config` if there are none, and say so.

    Data that were made with other settings than the configuration's are refused with an InputError.
    """
    if config.method.distiller is None or not config.dataset.embedded:
        return
    path = Path(config.method.data)
    if path.suffix or (path / "images.pt").exists():
        return
    if not (path / FILE).exists():
        display.say(
            f"there are no distilled data of {config.method.name} for {config.dataset.name} at IPC {config.ipc} yet: "
            f"making {path / FILE}, as `python -m ddrank.distill` would"
        )
    distill(config, DEFAULT_SEED, engine, store, display)


def distill(
    config: DictConfig, seed: int, engine: Engine, store: Store, display: Display, overwrite: bool = False
) -> tuple[Path, bool]:
    """Make the distilled dataset that `config` names, unless it is there already. Returns its path and whether it was
    made now.

    Raises InputError when there is one made with other settings, and `overwrite` is false.
    """
    folder = Path(config.method.data)
    distiller: Distiller = build.build(config.method.distiller, "method.distiller")
    metadata = {
        "dataset": config.dataset.name,
        "method": config.method.name,
        "ipc": config.ipc,
        "space": config.method.space,
        "seed": seed,
        "distiller": {"kind": type(distiller).__name__, **distiller.parameters()},
    }
    with FileLock(store.root / "locks" / f"{digest({'distilled': str(folder.resolve())})}.lock"):
        if (folder / FILE).exists() and not overwrite:
            _same_settings(folder / FILE, metadata)
            return folder / FILE, False
        real = load_real(config.dataset, config.paths.data)
        space = fit_space(config.method.space, real.train, tuple(config.method.mean), tuple(config.method.std), store)
        room = TeacherRoom(config, real, store, engine, display)

        def network(name: str) -> nn.Module:
            model = model_named(name, config)
            return build_model(model, num_classes=real.num_classes, channels=real.channels, size=real.size)

        def trained(name: str) -> nn.Module:
            return room.trained(model_named(name, config), space)[0].to(engine.device).eval()

        with isolate_rng(), engine.cores():
            seed_everything(derived_seed(seed, "distillation"), verbose=False)
            task = Task(
                real=real,
                samples=space.samples(real.kept),
                space=space,
                ipc=config.ipc,
                generator=torch.Generator().manual_seed(derived_seed(seed, "distiller's choices")),
                network=network,
                trained=trained,
                device=engine.device,
                display=display,
            )
            made = distiller.distill(task)
        path = write_distilled(
            folder, made.images, task.labels, metadata=metadata, soft_labels=made.soft_labels, lr=made.lr
        )
        pixels = space.inverse(made.images).clamp(0, 1)
        pictures.grid(pixels, task.labels, real.class_names, folder / "grid.png")
    return path, True


def _same_settings(path: Path, wanted: dict) -> None:
    found = read_metadata(path)
    for key in ("dataset", "method", "ipc", "space", "seed", "distiller"):
        if key in found and found[key] != wanted[key]:
            raise InputError(
                f"{path} was made with {_difference(key, found[key], wanted[key])}: make it anew with "
                "`python -m ddrank.distill`, the same settings and overwrite=true, or choose another paths.distilled"
            )


def _difference(key: str, found: Any, wanted: Any) -> str:
    if isinstance(found, dict):
        key = next(name for name in {**found, **wanted} if found.get(name) != wanted.get(name))
        found, wanted = found.get(key), wanted.get(key)
    return f"{key}={found}, not {wanted} as asked for now"
