"""How fast ddrank trains and tests: python scripts/bench.py [--networks convnet3,resnet18,convnet4] [--out FILE.json]

In one run, and in several repetitions in which everything takes its turn, it measures

- steps: a training step of each network at each batch size; plain PyTorch (`eager`: a loop written by hand, default
  allocator and threads, float32) beside `engine=auto` in float32 (`auto`) and bf16-mixed (`auto bf16`), compiled, with
  all cores. A step lasts from the end of the one before it, so drawing the batch and Lightning are in it.
- tests: a pass over the test images in batches of 500, by the same three. A pass that would take more than three times
  `--seconds` is made over fewer images, and its time scaled to all of them.
- roof: the speed that the network's own convolutions reach when each is called alone, in ddrank's process, in the
  better of two memory layouts: forward and backward at a batch of 256 for steps, forward at 500 for test passes.
- overhead: a step through Lightning beside the same step in a loop written by hand, both eager, at a batch of 10.
- start: `python -m ddrank.run method=random` on digits with an empty store, from start to end: undisturbed, and while
  another program keeps one core busy.

Every network and variant has processes of its own, which start without compiled code in the first repetition (`new`)
and find it on the disk in the others (`cached`). Tables show medians over the repetitions, and minimum to maximum; the
JSON file holds these as `tables` and every single measurement as `runs`. A repetition of a network that would go
beyond `--minutes` is left out: `n` says how many were made.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench_network import ROOF_BATCH, VARIANTS, Job
from rich.console import Console

PARTS = ("steps", "tests", "roof", "overhead", "start")
SPIN = {"GOMP_SPINCOUNT": "1000"}  # what ddrank.launch sets before torch comes in


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="convnet3,resnet18,convnet4", help="names of conf/model")
    parser.add_argument("--batches", default="10,100,256,512", help="images of a training step")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of steps of one batch size, in one process")
    parser.add_argument("--tests", type=int, default=10_000, help="images of a test pass")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="auto")
    parser.add_argument("--only", default=",".join(PARTS), help="what to measure")
    parser.add_argument("--minutes", type=float, default=24, help="begin no repetition that would end later")
    parser.add_argument("--out", type=Path, help="a JSON file for all numbers")
    args = parser.parse_args()
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if unknown := set(args.only.split(",")) - set(PARTS):
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    content = {"machine": machine(args.device), "settings": vars(args) | {"out": str(args.out)}}
    content["runs"] = list(Bench(args).runs())
    content["tables"] = tables(content["runs"], args.tests)
    show(content)
    if args.out:
        args.out.write_text(json.dumps(content, indent=1) + "\n")


class Bench:
    """All processes of one call, one after the other."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.parts = args, args.only.split(",")
        self._console = Console(stderr=True, highlight=False)
        self._began, self._took = time.monotonic(), {}

    def runs(self) -> Iterator[dict[str, Any]]:
        """What each process found, with its `repetition`, `network`, `variant`, `wall` seconds; or its `error`."""
        with tempfile.TemporaryDirectory() as scratch:
            environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(Path(scratch) / "compiled")}
            plan = [
                (repetition, group, *one)
                for repetition in range(self.args.repetitions)
                for group in self._groups()
                for one in group
            ]
            for number, (repetition, group, network, variant) in enumerate(plan):
                gone = time.monotonic() - self._began
                if (network, variant) == group[0]:
                    fits = not repetition or gone + self._guess(group) < 60 * self.args.minutes
                if not fits:
                    continue
                left = self._guess(later[2:] for later in plan[number:]) / 60
                self._console.print(
                    f"repetition {repetition + 1}/{self.args.repetitions}: {network} {variant} "
                    f"({gone / 60:.1f} min gone, about {left:.0f} min left)",
                    soft_wrap=True,
                )
                began = time.monotonic()
                if variant == "start":
                    found = start(Path(scratch), repetition, self.args.device, environment)
                else:
                    found = self._process(network, variant, environment)
                wall = time.monotonic() - began
                compiling = sum(step["first"] for step in found.get("steps", {}).values())
                self._took[network, variant] = wall - compiling
                if "error" in found:
                    self._console.print(found["error"], markup=False)
                yield {"repetition": repetition, "network": network, "variant": variant, "wall": wall} | found

    def _groups(self) -> list[list[tuple[str, str]]]:
        """(network, variant) of the processes of one repetition, those together that are compared."""
        single = [[(network, part)] for part, network in (("start", "digits"), ("overhead", "convnet3"))]
        groups = [group for group in single if group[0][1] in self.parts]
        if not {"steps", "tests", "roof"}.isdisjoint(self.parts):
            groups += [[(network, variant) for variant in VARIANTS] for network in self.args.networks.split(",")]
        return groups

    def _process(self, network: str, variant: str, environment: dict[str, str]) -> dict[str, Any]:
        args = self.args
        batches = [int(batch) for batch in args.batches.split(",")]
        job = Job(network, variant, self.parts, batches, args.tests, args.seconds, args.device)
        environment = environment if variant == "eager" else SPIN | environment
        command = [sys.executable, str(Path(__file__).with_name("bench_network.py")), json.dumps(asdict(job))]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"error": f"{network} {variant} (status {done.returncode}): {done.stderr[-2000:]}"}
        return json.loads(done.stdout.splitlines()[-1])

    def _guess(self, group: Iterable[tuple[str, str]]) -> float:
        """Seconds without compiling: as the last time, and before the first as the others took, or a minute."""
        known = list(self._took.values())
        return sum(self._took.get(one, sum(known) / len(known) if known else 60.0) for one in group)


