"""One student on several ranks: the same training as on one, tested once on every image, and nobody left hanging."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from conftest import results
from test_resume import views_of
from test_student import recipe
from torch import nn

from ddrank import engine, fit, models, ranks
from ddrank.checkpoint import Checkpoint
from ddrank.crew import SHARE
from ddrank.data import Samples
from ddrank.data.samples import Batches, TestBatches
from ddrank.data.stored_views import ViewBatches
from ddrank.errors import InputError
from ddrank.fit import Assignment
from ddrank.ranks.place import Place, place
from ddrank.ranks.strategy import WholeBatch
from ddrank.ranks.team import Team

ONE = engine.Engine("cpu", "32-true", 1)
TWO = replace(ONE, devices=2)


def samples(count: int, seed: int = 0, size: int = 8) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, size, size, generator=generator)
    return Samples(images, torch.randint(3, (count,), generator=generator))


def assignment(data: Samples, tests: Samples | None = None, aug: str | None = None, **changes) -> Assignment:
    settings = {"epochs": 3, "batch_size": 8, "step_size": 2}
    settings |= {name: changes.pop(name) for name in tuple(changes) if name in recipe().__dict__}
    parts = {} if aug is None else {"part": {"_target_": f"watched.{aug}", **changes.pop("arguments", {})}}
    given = {
        "name": "a student", "model": {"_target_": "ddrank.models.MLP", "name": "mlp"}, "num_classes": 3,
        "training": recipe(**settings), "criterion": {"_target_": "ddrank.criteria.CrossEntropy"}, "aug": parts,
        "black": [0.0], "lr": 0.05, "seed": 0, "samples": data, "tests": samples(101, 1) if tests is None else tests,
        "keep_weights": True,
    }  # fmt: skip
    return Assignment(**given | changes)


def run(job: Assignment, machine: engine.Engine = TWO, **more) -> fit.Outcome:
    return fit.run(job, machine, lambda note="": None, **more)


# --- who is who ---


def test_places_as_torchrun_and_slurm_say_them():
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a"}
    assert place(torchrun) is None  # half of it is somebody else's
    there = place(torchrun | {"MASTER_PORT": "29500"})
    assert there == Place(3, 4, 1, 2, "a", 29500)
    assert place(there.environment()) == there
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"}
    assert place(batch) is None  # a batch script's own process, without srun
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "gpu[03-04]", "SLURM_STEP_ID": "1"}
    there = place(batch | step | {"SLURM_PROCID": "2"})
    assert (there.rank, there.ranks, there.address) == (2, 4, "gpu03")
    assert there.port != place(batch | step | {"SLURM_STEP_ID": "2"}).port


@pytest.mark.parametrize(
    ("started", "settings", "said"),
    [
        (2, {"devices": 1}, "2 processes were started, but engine.devices=1 is 1"),
        (3, {"devices": 2}, "3 processes were started, but engine.devices=2 is 2"),
        (4, {"devices": 2, "nodes": 3}, "4 processes were started, but engine.devices=2 x engine.nodes=3 is 6"),
        (0, {"devices": 2, "nodes": 3}, "engine.nodes=3, but this process was started alone"),
    ],
)
def test_other_numbers_of_processes_than_the_engine_has_are_refused(monkeypatch, started, settings, said):
    if started:
        for name, value in Place(0, started, 0, started, "127.0.0.1", 1).environment().items():
            monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        ranks.expect(**{"nodes": 1} | settings)


def test_a_program_of_ones_own_has_no_followers_that_run_it_too(monkeypatch):
    for name, value in Place(1, 2, 1, 2, "127.0.0.1", 1).environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="this is process 1 of 2"):
        ranks.expect(2, 1)


@pytest.mark.parametrize("setting", ["engine.devices=0", "engine.devices=many", "engine.nodes=0"])
def test_settings_that_cannot_be_meant(command, setting):
    assert setting.split("=")[0] in command("run", "method=random", setting).sentence()


def test_processes_that_are_not_there_are_not_waited_for_long(monkeypatch, capsys):
    for name, value in Place(0, 2, 0, 2, "127.0.0.1", 0).environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ddrank.ranks.group._LEAVE", 0.1)
    with pytest.raises(InputError, match="unset RANK and WORLD_SIZE"), ranks.led():  # a notebook's, left over
        ranks.expect(1, 1)
    assert "1 of 2 processes are not here yet" in capsys.readouterr().err


def test_a_port_in_use_is_a_sentence(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for name, value in Place(0, 2, 0, 2, "127.0.0.1", taken.getsockname()[1]).environment().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=r"cannot meet at 127\.0\.0\.1, port .*MASTER_PORT"), ranks.led():
            ranks.expect(2, 1)


def test_cores_are_divided_once_and_given_back(monkeypatch):
    monkeypatch.setattr("ddrank.ranks.place.cores", lambda: int(os.environ.get(SHARE, 8)))
    monkeypatch.delenv(SHARE, raising=False)
    for _ in range(2):
        ranks.expect(4, 1)
        assert os.environ[SHARE] == "2"
    ranks.expect(1, 1)
    assert SHARE not in os.environ


# --- how batches are divided: in this process, one rank after the other ---


class _Told(Team):
    """A rank of a team whose leader has drawn `order`."""

    def told(self, value):
        return torch.arange(len(value))


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(101, 50, [50, 51]), (104, 50, [50, 50, 4]), (103, 50, [50, 53]), (9, 50, [9])],
)
def test_two_ranks_have_every_batch_between_them(count, batch_size, sizes):
    data = samples(count)
    whole = [list(Batches(data, batch_size, team=_Told(rank, 2))) for rank in (0, 1)]
    assert [sum(len(batch["label"]) for batch in parts) for parts in zip(*whole, strict=True)] == sizes
    assert all(len(batch["label"]) >= 2 for batches in whole for batch in batches)
    seen = torch.cat([batch["image"] for parts in zip(*whole, strict=True) for batch in parts])
    assert torch.equal(seen, data.images)
    for parts in zip(*whole, strict=True):  # a mean over ranks of weighted means is the mean over the batch
        mean = sum(batch["image"].mean() * batch["weight"] for batch in parts) / 2
        assert float(mean) == pytest.approx(float(torch.cat([batch["image"] for batch in parts]).mean()), abs=1e-6)
    assert Batches(data, batch_size, team=Team(1, 2)).sizes == {
        size: [len(batch["label"]) for batch in whole[1]].count(size)
        for size in {len(batch["label"]) for batch in whole[1]}
    }


@pytest.mark.parametrize(("count", "ranks_"), [(101, 2), (101, 3), (250, 3), (30, 3), (200, 2)])
def test_ranks_test_every_image_once_in_as_many_steps(count, ranks_):
    tests = samples(count, size=2)
    parts = [list(TestBatches(tests, 100, team=Team(rank, ranks_))) for rank in range(ranks_)]
    assert len({len(batches) for batches in parts}) == 1
    assert len({batch["image"].shape for batches in parts for batch in batches}) == 1
    seen = torch.cat([batch["image"][: len(batch["label"])] for step in zip(*parts, strict=True) for batch in step])
    assert torch.equal(seen, tests.images)
    alone = list(TestBatches(tests, 100))
    assert torch.equal(torch.cat([batch["image"] for batch in alone]), torch.cat(
        [batch["image"] for step in zip(*parts, strict=True) for batch in step]
    )[: len(alone) * len(alone[0]["image"])])  # fmt: skip


def test_ranks_see_stored_views_as_one_process_does(tmp_path):
    data = views_of(samples(18), tmp_path)
    alone = list(ViewBatches(data))
    parts = [list(ViewBatches(data, team=Team(rank, 2))) for rank in (0, 1)]
    for whole, *divided in zip(alone, *parts, strict=True):
        for name in ("image", "label", "view_label"):
            assert torch.equal(whole[name], torch.cat([part[name] for part in divided]))
        partners = torch.cat([part["partner_label"] for part in divided])
        assert torch.equal(partners, whole["label"][whole["partner"]])
        assert {part["lam"] for part in divided} == {whole["lam"]}


# --- batch normalisation over the whole batch, as on GPUs; here, of one rank ---


@pytest.mark.parametrize("name", ["timm", "torchvision", "ddrank"])
def test_layers_of_batch_normalisation_are_the_same_ones_afterwards(name):
    network = {
        "timm": lambda: timm.create_model("mobilenetv3_small_050", num_classes=3),
        "torchvision": lambda: torchvision.models.resnet18(num_classes=3),
        "ddrank": lambda: models.ConvNet(num_classes=3, channels=3, size=32, norm="batch"),
    }[name]().eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before, kinds, keys = network(images), [type(layer) for layer in network.modules()], list(network.state_dict())
    sync = WholeBatch()
    there = sync.apply(network)
    layers = [layer for layer in there.modules() if isinstance(layer, nn.SyncBatchNorm)]
    assert len(layers) == sum(issubclass(kind, nn.BatchNorm2d) for kind in kinds) > 0
    assert torch.equal(there(images), before)
    assert list(there.state_dict()) == keys
    for layer in layers:
        layer.running_mean += 1.0
        layer.bias.data += 1.0
    trained = there(images)
    network = sync.revert(there)
    assert [type(layer) for layer in network.modules()] == kinds
    assert list(network.state_dict()) == keys
    assert torch.equal(network(images), trained)
    assert not torch.equal(trained, before)


def test_a_layer_of_batch_normalisation_of_ones_own_is_refused():
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(InputError, match="a layer Own, whose batches"):
        WholeBatch().apply(nn.Sequential(Own(3)))


# --- with a follower, the same for all of these ---


def test_weights_are_those_of_one_process_and_the_same_on_all_ranks():
    job = assignment(samples(37), batch_size=9)  # parts of 5 and 4, and at last 10
    alone, two = run(job, ONE), run(replace(job, aug={"part": {"_target_": "watched.SameWeights"}}))
    for name, tensor in alone.weights.items():
        assert torch.allclose(tensor, two.weights[name], atol=1e-6), name
    assert two.accuracy == alone.accuracy
    assert [loss for _, loss in two.losses] == pytest.approx([loss for _, loss in alone.losses], abs=1e-6)


@pytest.mark.parametrize("count", [101, 230])
def test_weights_that_are_there_have_the_accuracy_of_one_process(count):
    job = assignment(samples(12), tests=samples(count, 1))
    weights = run(job, ONE).weights
    job = replace(job, weights=weights, keep_weights=False)
    accuracies = [run(job, machine).accuracy for machine in (ONE, TWO)]
    assert accuracies[0] == accuracies[1]
    assert accuracies[0] * count == pytest.approx(round(accuracies[0] * count), abs=1e-9)


def test_batch_normalisation_and_tests_on_the_way():
    """The leader's running statistics are tested, on every rank: its weights, alone, have the same accuracy."""
    model = {"_target_": "ddrank.models.ConvNet", "name": "convnet", "width": 4, "depth": 1, "norm": "batch"}
    job = assignment(samples(36), tests=samples(150, 1), model=model, aug="SameWeights", test_every=1)
    two = run(job)
    assert len(two.tests) == 3
    last = replace(job, weights=two.weights, test_every=None, aug={})
    assert run(last, ONE).accuracy == run(last).accuracy == two.tests[-1][1]
    assert run(replace(job, test_every=None)).accuracy == two.tests[-1][1]


