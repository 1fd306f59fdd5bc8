"""Running the commands as a user does, at small size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

# A student that learns something in a second: digits, an MLP or a small ConvNet, few epochs, one learning rate.
QUICK = (
    "model=mlp",
    "num_eval=1",
    "protocol.lrs=[0.05]",
    "train.epochs=3",
    "train.step_size=2",
    "dataset.real.epochs=1",
    "dataset.teacher.epochs=1",
    "engine.workers=1",
    "method.distiller.iterations=3",
)
QUICK_SELECTION = QUICK[:-1]  # for methods whose distiller has no iterations


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status and what it printed."""

    code: int
    out: str
    err: str

    def sentence(self, code: int = 2) -> str:
        """The one line of an error, by default one in the input: no traceback, exit status 2."""
        assert self.code == code, self.err
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("ddrank: ")]
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory) -> Path:
    """A folder that all of this session's workers share: for stores, so that a network is trained by one of them."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Call a command's main in this process, in an empty folder: command("run", "ipc=1", ...) -> Outcome."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)

    def call(name: str, *arguments: str) -> Outcome:
        from ddrank.distill.__main__ import main as distill
        from ddrank.doctor.__main__ import main as doctor
        from ddrank.run import main as run

        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [f"ddrank-{name}", *arguments])
        try:
            {"run": run, "distill": distill, "doctor": doctor}[name]()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        printed = capfd.readouterr()
        return Outcome(code, printed.out, printed.err)

    return call


@pytest.fixture
def composed():
    """Compose a configuration of conf/ as a command would: composed("method=dm", ...) -> DictConfig."""
    from hydra import compose, initialize_config_dir

    from ddrank.config import folder, register

    def compose_with(*arguments: str, name: str = "config"):
        register()
        with initialize_config_dir(str(folder()), version_base="1.3"):
            return compose(name, list(arguments))

    return compose_with


@pytest.fixture
def process(tmp_path):
    """Call a command in a process of its own: process("ddrank.run", "ipc=1", ...) -> Outcome."""

    def call(module: str, *arguments: str) -> Outcome:
        environment = {key: value for key, value in os.environ.items() if key != "WANDB_API_KEY"}
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call


def results(folder: Path) -> list[dict]:
    """All result.json below `folder`, oldest first."""
    files = sorted(folder.rglob("result.json"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text()) for path in files]
