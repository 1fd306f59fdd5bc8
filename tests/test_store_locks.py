"""Locks: one job computes, whatever the file system; one that is gone holds nobody up."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ddrank.errors import InputError
from ddrank.store import Lock, Store, lock

KEYS = 6

# flock does nothing here, as on some network file systems.
WRITER = f"""
import fcntl, json, sys, time
from pathlib import Path
fcntl.flock = lambda *_: None
from ddrank.store import Lock, Store

folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if sys.argv[4] == "no locks":
    Lock.acquire = lambda self, wait=True: True
store = Store(folder / "store")
(folder / f"{{name}}.ready").touch()
while len(list(folder.glob("*.ready"))) < count:
    time.sleep(0.01)

def compute(number):
    with (folder / "computed").open("a") as log:
        log.write(f"{{number}}\\n")
    time.sleep(0.02)
    return {{"number": number, "by": name}}

values = [store.value({{"key": number}}, lambda: compute(number)) for number in range({KEYS})]
print(json.dumps(values))
"""


def write_together(folder: Path, count: int, locks: str) -> list:
    """What `count` processes get that want the same keys at the same time; warnings are errors."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", WRITER, folder]
    writers = [
        subprocess.Popen([*command, str(number), str(count), locks], stdout=subprocess.PIPE, text=True)
        for number in range(count)
    ]
    answers = [writer.communicate(timeout=120)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * count
    return [json.loads(answer) for answer in answers]


def test_eight_processes_compute_each_key_once(tmp_path):
    answers = write_together(tmp_path, 8, "locks")
    assert sorted((tmp_path / "computed").read_text().split()) == [str(number) for number in range(KEYS)]
    assert all(answer == answers[0] for answer in answers)
    assert list((tmp_path / "store" / "locks").iterdir()) == []


def test_where_no_lock_holds_two_processes_still_keep_whole_entries(tmp_path):
    answers = write_together(tmp_path, 2, "no locks")
    store = Store(tmp_path / "store")
    for number in range(KEYS):
        assert store.lookup({"key": number})["number"] == number
        assert [values[number]["number"] for values in answers] == [number] * 2


def test_where_no_lock_holds_two_writers_of_tensors_leave_those_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Lock, "acquire", lambda self, wait=True: True)
    seen, go_on = [], threading.Barrier(2, timeout=60)

    def write(name: int) -> None:
        store = Store(tmp_path)
        for number in range(20):
            go_on.wait()
            store.keep_tensors({"key": number}, {"by": torch.full((50_000 + number,), float(name))})
            seen.append(store.find_tensors({"key": number})["by"].unique().tolist())

    with warnings.catch_warnings(), ThreadPoolExecutor(2) as pool:
        warnings.simplefilter("error")
        list(pool.map(write, range(2)))
    assert all(one in ([0.0], [1.0]) for one in seen)
    assert len(seen) == 40


# --- who is gone ---


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


KEY = {"key": 1}


def held_by(store: Store, age: float = 0.0, **changes: object) -> Path:
    """A lock file as another job has written it, last touched `age` seconds ago."""
    mine = store.lock(KEY)
    mine.path.unlink(missing_ok=True)
    mine.acquire()
    record = json.loads(mine.path.read_bytes())
    mine.release()
    mine.path.write_text(json.dumps(record | changes))
    os.utime(mine.path, (time.time() - age, time.time() - age))
    return mine.path


def is_free(store: Store) -> bool:
    claimed = store.claim(KEY)
    if claimed is not None:
        claimed.release()
    return claimed is not None


def test_a_lock_of_another_host_is_respected_while_its_holder_touches_it(store):
    path = held_by(store, age=lock.SILENCE - 60, machine="another", host="node7", process=1)
    before = path.read_bytes()
    assert not is_free(store)
    assert path.read_bytes() == before
    assert lock.holder(path).startswith("process 1 on node7 since 20")


def test_a_lock_of_another_host_that_nobody_touches_is_taken_over(store):
    held_by(store, age=lock.SILENCE + 60, machine="another")
    assert is_free(store)
    assert list((store.root / "locks").iterdir()) == []


def test_a_clock_that_is_wrong_takes_no_lock_from_anybody(store, monkeypatch):
    """What counts is the clock of the file system."""
    held_by(store, machine="another")
    now = time.time()
    for wrong in (now + 86400, now - 86400):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
        assert not is_free(store)


def test_a_lock_of_a_process_that_has_ended_is_taken_over(store):
    ended = subprocess.Popen(["true"])
    ended.wait()
    held_by(store, process=ended.pid)
    assert is_free(store)


def test_a_lock_of_a_process_whose_number_another_one_has_now_is_taken_over(store):
    held_by(store)
    assert not is_free(store)  # as it is, this process holds it
    held_by(store, started="1")
    assert is_free(store)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
