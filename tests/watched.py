"""Parts of a student for tests/test_ranks.py, found by their names in every rank."""

import hashlib
import os
import signal

import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from torch import nn

from ddrank.errors import InputError


def hashed(student) -> str:
    parameters = torch.cat([tensor.detach().flatten() for tensor in student.network.parameters()])
    return hashlib.sha256(parameters.numpy().tobytes()).hexdigest()


class SameWeights(Callback):
    """Refuses a student whose weights are not the same, to the bit, on all ranks when it is trained."""

    def on_train_end(self, trainer, student):
        hashes = [None] * dist.get_world_size()
        dist.all_gather_object(hashes, hashed(student))
        if len(set(hashes)) > 1:
            raise InputError(f"the ranks differ: {hashes}")


class Ends(Callback):
    """How rank `rank` ends, before a step: "killed", "terminated", "refuses" or "raises"."""

    def __init__(self, rank: int, how: str, epoch: int = 0, batch: int = 0):
        self.rank, self.how, self.at = rank, how, (epoch, batch)

    def on_train_batch_start(self, trainer, student, batch, batch_idx):
        if dist.get_rank() != self.rank or (trainer.current_epoch, batch_idx) != self.at:
            return
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)
            return
        raise InputError("it cannot be done") if self.how == "refuses" else ValueError("a defect")


class Dropping(nn.Sequential):
    """A small network that draws random numbers in training."""

    def __init__(self, *, num_classes: int, channels: int, size: int):
        super().__init__(
            nn.Flatten(), nn.Linear(channels * size**2, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, num_classes)
        )
