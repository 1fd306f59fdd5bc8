"""The engine: what is compiled, that it computes the same, and what else it says and sets."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import torch
from conftest import QUICK, QUICK_SELECTION, results
from torch import nn

from ddrank import engine, forward
from ddrank.criteria import CrossEntropy
from ddrank.data import Samples
from ddrank.errors import EngineWarning
from ddrank.forward import Forward, operations
from ddrank.models import ConvNet, ResNet
from ddrank.student import Training, accuracy_on, new_network, train

SGD = Training(100, 10, "sgd", 0.9, (0.9, 0.999), 0.0005, "step", 50, 0.1, 1.0)


def digits_like(count: int = 10, seed: int = 0, classes: int = 10) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return Samples(torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % classes)


def convnet() -> nn.Module:
    return ConvNet(num_classes=10, channels=1, size=8, width=16, depth=2)


class Dropping(nn.Module):
    """A network with random numbers and running statistics of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(288, 10)
        )

    def forward(self, image):
        return self.layers(image)


def fitted(machine: engine.Engine, make=convnet, training: Training = SGD, data: Samples | None = None):
    return train(
        new_network(make, 0),
        data or digits_like(),
        training=training,
        criterion=CrossEntropy(),
        augmentations=[],
        lr=0.01,
        seed=0,
        engine=machine,
        num_classes=10,
    )


def test_operations_are_those_of_the_layers():
    network = ConvNet(num_classes=10, channels=3, size=32)
    convolutions = 2 * 9 * 128 * (3 * 32 * 32 + 128 * 16 * 16 + 128 * 8 * 8)
    assert operations(network, (3, 32, 32)) == convolutions + 2 * 128 * 16 * 10
    assert network.training  # left as it was


@pytest.mark.parametrize("make", [convnet, Dropping])
def test_compiled_and_plain_agree_for_a_hundred_steps(make):
    """Same losses within float tolerance; random numbers inside the network and running statistics included."""
    plain, compiled = (fitted(engine.Engine(threads=1, compile=mode), make) for mode in (False, True))
    assert len(plain.losses) == len(compiled.losses) == 100
    assert (10, True) in compiled.call._worth
    assert not plain.call._worth
    assert not forward._given_up
    torch.testing.assert_close(torch.stack(compiled.losses), torch.stack(plain.losses), rtol=2e-3, atol=2e-4)
    tests = digits_like(200, seed=1)
    accuracies = [
        accuracy_on(student, tests, engine.Engine(compile=mode)) for student, mode in ((plain, False), (compiled, True))
    ]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.02)


def test_one_compilation_serves_all_students_of_a_shape():
    from torch._dynamo.utils import counters

    fitted(engine.Engine(threads=1, compile=True))
    before = counters["stats"]["unique_graphs"]
    for _ in range(3):
        fitted(engine.Engine(threads=1, compile=True))
    assert counters["stats"]["unique_graphs"] == before
    short = Training(2, 7, "sgd", 0.9, (0.9, 0.999), 0.0005, "step", 50, 0.1, 1.0)
    fitted(engine.Engine(threads=1, compile=True), training=short)  # batches of 7 and 3
    assert counters["stats"]["unique_graphs"] == before + 2


def test_compiled_code_keeps_no_network(monkeypatch):
    student = fitted(engine.Engine(threads=1, compile=True))
    accuracy_on(student, digits_like(20), engine.Engine(compile=True))
    network = weakref.ref(student.network)
    del student
    gc.collect()
    assert network() is None


def test_old_compiled_code_is_dropped_when_there_is_much_of_it(monkeypatch):
    plain = fitted(engine.Engine(threads=1))
    monkeypatch.setattr(forward, "_MOST_KEPT", 1)
    monkeypatch.setattr(forward, "_kept", {"something else"})
    student = fitted(engine.Engine(threads=1, compile=True))
    assert len(forward._kept) == 1
    assert "something else" not in forward._kept
    torch.testing.assert_close(torch.stack(student.losses), torch.stack(plain.losses), rtol=2e-3, atol=2e-4)


def test_auto_compiles_the_shapes_that_are_worth_it(monkeypatch):
    network = convnet()
    once = operations(network, (1, 8, 8))
    monkeypatch.setattr(forward, "WORTH", 3 * once * 10 * 100)
    call = Forward(network, "auto")
    call.expect((10, 1, 8, 8), 99, training=True)
    assert not call._worth
    call.expect((10, 1, 8, 8), 1, training=True)
    assert call._worth == {(10, True)}
    call.expect((10, 1, 8, 8), 299, training=False)
    assert len(call._worth) == 1
    call.expect((10, 1, 8, 8), 1, training=False)
    assert len(call._worth) == 2
    together = Forward(network, "auto", "compiled")
    together.expect((10, 1, 8, 8), 100, training=True)
    together.expect((7, 1, 8, 8), 1, training=True)  # all or nothing, in that layout
    assert together._worth == {(10, True), (7, True)}
    assert not Forward(network, False)._worth


