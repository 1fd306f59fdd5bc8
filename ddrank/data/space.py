"""The spaces that training images live in: pixel, normalised, ZCA-whitened."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ddrank.data.samples import Samples, normalize
from ddrank.errors import InputError
from ddrank.store.entry import digest

MOST_WHITENED = 3 * 64 * 64


@dataclass(frozen=True, eq=False)
class Space:
    """A per-dataset transform of images, with its inverse.

    `normalized`: (pixels - mean) / std per channel. `zca`: (x - mu) T over all pixels of an image (see `fit_zca`), no
    further normalisation. `pixel`: pixels in [0, 1] as they are.

    `fitted`: the key of a whitening's fit in the store, which stands for it in fingerprints: the matrix's last digits
    are those of the machine that fitted it.
    """

    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    zca_mean: Tensor | None = None
    zca_matrix: Tensor | None = None
    fitted: str | None = None

    def samples(self, raw: Samples) -> Samples:
        """Real samples (uint8 or float pixels) brought into this space.

        uint8 pixels stay uint8 where normalising each batch gives the same numbers.
        """
        if self.name == "zca":
            computed_from = self.fitted and f"{raw.fingerprint} in {self.fitted}"
            return replace(raw, images=self.forward(raw.floats()), images_from=computed_from)
        if raw.images.dtype == torch.uint8:
            return replace(raw, mean=self.mean, std=self.std)
        return replace(raw, images=self.forward(raw.floats()))

    def forward(self, pixels: Tensor) -> Tensor:
        """Float pixels in [0, 1], (N, C, H, W), into this space."""
        if self.zca_matrix is None:
            return normalize(pixels, self.mean, self.std)
        return ((pixels.flatten(1) - self.zca_mean) @ self.zca_matrix).view_as(pixels)

    def inverse(self, images: Tensor) -> Tensor:
        """Images of this space as pixels, not clamped: the exact inverse of `forward`."""
        if self.zca_matrix is not None:
            return (images.flatten(1) @ self._unwhiten + self.zca_mean).view_as(images)
        if not self.mean:
            return images
        shape = (1, -1, 1, 1)
        return images * images.new_tensor(self.std).view(shape) + images.new_tensor(self.mean).view(shape)

    def black(self, channels: int, size: int) -> list[float]:
        """What black is in this space, one number a channel (whitened: its mean over the image)."""
        return self.forward(torch.zeros(1, channels, size, size)).mean((0, 2, 3)).tolist()

    @cached_property
    def _unwhiten(self) -> Tensor:
        return torch.linalg.inv(self.zca_matrix.double()).float()


def fit_zca(raw: Samples, eps: float = 0.1, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """Mean (D,) and whitening matrix (D, D) of `raw`'s pixels in [0, 1], D = C * H * W.

    mu = mean; S = Xc' Xc / (n - 1) = U diag(s) U'; T = U diag(1 / sqrt(s + eps)) U'. As kornia's ZCAWhitening(eps=0.1)
    in the code of MTT and DATM; computed in float64, in chunks.
    """
    count = len(raw)
    starts = range(0, count, chunk)
    pixels = (raw.floats(slice(start, start + chunk)).flatten(1).double() for start in starts)
    mean = sum(part.sum(0) for part in pixels) / count
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for start in starts:
        centred = raw.floats(slice(start, start + chunk)).flatten(1).double() - mean
        covariance.addmm_(centred.T, centred)
    values, vectors = torch.linalg.eigh(covariance / (count - 1))
    matrix = (vectors * (values.clamp_min(0) + eps).rsqrt()) @ vectors.T
    return mean.float(), matrix.float()


def fit_space(name: str, raw_train: Samples, mean: tuple[float, ...], std: tuple[float, ...], store) -> Space:
    """The space `name` of a dataset, its ZCA fitted on the whole real training set and kept in the store.

    Like the mean and the standard deviation, the whitening is a constant of the dataset: it is fitted on all training
    images, held-out ones included, because distilled files of other projects are made in exactly that space.
    """
    if name != "zca":
        return Space(name, *((mean, std) if name == "normalized" else ((), ())))
    numbers = raw_train.images[0].numel()
    if numbers > MOST_WHITENED:
        raise InputError(
            f"method.space=zca needs a matrix of {numbers} x {numbers} for images of {numbers} numbers: "
            f"choose images of at most {MOST_WHITENED} (3 x 64 x 64), or method.space=normalized"
        )
    key = {"kind": "zca", "version": 1, "train": raw_train.fingerprint, "eps": 0.1}

    def fit() -> dict[str, Tensor]:
        zca_mean, matrix = fit_zca(raw_train)
        return {"mean": zca_mean, "matrix": matrix}

    fitted = store.tensors(key, fit)
    return Space(name, zca_mean=fitted["mean"], zca_matrix=fitted["matrix"], fitted=digest(key))
