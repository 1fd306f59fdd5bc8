"""engine.precision in distillers: what it changes, what it refuses, and that data know in which one they were made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import test_d4m
import test_datm
import test_distill
import test_gradient
import test_rded
import test_sre2l
import test_trajectory
import torch
from conftest import QUICK
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddrank import engine
from ddrank.data import load_real
from ddrank.distill import validation
from ddrank.distill.base import Distilled, Task
from ddrank.distill.d4m import D4M
from ddrank.distill.difficulty import DATM, classify
from ddrank.distill.dm import DM
from ddrank.distill.experts import ExpertRecipe, Experts
from ddrank.distill.gradient import DC, DSA
from ddrank.distill.make import rehearsed
from ddrank.distill.rded import RDED, patch_scores
from ddrank.distill.trajectory import MTT
from ddrank.distill.unroll import Flat, vector_of
from ddrank.distill.validation import validation_accuracy
from ddrank.engine import Engine
from ddrank.errors import InputError
from ddrank.progress import Display
from ddrank.store import Store

FEW = ("method=dm", "method.distiller.model=mlp", "method.distiller.iterations=2", "engine=eager", "engine.threads=1")
FEW += ("method.distiller.real_batch=8", "job.frames=0")
FILE = "distilled/digits/dm/ipc1/distilled.safetensors"


def of_gradient(method: DC) -> Callable[[Path], dict[str, Tensor]]:
    def moved(task: Task) -> dict[str, Tensor]:
        matching = method.begin(task)
        loss = matching.match()
        matching.train(1)
        network = vector_of(matching._network)
        return {"loss": loss, "gradient": matching.tensors["images"].grad, "network": network}

    return lambda folder, precision: moved(with_precision(test_gradient.task(), precision))


def of_dm(folder: Path, precision: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    matching = DM(iterations=1).begin(with_precision(test_distill.task(), precision))
    matching.step(0)
    return {"gradient": matching.tensors["images"].grad}


def of_unroll(method: MTT) -> Callable[[Path], dict[str, Tensor]]:
    """A student's unrolled training between the same parameters."""

    def moved(task: Task) -> dict[str, Tensor]:
        torch.manual_seed(0)
        start = vector_of(test_trajectory.network())
        matching = method._rehearsed(task, None, 1.0)
        loss = matching.match(start, start + 0.1 * torch.randn_like(start), 3)
        return {"loss": loss} | {name: tensor.grad for name, tensor in matching.tensors.items()}

    return lambda folder, precision: moved(with_precision(test_trajectory.task(folder), precision))


def of_experts(folder: Path, precision: str) -> dict[str, Tensor]:
    task = with_precision(test_trajectory.task(folder), precision)
    recipe = ExpertRecipe("convnet", epochs=3, batch_size=10, lr=0.1, rho=0.01, alpha=0.3)
    return {"trajectory": Experts(task, recipe, 1, last=3)[0]}


def of_classifiers(folder: Path, precision: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network, images = test_trajectory.network(), test_trajectory.task(folder).samples.images
    return {"logits": classify(Flat(network), vector_of(network), Engine(precision=precision), images)}


def of_sre2l(folder: Path, precision: str) -> dict[str, Tensor]:
    recovery = test_sre2l.QUICK().begin(with_precision(test_sre2l.task(), precision))
    values = recovery.step(0)
    return {name: values[name] for name in ("ce", "bn")} | {"gradient": recovery.tensors["images"].grad}


def of_rded(folder: Path, precision: str) -> dict[str, Tensor]:
    return {"loss": RDED(mipc=12).begin(with_precision(test_rded.task(), precision)).step(0)["loss"]}


def of_d4m(folder: Path, precision: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    task = with_precision(test_d4m.digits(Store(folder)), precision)
    model = D4M(autoencoder_width=8, unet_width=8)._model(task)
    images = task.real.kept.floats(torch.arange(2))
    latents, label = model.encode(images, torch.Generator().manual_seed(0)), torch.tensor([3, 4])
    noise = model.guided(latents, torch.tensor(500), label, 3.0)
    return {"latents": latents, "noise": noise, "pixels": model.decode(latents)}


def with_precision(task: Task, precision: str) -> Task:
    return replace(task, engine=replace(task.engine, precision=precision))


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(of_gradient(DC(outer=1, inner=1)), id="dc"),
        pytest.param(of_gradient(DSA(outer=1, inner=1)), id="dsa"),
        pytest.param(of_dm, id="dm"),
        pytest.param(of_unroll(MTT(syn_steps=3, lr_init=0.1)), id="mtt"),
        pytest.param(of_unroll(DATM(**test_datm.SMALL)), id="datm"),
        pytest.param(of_experts, id="experts"),
        pytest.param(of_classifiers, id="classifiers"),
        pytest.param(of_sre2l, id="sre2l"),
        pytest.param(of_rded, id="rded"),
        pytest.param(of_d4m, id="d4m"),
    ],
)
def test_reduced_precision_is_used_and_agrees_with_single(tmp_path, compute):
    """Nothing is what it is in single precision, and nothing is far from it; all of it comes in single precision."""
    single, reduced = (compute(tmp_path, precision) for precision in ("32-true", "bf16-mixed"))
    for name, expected in single.items():
        found = reduced[name]
        assert found.dtype == expected.dtype == torch.float32
        assert not torch.equal(found, expected), name
        assert float((found - expected).norm() / expected.norm()) < 0.1, name


