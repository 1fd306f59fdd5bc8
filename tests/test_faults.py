"""A small fault campaign: nothing lost, nothing wrong, all completed; and a campaign that overlooks nothing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import fault_kinds
from fault_kinds import Kind
from fault_kinds.contents import entry_files, pictures
from fault_kinds.corrupt import flipped
from fault_kinds.jobs import TAUGHT
from fault_kinds.nursery import End
from fault_kinds.operations import value_key
from fault_kinds.stores import COMPUTED
from fault_kinds.trial import Trial
from faults import Campaign, share, table

from ddrank import launchers
from ddrank.checkpoint import Checkpoint
from ddrank.store import Store, digest

FAULTS = {
    "keep-killed": 7,
    "holder-killed": 2,
    "gc-killed": 3,
    "import-killed": 2,
    "export-killed": 1,
    "locks-left": 2,
    "store-full": 2,
    "run-killed": 1,
    "entry-truncated": 1,
    "result-corrupt": 1,
}
assert sum(FAULTS.values()) - FAULTS["store-full"] >= 20  # which takes root
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are watched through /proc")


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    with Campaign(tmp_path_factory.mktemp("faults"), seed=1) as of_all:
        yield of_all


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost_nothing_is_wrong_and_all_is_completed(campaign, name):
    if why := fault_kinds.KINDS[name].impossible():
        pytest.skip(why)
    tally = campaign.kind(name, range(FAULTS[name]), lambda sentence: None)
    assert tally.failures == []
    assert (tally.faults, tally.hit) == (FAULTS[name], FAULTS[name])


def an_entry_removed(trial: Trial) -> bool:
    trial.finished_before(COMPUTED)
    trial.random.choice(entry_files(trial.folder)).path.unlink()
    trial.check(COMPUTED)
    return True


def an_entry_spoilt(trial: Trial) -> bool:
    trial.finished_before(COMPUTED)
    path = trial.random.choice(entry_files(trial.folder)).path
    trial.forget(path)
    flipped(path, trial.random)
    trial.check()
    return True


def another_number(trial: Trial) -> bool:
    """An entry that is sound, and wrong."""
    (trial.folder / "store").mkdir()
    Store(trial.folder / "store").keep(value_key(3), {"accuracy": 0.123, "losses": []})
    trial.check(COMPUTED)
    return True


def a_command_that_fails(trial: Trial) -> bool:
    trial.finished_before(COMPUTED)
    (trial.folder / "store").rename(trial.folder / "elsewhere")
    (trial.folder / "store").write_text("no folder")
    trial.note_whole()
    trial.completed(COMPUTED)
    return True


def a_disturbed_command_that_says_0_and_has_made_nothing(trial: Trial) -> bool:
    trial.ended(COMPUTED, End(0, "", 0.0, 0))
    trial.completed(COMPUTED)
    return True


def two_commands_that_say_0_and_one_result(trial: Trial) -> bool:
    end = trial.finished_before(TAUGHT).end
    trial.ended(TAUGHT, end, end)
    return True


def a_picture_that_is_never_made(trial: Trial, folder: str) -> bool:
    end = trial.finished_before(TAUGHT).end
    trial.random.choice(pictures(trial.folder / folder)).unlink()
    trial.ended(TAUGHT, end)
    return True


def a_picture_of_distilled_data_missing(trial: Trial) -> bool:
    return a_picture_that_is_never_made(trial, "distilled")


def a_picture_of_a_run_missing(trial: Trial) -> bool:
    return a_picture_that_is_never_made(trial, "runs")


def a_checkpoint_that_nobody_goes_on_from(trial: Trial) -> bool:
    trial.finished_before(COMPUTED)
    key = {"kind": "accuracy", "seed": -1}
    Checkpoint(trial.folder / f"store/training/ab/{digest(key)}.pt", key).keep({"epoch": 3, "batch": 1})
    trial.completed(COMPUTED)
    return True


def a_spoilt_checkpoint_that_nobody_names(trial: Trial) -> bool:
    trial.finished_before(COMPUTED)
    path = trial.folder / f"store/training/ab/{64 * 'a'}.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK")
    trial.completed(COMPUTED)
    return True


@pytest.mark.parametrize(
    ("strike", "lost", "wrong", "not_completed", "said"),
    [
        (an_entry_removed, 1, 0, 0, "lost: store/"),
        (an_entry_spoilt, 0, 1, 0, "corrupt"),
        (another_number, 0, 1, 0, "differs from the undisturbed job's"),
        (a_command_that_fails, 0, 0, 1, "status 2: "),
        (a_disturbed_command_that_says_0_and_has_made_nothing, 0, 0, 1, " was not made"),
        (two_commands_that_say_0_and_one_result, 0, 0, 1, "was made 1 times with its pictures, not 2"),
        (a_picture_of_distilled_data_missing, 0, 0, 1, "grid.png was not made"),
        (a_picture_of_a_run_missing, 0, 0, 1, "was made 0 times with its pictures, not 1"),
        (a_checkpoint_that_nobody_goes_on_from, 0, 1, 0, "never said: going on in epoch 4 of"),
        (a_spoilt_checkpoint_that_nobody_names, 0, 1, 0, f"never said: {64 * 'a'}.pt is corrupt"),
    ],
)
def test_a_campaign_notices(campaign, monkeypatch, strike, lost, wrong, not_completed, said):
    monkeypatch.setitem(fault_kinds.KINDS, strike.__name__, Kind("a defect", 1, strike))
    tally = campaign.kind(strike.__name__, range(1), lambda sentence: None)
    assert (tally.lost, tally.wrong, tally.not_completed) == (lost, wrong, not_completed), tally.failures
    assert not tally.sound
    assert said in tally.failures[0]
    assert f"(faults.py {strike.__name__} --seed 1 --only 0)" in tally.failures[0]
    assert f"| {strike.__name__} | a defect | 1 | 1 | {lost} | {wrong} | {not_completed} |" in table(
        {strike.__name__: tally}, {}
    )


def test_a_fault_that_never_hits_is_none(campaign, monkeypatch):
    monkeypatch.setitem(fault_kinds.KINDS, "late", Kind("too late", 1, lambda trial: False))
    tally = campaign.kind("late", range(1), lambda sentence: None)
    assert (tally.faults, tally.hit) == (1, 0)
    assert "came too late" in tally.failures[0]
    assert not tally.sound


def test_kinds_that_are_impossible_have_no_share_of_the_faults(monkeypatch):
    kinds = fault_kinds.KINDS
    for name in list(kinds)[::2]:
        monkeypatch.setitem(kinds, name, replace(kinds[name], impossible=lambda: "it takes what is not here"))
    assert sum(share(name, 200) for name, kind in kinds.items() if not kind.impossible()) >= 200


def test_a_kind_that_does_not_exist_is_refused():
    script = Path(__file__).parents[1] / "scripts/faults.py"
    done = subprocess.run([sys.executable, str(script), "killd"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no kind killd" in done.stderr


def test_an_interrupt_before_anything_is_read_is_one_too(command, monkeypatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launchers, "register", interrupted)
    outcome = command("run")
    assert outcome.code == 130
    assert outcome.err.startswith("interrupted; ")
