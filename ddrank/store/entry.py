"""The files of the store's entries: in one file each, a key, what is kept under it, and a checksum of everything.

A value is JSON. Tensors are safetensors, with key and checksum in the file's metadata. Both may say for people what
they are of (`about`), which is no part of the key. Tensors of earlier versions have key and checksum in files beside
them. Checkpoints, which `ddrank.checkpoint` writes, lie under the digest of a key too.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

SUFFIXES = (".sha256", ".json", ".safetensors")  # of the files that an entry of tensors may consist of
_CHUNK = 1 << 20
_MOST_HEADER = 100_000_000  # bytes, as the safetensors library has it
_BLANK = b"0" * 64  # stands in the place of a file's own checksum while that is computed
_PLACE = b'"sha256":"'
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Content:
    """What an entry's file says of itself; `value` is None for tensors."""

    key: dict[str, Any]
    about: dict[str, Any]
    sha256: str
    value: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Header:
    """A safetensors file's first bytes, and where in them its own checksum stands, where it has one."""

    head: bytes
    metadata: dict[str, str] = field(default_factory=dict)
    place: int | None = None


def digest(key: Mapping[str, Any]) -> str:
    """sha256 of a key: a JSON-like mapping, its order of no account."""
    return hashlib.sha256(canonical(key)).hexdigest()


def place(root: Path, folder: str, name: str, suffix: str) -> Path:
    """Where the entry of a digest lies: in a folder for its first two digits."""
    return root / folder / name[:2] / (name + suffix)


def canonical(content: Any) -> bytes:
    """JSON that is the same for equal content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def value_file(key: Mapping[str, Any], value: Mapping[str, Any], about: Mapping[str, Any]) -> bytes:
    """The file of a value."""
    entry = {"key": key, **({"about": about} if about else {}), "value": value}
    return json.dumps(entry | {"sha256": _checksum(entry)}, allow_nan=False).encode()


def tensor_file(tensors: bytes, key: Mapping[str, Any], about: Mapping[str, Any]) -> tuple[bytes, memoryview]:
    """The file of tensors, in two parts, from their safetensors."""
    header = _header(io.BytesIO(tensors))
    content = json.loads(header.head[8:])
    content.pop("__metadata__", None)
    told = {"about": json.dumps(about)} if about else {}
    metadata = {"key": json.dumps(key, allow_nan=False), **told, "sha256": _BLANK.decode()}
    text = json.dumps({"__metadata__": metadata} | content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head, body = len(text).to_bytes(8, "little") + text, memoryview(tensors)[len(header.head) :]
    checksum = hashlib.sha256(head)
    checksum.update(body)
    place = head.index(_PLACE) + len(_PLACE)
    return head[:place] + checksum.hexdigest().encode() + head[place + 64 :], body


def current(read: Callable[[], _Read]) -> _Read:
    """What `read` finds in a file; it is called once more where the file is replaced meanwhile by another machine,
    which makes the one that is open stale on a network file system."""
    try:
        return read()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return read()


def read_value(path: Path, name: str | None = None) -> Content:
    """The value of a file, checked against its checksum and its name. Raises ValueError where it is corrupt."""
    try:
        entry = json.loads(path.read_bytes())
        if not isinstance(entry["value"], dict) or entry["sha256"] != _checksum(entry):
            raise ValueError("its checksum does not fit")
        _check_name(entry["key"], name or path.stem)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it is no entry: {error!r}") from error
    return Content(entry["key"], entry.get("about", {}), entry["sha256"], entry["value"])


def read_tensors(path: Path) -> bytes:
    """The safetensors of a file, checked like a value."""
    content = path.read_bytes()
    _check_tensors(io.BytesIO(content), path, path.stem)
    return content


def look(path: Path) -> Content:
    """What a file says of itself, unchecked: of tensors only the first bytes are read, of checkpoints no tensors."""
    if path.suffix == ".pt":
        return _told_by_checkpoint(path)
    if path.suffix == ".json":
        entry = json.loads(path.read_bytes())
        return Content(entry["key"], entry.get("about", {}), entry["sha256"], entry["value"])
    with path.open("rb") as file:
        return _told(_header(file), path)


def check(path: Path, name: str | None = None) -> Content:
    """What a file says of itself, after all of it was read and checked. Nothing in it is executed, and of a checkpoint
    nothing unpickled but tensors and plain values.

    Args:
        name: of the entry, where the file does not have it yet.

    Raises ValueError where it is corrupt.
    """
    if path.suffix == ".pt":
        return _check_checkpoint(path, name or path.stem)
    if path.suffix == ".json":
        return read_value(path, name)
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        told = _check_tensors(file, path, name or path.stem)
    try:
        with safe_open(path, "numpy"):  # a checksum says nothing of shapes and offsets
            return told
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def check_archive(path: Path) -> None:
    """Check the checksums within a file that `torch.save` wrote, a zip file. Raises ValueError where it is corrupt."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} in it does not fit")
            if any(part.external_attr for part in archive.infolist()):  # torch reads nothing from a "folder"
                raise ValueError("it has attributes that torch never gives")
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                raise ValueError("it is no checkpoint")
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ValueError(str(error) or "it is truncated") from error


