"""How fast a ranking is: python scripts/bench_leaderboard.py [--methods 1000] [--seeds 5]

Result files of simulated accuracies, as many as there are methods, are read, merged, ranked with all intervals, and
written as tables and as a page. Times are seconds of one process. The page is then opened in headless Chromium, if
there is one (apt-get install chromium; pip install playwright): the time to its first paint, and from a move of the
slider to the next frame, table and charts included.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ddrank.leaderboard import Ranking, page, tables
from ddrank.leaderboard.collect import collect
from ddrank.result import Arm, Result
from ddrank.score import ARMS

PAINTS = """() => performance.getEntriesByType('paint').map(entry => [entry.name, entry.startTime])"""
MOVE = """async name => {
    const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    const slider = document.getElementById(name);
    const times = [];
    while (document.querySelectorAll('.chart svg').length < 3) await frame();
    for (let step = 1; step <= 40; step += 1) {
        await frame();
        const start = performance.now();
        slider.value = step / 50;
        slider.dispatchEvent(new Event('input', {bubbles: true}));
        await frame();
        times.push(performance.now() - start);
    }
    return times;
}"""
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
        timed("write the page", page.write, ranking, Path(folder) / "out")
        file = Path(folder) / "out" / page.FILE
        print(f"{'the page':32} {file.stat().st_size / 1e6:7.2f} MB")
        browse(file)


def browse(file: Path) -> None:
    """Open the page and move its sliders."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("no Chromium: the page is not opened")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1440, "height": 1000})
        tab.goto(file.as_uri())
        for name, paint in tab.evaluate(PAINTS):
            print(f"{name:32} {paint / 1e3:7.2f} s")
        for slider in ("w", "g"):
            times = tab.evaluate(MOVE, slider)
            print(f"{f'{slider} moves':32} {statistics.median(times):7.0f} ms (median), {max(times):.0f} ms (slowest)")
        browser.close()


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
