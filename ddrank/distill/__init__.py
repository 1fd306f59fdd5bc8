"""Making distilled datasets: `python -m ddrank.distill`. A distiller is one class; it never sees the evaluation."""

from ddrank.distill.base import Distiller, Task
from ddrank.distill.make import distill, make_if_embedded

__all__ = ["Distiller", "Task", "distill", "make_if_embedded"]
