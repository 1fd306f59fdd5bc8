"""DC and DSA: the distance and its gradient against hand-worked numbers, the batched step against a plain loop."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from ddrank import augment
from ddrank.augment.dsa import apply_dsa
from ddrank.data import RealDataset, Samples, Space
from ddrank.distill import gradient
from ddrank.distill.base import Task
from ddrank.distill.classwise import class_gradients, matched, works_together
from ddrank.distill.gradient import DC, DSA, GradientMatching, distance
from ddrank.engine import Engine
from ddrank.models import ConvNet
from ddrank.progress import Display
from ddrank.store import Store

CLASSES, SIZE = 3, 8


def convnet(norm: str = "instance", act: str = "relu") -> nn.Module:
    return ConvNet(depth=2, width=8, num_classes=CLASSES, channels=1, size=SIZE, norm=norm, act=act)


def task(ipc: int = 2, per_class: int = 6, network: Callable[[], nn.Module] = convnet) -> Task:
    torch.manual_seed(0)
    labels = torch.arange(CLASSES).repeat(per_class)
    noise = torch.randn(len(labels), 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    samples = Samples(noise + labels.view(-1, 1, 1, 1), labels)
    return Task(
        real=RealDataset("toy", samples, samples, ("a", "b", "c"), (0.0,), (1.0,), 0.1, 5000),
        samples=samples,
        space=Space("normalized", (0.0,), (1.0,)),
        ipc=ipc,
        generator=torch.Generator().manual_seed(0),
        network=lambda name: network(),
        trained=lambda name: network(),
        training=lambda name: [],
        architecture=lambda name: {"name": name},
        store=Store(tempfile.mkdtemp()),
        engine=Engine(),
        display=Display(),
    )


def mean_loss(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(network(images), labels)


def plain_gradients(network: nn.Module, images: Tensor, label: int, graph: bool = False) -> list[Tensor]:
    """The gradients that are matched, of one class, as the paper's own loop takes them."""
    loss = F.cross_entropy(network(images), torch.full((len(images),), label))
    gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=graph)
    return [one for one in gradients if one.dim() > 1]


def plain_distance(real: list[Tensor], synthetic: list[Tensor]) -> Tensor:
    """Row by row."""
    total = torch.zeros((), dtype=real[0].dtype)
    for a, b in zip(real, synthetic, strict=True):
        for row, other in zip(a, b, strict=True):
            row, other = row.flatten(), other.flatten()
            total = total + 1 - (row @ other) / (row.norm() * other.norm() + 1e-6)
    return total


def test_distance_by_hand():
    """Rows (3, 4) and (4, 3): cosine 24/25. Rows (1, 0) and (-2, 0): -1. A row of zeros has no direction: 1. Rows and
    tensors are summed; a row's length does not count but for the 1e-6."""
    linear = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]]), torch.tensor([[[4.0, 3.0], [-2.0, 0.0]]])
    kernel = torch.zeros(1, 1, 1, 2, 2), torch.ones(1, 1, 1, 2, 2)
    both = distance([linear[0], kernel[0]], [linear[1], kernel[1]])
    assert float(both) == pytest.approx(1 / 25 + 2 + 1, abs=1e-5)
    assert float(distance([linear[0]], [1000 * linear[1]])) == pytest.approx(1 / 25 + 2, abs=1e-5)
    tiny = torch.full((1, 1, 1), 1e-3, dtype=torch.float64)
    assert float(distance([tiny], [tiny])) == pytest.approx(0.5)  # 1 - 1e-6 / (1e-6 + 1e-6)


