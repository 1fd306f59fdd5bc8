"""`huggingface`: a dataset of the Hugging Face hub, as parquet files or a folder of `save_to_disk`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddrank.data.readers.decode import decode
from ddrank.data.readers.found import Found, channels_first
from ddrank.data.readers.reader import Reader
from ddrank.data.readers.tensors import reason
from ddrank.errors import InputError

_IMAGES = ("image", "images", "img", "pixel_values", "x")
_LABELS = ("label", "labels", "fine_label", "class", "target", "y")
_SOFT = ("soft_labels", "soft_label", "logits")


def read(path: Path) -> Found:
    """An image column (encoded {bytes, path}, or nested lists of numbers) and a label column, in the files' order;
    soft labels where a column holds them; class names from the features that the dataset states of itself."""
    import pyarrow

    files = _files(path)
    try:
        tables = [_table(file) for file in files]
        table = pyarrow.concat_tables(tables).combine_chunks()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} holds tables that do not fit together ({reason(error)}): give one dataset") from error
    image = _column(table, _IMAGES, path, "an image column")
    label = _column(table, _LABELS, path, "a label column")
    soft = next((name for name in _SOFT if name in table.column_names), None)
    names = _class_names(table.schema.metadata, path, label)
    images = _images(table[image], path)
    labels, names = _labels(table[label], names, path)
    return Found(
        format="huggingface",
        images=images,
        labels=labels,
        soft_labels=None if soft is None else _numbers(table[soft], "soft labels", path),
        space="pixels" if images.dtype == torch.uint8 else None,
        class_names=names,
        files=tuple(files),
        path=path,
    )


def candidates(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix in (".parquet", ".arrow") else []
    saved = (path / "state.json").is_file() and any(path.glob("*.arrow"))
    return [path] if saved or any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")) else []


def _files(path: Path) -> list[Path]:
    """The files of one split, in order."""
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.arrow")) or sorted(path.glob("**/*.parquet"))
    splits: dict[str, list[Path]] = {}
    for file in found:
        name = re.sub(r"-\d+-of-\d+(-[0-9a-f]+)?$", "", file.stem)
        splits.setdefault(str((file.parent / name).relative_to(path)), []).append(file)
    if not splits:
        raise InputError(f"{path} holds no parquet or arrow files: give the folder that does")
    if len(splits) > 1:
        raise InputError(
            f"{path} holds several splits ({', '.join(sorted(splits))}): give the file or folder of one of them"
        )
    return found


def _table(file: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        if file.suffix == ".parquet":
            table = parquet.ParquetFile(file).read()
        else:
            with pyarrow.OSFile(str(file)) as source:
                table = pyarrow.ipc.open_stream(source).read_all()
        table.validate(full=True)
    except Exception as error:
        raise InputError(
            f"{file} is truncated or no {file.suffix[1:]} file ({reason(error)}): copy it again"
        ) from error
    if not len(table):
        raise InputError(f"{file} holds no rows: give the file of a split with images")
    return table


def _column(table: Any, known: tuple[str, ...], path: Path, what: str) -> str:
    for name in known:
        if name in table.column_names:
            return name
    has = ", ".join(map(str, table.column_names)) or "none"
    raise InputError(
        f"{path} has no {what.split()[1]} column ({', '.join(known)}; it has {has}): rename the one that is"
    )


def _images(column: Any, path: Path) -> Tensor:
    import pyarrow

    kind = column.type
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        contents = [row and row["bytes"] for row in column.to_pylist()]
    elif pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        contents = column.to_pylist()
    else:
        return _raw_images(column, path)
    names = [f"image {number} of {path}" for number in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        if not isinstance(content, bytes) or not content:
            raise InputError(
                f"{name} is not in the file itself, expected its bytes: save the dataset with embedded images"
            )
    return decode(contents, names)


def _raw_images(column: Any, path: Path) -> Tensor:
    """Nested lists of numbers: whole numbers from 0 to 255 are pixels, others are in some space."""
    images = _numbers(column, "images", path)
    if images.is_floating_point():
        return images
    if int(images.min()) < 0 or int(images.max()) > 255:
        raise InputError(
            f"the images of {path} are whole numbers from {int(images.min())} to {int(images.max())}, expected pixels "
            "from 0 to 255"
        )
    return channels_first(images.to(torch.uint8))


def _numbers(column: Any, what: str, path: Path) -> Tensor:
    try:
        array = np.array(column.to_pylist())
        if array.dtype.kind not in "iuf":
            raise ValueError(f"rows of type {column.type}")
        return torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))
    except Exception as error:
        raise InputError(
            f"the {what} of {path} are no numbers of one shape ({reason(error)}): expected lists of them"
        ) from error


def _labels(column: Any, names: tuple[str, ...], path: Path) -> tuple[Tensor, tuple[str, ...]]:
    values = column.to_pylist()
    if values and all(isinstance(value, str) for value in values):
        names = names or tuple(sorted(set(values)))
        if unknown := set(values) - set(names):
            raise InputError(f"{path} has the label {min(unknown)!r}, expected one of {', '.join(names)}")
        values = [names.index(value) for value in values]
    values = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    if not all(isinstance(value, int) for value in values):
        raise InputError(
            f"the labels of {path} are of type {column.type}, some of them perhaps empty: expected class indices"
        )
    try:
        return torch.tensor(values), names
    except Exception as error:
        raise InputError(f"the labels of {path} are no class indices ({reason(error)})") from error


def _class_names(metadata: dict[bytes, bytes] | None, path: Path, label: str) -> tuple[str, ...]:
    """The names of a ClassLabel feature, from the files' own metadata or dataset_info.json; none if neither says."""
    texts = [(metadata or {}).get(b"huggingface")]
    folder = path if path.is_dir() else path.parent
    texts += [file.read_bytes() for file in (folder / "dataset_info.json",) if file.is_file()]
    for text in texts:
        try:
            info = json.loads(text or b"{}")
            features = info.get("info", info).get("features") or {}
            names = features.get(label, {}).get("names")
        except (ValueError, AttributeError, RecursionError):
            continue
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()


READER = Reader("parquet files, or a folder of save_to_disk", candidates, read)
