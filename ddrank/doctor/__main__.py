"""python -m ddrank.doctor PATH dataset=...: examine a distilled dataset before trusting it.

Exit status 0: nothing found. 1: findings. 2: unreadable or bad input. Heavy packages are imported only once the
configuration stands.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ddrank.config import check
from ddrank.errors import InputError
from ddrank.launch import launch

_OVERRIDE = re.compile(r"[~+]{0,2}[A-Za-z_][\w./@-]*=")


def examination(config: DictConfig) -> bool:
    """One job: examine what `method.data` names and report. Returns whether there are findings."""
    _check(config)
    from ddrank import engine
    from ddrank.data import load_real
    from ddrank.data.readers import look
    from ddrank.doctor.examine import examine
    from ddrank.doctor.report import report
    from ddrank.progress import Display
    from ddrank.store import Store

    method = config.method
    cache = Path(config.paths.store) / "downloads"
    found = look(method.data, format=method.format, soft_labels=method.soft_labels, cache=cache)
    real = load_real(config.dataset, config.paths.data)
    machine, store = engine.start(config.engine), Store(config.paths.store)
    with Display() as display:
        diagnosis = examine(found, config, real, store, machine, display)
    report(diagnosis, found, config, real, Path(HydraConfig.get().runtime.output_dir))
    return bool(diagnosis.findings)


def main() -> None:
    sys.argv[1:] = overrides(sys.argv[1:])
    ill: list[bool] = []
    launch(lambda config: ill.append(examination(config)), "doctor")
    sys.exit(1 if any(ill) else 0)


def overrides(arguments: list[str]) -> list[str]:
    """The command line as Hydra's overrides: a PATH that comes first becomes method.data=PATH."""
    if not arguments or arguments[0].startswith("-"):
        return arguments
    first, *others = arguments
    if _OVERRIDE.match(first) and not os.path.exists(first):
        return arguments
    return [f"method.data={quoted(first)}", *others]


def quoted(text: str) -> str:
    """`text` as a value of Hydra's override grammar that means exactly that text, interpolations kept out."""
    text = re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + r"\${", text)
    text = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + (r"\'" if match[2] else ""), text)
    return f"'{text}'"


def _check(config: DictConfig) -> None:
    """As for an evaluation, but for the IPC, which the files may tell."""
    if config.ipc is None:
        if "ipc${ipc}" in str(OmegaConf.to_container(config.method).get("data")):
            raise InputError("no data are named: give their PATH first, or ipc=... for those in paths.distilled")
        config = config.copy()
        config.ipc = 1
    check(config)


if __name__ == "__main__":
    main()