def test_a_student_with_small_batches_is_the_leaders_alone():
    alone, two = run(assignment(samples(30), batch_size=3), ONE), run(assignment(samples(30), batch_size=3))
    assert all(torch.equal(tensor, two.weights[name]) for name, tensor in alone.weights.items())
    assert TWO.in_key(3, 30) == ONE.in_key(3, 30) == {"precision": "32-true"}
    assert TWO.in_key(4, 30) == {"precision": "32-true", "ranks": 2, "statistics": "apart"}
    assert replace(TWO, device="cuda").in_key(4, 30)["statistics"] == "whole"


# --- through the commands ---

RUN = [
    "method=random", "model=mlp", "num_eval=1", "protocol.lrs=[0.05]", "train.epochs=2", "train.step_size=1",
    "dataset.real.epochs=1", "engine.threads=1", "engine.accelerator=cpu",
]  # fmt: skip


@pytest.fixture
def modules(monkeypatch):
    """Have other processes find what this one finds: the package, and watched.py."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))


def entries(folder: Path) -> dict[str, dict]:
    """The keys of a store's measurements, by arm."""
    found = [json.loads(path.read_text()) for path in (folder / "store/measurements").rglob("*.json")]
    return {entry["about"]["arm"]: entry["key"] for entry in found}


