"""Long fits: killed anywhere, they go on to the numbers of a fit that nothing happened to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import results
from test_student import recipe
from torch import nn

from ddrank import checkpoint, engine
from ddrank.augment import DSA, CutMix, MixUp, Views
from ddrank.augment.replay import Draws
from ddrank.checkpoint import Checkpoint
from ddrank.criteria import KL, CrossEntropy
from ddrank.data import Samples
from ddrank.data.stored_views import LabelledBatch, images_digest, read_views, write_views
from ddrank.errors import StoreWarning
from ddrank.store import Store
from ddrank.student import Student, accuracy_on, new_network, train
from ddrank.teacher import Teachers

ALWAYS = 1e-9  # minutes: a checkpoint before every batch
MACHINE = engine.Engine("cpu", "32-true", 1, checkpoint_every=ALWAYS)
EPOCHS = 10


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def _as_often_as_asked(monkeypatch):
    """However long writing a checkpoint takes."""
    monkeypatch.setattr(checkpoint, "WRITING_SHARE", 0)


def samples(count: int, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return Samples(torch.randn(count, 1, 8, 8, generator=generator), torch.randint(3, (count,), generator=generator))


def normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(216, 3)
    )


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def teacher() -> Teachers:
    return Teachers((new_network(plain, 7).eval().requires_grad_(False),), "a teacher")


def views_of(data: Samples, folder: Path) -> Samples:
    """`data` with two epochs of stored views in batches of 4."""
    draws = Draws([Views([{"RandomCrop": {"size": 8, "padding": 2}}]), MixUp(0.8)], tuple(data.images.shape[1:]))
    torch.manual_seed(3)
    epochs = [
        [LabelledBatch(part, draws.draw(len(part)), torch.randn(len(part), 3).half()) for part in order.split(4)]
        for order in (torch.randperm(len(data)), torch.randperm(len(data)))
    ]
    images = images_digest(data.images)
    write_views(folder, epochs, count=2, frame=draws.frame, images=images, about={})
    return replace(data, views=read_views(folder / "views"))


FITS = {
    "hard labels, DSA": {"augmentations": lambda: [DSA()], "network": plain},
    "a teacher's labels of mixed views": {
        "augmentations": lambda: [
            Views([{"RandomCrop": {"size": 8, "padding": 2}}, {"RandomHorizontalFlip": {}}]),
            MixUp(0.8),
        ],
        "network": plain,
        "teachers": teacher,
        "criterion": lambda: KL(temperature=2.0),
        "recipe": {"optimizer": "adamw", "schedule": "cosine"},
    },
    "dropout, batch normalisation, CutMix": {"augmentations": lambda: [CutMix(1.0)], "network": normalised},
}  # fmt: skip


def fitted(fit: dict, data: Samples, path: Path | None = None, kill_at: float | None = None, machine=MACHINE, **more):
    """A student of one of FITS; killed after so many epochs, if it is to be."""

    class Kill(torch.nn.Module):
        """Ends the fit in the middle of a step, once that many steps have been begun in all."""

        def __init__(self, criterion):
            super().__init__()
            self.inner, self.needs = criterion, criterion.needs

        def forward(self, *arguments):
            if kill_at is not None and begun() >= kill_at:
                raise Killed
            return self.inner(*arguments)

    batches = -(-len(data) // 4)

    def begun() -> float:
        state = Checkpoint(path).saved()
        return state["epoch"] + state["batch"] / batches

    settings = {"epochs": EPOCHS, "batch_size": 4, "step_size": 5} | fit.get("recipe", {})
    return train(
        new_network(fit["network"], 0),
        data,
        training=recipe(**settings),
        criterion=Kill(fit["criterion"]() if "criterion" in fit else CrossEntropy()),
        augmentations=fit["augmentations"](),
        lr=0.05,
        seed=0,
        engine=machine,
        num_classes=3,
        teachers=fit["teachers"]() if "teachers" in fit else None,
        checkpoint=path and Checkpoint(path),
        **more,
    )


def same(one: Student, other: Student) -> None:
    weights = [student.network.state_dict() for student in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [float(loss) for loss in one.losses] == [float(loss) for loss in other.losses]
    assert one.tests == other.tests


@pytest.mark.parametrize("name", FITS)
def test_killed_at_30_and_70_percent_it_ends_bit_equal(tmp_path, name):
    fit, data, path, went_on = FITS[name], samples(18), tmp_path / "state.pt", []
    undisturbed = fitted(fit, data)
    for share in (3.0, 7.6):  # before an epoch's first batch, and within an epoch
        with pytest.raises(Killed):
            fitted(fit, data, path, kill_at=share, resumed=went_on.append)
        torch.rand(5)  # whatever runs in between
    resumed = fitted(fit, data, path, resumed=went_on.append)
    assert went_on == [3, 7]
    same(undisturbed, resumed)
    assert accuracy_on(resumed, samples(50, seed=1), MACHINE) == accuracy_on(undisturbed, samples(50, seed=1), MACHINE)
    assert resumed.seconds > 0


def test_stored_views_and_tests_on_the_way(tmp_path):
    fit = {"augmentations": list, "network": plain, "criterion": KL}
    data, path = views_of(samples(18), tmp_path), tmp_path / "state.pt"
    more = {"tests": samples(50, seed=1), "test_every": 2}
    undisturbed = fitted(fit, data, **more)
    for share in (3.2, 6.0):
        with pytest.raises(Killed):
            fitted(fit, data, path, kill_at=share, **more)
    resumed = fitted(fit, data, path, **more)
    same(undisturbed, resumed)
    assert [epoch for epoch, _ in resumed.tests] == [2, 4, 6, 8, 10]


def test_a_compiled_network_goes_on_bit_equal(tmp_path):
    """In this process, whose compiled code is the same; as is what another process finds on the disk."""
    machine, fit, path = replace(MACHINE, compile=True), FITS["hard labels, DSA"], tmp_path / "state.pt"
    undisturbed = fitted(fit, samples(16), machine=machine)
    with pytest.raises(Killed):
        fitted(fit, samples(16), path, kill_at=4.4, machine=machine)
    same(undisturbed, fitted(fit, samples(16), path, machine=machine))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content[: len(content) // 2], "is corrupt (File is not a zip file): starting anew"),
        (lambda content: content.replace(b"made_by", b"made_bz", 1), "is corrupt (the checksum of"),
        (lambda content: b"", "is corrupt"),
        (None, "was made by ddrank 0.0, torch 1.0: starting anew"),
    ],
)
def test_a_checkpoint_that_is_corrupt_or_of_another_version_is_begun_anew(tmp_path, monkeypatch, spoil, said):
    fit, path, went_on = FITS["hard labels, DSA"], tmp_path / "state.pt", []
    with pytest.raises(Killed):
        fitted(fit, samples(18), path, kill_at=5)
    if spoil:
        path.write_bytes(spoil(path.read_bytes()))
    else:
        state = Checkpoint(path).saved()
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "_MADE_BY", {"ddrank": "0.0", "torch": "1.0"})
            Checkpoint(path).keep(state)
    with pytest.warns(UserWarning, match="the checkpoint .*state.pt") as warned:
        anew = fitted(fit, samples(18), path, resumed=went_on.append, machine=replace(MACHINE, checkpoint_every=60))
    assert any(said in str(one.message) for one in warned)
    assert went_on == []
    same(fitted(fit, samples(18)), anew)


def renamed(state: dict) -> None:
    """As by another version of what the network is built with; all other parameters fit."""
    state["network"]["of_another_name"] = state["network"].popitem()[1]


def of_less(state: dict) -> None:
    del state["student"]


def of_more_groups(state: dict) -> None:
    state["optimizer"]["param_groups"] *= 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (renamed, "RuntimeError: Error(s) in loading state_dict for Sequential: Missing key(s)"),
        (of_less, "KeyError: 'student'"),
        (of_more_groups, "ValueError: loaded state dict has a different number of parameter groups"),
    ],
)
def test_a_state_that_does_not_fit_is_removed_and_the_fit_begun_anew(tmp_path, change, said):
    """To the last bit, whatever of the state was taken up before it was found not to fit."""
    fit, data, path, went_on = FITS["dropout, batch normalisation, CutMix"], samples(18), tmp_path / "state.pt", []
    with pytest.raises(Killed):
        fitted(fit, data, path, kill_at=5.4)
    state = Checkpoint(path).saved()
    change(state)
    Checkpoint(path).keep(state)
    with pytest.warns(StoreWarning) as warned:
        anew = fitted(fit, data, path, resumed=went_on.append, machine=replace(MACHINE, checkpoint_every=60))
    (message,) = (str(one.message) for one in warned if one.category is StoreWarning)
    assert message.startswith(f"the checkpoint {path} does not fit ({said}")
    assert message.endswith("): starting anew")
    assert went_on == []
    assert not path.exists()
    same(fitted(fit, data), anew)


def test_a_checkpoint_of_something_else_under_the_name_of_this_is_not_taken_up(tmp_path):
    one, other = (Store(tmp_path).checkpoint({"kind": "accuracy", "lr": lr}) for lr in (0.1, 0.2))
    one.keep({"epoch": 3})
    other.path.parent.mkdir(exist_ok=True)
    shutil.copy(one.path, other.path)
    with pytest.warns(StoreWarning, match="is of something else: its key is not that of its name: starting anew"):
        assert other.saved() is None
    assert one.saved() == {"epoch": 3}


def test_short_fits_and_fits_without_checkpoints_leave_none(tmp_path):
    for every in (60.0, 0.0):
        fitted(
            FITS["hard labels, DSA"],
            samples(18),
            tmp_path / "state.pt",
            machine=replace(MACHINE, checkpoint_every=every),
        )
    assert not list(tmp_path.iterdir())


# --- through the command ---

RUN = [
    "model=mlp", "num_eval=1", "method=random", "aug=crop_mixup", "engine.threads=1", "train.epochs=60",
    "train.step_size=30", "dataset.real.epochs=2", "protocol.lrs=[0.02]",
]  # fmt: skip
EVERY = f"engine.checkpoint_every={ALWAYS}"


def under_way(folder: Path) -> dict[Path, int]:
    """The checkpoints in a store, each with its epoch."""
    states = {path: Checkpoint(path).saved() for path in (folder / "store/training").rglob("[0-9a-f]*.pt")}
    return {path: state["epoch"] for path, state in states.items() if state}


def measured(folder: Path) -> dict[str, float]:
    entries = [(path, json.loads(path.read_text())) for path in (folder / "measurements").rglob("*.json")]
    return {path.name: entry["value"]["accuracy"] for path, entry in entries}


OFTEN = """
from ddrank import checkpoint
from ddrank.criteria import CrossEntropy

