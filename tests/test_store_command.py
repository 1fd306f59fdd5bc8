"""python -m ddrank.store: what it says of a store that real runs have filled, and what it removes and moves."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import QUICK_SELECTION, Outcome, results
from safetensors.torch import save

from ddrank import measure
from ddrank.result import Result
from ddrank.run import main as run
from ddrank.store import Store, digest, lock
from ddrank.store.__main__ import main
from ddrank.store.garbage import current_versions

RUN = (*QUICK_SELECTION, "method=random", "method.labels=multi", "criterion=kl", "method.teachers=[mlp]", "aug=dsa")


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Call the command in this process, in a folder of the test's: call("ls", "--json") -> Outcome."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capfd.readouterr()
        return Outcome(code, printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """A folder in which an evaluation with a teacher was run."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["ddrank-run", *RUN, "hydra.run.dir=runs/one"])
        run()
    return folder


@pytest.fixture
def folder(evaluated, tmp_path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    return tmp_path


def entries(store: Path) -> dict[str, bytes]:
    """All entries' files, by name."""
    found = (path for path in store.rglob("*") if path.is_file() and "locks" not in path.parts)
    return {path.name: path.read_bytes() for path in found}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def aged(path: Path, days: float) -> None:
    then = time.time() - 86400 * days
    os.utime(path, (then, then))


def listed(outcome: Outcome) -> list[dict]:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)["entries"]


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.rglob(pattern)
    return path


# --- ls ---


def test_ls_says_what_each_entry_is(folder, call):
    rows = listed(call("ls", "--json"))
    (teacher,) = (row for row in rows if row["kind"] == "teacher")
    assert (teacher["dataset"], teacher["model"], teacher["seed"]) == ("digits", "mlp", 0)
    (result,) = results(folder)
    tested = {(row["arm"], row["accuracy"], row["lr"]) for row in rows if "test accuracy" in row["what"]}
    assert tested == {(name, arm["accuracy"][0], arm["lr"][0]) for name, arm in result["arms"].items()}
    assert {row["dataset"] for row in rows} == {"digits"}
    assert {row["model"] for row in rows} == {"mlp"}
    assert {row["bytes"] for row in rows} == {len(content) for content in entries(folder / "store").values()}
    shown = call("ls").out
    for row in rows:
        (line,) = (line for line in shown.splitlines() if line.endswith(row["key"][:12]))
        assert line.startswith(row["kind"])
        assert row["what"] in line
    assert f"{len(rows):>8} entries in all" in shown
    assert f"{1:>8} teacher" in shown


def test_ls_shows_those_that_are_meant(folder, call):
    rows = listed(call("ls", "--json"))
    for name in ("kind", "arm", "dataset", "model"):
        for value in {row[name] for row in rows if row[name]}:
            found = listed(call("ls", "--json", f"--{name}", value))
            assert found == [row for row in rows if row[name] == value]
    assert listed(call("ls", "--json", "--kind", "teacher", "measurement")) == rows
    assert [row["key"] for row in listed(call("ls", "--json", "--key", rows[0]["key"][:20]))] == [rows[0]["key"]]
    assert listed(call("ls", "--json", "--dataset", "cifar10")) == []
    summary = json.loads(call("ls", "--json", "--summary").out)
    assert "entries" not in summary
    assert summary["kinds"]["teacher"]["entries"] == 1


