"""One distillation: from a config to a file, which is made once."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig
from torch import nn
from torch.nn import functional as F

from ddrank import build, pictures
from ddrank.checkpoint import Checkpoint
from ddrank.config import Job as JobSettings
from ddrank.config import model_named
from ddrank.data import RealDataset, Samples, Space, fit_space, write_distilled
from ddrank.data.distilled import FILE, precision_of, read_metadata
from ddrank.data.readers import sha256_of
from ddrank.distill.base import Distilled, Distiller, Iterative, Phase, Task, rehearsal, seconds_per_step
from ddrank.distill.job import Job, Record, carry_out
from ddrank.distill.validation import validation_accuracy
from ddrank.engine import Engine
from ddrank.errors import InputError
from ddrank.loggers import Nothing
from ddrank.models import build as build_model
from ddrank.progress import Display
from ddrank.store import Store, digest
from ddrank.student import derived_seed
from ddrank.teacher import TeacherRoom

_OTHER_IMAGES = "other training images (another split, normalisation or loader of the dataset) than those asked for now"


def make_if_embedded(config: DictConfig, real: RealDataset, engine: Engine, store: Store, display: Display) -> None:
    """Before an evaluation: on an embedded dataset, make the distilled data of `config` if there are none, and say so.

    Data made with other settings than the configuration's are refused with an InputError, but for their seed and, which
    is said, their precision.
    """
    if not ours(config):
        return
    path = Path(config.method.data)
    if not (path / FILE).exists():
        display.say(
            f"there are no distilled data of {config.method.name} for {config.dataset.name} at IPC {config.ipc} yet: "
            f"making {path / FILE}, as `python -m ddrank.distill` would"
        )
    distill(config, real, engine, store, display, as_found=True)


def ours(config: DictConfig) -> bool:
    """Whether the distilled data of `config` are what an evaluation would make, or has made, on an embedded dataset."""
    path = Path(config.method.data)
    if config.method.distiller is None or not config.dataset.embedded:
        return False
    return not path.suffix and not (path / "images.pt").exists()


def distill(
    config: DictConfig,
    real: RealDataset,
    engine: Engine,
    store: Store,
    display: Display,
    overwrite: bool = False,
    as_found: bool = False,
    run_folder: Path | None = None,
) -> tuple[Path | None, bool]:
    """Make the distilled dataset that `config` names, unless it is there already. Returns its path and whether it was
    made now; no path where `job.stop_at` ended it before.

    With `as_found`, one made with another seed or in another precision will do. Jobs that want the same one in several
    folders, which share its checkpoint, make it one after the other. Curves are logged into `run_folder`, where there
    is one. Raises InputError when there is one made with other settings, and `overwrite` is false.
    """
    folder = Path(config.method.data)
    distiller: Distiller = build.build(config.method.distiller, "method.distiller")
    space, samples = _samples(config, real, store)
    identity = _identity(config, distiller, samples)
    key = identity | ({"precision": engine.precision} if distiller.computes else {})
    state = store.root / "distillations" / f"{digest(key)}.pt"
    checkpoint = Checkpoint(state, key, {"folder": str(folder.resolve())}, store.root)
    with store.lock(lock_key(folder)):
        if (folder / FILE).exists() and not overwrite:
            precision = _same_settings(folder / FILE, identity | {"seed": None} if as_found else key)
            if precision != key.get("precision", precision):
                display.say(f"{folder / FILE} was made in {precision}, and is evaluated in {engine.precision}")
            elif (lock := store.claim(key)) is not None:
                checkpoint.remove()
                lock.release()
            return folder / FILE, False
        _check_precision(distiller, engine)
        with store.lock(key):
            with isolate_rng(), engine.cores():
                seed_everything(derived_seed(identity["seed"], "distillation"), verbose=False)
                task = _task(config, real, samples, space, identity["seed"], engine, store, display)
                if isinstance(distiller, Iterative):
                    made, record = _watched(distiller, task, config, checkpoint, run_folder)
                else:
                    if config.get("job") and (config.job.validate_every or config.job.stop_at):
                        name = type(distiller).__name__
                        display.say(f"{name} has no iterations: job.validate_every and job.stop_at do not apply")
                    made, record = distiller.distill(task), Record()
            if made is None:
                display.say(f"stopped as asked; the same command without job.stop_at goes on from {checkpoint.path}")
                return None, False
            _draw(made, record, task, folder)
            path = write_distilled(  # the last: where it is, the dataset counts as made
                folder,
                made.images,
                task.labels,
                metadata=identity | _circumstances(config, engine),
                others=made.others,
                soft_labels=made.soft_labels,
                lr=made.lr,
            )
            checkpoint.remove()
    return path, True


def lock_key(folder: Path) -> dict[str, str]:
    """What whoever writes a distilled dataset into `folder` locks in the store."""
    return {"distilled": str(folder.resolve())}


def check_settings(config: DictConfig, real: RealDataset, store: Store) -> None:
    """Refuse the distilled dataset of ours that `config` names, if it was made with other settings but for its seed and
    precision."""
    distiller, samples = build.build(config.method.distiller, "method.distiller"), _samples(config, real, store)[1]
    _same_settings(Path(config.method.data) / FILE, _identity(config, distiller, samples) | {"seed": None})


def rehearsed(
    config: DictConfig, real: RealDataset, engine: Engine, store: Store, display: Display
) -> tuple[list[Phase], list[str], Space]:
    """What making the distilled dataset that `config` names would cost, from a few steps that leave nothing behind; the
    trained networks that it wants besides, by name, and the space that they are trained in."""
    distiller: Distiller = build.build(config.method.distiller, "method.distiller")
    _check_precision(distiller, engine)
    space, samples = _samples(config, real, store)
    wanted: list[str] = []
    with isolate_rng(), engine.cores():
        seed_everything(derived_seed(config.method.seed, "distillation"), verbose=False)
        task = _task(config, real, samples, space, config.method.seed, engine, store, display)
        task = replace(rehearsal(task), training=lambda name: wanted.append(name) or [])
        return distiller.rehearse(task), wanted, space


def _samples(config: DictConfig, real: RealDataset, store: Store) -> tuple[Space, Samples]:
    """What is distilled from, and the space that it is in."""
    space = fit_space(config.method.made_in, real.train, tuple(config.method.mean), tuple(config.method.std), store)
    return space, space.samples(real.kept)


def _identity(config: DictConfig, distiller: Distiller, samples: Samples) -> dict[str, Any]:
    """What fixes a distilled dataset besides the precision."""
    codes = build.codes(build.plain(config.method.distiller))
    return {
        "dataset": config.dataset.name,
        "method": config.method.name,
        "ipc": config.ipc,
        "space": config.method.made_in,
        "distiller": {"kind": type(distiller).__name__, "version": distiller.version, **distiller.effective()}
        | ({"code": codes} if codes else {}),
        "made_from": {"images": samples.fingerprint, "networks": _networks(config, distiller)},
        "seed": config.method.seed,
    }


def _task(
    config: DictConfig,
    real: RealDataset,
    samples: Samples,
    space: Space,
    seed: int,
    engine: Engine,
    store: Store,
    display: Display,
) -> Task:
    room = TeacherRoom(config, real, store, engine, display)

    def architecture(name: str) -> dict[str, Any]:
        return model_named(name, config)

    def network(name: str) -> nn.Module:
        return build_model(architecture(name), num_classes=real.num_classes, channels=real.channels, size=real.size)

    def trained(name: str) -> nn.Module:
        return room.network(name, space).to(engine.device).eval()

    def training(name: str) -> list[Phase]:
        if not room.missing(name, space):
            return []
        teacher, student = config.dataset.teacher, network(name).to(engine.device).train()
        batch = samples[torch.arange(min(len(samples), teacher.batch_size))]
        images, labels = batch.floats().to(engine.device), batch.labels.to(engine.device)
        taken = seconds_per_step(lambda _: F.cross_entropy(student(images), labels).backward())
        return [Phase(f"epochs of {name}", teacher.epochs, taken * math.ceil(len(samples) / len(labels)))]

    return Task(
        real=real,
        samples=samples,
        space=space,
        ipc=config.ipc,
        generator=torch.Generator().manual_seed(derived_seed(seed, "distiller's choices")),
        network=network,
        trained=trained,
        training=training,
        architecture=architecture,
        store=store,
        engine=engine,
        display=display,
    )


def _watched(
    distiller: Iterative, task: Task, config: DictConfig, checkpoint: Checkpoint, run_folder: Path | None
) -> tuple[Distilled | None, Record]:
    """The long job, with the settings of `job` where the configuration has any, and with its logger."""
    settings = config.get("job") or JobSettings()
    logger = build.build(config.logger, "logger") if run_folder else Nothing()
    if run_folder:
        logger.start(config, run_folder)
    made, record = carry_out(
        distiller,
        task,
        Job(
            checkpoint=checkpoint,
            seconds=60 * settings.checkpoint_minutes,
            frames=settings.frames,
            validate=partial(validation_accuracy, config, task, settings.validate_students),
            validate_every=settings.validate_every,
            stop_at=settings.stop_at,
            log=logger.iteration,
        ),
    )
    pictures_made = []
    if run_folder and record.rows:
        pictures_made = [pictures.course(record.frames, record.rows, run_folder / "progress.png")]
    logger.close(record.rows, pictures_made)
    return made, record


def _circumstances(config: DictConfig, engine: Engine) -> dict[str, Any]:
    """What a file also remembers: the versions, and the configuration but for what has no part in its images."""
    aside = ("job", "logger", "num_eval", "overwrite", "paths", "relabel", "score")
    settings = {name: value for name, value in build.plain(config).items() if name not in aside}
    settings["method"] = {name: value for name, value in settings["method"].items() if name != "data"}
    return {"environment": engine.environment(), "config": settings}


def _draw(made: Distilled, record: Record, task: Task, folder: Path) -> None:
    """The pictures beside the file: the images, and how they came about."""
    shown = pictures.shown(task.labels)
    pixels, total = task.space.inverse(made.images[shown]).clamp(0, 1), len(task.labels)
    pictures.grid(pixels, task.labels[shown], task.real.class_names, folder / "grid.png", total)
    if record.frames:
        pictures.film(record.frames, folder / "progress.gif")
    if record.rows:
        pictures.course(record.frames, record.rows, folder / "progress.png")


def _networks(config: DictConfig, distiller: Distiller) -> dict[str, Any]:
    """What the networks of a distiller are and, where it wants them trained, how."""
    name = config.method.distiller.get("model")
    model = {} if name is None else {"model": build.identity(model_named(name, config))}
    if not distiller.wants_trained:
        return model
    teachers, files = list(config.method.teachers), list(config.method.teacher_weights)
    if files and name in teachers:
        return model | {"weights": sha256_of(Path(files[teachers.index(name)]))}
    return model | {"training": build.plain(config.dataset.teacher)}


def _check_precision(distiller: Distiller, engine: Engine) -> None:
    if distiller.computes and distiller.takes_gradients and engine.precision == "16-mixed":
        raise InputError(
            f"engine.precision=16-mixed needs a loss scale, which {type(distiller).__name__} does not have: choose "
            "bf16-mixed or 32-true to make distilled data"
        )


def _same_settings(path: Path, wanted: dict[str, Any]) -> str:
    """The precision in which a file was made. Raises InputError where anything of `wanted` is not what it was."""
    metadata = read_metadata(path)
    found = metadata | {"precision": precision_of(metadata)}
    if isinstance(made := found.get("distiller"), dict):  # its parameters may include some that do not count now
        found["distiller"] = {name: made[name] for name in (*wanted["distiller"], "code") if name in made}
    for key, value in wanted.items():
        if value is not None and key in found and found[key] != value:
            what, as_it_is = _difference(key, found[key], value), ""
            if what == _OTHER_IMAGES and wanted["space"] == "zca":
                what += ", or by an earlier version of ddrank, which described whitened images otherwise"
                as_it_is = f"; as a file, by method.data={path}, it is evaluated as it is"
            raise InputError(
                f"{path} was made with {what}: make it anew with `python -m ddrank.distill`, the same settings and "
                f"overwrite=true, or choose another paths.distilled{as_it_is}"
            )
    return found["precision"]


def _difference(key: str, found: Any, wanted: Any) -> str:
    if key == "code":
        return "other code of its distiller than that of now"
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next(name for name in {**found, **wanted} if found.get(name) != wanted.get(name))
        return _difference(key, found.get(key), wanted.get(key))
    if key == "images":
        return _OTHER_IMAGES
    return f"{key}={found}, not {wanted} as asked for now"
