"""The same students in one process and on two ranks of this machine's CPU, started in every way: accuracies and times.

    python scripts/compare_ranks.py                        # shapes at 32 pixels, five seeds: tens of minutes
    python scripts/compare_ranks.py --set dataset.size=16  # any other settings of `python -m ddrank.run`

Every way begins with an empty store of its own. The ways to start ranks have to agree in every digit, and every
accuracy has to be a whole number of the test set's images; else the exit status is 1. One process and two ranks draw
other augmentations and, with batch normalisation, other statistics: how far they are apart is printed with its
95 % interval over seeds (Welch's).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scipy import stats

SETTINGS = (
    "method=random", "dataset=shapes", "dataset.real.epochs=5", "protocol.lrs=[0.01]", "train.epochs=20",
    "train.step_size=10", "engine.accelerator=cpu", "logger=none",
)  # fmt: skip
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ddrank.run")
SUBMITIT = ("ddrank.run", "-m", "hydra/launcher=submitit_local")
WAYS = {
    "one process": (("ddrank.run",), "engine.devices=1"),
    "two ranks, plain": (("ddrank.run",), "engine.devices=2"),
    "two ranks, torchrun": (TORCHRUN, "engine.devices=2"),
    "two ranks, submitit_local": (SUBMITIT, "engine.devices=2"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more settings")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="ranks-"))
    found = {}
    for name, (start, devices) in WAYS.items():
        if start is SUBMITIT and importlib.util.find_spec("submitit") is None:
            print(f"{name}: left out, the package submitit is not installed")
            continue
        found[name] = run(
            folder / name.replace(", ", "-").replace(" ", "-"),
            start,
            [*SETTINGS, f"num_eval={given.seeds}", devices, *given.set],
        )
    sys.exit(report(found))


def run(place: Path, start: tuple[str, ...], settings: list[str]) -> dict[str, Any]:
    """The result of an evaluation with an empty store, with its wall time in `seconds`."""
    own = [f"paths.store={place}/store", f"paths.runs={place}/runs", f"paths.distilled={place}/distilled"]
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", *start, *settings, *own], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"exit status {done.returncode} of {' '.join([*start, *settings])}:\n{done.stderr}")
    (path,) = place.rglob("result.json")
    result = json.loads(path.read_text()) | {"seconds": time.monotonic() - began}
    print(f"{place.name}: {result['seconds']:.0f} s", flush=True)
    return result


def report(found: dict[str, dict[str, Any]]) -> int:
    """Print what was found; returns the exit status."""
    arms = list(found["one process"]["arms"])
    print(f"\n| | {' | '.join(arms)} | seconds |\n| --- |{' ---: |' * (len(arms) + 1)}")
    for name, result in found.items():
        cells = [f"{stats.tmean(told):.4f} ± {stats.tstd(told):.4f}" for told in accuracies(result).values()]
        print(f"| {name} | {' | '.join(cells)} | {result['seconds']:.0f} |")
    alone, *ranked = found.values()
    print()
    for arm in arms:
        test = stats.ttest_ind(accuracies(ranked[0])[arm], accuracies(alone)[arm], equal_var=False)
        low, high = test.confidence_interval()
        print(f"{arm}: two ranks differ by {(low + high) / 2:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}")
    wrong = [name for name, result in found.items() if result in ranked and result["arms"] != ranked[0]["arms"]]
    images = alone["config"]["dataset"]["loader"]["test_per_class"] * alone["config"]["dataset"]["num_classes"]
    parts = [
        name for name, result in found.items() for told in accuracies(result).values() for accuracy in told
        if abs(accuracy * images - round(accuracy * images)) > 1e-6
    ]  # fmt: skip
    print(f"ways to start two ranks that differ from the first: {', '.join(wrong) or 'none'}")
    print(f"accuracies that are no whole number of the {images} test images: {', '.join(parts) or 'none'}")
    return 1 if wrong or parts else 0


def accuracies(result: dict[str, Any]) -> dict[str, list[float]]:
    return {name: arm["accuracy"] for name, arm in result["arms"].items()}


if __name__ == "__main__":
    main()