def test_ls_of_a_store_of_earlier_versions_and_of_damaged_entries(call, tmp_path):
    store = Store("store")
    key = {"kind": "expert", "version": 1, "model": {"_target_": "ddrank.models.convnet.ConvNet"}, "seed": 3}
    path = tmp_path / "store" / "tensors" / digest(key)[:2] / f"{digest(key)}.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(save({"trajectory": torch.zeros(4)}))
    path.with_suffix(".json").write_text(json.dumps(key))
    path.with_suffix(".sha256").write_text("0" * 64)
    store.keep({"kind": "accuracy", "lr": 0.1}, {"accuracy": 0.5}, {"arm": "syn\x1b[31m_any"})
    damaged = tmp_path / "store" / "measurements" / "ab" / ("ab" * 32 + ".json")
    damaged.parent.mkdir()
    damaged.write_bytes(b"{")
    rows = {row["kind"]: row for row in listed(call("ls", "--json"))}
    assert set(rows) == {"expert", "measurement", "unreadable"}
    assert (rows["expert"]["model"], rows["expert"]["seed"]) == ("ConvNet", 3)
    assert rows["expert"]["bytes"] == sum(one.stat().st_size for one in path.parent.iterdir())
    assert "\x1b" not in call("ls").out
    assert [row["kind"] for row in listed(call("ls", "--json", "--kind", "unreadable"))] == ["unreadable"]


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'{"key": [], "value": 1, "sha256": 0}',
        b'{"key": {"kind": [], "lr": {}, "model": 1, "seed": [1]}, "about": {"arm": 2}, "value": {"accuracy": 1e999}}',
        b'{"key": {"kind": 1}, "about": 3, "value": {"accuracy": 10' + b"0" * 500 + b'}, "sha256": "x"}',
    ],
)
def test_an_entry_that_makes_no_sense_stops_nothing(call, tmp_path, content):
    Store("store")
    for folder, suffix in (("measurements", "json"), ("tensors", "safetensors"), ("distillations", "pt")):
        path = tmp_path / "store" / folder / f"{'a' * 64}.{suffix}"
        path.parent.mkdir()
        path.write_bytes(content)
    assert call("ls").code == 0
    assert call("ls", "--json", "--arm", "syn_any").code == 0
    assert "0 entries" in call("gc").out
    assert "0 of 3 entries are sound; 3 corrupt" in call("verify", "--remove").out
    assert entries(tmp_path / "store") == {}


# --- verify ---


def test_verify_finds_what_is_damaged_and_removes_it_where_asked(folder, call):
    assert call("verify").code == 0
    before = entries(folder / "store")
    (folder / "store" / "downloads" / "files").mkdir(parents=True)
    (folder / "store" / "downloads" / "files" / ("0" * 64)).write_bytes(b"other content")
    Store(folder / "store").checkpoint({"kind": "accuracy"}).keep({"network": torch.zeros(1000)})
    sound = call("verify")
    assert sound.code == 2
    assert f"{len(before) + 1} of {len(before) + 2} entries are sound; 1 corrupt" in sound.out
    measured = next((folder / "store" / "measurements").rglob("*.json"))
    damaged = [measured, only(folder / "store", "*.safetensors"), only(folder / "store", "*.pt")]
    for path in damaged:
        flip(path)
    found = call("verify")
    assert found.code == 2
    assert all(f"corrupt: {path.relative_to(folder)} (" in found.out for path in damaged)
    assert len(entries(folder / "store")) == len(before) + 2
    removed = call("verify", "--remove")
    assert (removed.code, removed.out.count("corrupt: ")) == (2, 4)
    left = entries(folder / "store")
    assert left == {name: content for name, content in before.items() if name in left}
    assert len(left) == len(before) - 2
    assert call("verify").code == 0


def test_what_verify_removes_is_computed_again_to_the_same(folder, call, command):
    before = entries(folder / "store")
    flip(only(folder / "store", "*.safetensors"))
    assert call("verify", "--remove").code == 2
    again = command("run", *RUN)
    assert "trained the teacher mlp" in again.err
    assert "trained 0 students" in again.err
    assert only(folder / "store", "*.safetensors").read_bytes() == before[only(folder / "store", "*.safetensors").name]


def test_verify_keeps_what_a_job_computes_again_just_now(folder, call):
    path = only(folder / "store", "*.safetensors")
    flip(path)
    with Store(folder / "store").lock(json.loads(key_of(path))):
        assert f"kept: process {os.getpid()} on" in call("verify", "--remove").out
    assert path.exists()


