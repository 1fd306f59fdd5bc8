"""Sweeps on other engines of which a process, a node or a job is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launchers import missing

from .jobs import SWEEP
from .nursery import Child, End, children
from .trial import Trial

_JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
_SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2")
_SCRIPTS = Path(__file__).parents[1]
_LOG = "log.txt"  # where a job prints
_PATIENCE = 300.0  # seconds until a job must have begun
_WORK = 5.0  # seconds of a job's time in which it is lost
_LOOK = 0.1  # seconds between two looks at who is at work
_LOST = 3  # the status of a sweep that has lost jobs, and says so


def without_slurm() -> str:
    """Why there can be no Slurm of one's own here; empty where there can."""
    if os.geteuid() or not (shutil.which("sbatch") and shutil.which("munged")):
        return "a Slurm of one's own takes root, slurm-wlm and munge (see scripts/slurm_one_node.sh)"
    return missing("submitit_local")  # which takes the same package and nothing else


def joblib_process(trial: Trial) -> bool:
    """A process of a sweep on joblib is killed while it has a job, which is done once more."""
    child = _on_joblib(trial)
    if child is None or not (at_work := sorted(_at_work(trial.folder).keys() & set(children(child.pid)))):
        return False
    os.kill(trial.random.choice(at_work), signal.SIGKILL)
    trial.ended(SWEEP, child.end(), allowed=(0,))
    trial.completed(SWEEP)
    return True


def joblib_sweep(trial: Trial) -> bool:
    """A sweep on joblib is killed, alone or with all its processes."""
    child = _on_joblib(trial)
    if child is None:
        return False
    child.signal(signal.SIGKILL, group=trial.random.random() < 0.5)
    trial.ended(SWEEP, child.end(), allowed=(-signal.SIGKILL,))
    trial.completed(SWEEP)
    return True


def ray_node(trial: Trial) -> bool:
    """One of the two nodes of a Ray cluster is killed during a sweep: a job is lost, or begun once more elsewhere."""
    _distilled(trial)
    after = str(trial.random.uniform(0, _WORK))
    child = trial.nursery.start("fault_kinds.clusters:sweep_on_ray", [after, *SWEEP.arguments[1:]], trial.folder)
    begun: set[tuple[int, str]] = set()
    while child.alive:
        begun |= _at_work(trial.folder).items()
        time.sleep(_LOOK)
    end = child.end()
    trial.ended(SWEEP, end, allowed=(0, _LOST))
    trial.completed(SWEEP)
    return end.status == _LOST or len(begun) > len({log for _, log in begun})


def sweep_on_ray() -> int:
    """Seconds after which the node is killed, and settings, in sys.argv."""
    from ray_node_killed import sweep_with_a_node_killed

    said, code = sweep_with_a_node_killed(Path.cwd(), sys.argv[2:], float(sys.argv[1]))
    print(said)
    return code


def slurm_job(trial: Trial) -> bool:
    """A job of a sweep on Slurm is cancelled."""
    _distilled(trial)
    script, cluster = ["bash", str(_SCRIPTS / "slurm_one_node.sh")], str(trial.folder.with_name("slurm"))
    environment = os.environ | {"SLURM_CONF": f"{cluster}/slurm.conf", "SLURM_ONE_NODE_PORT": str(_free_port())}
    try:
        subprocess.run([*script, "start", cluster, "2"], env=environment, check=True, stdout=subprocess.DEVNULL)
        with trial.folder.with_name("slurm.log").open("w+") as log:
            running = subprocess.Popen(
                [sys.executable, "-m", "ddrank.run", *SWEEP.arguments, *_SLURM],
                cwd=trial.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
            _begun(trial, lambda: running.poll() is None)
            trial.note_whole()
            asked = subprocess.run(
                ["squeue", "--noheader", "--array", "--format=%i"], env=environment, capture_output=True, text=True,
                check=True,
            )  # fmt: skip
            if jobs := asked.stdout.split():
                subprocess.run(["scancel", trial.random.choice(jobs)], env=environment, check=True)
            code = running.wait()
            log.seek(0)
            said = log.read()
    finally:
        subprocess.run([*script, "stop", cluster], check=True)
    trial.ended(SWEEP, End(code, said, 0.0, 0), allowed=(0, _LOST))
    trial.completed(SWEEP)
    return code == _LOST


def _free_port() -> int:
    """A port of this machine that nobody listens on, as the next one most likely is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _distilled(trial: Trial) -> None:
    """Put the distilled data there: their files say on how many cores they were made."""
    shutil.copytree(trial.undisturbed(SWEEP).folder / "distilled", trial.folder / "distilled")


def _on_joblib(trial: Trial) -> Child | None:
    """A sweep on joblib with jobs at work, and what is whole noted; None where it has ended before."""
    _distilled(trial)
    child = trial.nursery.start(SWEEP.command, [*SWEEP.arguments, *_JOBLIB], trial.folder)
    if not _begun(trial, lambda: child.alive):
        return None
    trial.note_whole()
    return child


def _begun(trial: Trial, alive: Callable[[], bool]) -> bool:
    """Wait until a job of a sweep has begun, and a random time more; false where it has ended before."""
    deadline = time.monotonic() + _PATIENCE
    while alive() and time.monotonic() < deadline and not list(trial.folder.rglob(_LOG)):
        time.sleep(0.05)
    time.sleep(trial.random.uniform(0, _WORK))
    return alive()


def _at_work(folder: Path) -> dict[int, str]:
    """The processes that have a job of a sweep in `folder`, each with the file that the job prints to."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            output = os.readlink(f"/proc/{pid}/fd/1")
            if output.startswith(f"{folder}{os.sep}") and output.endswith(f"{os.sep}{_LOG}"):
                found[int(pid)] = output
    return found
