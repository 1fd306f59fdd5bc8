"""The branches for GPUs, gone through where there is none (scripts/pretend_gpu.py): no tensor is on the wrong side."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import QUICK, QUICK_SELECTION, results

SCRIPT = Path(__file__).parents[1] / "scripts" / "pretend_gpu.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or not shutil.which("cc") or torch.version.cuda is None,
        reason="needs Linux, a C compiler and a build of PyTorch with CUDA",
    ),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
]


def pretended(folder: Path, *arguments: str, fails: bool = False) -> str:
    call = [sys.executable, SCRIPT, *arguments]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    assert bool(done.returncode) is fails, done.stderr[-3000:]
    return done.stderr


def test_an_evaluation_and_its_distillation(tmp_path):
    pretended(tmp_path, "ddrank.run", *QUICK)
    (result,) = results(tmp_path)
    assert result["environment"]["device"] == "cuda"


def test_labels_of_teachers_and_mixed_views(tmp_path):
    soft = ("method=random", "method.labels=multi", "criterion=kl", "method.teachers=[mlp]", "aug=rrc_cutmix")
    pretended(tmp_path, "ddrank.run", *QUICK_SELECTION, *soft)
    (result,) = results(tmp_path)
    assert result["environment"]["device"] == "cuda"


@pytest.mark.parametrize("method", ["dsa", "mtt", "sre2l", "rded"])
def test_distillers(tmp_path, method):
    few = {
        "dsa": ("iterations=1",),
        "mtt": ("iterations=1", "experts=1", "train_epochs=3", "syn_steps=2", "model=mlp"),
        "sre2l": ("iterations=2",),
        "rded": (),
    }[method]
    settings = (f"method.distiller.{setting}" for setting in few)
    pretended(tmp_path, "ddrank.distill", f"method={method}", "job.frames=0", "dataset.teacher.epochs=1", *settings)
    assert (tmp_path / f"distilled/digits/{method}/ipc1/distilled.safetensors").is_file()


def test_a_tensor_on_the_wrong_side_is_found(tmp_path):
    (tmp_path / "mynet.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Wrong(nn.Module):\n"
        "    def __init__(self, num_classes, channels, size):\n        super().__init__()\n"
        "        self.last = nn.Linear(channels * size**2, num_classes)\n"
        "        self.offset = torch.ones(num_classes)\n"
        "    def forward(self, image):\n        return self.last(image.flatten(1)) + self.offset\n"
    )
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf/model/wrong.yaml").write_text("_target_: mynet.Wrong\nname: wrong\n")
    arguments = ("ddrank.run", "--config-dir", "conf", *QUICK_SELECTION[1:], "model=wrong", "method=random")
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert "Expected all tensors to be on the same device" in done.stderr
