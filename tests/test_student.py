"""How a student is trained: schedules, optimizers, seeds, teachers, mixed labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddrank import engine
from ddrank.augment import CutMix, MixUp
from ddrank.criteria import KL, CrossEntropy, SoftCrossEntropy
from ddrank.data import Samples
from ddrank.student import Student, Training, accuracy_on, derived_seed, new_network, train
from ddrank.teacher import Teachers

MACHINE = engine.Engine("cpu", "32-true", 1)


def recipe(**changes) -> Training:
    values = {
        "epochs": 4,
        "batch_size": 4,
        "optimizer": "sgd",
        "momentum": 0.9,
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
        "schedule": "step",
        "step_size": 2,
        "gamma": 0.1,
        "cosine_span": 1.0,
    }
    return Training(**(values | changes))


def samples(count: int = 10, classes: int = 3, seed: int = 0, soft: bool = False) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 4, 4, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    return Samples(images, labels, torch.randn(count, classes, generator=generator) if soft else None)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def fitted(data: Samples, seed: int = 0, criterion=None, augmentations=(), lr: float = 0.1, **changes) -> Student:
    return train(
        new_network(linear, seed),
        data,
        training=recipe(**{name: value for name, value in changes.items() if name in Training.__dataclass_fields__}),
        criterion=criterion or CrossEntropy(),
        augmentations=list(augmentations),
        lr=lr,
        seed=seed,
        engine=MACHINE,
        num_classes=3,
        **{name: value for name, value in changes.items() if name not in Training.__dataclass_fields__},
    )


def weights(student: Student) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in student.network.state_dict().values()])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1]),
        ({"schedule": "step"}, [1, 1, 0.1, 0.1]),
        ({"schedule": "cosine"}, [0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]),
        # the ddranking package's cosine: it ends at half the rate
        ({"schedule": "cosine", "cosine_span": 0.5}, [0.5 * (1 + math.cos(math.pi * epoch / 8)) for epoch in range(4)]),
    ],
)
def test_schedules_step_once_an_epoch(changes, expected):
    student = Student(linear(), CrossEntropy(), recipe(**changes), 0.2, 3)
    plan = student.configure_optimizers()
    assert plan["lr_scheduler"]["interval"] == "epoch"
    rates = []
    for _ in range(4):
        rates.append(plan["optimizer"].param_groups[0]["lr"])
        plan["optimizer"].step()
        plan["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([0.2 * factor for factor in expected])


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.999), "weight_decay": 0.01}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.999), "weight_decay": 0.01}),
    ],
)
def test_a_whole_training_is_the_plain_loop(name, kind, settings):
    """One batch of all samples, so that no order matters: four epochs are four steps of torch's own optimizer."""
    data = samples()
    student = fitted(data, optimizer=name, batch_size=100, schedule="step")
    network = new_network(linear, 0)
    optimizer = kind(network.parameters(), 0.1, **settings)
    losses = []
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = 0.1 if epoch < 2 else 0.01
        loss = F.cross_entropy(network(data.images), data.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(weights(student), torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert [float(loss) for loss in student.losses] == pytest.approx(losses, rel=1e-5)


def test_numbers_follow_from_the_seed_alone():
    first = weights(fitted(samples()))
    torch.rand(17)  # whatever ran before
    assert torch.equal(weights(fitted(samples())), first)
    assert not torch.equal(weights(fitted(samples(), seed=1)), first)
    before = torch.get_rng_state()
    fitted(samples())
    assert torch.equal(torch.get_rng_state(), before)  # and nothing is left behind
    assert derived_seed(0, "training") != derived_seed(0, "initialisation") != derived_seed(1, "initialisation")


def test_accuracy_is_exact_over_all_test_images():
    data = samples(count=1237)
    student = fitted(data, epochs=1)
    with torch.no_grad():
        right = (student.network(data.images).argmax(1) == data.labels).sum().item()
    assert accuracy_on(student, data, MACHINE) == right / 1237


def test_tests_on_the_way_come_every_few_epochs():
    student = fitted(samples(), epochs=7, tests=samples(seed=1), test_every=3)
    assert [epoch for epoch, _ in student.tests] == [3, 6]


def test_stored_soft_labels_are_what_the_student_learns():
    data = samples(soft=True)
    student = fitted(data, criterion=KL(temperature=2.0), epochs=1, batch_size=100)
    start = new_network(linear, 0)
    expected = F.kl_div(
        F.log_softmax(start(data.images) / 2, 1), F.softmax(data.soft / 2, 1), reduction="batchmean"
    ).item()
    assert float(student.losses[0]) == pytest.approx(expected, rel=1e-5)


def test_teachers_label_the_view_that_the_student_sees():
    """With a teacher that copies the student the loss is the teacher's entropy on the augmented view."""
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = new_network(linear, 5)

        def forward(self, images):
            seen.append(images.detach().clone())
            return self.inner(images)

    teachers = Teachers((Watched().eval(),), "watched")
    views = []

    class Spy(nn.Module):
        def forward(self, images):
            views.append(images.detach().clone())
            return images

    network = nn.Sequential(Spy(), linear())
    data = samples()
    train(
        network,
        data,
        training=recipe(epochs=2),
        criterion=SoftCrossEntropy(),
        augmentations=[MixUp(1.0)],
        lr=0.1,
        seed=0,
        engine=MACHINE,
        num_classes=3,
        teachers=teachers,
    )
    assert len(seen) == len(views) == 6
    assert all(torch.equal(one, other) for one, other in zip(seen, views, strict=True))
    originals = {tuple(image.flatten().tolist()) for image in data.images}
    assert any(tuple(image.flatten().tolist()) not in originals for batch in seen for image in batch)


def test_several_teachers_average_their_logits():
    networks = tuple(new_network(linear, seed).eval() for seed in (1, 2, 3))
    images = samples().images
    expected = torch.stack([network(images) for network in networks]).mean(0)
    torch.testing.assert_close(Teachers(networks, "three")(images), expected.detach())
    torch.testing.assert_close(Teachers(networks, "three").label(images, batch_size=3), expected.detach())


@pytest.mark.parametrize("mix", [MixUp(1.0), CutMix(1.0)])
@pytest.mark.parametrize("soft", [False, True])
def test_mixing_mixes_fixed_labels_too(mix, soft):
    """The loss of a mixed batch is the loss against the mixed target, worked out from what the callback left."""
    data = samples(soft=soft)
    caught = {}

    class Catch(type(mix)):
        def on_train_batch_start(self, trainer, student, batch, index):
            super().on_train_batch_start(trainer, student, batch, index)
            caught.update(batch)

    catch = Catch(1.0)
    criterion = SoftCrossEntropy() if soft else CrossEntropy()
    student = fitted(data, criterion=criterion, augmentations=[catch], epochs=1, batch_size=100)
    own = F.softmax(caught["soft_label"], 1) if soft else F.one_hot(caught["label"], 3).float()
    target = caught["lam"] * own + (1 - caught["lam"]) * own[caught["partner"]]
    logits = new_network(linear, 0)(caught["image"])
    expected = -(target * F.log_softmax(logits, 1)).sum(1).mean()
    assert float(student.losses[0]) == pytest.approx(expected.item(), rel=1e-5)