def machine(device: str) -> dict[str, Any]:
    """The machine in words."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def start(scratch: Path, repetition: int, device: str, environment: dict[str, str]) -> dict[str, Any]:
    """One evaluation on digits, undisturbed and beside a busy program.

    Seconds to the first training step, in all, and with students at work, by result.json; the process's seconds and
    peak memory (bytes, all of its processes, shared pages counted once), as seen from outside.
    """
    found = {}
    for how in ("undisturbed", "one core busy"):
        folder = f"{how.replace(' ', '-')}-{repetition}"
        shared = ["method=random", f"engine.accelerator={device}", f"paths.store={folder}-store"]
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if how == "one core busy" else None
        try:
            for command in (["ddrank.distill", "hydra.run.dir=distill", *shared],
                            ["ddrank.run", f"hydra.run.dir={folder}", *shared]):  # fmt: skip
                began = time.monotonic()
                process = [sys.executable, "-m", *command]
                with (scratch / "said").open("w") as said:
                    running = subprocess.Popen(process, cwd=scratch, env=environment, stdout=said, stderr=said)
                    memory = peak_memory(running)
                if running.returncode:
                    return {
                        "error": f"{' '.join(command)} (status {running.returncode}): {(scratch / 'said').read_text()}"
                    }
        finally:
            if busy is not None:
                busy.kill()
                busy.wait()
        wall = time.monotonic() - began
        seconds = json.loads((scratch / folder / "result.json").read_text())["seconds"]
        found[how] = {name: seconds[name] for name in ("first_step", "total", "students")} | {
            "process": wall,
            "outside": 1 - seconds["students"] / wall,
            "memory": memory,
        }
    return {"start": found}


def peak_memory(running: subprocess.Popen) -> int | None:
    """Wait for a process; the most bytes that it and its descendants had at a time, looked at twice a second."""
    most = 0
    while running.poll() is None:
        most = max(most, sum(map(proportional_set, descendants(running.pid))))
        time.sleep(0.5)
    return most or None


def descendants(pid: int) -> list[int]:
    """A process and all that come from it, by /proc; empty where there is none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in descendants(int(child)))]


