"""Sweeps on other engines: the same numbers, and a job that is lost costs no other."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import QUICK_SELECTION, Outcome, results
from omegaconf import OmegaConf

from ddrank.crew import SHARE, cores
from ddrank.launchers.joblib import Joblib

HERE = Path(__file__).parent
RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (ddrank[ray])")
NO_SUBMITIT = importlib.util.find_spec("submitit") is None
SUBMITIT = pytest.mark.skipif(NO_SUBMITIT, reason="submitit is not installed (ddrank[slurm])")
SLURM = pytest.mark.skipif(
    NO_SUBMITIT or not (shutil.which("sbatch") and os.environ.get("SLURM_CONF")),
    reason="no Slurm: bash scripts/slurm_one_node.sh start DIR; export SLURM_CONF=DIR/slurm.conf",
)
ENGINES = [
    pytest.param(("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), id="joblib"),
    pytest.param(("hydra/launcher=submitit_local",), id="submitit_local", marks=SUBMITIT),
    pytest.param(("hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2"), id="ray", marks=RAY),
    pytest.param(
        ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2"),
        id="submitit_slurm",
        marks=SLURM,
    ),
]
SWEEP = ("-m", *QUICK_SELECTION, "method=random", "seed=0,1", "logger=none")


@pytest.fixture
def dying(tmp_path):
    """Call tests/dying.py with two cores at most: dying({1: "killed"}, "seed=range(3)", ...) -> Outcome."""

    def call(ends: dict[int, str], *arguments: str, heard: bool = True) -> Outcome:
        (tmp_path / "ends").write_text("".join(f"{seed} {end}\n" for seed, end in ends.items()))
        paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, str(HERE / "dying.py"), "-m", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": paths, SHARE: "2"},
            stdout=subprocess.PIPE if heard else closed_pipe(),
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call


def closed_pipe() -> int:
    """What is written here, nobody reads: `command | head` when head has ended."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def done(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("done/*"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_results_as_the_basic_launcher(process, command, tmp_path, engine):
    swept = process("ddrank.run", *SWEEP, *engine, "paths.runs=swept", "paths.store=other")
    assert swept.code == 0, swept.err
    assert "rank" in swept.out
    assert "2 jobs" in swept.err
    assert "real training set, hard labels" not in swept.out + swept.err  # jobs print into files of their own
    assert command("run", *SWEEP).code == 0
    ours, basic = ({result["seeds"][0]: result for result in results(tmp_path / name)} for name in ("swept", "runs"))
    assert sorted(ours) == [0, 1]
    for seed, result in basic.items():
        for part in ("arms", "scores", "distilled"):
            assert ours[seed][part] == result[part]
    logs = [path.read_text() for path in tmp_path.glob("swept/sweeps/*/*/log.txt")]
    assert len(logs) == 2
    assert all("real training set, hard labels" in log for log in logs)
    entries = [
        sorted(path.name for path in (tmp_path / name / "measurements").rglob("*")) for name in ("store", "other")
    ]
    assert entries[0] == entries[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_job_that_is_lost_costs_no_other_and_the_next_run_completes_it(dying, tmp_path, engine):
    outcome = dying({1: "killed", 2: "raises", 3: "refuses"}, "seed=range(5)", *engine)
    assert outcome.code == 3, outcome.err
    assert done(tmp_path) == [0, 4]
    assert "3 of the sweep's jobs were lost (1, 2, 3)" in outcome.err
    for number, why in ((2, "a defect"), (3, "it cannot be done")):
        assert f"job {number} (seed={number}) lost: " in outcome.err
        assert why in outcome.err
    assert "job 1 (seed=1) lost: " in outcome.err
    logs = [path.read_text() for path in tmp_path.glob("runs/sweeps/*/*/log.txt")]
    assert len(logs) == 5
    assert all("has 1 cores" in log for log in logs)  # the two are divided
    shutil.rmtree(tmp_path / "done")
    again = dying({}, "seed=range(5)", *engine)
    assert again.code == 0, again.err
    assert done(tmp_path) == [0, 1, 2, 3, 4]


def test_a_sweep_on_the_basic_launcher_goes_on_too(dying, tmp_path):
    outcome = dying({0: "raises", 1: "refuses"}, "seed=range(3)")
    assert outcome.code == 3
    assert "ValueError: a defect" in outcome.err
    assert "2 of the sweep's jobs were lost (0, 1)" in outcome.err
    assert done(tmp_path) == [2]


def test_a_sweep_that_nobody_listens_to_does_its_jobs_and_tells_of_those_it_lost(dying, tmp_path):
    outcome = dying({1: "raises"}, "seed=range(3)", heard=False)
    assert done(tmp_path) == [0, 2]
    assert outcome.code == 3
    assert "1 of the sweep's jobs were lost (1)" in outcome.err


def test_a_job_that_loses_a_process_of_its_own_is_lost_and_not_refused(dying):
    outcome = dying({0: "loses"}, "seed=range(2)")
    assert outcome.code == 3
    assert "a process was lost" in outcome.err
    assert "Traceback" not in outcome.err


def test_jobs_that_bad_input_keeps_from_being_done_are_to_be_mended(dying, tmp_path):
    outcome = dying({1: "refuses"}, "seed=range(3)", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1")
    assert outcome.code == 2
    assert "1 of the sweep's jobs could not be done (1)" in outcome.err
    assert "Traceback" not in outcome.err
    logs = [path.read_text() for path in tmp_path.glob("runs/sweeps/*/*/log.txt")]
    assert len(logs) == 3
    assert all(f"has {min(2, cores())} cores" in log for log in logs)  # one job at a time has all


def test_jobs_of_whose_end_the_launcher_says_nothing_are_lost(monkeypatch, tmp_path, capsys):
    class Silent(Joblib):
        def outcomes(self, jobs):
            yield jobs[0], None

    launcher = Silent(2)
    launcher.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    launcher.task = SimpleNamespace(lost={})
    launcher.launch([["seed=0"], ["seed=1"], ["seed=2"]], 0)
    assert list(launcher.task.lost) == [1, 2]
    assert "lost: 1, 2: nothing was heard" in capsys.readouterr().err


def test_a_share_of_the_cores_is_never_more_than_there_are(monkeypatch):
    there = cores()
    monkeypatch.setenv(SHARE, "1")
    assert cores() == 1
    monkeypatch.setenv(SHARE, str(there + 1))
    assert cores() == there


@pytest.mark.parametrize("launcher, package, extra", [("ray", "ray", "ray"), ("submitit_slurm", "submitit", "slurm")])
def test_an_engine_that_is_not_installed_is_named_with_its_extra(command, monkeypatch, launcher, package, extra):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    sentence = command("run", *SWEEP, f"hydra/launcher={launcher}").sentence()
    assert f"hydra/launcher={launcher} needs the package {package}" in sentence
    assert f"pip install 'ddrank[{extra}]'" in sentence


def test_settings_that_no_launcher_has_are_refused(command):
    sentence = command("run", *SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=0").sentence()
    assert sentence.startswith("ddrank: hydra.launcher.n_jobs is 0, expected a number of 1 or more")
    assert (
        "hydra.launcher.njobs" in command("run", *SWEEP, "hydra/launcher=joblib", "hydra.launcher.njobs=2").sentence()
    )


@SUBMITIT
def test_slurm_is_asked_for_the_jobs_of_this_process_whoever_the_environment_names(tmp_path, monkeypatch):
    import submitit

    from ddrank.launchers.submitit import SubmititSlurm

    (tmp_path / "squeue").write_text(f'#!/bin/sh\ncase "$*" in *--user={os.getuid()}\\ *) echo 7_0;; esac\n')
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("LOGNAME", "nobody")
    launcher = SubmititSlurm(submitit_folder=str(tmp_path), cpus_per_task=1)
    ended = [launcher.ended(submitit.SlurmJob(tmp_path, job)) for job in ("7_0", "8_0")]
    assert ended == [False, False]  # the other has been gone for less than what a file may take to be seen
    monkeypatch.setattr("ddrank.launchers.submitit._PATIENCE", -1)
    assert [launcher.ended(submitit.SlurmJob(tmp_path, job)) for job in ("7_0", "8_0")] == [False, True]


@RAY
def test_a_node_of_a_ray_cluster_that_dies(tmp_path):
    sys.path.insert(0, str(HERE.parent / "scripts"))
    from ray_node_killed import sweep_with_a_node_killed

    settings = [*SWEEP[1:-2], "seed=range(4)", "logger=none"]
    lost, code = sweep_with_a_node_killed(tmp_path, settings)
    assert code in (0, 3), lost
    assert code == 0 or "of the sweep's jobs were lost" in lost
    again = subprocess.run(
        [sys.executable, "-m", "ddrank.run", "-m", *settings, "paths.runs=again", "paths.store=other"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert len(results(tmp_path / "again")) == 4
    assert {json.dumps(result["arms"]) for result in results(tmp_path / "runs")} <= {
        json.dumps(result["arms"]) for result in results(tmp_path / "again")
    }
