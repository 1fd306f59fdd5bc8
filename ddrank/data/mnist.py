"""MNIST (LeCun), Fashion-MNIST (Xiao, 2017) and SVHN (Netzer, 2011), cropped digits, from their official files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ddrank.data.samples import Samples
from ddrank.errors import InputError

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

DIGITS = tuple("0123456789")


def load_mnist(root: Path) -> tuple[Samples, Samples, tuple[str, ...]]:
    """MNIST: 60,000 training and 10,000 test images, 1 x 28 x 28, uint8, from MNIST/raw/train-images-idx3-ubyte, ..."""
    from torchvision.datasets import MNIST

    return _idx(MNIST, root, "MNIST"), _idx(MNIST, root, "MNIST", train=False), DIGITS


def load_fashion_mnist(root: Path) -> tuple[Samples, Samples, tuple[str, ...]]:
    """Fashion-MNIST: 60,000 training and 10,000 test images, 1 x 28 x 28, uint8, from FashionMNIST/raw/."""
    from torchvision.datasets import FashionMNIST

    kinds = tuple(FashionMNIST.classes)
    return _idx(FashionMNIST, root, "FashionMNIST"), _idx(FashionMNIST, root, "FashionMNIST", train=False), kinds


def load_svhn(root: Path) -> tuple[Samples, Samples, tuple[str, ...]]:
    """SVHN: 73,257 training and 26,032 test images, 3 x 32 x 32, uint8, from svhn/train_32x32.mat and test_32x32.mat.

    The extra images are not used. The files' label 10 is the digit 0.
    """
    return _mat(root, "train"), _mat(root, "test"), DIGITS


def _idx(kind: type[MNIST], root: Path, name: str, train: bool = True) -> Samples:
    folder = Path(root) / name / "raw"
    try:
        source = kind(str(root), train=train, download=True)  # only what is not there
    except (OSError, RuntimeError) as error:
        if all((folder / file.removesuffix(".gz")).is_file() for file, _ in kind.resources):
            raise _broken(folder, error) from error
        files = ", ".join(file for file, _ in kind.resources)
        raise InputError(
            f"{name} is not complete in {folder} and could not be downloaded ({_line(error)}): put {files} from "
            f"{kind.mirrors[-1]} there and unpack them"
        ) from error
    except Exception as error:
        raise _broken(folder, error) from error
    images, labels = source.data, source.targets
    if images.dim() != 3 or images.shape[1:] != (28, 28) or len(images) != len(labels) or images.dtype != torch.uint8:
        found = f"it has {images.dtype} images of shape {tuple(images.shape)} and {len(labels)} labels"
        raise _broken(folder, ValueError(found))
    return _samples(folder, images.unsqueeze(1), labels)


def _mat(root: Path, split: str) -> Samples:
    from scipy.io import loadmat
    from torchvision.datasets import SVHN
    from torchvision.datasets.utils import download_url

    url, file, md5 = SVHN.split_list[split]
    path = Path(root) / "svhn" / file
    if not path.exists():
        try:
            download_url(url, str(path.parent), file, md5)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{path} does not exist and could not be downloaded ({_line(error)}): put {file} from "
                f"{url.rpartition('/')[0]}/ there"
            ) from error
    try:
        content = loadmat(str(path), variable_names=("X", "y"))
        pixels, labels = content["X"], np.asarray(content["y"]).squeeze(-1).astype(np.int64)
    except Exception as error:
        raise _broken(path, error) from error
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(labels)):
        found = f"it has {pixels.dtype} images of shape {pixels.shape} and {len(labels)} labels"
        raise _broken(path, ValueError(found))
    if len(labels) and labels.min() < 1:
        raise _broken(path, ValueError(f"it has the label {labels.min()}"))
    labels[labels == 10] = 0
    return _samples(
        path, torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1))), torch.from_numpy(labels)
    )


def _samples(path: Path, images: torch.Tensor, labels: torch.Tensor) -> Samples:
    if not len(labels) or not 0 <= int(labels.min()) <= int(labels.max()) < 10:
        found = f"it has labels from {int(labels.min())} to {int(labels.max())}" if len(labels) else "it has no images"
        raise _broken(path, ValueError(f"{found}, but there are 10 classes"))
    return Samples(images.contiguous(), labels.long())


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} does not hold the official files ({_line(error)}): remove it and download it again")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
