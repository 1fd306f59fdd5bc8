"""DATM: its schedule, first images and labels, gate, average and experts against hand-worked values; its gradients
against finite differences; the command."""

from __future__ import annotations

import copy
import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import QUICK as QUICK_EVALUATION
from conftest import results
from safetensors.torch import load_file
from test_trajectory import check_two_steps, network, task
from torch import Tensor
from torch.nn import functional as F

from ddrank.augment import DSA
from ddrank.data import Samples
from ddrank.data.distilled import read_metadata
from ddrank.distill.base import Task, initial
from ddrank.distill.difficulty import DATM, AlignedMatching, correct_images, right_logits, upper_bound
from ddrank.distill.experts import ExpertRecipe, Experts
from ddrank.distill.gsam import gsam
from ddrank.distill.trajectory import MTT
from ddrank.distill.unroll import Flat, vector_of
from ddrank.errors import InputError
from ddrank.student import derived_seed, new_network

EXPERTS = {"experts": 3, "train_epochs": 4, "train_batch": 8, "train_lr": 0.1}
SMALL = {
    **EXPERTS,
    "expert_epochs": 2,
    "initial_max_start_epoch": 1,
    "max_start_epoch": 2,
    "growth": 10,
    "syn_steps": 3,
    "lr_img": 5.0,
    "lr_init": 0.1,
}
QUICK = (  # two experts of two epochs and a student of two steps, of an MLP on digits
    "method=datm",
    "method.distiller.model=mlp",
    "method.distiller.experts=2",
    "method.distiller.train_epochs=2",
    "method.distiller.train_batch=32",
    "method.distiller.train_lr=0.05",
    "method.distiller.expert_epochs=1",
    "method.distiller.initial_max_start_epoch=1",
    "method.distiller.max_start_epoch=2",
    "method.distiller.growth=4",
    "method.distiller.syn_steps=2",
    "method.distiller.lr_img=10",
    "method.distiller.lr_init=0.01",
    "method.distiller.iterations=6",
    "engine.threads=1",
)
GATE = "method.distiller.threshold=0.9988"
FILE = "distilled/digits/datm/ipc1/distilled.safetensors"


# --- from easy to hard ---


@pytest.mark.parametrize(
    ("bounds", "table"),
    [
        ((10, 20, 1000), {0: 10, 99: 10, 100: 11, 250: 12, 550: 15, 999: 19, 1000: 20, 9999: 20}),  # CIFAR-10, IPC 10
        ((15, 20, 2000), {0: 15, 399: 15, 400: 16, 1999: 19, 2000: 20}),  # TinyImageNet, IPC 1
        ((4, 4, 3000), {0: 4, 2999: 4, 9999: 4}),  # CIFAR-10, IPC 1: it does not grow
        ((1, 4, 2), {0: 1, 1: 2, 2: 4}),
    ],
)
def test_the_bound_grows_as_published(bounds, table):
    assert {iteration: upper_bound(iteration, *bounds) for iteration in table} == table


def test_students_start_within_the_bounds(tmp_path):
    bounds = {"min_start_epoch": 1, "initial_max_start_epoch": 2, "max_start_epoch": 4, "train_epochs": 5, "growth": 20}
    toy = task(tmp_path)
    matching = fresh(DATM(**SMALL | bounds), toy)
    expected = {0: {1}, 9: {1}, 10: {1, 2}, 19: {1, 2}, 20: {1, 2, 3}, 1000: {1, 2, 3}}
    assert {it: {matching.start_epoch(it) for _ in range(60)} for it in expected} == expected


# --- the first images and labels ---


def votes(*tables: dict[int, int]) -> list:
    """Classifiers that see in an image's one pixel its number, and say the class that a table has for it, else 0."""
    return [
        lambda images, table=table: F.one_hot(
            torch.tensor([table.get(int(pixel), 0) for pixel in images.flatten()]), 3
        ).float()
        for table in tables
    ]


def numbered(folder: Path, labels: list[int], ipc: int, seed: int = 0) -> Task:
    images = torch.arange(len(labels)).float().view(-1, 1, 1, 1)
    return replace(task(folder, ipc, seed), samples=Samples(images, torch.tensor(labels)))


