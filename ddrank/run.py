"""python -m ddrank.run: evaluate a distilled dataset.

Composes the configuration, measures the six arms, writes result.json and prints the table. Heavy packages are imported
only once the configuration stands.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ddrank import crew, ranks
from ddrank.config import check
from ddrank.launch import launch

_JOBS = itertools.count()  # of this process


def evaluation(config: DictConfig) -> None:
    """One job: evaluate what `config` says and print its table; or, with `plan`, what that would take."""
    check(config)
    if (config.engine.devices, config.engine.nodes) == (1, 1):
        crew.prepare(config.engine.workers)
    from ddrank.engine import process_began
    from ddrank.evaluation import evaluate
    from ddrank.table import print_result

    folder = Path(HydraConfig.get().runtime.output_dir)
    since = None if next(_JOBS) else process_began()
    if config.plan:
        planned(config, folder, time.time() if since is None else since)
        return
    result, _ = evaluate(config, folder, since)
    print_result(result, folder)


def planned(config: DictConfig, folder: Path, since: float) -> None:
    """Print what an evaluation would find, make and train, and keep it in the run's folder."""
    from ddrank.plan.forecast import forecast
    from ddrank.plan.report import save, show

    of_this = forecast(config, since)
    save(of_this, folder)
    show(of_this, folder)


def arguments(typed: list[str]) -> list[str]:
    """The command line, with `from=PATH` replaced by what a settings file of the ddranking package says."""
    if not any(argument.startswith("from=") for argument in typed):
        return typed
    from ddrank.ddranking.command import expanded

    return expanded(typed)


def main() -> None:
    with ranks.led():
        launch(evaluation, "config", arguments)


if __name__ == "__main__":
    from ddrank import run

    run.main()  # the module as it is imported: processes of a sweep find its job by this name
