"""What README, docs and help texts tell to type: the shell reads it, and what is ours composes. Nothing is run."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ddrank import config as schema
from ddrank import launchers, run
from ddrank.distill import __main__ as distill
from ddrank.doctor import __main__ as doctor
from ddrank.leaderboard import __main__ as leaderboard
from ddrank.store import __main__ as store

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HELP = sorted((ROOT / "conf" / "hydra" / "help").glob("*.yaml"))
MODEL = {"_target_": "mynet.MyNet", "name": "mynet"}  # myconf/model/mynet.yaml, as README has it
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
PROGRAM = re.compile(r"^\s*(python|make|pip|bash|torchrun|srun|tensorboard|wandb) ", re.MULTILINE)
SETTINGS = {name for name in schema.settings(schema.Distillation) if "." in name}
# Settings that belong to one option of a group compose beside it: the first that fits.
BESIDE = {
    "hydra.launcher.n_jobs": "hydra/launcher=joblib",
    "hydra.launcher.ray.": "hydra/launcher=ray",
    "hydra.launcher.": "hydra/launcher=submitit_slurm",
    "dataset.loader.path": "dataset=imagefolder",
    "dataset.loader.folder": "dataset=imagenette",
    "dataset.loader.squash": "dataset=imagenette",
    "method.distiller.checkpoint": "method=d4m",
}


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    schema.register()
    launchers.register()
    gc.freeze()  # what is imported need not be looked through again whenever a configuration is composed
    with initialize_config_dir(config_dir=str(schema.folder()), version_base="1.3"):
        yield
    gc.unfreeze()


@pytest.mark.parametrize("page", [*PAGES, *HELP], ids=lambda page: page.name)
def test_what_is_to_be_typed_is_read_by_the_shell_and_composes(page, tmp_path, monkeypatch):
    text = page.read_text()
    snippets = list(examples(text) if page in HELP else commands(text))
    assert snippets or "python -m ddrank" not in text
    (tmp_path / "myconf" / "model").mkdir(parents=True)
    OmegaConf.save(MODEL, tmp_path / "myconf" / "model" / "mynet.yaml")
    monkeypatch.chdir(tmp_path)
    found = 0
    for snippet in snippets:
        for module, arguments in calls(snippet, tmp_path / "calls"):
            found += 1
            try:
                understood(module, arguments, monkeypatch)
            except (Exception, SystemExit) as error:
                pytest.fail(f"{page.name}: python -m {module} {shlex.join(arguments)}: {error}")
    assert found or not any("python -m ddrank" in snippet for snippet in snippets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_settings_that_are_named_exist(page):
    ours = {field.name for field in fields(schema.Distillation)} | {"hydra"}
    for span in spans(page.read_text()):
        words = shlex.split(span) if re.fullmatch(r"([+~]?[\w./@]+=\S+ ?)+", span) else []
        keys = [word.lstrip("+~").partition("=")[0] for word in words]
        if any(placeholder(word) for word in words) or not ours.issuperset(re.split("[./]", key)[0] for key in keys):
            continue
        if not all(known(word) for word in words):
            beside = [option for start, option in BESIDE.items() if keys[0].startswith(start)][:1]
            try:
                composed("distill", ["-m", *beside, *words])
            except Exception as error:
                pytest.fail(f"{page.name}: `{span}`: {error}")


# --- what a page tells to type ---


def commands(text: str) -> Iterator[str]:
    """Blocks of commands, fenced or indented, and commands within sentences."""
    blocks = [block for language, block in FENCED.findall(text) if not language]
    for block in (*blocks, *INDENTED.findall(FENCED.sub("", text))):
        if PROGRAM.search(block):
            yield filled(block)
    yield from (filled(span) for span in spans(text) if span.startswith("python -m ddrank"))


def examples(text: str) -> Iterator[str]:
    """The commands in a help text, optional arguments among them: each begins a line, and two spaces end it."""
    header = OmegaConf.create(text).header
    for line in re.sub(r"\n {20,}\[", " [", header).splitlines():
        if line.startswith("python -m ddrank") and ": " not in line:
            yield re.sub(r"\[(\w+=[^]]*)\]", r"\1", re.split(r" {2,}", line)[0])


def spans(text: str) -> list[str]:
    """What is set as code within sentences."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCED.sub("", text))]


