"""A distilled dataset: read from whatever files it comes in, checked, and written as ours (safetensors)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from ddrank import __version__, atomic
from ddrank.config import SPACES
from ddrank.data.classes import ClassNames, in_dataset_order
from ddrank.data.readers import Found, look, sha256_of
from ddrank.data.readers.found import class_major, is_one_hot, whole_numbers
from ddrank.data.readers.ours import FILE, precision_of, read_metadata
from ddrank.data.samples import Samples
from ddrank.data.space import Space
from ddrank.errors import InputError

__all__ = [
    "FILE",
    "WRITTEN_BY_API",
    "DistilledDataset",
    "distilled_from",
    "given_lr",
    "precision_of",
    "read_distilled",
    "read_metadata",
    "write_distilled",
]


WRITTEN_BY_API = "ddrank.evaluate"  # metadata `written_by`: what the file says of its space was said in that call
_CHUNK = 1000  # images that are looked at at a time


@dataclass(frozen=True)
class DistilledDataset:
    """Distilled images with all that their method stores beside them.

    Attributes:
        images: (N, C, H, W), N = classes x IPC, class-major; float32 in `space`, or uint8 pixels, which stay so where
            normalising each batch brings them there (see `samples`).
        labels: int64 (N,), class indices.
        others: further sets of images like `images`, where chance decides what they are: seed s is evaluated on set s
            modulo their number, so that nothing hangs on one draw.
        soft_labels: float32 (N, classes) logits, or None. Probabilities are read as their logarithms.
        lr: the learning rate that belongs to the images, or None.
        space: `normalized`, `zca` or `pixel`.
        pixels: the images are pixels (float32 in [0, 1], or uint8), yet to be brought into `space` (see `placed`).
        constants: (mean, std) that normalised images were made with, where their file says them and they are not yet
            those of the method (see `placed`).
        mean, std: per-channel constants with which uint8 pixels are normalised as they are drawn.
        stored_kind: what the soft labels were in the file, `logits` or `probabilities`.
        metadata: what else the file says of itself.
        path: the file, or the folder of pictures, that held the images.
        sha256: of that file; of several, of their sha256s in order.
        format: which reader read it (`ddrank.data.readers.FORMATS`).
        notes: what was concluded about the data, in words.
        whitened: the fit (`Space.fitted`) of the whitening that was done here, of images that were stored as pixels.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor | None = None
    lr: float | None = None
    space: str = "normalized"
    stored_kind: str = "logits"
    metadata: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    sha256: str = ""
    others: tuple[Tensor, ...] = ()
    pixels: bool = False
    format: str = "ddrank"
    constants: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    whitened: str | None = None

    def set_for(self, seed: int) -> Tensor:
        """The images (N, C, H, W), as they are kept, that the students of `seed` are trained on."""
        return (self.images, *self.others)[seed % (1 + len(self.others))]

    def samples(self, seed: int) -> Samples:
        """The images that the students of `seed` are trained on, with their class indices."""
        number = seed % (1 + len(self.others))
        computed_from = self.whitened and f"set {number} of {self.sha256} in {self.whitened}"
        return Samples(self.set_for(seed), self.labels, mean=self.mean, std=self.std, images_from=computed_from)

    def floats(self, images: Tensor) -> Tensor:
        """Some of the images as float32 in `space`."""
        return Samples(images, self.labels, mean=self.mean, std=self.std).floats()

    def placed(self, space: Space) -> DistilledDataset:
        """This dataset with its images in `space`: pixels that are yet to be brought there, and normalised images that
        say that they were made with other constants. uint8 pixels are left to be normalised batch by batch, which gives
        the same numbers, unless they are to be whitened."""
        if self.pixels and self.images.dtype == torch.uint8 and space.zca_matrix is None:
            return replace(self, mean=space.mean, std=space.std, space=space.name, pixels=False)
        if self.pixels:
            placed = self._with_images(lambda images: space.forward(_as_floats(images)), space.name)
            return replace(placed, whitened=space.fitted)
        if self.constants is None or space.name != "normalized" or self.constants == (space.mean, space.std):
            return self
        theirs = Space("normalized", *self.constants)
        return self._with_images(lambda images: space.forward(theirs.inverse(images)), space.name)

    def shown(self, space: Space) -> Tensor:
        """The images, which are in `space`, as pixels (N, C, H, W): uint8, or float32 in [0, 1]."""
        return self.images if self.images.dtype == torch.uint8 else space.inverse(self.images).clamp(0, 1)

    def _with_images(self, change: Callable[[Tensor], Tensor], space: str) -> DistilledDataset:
        others = tuple(change(images) for images in self.others)
        return replace(self, images=change(self.images), others=others, space=space, pixels=False, constants=None)


