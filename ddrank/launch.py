"""Starting a command through Hydra: one clear sentence and an exit status for whatever goes wrong.

Exit status 2: something that the user can mend. 3: a sweep lost jobs; the same command completes it. 130: interrupted.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ddrank import config as schema
from ddrank import launchers
from ddrank.errors import EngineWarning, InputError, LostError, StoreWarning
from ddrank.launchers import Loss
from ddrank.refusal import explained
from ddrank.run_folder import leave_nothing

DEBUG = "DDRANK_DEBUG"
_UNWRITABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.ENOENT,
    errno.EEXIST,
    errno.EDQUOT,
}


def launch(
    task: Callable[[DictConfig], None],
    config_name: str,
    arguments: Callable[[list[str]], list[str]] | None = None,
) -> None:
    """Run `task` on the configuration that `config_name` and the command line compose to, or on each of a sweep's.

    `arguments` makes of what was typed what Hydra is to read.

    Set DDRANK_DEBUG=1 to see tracebacks of errors in the input.
    """
    # Errors come here instead of being printed by Hydra with exit status 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    warnings.formatwarning = _warning
    # Threads that wait for each other shall not spin for long: another program may have their core.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    job = _Job(task)
    try:
        schema.register()
        launchers.register()
        hydra_main = hydra.main(config_path=str(schema.folder()), config_name=config_name, version_base="1.3")
        if arguments:
            sys.argv[1:] = arguments(sys.argv[1:])
        hydra_main(job)()
    except BrokenPipeError:
        _print_nowhere()
    except KeyboardInterrupt:
        print("interrupted; whatever was finished is in the store and will not be computed again", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if sentence := _mendable(error):
            _stop(sentence, getattr(error, "status", 2))
        if job.began or not isinstance(error, ValueError | TypeError | AssertionError):
            raise
        _stop(explained(error))  # Hydra's own way of refusing some command lines
    if job.lost:
        _stop_short(job.lost)


class _Job:
    """`task` as Hydra calls it. A single job ends the command when it fails; one of a sweep says so and gives a Loss,
    so that the others go on. `lost` are those of the sweep, by number; other processes than the first have their own.
    `new_from` is what `NoteNewFolders` tells of the job's folder.
    """

    def __init__(self, task: Callable[[DictConfig], None]):
        self._task, self.began = task, False
        self.new_from: Path | None = None
        self.lost: dict[int, Loss] = {}

    def __call__(self, config: DictConfig) -> Loss | None:
        self.began = True
        hydra_config = HydraConfig.get()
        alone = hydra_config.mode == RunMode.RUN
        try:
            self._do(config, alone)
            leave_nothing(Path(hydra_config.runtime.output_dir), self.new_from)  # of what writes its files elsewhere
            return None
        except Exception as error:
            sentence = _mendable(error)
            if isinstance(error, InputError):
                leave_nothing(Path(hydra_config.runtime.output_dir), self.new_from)
                if alone:
                    _stop(sentence, error.status)  # before Hydra says more
            if alone:
                raise
            if not sentence or os.environ.get(DEBUG):
                traceback.print_exc()
            loss = Loss(
                sentence or f"{type(error).__name__}: {error}",
                refused=bool(sentence) and not isinstance(error, LostError),
            )
            number = hydra_config.job.num
            dataset = OmegaConf.select(config, "dataset.name", default="?")  # its lack may be what is wrong
            name = f"{config.method.name} on {dataset}, ipc={config.ipc}, seed={config.seed}"
            print(f"ddrank: job {number} ({name}): {loss.why}", file=sys.stderr)
            self.lost[number] = loss
            return loss

    def _do(self, config: DictConfig, alone: bool) -> None:
        try:
            self._task(config)
        except BrokenPipeError:
            if alone:
                raise
            _print_nowhere()  # that nobody reads on is no reason to lose a sweep's jobs
            self._task(config)  # what was finished is in the store

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"lost": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        warnings.formatwarning = _warning


def _mendable(error: Exception) -> str:
    """What to mend, where `error` is one of those that the user can mend; else nothing."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explained(error)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return (
            f"{error.filename} cannot be used ({error.strerror}): choose other folders as paths.runs, paths.store, "
            "paths.distilled or paths.data"
        )
    return ""


def _stop_short(lost: dict[int, Loss]) -> NoReturn:
    """End a sweep that lacks jobs."""
    which = ", ".join(map(str, sorted(lost)))
    if all(loss.refused for loss in lost.values()):
        _stop(f"{len(lost)} of the sweep's jobs could not be done ({which}), as said above: mend them and run it again")
    sentence = (
        f"{len(lost)} of the sweep's jobs were lost ({which}), as said above: the same command completes the sweep"
    )
    print(f"ddrank: {sentence}; what is finished is in the store and will not be computed again", file=sys.stderr)
    sys.exit(LostError.status)


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if issubclass(category, StoreWarning | EngineWarning):
        return f"ddrank: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _print_nowhere() -> None:
    """Drop what is still to be printed where the other end of a pipe is closed."""
    for stream in (1, 2):
        closed = select.poll()
        closed.register(stream, 0)
        if closed.poll(0):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _stop(sentence: str, status: int = 2) -> NoReturn:
    if os.environ.get(DEBUG) and sys.exc_info()[0]:
        raise
    print(f"ddrank: {sentence}", file=sys.stderr)
    sys.exit(status)