def test_only_images_that_an_expert_classifies_correctly_are_taken(tmp_path):
    """Images 0 to 9 have the classes 0 0 0 1 1 1 2 2 2 2. The first expert is right about 0, 2, 3, 6, 8, 9; class 1
    lacks one, which the second gives: it is right about 3 and 5 of it."""
    labels = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    first = {1: 1, 3: 1, 4: 2, 5: 2, 6: 2, 7: 1, 8: 2, 9: 2}
    second = {3: 1, 4: 0, 5: 1}
    found = {
        tuple(correct_images(numbered(tmp_path, labels, 2, seed), votes(first, second)).tolist()) for seed in range(40)
    }
    assert all(sorted(chosen[:2]) == [0, 2] for chosen in found)
    assert all(chosen[2:4] == (3, 5) for chosen in found)  # of the first expert, then of the second
    assert {chosen[4:] for chosen in found} == {(6, 8), (8, 6), (6, 9), (9, 6), (8, 9), (9, 8)}


def test_too_few_correct_images_are_an_error(tmp_path):
    toy = numbered(tmp_path, [0, 0, 1, 1, 2, 2], ipc=2)
    with pytest.raises(InputError, match=r"experts classify only 1 images of class 'c' of toy correctly, and ipc=2"):
        correct_images(toy, votes({2: 1, 3: 1, 4: 2}, {4: 2}))


def test_labels_are_the_mean_logits_of_the_experts_that_are_right(tmp_path):
    toy = task(tmp_path, ipc=1)
    first = torch.tensor([[3.0, 1.0, 0.0], [0.0, 5.0, 1.0], [9.0, 0.0, 0.0]])  # right, right, wrong
    second = torch.tensor([[1.0, 0.0, -2.0], [4.0, 0.0, 2.0], [0.0, 0.0, 7.0]])  # right, wrong, right
    third = torch.tensor([[0.0, 8.0, 0.0], [8.0, 0.0, 0.0], [1.0, 2.0, 3.0]])  # wrong, wrong, right
    expected = torch.tensor([[2.0, 0.5, -1.0], [0.0, 5.0, 1.0], [0.5, 1.0, 5.0]])
    assert torch.equal(right_logits([first, second, third], toy), expected)


def test_an_image_that_no_expert_is_right_about_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"no expert classifies image 2 \(class 'c'\) correctly, so it gets no soft"):
        right_logits([torch.eye(3)[[0, 1, 1]]] * 2, task(tmp_path, ipc=1))


def logits_of(experts: Experts, number: int, images: Tensor) -> Tensor:
    """Of an expert after its last epoch, put into a network by torch's own means."""
    net = network()
    torch.nn.utils.vector_to_parameters(experts[number][-1], net.parameters())
    with torch.no_grad():
        return net(images)


def test_it_starts_from_what_its_experts_say(tmp_path):
    toy = task(tmp_path)
    begun = DATM(**SMALL | {"train_epochs": 12, "train_lr": 0.3}, rho=0.0).begin(toy).result()
    experts = Experts(toy, ExpertRecipe("convnet", 12, 8, 0.3), 3, last=12)
    by_expert = [logits_of(experts, number, begun.images) for number in range(3)]
    right = logits_of(experts, 0, toy.samples.images).argmax(1) == toy.samples.labels
    enough = torch.bincount(toy.samples.labels[right], minlength=3)[toy.labels] >= toy.ipc
    assert enough.tolist() == [True] * 4 + [False] * 2
    assert torch.equal((by_expert[0].argmax(1) == toy.labels)[:4], enough[:4])
    places = [(toy.samples.images == image).flatten(1).all(1).nonzero().item() for image in begun.images]
    assert toy.samples.labels[places].tolist() == toy.labels.tolist()
    assert len(set(places)) == len(places)
    for image, label in enumerate(toy.labels):
        right = [logits[image] for logits in by_expert if logits[image].argmax() == label]
        torch.testing.assert_close(begun.soft_labels[image], sum(right) / len(right))


def test_it_can_start_from_any_images_with_the_first_experts_logits(tmp_path):
    toy = task(tmp_path)
    begun = DATM(**SMALL, rho=0.0, init="real").begin(toy).result()
    experts = Experts(toy, ExpertRecipe("convnet", 4, 8, 0.1), 3, last=4)
    torch.testing.assert_close(begun.soft_labels, logits_of(experts, 0, begun.images))


# --- the steps ---