def test_the_loss_of_a_tiny_network_by_hand():
    """Two inputs, two classes, weights 0: probabilities are 1/2, so the weights' gradient for class 0 is (-x/2, x/2).
    Real (2, 0) and synthetic (1, 1): both rows have cosine 1/sqrt(2). The bias has one dimension and does not count."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    assert list(matched(network)) == ["1.weight"]
    label = torch.tensor([0])
    real, synthetic = torch.tensor([2.0, 0.0]).view(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 2)
    (wanted,), (found,) = (class_gradients(network, images, label, mean_loss) for images in (real, synthetic))
    assert wanted.tolist() == [[[-1.0, 0.0], [1.0, 0.0]]]
    assert found.tolist() == [[[-0.5, -0.5], [0.5, 0.5]]]
    assert float(distance([wanted], [found])) == pytest.approx(2 * (1 - 2**-0.5), abs=1e-5)


def test_biases_and_norms_are_left_out():
    network = ConvNet(num_classes=10, channels=1, size=28)
    assert sum(len(parameter) for parameter in matched(network).values()) == 3 * 128 + 10
    assert "features.1.weight" in matched(convnet(norm="layer"))  # (C, H, W): one row for each channel


@pytest.mark.parametrize("norm", ["instance", "layer", "none"])
def test_class_gradients_are_those_of_a_loop_over_classes(norm):
    torch.manual_seed(1)
    together = works_together(convnet(norm), (1, SIZE, SIZE))
    network, images = convnet(norm).double(), torch.randn(CLASSES, 4, 1, SIZE, SIZE, dtype=torch.float64)
    images.requires_grad_()
    found = class_gradients(network, images, torch.arange(CLASSES), mean_loss, together)
    loop = [plain_gradients(network, images[label], label, graph=True) for label in range(CLASSES)]
    for label in range(CLASSES):
        torch.testing.assert_close([tensor[label] for tensor in found], loop[label])
    real = [plain_gradients(network, torch.randn_like(images[0]), label) for label in range(CLASSES)]
    batched = distance([torch.stack(parts) for parts in zip(*real, strict=True)], found)
    plain = sum(plain_distance(*pair) for pair in zip(real, loop, strict=True))
    torch.testing.assert_close(batched, plain)
    torch.testing.assert_close(torch.autograd.grad(batched, images), torch.autograd.grad(plain, images))


def test_networks_that_cannot_take_the_classes_together_are_found_out():
    class Counting(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images * float(images.sum() > 1e9) + images)  # data as a number: not under vmap

    assert works_together(convnet("instance"), (1, SIZE, SIZE))
    assert works_together(convnet("batch").eval(), (1, SIZE, SIZE))
    assert not works_together(Counting(nn.Flatten(), nn.Linear(SIZE * SIZE, CLASSES)), (1, SIZE, SIZE))


def test_the_gradient_of_the_loss_is_that_of_finite_differences():
    torch.manual_seed(2)
    network = convnet(act="sigmoid").double()
    images = torch.randn(2, 2, 1, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2])
    real = class_gradients(network, torch.randn_like(images), labels, mean_loss)

    def loss(images: Tensor) -> Tensor:
        return distance([part.detach() for part in real], class_gradients(network, images, labels, mean_loss))

    assert torch.autograd.gradcheck(loss, images, eps=1e-6, atol=1e-6, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("together", [1, 4, 128])
@pytest.mark.parametrize("norm", ["instance", "batch", "layer"])
def test_a_step_is_the_papers_step(norm, together, monkeypatch):
    """All real images of each class, so that nothing is drawn: SGD with momentum on the sum over classes, however many
    of them go through the network together."""
    monkeypatch.setattr(gradient, "_TOGETHER", together)
    toy = task(network=lambda: convnet(norm))
    matching = DC(outer=1, inner=1, lr=0.3, momentum=0.5).begin(toy)
    network = matching._network
    images = matching.tensors["images"].detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([images], 0.3, momentum=0.5)
    for _ in range(2):
        matching.new_network()
        loss = matching.match()
        total = torch.zeros(())
        for label in range(CLASSES):  # batch normalisation is frozen since `match`
            real = plain_gradients(network, toy.samples.images[toy.members(label)], label)
            own = images[2 * label : 2 * label + 2]
            total = total + plain_distance(real, plain_gradients(network, own, label, graph=True))
        optimizer.zero_grad()
        images.grad = torch.autograd.grad(total, images)[0]
        optimizer.step()
        torch.testing.assert_close(loss, total.detach(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(matching.tensors["images"].detach(), images.detach(), atol=1e-4, rtol=1e-3)


def test_batch_normalisation_keeps_the_statistics_of_real_images():
    """Six images of each class, all of them taken: with a momentum of 0.1, a tenth of their mean joins nine tenths of
    0, and a tenth of their variance nine tenths of 1. Neither matching nor distilled images, which are noise, move it.
    """
    toy = task(network=lambda: convnet("batch"))
    matching = DC(outer=1, inner=1).begin(toy)
    matching.new_network()
    matching.match()
    first, norm, *_ = matching._network.features
    channels = first(toy.samples.images).detach().transpose(0, 1).flatten(1)  # (8, pixels of all images)
    torch.testing.assert_close(norm.running_mean, 0.1 * channels.mean(1))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * channels.var(1))


@pytest.mark.parametrize("method", [DC(outer=1, inner=1, init="real"), DSA(outer=1, inner=1)])
def test_the_loss_is_zero_where_synthetic_equals_real(method):
    """All images of every class as their own distillation; with DSA, because both undergo the same."""
    toy = task(ipc=6)
    loss = float(method.begin(toy).match())
    rows = sum(len(parameter) for parameter in matched(convnet()).values())
    assert 0 <= loss < 0.01 * CLASSES * rows


def test_siamese_parameters_are_shared_and_each_class_has_its_own(monkeypatch):
    """What is applied to the real images of a class is applied to all its synthetic ones; anew at every step."""
    applied = []

    def recorded(images: Tensor, params: augment.DSAParams) -> Tensor:
        applied.append((len(images), params))
        return apply_dsa(images, params)

    monkeypatch.setattr(gradient, "apply_dsa", recorded)
    matching = DSA(outer=1, inner=1, real_batch=5).begin(task())
    matching.match()
    matching.match()
    assert [count for count, _ in applied] == 2 * [2 * CLASSES, 5, 5, 5]

    def row(params: augment.DSAParams, index: int) -> list:
        return [getattr(params, name)[index].tolist() for name in augment.DSAParams.__dataclass_fields__]

    seen = []
    for step in range(2):
        (_, synthetic), *real = applied[4 * step : 4 * step + 4]
        for label, (_, params) in enumerate(real):
            assert len(params) == 1
            assert row(params, 0) == row(synthetic, 2 * label) == row(synthetic, 2 * label + 1)
            seen.append(row(params, 0))
    assert all(seen[one] != seen[other] for one in range(6) for other in range(one))


def test_gradients_reach_the_images_through_the_augmentation():
    """A step of DSA against the loop that augments both sides by hand."""
    toy, dsa = task(), augment.DSA()
    matching = DSA(outer=1, inner=1, lr=1.0, momentum=0.0).begin(toy)
    network, before = matching._network, matching.tensors["images"].detach().clone().requires_grad_()
    drawing = torch.Generator()
    drawing.set_state(toy.generator.get_state())
    matching.match()
    shared, total = dsa.draw_shared((SIZE, SIZE), groups=CLASSES, generator=drawing), torch.zeros(())
    orders = [torch.randperm(6, generator=drawing) for _ in range(CLASSES)]
    for label, order in enumerate(orders):
        real = apply_dsa(toy.samples.images[toy.members(label)[order]], shared[[label]])
        synthetic = apply_dsa(before[2 * label : 2 * label + 2], shared[[label]])
        total = total + plain_distance(
            plain_gradients(network, real, label), plain_gradients(network, synthetic, label, True)
        )
    expected = before - torch.autograd.grad(total, before)[0]
    torch.testing.assert_close(matching.tensors["images"].detach(), expected.detach(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("method", "dsa"), [(DC, None), (DSA, augment.DSA())])
def test_networks_are_trained_on_the_images_which_stay_as_they_are(method, dsa):
    """One epoch in one batch is one step of SGD, by hand; the images have no gradient from it. DSA augments the batch,
    each image with parameters of its own; DC trains on the images alone."""
    toy = task()
    matching = method(outer=2, inner=1, network_lr=0.1).begin(toy)
    network, images = matching._network, matching.tensors["images"]
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    start = images.detach().clone()
    torch.manual_seed(1)
    order, drawing = torch.randperm(2 * CLASSES), torch.Generator()
    drawing.set_state(toy.generator.get_state())
    batch = start[order] if dsa is None else apply_dsa(start[order], dsa.draw(len(order), (SIZE, SIZE), drawing))
    loss = F.cross_entropy(network(batch), toy.labels[order])
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    torch.manual_seed(1)
    matching.train(1)
    for (name, parameter), step in zip(network.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * step, atol=1e-6, rtol=1e-4)
    assert images.grad is None
    assert torch.equal(images, start)


def test_the_loops_are_those_of_the_table(monkeypatch):
    """At IPC 1 no network is ever trained; at IPC 10 there are 50 epochs between any two of 10 matching steps."""
    calls = []
    monkeypatch.setattr(GradientMatching, "match", lambda self: calls.append("match") or torch.zeros(()))
    monkeypatch.setattr(GradientMatching, "train", lambda self, epochs: calls.append(epochs))
    monkeypatch.setattr(GradientMatching, "new_network", lambda self: calls.append("new"))
    for ipc, expected in ((1, ["new", "match"]), (10, ["new", "match", *9 * [50, "match"]])):
        calls.clear()
        DC(init="noise").begin(task(ipc=ipc)).step(0)
        assert calls == expected
    assert DC().loops(50) == (50, 10)
    assert DC(outer=3).loops(20) == (3, 25)
    assert DC(outer=3, inner=7).loops(5) == (3, 7)


def test_every_iteration_has_a_new_network():
    matching = DC(outer=1, inner=1).begin(task())
    seen = []
    for iteration in range(2):
        matching.step(iteration)
        seen.append(matching._network.classifier.weight.detach().clone())
    assert not torch.equal(*seen)


def test_matching_brings_the_gradients_nearer():
    """On networks that the distillation has not seen, the distance falls well below where it began."""

    def far(images: Tensor) -> float:
        toy, total = task(), 0.0
        for seed in range(3):
            torch.manual_seed(100 + seed)
            network = convnet()
            for label in range(CLASSES):
                real = plain_gradients(network, toy.samples.images[toy.members(label)], label)
                total += float(plain_distance(real, plain_gradients(network, images[2 * label : 2 * label + 2], label)))
        return total

    noise = DC(iterations=1, lr=1e-12, outer=1, inner=1).distill(task()).images
    made = DC(iterations=60, lr=1.0, outer=1, inner=1).distill(task()).images
    assert far(made) < 0.75 * far(noise)


QUICK = ("method.distiller.model=mlp", "method.distiller.real_batch=8", "job.frames=0", "engine.threads=1")


@pytest.mark.parametrize(("method", "ipc"), [("dc", 1), ("dsa", 2)])
def test_a_stopped_distillation_goes_on_to_the_same_images(command, tmp_path, method, ipc):
    loops = ("method.distiller.iterations=5", "method.distiller.outer=2", "method.distiller.inner=2")
    arguments = (f"method={method}", f"ipc={ipc}", "dataset=digits", *QUICK, *loops)
    path = tmp_path / f"distilled/digits/{method}/ipc{ipc}/distilled.safetensors"
    outcome = command("distill", *arguments)
    assert outcome.code == 0, outcome.err
    assert "matching steps" in outcome.err
    assert "epochs of networks" in outcome.err
    whole = path.read_bytes()
    path.unlink()
    assert command("distill", *arguments, "job.stop_at=3").code == 0
    assert not path.exists()
    assert "going on at iteration 3" in command("distill", *arguments).err
    assert path.read_bytes() == whole
    with safe_open(path, framework="pt") as file:
        assert tuple(file.get_tensor("images").shape) == (10 * ipc, 1, 8, 8)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("method.distiller.init=mixed", "method.distiller.init"),
        ("method.distiller.lr=0", "method.distiller.lr"),
        ("method.distiller.inner=0", "method.distiller.inner"),
        ("method.distiller.momentum=-0.5", "method.distiller.momentum"),
        ("method.distiller.innner=5", "innner"),
        ("ipc=7 method.distiller.outer=null", "method.distiller.outer and method.distiller.inner"),
    ],
)
def test_bad_settings_are_one_sentence(command, setting, said):
    outcome = command("distill", "method=dc", "dataset=digits", *setting.split(), "method.distiller.iterations=1")
    assert said in outcome.sentence()
