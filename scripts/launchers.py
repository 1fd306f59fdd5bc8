"""The same sweep through every launcher: identical results, and how long each took.

    python scripts/launchers.py            # 24 jobs (3 methods x 2 IPCs x 4 seeds, digits), short trainings
    python scripts/launchers.py --full     # the same with the default settings

Every launcher begins with an empty store of its own; the distilled data, made before, are the same files for all, and
the caches of compiled networks are warm. Launchers whose engine is missing are named and left out; for Slurm, see
scripts/slurm_one_node.sh. Result files are compared as they are, but for times and what tells one host from another.
Exit status 1: results differ, or a sweep was not completed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from result_files import comparable, key

JOBS = ("ipc=1,10", "dataset=digits", "num_eval=1", "logger=none")
SHORT = (
    "protocol.lrs=[0.01,0.05]",
    "train.epochs=60",
    "train.step_size=30",
    "dataset.real.epochs=3",
    "dataset.teacher.epochs=3",
)
LAUNCHERS = {
    "basic": ("hydra/launcher=basic",),
    "basic, one worker": ("hydra/launcher=basic", "engine.workers=1"),  # one student after the other
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local",),
    "ray": ("hydra/launcher=ray",),
    "submitit_slurm": ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=3"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("launchers", nargs="*", default=list(LAUNCHERS), help="by default all")
    parser.add_argument("--methods", default="dm,random,herding")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--full", action="store_true", help="the default settings instead of short trainings")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more settings, of all sweeps")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="launchers-"))
    seeds = f"seed=range({given.seeds})"
    settings = [f"method={given.methods}", *JOBS, *(() if given.full else SHORT), *given.set]
    prepare(folder, settings)
    seconds, found = {}, {}
    for name in given.launchers:
        if lacking := missing(name):
            print(f"{name}: left out, {lacking}")
            continue
        seconds[name], found[name] = swept(folder, name, [*settings, seeds])
    report(seconds, found)


def missing(launcher: str) -> str:
    """Why a launcher cannot be used here; empty where it can."""
    package = {"submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}.get(launcher)
    if package and importlib.util.find_spec(package) is None:
        return f"the package {package} is not installed"
    if launcher == "submitit_slurm" and not (shutil.which("sbatch") and "SLURM_CONF" in os.environ):
        return "there is no Slurm (see scripts/slurm_one_node.sh)"
    return ""


def prepare(folder: Path, settings: list[str]) -> None:
    """Make the distilled data, and have every network compiled once."""
    warm = [f"paths.store={folder}/warm/store", f"paths.runs={folder}/warm/runs", f"paths.distilled={folder}/distilled"]
    ran(["-m", *settings, *warm])


def swept(folder: Path, launcher: str, settings: list[str]) -> tuple[float, dict[str, Any]]:
    """Run the sweep. Returns the wall time of the command in seconds, and its results by method, IPC and seed."""
    place = folder / launcher.replace(", ", "-").replace(" ", "-")
    shutil.rmtree(place, ignore_errors=True)
    began = time.monotonic()
    own = [f"paths.store={place}/store", f"paths.runs={place}/runs", f"paths.distilled={folder}/distilled"]
    said = ran(["-m", *settings, *own, *LAUNCHERS[launcher]])
    took = time.monotonic() - began
    said += "".join(log.read_text() for log in place.rglob("log.txt"))
    trained = sum(int(count) for count in re.findall(r"trained (\d+) students", said))
    print(f"{launcher}: {took:.1f} s, {trained} students trained", flush=True)
    return took, {key(result): result for result in map(json.loads, map(Path.read_text, place.rglob("result.json")))}


def ran(arguments: list[str]) -> str:
    """What a command printed on standard error; ends this one where it failed."""
    done = subprocess.run([sys.executable, "-m", "ddrank.run", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"exit status {done.returncode} of {' '.join(arguments)}:\n{done.stderr}")
    return done.stderr


def report(seconds: dict[str, float], found: dict[str, dict[str, Any]]) -> None:
    first, *others = found
    jobs = len(found[first])
    wrong = 0
    for name in others:
        differing = [
            one
            for one in sorted(found[first].keys() | found[name].keys())
            if one not in found[name]
            or one not in found[first]
            or comparable(found[name][one]) != comparable(found[first][one])
        ]
        wrong += len(differing)
        print(
            f"{name} and {first}: {jobs - len(differing)} of {jobs} results are identical"
            + "".join(f"\n  differs: {one}" for one in differing)
        )
    print(f"\n| launcher | seconds | / {first} |\n| --- | ---: | ---: |")
    for name, took in seconds.items():
        print(f"| {name} | {took:.1f} | {took / seconds[first]:.2f} |")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
