"""What travels: the wheel with its configuration and commands, and the pinned versions."""

from __future__ import annotations

import configparser
import importlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UNPINNED = ("ray", "slurm", "joblib", "s3")  # extras for what is elsewhere: not tested here


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    call = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(call, cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_all_configs_and_the_license(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"ddrank/conf/config.yaml", "ddrank/leaderboard/submission.schema.json"} <= names
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ddrank").rglob("*.py")}
    assets = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ddrank").rglob("assets/*")}
    assert len(configs) > 50
    assert len(assets) > 5
    assert {f"ddrank/{name}" for name in configs} | modules | assets <= names
    assert any(re.fullmatch(r"ddrank-[^/]*\.dist-info/licenses/LICENSE", name) for name in names)
    assert all(name.startswith(("ddrank/", "ddrank-")) for name in names)  # no tests, no scripts, no stray files
    assert not any("__pycache__" in name for name in names)


def test_the_wheel_has_the_commands(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entries,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        parser = configparser.ConfigParser()
        parser.read_string(archive.read(entries).decode())
    scripts = dict(parser["console_scripts"])
    assert set(scripts) >= {"ddrank-run", "ddrank-distill", "ddrank-doctor", "ddrank-leaderboard", "ddrank-store"}
    assert scripts == PROJECT["scripts"]
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


CHECK = """
from pathlib import Path
import ddrank, sys
from ddrank import config
from hydra import compose, initialize_config_dir

home = Path(sys.argv[1]).resolve()
assert Path(ddrank.__file__).resolve().is_relative_to(home), ddrank.__file__
assert config.folder().resolve() == home / "ddrank" / "conf", config.folder()
config.register()
with initialize_config_dir(config_dir=str(config.folder()), version_base="1.3"):
    composed = compose("config", overrides=["method=sre2l", "dataset=cifar10", "ipc=10"])
config.check(composed)
print(composed.aug.name, composed.train.epochs)
"""


def test_an_installed_wheel_finds_its_configuration(wheel, tmp_path):
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    environment = os.environ | {"PYTHONPATH": str(installed)}
    call = [sys.executable, "-c", CHECK, str(installed)]
    done = subprocess.run(call, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "crop_mixup 400\n"


def test_a_checkout_uses_the_folder_at_the_top():
    from ddrank.config import folder

    assert folder().resolve() == ROOT / "conf"


# --- pinned versions ---


def pinned() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.partition("==") for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, _, version in pins}


def direct_dependencies() -> list[Requirement]:
    """Those of the project and of its extras, but for the extras that are not pinned and references to itself."""
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(text for name in extras if name not in UNPINNED for text in extras[name])]
    requirements = [Requirement(text) for text in texts]
    return [requirement for requirement in requirements if requirement.name != PROJECT["name"]]


def test_constraints_are_pins_and_comments_only():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for line in lines:
        assert re.fullmatch(r"#.*|[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!]+", line), line
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) == len(pinned()), "a package is pinned twice"


@pytest.mark.parametrize("requirement", direct_dependencies(), ids=lambda requirement: requirement.name)
def test_every_direct_dependency_is_pinned_to_a_version_it_allows(requirement):
    assert pinned()[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_version_is_said_once():
    from ddrank import __version__

    assert __version__ == PROJECT["version"]
