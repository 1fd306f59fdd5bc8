"""hydra/launcher=ray: jobs as tasks of a Ray cluster, or of one that is started on this machine for them."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from ddrank.errors import InputError
from ddrank.launchers.jobs import Job, Jobs, Loss, Sweep

if TYPE_CHECKING:
    from ray import ObjectRef

_ASKED = {"num_cpus": "CPU", "num_gpus": "GPU"}


class Ray(Jobs):
    """Gives all jobs to Ray, which runs as many at once as it has what `ray.remote` asks for.

    `ray.init` holds the arguments of `ray.init`, `ray.remote` those of `ray.remote`: `num_cpus` are a job's cores,
    `num_gpus` its GPUs, or part of one. A job whose process or node dies is run again, `max_retries` times.
    """

    option, needs, extra = "ray", "ray", "ray"

    def __init__(self, ray: DictConfig):
        self._init, self._remote = (OmegaConf.to_container(part, resolve=True) for part in (ray.init, ray.remote))

    def check(self) -> None:
        cpus = self._remote.get("num_cpus")
        if not isinstance(cpus, int | float) or cpus <= 0:
            raise InputError(f"hydra.launcher.ray.remote.num_cpus is {cpus}, expected a number above 0")

    def place(self, count: int) -> str:
        asked = ", ".join(f"{name}={self._remote[name]:g}" for name in _ASKED if self._remote.get(name))
        return f"given to Ray at {self._init.get('address') or 'this machine'}, each with {asked}"

    def outcomes(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Loss | None], None, None]:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        ours = not ray.is_initialized()
        try:
            if ours:
                self._start()
            self._refuse_impossible(ray.cluster_resources())
            sweep, run = ray.put(self.sweep(max(1, int(self._remote["num_cpus"])))), ray.remote(**self._remote)(_run)
            at_work = {run.remote(sweep, job): job for job in jobs}
            while at_work:
                (reference, *_), _ = ray.wait(list(at_work), num_returns=1)
                yield at_work.pop(reference), _outcome(reference)
        finally:
            if ours:
                ray.shutdown()

    def _start(self) -> None:
        import ray

        try:
            ray.init(**self._init)
        except (ConnectionError, TypeError, ValueError) as error:
            sentence = " ".join(str(error).split())
            raise InputError(f"Ray cannot be used ({sentence}): see hydra.launcher.ray.init") from error

    def _refuse_impossible(self, cluster: dict[str, float]) -> None:
        """Ray would wait for ever on a machine of its own that lacks what a job asks for."""
        if self._init.get("address"):
            return  # nodes may yet join
        for name, resource in _ASKED.items():
            asked, has = self._remote.get(name) or 0, cluster.get(resource, 0)
            if asked > has:
                raise InputError(f"hydra.launcher.ray.remote.{name} is {asked}, but this machine has {has:g}")


def _run(sweep: Sweep, job: Job) -> Loss | None:
    return sweep.run(job)


def _outcome(reference: ObjectRef) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return Loss(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