def test_only_the_observer_of_rded_is_in_reduced_precision():
    """The patches are cut in single precision: of the same boxes they are the same."""
    torch.manual_seed(0)
    tasks = [with_precision(test_rded.task(), precision) for precision in ("32-true", "bf16-mixed")]
    single, reduced = (RDED(mipc=2, num_crop=1).begin(task) for task in tasks)
    for one in (single, reduced):
        one.step(0)
    network = test_rded.observer()
    of_single, of_reduced = (sorted(patch_scores(one.finished[0], 0, network, 9).tolist()) for one in (single, reduced))
    assert of_single == of_reduced


# --- what has no loss scale ---


@pytest.mark.parametrize("method", ["dc", "dm", "mtt", "sre2l", "d4m"])
def test_half_precision_is_refused_before_anything_is_made(command, tmp_path, half, method):
    for name in ("distill", "run"):
        sentence = command(name, f"method={method}", "engine=eager").sentence()
        assert "engine.precision=16-mixed needs a loss scale" in sentence
        assert "choose bf16-mixed or 32-true" in sentence
    assert not (tmp_path / "distilled").exists()
    assert not [path for path in (tmp_path / "store").rglob("*") if path.suffix in (".safetensors", ".pt", ".json")]


def test_half_precision_is_refused_before_anything_is_rehearsed(composed, tmp_path):
    config = composed("method=dm", "method.distiller.model=mlp")
    real, display = load_real(config.dataset, "data"), Display()
    with pytest.raises(InputError, match=r"engine\.precision=16-mixed needs a loss scale"):
        rehearsed(config, real, Engine(precision="16-mixed"), Store(tmp_path), display)
    assert rehearsed(config, real, Engine(), Store(tmp_path), display)[0]


@pytest.mark.filterwarnings("ignore:.*16-mixed")  # which Lightning has on GPUs alone
@pytest.mark.parametrize("settings", [["herding"], ["kcenter"], ["kmeans"], ["rded", "method.distiller.mipc=20"]])
def test_half_precision_is_taken_where_no_gradient_is_but_the_teachers(command, tmp_path, half, settings):
    method, *others = settings
    trained = ("method.distiller.model=mlp", "method.teachers=[mlp]", "dataset.teacher.epochs=1", "engine.threads=1")
    outcome = command("distill", f"method={method}", *trained, *others)
    assert outcome.code == 0, outcome.err
    with safe_open(tmp_path / f"distilled/digits/{method}/ipc1/distilled.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["environment"])["precision"] == "16-mixed"


@pytest.mark.parametrize("compute", [of_rded, of_d4m])
def test_half_precision_is_used_where_no_gradient_is_taken(tmp_path, compute):
    single, half = (compute(tmp_path, precision) for precision in ("32-true", "16-mixed"))
    for name, expected in single.items():
        assert half[name].dtype == torch.float32
        assert 0 < float((half[name] - expected).norm() / expected.norm()) < 0.01, name


def test_random_images_are_the_same_in_any_precision(command, tmp_path, half):
    assert command("distill", "method=random", "method.distiller.draws=1").code == 0
    half.undo()
    assert "is there already" in command("distill", "method=random", "method.distiller.draws=1").out


@pytest.fixture
def half():
    """The machine computes in half precision, as a GPU can, until this is undone."""
    start = engine.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "start", lambda config: replace(start(config), precision="16-mixed"))
        yield patch


# --- data of another precision ---


def test_data_of_another_precision_are_made_with_other_settings(command, tmp_path):
    assert command("distill", *FEW).code == 0
    single = load_file(tmp_path / FILE)["images"]
    reduced = (*FEW, "engine.precision=bf16-mixed")
    sentence = command("distill", *reduced).sentence()
    assert "was made with precision=32-true, not bf16-mixed as asked for now" in sentence
    assert torch.equal(load_file(tmp_path / FILE)["images"], single)
    assert command("distill", *reduced, "overwrite=true").code == 0
    assert not torch.equal(load_file(tmp_path / FILE)["images"], single)
    assert "is there already" in command("distill", *reduced).out
    assert "was made with precision=bf16-mixed, not 32-true" in command("distill", *FEW).sentence()


