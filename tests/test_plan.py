"""The plan before the work: what it lists is what then happens, and it does nothing itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import QUICK_SELECTION

from ddrank.plan import calibrate

CHOSEN = ["method=random", *QUICK_SELECTION, "engine.workers=1"]
TWO = [*CHOSEN, "protocol.lrs=[0.001,0.1]"]
TAUGHT = [
    *CHOSEN, "method.labels=multi", "criterion=kl", "aug=crop_mixup", "method.teachers=[mlp]",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _briefly(monkeypatch):
    """As few steps as can be timed."""
    monkeypatch.setattr(calibrate, "_SECONDS", 0.1)


def plans(folder: Path, name: str = "plan.json") -> list[dict]:
    files = sorted(folder.rglob(name), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text()) for path in files]


def stored(folder: Path, store: str = "store") -> set[str]:
    return {path.stem for path in (folder / store / "measurements").rglob("*.json")}


def files(folder: Path) -> set[Path]:
    """All files but those of runs, and those of libraries."""
    return {path for path in folder.rglob("*") if path.is_file() and "runs" not in path.relative_to(folder).parts}


def planned(command, folder: Path, *arguments: str) -> dict:
    before = files(folder)
    outcome = command("run", *arguments, "plan=true")
    assert outcome.code == 0, outcome.err
    assert "nothing was trained or stored" in outcome.out
    assert files(folder) == before
    return plans(folder)[-1]


def kept(measurements: list[dict], new: set[str]) -> None:
    """Every measurement that is not in the store yet turned out to be one of its keys, and there is no other."""
    awaited = [one for one in measurements if not one["found"]]
    assert len(awaited) == len(new)
    for one in awaited:
        assert len(set(one["keys"]) & new) == 1, one
    assert new <= {key for one in awaited for key in one["keys"]}


def test_what_is_planned_is_what_is_trained_under_strict(command, tmp_path):
    command("distill", "method=random")
    plan = planned(command, tmp_path, *TWO, "num_eval=2")
    assert all(one["known"] for one in plan["measurements"])
    assert plan["preparations"] == []
    rates = {one["lr"] for one in plan["measurements"] if len(one["keys"]) == 1}
    assert rates == {0.001, 0.1}
    undecided = [one for one in plan["measurements"] if one["lr"] is None]
    assert {len(one["keys"]) for one in undecided} == {2}
    assert {one["seed"] for one in undecided} == {0, 1}
    assert ["syn_hard", "syn_any"] in [one["arms"] for one in plan["measurements"]]
    ran = command("run", *TWO, "num_eval=2")
    kept(plan["measurements"], stored(tmp_path))
    assert f"trained {sum(one['trains'] for one in plan['measurements'])} students" in ran.err
    assert sum(one["trains"] for one in plan["measurements"]) == 5 * (2 + 1)
    after = planned(command, tmp_path, *TWO, "num_eval=2")  # everything is there, and every rate is known
    assert all(one["found"] and one["lr"] is not None for one in after["measurements"])
    assert {key for one in after["measurements"] for key in one["keys"]} == stored(tmp_path)
    longer = planned(command, tmp_path, *TWO, "num_eval=3")
    before = stored(tmp_path)
    assert "trained 5 students" in command("run", *TWO, "num_eval=3").err
    new = stored(tmp_path) - before
    assert {tuple(one["keys"]) for one in longer["measurements"] if one["trains"]} == {(key,) for key in new}


def test_a_plan_without_distilled_data_or_teachers_names_them(command, tmp_path):
    plan = planned(command, tmp_path, *TAUGHT)
    assert [one["name"] for one in plan["preparations"]] == [
        "steps of the teacher mlp", "distilled data, in seconds (random, IPC 1)",
    ]  # fmt: skip
    assert not (tmp_path / "distilled").exists()
    assert not (tmp_path / "store").exists()
    assert {tuple(one["arms"]) for one in plan["measurements"] if not one["known"]} == {
        ("syn_hard",), ("syn_any",), ("syn_any_noaug",),
    }  # fmt: skip
    ran = command("run", *TAUGHT)
    assert f"trained {sum(one['trains'] for one in plan['measurements'])} students" in ran.err
    known = [one for one in plan["measurements"] if one["known"]]
    new = stored(tmp_path)
    assert len(new) == len(plan["measurements"])
    assert all(len(set(one["keys"]) & new) == 1 for one in known)  # the teacher's name is in them: it was foreseen
    assert plan["seconds"] > 0
    assert all(one["seconds"] > 0 and one["steps"] > 0 and one["memory"] > 1e7 for one in known if one["trains"])


def test_under_the_ddranking_protocol_every_key_is_known(command, tmp_path):
    command("distill", "method=random")
    settings = [*CHOSEN, "protocol=ddranking", "protocol.lrs=[0.02,0.1]"]
    plan = planned(command, tmp_path, *settings)
    assert all(len(one["keys"]) == 1 for one in plan["measurements"])
    ran = command("run", *settings)
    kept(plan["measurements"], stored(tmp_path))
    assert f"trained {sum(one['trains'] for one in plan['measurements'])} students" in ran.err


def test_a_sweep_counts_what_its_jobs_share_once(command, tmp_path):
    outcome = command("run", "-m", *QUICK_SELECTION, "method=noise,random", "plan=true")
    assert outcome.code == 0, outcome.err
    assert "2 jobs, " in outcome.out.replace("\n", " ")
    (total,), jobs = plans(tmp_path, "sweep-plan.json"), plans(tmp_path)
    assert len(jobs) == 2
    assert total["measurements"]["asked"] == sum(len(job["measurements"]) for job in jobs)
    real = [one["keys"] for job in jobs for one in job["measurements"] if one["arms"] == ["real_hard"]]
    assert real[:2] == real[2:]
    # real_hard, rdm_any and rdm_any_noaug are the same in both: two measurements each.
    assert total["measurements"]["asked"] - total["measurements"]["distinct"] == 6
    assert total["seconds"] < total["apart"]


def test_a_plan_is_of_one_command(command):
    assert "plan=true is of python -m ddrank.run" in command("distill", "method=dm", "plan=true").sentence()
    refused = command("run", "method=custom", "method.data=nowhere", *QUICK_SELECTION, "plan=true")
    assert "nowhere does not exist" in refused.sentence()


def test_what_a_student_costs():
    from ddrank.plan.calibrate import Cost

    cost = Cost(setup=1.0, epoch=0.5, test=0.01, once=9.0, memory=1)
    assert cost.seconds(epochs=10, tested=200) == 1.0 + 5.0 + 2.0