def key_of(path: Path) -> str:
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["key"]


def test_verify_reports_what_killed_jobs_have_left(folder, call):
    (folder / "store" / "locks" / f"{'b' * 64}.lock").write_text("")
    aged(folder / "store" / "locks" / f"{'b' * 64}.lock", 1)
    (folder / "store" / "tensors" / ".half-x.safetensors").write_bytes(b"half")
    (folder / "store" / "tensors" / f"{'c' * 64}.sha256").write_text("0")
    found = call("verify")
    assert found.code == 0
    assert "stale locks: 1 of a job that has not said its name" in found.out
    assert "unfinished: store/tensors/.half-x.safetensors" in found.out
    assert f"incomplete: store/tensors/{'c' * 64}.sha256" in found.out


# --- gc ---


def test_gc_keeps_what_results_rest_on_and_drops_the_rest(folder, call, command):
    used = entries(folder / "store")
    (result,) = results(folder)
    assert set(result["store"]) == {name.partition(".")[0] for name in used}
    assert command("run", *RUN, "seed=1", "hydra.run.dir=runs/two").code == 0
    both = entries(folder / "store")
    assert len(both) > len(used)
    assert "0 entries" in call("gc", "--runs", "runs").out
    young = call("gc", "--runs", "runs/one", "--remove")
    assert "0 entries" in young.out  # another run may be at work with them
    shown = call("gc", "--runs", "runs/one", "--older-than", "0h")
    assert f"{len(both) - len(used)} entries, " in shown.out
    assert "nothing was removed" in shown.out
    assert entries(folder / "store") == both
    removed = call("gc", "--runs", "runs/one", "--older-than", "0h", "--remove")
    assert removed.out.count("no result rests on it") == len(both) - len(used)
    assert entries(folder / "store") == used
    assert "trained 0 students" in command("run", *RUN).err


def test_gc_refuses_results_that_do_not_say_what_they_rest_on(folder, call):
    replace(Result.load(folder / "runs" / "one" / "result.json"), store=[]).save(folder / "old" / "result.json")
    sentence = call("gc", "--runs", "runs", "old", "--older-than", "0h", "--remove").sentence()
    assert "old/result.json does not say which entries of the store it rests on" in sentence
    assert "there are no results below store" in call("gc", "--runs", "store").sentence()
    assert "does not exist" in call("gc", "--runs", "nowhere").sentence()
    (folder / "old" / "result.json").write_text("{")
    assert "is not JSON" in call("gc", "--runs", "old").sentence()
    assert call("verify").code == 0


def test_gc_drops_what_is_old_or_superseded_or_left_by_killed_jobs(folder, call):
    store = Store(folder / "store")
    sound = entries(folder / "store")
    store.keep({"kind": "accuracy", "version": measure.VERSION - 1}, {"accuracy": 0.5})
    store.keep_tensors({"kind": "expert", "version": 0}, {"trajectory": torch.zeros(3)})
    half = folder / "store" / "tensors" / ".half-x.safetensors"
    recent = folder / "store" / "tensors" / ".half-y.safetensors"
    part = folder / "store" / "tensors" / f"{'c' * 64}.json"
    stale = folder / "store" / "locks" / f"{'b' * 64}.lock"
    for path in (half, recent, part, stale):
        path.write_bytes(b"")
    aged(half, 1)
    aged(stale, 1)
    shown = call("gc").out
    assert f"of version {measure.VERSION - 1}; {measure.VERSION} is asked for now" in shown
    assert "2 entries, 1 incomplete entry, 1 unfinished file, 1 stale lock:" in shown
    assert call("gc", "--remove").code == 0
    assert entries(folder / "store") == sound | {recent.name: b""}
    assert not stale.exists()
    old = only(folder / "store", "*.safetensors") if recent.unlink() is None else None
    aged(old, 40)
    assert "teacher, digits, mlp, seed 0 (unused for 40.0 days)" in call("gc", "--older-than", "30d").out
    assert "0 entries" in call("gc", "--older-than", "30d", "--kind", "expert", "--remove").out
    assert "1 entry" in call("gc", "--older-than", "30d", "--remove").out
    assert not old.exists()


