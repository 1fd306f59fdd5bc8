"""Which measurements an evaluation will want: the protocol's own plans, gone through without training anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from ddrank.arms import Arm
from ddrank.measure import Measurer
from ddrank.schedule import Plan, Task
from ddrank.store import Store, digest


@dataclass(frozen=True)
class Foreseen:
    """A measurement that will be wanted.

    Attributes:
        arms: the arms that want it.
        seed, lr, measures: of its student, and what is measured; no `lr` where a search decides later.
        keys: digests of its key in the store; of one that a search decides on, of each it may turn out to be.
        found: it is in the store.
        trains: a student is trained for it.
        task: how it would be measured.
    """

    arms: tuple[str, ...]
    seed: int
    lr: float | None
    measures: str
    keys: tuple[str, ...]
    found: bool
    trains: bool
    task: Task


def foresee(measurer: Measurer, arms: Iterable[Arm], seeds: list[int], store: Store) -> list[Foreseen]:
    """Every measurement once, in the order in which they are asked for; none of them is made."""
    together: dict[tuple[str, ...], Foreseen] = {}
    for arm in arms:
        for one in _of_arm(lambda: measurer.plan(arm, seeds), store):  # noqa: B023 called at once
            before = together.setdefault(one.keys, one)
            if arm.name not in before.arms:
                together[one.keys] = replace(before, arms=(*before.arms, arm.name))
    return list(together.values())


def _of_arm(begin: Callable[[], Plan], store: Store) -> list[Foreseen]:
    """What one arm's plan asks for. Where what comes next depends on values that are not known yet, the plan is gone on
    with as often as there are choices: each of its tasks then has as many keys."""
    known: list[list[dict[str, Any]]] = []
    foreseen: list[Foreseen] = []
    while (tasks := _asked(begin(), known)) is not None:
        values = [store.lookup(task.key, report=False) for task in tasks]
        foreseen += [_certain(task, value is not None) for task, value in zip(tasks, values, strict=True)]
        if None not in values:
            known.append(values)
            continue
        ends = (_asked(begin(), [*known, _best(number, len(tasks))]) for number in range(len(tasks)))
        choices = [tasks for tasks in ends if tasks is not None]
        foreseen += [_one_of(places, store) for places in zip(*choices, strict=True)]
        break
    return foreseen


def _asked(plan: Plan, values: list[list[dict[str, Any]]]) -> list[Task] | None:
    """The tasks that a plan asks for once it has been sent `values`; None where that was its end."""
    try:
        tasks = next(plan)
        for of_stage in values:
            tasks = plan.send(of_stage)
    except StopIteration:
        return None
    return tasks


def _best(number: int, count: int) -> list[dict[str, Any]]:
    """Values of which the one with this `number` is the best."""
    return [{"accuracy": float(at == number), "losses": [], "tests": [], "seconds": 0.0} for at in range(count)]


def _certain(task: Task, found: bool) -> Foreseen:
    trains = not found and (task.trains or task.assignment().weights is None)
    return _foreseen(task, (digest(task.key),), task.key["lr"], found, trains)


def _one_of(tasks: tuple[Task, ...], store: Store) -> Foreseen:
    """One of several tasks, which differ by their learning rates."""
    keys = tuple(dict.fromkeys(digest(task.key) for task in tasks))
    found = all(store.lookup(task.key, report=False) is not None for task in tasks)
    lr = tasks[0].key["lr"] if len(keys) == 1 else None
    return _foreseen(tasks[0], keys, lr, found, tasks[0].trains and not found)


def _foreseen(task: Task, keys: tuple[str, ...], lr: float | None, found: bool, trains: bool) -> Foreseen:
    return Foreseen((task.about["arm"],), task.key["seed"], lr, task.about["what"], keys, found, trains, task)