def sha256_of(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return _sha256(file, b"")


def _check_checkpoint(path: Path, name: str) -> Content:
    check_archive(path)
    told = _told_by_checkpoint(path)
    _check_name(told.key, name)
    return told


def _told_by_checkpoint(path: Path) -> Content:
    import torch

    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return Content(json.loads(content["key"]), json.loads(content["about"]), "")
    except OSError:
        raise
    except Exception as error:  # whatever torch raises on a damaged file
        raise ValueError("it does not say what it is of") from error


def _check_tensors(file: BinaryIO, path: Path, name: str) -> Content:
    header = _header(file)
    told, head = _told(header, path), header.head
    if header.place is not None:
        head = head[: header.place] + _BLANK + head[header.place + 64 :]
    if _sha256(file, head) != told.sha256:
        raise ValueError("its checksum does not fit")
    _check_name(told.key, name)
    return told


def _header(file: BinaryIO) -> _Header:
    length = file.read(8)
    size = int.from_bytes(length, "little")
    text = file.read(size) if size <= _MOST_HEADER else b""
    if len(length) < 8 or len(text) < size or not size:
        raise ValueError("it is truncated, or no safetensors")
    try:
        metadata = json.loads(text).get("__metadata__", {})
        place = 8 + text.index(_PLACE) + len(_PLACE) if "sha256" in metadata else None
    except (AttributeError, TypeError, RecursionError) as error:
        raise ValueError("its header is no safetensors'") from error
    return _Header(length + text, metadata, place)


def _told(header: _Header, path: Path) -> Content:
    if header.place is None:
        key, sha256 = path.with_suffix(".json").read_bytes(), path.with_suffix(".sha256").read_text(encoding="ascii")
        return Content(json.loads(key), {}, sha256.strip())
    try:
        key, about = json.loads(header.metadata["key"]), json.loads(header.metadata.get("about", "{}"))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it is no entry: {error!r}") from error
    return Content(key, about, header.metadata["sha256"])


def _checksum(entry: Mapping[str, Any]) -> str:
    covered = {name: entry[name] for name in ("about", "value")} if "about" in entry else entry["value"]
    return hashlib.sha256(canonical(covered)).hexdigest()


def _check_name(key: Any, name: str) -> None:
    if not isinstance(key, dict) or digest(key) != name:
        raise ValueError("its key is not that of its name")


def _sha256(file: BinaryIO, head: bytes) -> str:
    """Of `head` and what is left to read of `file`."""
    checksum = hashlib.sha256(head)
    while chunk := file.read(_CHUNK):
        checksum.update(chunk)
    return checksum.hexdigest()
