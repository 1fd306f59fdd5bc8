"""The Hydra callback that ranks a sweep's results when its last job has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ddrank.errors import InputError


class PrintRanking(Callback):
    """After a multirun: prints the ranking of the sweep's results, writes it into the sweep's folder, and logs it."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Rank what lies under hydra.sweep.dir, at score.w and score.g. Says what is wrong and never raises."""
        if config.get("plan"):
            return
        from ddrank.build import build
        from ddrank.leaderboard.rank import Ranking
        from ddrank.leaderboard.report import complain, report  # only now: every command would wait for rich

        try:
            folder = Path(config.hydra.sweep.dir)
            ranking = Ranking.from_runs([folder], w=config.score.w, g=config.score.g)
            report(ranking, folder)
            build(config.logger, "logger").ranking(ranking, folder)
        except InputError as error:
            complain(str(error))
        except Exception as error:  # the results are safe on disk: a sweep must not end in a traceback
            complain(
                f"the sweep could not be ranked ({type(error).__name__}: {error}): try python -m ddrank.leaderboard"
            )
