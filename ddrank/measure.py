"""Measuring: choose an arm's learning rate, fit its students, test them; everything through the store."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

from omegaconf import DictConfig
from torch import nn

from ddrank import build
from ddrank.arms import Arm
from ddrank.data import RealDataset, Samples, Space
from ddrank.engine import Engine
from ddrank.models import build as build_model
from ddrank.progress import Display
from ddrank.store import Store, digest
from ddrank.student import Student, accuracy_on, new_network, train

VERSION = 1  # raise it when the same key would get another number
CURVE_POINTS = 200  # a curve's points are means over as many epochs as it takes


@dataclass(frozen=True)
class Fit:
    """One student's outcome: its accuracy (fraction), its training loss as (epoch, loss) and the tests on the way."""

    arm: str
    seed: int
    lr: float
    accuracy: float
    losses: list[tuple[int, float]]
    tests: list[tuple[int, float]]
    seconds: float


class Measurer:
    """Measures arms under one protocol.

    Under `select_on: validation`, an arm's learning rate is the one with the best validation accuracy at the last epoch
    on the tuning seed; each seed's student is then tested once. Under `select_on: test`, learning rate and, with
    `best_checkpoint`, epoch are those with the best test accuracy, as the ddranking package does it.
    """

    def __init__(self, config: DictConfig, real: RealDataset, store: Store, engine: Engine, display: Display):
        self._real, self._store, self._engine, self._display = real, store, engine, display
        self._protocol = config.protocol
        self._model = build.plain(config.model)
        self._test_every = config.protocol.test_every.get(config.method.labels)
        self._sets: dict[tuple[Space, str], Samples] = {}
        self._latest: dict[tuple[str, Space, int], Samples] = {}
        self._share: dict[str, int] = {}
        self._made: set[str] = set()
        self.trained = self.found = 0

    def announce(self, arms: Iterable[Arm], seeds: list[int]) -> None:
        """Tell the display how much work the arms are, those that share their measurements counted once."""
        first: dict[str, str] = {}
        count = work = 0
        for arm in arms:
            shared = first.setdefault(digest(self._recipe(arm) | {"source": arm.source, "lr": arm.lr}), arm.name)
            self._share[arm.name] = 1 if shared == arm.name else 0
            measurements, students = self._counts(arm, seeds)
            count += measurements
            work += students * self._work(arm)
        self._display.expect(count, work)

    def measure(self, arm: Arm, seeds: list[int]) -> list[Fit]:
        """One tested student for each seed."""
        if self._protocol.select_on == "test":
            return [self._best_on_test(arm, seed) for seed in seeds]
        lr = arm.lr if arm.lr is not None else self._best_lr(arm)
        fits = [self._tested(arm, seed, lr) for seed in seeds]
        if self._protocol.tuning_seed in seeds:
            self._store.drop_tensors(self._weights_key(arm, self._protocol.tuning_seed, lr))
        return fits

    def _best_on_test(self, arm: Arm, seed: int) -> Fit:
        rates = list(self._protocol.lrs) if arm.lr is None else [arm.lr]
        return max((self._tested(arm, seed, lr) for lr in rates), key=lambda fit: fit.accuracy)

    def _best_lr(self, arm: Arm) -> float:
        """The learning rate with the best validation accuracy on the tuning seed; its student's weights are kept for
        the test until the arm is measured."""
        seed, best = self._protocol.tuning_seed, None
        for lr in self._protocol.lrs:
            fit = self._validated(arm, seed, lr)
            if best is None or fit.accuracy > best.accuracy:
                if best is not None:
                    self._store.drop_tensors(self._weights_key(arm, seed, best.lr))
                best = fit
            else:
                self._store.drop_tensors(self._weights_key(arm, seed, lr))
        return best.lr

    def _validated(self, arm: Arm, seed: int, lr: float) -> Fit:
        validation = self._real_set(arm.space, "validation")
        key = self._key(arm, seed, lr) | {"tested_on": validation.fingerprint}

        def compute() -> dict[str, Any]:
            student, seconds = self._fit(arm, seed, lr)
            accuracy = accuracy_on(student, self._to_device(validation), self._engine)
            self._store.keep_tensors(self._weights_key(arm, seed, lr), student.network.state_dict())
            return self._record(student, accuracy, seconds)

        return self._from_store(arm, seed, lr, key, compute, "validation accuracy")

    def _tested(self, arm: Arm, seed: int, lr: float) -> Fit:
        tests = self._real_set(arm.space, "test")
        key = self._key(arm, seed, lr) | {"tested_on": tests.fingerprint}
        if self._protocol.best_checkpoint:
            key |= {"best_of_every": self._test_every}

        def compute() -> dict[str, Any]:
            if (weights := self._store.find_tensors(self._weights_key(arm, seed, lr))) is not None:
                return self._test_again(arm, seed, lr, weights, tests)
            student, seconds = self._fit(arm, seed, lr, tests if self._protocol.best_checkpoint else None)
            if self._protocol.best_checkpoint and student.tests:
                accuracy = max(accuracy for _, accuracy in student.tests)
            else:
                accuracy = accuracy_on(student, self._to_device(tests), self._engine)
            return self._record(student, accuracy, seconds)

        tuned = arm.lr is None and self._protocol.select_on == "validation" and seed == self._protocol.tuning_seed
        return self._from_store(arm, seed, lr, key, compute, "test accuracy", trains=not tuned)

    def _test_again(self, arm: Arm, seed: int, lr: float, weights: dict, tests: Samples) -> dict[str, Any]:
        """The test of the tuning seed's student, which was trained for the choice of the learning rate."""
        validation = self._real_set(arm.space, "validation")
        known = self._store.lookup(self._key(arm, seed, lr) | {"tested_on": validation.fingerprint}) or {}
        network = self._network()
        network.load_state_dict(weights)
        student = Student(network, nn.Identity(), arm.training, lr, self._real.num_classes)
        accuracy = accuracy_on(student, self._to_device(tests), self._engine)
        return {"losses": [], "tests": [], "seconds": 0.0} | known | {"accuracy": accuracy}

    def _fit(self, arm: Arm, seed: int, lr: float, tests: Samples | None = None) -> tuple[Student, float]:
        started, real = time.monotonic(), self._real
        name = f"{arm.name} seed {seed} lr {lr:g}"
        with self._display.activity(name, arm.training.epochs, self._work(arm)) as advance:
            student = train(
                new_network(self._network, seed),
                self._to_device(self._samples(arm, seed)),
                training=arm.training,
                criterion=build.build(arm.criterion, "criterion"),
                augmentations=build.parts(arm.aug, "aug", black=arm.space.black(real.channels, real.size)),
                lr=lr,
                seed=seed,
                engine=self._engine,
                num_classes=real.num_classes,
                teachers=arm.teachers,
                tests=None if tests is None else self._to_device(tests),
                test_every=None if tests is None else self._test_every,
                advance=advance,
            )
        self.trained += 1
        return student, time.monotonic() - started

    def _from_store(self, arm: Arm, seed: int, lr: float, key: dict, compute, what: str, trains: bool = True) -> Fit:
        before, name = self.trained, f"{arm.name:<13} seed {seed}  lr {lr:<6g}"
        known = digest(key) in self._made
        value = self._store.value(key, compute)
        fit = Fit(arm.name, seed, lr, value["accuracy"], value["losses"], value["tests"], value["seconds"])
        if self.trained > before:
            self._made.add(digest(key))
            self._display.finished(f"{name} {what} {fit.accuracy:.4f}  {fit.seconds:.1f} s")
            return fit
        self.found += trains and not known
        self._display.skip(self._work(arm) if trains else 0)
        return fit

    def _record(self, student: Student, accuracy: float, seconds: float) -> dict[str, Any]:
        losses, stride = [float(loss) for loss in student.losses], -(-len(student.losses) // CURVE_POINTS)
        chunks = [losses[start : start + stride] for start in range(0, len(losses), stride)]
        means = [(number * stride + len(chunk), fmean(chunk)) for number, chunk in enumerate(chunks)]
        finite = [(epoch, loss if isfinite(loss) else None) for epoch, loss in means]
        return {"accuracy": accuracy, "losses": finite, "tests": student.tests, "seconds": round(seconds, 3)}

    def _recipe(self, arm: Arm) -> dict[str, Any]:
        """Everything but data, learning rate and seed that can change an arm's numbers."""
        return {
            "kind": "accuracy",
            "version": VERSION,
            "model": build.unnamed(self._model),
            "training": arm.training.effective(),
            "criterion": dict(arm.criterion),
            "aug": dict(arm.aug),
            "teachers": arm.teachers.fingerprint if arm.teachers else None,
            "precision": self._engine.precision,
        }

    def _key(self, arm: Arm, seed: int, lr: float) -> dict[str, Any]:
        return self._recipe(arm) | {"train": self._samples(arm, seed).fingerprint, "lr": lr, "seed": seed}

    def _weights_key(self, arm: Arm, seed: int, lr: float) -> dict[str, Any]:
        return self._key(arm, seed, lr) | {"kind": "student"}

    def _samples(self, arm: Arm, seed: int) -> Samples:
        """An arm's training samples for a seed; the latest are kept, since their fingerprint takes a while."""
        which = arm.source, arm.space, seed
        if which not in self._latest:
            self._latest = {which: arm.samples(seed)}
        return self._latest[which]

    def _real_set(self, space: Space, which: str) -> Samples:
        if (space, which) not in self._sets:
            self._sets[space, which] = space.samples(getattr(self._real, which))
        return self._sets[space, which]

    def _to_device(self, samples: Samples) -> Samples:
        return samples if self._engine.device == "cpu" else samples.to(self._engine.device)

    def _network(self) -> nn.Module:
        real = self._real
        return build_model(self._model, num_classes=real.num_classes, channels=real.channels, size=real.size)

    def _counts(self, arm: Arm, seeds: list[int]) -> tuple[int, int]:
        """How many measurements an arm is, and how many students are trained for them."""
        rates = len(self._protocol.lrs) if arm.lr is None else 1
        if self._protocol.select_on == "test":
            return rates * len(seeds), rates * len(seeds)
        if arm.lr is not None:
            return len(seeds), len(seeds)
        return rates + len(seeds), rates + len(set(seeds) - {self._protocol.tuning_seed})

    def _work(self, arm: Arm) -> float:
        """Proportional to the time of one student; nothing for an arm whose measurements another arm makes."""
        return self._share.get(arm.name, 1) * arm.training.epochs * arm.count * (2 if arm.teachers else 1)