def fresh(datm: DATM, toy: Task) -> AlignedMatching:
    """A matching of random images and labels."""
    experts = Experts(toy, ExpertRecipe("convnet", datm.train_epochs, 8, 0.1), 3, datm.train_epochs)
    experts.make()
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(len(toy.labels), 3, generator=generator, dtype=torch.float32)
    return AlignedMatching(datm, toy, experts, initial(toy, "real"), logits.to(torch.get_default_dtype()))


@pytest.fixture
def double():
    torch.set_default_dtype(torch.double)
    yield
    torch.set_default_dtype(torch.float32)


def test_its_gradients_are_those_of_finite_differences(tmp_path, double):
    """In label logits, pixels and rate, of a student of three steps on four of six images, augmented."""
    toy = task(tmp_path)
    toy = replace(toy, samples=replace(toy.samples, images=toy.samples.images.double()))
    matching = fresh(DATM(**SMALL | {"syn_batch": 4}), toy)
    torch.manual_seed(0)
    start = vector_of(network())
    target = start + 0.1 * torch.randn_like(start)

    def loss() -> float:
        toy.generator.manual_seed(2)
        for tensor in matching.tensors.values():
            tensor.grad = None
        return float(matching.match(start, target, 3))

    loss()
    gradients = {name: tensor.grad.clone() for name, tensor in matching.tensors.items()}
    assert set(gradients) == {"images", "lr", "soft_labels"}
    for name, tensor in matching.tensors.items():
        values = tensor.data.view(-1)
        for place in range(0, len(values), 7):
            with_step = []
            for step in (1e-5, -2e-5):
                values[place] += step
                with_step.append(loss())
            values[place] += 1e-5
            expected = (with_step[0] - with_step[1]) / 2e-5
            assert float(gradients[name].view(-1)[place]) == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert float(gradients["soft_labels"].abs().min()) > 0
    assert gradients["soft_labels"].sum(1).abs().max() < 1e-9  # a softmax does not notice a shift


@pytest.mark.parametrize(
    ("name", "lr", "momentum"), [("images", 5.0, 0.5), ("lr", 1e-3, 0.5), ("soft_labels", 2.0, 0.9)]
)
def test_what_is_learned_moves_by_sgd_with_the_published_momentum(tmp_path, name, lr, momentum):
    matching = fresh(DATM(**SMALL | {"lr_lr": 1e-3}, threshold=math.inf), task(tmp_path))
    check_two_steps(matching, name, lr, momentum)


def everything(matching: AlignedMatching) -> list[Tensor]:
    """Copies of what a step could change: images, rate, labels, their momenta, and the average."""
    state = matching.state()
    momenta = [one["momentum_buffer"] for optimizer in state["optimizers"] for one in optimizer["state"].values()]
    return [tensor.detach().clone() for tensor in (*state["tensors"].values(), *momenta, state["average"])]


def test_the_gate_skips_what_is_above_the_threshold_and_nothing_else(tmp_path):
    def second_step(threshold: float) -> tuple[dict[str, float], list[bool]]:
        """What the second step gave, gated, after a first one that is not; and what it moved."""
        toy = task(tmp_path)
        settings = SMALL | {"lr_lr": 1e-3, "ema_decay": 0.5}
        matching = fresh(DATM(**settings, threshold=math.inf), toy)
        matching.step(0)
        gated = fresh(DATM(**settings, threshold=threshold), task(tmp_path))
        gated.restore(copy.deepcopy(matching.state()))
        gated._task.generator.set_state(toy.generator.get_state())
        before = everything(gated)
        assert len(before) == 7
        gave = {name: float(value) for name, value in gated.step(1).items()}
        return gave, [not torch.equal(*pair) for pair in zip(everything(gated), before, strict=True)]

    ungated, moved = second_step(math.inf)
    assert all(moved)
    assert ungated["skipped"] == 0
    loss = torch.tensor(ungated["loss"])
    assert second_step(float(loss)) == (ungated, moved)
    gave, moved = second_step(float(loss.nextafter(-loss)))
    assert not any(moved)
    assert gave["loss"] == ungated["loss"]
    assert gave["skipped"] == 0.5


def test_a_gate_that_skips_most_iterations_is_named(command):
    done = command("distill", *QUICK, "job.frames=0", "method.distiller.threshold=0.5")
    assert done.code == 0, done.err
    assert "DATM: 6 of 6 iterations changed nothing" in " ".join(done.err.split())


