"""hydra/launcher=submitit_slurm: jobs as an array of a Slurm cluster; submitit_local: the same on this machine."""

from __future__ import annotations

import os
import subprocess
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from ddrank import ranks
from ddrank.crew import cores
from ddrank.errors import InputError
from ddrank.launchers.jobs import Job, Jobs, Loss, Sweep
from ddrank.ranks.place import LOOPBACK, Place

if TYPE_CHECKING:
    import submitit

_SHARED = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name")  # by executors
_PATIENCE = 20.0  # seconds until what a job has written is seen through a network file system


class _Submitit(Jobs):
    """Jobs as processes of their own, which leave their results as files in the sweep's folder."""

    needs, extra, cluster = "submitit", "slurm", ""
    tick = 0.2  # seconds between two looks for ends

    def __init__(
        self, submitit_folder: str, cpus_per_task: int, tasks_per_node: int = 1, nodes: int = 1, **settings: Any
    ):
        self._folder, self._cpus, self._tasks, self._nodes = submitit_folder, cpus_per_task, tasks_per_node, nodes
        self._settings = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in settings.items()
        }

    def check(self) -> None:
        numbers = {"cpus_per_task": self._cpus, "tasks_per_node": self._tasks, "nodes": self._nodes}
        for name, value in numbers.items():
            if not isinstance(value, int) or value < 1:
                raise InputError(f"hydra.launcher.{name} is {value}, expected a number of 1 or more")

    def outcomes(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Loss | None], None, None]:
        waiting, at_work = deque(jobs), {}
        try:
            while waiting or at_work:
                for job, handle in self.submit(waiting, len(at_work)):
                    at_work[handle] = job
                for handle in [handle for handle in at_work if self.ended(handle)]:
                    yield at_work.pop(handle), self._outcome(handle)
                time.sleep(self.tick)
        finally:
            for handle in at_work:
                handle.cancel(check=False)

    @abstractmethod
    def submit(self, waiting: deque[Job], at_work: int) -> list[tuple[Job, submitit.Job]]:
        """Take from `waiting` what can be submitted while `at_work` jobs are on their way."""

    @abstractmethod
    def ended(self, handle: submitit.Job) -> bool:
        """Whether a job has left a result, or will never leave one."""

    def executor(self) -> submitit.AutoExecutor:
        """The executor, with all settings."""
        import submitit

        settings = {"cpus_per_task": self._cpus, **self._settings}
        if self._tasks * self._nodes > 1:
            settings |= {"tasks_per_node": self._tasks, "nodes": self._nodes}
        own = {f"{self.cluster}_max_num_timeout": settings.pop("max_num_timeout", 0)}
        try:
            executor = submitit.AutoExecutor(self._folder, cluster=self.cluster, **own)
            executor.update_parameters(
                **{name if name in _SHARED else f"{self.cluster}_{name}": value for name, value in settings.items()}
            )
        except (RuntimeError, AssertionError, NameError, ValueError) as error:
            raise InputError(f"hydra/launcher={self.option} cannot be used: {' '.join(str(error).split())}") from error
        return executor

    def work(self) -> _Work:
        """What each of the processes does."""
        return _Work(self.sweep(self._cpus), self._tasks * self._nodes)

    def _outcome(self, handle: submitit.Job) -> Loss | None:
        handle = handle.task(0)  # of several that train a student together, the leader
        if not handle.paths.result_pickle.exists():
            return Loss(f"killed or cancelled; {handle.paths.stderr} may tell more")
        try:
            return handle.result()
        except Exception as error:  # submitit's own, with the job's traceback
            return Loss(" ".join(str(error).split()))


@dataclass(frozen=True)
class _Work:
    """The work of one of the `ranks` processes of a job. Where Slurm pre-empts it, it comes into the queue again: the
    store keeps what was done."""

    sweep: Sweep
    ranks: int

    def __call__(self, job: Job) -> Loss | None:
        if self.ranks == 1:
            return self.sweep.run(job)
        if loss := self.sweep.enter():
            return loss
        os.environ.update(_place().environment())
        with ranks.led():
            return self.sweep.run(job)

    def checkpoint(self, job: Job) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def _place() -> Place:
    """The place of this process among those of its job, each of which has cores of its own."""
    from submitit.helpers import TorchDistributedEnvironment

    there = TorchDistributedEnvironment()
    address = LOOPBACK if there.local_world_size == there.world_size else there.master_addr
    return Place(there.rank, there.world_size, there.local_rank, 1, address, there.master_port)


class SubmititLocal(_Submitit):
    """As many processes of this machine at once as there are cores for them."""

    option, cluster = "submitit_local", "local"

    def place(self, count: int) -> str:
        return f"{min(count, self._at_once())} at once, {self._cpus * self._tasks} of the cores for each"

    def submit(self, waiting: deque[Job], at_work: int) -> list[tuple[Job, submitit.Job]]:
        submitted = []
        while waiting and at_work + len(submitted) < self._at_once():
            job = waiting.popleft()
            submitted.append((job, self.executor().submit(self.work(), job)))
        return submitted

    def ended(self, handle: submitit.Job) -> bool:
        return handle.done()

    def _at_once(self) -> int:
        return max(1, cores() // (self._cpus * self._tasks))


class SubmititSlurm(_Submitit):
    """An array of Slurm jobs, of which Slurm runs `array_parallelism` at once at most."""

    option, cluster = "submitit_slurm", "slurm"
    tick = 3.0

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._queue: frozenset[str] | None = frozenset()
        self._looked = 0.0
        self._gone: dict[str, float] = {}

    def place(self, count: int) -> str:
        processes = f"{self._tasks * self._nodes} processes of " if self._tasks * self._nodes > 1 else ""
        return f"given to Slurm, {processes}{self._cpus} cores for each"

    def submit(self, waiting: deque[Job], at_work: int) -> list[tuple[Job, submitit.Job]]:
        import submitit

        jobs = list(waiting)
        waiting.clear()
        if not jobs:
            return []
        try:
            return list(zip(jobs, self.executor().map_array(self.work(), jobs), strict=True))
        except submitit.core.utils.FailedJobError as error:
            raise InputError(f"Slurm refuses the jobs: {' '.join(str(error).split())}; see hydra.launcher.*") from error

    def ended(self, handle: submitit.Job) -> bool:
        queue = self._jobs_of_slurm()
        if queue is None or handle.job_id in queue:
            self._gone.pop(handle.job_id, None)
            return False
        gone = self._gone.setdefault(handle.job_id, time.monotonic())
        return handle.task(0).paths.result_pickle.exists() or time.monotonic() - gone > _PATIENCE

    def _jobs_of_slurm(self) -> frozenset[str] | None:
        """The user's jobs that wait or run, by squeue, which needs no accounting; None while Slurm does not answer."""
        if time.monotonic() - self._looked > self.tick:
            command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i"]
            asked = subprocess.run(command, capture_output=True, text=True, check=False)
            self._queue = None if asked.returncode else frozenset(asked.stdout.split())
            self._looked = time.monotonic()
        return self._queue
