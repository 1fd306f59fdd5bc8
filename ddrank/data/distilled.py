"""A distilled dataset on disk: ours (safetensors) and the reference package's tensors (images.pt, labels.pt, lr.pt)."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddrank import __version__, atomic
from ddrank.config import SOFT_KINDS, SPACES
from ddrank.errors import InputError

FILE = "distilled.safetensors"


@dataclass(frozen=True)
class DistilledDataset:
    """Distilled images with all that their method stores beside them.

    Attributes:
        images: float32 (N, C, H, W), N = classes x IPC, class-major, in `space`.
        labels: int64 (N,), class indices.
        others: further sets of images like `images`, where chance decides what they are: seed s is evaluated on set s
            modulo their number, so that nothing hangs on one draw.
        soft_labels: float32 (N, classes) logits, or None. Probabilities are read as their logarithms.
        lr: the learning rate that belongs to the images, or None.
        space: `normalized`, `zca` or `pixel`.
        stored_kind: what the soft labels were in the file, `logits` or `probabilities`.
        metadata: what else the file says of itself.
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

    def set_for(self, seed: int) -> Tensor:
        """The images (N, C, H, W) that the students of `seed` are trained on."""
        return (self.images, *self.others)[seed % (1 + len(self.others))]


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
) -> DistilledDataset:
    """Read and check a distilled dataset.

    `path` is a `.safetensors` file of ours, an `images.pt` (its `labels.pt` and `lr.pt` are found beside it), or a
    folder that holds either. `soft_labels` names a file of its own for the soft labels (N x classes). What a file says
    of itself (space, kind of soft labels) wins over `space` and `soft_kind`.

    Raises InputError when files are missing, unreadable, unsafe, made for another dataset than `dataset` (where both
    are told), or do not fit `num_classes`, `ipc`, `channels` and `size`.
    """
    path = _file(Path(path))
    tensors, metadata = _ours(path) if path.suffix == ".safetensors" else _tensors(path)
    if dataset is not None and metadata.get("dataset", dataset) != dataset:
        raise InputError(f"{path} was made for {metadata['dataset']}, not for {dataset}: choose that dataset")
    space = _one_of("space", metadata.get("space", space), SPACES, path)
    kind = _one_of("soft_labels", metadata.get("soft_labels", soft_kind), SOFT_KINDS, path)
    if soft_labels is not None:
        tensors["soft_labels"] = _load_tensor(Path(soft_labels))
    if "images" not in tensors:
        raise InputError(f"{path} holds no tensor 'images' (it has {', '.join(tensors) or 'nothing'})")
    sets = [tensors["images"]]
    while (name := f"images_{len(sets)}") in tensors:
        sets.append(tensors[name])
    expected = (num_classes * ipc, channels, size, size)
    for images in sets:
        if tuple(images.shape) != expected:
            raise InputError(_shape_problem(path, tuple(images.shape), expected, num_classes, ipc))
        if not images.is_floating_point():
            raise InputError(
                f"{path} holds images of type {images.dtype}, expected floating point in the {space} space"
            )
        _finite(images.float(), "images", path)
    first, *others = (images.float().contiguous() for images in sets)
    labels = _hard_labels(tensors.get("labels"), path, num_classes, ipc)
    soft = tensors.get("soft_labels")
    return DistilledDataset(
        images=first,
        others=tuple(others),
        labels=labels,
        soft_labels=None if soft is None else _soft_logits(soft, kind, soft_labels or path, num_classes, ipc),
        lr=_learning_rate(tensors.get("lr"), path),
        space=space,
        stored_kind=kind,
        metadata=metadata,
        path=path,
        sha256=_sha256([path, *_beside(path), *([] if soft_labels is None else [Path(soft_labels)])]),
    )


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
    from safetensors.torch import save

    tensors = {"images": images.detach().cpu().float().contiguous(), "labels": labels.cpu().contiguous()}
    tensors |= {f"images_{k}": more.detach().cpu().float().contiguous() for k, more in enumerate(others, 1)}
    if soft_labels is not None:
        tensors["soft_labels"] = soft_labels.detach().cpu().float().contiguous()
        metadata = {"soft_labels": "logits", **metadata}
    if lr is not None:
        tensors["lr"] = torch.tensor(lr)
    text = {key: json.dumps(value) for key, value in {**metadata, "ddrank": __version__}.items()}
    return atomic.write_bytes(Path(folder) / FILE, _in_order(save(tensors, metadata=text)))


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library writes them in another order each time."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[end:]


def read_metadata(path: Path) -> dict[str, Any]:
    """What a file of ours says of itself. Raises InputError when it cannot be read."""
    return _ours(path)[1]


