"""Runs of Weights & Biases: which project they go to, and whether online."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddrank.errors import InputError


@dataclass(frozen=True)
class Account:
    """Where runs go. `offline` None: as WANDB_MODE says, and without it offline unless WANDB_API_KEY is set."""

    project: str
    entity: str | None = None
    offline: bool | None = None
    tags: tuple[str, ...] = ()

    @classmethod
    def of_environment(cls) -> Account:
        """That of WANDB_PROJECT (default: ddrank) and WANDB_ENTITY."""
        return cls(os.environ.get("WANDB_PROJECT") or "ddrank", os.environ.get("WANDB_ENTITY") or None)

    @property
    def mode(self) -> str:
        if self.offline is not None:
            return "offline" if self.offline else "online"
        return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")

    def open(
        self,
        folder: Path,
        name: str,
        config: Mapping[str, Any],
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
    ) -> Any:
        """A new run, whose files lie in `folder`/wandb. Raises InputError when it cannot be started."""
        if self.mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # W&B's own metrics are sent even then
        import wandb

        try:
            return wandb.init(
                project=self.project,
                entity=self.entity,
                dir=str(folder.absolute()),  # W&B's own process may have another working directory
                mode=self.mode,
                group=group,
                name=name,
                job_type=job_type,
                tags=[*tags, *self.tags],
                config=dict(config),
                reinit="create_new",  # or a run that was never finished, of a job that failed, would take all of it
                settings=wandb.Settings(silent=True),
            )
        except Exception as error:
            raise InputError(
                f"W&B could not be started ({one_line(error)}): log in with `wandb login`, or stay offline with "
                "logger.offline=true or WANDB_MODE=offline"
            ) from error


def group_name(dataset: str, ipc: int, model: str) -> str:
    """The group that evaluations of one dataset, IPC and model share: 'digits-ipc1-convnet3'."""
    return f"{dataset}-ipc{ipc}-{model}"


def one_line(error: Exception) -> str:
    """What `error` says, without line breaks and full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
