"""Lightning's DDP on ranks that are there already."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy

from ddrank.ranks.team import Team


def among(team: Team, device: str) -> dict[str, Any]:
    """Arguments of a Trainer for this rank of `team`: to Lightning each rank is a node with one device, whichever of
    the machine's devices a process may see. Batch normalisation takes its statistics over the whole batch on CUDA,
    where torch can; over a rank's part of it on the CPU.

    A team of one says so too: Lightning would look at what torchrun and Slurm say of the others.
    """
    if team.ranks == 1:
        return {"devices": 1, "plugins": [_Ranks(team)]}
    return {
        "strategy": _Strategy(cluster_environment=_Ranks(team)),
        "num_nodes": team.ranks,
        "devices": [torch.cuda.current_device()] if device == "cuda" else 1,
        "sync_batchnorm": device == "cuda",
    }


class _Strategy(DDPStrategy):
    """DDP whose process group and processes are ours."""

    def setup_distributed(self) -> None:
        self.set_world_ranks()

    def _configure_launcher(self) -> None:
        pass  # Lightning's would set the number of threads


class _Ranks(ClusterEnvironment):
    def __init__(self, team: Team):
        super().__init__()
        self._team = team

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return ""

    @property
    def main_port(self) -> int:
        return 0

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._team.ranks

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._team.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return self._team.rank


class Terminated(Callback):
    """SIGTERM ends a rank at once, and thereby all others. Lightning's own way asks the leader before every step, on
    the device, whether it has had one, and talks to the others within the handler of the signal."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer._signal_connector._sigterm_notifier_fn = _end  # before it is registered
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def _end(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)
