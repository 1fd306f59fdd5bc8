"""python -m ddrank.run: evaluate a distilled dataset.

Composes the configuration, measures the six arms, writes result.json and prints the table. Heavy packages are imported
only once the configuration stands.
"""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ddrank import crew
from ddrank.config import check
from ddrank.launch import launch


def evaluation(config: DictConfig) -> None:
    """One job: evaluate what `config` says and print its table."""
    check(config)
    crew.prepare(config.engine.workers)
    from ddrank.evaluate import evaluate
    from ddrank.table import print_result

    folder = Path(HydraConfig.get().runtime.output_dir)
    result, _ = evaluate(config, folder)
    print_result(result, folder)


def main() -> None:
    launch(evaluation, "config")


if __name__ == "__main__":
    main()