checkpoint.WRITING_SHARE = 0

class Often(CrossEntropy):
    \"""Wherever it is at work, in workers too, a checkpoint is due however long writing one takes.\"""
"""


@pytest.fixture
def often(tmp_path, monkeypatch) -> str:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/often.py").write_text(OFTEN)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"), prepend=os.pathsep)
    return "criterion._target_=often.Often"


def kill_at(epoch: int, settings: list[str], folder: Path) -> None:
    """Start a run, and kill it as soon as a student is seen in `epoch` or later."""
    running = subprocess.Popen(
        [sys.executable, "-m", "ddrank.run", *settings],
        cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while max(under_way(folder).values(), default=0) < epoch and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "the run was over before it was killed"


@pytest.mark.slow
@pytest.mark.filterwarnings("error::ddrank.errors.StoreWarning")
def test_a_run_killed_twice_ends_with_the_accuracies_of_an_undisturbed_one(command, tmp_path, often):
    settings = [*RUN, often]
    assert command("run", *settings, "engine.workers=1", "paths.store=other").code == 0
    for epoch in (18, 42):
        while max(under_way(tmp_path).values(), default=0) < epoch:  # on a busy machine a kill may come too late
            kill_at(epoch, [*settings, "engine.workers=2", EVERY], tmp_path)
    left = max(under_way(tmp_path).values())
    assert left >= 42
    resumed = command("run", *settings, "engine.workers=1")
    assert resumed.code == 0, resumed.err
    assert f"going on in epoch {left + 1} of 60" in resumed.err
    undisturbed, killed = results(tmp_path)
    assert killed["arms"] == undisturbed["arms"]
    assert measured(tmp_path / "store") == measured(tmp_path / "other")
    assert not [path for path in (tmp_path / "store/training").rglob("*") if path.is_file()]


def test_a_teacher_goes_on_too(command, tmp_path, monkeypatch):
    from ddrank import progress

    taught = ["method.labels=multi", "method.teachers=[mlp]", "criterion=kl", "dataset.teacher.epochs=4"]
    short = [*RUN, *taught, "engine.workers=1", "train.epochs=2"]
    assert command("run", *short, "paths.store=other").code == 0
    advance = progress.Activity.advance

    def interrupted(activity, note="", steps=1):
        advance(activity, note, steps)
        if activity.name.startswith("teacher") and activity.done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Activity, "advance", interrupted)
    assert command("run", *short, EVERY).code == 130
    assert list(under_way(tmp_path).values()) == [2]
    monkeypatch.setattr(progress.Activity, "advance", advance)
    resumed = command("run", *short, EVERY)
    assert "teacher mlp: going on in epoch 3 of 4" in resumed.err, resumed.err
    undisturbed, interrupted = results(tmp_path)
    assert interrupted["arms"] == undisturbed["arms"]
    assert not [path for path in (tmp_path / "store/training").rglob("*") if path.is_file()]
