"""python -m ddrank.distill: make a distilled dataset."""

from __future__ import annotations

from omegaconf import DictConfig

from ddrank.config import check
from ddrank.errors import InputError
from ddrank.launch import launch


def distillation(config: DictConfig) -> None:
    """One job: make the distilled dataset that `config` names and say where it lies."""
    check(config)
    if config.method.distiller is None:
        raise InputError(f"method={config.method.name} has no distiller here: put its data where method.data points")
    from ddrank import engine
    from ddrank.data import load_real
    from ddrank.distill.make import distill
    from ddrank.progress import Display
    from ddrank.store import Store

    machine, store = engine.start(config.engine), Store(config.paths.store)
    real = load_real(config.dataset, config.paths.data)
    with Display() as display:
        path, made = distill(config, real, config.seed, machine, store, display, overwrite=config.overwrite)
    print(f"made {path} and grid.png beside it" if made else f"{path} is there already, made with these settings")


def main() -> None:
    launch(distillation, "distill")


if __name__ == "__main__":
    main()
