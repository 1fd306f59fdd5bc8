"""hydra/launcher=joblib: jobs side by side on the cores of one machine, through joblib's process pool, loky."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool

from ddrank.crew import cores
from ddrank.errors import InputError
from ddrank.launchers.jobs import Job, Jobs, Loss, Sweep

_KILLED = Loss("its process was killed, twice (if memory was short: a smaller hydra.launcher.n_jobs)")


class Joblib(Jobs):
    """Runs `n_jobs` jobs at once (-1: as many as cores), each with its part of the cores.

    A process that dies takes the whole pool with it. The jobs that were in work then are run once more, one at a time
    after all others, so that the one that kills its process is lost and no other.
    """

    option, needs, extra = "joblib", "joblib", "joblib"

    def __init__(self, n_jobs: int = -1):
        self._n_jobs = n_jobs

    def check(self) -> None:
        n_jobs = self._n_jobs
        if not isinstance(n_jobs, int) or (n_jobs < 1 and n_jobs != -1):
            raise InputError(f"hydra.launcher.n_jobs is {n_jobs}, expected a number of 1 or more, or -1 for all cores")

    def place(self, count: int) -> str:
        at_once, share = self._division(count)
        return f"{at_once} at once, {share} of the cores for each"

    def outcomes(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Loss | None], None, None]:
        at_once, share = self._division(len(jobs))
        sweep = self.sweep(share)
        waiting, again = deque(jobs), []
        while waiting:
            again += yield from _pooled(sweep, waiting, at_once)
        for job in again:
            died = yield from _pooled(sweep, deque([job]), 1)
            if died:
                yield job, _KILLED

    def _division(self, count: int) -> tuple[int, int]:
        """How many of `count` jobs run at once, and how many cores each has."""
        at_once = min(count, cores() if self._n_jobs == -1 else self._n_jobs)
        return at_once, max(1, cores() // at_once)


def _pooled(sweep: Sweep, waiting: deque[Job], at_once: int) -> Generator[tuple[Job, Loss | None], None, Iterable[Job]]:
    """Take jobs from `waiting` and run them until none is left or a process dies. Returns those then at work."""
    from joblib.externals.loky import ProcessPoolExecutor

    # It starts a process anew that has come to hold much memory, and says so.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
    pool = ProcessPoolExecutor(max_workers=at_once)
    at_work = {}
    try:
        while waiting or at_work:
            while waiting and len(at_work) < at_once:
                at_work[pool.submit(sweep.run, waiting[0])] = waiting[0]
                waiting.popleft()
            ended, _ = wait(at_work, return_when=FIRST_COMPLETED)
            for future in ended:
                loss = future.result()
                yield at_work.pop(future), loss
    except BrokenProcessPool:
        return at_work.values()
    finally:
        pool.shutdown(kill_workers=bool(at_work))
    return ()
