"""Lightning's DDP on ranks that are there already."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddrank.errors import InputError
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
        "plugins": [WholeBatch()] if device == "cuda" else [],
    }


class _Strategy(DDPStrategy):
    """DDP whose process group and processes are ours."""

    def setup_distributed(self) -> None:
        self.set_world_ranks()

    def _configure_launcher(self) -> None:
        pass  # Lightning's would set the number of threads


class WholeBatch(LayerSync):
    """Batch normalisation with the statistics of the whole batch while a network is trained. Afterwards the network is
    of the layers that it was made of; Lightning's own leaves others, and drops the activations in those of timm."""

    def __init__(self) -> None:
        self._before: list[tuple[nn.Module, str, nn.Module]] = []  # what holds a layer, by which name, and the layer

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace the layers in `model`. Raises InputError at one of an unknown kind."""
        for parent in list(model.modules()):
            for name, layer in parent.named_children():
                if isinstance(layer, _BatchNorm):
                    self._before.append((parent, name, layer))
                    setattr(parent, name, _over_ranks(layer))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the layers back, with what has become of their parameters and buffers."""
        for parent, name, layer in self._before:
            trained = getattr(parent, name)
            layer._parameters, layer._buffers = trained._parameters, trained._buffers
            setattr(parent, name, layer.train(trained.training))
        self._before.clear()
        return model


def _over_ranks(layer: _BatchNorm) -> nn.Module:
    if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    if type(layer).__module__.startswith("timm."):
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(layer)
    raise InputError(
        f"this network has a layer {type(layer).__name__}, whose batches engine.devices cannot divide: choose "
        "engine.devices=1, or another network"
    )


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
