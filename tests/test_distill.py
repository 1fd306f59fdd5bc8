"""Distillers: DM against its definition, the selections against brute force, the command."""

from __future__ import annotations

import itertools
import json
import tempfile
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import QUICK
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from ddrank.augment import DSA
from ddrank.augment.dsa import OPERATIONS, apply_dsa
from ddrank.data import RealDataset, Samples, Space
from ddrank.distill import dm, gradient
from ddrank.distill.base import Task
from ddrank.distill.difficulty import DATM
from ddrank.distill.dm import DM, class_means, dm_loss, matching_loss
from ddrank.distill.experts import ExpertRecipe, Experts
from ddrank.distill.select import Herding, KCenter, KMeans, Noise, Random
from ddrank.distill.trajectory import MTT
from ddrank.distill.unroll import vector_of
from ddrank.engine import Engine
from ddrank.models import ConvNet, embed
from ddrank.progress import Display
from ddrank.store import Store


def task(ipc: int = 2, per_class: int = 6, seed: int = 0) -> Task:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat(per_class)
    images = torch.randn(len(labels), 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1)
    real = RealDataset(
        "toy", Samples(images, labels), Samples(images, labels), ("a", "b", "c"), (0.0,), (1.0,), 0.1, 5000
    )
    return Task(
        real=real,
        samples=Samples(images, labels),
        space=Space("normalized", (0.0,), (1.0,)),
        ipc=ipc,
        generator=torch.Generator().manual_seed(seed),
        network=lambda name: ConvNet(depth=2, width=8, num_classes=3, channels=1, size=8),
        trained=lambda name: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval(),
        training=lambda name: [],
        architecture=lambda name: {"name": name},
        store=Store(tempfile.mkdtemp()),
        engine=Engine(),
        display=Display(),
    )


def test_dm_is_at_rest_where_synthetic_equals_real():
    """All images of every class as their own distillation: loss and gradient are zero, so nothing moves."""
    whole = task(ipc=6)
    start = whole.real.draw(6, torch.Generator().manual_seed(0), whole.samples).images
    made = DM(iterations=5, real_batch=100, lr=10.0, mirror=True).distill(whole).images
    torch.testing.assert_close(made, start, atol=1e-4, rtol=0)


def test_dm_moves_towards_the_real_mean():
    torch.manual_seed(0)
    before = task()
    start = before.real.draw(2, torch.Generator().manual_seed(0), before.samples).images
    made = DM(iterations=60, real_batch=100, lr=1.0, augment=False).distill(task()).images
    torch.manual_seed(9)
    network = ConvNet(depth=2, width=8, num_classes=3, channels=1, size=8)
    real = class_means(embed(network, before.samples.images), before.samples.labels, 3)

    def distance(images):
        return matching_loss(real, class_means(embed(network, images), before.labels, 3)).item()

    assert distance(made) < 0.5 * distance(start)


def test_mixed_networks_are_those_of_every_moment_of_trainings_on_the_real_data(monkeypatch):
    seen = []

    def watched(network, images):
        seen.append(vector_of(network))
        return embed(network, images)

    monkeypatch.setattr(dm, "embed", watched)
    toy = task()
    method = DM(iterations=40, networks="mixed", experts=2, train_epochs=2, train_batch=9, train_lr=0.05)
    assert [phase.name for phase in method.rehearse(toy)] == ["epochs of experts", "iterations"]
    seen.clear()
    assert method.distill(toy).images.isfinite().all()
    recipe = ExpertRecipe("convnet", epochs=2, batch_size=9, lr=0.05)
    moments = torch.cat([Experts(toy, recipe, 2, last=2)[expert] for expert in range(2)])
    drawn = {int((moments == vector).all(1).nonzero()) for vector in seen}
    assert drawn == set(range(6))
    assert [phase.name for phase in method.rehearse(toy)] == ["iterations"]  # the store has the trainings


