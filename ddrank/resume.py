"""A long fit that goes on after a kill, to the numbers of one that nothing happened to."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ddrank.checkpoint import Checkpoint, Pace, misfit, random_state, set_random_state
from ddrank.data.samples import Batches
from ddrank.data.stored_views import ViewBatches
from ddrank.ranks.team import ALONE, Team


class Resume(Callback):
    """Keeps the state of a fit in a checkpoint now and then, and takes up what it finds in one. The first of a
    trainer's callbacks: what it keeps is the state before a batch, before any other has changed or drawn anything.

    The state is that of the network, the optimizer, its schedule and the scale of its gradients; the accuracies and
    losses so far; all random generators; the epoch, the order of its batches, and how many of them are done. Those come
    as None when the fit goes on, which Lightning counts and passes over. A state that does not fit what is trained now
    is reported and removed, and the fit begins as if there had been none.

    Args:
        checkpoint: where.
        seconds: between two checkpoints, at least, and before the first.
        batches: the training batches.
        resumed: is told in which epoch, counted from 0, the fit goes on, if it does.
        team: the ranks of the fit. The leader says when a checkpoint is due and has the file, in which every rank has
            its own random state and its losses of the epoch.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        seconds: float,
        batches: Batches | ViewBatches,
        resumed: Callable[[int], None],
        team: Team = ALONE,
    ):
        self._checkpoint, self._pace, self._batches, self._resumed = checkpoint, Pace(seconds), batches, resumed
        self._team = team
        self._began = time.monotonic()

    def on_train_start(self, trainer: Trainer, student: LightningModule) -> None:
        if (state := self._team.told(self._checkpoint.saved() if self._team.leads else None)) is None:
            return
        before = copy.deepcopy(_state(trainer, student, student.seconds))
        problems = self._team.gathered(misfit(lambda: _restore(self._own(state), trainer, student)))
        if (problem := self._team.told(next(filter(None, problems), None))) is not None:
            _restore(before, trainer, student)
            if self._team.leads:
                self._checkpoint.refuse(problem)
            return
        self._batches.resume(state["batches"], done=state["batch"])
        progress = trainer.fit_loop.epoch_progress.current
        progress.ready = progress.started = progress.processed = progress.completed = state["epoch"]
        self._resumed(state["epoch"])
        set_random_state(self._own(state)["random"], student.device.type)  # the last: nothing is drawn from here on

    def on_train_batch_start(self, trainer: Trainer, student: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._team.told(self._pace.due):
            return
        state = _state(trainer, student, student.seconds + time.monotonic() - self._began)
        own = {"random": state["random"], "student": {"epoch": state["student"]["epoch"].cpu()}}
        ranks = self._team.gathered(own)
        if not self._team.leads:
            return
        state |= {"batches": self._batches.state(), "epoch": trainer.current_epoch, "batch": batch_idx}
        state |= {"others": ranks[1:]} if ranks[1:] else {}
        self._pace.timed(lambda: self._checkpoint.keep(state))

    def _own(self, state: dict[str, Any]) -> dict[str, Any]:
        """The leader's state, with what is this rank's own."""
        if self._team.leads:
            return state
        own = state["others"][self._team.rank - 1]
        return state | own | {"student": state["student"] | own["student"]}


def _state(trainer: Trainer, student: LightningModule, seconds: float) -> dict[str, Any]:
    """All of a fit's state but its place among the batches; `seconds` were spent on it."""
    return {
        "network": student.network.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "scale": trainer.precision_plugin.state_dict(),
        "student": student.progress() | {"seconds": seconds},
        "random": random_state(student.device.type),
    }


def _restore(state: dict[str, Any], trainer: Trainer, student: LightningModule) -> None:
    student.network.load_state_dict(state["network"])
    trainer.optimizers[0].load_state_dict(state["optimizer"])
    trainer.lr_scheduler_configs[0].scheduler.load_state_dict(state["schedule"])
    trainer.precision_plugin.load_state_dict(state["scale"])
    student.restore(state["student"])
    set_random_state(state["random"], student.device.type)
