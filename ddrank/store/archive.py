"""Moving entries between stores: a tar archive of entries' files, all of them checked on both ways.

The archive holds one file an entry, under the name that it has in the store, and last a statement of how many there
are. Nothing else is taken from it, nothing in it is executed, and no name in it decides where a file goes: that follows
from the entry's key.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from ddrank import atomic
from ddrank.errors import InputError
from ddrank.leaderboard.configuration import printable
from ddrank.store import entry
from ddrank.store.garbage import referred
from ddrank.store.lock import lock_of
from ddrank.store.store import Store
from ddrank.store.survey import FOLDERS, File, Selection, selected, survey, watched
from ddrank.store.verification import problem_of
from ddrank.wording import counted

SCHEMA = "ddrank/store/1"
_STATEMENT = "ddrank-store.json"
_MOST_STATEMENT = 1 << 16  # bytes
_MOVED = ("measurements", "tensors", "distillations")  # a training goes on where it was begun
_MEMBER = re.compile(rf"({'|'.join(_MOVED)})/([0-9a-f]{{64}})(\.json|\.safetensors|\.pt)")
_CHUNK = 1 << 20


def export(root: Path, target: Path, selection: Selection, runs: Collection[Path]) -> bool:
    """Write the entries of the store `root` that are meant into the archive `target`, those that the results in `runs`
    rest on where any are given. Corrupt entries are reported and left out. Returns whether there were none."""
    wanted, files = referred(runs) if runs else None, [file for file in survey(root).entries if file.folder in _MOVED]
    if wanted is not None:
        absent = len(wanted - {file.name for file in files})
        files = [file for file in files if file.name in wanted]
    files = [one.file for one in selected(files, selection, "reading entries")]
    if not files:
        raise InputError(f"{root} holds no such entry: see what it holds with `python -m ddrank.store ls`")
    if target.exists():
        raise InputError(f"{target} exists: choose another name, or remove it first")
    corrupt: list[str] = []
    mode = "w:gz" if target.name.endswith((".gz", ".tgz")) else "w"

    def write(temporary: Path) -> None:
        with tarfile.open(temporary, mode, format=tarfile.PAX_FORMAT) as archive:
            for file in watched(files, "exporting", lambda file: file.bytes):
                if (problem := problem_of(file)) is not None:
                    corrupt.append(f"{file.path} ({problem})")
                else:
                    _add(archive, file)
            statement = json.dumps({"schema": SCHEMA, "entries": len(archive.getmembers())}).encode()
            _add_bytes(archive, _STATEMENT, statement, time.time())

    atomic.write_with(target, write)
    for one in corrupt:
        print(f"corrupt, left out: {one}")
    if wanted is not None and absent:
        print(f"absent: {absent} of the {len(wanted)} entries that the results rest on are not in {root}")
    print(f"exported {counted(len(files) - len(corrupt), 'entry')} to {target}")
    return not corrupt


def take_in(root: Path, source: Path) -> bool:
    """Put the entries of the archive `source` into the store `root`, which is made where there is none.

    An entry that is there and sound stays as it is. Entries that are corrupt are reported and left out. Returns whether
    there were none. Raises InputError for an archive that was not made by `export`, or ends too early; what was whole
    of it is in the store by then.
    """
    store, counts = Store(root), Counter()
    stated = None
    try:
        with tarfile.open(source, "r:*") as archive:
            for member in archive:
                if stated is not None:
                    raise InputError(f"{source} goes on after its end: make it with `python -m ddrank.store export`")
                if member.name == _STATEMENT and member.isreg() and member.size <= _MOST_STATEMENT:
                    stated = _stated(archive.extractfile(member).read(), source)
                    continue
                file = _place(store.root, member, source)
                counts[_take(store, file, archive.extractfile(member), member)] += 1
    except FileNotFoundError as error:
        raise InputError(f"{source} does not exist: give an archive that `export` made") from error
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"{source} cannot be read ({error}): {_so_far(counts)}; copy it again, and import it"
        ) from error
    finally:
        os.sync()
        _report(counts)
    if stated != counts.total():
        raise InputError(f"{source} is not whole: {_so_far(counts)}; copy it again, and import it")
    return not counts["corrupt"]


def _add(archive: tarfile.TarFile, file: File) -> None:
    name = f"{file.folder}/{file.path.name}"
    if file.folder == "tensors" and file.path.with_suffix(".sha256").exists():
        # Of an earlier version: key and checksum move into the file.
        content = entry.look(file.path)
        head, body = entry.tensor_file(file.path.read_bytes(), content.key, content.about)
        _add_bytes(archive, name, head + bytes(body), file.touched)
        return
    try:
        content = file.path.open("rb")
    except OSError as error:
        raise InputError(f"{file.path} vanished while the store was read: export again") from error
    with content:
        member = tarfile.TarInfo(name)
        member.size, member.mtime = os.fstat(content.fileno()).st_size, int(file.touched)
        archive.addfile(member, content)


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes, touched: float) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), int(touched)
    archive.addfile(member, io.BytesIO(content))


def _stated(content: bytes, source: Path) -> int:
    try:
        statement = json.loads(content)
        if statement["schema"] == SCHEMA and type(statement["entries"]) is int:
            return statement["entries"]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise InputError(f"{source} is no archive of this version ({SCHEMA}): export it again")


def _place(root: Path, member: tarfile.TarInfo, source: Path) -> File:
    """Where in the store a member of the archive goes."""
    parts = _MEMBER.fullmatch(member.name)
    if not parts or not member.isreg() or FOLDERS[parts[1]] != parts[3]:
        raise InputError(
            f"{source} holds {printable(member.name)}, which is no entry of a store: give an archive that `export` made"
        )
    folder, name, suffix = parts.groups()
    path = root / folder / (name + suffix) if folder == "distillations" else entry.place(root, folder, name, suffix)
    return File(path, folder, name, member.size, member.mtime)


def _take(store: Store, file: File, content: IO[bytes], member: tarfile.TarInfo) -> str:
    """Put one entry into the store; what became of it."""
    lock = lock_of(store.root, file.name)
    if not lock.acquire(wait=False):
        return "in work"
    try:
        if file.path.exists() and problem_of(file) is None:
            return "there"
        atomic.write_with(
            file.path, lambda temporary: _copy(content, member, temporary, file), flush=False, root=store.root
        )
    except ValueError as error:
        print(f"corrupt, left out: {member.name} ({error})")
        return "corrupt"
    finally:
        lock.release()
    return "new"


def _copy(content: IO[bytes], member: tarfile.TarInfo, temporary: Path, file: File) -> None:
    with temporary.open("wb") as target:
        for chunk in _chunks(content):
            target.write(chunk)
        if target.tell() != member.size:
            raise tarfile.ReadError("it ends too early")
    try:
        entry.check(temporary, file.name)
    except FileNotFoundError as error:
        raise ValueError("it holds no key") from error


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    try:
        while chunk := content.read(_CHUNK):
            yield chunk
    except OSError as error:
        raise tarfile.ReadError(str(error)) from error


_TOLD = {
    "new": "put into the store",
    "there": "there already, and left as they are",
    "in work": "left to the job that computes them now",
    "corrupt": "corrupt and left out",
}


def _report(counts: Counter[str]) -> None:
    for name, told in _TOLD.items():
        if counts[name]:
            print(f"{counts[name]} {told}")


def _so_far(counts: Counter[str]) -> str:
    return f"{counts.total()} entries were read, and {counts['new']} of them put into the store"
