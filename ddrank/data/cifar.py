"""CIFAR-10 and CIFAR-100 from their official Python archives (Krizhevsky, 2009)."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddrank.data.samples import Samples
from ddrank.errors import InputError

PIXELS = 3 * 32 * 32


def load_cifar10(root: Path) -> tuple[Samples, Samples, tuple[str, ...]]:
    """CIFAR-10: 50,000 training and 10,000 test images, 3 x 32 x 32, uint8."""
    folder = _folder(root, "cifar-10-batches-py", "CIFAR10")
    names = _names(folder / "batches.meta", b"label_names")
    train = _samples([folder / f"data_batch_{number}" for number in range(1, 6)], b"labels", len(names))
    return train, _samples([folder / "test_batch"], b"labels", len(names)), names


def load_cifar100(root: Path) -> tuple[Samples, Samples, tuple[str, ...]]:
    """CIFAR-100 with its fine labels: 50,000 training and 10,000 test images, 3 x 32 x 32, uint8."""
    folder = _folder(root, "cifar-100-python", "CIFAR100")
    names = _names(folder / "meta", b"fine_label_names")
    train, test = (_samples([folder / part], b"fine_labels", len(names)) for part in ("train", "test"))
    return train, test, names


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


def _names(path: Path, key: bytes) -> tuple[str, ...]:
    names = _read(path, [key])[key]
    if not isinstance(names, list | tuple):
        raise _broken(path, f"its {key.decode()} are {type(names).__name__}")
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names)


def _samples(paths: Sequence[Path], label_key: bytes, num_classes: int) -> Samples:
    """The images and labels of `paths`, one after the other."""
    parts = [_arrays(path, label_key, num_classes) for path in paths]
    images, labels = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
    return Samples(images.view(-1, 3, 32, 32), labels)


def _arrays(path: Path, label_key: bytes, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072) uint8, the planes of red, green and blue by rows, and class indices (N,)."""
    content = _read(path, [b"data", label_key])
    try:
        pixels = np.asarray(content[b"data"], dtype=np.uint8)
        labels = np.asarray(content[label_key], dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise _broken(path, str(error)) from error
    if labels.ndim != 1 or pixels.shape != (len(labels), PIXELS):
        raise _broken(path, f"it has pixels of shape {pixels.shape} and labels of shape {labels.shape}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise _broken(path, f"it has labels from {labels.min()} to {labels.max()}, but there are {num_classes} classes")
    return pixels, labels


def _read(path: Path, keys: Sequence[bytes]) -> dict[bytes, Any]:
    """The dict that `path` holds, which has `keys`."""
    try:
        content = _DataUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: unpack the official archive again") from error
    except Exception as error:
        raise _broken(path, " ".join(str(error).split())) from error
    if not isinstance(content, dict):
        raise _broken(path, f"it holds a {type(content).__name__}")
    content = {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}
    for key in keys:
        if key not in content:
            raise _broken(path, f"it has no {key.decode()}")
    return content


def _broken(path: Path, problem: str) -> InputError:
    return InputError(f"{path} is not a file of the official archive ({problem}): unpack the archive again")


class _DataUnpickler(pickle.Unpickler):
    """Reads the dicts of lists and integer arrays that the archives hold, and refuses everything else.

    What rebuilds an array is replaced by functions that make integers only: NumPy's own would take an array of objects,
    their addresses written by the file.
    """

    def find_class(self, module: str, name: str) -> Any:
        found = _REBUILDING.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise pickle.UnpicklingError(f"it holds a {module}.{name}, which is not data")
        return found


def _empty_array(*_: Any) -> np.ndarray:
    return np.empty(0, np.uint8)


def _integer_type(code: Any, *_: Any) -> np.dtype:
    if code not in _INTEGERS:
        raise pickle.UnpicklingError(f"it holds an array of {code}, expected integers")
    return np.dtype(code)


def _array(content: Any, kind: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(content, kind).reshape(shape, order=order)


def _latin1(text: str, *_: Any) -> bytes:
    return text.encode("latin1")


_INTEGERS = {f"{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8)} | {b"u1"}
_REBUILDING = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.numeric", "_frombuffer"): _array,
    ("numpy", "ndarray"): "numpy.ndarray",  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _integer_type,
    ("_codecs", "encode"): _latin1,
}