def read_distilled(
    path: Path | str,
    *,
    dataset: str | None = None,
    num_classes: int,
    ipc: int,
    channels: int,
    size: int,
    space: str = "normalized",
    soft_labels: Path | str | None = None,
    soft_kind: str = "logits",
    format: str = "auto",
    resize: bool = False,
    classes: ClassNames | None = None,
    trust: bool = False,
    hard: bool = False,
    cache: Path | str | None = None,
) -> DistilledDataset:
    """Read and check a distilled dataset.

    `path` is a file, a folder or a URL (kept in `cache`) of any format of `ddrank.data.readers`, told by looking at it
    unless `format` says it. `soft_labels` names a file of its own for the soft labels (N x classes). What a file says
    of itself (space, kind of soft labels) wins over `space` and `soft_kind`. With `resize`, images of another size are
    brought to `size`: the shorter side bilinearly with antialiasing, then a centre crop. `classes` are the names of the
    dataset's classes, by which the classes that the files name get their labels (see
    `ddrank.data.classes.in_dataset_order`, also for `trust`). With `hard`, one-hot rows are class indices and no soft
    labels.

    Raises InputError when files are missing, unreadable, unsafe, made for another dataset than `dataset` (where both
    are told), or do not fit `num_classes`, `ipc`, `channels` and `size`.
    """
    found = look(path, format=format, soft_labels=soft_labels, cache=cache)
    return distilled_from(
        found,
        dataset=dataset,
        num_classes=num_classes,
        ipc=ipc,
        channels=channels,
        size=size,
        space=space,
        soft_kind=soft_kind,
        resize=resize,
        classes=classes,
        trust=trust,
        hard=hard,
        soft_path=soft_labels,
    )


