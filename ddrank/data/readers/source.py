"""Where distilled data lie: on this machine, or behind a URL, of which a copy is kept by content.

A cache folder holds `files/<sha256>`, what was downloaded; `index/<hash of the URL>.json`, what lies at a URL (names,
their sha256, and how the server stamps them); and `folders/<hash>/`, the files of one URL under their own names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ddrank import atomic
from ddrank.data.readers.decode import SUFFIXES
from ddrank.data.readers.tensors import reason
from ddrank.errors import InputError
from ddrank.store.entry import sha256_of

CACHE = Path("store/downloads")
_KINDS = (".safetensors", ".pt", ".pth", ".npz", ".npy", ".parquet", ".arrow", *SUFFIXES)
_INFORMATION = ("dataset_info.json", "state.json")
_STAMPS = ("ETag", "etag", "blob_id", "LastModified", "last_modified", "mtime", "created", "sha256", "oid")
_AT_ONCE = 8  # downloads
_MEGABYTE = 2**20


def is_url(source: Path | str) -> bool:
    """Whether `source` is something that fsspec reads, as opposed to a local path."""
    return isinstance(source, str) and bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)", source))


def local(source: Path | str, cache: Path | str | None, beside: Callable[[str], tuple[str, ...]]) -> Path:
    """The path of `source` on this machine; what lies behind a URL is downloaded, unless an unchanged copy is there.

    A URL is a file's where it ends in a known suffix, else a folder's, with all below it. With a file come those that
    `beside` says may belong to it, where they are there. When the network fails, the copy in `cache` is used, which is
    said. Raises InputError when nothing can be had.
    """
    if not is_url(source):
        return Path(source)
    cache, source = Path(cache or CACHE), str(source)
    index = cache / "index" / f"{hashlib.sha256(source.encode()).hexdigest()}.json"
    known = _known(index)
    try:
        listing = _listing(source, beside)
    except InputError as error:
        if not known or not _whole(known, cache):
            raise
        _say(f"{error}; its copy in {cache} is used")
        return _folder(known, cache, source)
    wanted = [entry for entry in listing if not _unchanged(entry, known, cache)]
    hashes = _download(wanted, source, cache)
    files = {
        entry.name: {"sha256": hashes.get(entry.name) or known[entry.name]["sha256"], "stamp": entry.stamp}
        for entry in listing
    }
    atomic.write_bytes(index, json.dumps({"url": source, "files": files}, indent=1).encode())
    return _folder(files, cache, source)


@dataclass(frozen=True)
class _Entry:
    """A file behind a URL: its name below the URL, its path for the filesystem, its size and stamp where told."""

    name: str
    remote: str
    filesystem: Any
    size: int | None
    stamp: str | None


def _listing(source: str, beside: Callable[[str], tuple[str, ...]]) -> list[_Entry]:
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(source)
        filesystem.invalidate_cache()
        name = PurePosixPath(root.rstrip("/")).name
        if PurePosixPath(name.partition("?")[0]).suffix.lower() in _KINDS:
            return [_entry(filesystem, name.partition("?")[0], root), *_companions(filesystem, root, beside)]
        entries = []
        for remote, information in filesystem.find(root, detail=True).items():
            below = remote[len(root.rstrip("/")) :].lstrip("/") if remote.startswith(root.rstrip("/")) else remote
            if PurePosixPath(below).suffix.lower() in _KINDS or PurePosixPath(below).name in _INFORMATION:
                entries.append(_entry(filesystem, below, remote, information))
    except (ImportError, ValueError) as error:
        raise InputError(_driver(source, error)) from error
    except FileNotFoundError as error:
        raise InputError(
            f"there is nothing at {source}, or it cannot be reached: check the address and the network"
        ) from error
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{source} cannot be reached ({reason(error)}): check the address and the network") from error
    if not entries:
        raise InputError(f"{source} holds no files of distilled data ({', '.join(_KINDS)}): check the address")
    return sorted(entries, key=lambda entry: entry.name)


def _companions(filesystem: Any, root: str, beside: Callable[[str], tuple[str, ...]]) -> list[_Entry]:
    parent, _, name = root.rpartition("/")
    name, _, query = name.partition("?")
    entries = []
    for other in beside(name):
        remote = f"{parent}/{other}" + (f"?{query}" if query else "")
        if other != name and filesystem.exists(remote):
            entries.append(_entry(filesystem, other, remote))
    return entries


def _entry(filesystem: Any, name: str, remote: str, information: dict[str, Any] | None = None) -> _Entry:
    if information is None or information.get("size") is None:
        information = filesystem.info(remote)
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
        raise InputError(f"{remote} has a name that leads out of its folder: it was not downloaded, for safety")
    told = {key: str(information[key]) for key in _STAMPS if information.get(key)}
    size = information.get("size")
    return _Entry(name, remote, filesystem, size, json.dumps(told | {"size": size}, sort_keys=True) if told else None)


def _driver(source: str, error: Exception) -> str:
    protocol = re.split(r"://|::", source)[0]
    extra = " (pip install 'ddrank[s3]')" if protocol in ("s3", "s3a") else ""
    return (
        f"{source} cannot be read ({reason(error)}): install the driver of {protocol}://{extra}, or correct the address"
    )


def _known(index: Path) -> dict[str, Any]:
    try:
        files = json.loads(index.read_text())["files"]
        return {name: {"sha256": entry["sha256"], "stamp": entry["stamp"]} for name, entry in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _unchanged(entry: _Entry, known: dict[str, Any], cache: Path) -> bool:
    """Whether the cache holds what lies there now, by the server's own stamp: a size alone proves nothing."""
    there = known.get(entry.name)
    return bool(there and entry.stamp and there["stamp"] == entry.stamp and _intact(there["sha256"], cache))