def filled(text: str) -> str:
    """`text` with its <placeholders> as words."""
    return re.sub(r"<(\w+)>", r"\1", text)


def placeholder(word: str) -> bool:
    """Whether a word stands for what its reader has to say."""
    return "…" in word or "..." in word or "[_" in word or word.endswith("=")


# --- what the shell and the commands make of it ---


def calls(snippet: str, record: Path) -> list[tuple[str, list[str]]]:
    """The module and the arguments of each `python -m ddrank...` in `snippet`, expanded by bash, which finds no program
    and runs none."""
    read = subprocess.run(["bash", "-n"], input=snippet, capture_output=True, text=True, check=False)
    assert not read.returncode, f"{snippet}\n{read.stderr}"
    record.write_text("")
    # A call is written at once: the commands of a pipe run side by side.
    noted = 'command_not_found_handle() { printf -v call "%s\\x1f" "$@"; printf "%s\\x1e" "$call" >> "$RECORD"; }\n'
    nothing = {"PATH": os.fspath(record.parent / "nothing"), "RECORD": os.fspath(record)}
    bash = "/bin/bash"
    subprocess.run([bash, "-c", noted + snippet], env=nothing, capture_output=True, cwd=record.parent, check=False)
    found = []
    for call in record.read_text().split("\x1e"):
        words = call.split("\x1f")[:-1]
        for before, module in pairwise(words):
            if before == "-m" and re.fullmatch(r"ddrank[\w.]*", module):
                found.append((module, words[words.index(module) + 1 :]))
                break
    return found


def understood(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a command line as its module does, up to where work begins. Raises what refuses it."""
    name = module.removeprefix("ddrank.")
    if name in ("run", "distill", "doctor"):
        whole = [word for word in arguments if not placeholder(word)]
        if whole != ["--help"]:
            composed(*launched(name, whole, monkeypatch), check=whole == arguments and name != "doctor")
    elif name == "store":
        if arguments:
            store._parser().parse_args(arguments)
    elif name == "leaderboard":
        if arguments[0] not in leaderboard._SUBCOMMANDS:
            leaderboard._parser().parse_args(arguments)
    else:
        raise AssertionError(f"there is no command {module}")


def launched(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """The configuration and the arguments with which a command's main would start Hydra."""
    module, seen = {"run": run, "distill": distill, "doctor": doctor}[name], []
    monkeypatch.setattr(module, "launch", lambda _, config, *others: seen.append((config, sys.argv[1:])))
    monkeypatch.setattr(sys, "argv", [name, *(word for word in arguments if not word.startswith("from="))])
    with contextlib.suppress(SystemExit):
        module.main()
    return seen[0]


def composed(config_name: str, arguments: list[str], check: bool = False) -> DictConfig:
    """What a command line composes to; of a sweep, its first job."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--cfg", choices=("job", "hydra", "all"))
    parser.add_argument("--config-dir", type=Path)
    parser.add_argument("overrides", nargs="*")
    typed = parser.parse_intermixed_args(arguments)
    overrides = first_of(typed.overrides) if typed.multirun else typed.overrides
    if typed.config_dir:
        overrides = [f"hydra.searchpath=[file://{typed.config_dir.absolute()}]", *overrides]
    config = compose(config_name, overrides=overrides, return_hydra_config=True)
    if check:
        del config.hydra
        schema.check(config)
    return config


def first_of(overrides: list[str]) -> list[str]:
    """The overrides of a sweep's first job."""
    parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(overrides)
    return [
        f"{one.get_key_element()}={next(one.sweep_string_iterator())}" if one.is_sweep_override() else one.input_line
        for one in parsed
    ]


def known(word: str) -> bool:
    """Whether a setting is of the schema, or chooses an option of a group: then it need not be composed."""
    key, _, value = word.partition("=")
    return key in SETTINGS or (schema.folder() / key / f"{value}.yaml").is_file()