def test_a_network_that_cannot_be_compiled_is_called_plainly_and_that_is_said_once(monkeypatch):
    monkeypatch.setattr(forward, "_given_up", set())

    def broken(what):
        def call(network, image):
            raise torch._dynamo.exc.Unsupported("no such operation", case_name="test")

        return call

    monkeypatch.setattr(forward, "_compiled", broken)
    with pytest.warns(EngineWarning, match="torch.compile does not work here") as said:
        student = fitted(engine.Engine(threads=1, compile=True))
    assert sum(issubclass(warning.category, EngineWarning) for warning in said) == 1
    plain = fitted(engine.Engine(threads=1))
    assert torch.equal(torch.stack(student.losses), torch.stack(plain.losses))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_without_a_compiler_it_is_said_once(process, tmp_path, monkeypatch, workers):
    monkeypatch.setenv("CXX", "no-such-compiler")
    quick = [argument for argument in QUICK if not argument.startswith("engine")]
    outcome = process("ddrank.run", *quick, "engine.compile=true", f"engine.workers={workers}")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("there is no C++ compiler no-such-compiler") == 1
    monkeypatch.delenv("CXX")
    process("ddrank.run", *quick, "engine=eager", "engine.threads=1", "paths.store=eager")
    one, two = results(tmp_path)
    assert one["arms"] == two["arms"]


def test_precision_is_recorded_and_part_of_the_key(command, tmp_path):
    arguments = (*QUICK_SELECTION, "method=random")
    command("run", *arguments)
    assert "trained 5 students" in command("run", *arguments, "engine.precision=bf16-mixed").err
    assert "trained 0 students" in command("run", *arguments, "engine=eager", "engine.threads=1").err
    single, reduced, eager = results(tmp_path)
    assert [result["environment"]["precision"] for result in (single, reduced, eager)] == [
        "32-true",
        "bf16-mixed",
        "32-true",
    ]
    assert eager["environment"]["compile"] is False
    keys = [json.loads(path.read_text())["key"] for path in (tmp_path / "store/measurements").rglob("*.json")]
    assert {key["precision"] for key in keys} == {"32-true", "bf16-mixed"}
    assert single["arms"] == eager["arms"]
    assert single["seconds"]["students"] > 0
    assert single["seconds"]["first_step"] > 0
    assert eager["seconds"]["students"] == 0
    assert "first_step" not in eager["seconds"]


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bf16_learns_as_float32_does(compiled):
    data, tests = digits_like(100, classes=2), digits_like(100, classes=2)
    recipe = Training(15, 50, "sgd", 0.9, (0.9, 0.999), 0.0005, "step", 50, 0.1, 1.0)
    machines = [
        engine.Engine(precision=name, threads=1, compile=compiled, channels_last="auto")
        for name in ("32-true", "bf16-mixed")
    ]
    full, reduced = (fitted(machine, training=recipe, data=data) for machine in machines)
    assert reduced.call._channels_last is compiled
    assert next(reduced.network.parameters()).dtype == torch.float32
    torch.testing.assert_close(torch.stack(reduced.losses), torch.stack(full.losses), rtol=0.15, atol=0.03)
    assert not torch.equal(torch.stack(reduced.losses), torch.stack(full.losses))  # it does compute in bfloat16
    accuracies = [
        accuracy_on(student, tests, machine) for student, machine in zip((full, reduced), machines, strict=True)
    ]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.1)


def test_a_residual_network_in_every_layout():
    """In double precision: in single, an activation that rounding moves across zero is a step of its own."""

    def make():
        return ResNet(num_classes=10, channels=1, size=8, depth=18).double()

    data = digits_like()
    data = Samples(data.images.double(), data.labels)
    short = Training(3, 10, "sgd", 0.9, (0.9, 0.999), 0.0005, "step", 50, 0.1, 1.0)
    machines = [engine.Engine(threads=1, channels_last=layout) for layout in (False, True)]
    plain, last = (fitted(machine, make, short, data) for machine in machines)
    assert not weights_lie_last(plain.network)
    assert weights_lie_last(last.network)
    torch.testing.assert_close(torch.stack(last.losses), torch.stack(plain.losses))


def weights_lie_last(network: nn.Module) -> bool:
    """Whether the weights of convolutions of more than one pixel lie channels-last."""
    weights = [weight for weight in network.parameters() if weight.dim() == 4 and weight.shape[1] > 1 < weight.shape[2]]
    return all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.parametrize(
    ("threads", "numbers", "expected"),
    [("auto", 3 * 64 * 32 * 32, 1), ("auto", 3 * 64 * 32 * 32 + 1, 8), ("all", 10, 8), (3, 10, 3), (3, 1 << 30, 3)],
)
def test_threads_depend_on_the_student_alone(monkeypatch, threads, numbers, expected):
    monkeypatch.setattr(engine, "cores", lambda: 8)
    for workers in (1, 8):
        assert engine.Engine(threads=threads, workers=workers).threads_for(numbers) == expected


@pytest.mark.parametrize(
    ("workers", "threads", "numbers", "expected"),
    [
        (8, "auto", 10, True),
        (1, "auto", 10, False),
        (8, "auto", 1 << 30, False),
        (8, "all", 10, False),
        (4, 2, 10, True),
        (2, 5, 10, False),
    ],
)
def test_small_students_are_trained_side_by_side(monkeypatch, workers, threads, numbers, expected):
    monkeypatch.setattr(engine, "cores", lambda: 8)
    assert engine.Engine(threads=threads, workers=workers).beside(numbers) is expected
