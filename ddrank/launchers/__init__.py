"""A sweep's jobs on other engines than Hydra's basic launcher: the cores of this machine, Slurm, Ray.

They are launchers as Hydra knows them, chosen with `hydra/launcher=...`. Hydra's own plugins for these engines give up
a whole sweep at the first job that is lost; these lose that job alone.
"""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from ddrank.launchers.joblib import Joblib
from ddrank.launchers.jobs import Loss
from ddrank.launchers.ray import Ray
from ddrank.launchers.submitit import SubmititLocal, SubmititSlurm

__all__ = ["Loss", "register"]


def register() -> None:
    """Make the launchers known to Hydra, which takes none whose name in a configuration begins otherwise."""
    plugins = Plugins.instance().class_name_to_class
    stored = ConfigStore.instance().repo["hydra"]["launcher"]
    for launcher in (Joblib, Ray, SubmititLocal, SubmititSlurm):
        plugins[f"hydra_plugins.ddrank.{launcher.__name__}"] = launcher
        stored.pop(f"{launcher.option}.yaml", None)  # a plugin's, where one is installed: else ours had to fit it
