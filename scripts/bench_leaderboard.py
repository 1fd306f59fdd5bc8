"""How fast a ranking is: python scripts/bench_leaderboard.py [--methods 1000] [--seeds 5]

Result files of simulated accuracies, as many as there are methods, are read, merged, ranked with all intervals, and
written as tables. Times are seconds of one process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from ddrank.leaderboard import Ranking, tables
from ddrank.leaderboard.collect import collect
from ddrank.result import Arm, Result
from ddrank.score import ARMS

MEANS, SPREAD, OF_METHODS = (0.97, 0.75, 0.8, 0.65, 0.75, 0.6), 0.01, 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, result in enumerate(simulated(options.methods, options.seeds)):
            result.save(Path(folder) / str(number) / "result.json")
        runs, _ = timed("read and merge", collect, [folder])
        ranking = timed("rank, with intervals and ties", Ranking.of, runs)
        timed("the sweep over w", lambda: ranking.groups[0].sweep)
        timed("write the tables", tables.write, ranking, Path(folder) / "out")


def simulated(methods: int, seeds: int) -> list[Result]:
    """Results that share real_hard and rdm_any, as those of one recipe do."""
    generator = np.random.default_rng(0)
    shared = {arm: generator.normal(MEANS[ARMS.index(arm)], SPREAD, seeds) for arm in ("real_hard", "rdm_any")}
    results = []
    for number in range(methods):
        means = np.array(MEANS) + generator.normal(0, OF_METHODS)
        own = {arm: generator.normal(mean, SPREAD, seeds) for arm, mean in zip(ARMS, means, strict=True)}
        arms = {arm: Arm(np.clip(values, 0, 1).tolist(), [0.01] * seeds) for arm, values in (own | shared).items()}
        names = {"method": f"method{number}", "dataset": "cifar10", "model": "convnet3", "protocol": "strict"}
        recipe = {"aug": "dsa", "criterion": "ce", "labels": "hard", "ipc": 10, "seeds": list(range(seeds))}
        results.append(Result(**names, **recipe, arms=arms, w=0.5, g=0.5, distilled={"sha256": f"{number:064x}"}))
    return results


def timed(what: str, work, *arguments):
    start, busy = time.perf_counter(), time.process_time()
    found = work(*arguments)
    print(f"{what:32} {time.perf_counter() - start:7.2f} s, {time.process_time() - busy:7.2f} s of a core")
    return found


if __name__ == "__main__":
    main()
