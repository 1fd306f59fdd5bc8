"""The folder of a run: what of it was there before, so that a run that leaves nothing behind leaves that."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException


class NoteNewFolders(Callback):
    """Before anything is made: notes the first of the folders on the way to a run's, or a sweep's, that is not there
    yet, and tells the task of it as `new_from` (None: all are there)."""

    def __init__(self) -> None:
        self.new_from: Path | None = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with contextlib.suppress(OmegaConfBaseException):  # said where the run begins
            self.new_from = _first_missing(Path(os.path.abspath(config.hydra.run.dir), ".hydra"))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with contextlib.suppress(OmegaConfBaseException):
            self.new_from = _first_missing(Path(os.path.abspath(config.hydra.sweep.dir)))

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **kwargs: Any) -> None:
        task_function.new_from = self.new_from


def leave_nothing(folder: Path, new_from: Path | None) -> None:
    """Remove a job's folder if it holds no more than what Hydra put there, and the empty ones above it, up to
    `new_from`; what was there before stays."""
    if new_from is None or not folder.is_dir() or {entry.name for entry in folder.iterdir()} - {".hydra"}:
        return
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    with contextlib.suppress(OSError):  # up to the first that holds something else
        for made in (folder, *folder.parents):
            if not made.is_relative_to(new_from):
                break
            made.rmdir()


def _first_missing(folder: Path) -> Path | None:
    return next((path for path in (*reversed(folder.parents), folder) if not path.exists()), None)
