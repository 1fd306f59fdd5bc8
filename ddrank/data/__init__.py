"""Real datasets, distilled datasets, and the spaces their images live in."""

from ddrank.data.distilled import DistilledDataset, read_distilled, write_distilled
from ddrank.data.real import RealDataset, load_real
from ddrank.data.samples import Batches, Samples, TestBatches
from ddrank.data.space import Space, fit_space

__all__ = [
    "Batches",
    "DistilledDataset",
    "RealDataset",
    "Samples",
    "Space",
    "TestBatches",
    "fit_space",
    "load_real",
    "read_distilled",
    "write_distilled",
]
