"""python -m ddrank.distill: make a distilled dataset, or convert one that others made."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ddrank.config import check
from ddrank.errors import InputError
from ddrank.launch import launch
from ddrank.override import override


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
        folder = Path(HydraConfig.get().runtime.output_dir)
        path, made = distill(config, real, machine, store, display, config.overwrite, run_folder=folder)
    if path:
        print(f"made {path} and grid.png beside it" if made else f"{path} is there already, made with these settings")


def conversion(places: list[str], settings: list[str]) -> Callable[[DictConfig], None]:
    """The job of `convert SRC DST`: `places` are its positional arguments, `settings` the others."""

    def job(config: DictConfig) -> None:
        if len(places) != 2:
            raise InputError(
                f"convert was given {len(places)} places ({', '.join(places) or 'none'}), expected two: "
                "python -m ddrank.distill convert SRC DST dataset=..."
            )
        check(config)
        from ddrank.distill.convert import convert

        ipc = config.ipc if any(setting.startswith("ipc=") for setting in settings) else None
        path, distilled = convert(config, Path(places[1]), ipc, config.overwrite)
        soft = "no soft labels" if distilled.soft_labels is None else f"soft labels ({distilled.stored_kind})"
        print(
            f"wrote {path} and grid.png beside it: {len(distilled.images)} images "
            f"(ipc={len(distilled.images) // config.dataset.num_classes}), space {distilled.space}, {soft}, "
            f"read as {distilled.format}"
        )

    return job


def main() -> None:
    if sys.argv[1:2] != ["convert"]:
        launch(distillation, "distill")
        return
    settings = [argument for argument in sys.argv[2:] if _is_setting(argument)]
    places = [argument for argument in sys.argv[2:] if not _is_setting(argument)]
    chosen = [] if any(setting.startswith("method=") for setting in settings) else ["method=custom"]
    sys.argv[1:] = [*chosen, override("method.data", places[0] if places else "nowhere"), *settings]
    launch(conversion(places, settings), "distill")


def _is_setting(argument: str) -> bool:
    """Whether an argument is Hydra's (key=value or a flag), not a place, which may hold `=` too."""
    return argument.startswith("-") or bool(re.match(r"[+~]{0,2}[\w.@/]*[\w.]=", argument) and not _is_place(argument))


def _is_place(argument: str) -> bool:
    return "://" in argument.partition("=")[0] or argument.startswith(("/", "./", "../")) or os.path.exists(argument)


if __name__ == "__main__":
    main()
