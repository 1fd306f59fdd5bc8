"""Relabelling: a teacher's labels for any images, stored with them: one logit vector an image, or one for each of the
views of some epochs, as SRe2L keeps them (Yin, Xing and Shen, NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig
from torch import Tensor

from ddrank import build, doctor, pictures
from ddrank.augment.replay import Draws
from ddrank.data import Batches, DistilledDataset, RealDataset, Samples, Space, fit_space, write_distilled
from ddrank.data.classes import in_dataset_order
from ddrank.data.distilled import FILE
from ddrank.data.readers import FORMATS, Found, is_url
from ddrank.data.readers.fkd import FKD
from ddrank.data.stored_views import FOLDER, LabelledBatch, StoredViews, images_digest, read_views, write_views
from ddrank.distill.convert import read, refuse_overwriting
from ddrank.distill.make import lock_key
from ddrank.engine import Engine
from ddrank.errors import InputError, UntrustedError
from ddrank.progress import Display
from ddrank.store import Store
from ddrank.student import derived_seed
from ddrank.teacher import TeacherRoom, Teachers

_AT_ONCE = 500  # images that are labelled at a time


def relabel(
    config: DictConfig,
    real: RealDataset,
    folder: Path | None,
    ipc: int | None,
    engine: Engine,
    store: Store,
    display: Display,
) -> tuple[Path, StoredViews | None]:
    """Write the images of `method.data` with labels of the teachers of `method` as `folder`/distilled.safetensors.

    Without `relabel.views`, their soft labels are the teachers' mean logits on the images. With it, the views of so
    many epochs of `aug`, in batches of `train.batch_size`, are drawn from `seed`, labelled and written beside the
    images; or those of `relabel.fkd` are taken over. Images that are floating point are written bit for bit as they
    were; pixels in the method's space, as `convert` does. Without a `folder`, what was made here is relabelled where it
    lies.

    Returns the path of the file and the stored views, if there are any. Raises InputError when there is no teacher, the
    data cannot be read or be right, or `folder` holds files already and `config.overwrite` is false.
    """
    _check(config)
    folder = _own_place(config.method.data) if folder is None else folder
    with store.lock(lock_key(folder)):
        return _relabel(config, real, folder, ipc, engine, store, display)


def _relabel(
    config: DictConfig,
    real: RealDataset,
    folder: Path,
    ipc: int | None,
    engine: Engine,
    store: Store,
    display: Display,
) -> tuple[Path, StoredViews | None]:
    method, wanted = config.method, config.relabel
    names = (FILE, "grid.png", *([FOLDER] if wanted.views or wanted.fkd else []))
    refuse_overwriting(folder, names, config.overwrite)
    found, class_names, distilled = read(config, ipc)
    if distilled.others:
        raise InputError(f"{found.where} holds several sets of images, and labels are stored for one: keep one set")
    for note in distilled.notes:
        display.say(f"{found.where}: {note}")
    space = fit_space(distilled.space, real.train, tuple(method.mean), tuple(method.std), store)
    placed = distilled.placed(space)
    _refuse_impossible(config, placed, real, found)
    samples = Samples(placed.floats(placed.images), placed.labels)
    written = samples.images if distilled.pixels else distilled.images
    teachers = None if wanted.fkd else TeacherRoom(config, real, store, engine, display).teachers(space)
    by = {"teachers": list(method.teachers), "fingerprint": teachers.fingerprint} if teachers else {"fkd": True}
    soft, views = placed.soft_labels, None
    with engine.cores():
        if wanted.fkd:
            positions = _positions(found, class_names, config.dataset.name, method.trust)
            views = _taken_over(FKD(wanted.fkd, positions, real.size, real.num_classes), folder, written, display)
        elif wanted.views:
            views = _labelled_views(config, samples, space, teachers, folder, written, display)
        else:
            soft = _labelled(samples, teachers, display)
    kind = placed.stored_kind if views else "logits"
    pictures.grid(placed.shown(space), placed.labels, real.class_names, folder / "grid.png")
    path = write_distilled(  # the last: where it is, all has been made
        folder,
        written,
        placed.labels,
        soft_labels=soft.softmax(1) if soft is not None and kind == "probabilities" else soft,
        lr=distilled.lr,
        metadata=_metadata(config, found, distilled)
        | ({} if soft is None else {"soft_labels": kind})
        | {"relabelled": by | {"from": {"format": found.format, "sha256": distilled.sha256}}},
    )
    return path, views


def _check(config: DictConfig) -> None:
    wanted = config.relabel
    if wanted.views < 0:
        raise InputError(f"relabel.views is {wanted.views}, expected a number of epochs, or 0 for one label an image")
    if wanted.views and wanted.fkd:
        raise InputError("relabel.views draws views and relabel.fkd takes some over: give one of them")
    if not (config.method.teachers or wanted.fkd):
        raise InputError("relabel has no teacher to label the images: name one, such as teacher=convnet")


def _own_place(source: str) -> Path:
    """The folder of a file of ours that is to be relabelled where it lies."""
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    if is_url(source) or not (folder / FILE).is_file() or (path.is_file() and path.name != FILE):
        raise InputError(
            f"{source} is no folder with a {FILE} to relabel in place: give a second place, as in "
            "python -m ddrank.distill relabel SRC DST teacher=..."
        )
    return folder


def _refuse_impossible(config: DictConfig, placed: DistilledDataset, real: RealDataset, found: Found) -> None:
    """Stop at images that cannot be what they are said to be: a teacher would label something else."""
    if not config.method.trust and (findings := doctor.cheap(replace(placed, soft_labels=None), config, real)):
        raise UntrustedError(
            f"{found.where}: {findings[0].sentence}; `python -m ddrank.doctor` shows it, and method.trust=true labels "
            "it as it is"
        )


def _labelled(samples: Samples, teachers: Teachers, display: Display) -> Tensor:
    """The teachers' mean logits on each image, float32 (N, classes)."""
    parts = samples.images.split(_AT_ONCE)
    with display.activity(f"labels of {len(samples)} images", len(parts)) as advance:
        labels = []
        for part in parts:
            labels.append(teachers.label(part))
            advance()
    return torch.cat(labels)


