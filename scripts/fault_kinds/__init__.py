"""The kinds of faults: what each is, its share of a campaign, and why it may be impossible here."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from launchers import missing

from . import clusters, corrupt, disk, killed, stores
from .jobs import DISTILLATION, RUN, STUDENT, SWEEP, TAUGHT
from .trial import Trial


def _possible() -> str:
    return ""


@dataclass(frozen=True)
class Kind:
    """`strike` injects one fault, checks what it must, and says whether the fault really hit; `count` is how many there
    are in a campaign of 200 where all kinds are possible."""

    what: str
    count: int
    strike: Callable[[Trial], bool]
    impossible: Callable[[], str] = _possible


_KILL = signal.SIGKILL
KINDS = {
    "run-killed": Kind("an evaluation is killed", 24, killed.sent(_KILL, RUN, TAUGHT)),
    "run-terminated": Kind("an evaluation is sent SIGTERM", 6, killed.sent(signal.SIGTERM, RUN)),
    "run-interrupted": Kind("an evaluation is sent SIGINT", 6, killed.sent(signal.SIGINT, RUN)),
    "sweep-killed": Kind("a sweep of two jobs is killed", 8, killed.sent(_KILL, SWEEP)),
    "joblib-killed": Kind("a sweep on joblib is killed", 2, clusters.joblib_sweep),
    "joblib-process": Kind("a process of a sweep on joblib is killed", 2, clusters.joblib_process),
    "distillation-killed": Kind("a distillation is killed", 12, killed.sent(_KILL, DISTILLATION)),
    "student-killed": Kind(
        "a run is killed whose students keep checkpoints", 12, killed.sent(_KILL, STUDENT, under_way=True)
    ),
    "leader-killed": Kind("a run is killed that has workers", 3, killed.leader_killed),
    "worker-killed": Kind("a worker is killed as where memory is short", 2, killed.worker_killed),
    "out-of-memory": Kind("a run gets no more memory", 4, killed.without_memory),
    "keep-killed": Kind("a process that keeps entries is killed", 20, killed.sent(_KILL, stores.COMPUTED)),
    "gc-killed": Kind("`store gc --remove` is killed", 8, killed.sent(_KILL, stores.COLLECTED)),
    "export-killed": Kind("`store export` is killed", 6, stores.exporting_killed),
    "import-killed": Kind("`store import` is killed", 8, stores.importing_killed),
    "disk-full": Kind("the disk is full during a run or a distillation", 8, disk.full_in_a_command, disk.unmountable),
    "store-full": Kind("the disk is full while entries are kept", 8, disk.full_in_the_store, disk.unmountable),
    "read-only": Kind("the disk becomes read-only", 8, disk.read_only_store, disk.unmountable),
    "store-vanished": Kind("the store vanishes, and comes back", 6, disk.vanished("store", RUN, STUDENT)),
    "runs-vanished": Kind("the folder of the runs vanishes, and comes back", 4, disk.vanished("runs", RUN, SWEEP)),
    "entry-truncated": Kind("entries of the store are cut off", 10, corrupt.entries(corrupt.truncated)),
    "entry-flipped": Kind("bits in entries of the store are flipped", 12, corrupt.entries(corrupt.flipped)),
    "checkpoint-corrupt": Kind("a checkpoint is cut off, or a bit flipped", 8, corrupt.checkpoints),
    "result-corrupt": Kind("a result file is cut off, or a bit flipped", 10, corrupt.results),
    "two-writers": Kind("two runs want the same keys", 4, stores.wanted_by(2, RUN)),
    "eight-writers": Kind("eight runs want the same keys", 2, stores.wanted_by(8, RUN)),
    "holder-killed": Kind("a process is killed that has a lock for which others wait", 8, stores.holder_killed),
    "locks-left": Kind("locks of holders that are gone", 6, stores.locks_left),
    "ray-node-killed": Kind("one of two nodes of Ray is killed", 1, clusters.ray_node, lambda: missing("ray")),
    "slurm-cancelled": Kind("a job of Slurm is cancelled", 1, clusters.slurm_job, clusters.without_slurm),
}
