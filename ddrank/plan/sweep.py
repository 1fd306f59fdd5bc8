"""The Hydra callback that sums up the plans of a sweep when its last job has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SumPlans(Callback):
    """After a multirun with plan=true: prints what its jobs want together, and writes it into the sweep's folder."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Sum up the plans under hydra.sweep.dir."""
        if not config.plan:
            return
        from ddrank.plan.report import FILE, show_sweep  # only now: every command would wait for rich

        folder = Path(config.hydra.sweep.dir)
        if jobs := sorted((path.parent for path in folder.glob(f"*/{FILE}")), key=lambda job: int(job.name)):
            show_sweep(folder, jobs)