def _labelled_views(
    config: DictConfig,
    samples: Samples,
    space: Space,
    teachers: Teachers,
    folder: Path,
    written: Tensor,
    display: Display,
) -> StoredViews:
    """Views of `relabel.views` epochs, drawn and labelled."""
    shape = samples.images.shape[1:]
    draws = Draws(build.parts(config.aug, "aug", black=space.black(shape[0], shape[1])), shape)
    if draws.frame.size != tuple(shape[1:]):
        raise InputError(
            f"aug makes views of {draws.frame.size} pixels, but students take images of {tuple(shape[1:])}: choose an "
            "aug that keeps their size"
        )
    count, batch_size = config.relabel.views, config.train.batch_size
    about = {
        "aug": build.identities(config.aug),
        "batch_size": batch_size,
        "seed": config.seed,
        "teachers": teachers.fingerprint,
    }
    device = next(teachers.networks[0].parameters()).device

    def labelled(epoch: int) -> list[LabelledBatch]:
        with isolate_rng(include_cuda=False):  # each epoch by itself: the first of 300 are those of 100
            seed_everything(derived_seed(config.seed, f"stored views of epoch {epoch}"), verbose=False)
            sizes = _sizes(samples, batch_size)
            drawn = [(index, draws.draw(len(index))) for index in torch.randperm(len(samples)).split(sizes)]
        views = (draws.frame.view(samples.images[index].to(device), each) for index, each in drawn)
        return [
            LabelledBatch(index, each, teachers(view).half().cpu())
            for (index, each), view in zip(drawn, views, strict=True)
        ]

    def epochs() -> Iterator[list[LabelledBatch]]:
        with display.activity(f"labels of {len(samples)} views an epoch", count) as advance:
            for epoch in range(count):
                yield labelled(epoch)
                advance()

    digest = images_digest(written)
    return read_views(write_views(folder, epochs(), count=count, frame=draws.frame, images=digest, about=about))


def _taken_over(fkd: FKD, folder: Path, written: Tensor, display: Display) -> StoredViews:
    """The views of an FKD folder, written as ours."""

    def epochs() -> Iterator[list[LabelledBatch]]:
        with display.activity("stored views", fkd.count) as advance:
            for batches in fkd.epochs():
                yield batches
                advance()

    digest = images_digest(written)
    return read_views(write_views(folder, epochs(), count=fkd.count, frame=fkd.frame, images=digest, about={}))


def _sizes(samples: Samples, batch_size: int) -> list[int]:
    """Of the batches of an epoch, in order: as students are trained on views that are drawn on the fly."""
    batches = Batches(samples, batch_size)
    whole = (len(batches) - 1) * batches.batch_size
    return [batches.batch_size] * (len(batches) - 1) + [len(samples) - whole]


def _positions(found: Found, names: Any, dataset: str, trust: bool) -> Tensor:
    """Where the images of the files are kept, int64 (N,), the files sorted as ImageFolder sorts them: by the names of
    folders, then of files. Images that are not a file each are taken to be in that order."""
    count = len(found.images)
    if not FORMATS[found.format].folder or len(found.files) != count:
        return torch.arange(count)
    files = sorted(range(count), key=lambda number: (found.files[number].parent.name, found.files[number].name))
    labels = (found if names is None else in_dataset_order(found, names, dataset, trust)).labels
    kept = torch.empty(count, dtype=torch.long)
    kept[labels.argsort(stable=True)] = torch.arange(count)
    return kept[torch.tensor(files)]


def _metadata(config: DictConfig, found: Found, distilled: DistilledDataset) -> dict[str, Any]:
    """What the new file says of its images: what the old one said, where it is ours, or what they were taken for."""
    said = {
        "dataset": config.dataset.name,
        "method": config.method.name,
        "ipc": len(distilled.images) // config.dataset.num_classes,
        "space": distilled.space,
    }
    if distilled.space == "normalized":
        said |= {"mean": list(config.method.mean), "std": list(config.method.std)}
    return said | (found.metadata if found.format == "ddrank" else {})
