"""python -m ddrank.distill: make a distilled dataset; convert or relabel one that is there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ddrank import ranks
from ddrank.config import check
from ddrank.errors import InputError
from ddrank.launch import launch
from ddrank.override import override
from ddrank.wording import counted


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
                f"convert was given {counted(len(places), 'place')} ({', '.join(places) or 'none'}), expected two: "
                "python -m ddrank.distill convert SRC DST dataset=..."
            )
        check(config)
        from ddrank.distill.convert import convert

        ipc = config.ipc if any(setting.startswith("ipc=") for setting in settings) else None
        path, distilled = convert(config, Path(places[1]), ipc, config.overwrite)
        for note in distilled.notes:
            print(f"{distilled.path}: {note}", file=sys.stderr)
        soft = "no soft labels" if distilled.soft_labels is None else f"soft labels ({distilled.stored_kind})"
        print(
            f"wrote {path} and grid.png beside it: {counted(len(distilled.images), 'image')} "
            f"(ipc={len(distilled.images) // config.dataset.num_classes}), space {distilled.space}, {soft}, "
            f"read as {distilled.format}"
        )

    return job


def relabelling(places: list[str], settings: list[str]) -> Callable[[DictConfig], None]:
    """The job of `relabel SRC [DST]`: `places` are its positional arguments, `settings` the others."""

    def job(config: DictConfig) -> None:
        if len(places) not in (1, 2):
            raise InputError(
                f"relabel was given {counted(len(places), 'place')} ({', '.join(places) or 'none'}), expected one or "
                "two: python -m ddrank.distill relabel SRC DST dataset=... teacher=..."
            )
        check(config)
        from ddrank import engine
        from ddrank.data import load_real
        from ddrank.distill.relabel import relabel
        from ddrank.progress import Display
        from ddrank.store import Store

        machine, store = engine.start(config.engine), Store(config.paths.store)
        real = load_real(config.dataset, config.paths.data)
        ipc = config.ipc if any(setting.startswith("ipc=") for setting in settings) else None
        folder = Path(places[1]) if len(places) == 2 else None
        with Display() as display:
            path, views = relabel(config, real, folder, ipc, machine, store, display)
        if views is None:
            print(f"wrote {path} and grid.png beside it: one soft label (logits) an image")
        else:
            print(
                f"wrote {path}, grid.png and views/ beside it: labels of {counted(views.epochs, 'epoch')} of "
                f"{counted(views.count, 'view')} "
                f"({views.nbytes / 1e6:.3g} MB); evaluate them with method.labels=multi method.stored_views=true"
            )

    return job


def main() -> None:
    with ranks.led():
        _main()


def _main() -> None:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word not in ("convert", "relabel"):
        launch(distillation, "distill")
        return
    settings = [argument for argument in sys.argv[2:] if _is_setting(argument)]
    places = [argument for argument in sys.argv[2:] if not _is_setting(argument)]
    if word == "relabel":
        settings = [_in_full(setting) for setting in settings]
    chosen = [] if any(setting.startswith("method=") for setting in settings) else _custom(word, settings)
    sys.argv[1:] = [*chosen, override("method.data", places[0] if places else "nowhere"), *settings]
    launch((conversion if word == "convert" else relabelling)(places, settings), "distill")


def _in_full(setting: str) -> str:
    """`teacher=`, `views=` and `fkd=`, the words of relabelling, as the configuration has them.

    >>> _in_full("teacher=convnet"), _in_full("teacher=[convnet,resnet18]"), _in_full("views=300")
    ('method.teachers=[convnet]', 'method.teachers=[convnet,resnet18]', 'relabel.views=300')
    """
    key, _, value = setting.partition("=")
    if key == "teacher":
        return f"method.teachers={value if value.startswith('[') else f'[{value}]'}"
    if key == "fkd":
        return override("relabel.fkd", value)
    return f"relabel.views={value}" if key == "views" else setting


def _custom(word: str, settings: list[str]) -> list[str]:
    """The method where none is named: one's own, and for its labels what goes with them, each unless it is said."""
    if word == "convert":
        return ["method=custom"]
    views = any(re.match(r"relabel\.(views|fkd)=", setting) for setting in settings)
    fitting = {"method.labels": "multi" if views else "single", "criterion": "kl", "aug": "rrc_cutmix"}
    said = {setting.partition("=")[0] for setting in settings}
    return ["method=custom", *(f"{key}={value}" for key, value in fitting.items() if key not in said)]


def _is_setting(argument: str) -> bool:
    """Whether an argument is Hydra's (key=value or a flag), not a place, which may hold `=` too."""
    return argument.startswith("-") or bool(re.match(r"[+~]{0,2}[\w.@/]*[\w.]=", argument) and not _is_place(argument))


def _is_place(argument: str) -> bool:
    return "://" in argument.partition("=")[0] or argument.startswith(("/", "./", "../")) or os.path.exists(argument)


if __name__ == "__main__":
    main()