def _whole(known: dict[str, Any], cache: Path) -> bool:
    return all(_intact(entry["sha256"], cache) for entry in known.values())


def _intact(digest: str, cache: Path) -> bool:
    file = cache / "files" / digest
    return file.is_file() and sha256_of(file) == digest


def _download(entries: list[_Entry], source: str, cache: Path) -> dict[str, str]:
    """Fetch `entries` into the cache. Returns the sha256 of each, by name."""
    from fsspec.callbacks import Callback

    from ddrank.progress import Display

    if not entries:
        return {}
    sizes = [entry.size for entry in entries]
    by_size = None not in sizes and sum(sizes) > _MEGABYTE
    lock, arrived = threading.Lock(), [0]
    with Display() as display:
        name, steps = (
            (f"downloading {source} (MB)", sum(sizes) // _MEGABYTE + 1)
            if by_size
            else (f"downloading {source}", len(entries))
        )
        with display.activity(name, steps) as advance:

            class Progress(Callback):
                def relative_update(self, inc: int = 1) -> None:
                    with lock:
                        before, arrived[0] = arrived[0] // _MEGABYTE, arrived[0] + inc
                        if by_size and (more := arrived[0] // _MEGABYTE - before):
                            advance(steps=more)

            def fetch(entry: _Entry) -> str:
                digest = _fetch(entry, cache, Progress())
                if not by_size:
                    with lock:
                        advance()
                return digest

            with ThreadPoolExecutor(min(_AT_ONCE, len(entries))) as pool:
                digests = list(pool.map(fetch, entries))
    return {entry.name: digest for entry, digest in zip(entries, digests, strict=True)}


def _fetch(entry: _Entry, cache: Path, callback: Any) -> str:
    folder = cache / "files"
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".incoming-", dir=folder)
        os.close(handle)
        temporary = Path(name)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): choose another paths.store") from error
    try:
        entry.filesystem.get_file(entry.remote, str(temporary), callback=callback)
        if entry.size is not None and temporary.stat().st_size != entry.size:
            raise OSError(f"{temporary.stat().st_size} of {entry.size} bytes came")
        digest = sha256_of(temporary)
        os.replace(temporary, folder / digest)
        return digest
    except Exception as error:
        raise InputError(f"{entry.remote} could not be downloaded ({reason(error)}): try again") from error
    finally:
        temporary.unlink(missing_ok=True)


def _folder(files: dict[str, Any], cache: Path, source: str) -> Path:
    """A folder with `files` under their own names, hard links into the cache; or the file, where `source` is one."""
    listed = sorted((name, entry["sha256"]) for name, entry in files.items())
    folder = cache / "folders" / hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    if not _complete(folder, listed):
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
        try:
            for name, digest in listed:
                (building / name).parent.mkdir(parents=True, exist_ok=True)
                _link(cache / "files" / digest, building / name)
            os.replace(building, folder)
        except OSError as error:
            if not _complete(folder, listed):  # else another process was first
                raise InputError(
                    f"{folder} cannot be written ({error.strerror}): choose another paths.store"
                ) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
    name = PurePosixPath(source.partition("?")[0].rstrip("/")).name
    return folder / name if PurePosixPath(name).suffix.lower() in _KINDS else folder


def _complete(folder: Path, listed: list[tuple[str, str]]) -> bool:
    return all((folder / name).is_file() and sha256_of(folder / name) == digest for name, digest in listed)


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
