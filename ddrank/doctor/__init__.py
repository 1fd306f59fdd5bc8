"""Examining a distilled dataset before it is trusted: python -m ddrank.doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddrank.doctor.findings import Finding

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ddrank.data import DistilledDataset, RealDataset

__all__ = ["Finding", "cheap"]


def cheap(distilled: DistilledDataset, config: DictConfig, real: RealDataset) -> list[Finding]:
    """What cannot be right about data that were read, found without a network and in less than a second.

    Nothing in clean data, however far their values reach, and nothing that is merely suspect.
    """
    from ddrank.doctor.impossible import cannot_be_right  # --help shall not wait for torch

    return cannot_be_right(distilled, config, real)
