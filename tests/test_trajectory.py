"""MTT: its loss and the gradient of its unroll against hand-worked and finite-difference values, its experts against a
training loop of their own, and the command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from ddrank.augment import DSA
from ddrank.augment.dsa import apply_dsa
from ddrank.data import RealDataset, Samples, Space
from ddrank.distill.base import Task
from ddrank.distill.experts import ExpertRecipe, Experts
from ddrank.distill.trajectory import MTT, Matching, step_indices, trajectory_loss
from ddrank.distill.unroll import Flat, Unroll, vector_of
from ddrank.engine import Engine
from ddrank.errors import InputError, StoreWarning
from ddrank.models import ConvNet
from ddrank.progress import Display
from ddrank.store import Store
from ddrank.student import derived_seed, new_network

QUICK = (  # two experts of two epochs and a student of two steps, of an MLP on digits
    "method=mtt",
    "method.distiller.model=mlp",
    "method.distiller.experts=2",
    "method.distiller.train_epochs=2",
    "method.distiller.expert_epochs=1",
    "method.distiller.max_start_epoch=2",
    "method.distiller.syn_steps=2",
    "method.distiller.lr_img=10",
    "method.distiller.lr_lr=1e-6",
    "method.distiller.iterations=6",
    "engine.threads=1",
    "job.frames=0",
)
FILE = "distilled/digits/mtt/ipc1/distilled.safetensors"


def network() -> ConvNet:
    return ConvNet(depth=1, width=3, num_classes=3, channels=1, size=4)


def task(folder: Path, ipc: int = 2, seed: int = 0) -> Task:
    """Three classes of eight noisy images of 4 x 4."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat(8)
    samples = Samples(torch.randn(24, 1, 4, 4, generator=generator) + labels.view(-1, 1, 1, 1), labels)
    return Task(
        real=RealDataset("toy", samples, samples, ("a", "b", "c"), (0.0,), (1.0,), 0.1, 5000),
        samples=samples,
        space=Space("normalized", (0.0,), (1.0,)),
        ipc=ipc,
        generator=torch.Generator().manual_seed(seed),
        network=lambda name: network(),
        trained=lambda name: network(),
        training=lambda name: [],
        architecture=lambda name: {"name": name, "width": 3},
        store=Store(folder),
        engine=Engine(),
        display=Display(),
    )


def made_by(place: Path) -> tuple[bytes, float]:
    with safe_open(place, framework="pt") as file:
        return file.get_tensor("images").numpy().tobytes(), float(file.get_tensor("lr"))


# --- the loss and the unroll ---


def test_the_loss_by_hand():
    """|(1, 2) - (1, 4)|^2 = 4, |(0, 0) - (1, 4)|^2 = 17."""
    assert float(trajectory_loss(*torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 4.0]]))) == pytest.approx(4 / 17)


def test_the_unroll_by_hand():
    """loss = x theta^2 / 2, so theta <- (1 - lr x) theta: 3 * (1 - 0.1 * 2) * (1 - 0.1 * 4) = 1.44."""
    start = torch.tensor([3.0], dtype=torch.double)
    lr = torch.tensor(0.1, dtype=torch.double, requires_grad=True)
    x = torch.tensor([2.0, 4.0], dtype=torch.double, requires_grad=True)
    end = Unroll(lambda theta, x: (x * theta.square() / 2).sum(), 1 << 20)(start, lr, [(x[0],), (x[1],)])
    assert end.tolist() == pytest.approx([1.44])
    end.sum().backward()
    assert x.grad.tolist() == pytest.approx([3 * -0.1 * 0.6, 3 * 0.8 * -0.1])
    assert float(lr.grad) == pytest.approx(3 * (-2 * 0.6 - 4 * 0.8))


def problem(hard: bool = True) -> tuple[Flat, Tensor, Tensor, Tensor, Tensor]:
    """A tiny network in double precision: network, start, target, images, labels."""
    torch.manual_seed(0)
    net = network().double()
    start = vector_of(net)
    labels = torch.tensor([0, 1, 2, 1]) if hard else torch.randn(4, 3, dtype=torch.double).requires_grad_()
    images = torch.randn(4, 1, 4, 4, dtype=torch.double).requires_grad_()
    return Flat(net), start, start + 0.1 * torch.randn_like(start), images, labels


