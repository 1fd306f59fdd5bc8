"""The store: computed once, written whole, waited for, and never trusted blindly."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ddrank import atomic
from ddrank.errors import InputError
from ddrank.store import Store, digest
from ddrank.store.entry import tensor_file
from ddrank.store.survey import survey
from ddrank.store.verification import discard, verify

KEY = {"kind": "test", "seed": 3, "training": {"lr": 0.1, "epochs": 2}}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


class Counted:
    """A computation that counts how often it is asked for."""

    def __init__(self, result):
        self.result, self.calls = result, 0

    def __call__(self):
        self.calls += 1
        return self.result


def files(root: Path) -> list[Path]:
    """All files below `root` but the locks."""
    return sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")


def entry(store: Store, suffix: str) -> Path:
    (path,) = (path for path in files(store.root) if path.suffix == suffix)
    return path


def tensors() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(7)}


# --- by content ---


def test_a_value_is_computed_once_and_then_read(store):
    compute = Counted({"accuracy": 0.1 + 0.2, "losses": [[1, 2.5]], "note": None})
    assert store.lookup(KEY) is None
    values = [store.value(KEY, compute), store.value(KEY, compute), Store(store.root).value(KEY, compute)]
    assert values == [compute.result] * 3
    assert store.lookup(KEY) == compute.result
    assert compute.calls == 1


def test_a_store_that_has_vanished_is_not_made_anew(store):
    """Not by a writer that has just looked whether it is there, either."""
    checkpoint = store.checkpoint(KEY)
    shutil.rmtree(store.root)
    with pytest.warns(UserWarning, match="no checkpoint was kept"):
        checkpoint.keep({"epoch": 1})
    with pytest.raises(InputError, match="has vanished"):
        store.keep(KEY, {"x": 1})
    with pytest.raises(InputError, match="could not be written"):
        atomic.write_with(store.root / "training/00/x.pt", lambda temporary: None, root=store.root)
    assert not store.root.exists()


def test_the_first_answer_is_what_later_ones_are(store):
    """A tuple comes back as a list already from the call that computes it, not only from the file."""
    assert store.value(KEY, lambda: {"pair": (1, 2)}) == store.lookup(KEY) == {"pair": [1, 2]}


def test_another_key_is_another_entry(store):
    others = [KEY | {"seed": 4}, KEY | {"training": {"lr": 0.1, "epochs": 3}}, KEY | {"more": None}, {}]
    for number, key in enumerate([KEY, *others]):
        assert store.value(key, lambda number=number: {"number": number}) == {"number": number}
    assert [store.lookup(key)["number"] for key in [KEY, *others]] == [0, 1, 2, 3, 4]
    assert digest({"seed": 1}) != digest({"seed": "1"})


def test_the_order_of_a_key_is_of_no_account(store):
    turned = {"training": {"epochs": 2, "lr": 0.1}, "seed": 3, "kind": "test"}
    assert digest(turned) == digest(KEY)
    store.value(KEY, lambda: {"x": 1})
    assert store.lookup(turned) == {"x": 1}


def test_an_entry_says_what_it_is_of(store):
    store.value(KEY, lambda: {"x": 1})
    path = entry(store, ".json")
    name = digest(KEY)
    assert path == store.root / "measurements" / name[:2] / f"{name}.json"
    content = json.loads(path.read_text())
    assert content["key"] == KEY
    assert content["value"] == {"x": 1}
    assert content["sha256"] == hashlib.sha256(b'{"x":1}').hexdigest()


def test_tensors_are_computed_once_and_then_read(store):
    compute = Counted(tensors() | {"turned": torch.arange(6.0).view(2, 3).T})
    for found in (store.tensors(KEY, compute), store.tensors(KEY, compute), store.find_tensors(KEY)):
        assert set(found) == set(compute.result)
        assert all(torch.equal(found[name], compute.result[name]) for name in found)
        assert found["steps"].dtype == torch.int64
    assert compute.calls == 1
    assert store.find_tensors(KEY | {"seed": 4}) is None


def test_kept_tensors_are_found_and_dropped(store):
    store.keep_tensors(KEY, tensors())
    store.keep_tensors(KEY | {"seed": 4}, tensors())
    assert torch.equal(store.find_tensors(KEY)["weight"], tensors()["weight"])
    store.drop_tensors(KEY)
    assert store.find_tensors(KEY) is None
    assert len(files(store.root)) == 1  # that of the other key
    store.drop_tensors(KEY)  # there is none: nothing happens
    store.keep_tensors(KEY, {"weight": torch.zeros(1)})
    assert store.find_tensors(KEY)["weight"].tolist() == [0.0]


def test_values_and_tensors_of_one_key_are_apart(store):
    store.value(KEY, lambda: {"x": 1})
    assert store.find_tensors(KEY) is None
    store.keep_tensors(KEY, tensors())
    assert store.lookup(KEY) == {"x": 1}


# --- corrupt entries are reported and computed again ---


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """The last digit of the value is another one: 0.625 becomes 0.624."""
    place = content.index(b"0.625") + 4
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGE = {
    "truncated": truncated,
    "flipped": flipped,
    "empty": lambda _: b"",
    "not JSON": lambda _: b"accuracy: 0.625",
    "not text": lambda _: b"\xff\xfe\x00",
    "another kind": lambda _: b"[1, 2]",
    "no checksum": lambda _: b'{"key": {}, "value": {"accuracy": 0.625}}',
    "wrong checksum": lambda _: b'{"key": {}, "value": {"accuracy": 0.625}, "sha256": "0"}',
    "no number": lambda content: content.replace(b"0.625", b"NaN"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_corrupt_value_is_reported_and_computed_again(store, damage):
    compute = Counted({"accuracy": 0.625})
    store.value(KEY, compute)
    path = entry(store, ".json")
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    with pytest.warns(UserWarning, match=rf"entry {path} is corrupt \(.*\): computing it again"):
        assert store.lookup(KEY) is None
    with pytest.warns(UserWarning, match="is corrupt"):
        assert store.value(KEY, compute) == {"accuracy": 0.625}
    assert compute.calls == 2
    assert path.read_bytes() == sound
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.lookup(KEY) == {"accuracy": 0.625}


def damage_tensors(path: Path, how: str) -> None:
    content = path.read_bytes()
    checksum = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["sha256"].encode()
    if how == "truncated":
        path.write_bytes(content[:-1])
    elif how == "flipped":
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif how == "not safetensors":
        path.write_bytes(b"nothing")
    elif how == "wrong checksum":
        path.write_bytes(content.replace(checksum, b"0" * 64))
    elif how == "another key":
        path.write_bytes(b"".join(tensor_file(save(tensors()), KEY | {"seed": 4}, {})))
    elif how == "flipped header":
        path.write_bytes(content.replace(b'"F32"', b'"F16"'))
    else:
        head = content[: 8 + int.from_bytes(content[:8], "little")]
        path.write_bytes(head[: len(head) // 2])


TENSOR_DAMAGE = [
    "truncated",
    "flipped",
    "not safetensors",
    "wrong checksum",
    "another key",
    "flipped header",
    "truncated header",
]


@pytest.mark.parametrize("how", TENSOR_DAMAGE)
def test_corrupt_tensors_are_reported_and_computed_again(store, how):
    compute = Counted(tensors())
    store.tensors(KEY, compute)
    path = entry(store, ".safetensors")
    damage_tensors(path, how)
    with pytest.warns(UserWarning, match=rf"entry {path} is corrupt \(.*\): computing it again"):
        assert store.find_tensors(KEY) is None
    with pytest.warns(UserWarning, match="is corrupt"):
        found = store.tensors(KEY, compute)
    assert torch.equal(found["weight"], tensors()["weight"])
    assert compute.calls == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.find_tensors(KEY) is not None


def as_before(store: Store) -> Path:
    """Tensors as earlier versions kept them: key and checksum in files of their own."""
    path = store.root / "tensors" / digest(KEY)[:2] / f"{digest(KEY)}.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(save(tensors()))
    path.with_suffix(".json").write_text(json.dumps(KEY))
    path.with_suffix(".sha256").write_text(hashlib.sha256(save(tensors())).hexdigest())
    return path


def test_tensors_of_earlier_versions_are_read(store):
    as_before(store)
    assert store.has_tensors(KEY)
    assert torch.equal(store.find_tensors(KEY)["weight"], tensors()["weight"])
    store.drop_tensors(KEY)
    assert files(store.root) == []


@pytest.mark.parametrize("damaged", ["safetensors", "sha256", "json"])
def test_corrupt_tensors_of_earlier_versions_are_reported_and_computed_again(store, damaged):
    path = as_before(store).with_suffix(f".{damaged}")
    path.write_bytes(b"\xff\xfe" + path.read_bytes()[2:])
    with pytest.warns(UserWarning, match="is corrupt"):
        found = store.tensors(KEY, lambda: {"weight": torch.ones(2)})
    assert found["weight"].tolist() == [1.0, 1.0]
    assert store.find_tensors(KEY)["weight"].tolist() == [1.0, 1.0]


def test_tensors_of_earlier_versions_without_their_checksum_are_half_written_and_count_as_none(store):
    as_before(store).with_suffix(".sha256").unlink()
    assert store.find_tensors(KEY) is None
    assert store.tensors(KEY, tensors)["steps"] == 7


def test_what_an_entry_is_of_is_checked_too(store):
    store.keep(KEY, {"accuracy": 0.5}, {"arm": "syn_any"})
    assert store.lookup(KEY) == {"accuracy": 0.5}
    path = entry(store, ".json")
    path.write_text(path.read_text().replace("syn_any", "rdm_any"))
    with pytest.warns(UserWarning, match="checksum does not fit"):
        assert store.lookup(KEY) is None


# --- whole or not at all ---


def test_an_entry_that_is_replaced_while_it_is_read_is_read_again(store, monkeypatch):
    store.keep(KEY, {"x": 1})
    read, stale = Path.read_bytes, [OSError(errno.ESTALE, os.strerror(errno.ESTALE))]

    def read_bytes(path):
        if stale:
            raise stale.pop()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.lookup(KEY) == {"x": 1}
    stale.append(OSError(errno.ESTALE, os.strerror(errno.ESTALE)))
    assert verify(store.root, remove=False)
    assert not stale


def test_a_computation_that_raises_leaves_nothing(store):
    def fails():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        store.value(KEY, fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        store.tensors(KEY, fails)
    assert files(store.root) == []
    assert store.value(KEY, lambda: {"x": 1}) == {"x": 1}  # and the lock is free


@pytest.mark.parametrize("use", ["value", "tensors"])
def test_an_entry_that_is_used_is_touched_once_an_hour_and_not_removed_then(store, use):
    store.keep(KEY, {"x": 1}) if use == "value" else store.keep_tensors(KEY, tensors())
    (path,) = files(store.root)
    for hours, touched in ((0.5, False), (2, True)):
        then = time.time() - 3600 * hours
        os.utime(path, (then, then))
        (seen,) = survey(store.root).entries
        store.lookup(KEY) if use == "value" else store.find_tensors(KEY)
        assert (path.stat().st_mtime > then + 1) == touched
    assert discard(store.root, seen, wanted=True) == "a job has used it meanwhile"
    assert path.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused(store, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.value(KEY, lambda: {"accuracy": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.value(KEY | {"lr": value}, lambda: {"accuracy": 1.0})
    assert files(store.root) == []


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_write_that_fails_leaves_nothing_and_says_so(store, monkeypatch, call):
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(InputError) as error:
        store.value(KEY, lambda: {"x": 1})
    assert str(error.value).endswith(
        f"{digest(KEY)}.json could not be written (No space left on device): make room, or choose a writable place"
    )
    with pytest.raises(InputError, match=r"safetensors could not be written \(No space left on device\)"):
        store.tensors(KEY, tensors)
    monkeypatch.undo()
    assert files(store.root) == []
    assert store.value(KEY, lambda: {"x": 1}) == {"x": 1}


def test_a_write_that_fails_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    path = atomic.write_bytes(tmp_path / "a" / "file.json", b"old")
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(InputError):
        atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_writer_that_raises_leaves_nothing(tmp_path):
    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        atomic.write_with(tmp_path / "grid.png", write)
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_is_complete_before_it_has_its_name(tmp_path, monkeypatch):
    seen, replace = [], os.replace

    def watched(source, target):
        seen.append((Path(source).read_bytes(), Path(source).parent, Path(source).suffix, Path(target).exists()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    path = atomic.write_bytes(tmp_path / "file.json", b"content")
    assert seen == [(b"content", tmp_path, ".json", False)]
    assert path.read_bytes() == b"content"


def test_written_files_have_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        path = atomic.write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_store_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError) as error:
        Store(tmp_path / "file" / "store")
    sentence = f"the store {tmp_path / 'file' / 'store'} cannot be used (Not a directory): choose a writable folder"
    assert str(error.value) == f"{sentence} as paths.store"


# --- several processes ---

WORKER = """
import sys, time
from pathlib import Path
from ddrank.store import Store

