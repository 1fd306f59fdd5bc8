"""What all launchers share: the jobs of a sweep, what a process does with one of them, and what became of it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
import traceback
from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from ddrank.crew import SHARE
from ddrank.errors import InputError
from ddrank.wording import counted

LOG = "log.txt"


@dataclass(frozen=True)
class Job:
    """One job of a sweep; `name` is what tells it from the others."""

    number: int
    overrides: tuple[str, ...]
    name: str


@dataclass(frozen=True)
class Loss:
    """Why a job ended without having done its work. `refused`: because of bad input, which can be mended."""

    why: str
    refused: bool = False


@dataclass(frozen=True)
class Sweep:
    """All that a process needs to run a job of a sweep. `cores` is a job's share of its machine's."""

    context: HydraContext
    config: DictConfig
    task: TaskFunction
    state: dict[Any, Any]  # Hydra's, of the process that it was started in
    folder: str
    cores: int

    def enter(self) -> Loss | None:
        """Set this process up for a job, where that can be: its cores and its folder."""
        for variable in (SHARE, "OMP_NUM_THREADS"):
            os.environ[variable] = str(self.cores)
        try:
            os.chdir(self.folder)
        except OSError as error:
            return Loss(f"there is no {self.folder} there ({error.strerror}): start sweeps in a folder that all have")
        return None

    def run(self, job: Job) -> Loss | None:
        """Run `job` in this process; what it prints goes to log.txt in its folder. Never raises what it can report."""
        if loss := self.enter():
            return loss
        try:
            Singleton.set_state(self.state)
            setup_globals()
            config = self.context.config_loader.load_sweep_config(self.config, list(job.overrides))
            with open_dict(config.hydra.job):
                config.hydra.job.id, config.hydra.job.num = f"{config.hydra.job.name}_{job.number}", job.number
            HydraConfig.instance().set_config(config)
            with _printing_to(Path(config.hydra.sweep.dir, config.hydra.sweep.subdir, LOG)):
                return run_job(
                    hydra_context=self.context,
                    task_function=self.task,
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                ).return_value
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            return Loss(f"{type(error).__name__}: {error}")


class Jobs(Launcher):
    """A launcher that says of each job what became of it. The losses are put into `lost` of the sweep's task."""

    option: ClassVar[str]  # of hydra/launcher
    needs: ClassVar[str]  # a package
    extra: ClassVar[str]  # of this project, which brings it

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if importlib.util.find_spec(self.needs) is None:
            raise InputError(
                f"hydra/launcher={self.option} needs the package {self.needs}, which is not installed: "
                f"pip install 'ddrank[{self.extra}]'"
            )
        self.check()
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        jobs = _jobs(job_overrides, initial_job_idx)
        left, began, why = {job.number: job for job in jobs}, time.monotonic(), "nothing was heard of its end"
        _say(
            f"{counted(len(jobs), 'job')}, {self.place(len(jobs))}; what is printed is in "
            f"{self.config.hydra.sweep.dir}/*/{LOG}"
        )
        try:
            with contextlib.closing(self.outcomes(jobs)) as outcomes:
                for job, loss in outcomes:
                    del left[job.number]
                    self._report(job, loss, len(jobs) - len(left), len(jobs), time.monotonic() - began)
        except InputError:
            raise
        except Exception as error:  # not of a job, but of the engine: what is done is done
            traceback.print_exc()
            why = f"the launcher failed ({type(error).__name__}: {error})"
        if left:
            self.task.lost |= dict.fromkeys(left, Loss(why))
            _say(f"lost: {', '.join(map(str, left))}: {why}")
        done = JobReturn()
        done.return_value, done.status = None, JobStatus.COMPLETED
        return [done] * len(jobs)  # sweepers look for exceptions: what was lost is no reason to stop

    def _report(self, job: Job, loss: Loss | None, ended: int, count: int, seconds: float) -> None:
        if loss:
            self.task.lost[job.number] = loss
        from ddrank.progress import duration  # only now: every command would wait for rich

        said = f"lost: {' '.join(loss.why.split())}" if loss else f"done, {duration(seconds)} after the start"
        hence = f"  ({duration(seconds / ended * (count - ended))} left)" if ended < count else ""
        _say(f"[{ended:>{len(str(count))}}/{count}] job {job.number} ({job.name}) {said}{hence}")

    @abstractmethod
    def check(self) -> None:
        """Refuse settings that cannot be meant. Raises InputError."""

    @abstractmethod
    def place(self, count: int) -> str:
        """Where `count` jobs will run, for people."""

    @abstractmethod
    def outcomes(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Loss | None], None, None]:
        """Run the jobs; yields each as it ends, with why it was lost. Closed early, it ends those at work."""

    def sweep(self, cores: int) -> Sweep:
        """What a process needs to run one of the jobs, with a number of cores for each."""
        return Sweep(self.context, self.config, self.task, Singleton.get_state(), os.getcwd(), cores)


def _jobs(overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
    common = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
    return [
        Job(first + place, tuple(one), " ".join(part for part in one if part not in common))
        for place, one in enumerate(overrides)
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Send what this process and its children print to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush(), sys.stderr.flush()
    before = [(stream, os.dup(stream)) for stream in (1, 2)]
    with path.open("ab") as file:
        for stream, _ in before:
            os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        for stream, kept in before:
            os.dup2(kept, stream)
            os.close(kept)
