"""Compare ddrank with the reference package ddranking 0.2.0: same machine, same files, same settings, on the CPU.

    python scripts/compare_ddranking.py --out comparison.json

Procedural images in CIFAR-10's archive format are read by both packages through their own loaders. Three parts:

- times: an epoch at IPC 1, 10, 50 and on the real data, a test pass, and one whole student at IPC 1;
- costs: what a full hard-label evaluation takes, computed from these times and from counts that both packages give;
- accuracy: whether the two engines agree on the same distilled images.

Each package runs in a process of its own, asked in turn, so that a noisy machine hits both alike. ddranking is
installed aside, into a folder for temporary files; with --package DIR it is taken from there. Its own functions are
what is timed; its defects are worked around from outside and listed in the report. Times are in seconds, accuracies
are fractions. On two cores the whole takes an hour and a quarter; --student-epochs 0 leaves out its longest part.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from compare_packages import OURS, OURS_BF16, REFERENCE, TEST_EVERY, composed
from compare_report import (
    IPCS,
    PROTOCOLS,
    accuracy_table,
    costs_table,
    heading,
    ratios,
    students_table,
    times_table,
)

TIMED_EPOCHS = {1: 100, 10: 30, 50: 10}  # by IPC, after WARM_EPOCHS, at --effort 1
NEEDED = {"tqdm": "tqdm", "pandas": "pandas", "dateutil": "python-dateutil", "pytz": "pytz", "six": "six"}
TUNING = ("OMP_", "MKL_", "KMP_", "GOMP_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "THP_MEM_ALLOC_ENABLE", "TORCH")
WORKED_AROUND = (
    "it pins numpy < 2: installed without its dependencies",
    "it always asks torchvision to download CIFAR-10: the checksums of torchvision are replaced by 'is there'",
    "its default device is cuda: device='cpu' is passed",
    "it takes its seeds from the clock: seeded through its set_seed before each student",
    "it has no real accuracy for CIFAR10-ConvNet-3 and fails without: eval_full_data=True",
    "compute_metrics() crashes when it saves, after all the training: single students are trained through its "
    "_compute_hard_label_metrics(); the counts come from compute_metrics() with the training left out, crash and all",
    "it writes its random images into the working directory: run in a folder for temporary files",
    "it prints at every epoch: its output is thrown away, its tqdm replaced by nothing",
    "its accuracies are percentages: divided by 100",
)


def main() -> None:
    options = _options()
    work = Path(tempfile.gettempdir()) / "ddrank-compare"
    work.mkdir(exist_ok=True)
    package = options.package or _installed(work / "ddranking-0.2.0")
    data = options.data or work / f"data-{options.train}-{options.test}"
    setup = _prepared(data, options) | {"work": str(work), "package": str(package), "threads": options.threads}
    report: dict[str, Any] = {
        "machine": _machine(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "worked_around": WORKED_AROUND,
        "setup": setup,
    }
    print(heading(report), flush=True)
    if "times" in options.parts:
        report["times"] = _times(setup, options, report)
        print(times_table(report["times"], setup), flush=True)
    if "costs" in options.parts:
        report["costs"] = _costs(report["times"], report["plans"], setup)
        print(costs_table(report["costs"]), flush=True)
    if "times" in options.parts and options.student_epochs:
        report["students"] = _students(setup, options)
        print(students_table(report["students"], report["times"], options.student_epochs), flush=True)
    if "accuracy" in options.parts:
        report["accuracy"] = _accuracies(setup, options)
        print(accuracy_table(report["accuracy"], options), flush=True)
    report["ratios"] = ratios(report)
    print("Ratios of medians, ddranking / ddrank")
    print("\n".join(f"  {name:<96}{ratio:8.2f}" for name, ratio in report["ratios"].items()))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write everything there, all samples included")
    parser.add_argument("--package", type=_path, metavar="DIR", help="where ddranking 0.2.0 is installed aside")
    parser.add_argument("--data", type=_path, metavar="DIR", help="holds or gets cifar-10-batches-py")
    parser.add_argument("--parts", default="times,costs,accuracy", help="of times,costs,accuracy (default: all)")
    parser.add_argument("--train", type=int, default=50000, help="training images that are drawn")
    parser.add_argument("--test", type=int, default=10000, help="test images that are drawn")
    parser.add_argument("--repetitions", type=int, default=3, help="of every time but the whole student's")
    parser.add_argument("--real-batches", type=int, default=40, help="batches of a real epoch that are timed; scaled")
    parser.add_argument("--student-epochs", type=int, default=1000, help="of the whole student; 0 leaves it out")
    parser.add_argument("--student-repetitions", type=int, default=1, help="whole students of each kind")
    parser.add_argument("--seeds", type=int, default=3, help="students of each package whose accuracies are compared")
    parser.add_argument("--accuracy-epochs", type=int, default=100, help="epochs of those students")
    parser.add_argument("--threads", type=int, default=_cores(), help="ddrank's engine.threads (default: all cores)")
    parser.add_argument("--effort", type=float, default=1.0, help="factor of the number of epochs that are timed")
    options = parser.parse_args()
    options.parts = options.parts.split(",")
    if unknown := set(options.parts) - {"times", "costs", "accuracy"}:
        parser.error(f"--parts has {', '.join(unknown)}: choose of times, costs, accuracy")
    if "costs" in options.parts and "times" not in options.parts:
        parser.error("--parts costs is computed from the times: add times")
    if "accuracy" in options.parts and (options.seeds < 2 or options.accuracy_epochs < TEST_EVERY):
        parser.error(f"--seeds must be 2 or more, and --accuracy-epochs {TEST_EVERY} or more")
    if options.student_epochs and options.student_epochs < TEST_EVERY:
        parser.error(f"--student-epochs must be 0 or at least {TEST_EVERY}")
    return options


def _times(setup: dict, options: argparse.Namespace, report: dict) -> dict[str, dict[str, list[float]]]:
    """Seconds of each piece of work, by side and piece, one for each repetition. Leaves the plans in `report`."""
    ours = (OURS, OURS_BF16)
    timed = {ipc: max(2, round(epochs * options.effort)) for ipc, epochs in TIMED_EPOCHS.items()}
    pieces = [(f"epoch ipc{ipc}", "epoch", {"ipc": ipc, "count": timed[ipc]}, (REFERENCE, *ours)) for ipc in IPCS]
    pieces += [
        (f"epoch ipc{ipc} noaug", "epoch", {"ipc": ipc, "count": timed[ipc], "aug": False}, ours) for ipc in IPCS
    ]
    pieces += [("epoch real", "real_epoch", {"batches": options.real_batches}, (REFERENCE, *ours))]
    pieces += [("test", "test", {}, (REFERENCE, *ours)), ("validation", "test", {"which": "validation"}, ours)]
    sides = {name: Side(name, setup) for name in (REFERENCE, *ours)}
    _check_same([side.described for side in sides.values()])
    report["sides"] = {name: side.described for name, side in sides.items()}
    report["plans"] = {
        REFERENCE: {ipc: sides[REFERENCE].ask("plan", ipc=ipc) for ipc in IPCS},
        **{f"protocol={name}": {i: sides[OURS].ask("plan", ipc=i, protocol=name) for i in IPCS} for name in PROTOCOLS},
    }
    times: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    for repetition in range(options.repetitions):
        for piece, what, arguments, names in pieces:
            for name in names:
                _say(f"times, repetition {repetition + 1} of {options.repetitions}: {piece}, {name}")
                times[name].setdefault(piece, []).append(sides[name].ask(what, **arguments))
    for side in sides.values():
        side.close()
    return times


def _students(setup: dict, options: argparse.Namespace) -> dict[str, list[dict]]:
    """Whole students at IPC 1, each in a fresh process with an empty compile cache, by side."""
    students: dict[str, list[dict]] = {REFERENCE: [], OURS: [], OURS_BF16: []}
    for repetition in range(options.student_repetitions):
        for name, done in students.items():
            _say(f"whole student {repetition + 1} of {options.student_repetitions}: {name}")
            side = Side(name, setup)
            done.append(side.ask("student", ipc=1, epochs=options.student_epochs, seed=repetition))
            side.close()
    return students


def _accuracies(setup: dict, options: argparse.Namespace) -> dict[str, list[dict]]:
    """Students at IPC 10, one for each seed, by side."""
    sides = {name: Side(name, setup) for name in (REFERENCE, OURS)}
    _check_same([side.described for side in sides.values()])
    students: dict[str, list[dict]] = {name: [] for name in sides}
    for seed in range(options.seeds):
        for name, side in sides.items():
            _say(f"accuracy, seed {seed + 1} of {options.seeds}: {name}")
            students[name].append(side.ask("student", ipc=10, epochs=options.accuracy_epochs, seed=seed))
    for side in sides.values():
        side.close()
    return students


def _costs(times: dict, plans: dict, setup: dict) -> dict[str, dict[int, list[dict]]]:
    """Each plan's arms with their seconds, by who runs it in which precision and by IPC: medians times counts."""
    runs = {REFERENCE: (REFERENCE, plans[REFERENCE])}
    for side in (OURS, OURS_BF16):
        runs |= {f"{side} protocol={name}": (side, plans[f"protocol={name}"]) for name in PROTOCOLS}
    costs: dict[str, dict[int, list[dict]]] = {}
    for run, (side, plan) in runs.items():
        pieces = {piece: median(seconds) for piece, seconds in times[side].items()}
        costs[run] = {
            ipc: [arm | {"seconds": _arm_seconds(arm, ipc, pieces, setup)} for arm in plan[ipc]] for ipc in IPCS
        }
    return costs