def _file(path: Path) -> Path:
    if path.is_dir():
        for name in (FILE, "images.pt"):
            if (path / name).is_file():
                return path / name
        raise InputError(f"the folder {path} holds neither {FILE} nor images.pt: put the distilled images there")
    if not path.is_file():
        raise InputError(f"the distilled data {path} do not exist: give a file or folder that does as method.data")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise InputError(f"{path} is not of a known kind: expected {FILE} or images.pt, or a folder that holds one")
    return path


def _ours(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = {key: _value(text) for key, text in (file.metadata() or {}).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is truncated or no safetensors file ({error}): make or copy it again") from error
    return tensors, metadata


def _value(text: str) -> Any:
    """A value of the metadata: JSON in files of ours, plain words in others."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _one_of(key: str, value: Any, known: tuple[str, ...], path: Path) -> str:
    if value not in known:
        raise InputError(f"{path} has {key} = {value!r}, expected one of {', '.join(known)}: make the file again")
    return value


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {"images": _load_tensor(path)}
    for file in _beside(path):
        tensor = _load_tensor(file)
        tensors["soft_labels" if file.stem == "labels" and tensor.ndim == 2 else file.stem] = tensor
    return tensors, {}


def _beside(path: Path) -> list[Path]:
    """What belongs to an images.pt: labels.pt and lr.pt in its folder."""
    names = () if path.suffix == ".safetensors" else ("labels.pt", "lr.pt")
    return [path.parent / name for name in names if (path.parent / name).is_file()]


def _sha256(files: list[Path]) -> str:
    """The sha256 of a file; of several, that of theirs in order."""
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _load_tensor(path: Path) -> Tensor:
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file that holds one tensor")
    try:
        content = load_weights_only(path)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} is truncated, or holds more than tensors and was not opened for safety ({reason}): "
            "save a plain tensor with torch.save"
        ) from error
    if isinstance(content, (int, float)):
        content = torch.tensor(float(content))
    if not isinstance(content, Tensor):
        raise InputError(f"{path} holds a {type(content).__name__}, expected one tensor: save it with torch.save")
    if content.layout != torch.strided or content.is_meta or content.is_quantized:
        raise InputError(
            f"{path} holds a sparse, quantized or empty-bodied tensor, expected a plain one: save its values"
        )
    return content.detach()


def load_weights_only(path: Path) -> Any:
    """What a file of torch.save holds, if that is data alone; anything that could run code raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _shape_problem(path: Path, found: tuple, expected: tuple, num_classes: int, ipc: int) -> str:
    if len(found) == 4 and found[1:] == expected[1:]:
        return (
            f"{path} holds {found[0]} images, expected {expected[0]} ({num_classes} classes x ipc={ipc}): "
            "correct ipc=... or give the data of this IPC"
        )
    return (
        f"{path} holds images of shape {found}, expected {expected} (images, channels, height, width): "
        "choose the dataset they were made for"
    )


def _finite(tensor: Tensor, what: str, path: Path | str) -> None:
    if bad := int((~torch.isfinite(tensor)).flatten(1).any(1).sum()):
        raise InputError(f"{path} has NaN or infinite values in {bad} of {len(tensor)} {what}: make the file again")


def _hard_labels(labels: Tensor | None, path: Path, num_classes: int, ipc: int) -> Tensor:
    expected = torch.arange(num_classes).repeat_interleave(ipc)
    if labels is None:
        return expected
    if labels.shape != expected.shape or not torch.equal(labels.double(), labels.double().round()):
        raise InputError(
            f"the labels of {path} are {labels.dtype} of shape {tuple(labels.shape)}, expected "
            f"{len(expected)} class indices"
        )
    labels = labels.long()
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise InputError(
            f"the labels of {path} run from {int(labels.min())} to {int(labels.max())}, expected class indices "
            f"from 0 to {num_classes - 1}"
        )
    counts = torch.bincount(labels, minlength=num_classes)
    if (counts != ipc).any():
        label = int((counts != ipc).nonzero()[0])
        raise InputError(
            f"the labels of {path} give class {label} {int(counts[label])} images, expected ipc={ipc} of each class"
        )
    return labels


def _soft_logits(soft: Tensor, kind: str, path: Path | str, num_classes: int, ipc: int) -> Tensor:
    expected = (num_classes * ipc, num_classes)
    if tuple(soft.shape) != expected:
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


def _learning_rate(lr: Tensor | None, path: Path) -> float | None:
    if lr is None:
        return None
    found = lr.item() if lr.numel() == 1 else f"a tensor of shape {tuple(lr.shape)}"
    if lr.numel() != 1 or lr.is_complex() or not 0 < found < float("inf"):
        raise InputError(f"the learning rate beside {path} is {found}, expected one positive number")
    return float(lr)
