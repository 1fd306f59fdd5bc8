"""Image files to one uint8 tensor."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddrank.data.readers.tensors import reason
from ddrank.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # none that starts another program
_GREY = ("1", "L")
_COLOUR = ("RGB", "RGBA", "RGBX", "P", "PA", "LA", "CMYK", "YCbCr")


def decode(files: Sequence[Path | bytes], names: Sequence[str]) -> Tensor:
    """Decode image files, or their bytes, into uint8 (N, C, H, W): grey where all are, else RGB.

    `names` are for messages. Raises InputError for what is no image, is damaged, is huge, or has another size.
    """
    modes = set()
    size = None
    for file, name in zip(files, names, strict=True):
        mode, found = _header(file, name)
        size = size or found
        if found != size:
            raise InputError(
                f"{name} is {found[0]} x {found[1]} pixels and {names[0]} {size[0]} x {size[1]}, expected images of "
                "one size: bring them to the same size"
            )
        modes.add(mode)
    mode = "L" if modes <= set(_GREY) else "RGB"
    images = torch.empty(len(files), len(mode) if mode == "RGB" else 1, size[1], size[0], dtype=torch.uint8)

    def fill(index: int) -> None:
        images[index] = _pixels(files[index], names[index], mode)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        _drain(pool.map(fill, range(len(files))))
    return images


def _header(file: Path | bytes, name: str) -> tuple[str, tuple[int, int]]:
    """Mode and size (width, height) as the file says them, before anything large is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(_opened(file), formats=_FORMATS) as image:
                mode, size = image.mode, image.size
    except Image.DecompressionBombError as error:
        raise InputError(_huge(name)) from error
    except Exception as error:
        raise InputError(
            f"{name} is no image that can be read ({_short(error)}): save it anew as PNG or JPEG"
        ) from error
    if Image.MAX_IMAGE_PIXELS and size[0] * size[1] > Image.MAX_IMAGE_PIXELS:
        raise InputError(_huge(name))
    if mode not in _GREY + _COLOUR:
        raise InputError(f"{name} has pixels of mode {mode}, expected 8 bits a channel: save it as an 8-bit PNG")
    return mode, size


def _pixels(file: Path | bytes, name: str, mode: str) -> Tensor:
    try:
        with Image.open(_opened(file), formats=_FORMATS) as image:
            pixels = np.array(image.convert(mode))
    except Exception as error:
        raise InputError(f"{name} is damaged or truncated ({_short(error)}): copy or make it again") from error
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1)


def _opened(file: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(file) if isinstance(file, bytes) else file


def _huge(name: str) -> str:
    most = f"{Image.MAX_IMAGE_PIXELS:,}"
    return f"{name} has more than {most} pixels, expected a small image: it was not decoded, for safety"


def _short(error: Exception) -> str:
    return "unknown kind" if isinstance(error, Image.UnidentifiedImageError) else reason(error)


def _drain(results: Iterable[None]) -> None:
    for _ in results:
        pass