def test_the_average_of_the_images_is_what_is_kept(tmp_path):
    """With a decay of 0.8: 0.8^2 of the first images, 0.8 * 0.2 of those after a step, 0.2 of those after two."""
    matching = fresh(DATM(**SMALL, ema_decay=0.8), task(tmp_path))
    passed = [matching.tensors["images"].detach().clone()]
    for iteration in range(2):
        matching.step(iteration)
        passed.append(matching.tensors["images"].detach().clone())
    assert not torch.equal(passed[1], passed[2])
    expected = 0.64 * passed[0] + 0.16 * passed[1] + 0.2 * passed[2]
    torch.testing.assert_close(matching.result().images, expected)
    last = fresh(DATM(**SMALL), task(tmp_path))
    last.step(0)
    assert last.state()["average"] is None
    assert torch.equal(last.result().images, last.tensors["images"].detach())
    labels = matching.tensors["soft_labels"].detach()
    assert torch.equal(matching.result().soft_labels, labels)


def test_without_a_decay_the_last_images_are_kept(tmp_path):
    matching = fresh(DATM(**SMALL), task(tmp_path))
    for iteration in range(2):
        matching.step(iteration)
    assert torch.equal(matching.result().images, matching.tensors["images"].detach())


def test_students_of_learned_images_and_labels_end_nearer_to_the_expert(tmp_path):
    datm = DATM(**SMALL | {"max_start_epoch": 1, "lr_img": 2.0, "lr_label": 1.0}, rho=0.0)
    distillation = datm.begin(task(tmp_path))
    first = distillation.result().soft_labels.clone()
    losses = [float(distillation.step(iteration)["loss"]) for iteration in range(60)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert (distillation.result().soft_labels - first).abs().max() > 0.01


# --- experts by GSAM ---


def test_gsam_by_hand():
    """loss = x^2 + y^2 / 2 at (1, 2): g = (2, 2), | |w| g | = sqrt(20), so with a radius of 0.5 the ascent is to
    (1, 2) + 0.5 (1 * 2, 4 * 2) / sqrt(20) = (1.223607, 2.894427), where g' = (2.447214, 2.894427). Of g, 0.743622 g'
    lies along g', so (0.180199, -0.152360) across; less 0.3 of it, (2.393154, 2.940135)."""
    w = torch.tensor([1.0, 2.0], dtype=torch.double, requires_grad=True)

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(w[0] ** 2 + w[1] ** 2 / 2, [w]))

    (found,) = gsam([w], gradients, rho=0.5, alpha=0.3)
    assert found.tolist() == pytest.approx([2.393154, 2.940135], abs=1e-6)
    assert w.tolist() == [1.0, 2.0]


def test_an_expert_by_gsam_is_a_training_of_its_own_steps(tmp_path):
    """An own loop on the vector of all parameters, with the seeds, batches and DSA of plain experts; the same augmented
    batch both times."""
    toy = task(tmp_path)
    net = new_network(network, derived_seed(1, "expert"))
    flat, w = Flat(net), vector_of(net)
    torch.manual_seed(derived_seed(1, "expert's training"))
    dsa, expected = DSA(), [w]
    for _ in range(2):
        for part in torch.randperm(24).split(10):
            images, labels = dsa(toy.samples.images[part]), toy.samples.labels[part]

            def gradient(w: Tensor, images: Tensor = images, labels: Tensor = labels) -> Tensor:
                w = w.clone().requires_grad_()
                return torch.autograd.grad(F.cross_entropy(flat(w, images), labels), w)[0]

            g = gradient(w)
            up = gradient(w + 0.2 * w**2 * g / (w * g).norm())
            across = g - F.cosine_similarity(g, up, dim=0) * g.norm() * up / up.norm()
            w = w - 0.1 * (up - 0.3 * across)
        expected.append(w)
    found = Experts(toy, ExpertRecipe("convnet", 2, 10, 0.1, rho=0.2, alpha=0.3), 2, last=2)[1]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)
    plain = Experts(toy, ExpertRecipe("convnet", 2, 10, 0.1), 2, last=2)[1]
    assert torch.equal(plain[0], found[0])
    assert not torch.allclose(plain[2], found[2], atol=1e-4)