def test_ages_are_by_the_clock_of_the_file_system(folder, call, monkeypatch):
    (folder / "store" / "tensors" / ".half-x.safetensors").write_bytes(b"half")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 40 * 86400)
    assert "0 entries, 0 incomplete entries, 0 unfinished files" in call("gc", "--older-than", "30d").out


def test_gc_puts_a_lock_back_that_a_job_has_taken_over_just_now(call, tmp_path, monkeypatch):
    stale, rename = tmp_path / "store" / "locks" / f"{'b' * 64}.lock", os.rename
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    aged(stale, 1)

    def late(source, target):
        Path(source).write_text("the next holder's")
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    assert "1 kept: a job that has not said its name works on it" in call("gc", "--remove").out
    assert stale.read_text() == "the next holder's"


def test_gc_never_removes_what_a_job_has_locked(folder, call):
    key = {"kind": "accuracy", "version": 0}
    store = Store(folder / "store")
    store.keep(key, {"accuracy": 0.5})
    with store.lock(key):
        assert "0 entries" in call("gc", "--remove").out
    assert store.lookup(key) == {"accuracy": 0.5}
    assert "1 entry" in call("gc", "--remove").out
    assert store.lookup(key) is None


def test_gc_drops_the_checkpoint_of_a_distilled_dataset_that_is_there(call, command, tmp_path):
    settings = ("method=dm", "method.distiller.iterations=4", "engine=eager", "job.frames=0", "job.stop_at=2")
    assert command("distill", *settings).code == 0
    checkpoint = only(tmp_path / "store", "*.pt")
    assert "distillation, digits, dm" in call("gc", "--older-than", "0h").out
    assert "0 entries" in call("gc").out  # it is not made yet
    (row,) = (row for row in listed(call("ls", "--json")) if row["kind"] == "distillation")
    assert (row["dataset"], row["what"], row["seed"]) == ("digits", "dm, IPC 1", 0)
    kept = checkpoint.read_bytes()
    assert command("distill", *settings[:-1]).code == 0
    checkpoint.write_bytes(kept)  # as after a job that was killed before it removed it
    assert "distilled.safetensors has been made)" in call("gc", "--remove").out
    assert not checkpoint.exists()


def test_gc_keeps_the_checkpoint_of_another_precision(call, command, tmp_path):
    quick = ("method.distiller.model=mlp", "method.distiller.iterations=4", "job.frames=0")
    settings = ("method=dm", *quick, "engine=eager", "engine.threads=1")
    assert command("distill", *settings, "engine.precision=bf16-mixed", "job.stop_at=2").code == 0
    assert command("distill", *settings).code == 0
    assert "0 entries" in call("gc").out