def test_one_step_of_dm_is_the_per_class_loop():
    """All classes in one pass give what the paper's loop over classes gives, siamese augmentation included."""
    one = task()
    dsa = DSA(mirror=True)
    images = one.real.draw(2, torch.Generator().manual_seed(5), one.samples).images.clone().requires_grad_()
    real = one.real.draw(4, torch.Generator().manual_seed(6), one.samples).images
    network = one.network("convnet").requires_grad_(False)
    batched = dm_loss(partial(embed, network), real, [4, 4, 4], images, task(seed=3), dsa)
    (found,) = torch.autograd.grad(batched, images)
    shared = dsa.draw_shared((8, 8), groups=3, generator=task(seed=3).generator)
    total = 0
    for label in range(3):
        of_real, of_images = real[4 * label : 4 * label + 4], images[2 * label : 2 * label + 2]
        same = shared[[label]]
        with torch.no_grad():
            target = embed(network, apply_dsa(of_real, same)).mean(0)
        total = total + (target - embed(network, apply_dsa(of_images, same)).mean(0)).square().sum()
    (expected,) = torch.autograd.grad(total, images)
    torch.testing.assert_close(batched, total)
    torch.testing.assert_close(found, expected)


def test_two_steps_of_dm_are_sgd_with_momentum_under_siamese_augmentation():
    """An own loop over the steps and classes: 4 of 6 real images of a class, a draw of DSA for it, a new network; the
    images move by -g, then by -(g' + 0.5 g)."""
    networks: list[ConvNet] = []

    def network(name: str) -> ConvNet:
        networks.append(ConvNet(depth=2, width=8, num_classes=3, channels=1, size=8))
        return networks[-1]

    toy = replace(task(), network=network)
    distillation = DM(real_batch=4).begin(toy)
    images, velocity = distillation.tensors["images"].detach().clone(), 0
    drawing = torch.Generator()
    drawing.set_state(toy.generator.get_state())
    for iteration in range(2):
        distillation.step(iteration)
        orders = [torch.randperm(6, generator=drawing)[:4] for _ in range(3)]
        shared = DSA().draw_shared((8, 8), groups=3, generator=drawing)
        own, loss = images.clone().requires_grad_(), 0
        for label, order in enumerate(orders):
            real = apply_dsa(toy.samples.images[toy.members(label)[order]], shared[[label]])
            synthetic = apply_dsa(own[2 * label : 2 * label + 2], shared[[label]])
            means = (networks[-1].embed(side).mean(0) for side in (real, synthetic))
            loss = loss + torch.dist(*means).square()
        velocity = 0.5 * velocity + torch.autograd.grad(loss, own)[0]
        images -= velocity
        torch.testing.assert_close(distillation.tensors["images"].detach(), images, atol=1e-4, rtol=1e-4)


def test_matching_loss_by_hand():
    real, synthetic = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 2.0], [3.0, 1.0]])
    assert float(matching_loss(real, synthetic)) == 1 + 9
    assert torch.autograd.gradcheck(lambda x: matching_loss(real.double(), x), synthetic.double().requires_grad_())


def test_dm_starts_from_real_images_or_noise():
    started = DM(iterations=1, lr=1e-12).distill(task()).images
    assert all((task().samples.images == image).flatten(1).all(1).any() for image in started)
    noise = DM(iterations=1, lr=1e-12, init="noise").distill(task(ipc=50)).images
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05