def cross_entropy(net: Flat):
    return lambda theta, images, labels: F.cross_entropy(net(theta, images), labels)


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_the_gradient_of_a_whole_student_is_that_of_finite_differences(memory):
    """Of the loss in pixels and rate, augmentation, sub-sampling and three steps included."""
    net, start, target, images, labels = problem()
    dsa, index = DSA(), torch.tensor([[0, 1, 3], [2, 0, 1], [3, 2, 1]])
    draws = [dsa.draw(3, (4, 4), torch.Generator().manual_seed(seed)) for seed in range(3)]
    unroll = Unroll(cross_entropy(net), memory)

    def loss(images: Tensor, lr: Tensor) -> Tensor:
        batches = [(apply_dsa(images[part], params), labels[part]) for part, params in zip(index, draws, strict=True)]
        return trajectory_loss(unroll(start, lr, batches), start, target)

    assert torch.autograd.gradcheck(loss, (images, torch.tensor(0.3, dtype=torch.double, requires_grad=True)))


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_the_gradient_in_soft_labels_and_start_is_that_of_finite_differences(memory):
    net, start, target, images, logits = problem(hard=False)
    unroll = Unroll(cross_entropy(net), memory)

    def loss(images: Tensor, logits: Tensor, lr: Tensor, start: Tensor) -> Tensor:
        labels = logits.softmax(1)
        return trajectory_loss(unroll(start, lr, [(images, labels), (images[:2], labels[:2])]), start, target)

    lr = torch.tensor(0.3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (images, logits, lr, start.requires_grad_()))


def test_an_unroll_ends_where_sgd_does():
    net, start, _, images, labels = problem()
    end = Unroll(cross_entropy(net), 1 << 20)(start, torch.tensor(0.2, dtype=torch.double), [(images, labels)] * 4)
    torch.manual_seed(0)
    trained = network().double()
    optimizer = torch.optim.SGD(trained.parameters(), 0.2)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(trained(images.detach()), labels).backward()
        optimizer.step()
    torch.testing.assert_close(end, vector_of(trained))


@pytest.mark.parametrize(("steps", "calls"), [(0, 10), (2, 8), (5, 5)])
def test_a_bounded_unroll_is_the_plain_one(steps, calls):
    """Against autograd through the whole loop; with the memory of some steps the others are computed twice."""
    net, start, target, images, labels = problem()
    lr = torch.tensor(0.3, dtype=torch.double, requires_grad=True)
    theta = start.requires_grad_()
    for _ in range(5):
        loss = F.cross_entropy(net(theta, images), labels)
        theta = theta - lr * torch.autograd.grad(loss, theta, create_graph=True)[0]
    expected = torch.autograd.grad(trajectory_loss(theta, start.detach(), target), (images, lr))
    called = []

    def counted(*arguments: Tensor) -> Tensor:
        called.append(1)
        return cross_entropy(net)(*arguments)

    unroll = Unroll(counted, memory=1 << 30)
    unroll(start.detach(), lr, [(images, labels)])
    one = Unroll(counted, memory=steps * next(iter(unroll._bytes.values())))
    one(start.detach(), lr, [(images, labels)])  # learns what a step takes
    called.clear()
    end = one(start.detach(), lr, [(images, labels)] * 5)
    found = torch.autograd.grad(trajectory_loss(end, start.detach(), target), (images, lr))
    assert len(called) == calls
    for one_found, one_expected in zip(found, expected, strict=True):
        torch.testing.assert_close(one_found, one_expected)


@pytest.mark.parametrize(("count", "size", "sizes"), [(6, None, [6]), (6, 2, [2, 2, 2]), (7, 3, [1, 3, 3])])
def test_sub_sampling_takes_every_image_once_a_pass(tmp_path, count, size, sizes):
    drawn = step_indices(count, size, 3 * len(sizes) - 1, task(tmp_path))
    assert [len(part) for part in drawn] == (3 * sizes)[:-1]
    first, second = (torch.cat(drawn[k * len(sizes) : (k + 1) * len(sizes)]) for k in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(count))
    assert first.tolist() != second.tolist()


# --- the experts ---