def test_a_lock_of_a_process_that_was_killed_and_not_yet_noticed_is_taken_over(store):
    process = subprocess.Popen(["sleep", "600"])
    started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    held_by(store, process=process.pid, started=started)
    assert not is_free(store)
    os.kill(process.pid, signal.SIGKILL)
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    try:
        assert is_free(store)
    finally:
        process.wait()


def test_a_process_that_the_system_hides_lives_as_long_as_it_touches_its_lock(store, monkeypatch):
    """As with /proc mounted hidepid=2, where another user's process can be signalled to but not seen."""
    living = {"process": os.getppid(), "started": "1"}
    held_by(store, **living)
    assert is_free(store)
    ended = subprocess.Popen(["true"])
    ended.wait()
    for age, holder, free in ((0, living, False), (lock.SILENCE + 60, living, True), (0, {"process": ended.pid}, True)):
        held_by(store, age, **holder)
        with monkeypatch.context() as hidden:
            hidden.setattr(Path, "read_text", refuses(errno.EACCES))
            hidden.setattr(os, "kill", os.kill if holder is not living else refuses(errno.EPERM))
            assert is_free(store) == free


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"process": 0}', b'{"process": "1"}', b"\xff"])
def test_a_lock_that_names_no_holder_is_taken_over_after_some_seconds(store, content):
    path = held_by(store)
    path.write_bytes(content)
    assert not is_free(store)  # its holder may be writing it
    os.utime(path, (time.time() - 60, time.time() - 60))
    assert is_free(store)


def test_a_holder_touches_its_lock_until_it_releases_it(store, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    mine = store.claim(KEY)
    for _ in range(2):
        os.utime(mine.path, (1, 1))
        while mine.path.stat().st_mtime == 1:
            time.sleep(0.01)
    mine.release()
    assert not mine.path.exists()


def test_a_holder_that_lost_its_lock_leaves_the_next_one_alone(store, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    before = set(threading.enumerate())
    slow = store.claim(KEY)
    (beat,) = set(threading.enumerate()) - before
    path = slow.path
    path.write_bytes(b"the next holder's")
    beat.join(60)  # it has seen that the lock is another's
    assert not beat.is_alive()
    os.utime(path, (1, 1))
    slow.release()
    assert path.stat().st_mtime == 1
    assert path.read_bytes() == b"the next holder's"


def test_a_lock_taken_over_by_another_job_just_now_is_put_back(store, monkeypatch):
    path = held_by(store, age=lock.SILENCE + 60, machine="another")
    new = json.dumps({**json.loads(path.read_bytes()), "token": "of a job that was faster"})
    rename = os.rename

    def late(source, target):
        Path(source).write_text(new)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    assert store.claim(KEY) is None
    assert path.read_text() == new
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_lock_that_is_given_back_while_it_is_read_is_free(store, monkeypatch, number):
    """Another machine's client of a network file system is then told of a stale file, at any of its reads."""
    path, read, reads = held_by(store, age=lock.SILENCE + 60, machine="another"), Path.read_bytes, []

    def stale(self):
        reads.extend([1] if self == path else [])
        if self == path and len(reads) == number:
            path.unlink()
            refuses(errno.ESTALE)()
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", stale)
    with store.lock(KEY):
        assert len(reads) == number
    assert list(path.parent.iterdir()) == []


def test_whoever_waits_gets_the_lock_when_its_holder_is_killed(tmp_path):
    script = "import sys, time; from ddrank.store import Store; s = Store(sys.argv[1]); s.claim({'key': 1}); "
    script += "print('held', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    store = Store(tmp_path)
    assert store.claim(KEY) is None
    os.kill(process.pid, signal.SIGKILL)
    assert store.value(KEY, lambda: {"x": 1}) == {"x": 1}
    process.wait()
    process.stdout.close()


# --- what cannot be written ---


def refuses(number: int):
    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES, errno.EDQUOT])
def test_a_lock_that_cannot_be_made_is_one_sentence(store, monkeypatch, number):
    monkeypatch.setattr(lock.os, "open", refuses(number))
    with pytest.raises(InputError) as error:
        store.value(KEY, lambda: {"x": 1})
    monkeypatch.undo()
    assert str(error.value).endswith(
        f".lock could not be written ({os.strerror(number)}): make room, or choose another, writable paths.store"
    )
    assert is_free(store)


def test_a_store_that_vanishes_is_one_sentence_and_is_not_made_anew(store):
    def vanish():
        shutil.rmtree(store.root)
        return {"x": 1}

    with pytest.raises(InputError, match=r"the store .*store has vanished: put it back, or choose another folder"):
        store.value(KEY, vanish)
    assert not store.root.exists()
    with pytest.raises(InputError, match="could not be written"):
        store.value(KEY, lambda: {"x": 1})
    assert not store.root.exists()


def test_a_lock_is_free_after_its_block(store):
    with Lock(store.root / "locks" / "one.lock") as held:
        assert held.path.exists()
        assert not Lock(held.path).acquire(wait=False)
    assert not held.path.exists()