def test_checkpoints_of_trainings_are_seen_checked_and_dropped_when_they_are_done_with(call, tmp_path):
    store, checkpoints = Store(tmp_path / "store"), []
    for seed in (0, 1, 2):
        key = {"kind": "accuracy", "version": measure.VERSION, "seed": seed, "lr": 0.1}
        checkpoints.append(store.checkpoint(key, {"arm": "real_hard", "dataset": "digits", "model": "mlp"}))
        checkpoints[-1].keep({"network": torch.zeros(9)})
    rows = listed(call("ls", "--kind", "training", "--json"))
    assert {(row["what"], row["lr"]) for row in rows} == {("real_hard, mlp", 0.1)}
    assert sorted(row["seed"] for row in rows) == [0, 1, 2]
    assert call("verify").code == 0
    assert "holds no such entry" in call("export", "moved.tar", "--kind", "training").sentence()
    store.keep(checkpoints[0].key, {"accuracy": 0.5})  # by a job that was killed before it removed its checkpoint
    aged(checkpoints[1].path, days=40)
    assert "1 entry" in call("gc", "--remove").out
    assert not checkpoints[0].path.exists()
    with store.lock(checkpoints[1].key):
        assert "0 entries" in call("gc", "--older-than", "30d", "--remove").out
    assert "1 entry" in call("gc", "--older-than", "30d", "--remove").out
    assert not checkpoints[1].path.exists()
    checkpoints[2].path.rename(checkpoints[1].path.parent / f"{'a' * 64}.pt")
    assert f"{'a' * 64}.pt (its key is not that of its name)" in call("verify").out
    (checkpoints[1].path.parent / f"{'a' * 64}.pt").rename(checkpoints[2].path)
    flip(checkpoints[2].path)
    assert f"corrupt: {Path('store', *checkpoints[2].path.parts[-3:])}" in call("verify", "--remove").out
    assert not checkpoints[2].path.exists()


def test_the_versions_are_those_of_the_keys(folder, call):
    kinds = {
        json.loads(path.read_text())["key"]["kind"] for path in (folder / "store" / "measurements").rglob("*.json")
    }
    assert kinds | {"teacher"} <= set(current_versions())
    assert json.loads(key_of(only(folder / "store", "*.safetensors")))["version"] == current_versions()["teacher"]


# --- export and import ---


def test_what_is_imported_is_not_computed_again(folder, call, command):
    before = entries(folder / "store")
    for name in ("moved.tar", "moved.tar.gz"):
        assert call("export", name, "--runs", "runs").out == f"exported {len(before)} entries to {name}\n"
        assert f"{len(before)} put into the store" in call("import", name, "--store", f"from-{name}").out
        assert entries(folder / f"from-{name}") == before
        assert f"{len(before)} there already" in call("import", name, "--store", f"from-{name}").out
    assert (folder / "moved.tar.gz").stat().st_size < (folder / "moved.tar").stat().st_size
    only(folder / "store", "*.safetensors").unlink()
    assert f"absent: 1 of the {len(before)} entries" in call("export", "less.tar", "--runs", "runs").out
    again = command("run", *RUN, "paths.store=from-moved.tar")
    assert "trained 0 students" in again.err
    assert "trained the teacher" not in again.err
    assert entries(folder / "from-moved.tar") == before


def test_export_takes_what_is_meant_and_leaves_out_what_is_corrupt(folder, call):
    assert "exported 1 entry" in call("export", "teachers.tar", "--kind", "teacher").out
    assert "exists: choose another name" in call("export", "teachers.tar").sentence()
    flip(only(folder / "store", "*.safetensors"))
    left_out = call("export", "all.tar")
    assert left_out.code == 2
    assert "corrupt, left out: store/tensors" in left_out.out
    assert call("import", "all.tar", "--store", "other").code == 0
    assert len(entries(folder / "other")) == len(entries(folder / "store")) - 1
    assert "holds no such entry" in call("export", "none.tar", "--dataset", "cifar10").sentence()
    assert not (folder / "none.tar").exists()


def test_import_overwrites_nothing_sound_and_mends_what_is_corrupt(folder, call):
    key = {"kind": "accuracy", "seed": 0}
    Store("theirs").keep(key, {"accuracy": 0.25})
    call("export", "theirs.tar", "--store", "theirs")
    mine = Store("mine")
    mine.keep(key, {"accuracy": 0.75})
    assert "1 there already" in call("import", "theirs.tar", "--store", "mine").out
    assert mine.lookup(key) == {"accuracy": 0.75}
    flip(only(folder / "mine", "*.json"))
    assert "1 put into the store" in call("import", "theirs.tar", "--store", "mine").out
    assert mine.lookup(key) == {"accuracy": 0.25}
    with mine.lock(key):
        assert "1 left to the job that computes them now" in call("import", "theirs.tar", "--store", "mine").out


