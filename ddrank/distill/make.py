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
from ddrank.data import RealDataset, fit_space, write_distilled
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


def make_if_embedded(config: DictConfig, real: RealDataset, engine: Engine, store: Store, display: Display) -> None:
    """Before an evaluation: on an embedded dataset, make the distilled data of `config` if there are none, and say so.

    Data made with other settings than the configuration's, but for their seed, are refused with an InputError.
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
    distill(config, real, None, engine, store, display)


def distill(
    config: DictConfig,
    real: RealDataset,
    seed: int | None,
    engine: Engine,
    store: Store,
    display: Display,
    overwrite: bool = False,
) -> tuple[Path, bool]:
    """Make the distilled dataset that `config` names, unless it is there already. Returns its path and whether it was
    made now.

    Without a `seed`, one made with any seed will do. Raises InputError when there is one made with other settings, and
    `overwrite` is false.
    """
    folder = Path(config.method.data)
    distiller: Distiller = build.build(config.method.distiller, "method.distiller")
    space = fit_space(config.method.space, real.train, tuple(config.method.mean), tuple(config.method.std), store)
    samples = space.samples(real.kept)
    metadata = {
        "dataset": config.dataset.name,
        "method": config.method.name,
        "ipc": config.ipc,
        "space": config.method.space,
        "distiller": {"kind": type(distiller).__name__, **distiller.parameters()},
        "made_from": {"images": samples.fingerprint, "networks": _networks(config, distiller)},
        "seed": DEFAULT_SEED if seed is None else seed,
    }
    with FileLock(store.root / "locks" / f"{digest({'distilled': str(folder.resolve())})}.lock"):
        if (folder / FILE).exists() and not overwrite:
            _same_settings(folder / FILE, metadata if seed is not None else metadata | {"seed": None})
            return folder / FILE, False
        room = TeacherRoom(config, real, store, engine, display)

        def network(name: str) -> nn.Module:
            model = model_named(name, config)
            return build_model(model, num_classes=real.num_classes, channels=real.channels, size=real.size)

        def trained(name: str) -> nn.Module:
            return room.trained(model_named(name, config), space)[0].to(engine.device).eval()

        with isolate_rng(), engine.cores():
            seed_everything(derived_seed(metadata["seed"], "distillation"), verbose=False)
            task = Task(
                real=real,
                samples=samples,
                space=space,
                ipc=config.ipc,
                generator=torch.Generator().manual_seed(derived_seed(metadata["seed"], "distiller's choices")),
                network=network,
                trained=trained,
                device=engine.device,
                display=display,
            )
            made = distiller.distill(task)
        path = write_distilled(
            folder,
            made.images,
            task.labels,
            metadata=metadata,
            others=made.others,
            soft_labels=made.soft_labels,
            lr=made.lr,
        )
        pixels = space.inverse(made.images).clamp(0, 1)
        pictures.grid(pixels, task.labels, real.class_names, folder / "grid.png")
    return path, True


def _networks(config: DictConfig, distiller: Distiller) -> dict[str, Any]:
    """What the networks of a distiller are and, where it wants them trained, how."""
    name = config.method.distiller.get("model")
    model = {} if name is None else {"model": build.unnamed(model_named(name, config))}
    return model | ({"training": build.plain(config.dataset.teacher)} if distiller.wants_trained else {})


def _same_settings(path: Path, wanted: dict[str, Any]) -> None:
    found = read_metadata(path)
    for key, value in wanted.items():
        if value is not None and key in found and found[key] != value:
            raise InputError(
                f"{path} was made with {_difference(key, found[key], value)}: make it anew with "
                "`python -m ddrank.distill`, the same settings and overwrite=true, or choose another paths.distilled"
            )


def _difference(key: str, found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next(name for name in {**found, **wanted} if found.get(name) != wanted.get(name))
        return _difference(key, found.get(key), wanted.get(key))
    if key == "images":
        return "other training images (another split, normalisation or loader of the dataset) than those asked for now"
    return f"{key}={found}, not {wanted} as asked for now"