@pytest.mark.slow
def test_a_run_started_by_torchrun_has_the_same_numbers(command, process, modules, tmp_path):
    settings = [*RUN, "engine.devices=2"]
    plain = command("run", *settings)
    assert plain.code == 0, plain.err
    torchrun = ["--standalone", "--nproc-per-node=2", "-m", "ddrank.run"]
    there = process("torch.distributed.run", *torchrun, *settings, "paths.store=other")
    assert there.code == 0, there.err
    assert there.out.count("rdm_any") == plain.out.count("rdm_any")  # printed once
    first, other = results(tmp_path)
    assert other["arms"] == first["arms"]
    assert first["environment"]["devices"] == other["environment"]["devices"] == 2
    keys = entries(tmp_path)
    assert {arm: key.get("ranks") for arm, key in keys.items()} == dict.fromkeys(keys, 2)


@pytest.mark.slow
def test_ranks_in_jobs_of_submitit_have_the_same_numbers(command, modules, tmp_path):
    pytest.importorskip("submitit")
    settings = [*RUN, "engine.devices=2"]
    for call in (settings, ["-m", *settings, "hydra/launcher=submitit_local", "paths.store=other"]):
        outcome = command("run", *call)
        assert outcome.code == 0, outcome.err
    first, other = results(tmp_path)
    assert other["arms"] == first["arms"]