def proportional_set(pid: int) -> int:
    """A process's memory in bytes, its share of pages that it has in common with others."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def tables(runs: list[dict[str, Any]], tests: int) -> dict[str, list[dict[str, Any]]]:
    """The runs' medians and spreads as rows; None where nothing was measured."""

    def of(network: str, variant: str, *path: str) -> list[Any]:
        """What is found under these keys in all repetitions."""
        inside = [run for run in runs if (run["network"], run["variant"]) == (network, variant)]
        for key in path:
            inside = [value[key] for value in inside if value.get(key) is not None]
        return inside

    rows: dict[str, list[dict[str, Any]]] = {part: [] for part in HEADS}
    for network, variant in dict.fromkeys((run["network"], run["variant"]) for run in runs):
        if variant == "start":
            units = {"first_step": 1, "total": 1, "students": 1, "process": 1, "outside": 100, "memory": 2**-20}
            rows["start"] += [
                {"evaluation": how, "what": key} | spread(of(network, variant, "start", how, key), unit)
                for how in ("undisturbed", "one core busy")
                for key, unit in units.items()
            ]
        elif variant == "overhead":
            for kind in ("one long epoch", "epochs of one step"):
                for way in ("hand", "lightning"):
                    values = spread(of(network, variant, "overhead", kind, way), 1000)
                    rows["overhead"].append({"epochs": kind, "loop": way} | values)
        else:
            name, like = {"network": network, "variant": variant}, "auto" if variant == "eager" else variant
            for batch in (of(network, variant, "steps") or [{}])[0]:
                seconds, plain = (of(network, one, "steps", batch, "seconds") for one in (variant, "eager"))
                roofs = of(network, like, "roof", "step") if int(batch) == ROOF_BATCH else []
                work, first = of(network, variant, "operations", "step"), of(network, variant, "steps", batch, "first")
                new = {"new_s": first[0], "cached_s": median(first[1:]) if first[1:] else None}
                rows["steps"].append(
                    name | {"batch": int(batch)} | rates(seconds, plain, int(batch), work, roofs) | new
                )
            if images := of(network, variant, "tests", "images"):
                seconds, plain = (
                    [tests * one["seconds"] / one["images"] for one in of(network, which, "tests")]
                    for which in (variant, "eager")
                )
                work, roofs = of(network, variant, "operations", "test"), of(network, like, "roof", "test")
                rows["tests"].append(name | {"images": min(images)} | rates(seconds, plain, tests, work, roofs))
            for kind in ("memory", "gpu_memory"):
                if values := of(network, variant, kind):
                    rows["memory"].append(name | {"kind": kind} | spread(values, 2**-20))
    return {part: found for part, found in rows.items() if found}


def rates(seconds: list[float], plain: list[float], images: int, work: list[float], roofs: list[float]) -> dict:
    """Milliseconds for `images`, how many times faster than in `plain` seconds, images/s, GFLOP/s beside the roof."""
    speed = images / median(seconds)
    gflops, top = speed * work[0] / 1e9, median(roofs) / 1e9 if roofs else None
    return spread(seconds, 1000) | {
        "times_eager": median(plain) / median(seconds) if plain else None,
        "images_per_s": speed,
        "gflops": gflops,
        "roof_gflops": top,
        "roof_percent": 100 * gflops / top if top else None,
    }


def spread(values: list[float], factor: float = 1) -> dict[str, float | None]:
    """Median, minimum and maximum of the values, in the unit that `factor` makes of theirs, and their number."""
    found = {"median": median(values), "min": min(values), "max": max(values)} if values else {}
    return {name: factor * value for name, value in found.items()} | {"n": len(values)}


HEADS = {
    "steps": "Training steps: ms a step; seconds of the first step, compiled anew and with compiled code from the disk",
    "tests": "Test passes: ms for all images (measured on `images` of them), batches of 500",
    "memory": "Peak memory of the process: MiB",
    "overhead": "Lightning's overhead, ConvNet-3, batch of 10, eager, float32: ms a step, by hand and with it",
    "start": "One evaluation on digits: seconds; outside: per cent of them without a student; memory: MiB",
}


def show(content: dict[str, Any]) -> None:
    """Print the tables."""
    print(", ".join(f"{name}: {value}" for name, value in content["machine"].items() if value is not None))
    print("median, min and max are over the n repetitions")
    for part, rows in content["tables"].items():
        columns = list(max(rows, key=len))
        lines = [columns, *([cell(row.get(column)) for column in columns] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        print(f"\n{HEADS[part]}")
        for line in lines:
            print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.{2 if abs(value) < 100 else 0}f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