def distilled_from(
    found: Found,
    *,
    dataset: str | None = None,
    num_classes: int,
    ipc: int,
    channels: int,
    size: int,
    space: str = "normalized",
    soft_kind: str = "logits",
    resize: bool = False,
    classes: ClassNames | None = None,
    trust: bool = False,
    hard: bool = False,
    soft_path: Path | str | None = None,
) -> DistilledDataset:
    """What a reader found, checked as `read_distilled` says; `soft_path`: where soft labels came from, for messages."""
    path = found.where
    if dataset is not None and found.metadata.get("dataset", dataset) != dataset:
        raise InputError(f"{path} was made for {found.metadata['dataset']}, not for {dataset}: choose that dataset")
    if space not in SPACES:
        raise InputError(f"method.space is {space!r}, expected one of {', '.join(SPACES)}")
    pixels, asked = found.space == "pixels", space
    space = space if found.space is None or pixels else found.space
    notes = found.notes
    if space != asked:
        notes += (f"the file says that its images are in {space} space, which is taken, not method.space={asked}",)
    if classes is not None:
        found = in_dataset_order(found, classes, dataset or "the dataset", trust)
    expected = (num_classes * ipc, channels, size, size)
    if resize and space == "zca" and not pixels and found.images.ndim == 4 and found.images.shape[2:] != expected[2:]:
        raise InputError(
            f"{path} holds whitened images of {found.images.shape[2]} x {found.images.shape[3]} pixels, and whitened "
            f"images of another size than {size} x {size} cannot be resized: choose the dataset or the dataset.size "
            "they were made for"
        )
    sets = [_fitted(images, pixels, expected, resize) for images in (found.images, *found.others)]
    for images in sets:
        if tuple(images.shape) != expected:
            raise InputError(_shape_problem(path, tuple(images.shape), expected, num_classes, ipc))
        if not images.is_floating_point() and not (pixels and images.dtype == torch.uint8):
            raise InputError(
                f"{path} holds images of type {images.dtype}, expected floating point in the {space} space"
            )
        _finite(images, "images", path)
    if found.constants and len(found.constants[0]) != channels:
        raise InputError(
            f"{path} says mean and std of {len(found.constants[0])} channels, but its images have {channels}: make the "
            "file again"
        )
    kind, soft = found.soft_kind or soft_kind, found.soft_labels
    if hard and soft is not None and found.labels is not None and soft.ndim == 2 and is_one_hot(soft):
        soft = None
    distilled = DistilledDataset(
        images=_plain(sets[0]),
        others=tuple(_plain(images) for images in sets[1:]),
        labels=_hard_labels(found.labels, found.where_labels, num_classes, ipc),
        soft_labels=None if soft is None else _soft_logits(soft, kind, soft_path or path, num_classes, ipc),
        lr=found.lr,
        space=space,
        pixels=pixels,
        stored_kind=kind,
        metadata=found.metadata,
        path=found.path,
        sha256=_sha256(found.files),
        format=found.format,
        constants=found.constants if space == "normalized" else None,
        notes=notes,
    )
    return class_major(distilled)


def given_lr(config: DictConfig, stored: float | None) -> float | None:
    """The learning rate of students of the method's own labels, where none is searched for: `method.lr`, else the one
    that is `stored` with the images."""
    return stored if config.method.lr is None else config.method.lr


