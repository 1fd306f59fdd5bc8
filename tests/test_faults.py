"""A small fault campaign: nothing lost, nothing wrong, all completed; and a campaign that overlooks nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import fault_kinds
from fault_kinds import Kind
from fault_kinds.corrupt import flipped
from fault_kinds.operations import value_key
from fault_kinds.stores import COMPUTED
from fault_kinds.trial import Trial, entry_files
from faults import Campaign, table

from ddrank import launchers
from ddrank.store import Store

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


@pytest.mark.parametrize(
    ("strike", "lost", "wrong", "not_completed"),
    [
        (an_entry_removed, 1, 0, 0),
        (an_entry_spoilt, 0, 1, 0),
        (another_number, 0, 1, 0),
        (a_command_that_fails, 0, 0, 1),
    ],
)
def test_a_campaign_notices(campaign, monkeypatch, strike, lost, wrong, not_completed):
    monkeypatch.setitem(fault_kinds.KINDS, strike.__name__, Kind("a defect", 1, strike))
    tally = campaign.kind(strike.__name__, range(1), lambda sentence: None)
    assert (tally.lost, tally.wrong, tally.not_completed) == (lost, wrong, not_completed), tally.failures
    assert not tally.sound
    assert f"(--kind {strike.__name__} --seed 1 --only 0)" in tally.failures[0]
    assert f"| {strike.__name__} | a defect | 1 | 1 | {lost} | {wrong} | {not_completed} |" in table(
        {strike.__name__: tally}, {}
    )


def test_a_fault_that_never_hits_is_none(campaign, monkeypatch):
    monkeypatch.setitem(fault_kinds.KINDS, "late", Kind("too late", 1, lambda trial: False))
    tally = campaign.kind("late", range(1), lambda sentence: None)
    assert (tally.faults, tally.hit) == (1, 0)
    assert "came too late" in tally.failures[0]
    assert not tally.sound


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
