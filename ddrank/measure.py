"""Measuring: choose an arm's learning rate, fit its students, test them; everything through the store."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from ddrank import build
from ddrank.arms import Arm
from ddrank.crew import Crew
from ddrank.data import RealDataset, Samples, Space
from ddrank.engine import Engine
from ddrank.fit import Assignment, Outcome
from ddrank.progress import Display
from ddrank.schedule import Plan, Scheduler, Task
from ddrank.store import Store, digest

VERSION = 3  # raise it when the same key would get another number, or keys get another form: `gc` drops those before


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

    def __init__(
        self,
        config: DictConfig,
        real: RealDataset,
        store: Store,
        engine: Engine,
        display: Display,
        crew: Crew | None = None,
    ):
        self._real, self._store, self._engine, self._display = real, store, engine, display
        self._protocol = config.protocol
        self._model = build.plain(config.model)
        self._architecture = build.identity(self._model)
        self._test_every = config.protocol.test_every.get(config.method.labels)
        self._sets: dict[tuple[Space, str], Samples] = {}
        self._fingerprints: dict[tuple[str, Space, int], str] = {}
        self._scheduler = Scheduler(store, engine, display, crew)

    @property
    def trained(self) -> int:
        """How many students were trained here."""
        return self._scheduler.trained

    @property
    def found(self) -> int:
        """How many came from the store."""
        return self._scheduler.found

    @property
    def outcomes(self) -> list[Outcome]:
        """What was trained and tested here."""
        return self._scheduler.outcomes

    def measure(
        self,
        arms: Iterable[Arm],
        seeds: list[int],
        finished: Callable[[str, list[Fit]], None] = lambda name, fits: None,
    ) -> dict[str, list[Fit]]:
        """One tested student of each arm for each seed; `finished` is called for every arm, in their order."""
        arms = list(arms)
        self._announce(arms, seeds)
        return self._scheduler.run({arm.name: self.plan(arm, seeds) for arm in arms}, finished)

    def plan(self, arm: Arm, seeds: list[int]) -> Plan:
        """How one arm is measured: yields the tasks that it needs next, is sent their values, returns its fits."""
        plan = self._plan_on_test if self._protocol.select_on == "test" else self._plan_on_validation
        return plan(arm, seeds)

    def _announce(self, arms: list[Arm], seeds: list[int]) -> None:
        """Tell the display how much work the arms are, those that share their measurements counted once."""
        distinct = {digest(self._recipe(arm) | {"source": arm.source, "lr": arm.lr}): arm for arm in arms}
        counts = [(self._counts(arm, seeds), _work(arm)) for arm in distinct.values()]
        self._display.expect(
            sum(measurements for (measurements, _), _ in counts), sum(students * work for (_, students), work in counts)
        )

    def _plan_on_test(self, arm: Arm, seeds: list[int]) -> Plan:
        rates = list(self._protocol.lrs) if arm.lr is None else [arm.lr]
        wanted = [(seed, lr) for seed in seeds for lr in rates]
        values = yield [self._tested(arm, seed, lr) for seed, lr in wanted]
        fits = [_fit(arm, seed, lr, value) for (seed, lr), value in zip(wanted, values, strict=True)]
        return [max((fit for fit in fits if fit.seed == seed), key=lambda fit: fit.accuracy) for seed in seeds]

    def _plan_on_validation(self, arm: Arm, seeds: list[int]) -> Plan:
        lr = arm.lr if arm.lr is not None else (yield from self._best_lr(arm))
        values = yield [self._tested(arm, seed, lr) for seed in seeds]
        if self._protocol.tuning_seed in seeds:
            self._store.drop_tensors(self._weights_key(arm, self._protocol.tuning_seed, lr))
        return [_fit(arm, seed, lr, value) for seed, value in zip(seeds, values, strict=True)]

    def _best_lr(self, arm: Arm) -> Generator[list[Task], list[dict[str, Any]], float]:
        """The learning rate with the best validation accuracy on the tuning seed, the first where several are; its
        student's weights are kept for the test until the arm is measured."""
        seed, rates = self._protocol.tuning_seed, list(self._protocol.lrs)
        values = yield [self._validated(arm, seed, lr) for lr in rates]
        best, _ = max(zip(rates, values, strict=True), key=lambda pair: pair[1]["accuracy"])
        for lr in rates:
            if lr != best:
                self._store.drop_tensors(self._weights_key(arm, seed, lr))
        return best

    def _validated(self, arm: Arm, seed: int, lr: float) -> Task:
        validation = self._real_set(arm.space, "validation")

        def keep(outcome: Outcome) -> dict[str, Any]:
            self._store.keep_tensors(self._weights_key(arm, seed, lr), outcome.weights, self._about(arm))
            return _record(outcome)

        return self._task(
            arm,
            seed,
            lr,
            "validation accuracy",
            validation,
            key=self._validation_key(arm, seed, lr),
            assignment=lambda: self._assignment(arm, seed, lr, validation, keep_weights=True),
            value=keep,
        )

    def _tested(self, arm: Arm, seed: int, lr: float) -> Task:
        tests = self._real_set(arm.space, "test")
        best = self._protocol.best_checkpoint
        tuned = arm.lr is None and self._protocol.select_on == "validation" and seed == self._protocol.tuning_seed
        key = self._key(arm, seed, lr) | {"tested_on": tests.fingerprint}

        def assignment() -> Assignment:
            weights = self._store.find_tensors(self._weights_key(arm, seed, lr)) if tuned else None
            every = self._test_every if best else None
            return self._assignment(arm, seed, lr, tests, test_every=every, weights=weights)

        def value(outcome: Outcome) -> dict[str, Any]:
            return self._tuned(arm, seed, lr, outcome) if outcome.first_step is None else _record(outcome)

        return self._task(
            arm,
            seed,
            lr,
            "test accuracy",
            tests,
            key=key | ({"best_of_every": self._test_every} if best else {}),
            assignment=assignment,
            value=value,
            trains=not tuned,
        )

    def _tuned(self, arm: Arm, seed: int, lr: float, outcome: Outcome) -> dict[str, Any]:
        """The test of the tuning seed's student, which was trained for the choice of the learning rate."""
        known = self._store.lookup(self._validation_key(arm, seed, lr)) or {}
        return {"losses": [], "tests": [], "seconds": 0.0} | known | {"accuracy": outcome.accuracy}

    def _task(self, arm: Arm, seed: int, lr: float, what: str, tests: Samples, **rest: Any) -> Task:
        one = tests.images.shape[1:].numel()
        return Task(
            name=f"{arm.name:<13} seed {seed}  lr {lr:<6g} {what}",
            numbers=min(arm.training.batch_size, arm.count) * one,
            total=(arm.count + len(tests)) * one,
            work=_work(arm),
            about=self._about(arm) | {"what": what},
            **rest,
        )

    def _assignment(self, arm: Arm, seed: int, lr: float, tests: Samples, **rest: Any) -> Assignment:
        return Assignment(
            name=f"{arm.name} seed {seed} lr {lr:g}",
            model=self._model,
            num_classes=self._real.num_classes,
            training=arm.training,
            criterion=dict(arm.criterion),
            aug=dict(arm.aug),
            black=arm.space.black(self._real.channels, self._real.size),
            lr=lr,
            seed=seed,
            samples=arm.samples(seed),
            tests=tests,
            teachers=arm.teachers,
            **rest,
        )

    def _about(self, arm: Arm) -> dict[str, str]:
        return {"arm": arm.name, "dataset": self._real.name, "model": self._model["name"]}

    def _recipe(self, arm: Arm) -> dict[str, Any]:
        """Everything but data, learning rate and seed that can change an arm's numbers."""
        return {
            "kind": "accuracy",
            "version": VERSION,
            "model": self._architecture,
            "training": arm.training.effective(arm.count),
            "criterion": build.identity(arm.criterion),
            "aug": build.identities(arm.aug),
            "teachers": arm.teachers.fingerprint if arm.teachers else None,
            **self._engine.in_key(arm.training.batch_size, arm.count, arm.views),
        }

    def _key(self, arm: Arm, seed: int, lr: float) -> dict[str, Any]:
        return self._recipe(arm) | {"train": self._fingerprint(arm, seed), "lr": lr, "seed": seed}

    def _validation_key(self, arm: Arm, seed: int, lr: float) -> dict[str, Any]:
        return self._key(arm, seed, lr) | {"tested_on": self._real_set(arm.space, "validation").fingerprint}

    def _weights_key(self, arm: Arm, seed: int, lr: float) -> dict[str, Any]:
        return self._validation_key(arm, seed, lr) | {"kind": "student"}

    def _fingerprint(self, arm: Arm, seed: int) -> str:
        """That of an arm's training samples for a seed; kept, since it takes a while."""
        which = arm.source, arm.space, seed
        if which not in self._fingerprints:
            self._fingerprints[which] = arm.samples(seed).fingerprint
        return self._fingerprints[which]

    def _real_set(self, space: Space, which: str) -> Samples:
        if (space, which) not in self._sets:
            self._sets[space, which] = space.samples(getattr(self._real, which))
        return self._sets[space, which]

    def _counts(self, arm: Arm, seeds: list[int]) -> tuple[int, int]:
        """How many measurements an arm is, and how many students are trained for them."""
        rates = len(self._protocol.lrs) if arm.lr is None else 1
        if self._protocol.select_on == "test":
            return rates * len(seeds), rates * len(seeds)
        if arm.lr is not None:
            return len(seeds), len(seeds)
        return rates + len(seeds), rates + len(set(seeds) - {self._protocol.tuning_seed})


def _work(arm: Arm) -> float:
    """Proportional to the time of one student."""
    return arm.training.epochs * arm.count * (2 if arm.teachers else 1)


def _fit(arm: Arm, seed: int, lr: float, value: dict[str, Any]) -> Fit:
    return Fit(arm.name, seed, lr, value["accuracy"], value["losses"], value["tests"], value["seconds"])


def _record(outcome: Outcome) -> dict[str, Any]:
    return {
        "accuracy": outcome.accuracy,
        "losses": outcome.losses,
        "tests": outcome.tests,
        "seconds": round(outcome.seconds, 3),
    }