def write_distilled(
    folder: Path | str,
    images: Tensor,
    labels: Tensor,
    *,
    metadata: dict[str, Any],
    others: tuple[Tensor, ...] = (),
    soft_labels: Tensor | None = None,
    lr: float | None = None,
) -> Path:
    """Write `folder`/distilled.safetensors, whole or not at all. Returns its path.

    `metadata` says dataset, method, ipc, space, seed and the distiller's parameters (JSON-like); `soft_labels` are
    logits unless `metadata["soft_labels"]` says otherwise.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {"images": images.detach().cpu().float().contiguous(), "labels": labels.cpu().contiguous()}
    tensors |= {f"images_{k}": more.detach().cpu().float().contiguous() for k, more in enumerate(others, 1)}
    if soft_labels is not None:
        tensors["soft_labels"] = soft_labels.detach().cpu().float().contiguous()
        metadata = {"soft_labels": "logits", **metadata}
    if lr is not None:
        tensors["lr"] = torch.tensor(lr)
    text = {key: json.dumps(value) for key, value in {**metadata, "ddrank": __version__}.items()}

    def write(file: Path) -> None:
        try:
            save_file(tensors, file, metadata=text)
        except SafetensorError as error:  # so it reports a full disk
            raise OSError(str(error)) from error
        _sort_metadata(file)

    return atomic.write_with(Path(folder) / FILE, write)


def _sort_metadata(file: Path) -> None:
    """Sort the metadata of a safetensors file in its place: the library writes them in another order each time."""
    with file.open("r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length
        opened.seek(8)
        opened.write(text.ljust(length))


def _sha256(files: tuple[Path, ...]) -> str:
    """The sha256 of a file; of several, that of theirs in order."""
    digests = [sha256_of(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _fitted(images: Tensor, pixels: bool, expected: tuple[int, ...], resize: bool) -> Tensor:
    """Images resized where that is asked for; pixels that are grey as RGB, or the other way round, where that changes
    nothing."""
    from torchvision.transforms.v2 import functional

    _, channels, size, _ = expected
    if images.ndim != 4:
        return images
    if resize and tuple(images.shape[2:]) != (size, size) and images.numel():
        images = functional.center_crop(functional.resize(images, [size], antialias=True), [size, size])
    if not pixels:
        return images
    if images.shape[1] == 1 and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    elif images.shape[1] == 3 and channels == 1 and bool((images == images[:, :1]).all()):
        images = images[:, :1]
    return images


def _plain(images: Tensor) -> Tensor:
    """float32, or uint8 pixels as they are."""
    return (images if images.dtype == torch.uint8 else images.float()).contiguous()


def _as_floats(images: Tensor) -> Tensor:
    return images / 255 if images.dtype == torch.uint8 else images


def _shape_problem(path: Path | str, found: tuple, expected: tuple, num_classes: int, ipc: int) -> str:
    if len(found) == 4 and found[1:] == expected[1:]:
        return (
            f"{path} holds {found[0]} images, expected {expected[0]} ({num_classes} classes x ipc={ipc}): "
            "correct ipc=... or give the data of this IPC"
        )
    if len(found) == 4 and found[1] != expected[1] and found[3] == expected[1]:
        return (
            f"{path} holds images of shape {found}, with the channels last, expected {expected} (images, channels, "
            "height, width): save images.permute(0, 3, 1, 2)"
        )
    resizable = len(found) == 4 and found[1] == expected[1] and 0 not in found
    return (
        f"{path} holds images of shape {found}, expected {expected} (images, channels, height, width): "
        "choose the dataset they were made for" + (", or bring them to this size with method.resize=true" * resizable)
    )


def _finite(tensor: Tensor, what: str, path: Path | str) -> None:
    if not tensor.is_floating_point():
        return
    if bad := sum(int((~torch.isfinite(part.float())).flatten(1).any(1).sum()) for part in tensor.split(_CHUNK)):
        raise InputError(f"{path} has NaN or infinite values in {bad} of {len(tensor)} {what}: make the file again")


def _hard_labels(labels: Tensor | None, path: Path | str, num_classes: int, ipc: int) -> Tensor:
    expected = torch.arange(num_classes).repeat_interleave(ipc)
    if labels is None:
        return expected
    labels = whole_numbers(labels, path, len(expected))
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        from_one = (int(labels.min()), int(labels.max())) == (1, num_classes)
        mend = "save labels - 1" if from_one else "choose the dataset that they were made for"
        raise InputError(
            f"the labels of {path} run from {int(labels.min())} to {int(labels.max())}, expected class indices "
            f"from 0 to {num_classes - 1}: {mend}"
        )
    counts = torch.bincount(labels, minlength=num_classes)
    if (counts != ipc).any():
        label = int((counts != ipc).nonzero()[0])
        raise InputError(
            f"the labels of {path} give class {label} {int(counts[label])} images, expected ipc={ipc} of each class: "
            "give every class as many"
        )
    return labels


def _soft_logits(soft: Tensor, kind: str, path: Path | str, num_classes: int, ipc: int) -> Tensor:
    expected = (num_classes * ipc, num_classes)
    if tuple(soft.shape) != expected or soft.is_complex():
        raise InputError(
            f"the soft labels of {path} have shape {tuple(soft.shape)}, expected {expected} (images, classes)"
        )
    soft = soft.float().contiguous()
    _finite(soft, "soft labels", path)
    if kind == "logits":
        return soft
    if bool((soft < 0).any()) or not torch.allclose(soft.sum(1), torch.ones(len(soft)), atol=1e-3):
        raise InputError(
            f"the soft labels of {path} are said to be probabilities, but their rows do not sum to 1: "
            "say method.soft_kind=logits if that is what they are"
        )
    return soft.clamp_min(torch.finfo(soft.dtype).tiny).log()