RECIPE = ExpertRecipe("convnet", epochs=3, batch_size=10, lr=0.1)


def test_an_expert_is_a_training_by_plain_sgd(tmp_path):
    """An own loop: its seeds, batches of 10, 10 and 4, DSA, theta - 0.1 g, a snapshot after every epoch."""
    toy = task(tmp_path)
    net = new_network(network, derived_seed(1, "expert"))
    torch.manual_seed(derived_seed(1, "expert's training"))
    dsa, expected = DSA(), [vector_of(net)]
    for _ in range(3):
        for part in torch.randperm(24).split(10):
            loss = F.cross_entropy(net(dsa(toy.samples.images[part])), toy.samples.labels[part])
            with torch.no_grad():
                for parameter, gradient in zip(
                    net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True
                ):
                    parameter -= 0.1 * gradient
        expected.append(vector_of(net))
    found = Experts(toy, RECIPE, 2, last=3)[1]
    torch.testing.assert_close(found, torch.stack(expected))
    assert not torch.equal(found[1], found[2])
    torch.testing.assert_close(Experts(toy, RECIPE, 2, last=2)[1], found[:3])


def test_experts_differ_and_leave_the_random_numbers_alone(tmp_path):
    torch.manual_seed(3)
    experts = Experts(task(tmp_path), RECIPE, 2, last=3)
    before = torch.get_rng_state()
    experts.make()
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(experts[0][0], experts[1][0])
    student = vector_of(new_network(network, 0))  # that of an evaluation's first seed
    assert not any(torch.equal(experts[number][0], student) for number in range(2))


def test_every_expert_has_its_turn_once_a_pass(tmp_path):
    experts = Experts(task(tmp_path), RECIPE, 5, last=3)
    turns = [experts.order(turn, seed=0) for turn in range(15)]
    assert [sorted(turns[k : k + 5]) for k in (0, 5, 10)] == [list(range(5))] * 3
    assert len({tuple(turns[k : k + 5]) for k in (0, 5, 10)}) > 1
    assert turns != [experts.order(turn, seed=1) for turn in range(15)]


def test_a_corrupt_expert_is_made_again(tmp_path):
    first = Experts(task(tmp_path), RECIPE, 1, last=3)[0]
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.warns(StoreWarning, match="corrupt"):
        again = Experts(task(tmp_path), RECIPE, 1, last=3)[0]
    assert torch.equal(first, again)
    assert torch.equal(first, Experts(task(tmp_path), RECIPE, 1, last=3)[0])


def test_a_rehearsal_makes_no_experts_and_counts_those_missing(tmp_path):
    mtt = MTT(iterations=7, experts=3, train_epochs=2, expert_epochs=1, max_start_epoch=2, syn_steps=3)
    of_experts, iterations = mtt.rehearse(task(tmp_path))
    assert (of_experts.steps, iterations.steps) == (6, 7)
    assert min(of_experts.seconds, iterations.seconds) > 0
    assert not list(tmp_path.rglob("*.safetensors"))
    mtt.begin(task(tmp_path))
    (iterations,) = mtt.rehearse(task(tmp_path))
    assert iterations.steps == 7


# --- the distiller ---

SMALL = {"experts": 2, "train_epochs": 4, "train_batch": 8, "train_lr": 0.1, "expert_epochs": 2, "max_start_epoch": 2}