@pytest.mark.slow
def test_two_ranks_are_as_accurate_as_one_process(tmp_path, modules):
    settings = ("dataset.size=16", "dataset.real.epochs=3", "model.width=8", "model.norm=batch", "engine.threads=1")
    script = Path(__file__).parent.parent / "scripts/compare_ranks.py"
    done = subprocess.run(
        [sys.executable, script, "--seeds=3", f"--folder={tmp_path}", "--set", *settings],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    low, high = re.search(r"real_hard: .* interval (\S+) to (\S+)", done.stdout).groups()
    assert float(low) < 0.0 < float(high), done.stdout
    assert "no whole number of the 1000 test images: none" in done.stdout


# --- ranks that end; the next student has new ones ---


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("ddrank.checkpoint.WRITING_SHARE", 0)
    often = replace(TWO, checkpoint_every=1e-9)
    crop = {"part": {"_target_": "ddrank.augment.Views", "transforms": [{"RandomCrop": {"size": 8, "padding": 2}}]}}
    job = assignment(samples(36), epochs=4, keep_weights=True)
    job = replace(job, aug=crop, model={"_target_": "watched.Dropping", "name": "dropping"})
    undisturbed = run(job)
    job, went_on = replace(job, checkpoint=Checkpoint(tmp_path / "state.pt")), []
    dies = crop | {"dies": {"_target_": "watched.Ends", "rank": 1, "how": "killed", "epoch": 2, "batch": 3}}
    with pytest.raises(InputError, match="lost with rank 1 of 2: its process ended"):
        run(replace(job, aug=dies), often)
    resumed = run(job, often, resumed=went_on.append)
    assert went_on == [2]
    assert all(torch.equal(tensor, resumed.weights[name]) for name, tensor in undisturbed.weights.items())
    assert (resumed.accuracy, resumed.losses) == (undisturbed.accuracy, undisturbed.losses)
    assert len(Checkpoint(tmp_path / "state.pt").saved()["others"]) == 1


@pytest.mark.slow
def test_a_rank_that_refuses_leaves_no_process_behind(tmp_path):
    """The pipe of the command ends with it, though each rank has processes that decode images."""
    script = tmp_path / "streams.py"
    script.write_text(
        f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), *filter(None, sys.path)]!r}
from pathlib import Path
from test_ranks import TWO, assignment, run
from test_streaming import CONSTANTS, class_folders
from ddrank.data.folders import load_imagefolder
from ddrank.data import Samples

if __name__ == "__main__":
    train, tests, _ = load_imagefolder(Path("data"), str(class_folders(Path("birds"))), 16, decode_gib=0)
    train, tests = (Samples(part.images, part.labels, **CONSTANTS) for part in (train, tests))
    Path(train.images.path(20)).write_bytes(b"not an image")
    run(assignment(train, tests, batch_size=10), TWO)
"""
    )
    environment = os.environ | {SHARE: "2"}  # so that there are processes that decode
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "InputError" in done.stderr.splitlines()[-1]


@pytest.fixture
def _terminated_as_before():
    """Lightning's handler of SIGTERM, which a terminated fit leaves behind, is no other test's."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_terminated_as_before")
def test_what_ends_a_rank_ends_all_and_is_said_by_the_leader():
    for rank, how, kind, said in (
        (1, "refuses", InputError, "rank 1: it cannot be done"),
        (0, "raises", ValueError, "^a defect$"),
        (0, "terminated", SystemExit, "^143$"),
    ):
        with pytest.raises(kind, match=f"(?s){said}"):
            run(assignment(samples(36), aug="Ends", arguments={"rank": rank, "how": how}))
