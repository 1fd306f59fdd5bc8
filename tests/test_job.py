"""Long distillations: announced, watched, stopped, killed and resumed to the same images."""

from __future__ import annotations

import csv
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load
from torch import Tensor

from ddrank import pictures
from ddrank.distill import make
from ddrank.distill.base import Distillation, Iterative, Task
from ddrank.store.__main__ import main as look_after_store

FILE = "distilled/digits/dm/ipc1/distilled.safetensors"
DM = ("method=dm", "method.distiller.iterations=12", "method.distiller.real_batch=8", "engine.threads=1")


@pytest.fixture
def undisturbed(command, tmp_path) -> bytes:
    """The file of a distillation that nothing happened to."""
    assert command("distill", *DM, f"paths.distilled={tmp_path / 'undisturbed'}", "paths.store=other").code == 0
    return (tmp_path / "undisturbed/digits/dm/ipc1/distilled.safetensors").read_bytes()


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / "store/distillations").glob("[0-9a-f]*.pt"))


def test_stopped_and_resumed_twice_gives_the_same_file(command, tmp_path, undisturbed):
    for stop in (3, 7):
        stopped = command("distill", *DM, f"job.stop_at={stop}")
        assert stopped.code == 0, stopped.err
        assert "the same command without job.stop_at goes on" in stopped.err
        assert not (tmp_path / FILE).exists()
        assert len(checkpoints(tmp_path)) == 1
    resumed = command("distill", *DM)
    assert "going on at iteration 7 of 12" in resumed.err
    assert "expected on this machine" not in resumed.err
    assert (tmp_path / FILE).read_bytes() == undisturbed
    assert checkpoints(tmp_path) == []


def test_killed_at_any_moment_it_resumes_to_the_same_file(command, tmp_path, undisturbed):
    arguments = [sys.executable, "-m", "ddrank.distill", *DM, "job.checkpoint_minutes=0", "job.validate_every=1"]
    arguments += ["train.epochs=20", "train.step_size=10"]  # long enough to be killed
    for number in range(2):
        running = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        before = [path.stat().st_mtime_ns for path in checkpoints(tmp_path)]
        deadline = time.monotonic() + 120
        while [path.stat().st_mtime_ns for path in checkpoints(tmp_path)] == before and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL, f"the distillation was over before kill {number}"
        assert len(checkpoints(tmp_path)) == 1
    assert "going on at iteration" in command("distill", *DM).err
    assert torch.equal(load((tmp_path / FILE).read_bytes())["images"], load(undisturbed)["images"])
    assert not list((tmp_path / "store/distillations").iterdir())


def test_a_finished_one_is_found_and_nothing_is_done(command, tmp_path, undisturbed):
    command("distill", *DM)
    path = tmp_path / FILE
    before = path.stat().st_mtime_ns
    again = command("distill", *DM)
    assert "is there already" in again.out
    assert "expected on this machine" not in again.err
    assert path.stat().st_mtime_ns == before


def test_another_seed_or_setting_has_a_checkpoint_of_its_own(command, tmp_path):
    for settings in ((), ("seed=1",), ("method.distiller.lr=2",), ("engine.precision=bf16-mixed",)):
        assert "expected on this machine" in command("distill", *DM, "job.stop_at=1", *settings).err
    assert len(checkpoints(tmp_path)) == 4


def test_a_corrupt_checkpoint_is_reported_and_begun_anew(command, tmp_path, undisturbed):
    command("distill", *DM, "job.stop_at=5")
    (checkpoint,) = checkpoints(tmp_path)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="is corrupt .*: starting anew"):
        assert command("distill", *DM).code == 0
    assert torch.equal(load((tmp_path / FILE).read_bytes())["images"], load(undisturbed)["images"])


def of_another_seed(checkpoint: Path, other: Path) -> None:
    shutil.copy(other, checkpoint)


def of_another_shape(checkpoint: Path, other: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["state"]["state"]["tensors"]["images"] = torch.zeros(3)
    torch.save(content, checkpoint)


@pytest.mark.parametrize(
    ("spoil", "said"), [(of_another_seed, "is of something else"), (of_another_shape, "does not fit .RuntimeError")]
)
def test_a_checkpoint_of_something_else_is_reported_and_begun_anew(command, tmp_path, undisturbed, spoil, said):
    command("distill", *DM, "job.stop_at=5")
    (checkpoint,) = checkpoints(tmp_path)
    command("distill", *DM, "job.stop_at=5", "seed=1")
    (other,) = {*checkpoints(tmp_path)} - {checkpoint}
    spoil(checkpoint, other)
    with pytest.warns(UserWarning, match=f"{said}.*: starting anew"):
        assert "expected on this machine" in command("distill", *DM).err
    assert (tmp_path / FILE).read_bytes() == undisturbed
    assert checkpoints(tmp_path) == [other]


def test_a_checkpoint_is_left_to_the_distillation_that_is_at_work(command, tmp_path, monkeypatch, capfd):
    command("distill", *DM, "job.stop_at=5")
    (checkpoint,) = checkpoints(tmp_path)
    assert look_after_store(["export", "moved.tar"]) == 0
    content, carry_out = checkpoint.read_bytes(), make.carry_out

    def meanwhile(*arguments):
        checkpoint.write_bytes(b"being written anew")
        for called in (["verify", "--remove"], ["gc", "--older-than", "0h", "--remove"], ["import", "moved.tar"]):
            look_after_store(called)
        told.append(capfd.readouterr().out)
        assert checkpoint.read_bytes() == b"being written anew"
        checkpoint.write_bytes(content)
        return carry_out(*arguments)

    told = []
    monkeypatch.setattr(make, "carry_out", meanwhile)
    assert "going on at iteration 5" in command("distill", *DM).err
    for said in (f"kept: process {os.getpid()}", "0 entries, ", "1 left to the job that computes them now"):
        assert said in told[0]


def test_killed_while_it_draws_it_has_all_pictures_in_the_end(command, tmp_path, monkeypatch):
    settings, draw = (*DM, "job.frames=4", "job.checkpoint_minutes=0"), pictures.grid

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "grid", killed)
    assert command("distill", *settings).code == 130
    monkeypatch.setattr(pictures, "grid", draw)
    assert "going on at iteration" in command("distill", *settings).err
    made = {path.name for path in (tmp_path / FILE).parent.iterdir()}
    assert made == {"distilled.safetensors", "grid.png", "progress.gif", "progress.png"}
    with Image.open((tmp_path / FILE).parent / "progress.gif") as film:
        assert film.n_frames == 5


