"""Converting: anybody's distilled data, read, checked and written as ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import Tensor

from ddrank import pictures
from ddrank.data import Space, write_distilled
from ddrank.data.classes import ClassNames
from ddrank.data.distilled import FILE, DistilledDataset, distilled_from, given_lr
from ddrank.data.readers import Found, find, sha256_of
from ddrank.data.real import class_names
from ddrank.errors import InputError

MOST_FILES = 1000  # named one by one in the metadata


def convert(
    config: DictConfig, folder: Path, ipc: int | None, overwrite: bool = False
) -> tuple[Path, DistilledDataset]:
    """Write what `method.data` names as `folder`/distilled.safetensors, with grid.png beside it.

    Pixels are stored normalised with the method's constants (by default the dataset's), or as they are where
    method.space=pixel; images that their file says were normalised with others are brought to the method's. Classes
    that the files name get the dataset's labels, for which the names of its classes are read. Without `ipc`, it follows
    from the number of images. Raises InputError when the data cannot be read, do not fit the dataset, do not tell their
    space where the command does not either, or `folder` holds a file already and `overwrite` is false.
    """
    method, dataset = config.method, config.dataset
    refuse_overwriting(folder, (FILE, "grid.png"), overwrite)
    found, names, distilled = read(config, ipc)
    constants = {"mean": list(method.mean), "std": list(method.std)} if distilled.space == "normalized" else {}
    space = Space(distilled.space, *(tuple(values) for values in constants.values()))
    if distilled.pixels and distilled.space == "zca":
        raise InputError(
            f"{found.where} holds pixels, and whitening them needs the real data: say method.space=normalized or "
            "method.space=pixel, or evaluate it as it is"
        )
    distilled = distilled.placed(space)
    images, *others = (distilled.floats(images) for images in (distilled.images, *distilled.others))
    soft = distilled.soft_labels
    shown = names or tuple(str(label) for label in range(dataset.num_classes))
    pictures.grid(_shown(images, space), distilled.labels, shown, folder / "grid.png")
    path = write_distilled(  # the last: where it is, all has been made
        folder,
        images,
        distilled.labels,
        others=tuple(others),
        soft_labels=soft if distilled.stored_kind == "logits" or soft is None else soft.softmax(1),
        lr=given_lr(config, distilled.lr),
        metadata={
            "dataset": dataset.name,
            "method": method.name,
            "ipc": len(distilled.images) // dataset.num_classes,
            "space": distilled.space,
            **constants,
            **({} if soft is None else {"soft_labels": distilled.stored_kind}),
            "converted_from": {"format": found.format, "sha256": distilled.sha256, "files": _files(found)},
        },
    )
    return path, distilled


def refuse_overwriting(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """Raise InputError for the first of `names` that is in `folder` already, unless `overwrite`."""
    for name in names:
        if (folder / name).exists() and not overwrite:
            raise InputError(f"{folder / name} is there already: say overwrite=true, or choose another folder")


def read(config: DictConfig, ipc: int | None) -> tuple[Found, ClassNames | None, DistilledDataset]:
    """What `method.data` names: as its files have it, with the names of the dataset's classes where they name theirs,
    and checked (see `convert`)."""
    method, dataset = config.method, config.dataset
    cache = Path(config.paths.store) / "downloads"
    found = find(method.data, format=method.format, soft_labels=method.soft_labels, cache=cache)
    names = class_names(dataset, config.paths.data) if found.class_names else None
    distilled = distilled_from(
        found,
        dataset=dataset.name,
        num_classes=dataset.num_classes,
        ipc=_ipc(found, dataset.num_classes) if ipc is None else ipc,
        channels=dataset.channels,
        size=dataset.size,
        space=method.space,
        soft_kind=method.soft_kind,
        resize=method.resize,
        classes=names,
        trust=method.trust,
        hard=method.labels == "hard",
        soft_path=method.soft_labels,
    )
    if found.space is None and not _space_is_told():
        raise InputError(
            f"{found.where} does not tell the space of its images, which the new file will: say it as "
            "method.space=normalized, zca or pixel, or as method=... whose data they are"
        )
    return found, names, distilled


def _space_is_told() -> bool:
    """Whether the command says the space of the images, by itself or by a method; a caller in Python always does."""
    if not HydraConfig.initialized():
        return True
    hydra = HydraConfig.get()
    by_itself = any(re.match(r"\+{0,2}method\.space=", override) for override in hydra.overrides.task)
    return by_itself or hydra.runtime.choices["method"] != "custom"


def _ipc(found: Found, num_classes: int) -> int:
    """Images per class, from the number of images; whether each class has as many is checked with the labels."""
    ipc, rest = divmod(len(found.images), num_classes)
    if rest or not ipc:
        raise InputError(
            f"{found.where} holds {len(found.images)} images, which is no multiple of the {num_classes} classes: "
            "choose the dataset it was made for"
        )
    return ipc


def _files(found: Found) -> dict[str, str] | int:
    """The sha256 of each source file, by its name below what was given; of very many, their number."""
    if len(found.files) > MOST_FILES:
        return len(found.files)
    root = found.path if found.path.is_dir() else found.path.parent
    return {
        file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name: sha256_of(file)
        for file in found.files
    }


def _shown(images: Tensor, space: Space) -> Tensor:
    """Images as pixels in [0, 1]; whitened ones, which only the real data could bring back, as contrast around grey."""
    if space.name == "zca":
        return (0.5 + images / (6 * images.std().clamp_min(torch.finfo(images.dtype).tiny))).clamp(0, 1)
    return space.inverse(images).clamp(0, 1)
