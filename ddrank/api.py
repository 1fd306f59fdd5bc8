"""ddrank in Python: what the commands do, for notebooks and for programs of one's own."""

from __future__ import annotations

import contextlib
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ddrank import config as schema
from ddrank.data.distilled import WRITTEN_BY_API, write_distilled
from ddrank.data.readers import find
from ddrank.data.readers.found import Found
from ddrank.errors import InputError, UntrustedError
from ddrank.override import override
from ddrank.refusal import explained
from ddrank.result import Result

_SOFT_LABELS = "soft_labels.pt"


def evaluate(
    images: Any,
    labels: Any = None,
    soft_labels: Any = None,
    *,
    dataset: str,
    ipc: int,
    method: str = "custom",
    lr: float | None = None,
    folder: Path | str | None = None,
    **overrides: Any,
) -> Result:
    """Evaluate a distilled dataset as `python -m ddrank.run` does, and return its result.

    Args:
        images: a tensor or array (N, C, H, W), N = classes x `ipc`, float in the space that `method.space` says
            (default: normalised with the dataset's mean and std); or a path or URL of files that `load_distilled`
            reads.
        labels: class indices (N,); without them, the images lie class by class.
        soft_labels: (N, classes), logits unless `method.soft_kind` says otherwise.
        dataset: an option of conf/dataset.
        method: an option of conf/method, whose recipe is used, or any name of your own: then `method=custom`. Custom
            data with soft labels are evaluated with `method.labels=single criterion=sce` unless you say otherwise.
        lr: the learning rate that belongs to the images; without one it is searched.
        folder: for result.json and the pictures; default: one of its own under `paths.runs`.
        overrides: settings by their names on the command line: `num_eval=1`, `aug="mixup"`, `**{"train.epochs": 300}`.

    Raises InputError for whatever cannot be evaluated.

        result = ddrank.evaluate(images, dataset="cifar10", ipc=10, aug="dsa")
        print(result.table())
    """
    settings = {"dataset": dataset, "ipc": ipc, **_of_method(method)}
    if soft_labels is not None and settings["method"] == "custom":
        settings |= {"method.labels": "single", "criterion": "sce"}
    settings |= {"method.lr": lr} if lr is not None else {}
    settings |= {"method.data": str(images) if isinstance(images, str | Path) else "."} | overrides
    config = compose(*(override(key, value) for key, value in settings.items()))
    if config.plan:
        raise InputError("plan=true is of python -m ddrank.run: leave it out here")
    folder = Path(folder) if folder is not None else _folder(config)
    written = None
    if not isinstance(images, str | Path):
        written = config.method.data = str(_written(config, images, labels, soft_labels, folder))
    elif labels is not None:
        raise InputError("labels are given beside a path: give images and labels both as tensors, or both as files")
    elif soft_labels is not None:
        written = config.method.soft_labels = str(_saved(_tensor(soft_labels, "soft_labels"), folder / _SOFT_LABELS))
    from ddrank.evaluation import evaluate as run

    try:
        return run(config, folder)[0]
    except InputError as error:
        if written and not isinstance(error, UntrustedError):
            Path(written).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # there is something else in it
                folder.rmdir()
        raise


def compose(*overrides: str, name: str = "config") -> DictConfig:
    """The configuration that `overrides`, as on the command line, compose to; `name` is a file of conf/.

    Raises InputError where the command would refuse them.
    """
    schema.register()
    try:
        with initialize_config_dir(str(schema.folder()), version_base="1.3"):
            composed = hydra_compose(name, overrides=list(overrides), return_hydra_config=True)
        with open_dict(composed):
            del composed["hydra"]
        schema.check(composed)
    except (HydraException, MissingConfigException, OmegaConfBaseException) as error:
        raise InputError(explained(error)) from error
    return composed


def load_distilled(
    source: Path | str, *, format: str = "auto", num_classes: int | None = None, cache: Path | str | None = None
) -> Found:
    """The distilled dataset at a path or URL as its files have it: images, labels, soft labels, learning rate.

    `format` is one of `ddrank.data.readers.FORMATS`, where looking at the files is not enough. What a URL names is kept
    in `cache` (default: store/downloads). Raises InputError where there is nothing that can be read.
    """
    return find(source, format=format, num_classes=num_classes, cache=cache)


def _of_method(method: str) -> dict[str, Any]:
    known = {path.stem for path in (schema.folder() / "method").glob("*.yaml")}
    if method in known:
        return {"method": method}
    if (meant := re.sub(r"[^a-z0-9]", "", str(method).lower())) in known:
        raise InputError(
            f"method is {method!r}: write {meant!r} for the recipe of that method, or give your own another name"
        )
    return {"method": "custom", "method.name": method}


def _folder(config: DictConfig) -> Path:
    name = f"{config.method.name}-ipc{config.ipc}"
    return Path(config.paths.runs) / config.dataset.name / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")


def _written(config: DictConfig, images: Any, labels: Any, soft_labels: Any, folder: Path) -> Path:
    """The tensors as a file of ours in the run's folder: what was evaluated stays beside the result."""
    images = _tensor(images, "images")
    if images.ndim != 4 or not images.is_floating_point():
        bytes_too = '; pixels as bytes: give images / 255 and **{"method.space": "pixel"}'
        raise InputError(
            f"images are {images.dtype} of shape {tuple(images.shape)}, expected floating point of shape "
            f"(images, channels, height, width){bytes_too * (images.dtype == torch.uint8)}"
        )
    count = len(images)
    if labels is None:
        if count != config.dataset.num_classes * config.ipc:
            raise InputError(
                f"there are {count} images, expected {config.dataset.num_classes * config.ipc} "
                f"({config.dataset.num_classes} classes x ipc={config.ipc}): correct ipc, or give labels"
            )
        labels = torch.arange(config.dataset.num_classes).repeat_interleave(config.ipc)
    elif (labels := _tensor(labels, "labels")).ndim == 2:
        raise InputError(
            f"labels have the shape {tuple(labels.shape)}, expected a class index for each image: give a row for each "
            "image as soft_labels=..."
        )
    return write_distilled(
        folder,
        images,
        labels,
        metadata={
            "method": config.method.name,
            "ipc": config.ipc,
            "space": config.method.space,
            "written_by": WRITTEN_BY_API,
        }
        | ({"soft_labels": config.method.soft_kind} if soft_labels is not None else {}),
        soft_labels=None if soft_labels is None else _tensor(soft_labels, "soft_labels"),
    )


def _tensor(values: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} are a {type(values).__name__}, expected a tensor or an array of numbers") from error


def _saved(tensor: Tensor, path: Path) -> Path:
    from ddrank import atomic

    return atomic.write_with(path, lambda temporary: torch.save(tensor, temporary))
