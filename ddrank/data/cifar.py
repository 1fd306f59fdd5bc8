"""CIFAR-10 and CIFAR-100 from their official Python archives (Krizhevsky, 2009)."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddrank.data.samples import Samples
from ddrank.errors import InputError

_SAFE = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def load_cifar10(root: Path) -> tuple[Samples, Samples, tuple[str, ...]]:
    """CIFAR-10: 50,000 training and 10,000 test images, 3 x 32 x 32, uint8."""
    folder = _folder(root, "cifar-10-batches-py", "CIFAR10")
    train = [_read(folder / f"data_batch_{number}") for number in range(1, 6)]
    names = _read(folder / "batches.meta")[b"label_names"]
    return _samples(train, b"labels"), _samples([_read(folder / "test_batch")], b"labels"), _decoded(names)


def load_cifar100(root: Path) -> tuple[Samples, Samples, tuple[str, ...]]:
    """CIFAR-100 with its fine labels: 50,000 training and 10,000 test images, 3 x 32 x 32, uint8."""
    folder = _folder(root, "cifar-100-python", "CIFAR100")
    names = _read(folder / "meta")[b"fine_label_names"]
    train, test = ([_read(folder / part)] for part in ("train", "test"))
    return _samples(train, b"fine_labels"), _samples(test, b"fine_labels"), _decoded(names)


def _folder(root: Path, name: str, torchvision_name: str) -> Path:
    """The unpacked archive, downloaded first when it is absent and there is a network."""
    folder = root / name
    if folder.is_dir():
        return folder
    from torchvision import datasets
    from torchvision.datasets.utils import download_and_extract_archive

    source = getattr(datasets, torchvision_name)
    try:
        download_and_extract_archive(source.url, root, filename=source.filename, md5=source.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{folder} does not exist and {source.filename} could not be downloaded ({error}): "
            f"put {source.filename} from {source.url.rsplit('/', 1)[0]}/ into {root} and unpack it there"
        ) from error
    return folder


class _DataUnpickler(pickle.Unpickler):
    """Reads the dicts of arrays that the archives hold, and refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _SAFE:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, which is not data")


def _read(path: Path) -> dict[bytes, Any]:
    try:
        content = _DataUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: unpack the official archive again") from error
    except Exception as error:
        raise InputError(
            f"{path} is not a file of the official archive ({error}): unpack the archive again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a dict: unpack the official archive again")
    return {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}


def _samples(parts: list[dict[bytes, Any]], label_key: bytes) -> Samples:
    try:
        pixels = np.concatenate([np.asarray(part[b"data"], dtype=np.uint8) for part in parts])
        labels = np.concatenate([np.asarray(part[label_key], dtype=np.int64) for part in parts])
        images = torch.from_numpy(pixels).view(-1, 3, 32, 32)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"the CIFAR files lack what they should hold ({error}): unpack the archive again") from error
    return Samples(images, torch.from_numpy(labels))


def _decoded(names: list[Any]) -> tuple[str, ...]:
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