EXPERTS = {"experts": 2, "train_epochs": 10, "train_batch": 6}
STUDENTS = {**EXPERTS, "expert_epochs": 1, "max_start_epoch": 2, "syn_steps": 5, "lr_lr": 0.0}


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize(
    ("distiller", "with_experts"),
    [
        (partial(gradient.DSA, outer=2, inner=5), False),
        (DM, False),
        (partial(DM, networks="mixed", **EXPERTS), True),
        (partial(MTT, **STUDENTS), True),
        (partial(DATM, **STUDENTS, initial_max_start_epoch=2, init="real"), True),
    ],
    ids=["dsa", "dm", "mixed dm", "mtt", "datm"],
)
def test_classes_that_do_not_survive_mirroring_are_never_mirrored(distiller, with_experts, mirror, monkeypatch):
    """Neither where experts are trained, before the first step, nor in ten steps; others are, at both places."""
    mirrored, flip = [], OPERATIONS["flip"]
    monkeypatch.setitem(OPERATIONS, "flip", lambda images, which: mirrored.append(which.any()) or flip(images, which))
    distillation = distiller(mirror=mirror).begin(task())
    by_experts = any(mirrored)
    mirrored.clear()
    for iteration in range(10):
        distillation.step(iteration)
    assert (by_experts, any(mirrored)) == (mirror and with_experts, mirror)


def points(seed: int, count: int = 7) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_herding_is_the_greedy_choice(seed):
    features = points(seed)
    chosen = Herding().choose(features, 4).tolist()
    for count in range(1, 5):

        def gap(index, count=count):
            return float((features.mean(0) - features[[*chosen[: count - 1], index]].mean(0)).norm())

        left = [index for index in range(7) if index not in chosen[: count - 1]]
        assert gap(chosen[count - 1]) == pytest.approx(min(gap(index) for index in left))
    assert len(set(chosen)) == 4


@pytest.mark.parametrize("seed", range(5))
def test_kcenter_is_the_greedy_choice_and_within_twice_the_optimum(seed):
    features = points(seed)
    chosen = KCenter().choose(features, 3).tolist()
    distances = torch.cdist(features, features)
    assert chosen[0] == int((features - features.mean(0)).norm(dim=1).argmin())
    for count in (1, 2):
        nearest = distances[:, chosen[:count]].min(1).values
        assert nearest[chosen[count]] == nearest.max()

    def radius(centres):
        return float(distances[:, list(centres)].min(1).values.max())

    best = min(radius(centres) for centres in itertools.combinations(range(7), 3) if chosen[0] in centres)
    assert radius(chosen) <= 2 * best + 1e-6


