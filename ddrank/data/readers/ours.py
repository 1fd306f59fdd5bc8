"""`ddrank`: distilled.safetensors, as `write_distilled` makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ddrank.config import SOFT_KINDS, SPACES
from ddrank.data.readers.found import Found
from ddrank.data.readers.reader import Reader
from ddrank.data.readers.tensors import learning_rate, reason
from ddrank.errors import InputError

FILE = "distilled.safetensors"


def read(path: Path) -> Found:
    """Tensors `images` (further sets: `images_1`, ...), `labels`, `soft_labels`, `lr`; what the file says of itself
    (dataset, space, its mean and std, kind of soft labels) stands in its metadata, which need not be JSON in files of
    other programs."""
    tensors, metadata = _content(path)
    if "images" not in tensors:
        raise InputError(f"{path} holds no tensor 'images' (it has {', '.join(tensors) or 'nothing'})")
    others = []
    while (name := f"images_{len(others) + 1}") in tensors:
        others.append(tensors[name])
    return Found(
        format="ddrank",
        images=tensors["images"],
        labels=tensors.get("labels"),
        soft_labels=tensors.get("soft_labels"),
        lr=learning_rate(tensors.get("lr"), path),
        space=_one_of("space", metadata, SPACES, path),
        soft_kind=_one_of("soft_labels", metadata, SOFT_KINDS, path),
        others=tuple(others),
        constants=_constants(metadata, path),
        metadata=metadata,
        files=(path,),
        path=path,
    )


def read_metadata(path: Path) -> dict[str, Any]:
    """What a file of ours says of itself. Raises InputError when it cannot be read."""
    return _content(path)[1]


def precision_of(metadata: dict[str, Any]) -> str:
    """In which precision a file of ours was made, by what it says of itself; single, where it says nothing."""
    environment = metadata.get("environment")
    return environment.get("precision", "32-true") if isinstance(environment, dict) else "32-true"


def candidates(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == ".safetensors" else []
    return [path / FILE] if (path / FILE).is_file() else []


def _content(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = {key: _value(text) for key, text in (file.metadata() or {}).items()}
    except Exception as error:
        raise InputError(
            f"{path} is truncated or no safetensors file ({reason(error)}): make or copy it again"
        ) from error
    return tensors, metadata


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _one_of(key: str, metadata: dict[str, Any], known: tuple[str, ...], path: Path) -> str | None:
    value = metadata.get(key)
    if key in metadata and value not in known:
        raise InputError(f"{path} has {key} = {value!r}, expected one of {', '.join(known)}: make the file again")
    return value


def _constants(metadata: dict[str, Any], path: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The mean and std that the images were normalised with, where the file says them."""
    if metadata.get("space", "normalized") != "normalized" or not {"mean", "std"} & set(metadata):
        return None
    mean, std = metadata.get("mean"), metadata.get("std")
    if not (_numbers(mean) and _numbers(std) and len(mean) == len(std) and min(std) > 0):
        raise InputError(
            f"{path} says mean = {str(mean)[:60]!r} and std = {str(std)[:60]!r}, expected a number for each channel, "
            "those of std above 0: make the file again"
        )
    return tuple(map(float, mean)), tuple(map(float, std))


def _numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) in (1, 3)
        and all(type(value) in (int, float) and abs(value) < 1e6 for value in values)
    )


READER = Reader(FILE, candidates, read)
