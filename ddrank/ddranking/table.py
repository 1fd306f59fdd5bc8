"""What an evaluator of the package leaves: its CSV file, one row a run, and its lines of means."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ddrank import atomic
from ddrank.errors import InputError


def place(save_path: str | Path | None, default: str, file: str) -> Path:
    """The CSV's path: `save_path`, `file` in it where it is a folder, or `default`. Makes its folder.

    What cannot be written is said here, before any training. Raises InputError.
    """
    path = Path(save_path or default)
    if path.is_dir() or str(save_path or "").endswith("/"):
        path = path / file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"save_path is {path}, which cannot be made ({error.strerror}): choose another") from error
    return path


def write(path: Path, columns: Mapping[str, Sequence[float]]) -> Path:
    """`columns` as a CSV file with a head, one row a run, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return atomic.write_bytes(path, text.getvalue().encode())


def means(columns: Mapping[str, Sequence[float]], names: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """`<name>_mean` and `<name>_std` of each column for each of its `names`; the deviation divides by n, as there."""
    return {
        f"{name}_{which}": float(statistic(values))
        for column, values in columns.items()
        for name in names[column]
        for which, statistic in (("mean", np.mean), ("std", np.std))
    }