def test_students_of_learned_images_end_nearer_to_the_expert(tmp_path):
    mtt = MTT(**SMALL, iterations=60, syn_steps=4, lr_img=5.0, lr_lr=1e-3, lr_init=0.1)
    distillation = mtt.begin(task(tmp_path))
    losses = [float(distillation.step(iteration)["loss"]) for iteration in range(mtt.iterations)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    made = distillation.result()
    assert made.images.shape == (6, 1, 4, 4)
    assert made.lr == pytest.approx(float(distillation.tensors["lr"].detach()))
    assert made.lr != pytest.approx(0.1, abs=1e-4)


def check_two_steps(matching: Matching, name: str, lr: float, momentum: float) -> None:
    """One of the tensors moves by -lr g, then by -lr (g' + momentum g)."""
    tensor = matching.tensors[name]
    expected, velocity = tensor.detach().clone(), torch.zeros_like(tensor)
    for iteration in range(2):
        matching.step(iteration)
        velocity = momentum * velocity + tensor.grad
        expected -= lr * velocity
        assert bool((tensor.grad != 0).any())
        torch.testing.assert_close(tensor.detach(), expected)


@pytest.mark.parametrize(("name", "lr"), [("images", 5.0), ("lr", 1e-3)])
def test_pixels_and_rate_move_by_sgd_with_the_published_momentum(tmp_path, name, lr):
    mtt = MTT(**SMALL, syn_steps=3, lr_img=5.0, lr_lr=1e-3, lr_init=0.1)
    check_two_steps(mtt.begin(task(tmp_path)), name, lr, momentum=0.5)


def test_it_starts_from_real_images_or_noise(tmp_path):
    toy = task(tmp_path)
    still = {"iterations": 1, "lr_img": 1e-12, "lr_lr": 0.0}
    started = MTT(**SMALL, **still).distill(toy)
    assert all((toy.samples.images == image).flatten(1).all(1).any() for image in started.images)
    assert started.lr == pytest.approx(0.01)
    noise = MTT(**SMALL, **still, init="noise").distill(task(tmp_path, ipc=200)).images
    assert abs(float(noise.mean())) < 0.05


def test_a_rate_that_is_lost_ends_it(tmp_path):
    with pytest.raises(InputError, match=r"learned rate of the students fell to -.*choose a smaller"):
        MTT(**SMALL, iterations=2, lr_lr=1e3, lr_init=1.0).distill(task(tmp_path))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"max_start_epoch": 40, "expert_epochs": 2, "train_epochs": 40},
            "train_epochs is 40, but max_start_epoch=40 and expert_epochs=2 go on to epoch 41: "
            "train the experts for 41 epochs or more",
        ),
        ({"syn_batch": 0}, "method.distiller.syn_batch is 0, expected a number above 0"),
        ({"lr_lr": -1.0}, "method.distiller.lr_lr is -1.0, expected 0 or more"),
        ({"init": "zeros"}, "method.distiller.init is 'zeros', expected one of real, noise"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        MTT(**settings)
    MTT(max_start_epoch=40, expert_epochs=2, train_epochs=41)


# --- the command ---


def test_the_command_trains_experts_once_and_keeps_the_learned_rate(command, tmp_path):
    first = command("distill", *QUICK)
    assert first.code == 0, first.err
    assert "4 epochs of experts of" in first.err
    assert "trained 2 experts (mlp on digits, 2 epochs each) in" in first.err
    _, lr = made_by(tmp_path / FILE)
    assert 0 < lr != pytest.approx(0.01, abs=1e-9)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "store/tensors").rglob("*")}
    second = command("distill", *QUICK, "ipc=2", "seed=1", "method.distiller.syn_batch=7")
    assert second.code == 0, second.err
    assert "expert" not in second.err.replace("expert_", "")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store/tensors").rglob("*")} == kept


def test_a_stopped_one_goes_on_to_the_same_images(command, tmp_path):
    assert command("distill", *QUICK).code == 0
    whole = made_by(tmp_path / FILE)
    (tmp_path / FILE).unlink()
    stopped = command("distill", *QUICK, "job.stop_at=3")
    assert stopped.code == 0, stopped.err
    assert not (tmp_path / FILE).exists()
    resumed = command("distill", *QUICK)
    assert "going on at iteration 3" in resumed.err
    assert made_by(tmp_path / FILE) == whole


def test_it_works_on_whitened_images(command, tmp_path):
    assert command("distill", *QUICK).code == 0
    normalized, _ = made_by(tmp_path / FILE)
    whitened = command("distill", *QUICK, "method.space=zca", "overwrite=true")
    assert whitened.code == 0, whitened.err
    assert "trained 2 experts" in whitened.err  # other images, other experts
    with safe_open(tmp_path / FILE, framework="pt") as file:
        assert file.metadata()["space"] == '"zca"'
        assert file.get_tensor("images").numpy().tobytes() != normalized


def test_the_command_refuses_experts_that_are_too_short(command):
    outcome = command("distill", *QUICK, "method.distiller.expert_epochs=2")
    assert "train the experts for 3 epochs or more" in outcome.sentence()