def _arm_seconds(arm: dict, ipc: int, pieces: dict[str, float], setup: dict) -> float:
    if arm["arm"] == "real_hard":
        epoch = pieces["epoch real"] * arm["images"] / setup["train"]
    else:
        epoch = pieces[f"epoch ipc{ipc}" + (" noaug" if arm["arm"].endswith("_noaug") else "")]
    tests = arm["tests"] * pieces["test"] + arm["validations"] * pieces.get("validation", 0.0)
    return arm["students"] * arm["epochs"] * epoch + tests


class Side:
    """One package in a process of its own, asked by lines of JSON; it waits while the other one works."""

    def __init__(self, name: str, setup: dict):
        self.name, self._log = name, Path(setup["work"]) / f"{name.replace(' ', '-')}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(TUNING)}
        environment |= {"CUDA_VISIBLE_DEVICES": ""}
        if name == REFERENCE:
            environment["PYTHONPATH"] = setup["package"]
        self._cache = tempfile.TemporaryDirectory(dir=setup["work"], prefix="compiled-", ignore_cleanup_errors=True)
        environment["TORCHINDUCTOR_CACHE_DIR"] = self._cache.name
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve().with_name("compare_packages.py")), name, json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
            env=environment,
            cwd=setup["work"],
        )
        _say(f"{name} starts and reads its data")
        self.described: dict = self._answer()

    def ask(self, what: str, **arguments: Any) -> Any:
        self._process.stdin.write(json.dumps({"do": what} | arguments) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._cache.cleanup()

    def _answer(self) -> Any:
        started = time.monotonic()
        for line in self._process.stdout:
            message = json.loads(line)
            if "answer" in message:
                return message["answer"]
            done, of = message["epoch"], message["of"]
            _say(f"  {self.name}: epoch {done} of {of}, {(time.monotonic() - started) * (of / done - 1):.0f} s left")
        raise SystemExit(f"{self.name} stopped, see {self._log}:\n{self._log.read_text()[-3000:]}")


def _prepared(data: Path, options: argparse.Namespace) -> dict:
    """Both packages' input: the archive, the distilled images (random real ones, normalised) and the settings."""
    import torch

    from ddrank.build import plain
    from ddrank.data import Space, load_real

    if not (data / "cifar-10-batches-py").is_dir():
        _say(f"drawing {options.train} + {options.test} images into {data}")
        _write_archive(data / "cifar-10-batches-py", options.train, options.test)
    config = composed(str(data))
    real, training = load_real(config.dataset, data), plain(config.train)
    space, distilled = Space("normalized", real.mean, real.std), {}
    for ipc in IPCS:
        drawn = space.samples(real.draw(ipc, torch.Generator().manual_seed(ipc), real.train))
        distilled[ipc] = (drawn.floats(), drawn.labels)
    torch.save(distilled, data / "distilled.pt")
    names = ("flip", "rotate", "saturation", "brightness", "contrast", "scale", "crop", "cutout")
    batches = -(-len(real.train) // training["batch_size"])
    return {
        "data": str(data),
        "train": len(real.train),
        "test": len(real.test),
        "batches": batches,
        "real_batches": min(batches, options.real_batches),
        "training": training,
        "dsa": {name: config.aug.dsa[name] for name in names},
    }


def _write_archive(folder: Path, train: int, test: int) -> None:
    """Procedural shapes in the format of CIFAR-10's Python archive."""
    from ddrank.data.shapes import load_shapes

    drawn = load_shapes(folder, 32, 3, 10, train_per_class=train // 10, test_per_class=test // 10)
    folder.mkdir(parents=True)
    per_file = -(-len(drawn[0]) // 5)
    files = {f"data_batch_{n + 1}": (drawn[0], slice(n * per_file, (n + 1) * per_file)) for n in range(5)}
    files["test_batch"] = (drawn[1], slice(None))
    for name, (samples, part) in files.items():
        content = {"data": samples.images[part].flatten(1).numpy().copy(), "labels": samples.labels[part].tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(drawn[2])}, protocol=2))


def _check_same(described: list[dict]) -> None:
    if any(one["sha256"] != described[0]["sha256"] for one in described):
        raise SystemExit(f"the packages do not have the same images: {[one['sha256'] for one in described]}")
    _say("both have the same real and distilled images, byte for byte")


def _installed(target: Path) -> Path:
    """ddranking 0.2.0 in `target`, with what it needs and this environment lacks; nothing else is touched."""
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if not (target / "ddranking").is_dir():
        _say(f"installing ddranking 0.2.0 into {target}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        subprocess.run([*pip, "ddranking==0.2.0", *missing], check=True, stdout=sys.stderr)
    return target


def _machine() -> dict[str, Any]:
    from importlib.metadata import version

    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": _cores(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "lightning", "numpy")},
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _path(text: str) -> Path:
    return Path(text).resolve()


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
