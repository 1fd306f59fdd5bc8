"""What each operation of the store costs when it is large: prints a table, one line an operation.

    python scripts/bench_store.py --entries 100000 --folder /where/the/file/system/is

The entries are measurements with the losses of a student of 60 epochs, as `python -m ddrank.run` keeps them.
Their files are in the page cache, as far as it goes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ddrank.store import Store, entry
from ddrank.store.archive import export, take_in
from ddrank.store.listing import list_entries
from ddrank.store.survey import Selection
from ddrank.store.verification import verify

EPOCHS = 60
SAMPLE = 2000  # calls that a figure of a single operation is the mean of
ABOUT = {"arm": "syn_hard", "dataset": "cifar10", "model": "convnet3", "what": "test accuracy"}
PARAMETERS = 320_000  # of the network that is kept, as many as a ConvNet has


def main() -> None:
    """Measure, and print as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where to put the store (default: the temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-store-", dir=options.folder) as folder:
        measure(Path(folder), options.entries)


def measure(folder: Path, count: int) -> None:
    """All figures, for a store of `count` entries."""
    store, chosen = Store(folder / "store"), random.Random(0)
    print(f"{count} measurements, {os.cpu_count()} cores, {file_system(folder)}")
    for number in range(count):
        fill(store.root, number)
    some = [chosen.randrange(count) for _ in range(min(SAMPLE, count))]
    each("get", len(some), lambda: [store.lookup(key(number)) for number in some])
    each("contains: no", len(some), lambda: [store.lookup(key(-1 - number)) for number in some])
    each("has_tensors", len(some), lambda: [store.has_tensors(key(number)) for number in some])
    each("claim and release", len(some), lambda: [store.claim(key(number)).release() for number in some])
    each("put (claim, keep, release)", SAMPLE, lambda: [put(store, count + number) for number in range(SAMPLE)])
    network = {"weight": torch.randn(PARAMETERS)}
    each("keep tensors, 1.3 MB", 100, lambda: [store.keep_tensors(key(number), network) for number in range(100)])
    each("find tensors, 1.3 MB", 100, lambda: [store.find_tensors(key(number)) for number in range(100)])
    whole("ls", count, lambda: list_entries(store.root, Selection(), summary=False, as_json=False))
    whole(
        "ls --summary --kind teacher",
        count,
        lambda: list_entries(store.root, Selection(["teacher"]), True, False),
    )
    whole("verify", count, lambda: verify(store.root, remove=False))
    archive = folder / "entries.tar"
    whole("export", count, lambda: export(store.root, archive, Selection(["measurement"]), []))
    some_keys = Selection(["measurement"], key=["0"])
    part = folder / "part.tar"
    with contextlib.redirect_stdout(io.StringIO()):
        export(store.root, part, some_keys, [])
    whole("import of a sixteenth", count // 16, lambda: take_in(folder / "other", part))
    whole("import of what is there", count // 16, lambda: take_in(folder / "other", part))
    sizes = [path.stat().st_size for path in (store.root / "measurements").rglob("*.json")]
    print(f"{'bytes an entry, mean':<32} {sum(sizes) / len(sizes):>10.0f}")


def key(number: int) -> dict:
    """A measurement's key, as large as a real one."""
    return {
        "kind": "accuracy",
        "version": 2,
        "model": {"_target_": "ddrank.models.convnet.ConvNet", "depth": 3, "width": 128, "norm": "instance"},
        "training": {"epochs": EPOCHS, "batch_size": 256, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0005},
        "criterion": {"_target_": "ddrank.criteria.CrossEntropy"},
        "aug": {"_target_": "ddrank.augment.DSA", "mirror": True},
        "teachers": None,
        "precision": "32-true",
        "train": f"{number % 97:064x}",
        "tested_on": "0" * 64,
        "lr": 0.01,
        "seed": number,
    }


def fill(root: Path, number: int) -> None:
    """Write an entry, without waiting for the disk."""
    path = entry.place(root, "measurements", entry.digest(key(number)), ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(entry.value_file(key(number), value(number), ABOUT))


def put(store: Store, number: int) -> None:
    """Keep a measurement as the scheduler does."""
    lock = store.claim(key(number))
    store.keep(key(number), value(number), ABOUT)
    lock.release()


def value(number: int) -> dict:
    """What is kept of a student."""
    draw = random.Random(number)
    losses = [[epoch, draw.random()] for epoch in range(EPOCHS)]
    return {"accuracy": draw.random(), "losses": losses, "tests": [], "seconds": round(draw.random(), 3)}


def each(name: str, count: int, work: Callable[[], object]) -> None:
    """Print the mean time of one of `count` calls, and the processor's part of it."""
    taken, processor = timed(work)
    print(f"{name:<32} {taken / count * 1e6:>10.0f} us  {processor / count * 1e6:>10.0f} us", flush=True)


def whole(name: str, count: int, work: Callable[[], object]) -> None:
    """Print the time of a command over `count` entries, the processor's part of it, and that of one entry."""
    with contextlib.redirect_stdout(io.StringIO()):
        taken, processor = timed(work)
    each_entry = f"{taken / count * 1e6:.0f} us ({processor / count * 1e6:.0f} us) an entry"
    print(f"{name:<32} {taken:>10.1f} s   {processor:>10.1f} s   {each_entry}", flush=True)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that something takes, and seconds of the processor."""
    began, at_work = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - at_work


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on."""
    if not (shutil.which("stat") and sys.platform == "linux"):
        return "file system unknown"
    return subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
