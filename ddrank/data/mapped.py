"""Images in a file that is mapped into memory: only the parts in use take up memory, and all processes share them."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ddrank import atomic


def mapped(path: Path, shape: tuple[int, ...], fill: Callable[[Tensor], None]) -> Tensor:
    """The uint8 tensor of `shape` that the file `path` holds; where there is no such file, `fill` makes its content.

    The file appears when it is complete, and one of another length is made anew. Raises InputError where it cannot be
    written.
    """
    size = math.prod(shape)
    if not path.exists() or path.stat().st_size != size:
        print(f"making {path} ({size / 2**30:.1f} GiB), once", file=sys.stderr, flush=True)

        def write(unfinished: Path) -> None:
            with unfinished.open("r+b") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)  # a full disk is found out here, not half-way
                file.truncate(size)
            fill(torch.from_file(str(unfinished), shared=True, size=size, dtype=torch.uint8).view(shape))

        atomic.write_with(path, write)
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).view(shape)