def test_kmeans_finds_planted_clusters_and_never_one_image_twice():
    centres = torch.tensor([[0.0, 0, 0], [10, 0, 0], [0, 10, 0]])
    features = torch.cat([centre + 0.1 * points(number, 5) for number, centre in enumerate(centres)])
    chosen = KMeans().choose(features, 3)
    assert sorted((chosen // 5).tolist()) == [0, 1, 2]
    for index in chosen.tolist():
        own = features[index // 5 * 5 : index // 5 * 5 + 5]
        gaps = (own - own.mean(0)).norm(dim=1)
        assert int(gaps.argmin()) == index % 5
    same = torch.zeros(4, 3)
    same[3] = 1
    assert len(set(KMeans().choose(same, 2).tolist())) == 2


@pytest.mark.parametrize("distiller", [Random(), Herding(), KCenter(), KMeans(), Noise(), DM(iterations=2)])
def test_every_distiller_gives_class_major_images_of_the_right_class(distiller):
    made = distiller.distill(task()).images
    assert made.shape == (6, 1, 8, 8)
    if not isinstance(distiller, Noise | DM):
        real = task().samples
        for position, image in enumerate(made):
            found = (real.images == image).flatten(1).all(1)
            assert real.labels[found].tolist() == [position // 2]


def test_random_draws_are_independent_and_each_seed_has_its_own(command, tmp_path):
    made = Random(draws=3).distill(task())
    assert len(made.others) == 2
    assert not any(torch.equal(made.images, other) for other in made.others)
    command("distill", "method=random", "method.distiller.draws=3")
    from ddrank.data import read_distilled

    read = read_distilled(
        tmp_path / "distilled/digits/random/ipc1", num_classes=10, ipc=1, channels=1, size=8, dataset="digits"
    )
    sets = [read.set_for(seed) for seed in range(4)]
    assert torch.equal(sets[0], sets[3])
    assert torch.equal(sets[0], read.images)
    assert torch.equal(sets[1], read.others[0])
    assert not torch.equal(sets[1], sets[2])


def test_the_command_makes_the_file_once(command, tmp_path):
    arguments = ("method=dm", "ipc=2", "method.distiller.iterations=4")
    outcome = command("distill", *arguments)
    assert outcome.code == 0, outcome.err
    path = tmp_path / "distilled/digits/dm/ipc2/distilled.safetensors"
    assert str(path.relative_to(tmp_path)) in outcome.out
    with safe_open(path, framework="pt") as file:
        assert tuple(file.get_tensor("images").shape) == (20, 1, 8, 8)
        assert file.get_tensor("labels").tolist() == [label for label in range(10) for _ in range(2)]
        metadata = file.metadata()
    assert metadata["method"] == '"dm"'
    assert metadata["space"] == '"normalized"'
    assert '"iterations": 4' in metadata["distiller"]
    assert (path.parent / "grid.png").is_file()
    content = path.read_bytes()
    assert "is there already" in command("distill", *arguments).out
    assert command("distill", *arguments, "overwrite=true").code == 0
    assert path.read_bytes() == content  # the same config, the same images


def test_a_sweep_over_seeds_makes_a_file_for_each_that_an_evaluation_can_name(command, tmp_path):
    arguments = ("method=dm", "method.distiller.iterations=2", "method.distiller.real_batch=8")
    assert command("distill", "-m", *arguments, "seed=0,1,2").code == 0
    folder = tmp_path / "distilled/digits/dm/ipc1"
    files = [folder / place / "distilled.safetensors" for place in ("", "seed1", "seed2")]
    images = [load_file(path)["images"] for path in files]
    assert not any(torch.equal(*pair) for pair in itertools.combinations(images, 2))
    fast = ("num_eval=1", "train.epochs=2", "train.step_size=2", "dataset.real.epochs=1", "protocol.lrs=[0.01]")
    ran = command("run", *arguments, *fast, "method.seed=2")
    assert ran.code == 0, ran.err
    (result,) = tmp_path.glob("runs/**/result.json")
    assert json.loads(result.read_text())["distilled"]["path"] == "distilled/digits/dm/ipc1/seed2/distilled.safetensors"
    assert load_file(files[2])["images"].equal(images[2])


@pytest.mark.parametrize(
    "method, model, quick",
    [
        ("sre2l", "convnet_bn", ("method.distiller.iterations=2",)),
        ("rded", "convnet_bn", ("method.distiller.mipc=5",)),
        ("herding", "convnet", ()),
    ],
)
def test_a_network_that_has_to_be_trained_is_announced_before(command, method, model, quick):
    arguments = (f"method={method}", "dataset.teacher.epochs=1", "overwrite=true", *quick)
    first = command("distill", *arguments)
    assert first.code == 0, first.err
    assert 0 <= first.err.find(f"1 epochs of {model}") < first.err.find("trained the teacher")
    again = command("distill", *arguments)
    assert again.code == 0, again.err
    assert "epochs of" not in again.err


def test_distillers_never_see_validation_or_test_images(command, tmp_path):
    command("distill", "method=random", "ipc=100")
    from hydra.utils import get_method

    with safe_open(tmp_path / "distilled/digits/random/ipc100/distilled.safetensors", framework="pt") as file:
        images = file.get_tensor("images") * 0.3760 + 0.3052
    train, test, names = get_method("ddrank.data.digits.load_digits")(tmp_path)
    real = RealDataset("digits", train, test, names, (0.3052,), (0.3760,), 0.1, 5000)

    def rows(tensor):
        return {tuple((image * 16).round().int().flatten().tolist()) for image in tensor}

    assert rows(images) <= rows(real.kept.images)
    assert not rows(images) & (rows(real.validation.images) - rows(real.kept.images))


def test_run_makes_what_is_missing_and_says_so(command, tmp_path):
    outcome = command("run", *QUICK)
    assert "making distilled/digits/dm/ipc1/distilled.safetensors" in outcome.err
    assert "making" not in command("run", *QUICK).err