def test_an_evaluation_takes_data_of_another_precision_and_says_so(command, tmp_path):
    evaluation = (*FEW[:-1], *QUICK[:-1])
    command("distill", *FEW, "engine.precision=bf16-mixed", "job.stop_at=1")
    assert command("distill", *FEW).code == 0
    made = (tmp_path / FILE).read_bytes()
    assert "was made in" not in command("run", *evaluation).err
    outcome = command("run", *evaluation, "engine.precision=bf16-mixed")
    assert outcome.code == 0, outcome.err
    said = f"{FILE} was made in 32-true, and is evaluated in bf16-mixed"
    assert said in " ".join(outcome.err.split())
    assert (tmp_path / FILE).read_bytes() == made
    assert len(list((tmp_path / "store/distillations").glob("*.pt"))) == 1  # goes on with overwrite=true


def test_a_file_that_records_no_precision_is_of_single_precision(command, tmp_path):
    command("distill", *FEW)
    rewrite(tmp_path / FILE, environment=None)
    assert "is there already" in command("distill", *FEW).out
    assert "precision=32-true" in command("distill", *FEW, "engine.precision=bf16-mixed").sentence()


def rewrite(path: Path, **metadata: str | None) -> None:
    """Replace parts of a file's metadata; None takes them away."""
    with safe_open(path, framework="pt") as file:
        found = file.metadata() | metadata
    save_file(load_file(path), path, {name: text for name, text in found.items() if text is not None})


# --- settings without a part in the images ---


@pytest.mark.parametrize(
    ("distiller", "settings", "aside"),
    [
        (DM, {"networks": "random"}, {"experts": 3, "train_epochs": 2, "train_batch": 9, "train_lr": 1.0}),
        (DATM, {"rho": 0.0}, {"alpha": 0.5}),
        (D4M, {"checkpoint": None}, {"negative": "a dog"}),
    ],
)
def test_what_has_no_effect_is_not_effective(distiller, settings, aside):
    plain = distiller(**settings).effective()
    assert not set(aside) & set(plain)
    assert distiller(**settings, **aside).effective() == plain


@pytest.mark.parametrize(
    ("distiller", "settings"),
    [(DM, {"networks": "mixed", "experts": 3}), (DATM, {"rho": 0.1, "alpha": 0.5}), (MTT, {"experts": 3})],
)
def test_what_has_an_effect_is_effective(distiller, settings):
    assert settings.items() <= distiller(**settings).effective().items()


def test_data_are_the_same_whatever_is_said_of_what_they_do_not_use(command, tmp_path):
    command("distill", *FEW)
    assert "is there already" in command("distill", *FEW, "method.distiller.experts=3").out
    mixed = ("method.distiller.networks=mixed", "method.distiller.experts=3")
    assert "networks=random, not mixed" in command("distill", *FEW, *mixed).sentence()
    with safe_open(tmp_path / FILE, framework="pt") as file:
        recorded = file.metadata()["distiller"]
    rewrite(tmp_path / FILE, distiller=recorded.replace("{", '{"experts": 10, ', 1))  # of all parameters
    assert "is there already" in command("distill", *FEW).out


# --- students that are trained on the way ---


@pytest.mark.parametrize(("settings", "lr"), [((), 0.01), (("train=decoupled",), 0.001), (("method.lr=0.5",), 0.5)])
def test_students_on_the_way_have_the_rate_of_their_optimizer(command, monkeypatch, settings, lr):
    seen, run = [], validation.fit.run
    monkeypatch.setattr(validation.fit, "run", lambda student, *rest: seen.append(student.lr) or run(student, *rest))
    short = ("model=mlp", "train.epochs=1", "job.validate_every=2")
    outcome = command("distill", *FEW, *short, *(("train.step_size=1",) if not settings else ()), *settings)
    assert outcome.code == 0, outcome.err
    assert seen == [lr, lr]
    assert outcome.err.count("(hard labels) before iteration") == 2


@pytest.mark.parametrize(
    ("settings", "learned", "lr"),
    [(("method.lr=0.5",), 0.3, 0.5), (("method.lr=null",), 0.3, 0.3), (("method.lr=null",), None, 0.01)],
)
def test_students_on_the_way_have_the_rate_of_those_of_an_evaluation(composed, monkeypatch, settings, learned, lr):
    config, task, seen = composed("method=mtt", *settings, name="distill"), test_distill.task(), []
    outcome = SimpleNamespace(accuracy=1.0)
    monkeypatch.setattr(validation.fit, "run", lambda student, *rest: seen.append(student.lr) or outcome)
    validation_accuracy(config, task, 1, Distilled(task.noise(), lr=learned))
    assert seen == [lr]


def test_students_of_soft_labels_are_announced_as_such(command):
    short = ("method.distiller.iterations=1", "job.frames=0", "train.epochs=1", "train.step_size=1", "model=mlp")
    outcome = command("distill", *test_datm.QUICK, *short, "job.validate_every=1")
    assert "(soft labels) before iteration 1" in " ".join(outcome.err.split()), outcome.err