def test_plain_experts_are_shared_with_mtt(tmp_path):
    """What is not GSAM's has the key that it had before there was any."""
    assert set(ExpertRecipe("convnet").effective()) == {"epochs", "batch_size", "lr", "mirror"}

    def kept() -> int:
        return len(list(tmp_path.rglob("*.safetensors")))

    MTT(**EXPERTS, max_start_epoch=2).begin(task(tmp_path))
    assert kept() == 3
    DATM(**SMALL, rho=0.0).begin(task(tmp_path))
    assert kept() == 3
    DATM(**SMALL, rho=0.01).begin(task(tmp_path))
    assert kept() == 6
    DATM(**SMALL, rho=0.01, alpha=0.2).begin(task(tmp_path))
    assert kept() == 9


def test_a_rehearsal_makes_no_experts(tmp_path):
    of_experts, iterations = DATM(**SMALL, iterations=7).rehearse(task(tmp_path))
    assert (of_experts.steps, iterations.steps) == (12, 7)
    assert not list(tmp_path.rglob("*.safetensors"))


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"min_start_epoch": 10},
            "min_start_epoch=10, initial_max_start_epoch=10 and max_start_epoch=20 leave no epoch to start from: "
            "the first must be below the second",
        ),
        ({"max_start_epoch": 5}, "initial_max_start_epoch=10 and max_start_epoch=5 leave no epoch to start from"),
        ({"min_start_epoch": -1}, "method.distiller.min_start_epoch is -1, expected 0 or more"),
        ({"ema_decay": 1.0}, "method.distiller.ema_decay is 1.0, expected a number from 0 to below 1"),
        ({"init": "noise"}, "method.distiller.init is 'noise', expected one of correct, real"),
        ({"train_epochs": 20}, "train the experts for 21 epochs or more"),
        ({"threshold": 0}, "method.distiller.threshold is 0, expected a number above 0"),
        ({"rho": -0.1}, "method.distiller.rho is -0.1, expected 0 or more"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        DATM(**settings)


def test_a_bound_that_does_not_grow():
    assert DATM(initial_max_start_epoch=None, max_start_epoch=4, min_start_epoch=3).first_bound == 4


# --- the command ---


def test_one_command_distils_and_evaluates(command, tmp_path):
    outcome = command("run", *QUICK, *QUICK_EVALUATION, "method.teachers=[mlp]")
    assert outcome.code == 0, outcome.err
    assert "trained 2 experts (mlp on digits, 2 epochs each) in" in outcome.err
    tensors, metadata = load_file(tmp_path / FILE), read_metadata(tmp_path / FILE)
    assert tensors["images"].shape == (10, 1, 8, 8)
    assert tensors["soft_labels"].shape == (10, 10)
    assert (tensors["soft_labels"] < 0).any()
    assert (tensors["soft_labels"].argmax(1) == torch.arange(10)).float().mean() > 0.5
    assert 0 < float(tensors["lr"]) != pytest.approx(0.01, abs=1e-9)
    assert (metadata["soft_labels"], metadata["space"]) == ("logits", "zca")
    assert metadata["distiller"]["rho"] == 0.01
    (result,) = results(tmp_path)
    assert result["arms"]["syn_any"]["lr"] == [pytest.approx(float(tensors["lr"]))]
    assert set(result["scores"]) >= {"ior", "hlr", "ddrs"}


def test_a_stopped_one_goes_on_to_the_same_images_and_labels(command, tmp_path):
    """With an average and a gate that is passed now and then, both of which have to go on too."""
    arguments = (*QUICK, "job.frames=0", "hydra.run.dir=run", "method.distiller.ema_decay=0.7", GATE)
    assert command("distill", *arguments).code == 0
    whole, rows = (tmp_path / FILE).read_bytes(), (tmp_path / "run/iterations.csv").read_text()
    skipped = [float(row["skipped"]) for row in csv.DictReader(rows.splitlines())]
    assert len(skipped) == 6
    assert 0 < skipped[-1] < 1
    (tmp_path / FILE).unlink()
    stopped = command("distill", *arguments, "job.stop_at=3")
    assert stopped.code == 0, stopped.err
    assert not (tmp_path / FILE).exists()
    resumed = command("distill", *arguments)
    assert "going on at iteration 3" in resumed.err
    assert (tmp_path / FILE).read_bytes() == whole
    assert (tmp_path / "run/iterations.csv").read_text() == rows