def test_a_checkpoint_that_cannot_be_written_costs_nothing(command, tmp_path, undisturbed):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/distillations").write_text("no folder")
    with pytest.warns(UserWarning, match="no checkpoint was kept"):
        assert command("distill", *DM, "job.checkpoint_minutes=0").code == 0
    assert (tmp_path / FILE).read_bytes() == undisturbed


def test_what_is_seen_on_the_way(command, tmp_path):
    outcome = command(
        "distill", *DM, "job.validate_every=6", "job.frames=4", "train.epochs=2", "train.step_size=1",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert "DM on digits, IPC 1: expected on this machine: 12 iterations of" in outcome.err
    rows = list(csv.DictReader((tmp_path / "run/iterations.csv").open()))
    losses = {int(row["iteration"]): float(row["loss"]) for row in rows if row["loss"]}
    accuracies = {int(row["iteration"]): float(row["validation"]) for row in rows if row["validation"]}
    assert list(losses) == list(range(12))
    assert all(loss > 0 for loss in losses.values())
    assert list(accuracies) == [0, 6, 12]
    assert all(0 <= accuracy <= 1 for accuracy in accuracies.values())
    folder = (tmp_path / FILE).parent
    with Image.open(folder / "progress.gif") as film:
        assert film.n_frames == 5
        assert film.width >= 400
    for picture in (folder / "progress.png", folder / "grid.png", tmp_path / "run/progress.png"):
        with Image.open(picture) as image:
            assert image.width > 400


def test_watching_changes_no_image(command, tmp_path, undisturbed):
    watched = (
        "job.validate_every=4",
        "job.frames=9",
        "train.epochs=1",
        "train.step_size=1",
        "job.checkpoint_minutes=0",
    )
    command("distill", *DM, *watched)
    assert torch.equal(load((tmp_path / FILE).read_bytes())["images"], load(undisturbed)["images"])


@pytest.mark.parametrize("logger", ["tensorboard", "wandb", "none"])
def test_other_loggers(command, tmp_path, logger):
    outcome = command("distill", *DM, f"logger={logger}", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "run/iterations.csv").exists()
    assert bool(list((tmp_path / "run").rglob("events.*"))) == (logger == "tensorboard")
    assert bool(list((tmp_path / "run").rglob("*.wandb"))) == (logger == "wandb")
    if logger == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
        assert [point.step for point in events.Scalars("distillation/loss")] == list(range(12))


class Diverging(Iterative):
    """Its loss is NaN, and so are its images, from the fourth iteration on."""

    def __init__(self) -> None:
        self.iterations = 8

    def begin(self, task: Task) -> Distillation:
        images = task.random_real().requires_grad_()

        class Steps(Distillation):
            def step(self, iteration: int) -> dict[str, Tensor | float]:
                if iteration >= 3:
                    images.data.fill_(math.nan)
                return {"loss": math.nan if iteration >= 3 else 1.0}

        return Steps({"images": images}, [torch.optim.SGD([images], 1.0)])


def test_a_loss_that_is_no_number_ends_it_with_a_sentence(command, tmp_path, monkeypatch):
    built = make.build.build
    monkeypatch.setattr(
        make.build, "build", lambda config, where: Diverging() if where == "method.distiller" else built(config, where)
    )
    sentence = command("distill", *DM, "job.frames=0").sentence()
    assert "the loss is nan at iteration 3" in sentence
    assert not (tmp_path / FILE).exists()


def test_the_file_remembers_versions_and_configuration(undisturbed, tmp_path):
    from ddrank.data.distilled import read_metadata

    (tmp_path / "copy.safetensors").write_bytes(undisturbed)
    metadata = read_metadata(tmp_path / "copy.safetensors")
    assert metadata["seed"] == 0
    assert metadata["distiller"]["iterations"] == 12
    assert metadata["environment"]["versions"]["torch"] == version("torch")
    assert metadata["config"]["method"]["distiller"]["real_batch"] == 8
    assert "paths" not in metadata["config"]
    assert str(tmp_path) not in str(metadata["environment"])