def test_tensors_of_earlier_versions_travel_in_one_file(call, tmp_path):
    key = {"kind": "expert", "version": 1}
    Store("store").keep_tensors(key, {"trajectory": torch.arange(4.0)})
    now = only(tmp_path, "*.safetensors")
    whole = now.read_bytes()
    now.write_bytes(content := save({"trajectory": torch.arange(4.0)}))
    now.with_suffix(".json").write_text(json.dumps(key))
    now.with_suffix(".sha256").write_text(hashlib.sha256(content).hexdigest())
    assert call("verify").code == 0
    call("export", "old.tar")
    assert call("import", "old.tar", "--store", "other").code == 0
    assert entries(tmp_path / "other") == {now.name: whole}


def rewritten(source: Path, target: Path, change) -> Path:
    """An archive whose members `change` has made others: (name, content) -> the like, or None for none."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            changed = change(member.name, old.extractfile(member).read())
            if changed is not None:
                info = tarfile.TarInfo(changed[0])
                info.size = len(changed[1])
                new.addfile(info, io.BytesIO(changed[1]))
    return target


@pytest.fixture
def archive(folder, call) -> Path:
    call("export", "sound.tar", "--kind", "measurement")
    return folder / "sound.tar"


@pytest.mark.parametrize(
    "name",
    [
        "../measurements/{}.json",
        "/tmp/{}.json",
        "measurements/../../{}.json",
        "measurements/{}.pt",
        "other/{}.json",
        "measurements/{}.json/x",
        "measurements/x.json",
        "\x1b[31m",
    ],
)
def test_import_takes_nothing_that_is_no_entry(archive, call, folder, name):
    before = {path for path in folder.rglob("*") if path.is_file()}
    hostile = rewritten(archive, folder / "hostile.tar", lambda _, content: (name.format("a" * 64), content))
    sentence = call("import", hostile, "--store", "other").sentence()
    assert "which is no entry of a store" in sentence
    assert "\x1b" not in sentence
    assert {path for path in folder.rglob("*") if path.is_file()} == before | {hostile}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_import_follows_no_links(call, tmp_path, kind):
    with tarfile.open(tmp_path / "hostile.tar", "w") as archive:
        member = tarfile.TarInfo(f"measurements/{'a' * 64}.json")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    assert "which is no entry of a store" in call("import", "hostile.tar").sentence()
    assert entries(tmp_path / "store") == {}


def test_import_leaves_out_what_is_corrupt_or_under_another_name(archive, call, folder):
    count = len(entries(folder / "store")) - 1
    with tarfile.open(archive) as sound:
        names = sound.getnames()[:-1]
    assert len(names) > 3

    def change(name, content):
        if name == names[1]:
            return name, content.replace(b'"accuracy": 0.', b'"accuracy": 1.')
        return (f"measurements/{'0' * 64}.json", content) if name == names[2] else (name, content)

    outcome = call("import", rewritten(archive, folder / "damaged.tar", change), "--store", "other")
    assert outcome.code == 2
    assert outcome.out.count("corrupt, left out: ") == 2
    assert len(entries(folder / "other")) == count - 2
    assert call("verify", "--store", "other").code == 0


def test_import_of_a_truncated_archive_says_so_and_goes_on_with_a_whole_one(archive, call, folder):
    with tarfile.open(archive) as whole:
        starts = [member.offset for member in whole]
    for number, length in enumerate((starts[2] + 700, starts[2], starts[-1])):
        (folder / "cut.tar").write_bytes(archive.read_bytes()[:length])
        sentence = call("import", "cut.tar", "--store", f"other{number}").sentence()
        assert "2 entries were read" in sentence or length == starts[-1], sentence
        assert "copy it again" in sentence
        assert call("verify", "--store", f"other{number}").code == 0
        assert call("import", archive, "--store", f"other{number}").code == 0
    assert entries(folder / "other0") == entries(folder / "other2")
    for content in (b"", b"nothing", archive.read_bytes()[:100]):
        (folder / "cut.tar").write_bytes(content)
        assert "copy it again" in call("import", "cut.tar", "--store", "other").sentence()
    assert "does not exist" in call("import", "nowhere.tar").sentence()


def test_an_archive_of_another_version_is_refused(archive, call, folder):
    other = rewritten(
        archive, folder / "other.tar", lambda name, content: (name, content.replace(b"store/1", b"store/9"))
    )
    assert "is no archive of this version" in call("import", other, "--store", "other").sentence()


def test_nothing_in_an_archive_is_unpickled(call, tmp_path):
    class Planted:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'planted'}",)

    path = tmp_path / "store" / "distillations" / f"{'a' * 64}.pt"
    path.parent.mkdir(parents=True)
    torch.save({"key": "{}", "about": Planted()}, path)
    with tarfile.open("planted.tar", "w") as archive:
        archive.add(path, f"distillations/{path.name}")
    assert "it does not say what it is of" in call("export", "left-out.tar").out
    assert "it does not say what it is of" in call("import", "planted.tar", "--store", "other").out
    for name in ("ls", "gc", "verify"):
        assert "Traceback" not in call(name).err
    assert not (tmp_path / "planted").exists()


# --- what cannot be done ---


@pytest.mark.parametrize("name", ["ls", "verify", "gc", "export"])
def test_a_store_that_is_not_there_is_one_sentence_and_is_not_made(call, tmp_path, name):
    arguments = ("x.tar",) if name == "export" else ()
    assert "there is no store nowhere" in call(name, *arguments, "--store", "nowhere").sentence()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(archive, call, folder, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    before = {path for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(os, "replace", lambda *_: full(None))
    assert "could not be written (No space left on device)" in call("import", archive, "--store", "other").sentence()
    assert "could not be written (No space left on device)" in call("export", "more.tar").sentence()
    assert {path for path in folder.rglob("*") if path.is_file()} == before


def test_gc_makes_room_on_a_full_disk(call, monkeypatch):
    store, key = Store("store"), {"kind": "accuracy", "version": 0}
    store.keep(key, {"accuracy": 0.5})

    def full(handle, _):
        os.close(handle)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock, "open", full, raising=False)
    assert call("gc", "--remove").code == 0
    monkeypatch.undo()
    assert Store(store.root).lookup(key) is None
    assert list((store.root / "locks").iterdir()) == []


def test_a_file_that_grows_too_large_is_one_sentence_and_leaves_nothing(folder, call):
    before = {path for path in folder.rglob("*") if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        sentence = call("export", "all.tar").sentence()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "all.tar could not be written (File too large)" in sentence
    assert {path for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_on_a_full_disk_is_one_sentence_and_goes_on_when_there_is_room(command, tmp_path, monkeypatch):
    replace_file, written = os.replace, []

    def full(source, target):
        written.append(target)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", full)
    sentence = command("run", *QUICK_SELECTION, "method=random").sentence()
    assert "could not be written (No space left on device): make room" in sentence
    monkeypatch.setattr(os, "replace", replace_file)
    assert not list(tmp_path.rglob("result.json"))
    assert not list((tmp_path / "store" / "locks").iterdir())
    assert main(["verify", "--store", str(tmp_path / "store")]) == 0
    assert command("run", *QUICK_SELECTION, "method=random").code == 0


@pytest.mark.parametrize("text", ["30", "d", "-1d", "1y", ""])
def test_an_age_that_is_none_is_refused(call, capfd, text):
    with pytest.raises(SystemExit) as stop:
        call("gc", f"--older-than={text}")
    assert stop.value.code == 2
    assert "is no age: say 12h, 30d or 8w" in capfd.readouterr().err


def test_help_needs_no_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ddrank.store", "--help"], capture_output=True, text=True, check=True
    )
    assert "verify" in done.stdout
    assert " torch\n" not in done.stderr
