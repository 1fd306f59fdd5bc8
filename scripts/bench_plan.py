"""How well plan=true foresees: python scripts/bench_plan.py [--folder bench-plan] [override ...]

Three evaluations are planned and then run, each in a new process and an empty store: the factor between the wall time
that was foreseen and the one that was measured, what is foreseen and measured of the students alone, and whether what
came into the store is what was planned. Overrides (engine.workers=1) hold for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = {
    "digits, DM, IPC 1": ["dataset=digits", "method=dm", "ipc=1", "num_eval=2"],
    "shapes, crops and mixup, a teacher's labels": [
        "dataset=shapes", "method=random", "ipc=1", "num_eval=1", "method.labels=multi", "criterion=kl",
        "aug=crop_mixup", "train.epochs=60", "train.step_size=30", "dataset.teacher.epochs=2", "dataset.real.epochs=1",
        "protocol.lrs=[0.01,0.1]",
    ],
    "mnist5k, random images, IPC 10": [
        "dataset=mnist5k", "method=random", "ipc=10", "num_eval=2", "train.epochs=40", "train.step_size=20",
        "dataset.real.epochs=2", "protocol.lrs=[0.01,0.1]",
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for number, (name, settings) in enumerate(RUNS.items()):
            folder = (options.folder or Path(temporary)).resolve() / str(number)
            print(f"{name}: {compared(folder, [*settings, *options.overrides])}", flush=True)


def compared(folder: Path, settings: list[str]) -> str:
    """One evaluation, planned and run in `folder`."""
    folder.mkdir(parents=True)
    planning = timed(folder, [*settings, "plan=true", "hydra.run.dir=plan"])
    taken = timed(folder, [*settings, "hydra.run.dir=run"])
    plan = json.loads((folder / "plan" / "plan.json").read_text())
    result = json.loads((folder / "run" / "result.json").read_text())
    students = sum(one["seconds"] for one in plan["measurements"] if not one["found"])
    entries = [json.loads(path.read_text())["value"] for path in (folder / "store/measurements").rglob("*.json")]
    measured = sum(entry["seconds"] for entry in entries)
    stored = {path.stem for path in (folder / "store/measurements").rglob("*.json")}
    known = [one for one in plan["measurements"] if one["known"]]
    right = len(stored) == len(plan["measurements"]) and all(len(stored & set(one["keys"])) == 1 for one in known)
    return (
        f"planned in {planning:.0f} s; foreseen {plan['seconds']:.0f} s, measured {taken:.0f} s, "
        f"factor {taken / plan['seconds']:.2f}; students {students:.0f} s and {measured:.0f} s of a process, "
        f"factor {measured / students:.2f}, of {result['seconds']['total']:.0f} s; "
        f"{len(plan['measurements'])} measurements {'as planned' if right else 'NOT AS PLANNED'}"
    )


def timed(folder: Path, settings: list[str]) -> float:
    """Wall seconds of one command."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "ddrank.run", *settings], cwd=folder, env=os.environ, check=True, capture_output=True
    )
    return time.monotonic() - began


if __name__ == "__main__":
    main()
