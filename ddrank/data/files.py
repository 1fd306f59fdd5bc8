"""Images in files, read as a uint8 tensor of which only what is asked for is decoded."""

from __future__ import annotations

import multiprocessing
import os
from array import array
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddrank.crew import cores
from ddrank.data import digests
from ddrank.errors import InputError

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # none that starts another program
EIGHT_BIT = ("1", "L", "LA", "RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr")
_FEW = 16  # files that one thread reads
_CHUNK_BYTES = 1 << 26


@dataclass(frozen=True)
class Format:
    """How a file becomes pixels.

    Attributes:
        size: of the central square that is cut out, pixels.
        resize: to which the shorter side is brought before, bilinear with antialiasing; none: nothing is cut off, the
            whole image is brought to `size` x `size`, whatever its shape.
        channels: 1 for grey, 3 for RGB, to which all other modes are converted.
    """

    size: int
    resize: int | None
    channels: int = 3

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or not 1 <= self.size <= (self.resize or self.size):
            raise InputError(
                f"images cannot be read with size={self.size}, resize={self.resize} and channels={self.channels}: "
                "expected 1 or 3 channels, and dataset.loader.resize and test_resize of dataset.size or more"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def read(self, path: str) -> np.ndarray:
        """The pixels of one file, uint8 (C, H, W): those of torchvision's Resize and CenterCrop on the PIL image.

        Raises InputError where the file is missing, broken, no image, or of more than 8 bits a channel.
        """
        try:
            with Image.open(path, formats=FORMATS) as file:
                if file.mode not in EIGHT_BIT:
                    raise ValueError(f"its pixels are of mode {file.mode}, not of 8 bits a channel")
                image = self._square(file.convert("RGB" if self.channels == 3 else "L"))
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist any more: put it back, or start anew without it") from error
        except Exception as error:
            reason = " ".join(str(error).replace(repr(path), "it").split()) or type(error).__name__
            raise InputError(f"{path} cannot be read as an image ({reason}): replace or remove the file") from error
        pixels = np.asarray(image)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)

    def _square(self, image: Image.Image) -> Image.Image:
        if self.resize is None:
            return image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        width, height = image.size
        longer = int(self.resize * max(width, height) / min(width, height))
        resized = (self.resize, longer) if width <= height else (longer, self.resize)
        if resized != image.size:
            image = image.resize(resized, Image.Resampling.BILINEAR)
        if resized == (self.size, self.size):
            return image
        left, top = round((resized[0] - self.size) / 2), round((resized[1] - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


@dataclass(frozen=True)
class Reading:
    """How the files of a dataset become training and test images, as `dataset.loader` says it.

    Attributes:
        size, channels: of all images, as in `Format`.
        resize: to which the shorter side is brought before the centre is cut out; none: `size`.
        test_resize: the same of test images; none: they are read as training images are.
        squash: bring whole images to size x size instead, whatever their shape.
    """

    size: int
    resize: int | None = None
    test_resize: int | None = None
    squash: bool = False
    channels: int = 3

    def __post_init__(self) -> None:
        if self.squash and self.resize is not None:
            raise InputError(
                f"dataset.loader.squash=true takes whole images, but dataset.loader.resize={self.resize} cuts their "
                "centres out: choose one of them, and the other as false or null"
            )

    @property
    def train(self) -> Format:
        return Format(self.size, None if self.squash else self.resize or self.size, self.channels)

    @property
    def test(self) -> Format:
        return self.train if self.test_resize is None else Format(self.size, self.test_resize, self.channels)


class Names:
    """Many names in one block of memory: as Python strings a million of them would take several times as much."""

    def __init__(self, names: Iterable[str]):
        block, self._ends = bytearray(), array("q", [0])
        for name in names:
            block += os.fsencode(name)
            self._ends.append(len(block))
        self._block = bytes(block)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        number = range(len(self))[number]
        return os.fsdecode(self._block[self._ends[number] : self._ends[number + 1]])


class Files:
    """The images in files below `folder`, as a uint8 tensor (N, C, H, W) would be read; nothing of them is kept.

    Args:
        folder: where the files are.
        names: of the files, relative to it.
        format: how they become pixels.
        digests: the file in which their checksums are kept.
    """

    dtype, device = torch.uint8, torch.device("cpu")

    def __init__(self, folder: Path, names: Names, format: Format, digests: Path):
        self.folder, self.names, self.format, self._digests = str(folder), names, format, digests
        self.shape = torch.Size((len(names), *format.shape))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        if isinstance(index, int):
            return torch.from_numpy(self.format.read(self.path(index)).copy())
        if isinstance(index, Tensor) and index.dim() == 0:
            return self[int(index)]
        paths = self.paths(index)
        pixels = np.empty((len(paths), *self.format.shape), np.uint8)

        def read(number: int) -> None:
            pixels[number] = self.format.read(paths[number])

        if len(paths) <= _FEW or multiprocessing.current_process().daemon:
            for number in range(len(paths)):
                read(number)
        else:
            with ThreadPoolExecutor(cores()) as threads:
                list(threads.map(read, range(len(paths))))
        return torch.from_numpy(pixels)

    @property
    def nbytes(self) -> int:
        """Bytes that all of them take when decoded."""
        return self.shape.numel()

    @cached_property
    def digests(self) -> np.ndarray:
        """sha256 of each file's content, uint8 (N, 32)."""
        return digests.of_files(self.folder, self.names, self._digests)

    def path(self, number: int) -> str:
        return os.path.join(self.folder, self.names[number])

    def paths(self, index: Tensor | slice) -> list[str]:
        """The files of the images at `index`."""
        wanted = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        return [self.path(number) for number in wanted]

    def to(self, device: torch.device | str) -> Tensor:
        """All of them, decoded, on `device`."""
        return moved(self, device)


def moved(images: Files, device: torch.device | str) -> Tensor:
    """A copy of all `images` (or of what reads like them) on `device`, made piece by piece."""
    copy = torch.empty(images.shape, dtype=images.dtype, device=device)
    rows = max(1, _CHUNK_BYTES // max(1, images.nbytes // max(1, len(images))))
    for start in range(0, len(images), rows):
        copy[start : start + rows] = images[start : start + rows].to(device)
    return copy