folder, name, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
store = Store(folder / "store")

def compute():
    with (folder / "computed").open("a") as log:
        log.write(name)
    while not (folder / f"{other}.ready").exists():
        time.sleep(0.01)
    time.sleep(0.3)  # the other one asks by now
    return {"by": name}

(folder / f"{name}.ready").touch()
print(store.value({"key": 1}, compute)["by"])
"""

SLEEPER = """
import sys, time
from pathlib import Path
from ddrank.store import Store

folder = Path(sys.argv[1])

def compute():
    (folder / "computing").touch()
    time.sleep(600)

Store(folder / "store").value({"key": 1}, compute)
"""


def start(script: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_two_processes_that_want_the_same_key_compute_it_once(tmp_path):
    workers = [start(WORKER, tmp_path, "a", "b"), start(WORKER, tmp_path, "b", "a")]
    answers = [worker.communicate(timeout=180)[0].strip() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert (tmp_path / "computed").read_text() in ("a", "b")
    assert answers == [(tmp_path / "computed").read_text()] * 2


def test_a_killed_process_leaves_no_entry_and_no_lock(tmp_path):
    process = start(SLEEPER, tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "computing").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert Store(tmp_path / "store").claim({"key": 1}) is None  # it is held while the value is computed
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    process.stdout.close()
    assert files(tmp_path / "store") == []
    assert Store(tmp_path / "store").value({"key": 1}, lambda: {"x": 1}) == {"x": 1}
