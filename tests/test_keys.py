"""The store's keys: what can change a number is in them, and nothing that cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import QUICK, results

ROOT = Path(__file__).parents[1]
VIEW = "+aug.view={_target_: ddrank.augment.Views, transforms: [{RandomCrop: {size: 8, padding: 2}}]}"
MIX = "+aug.mixup={_target_: ddrank.augment.MixUp, lam: 0.8}"
NETWORK = """
from torch import nn

def net(num_classes, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, num_classes){more})
"""


def accuracies(result: dict) -> dict:
    return {name: (arm["accuracy"], arm["lr"]) for name, arm in result["arms"].items()}


def own_images(folder, seed: int = 0) -> str:
    folder.mkdir()
    torch.save(torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(seed)), folder / "images.pt")
    return f"method.data={folder}"


def test_augmentations_in_another_order_are_another_measurement(command, tmp_path):
    command("run", *QUICK, "aug=none", VIEW, MIX)
    other = command("run", *QUICK, "aug=none", MIX, VIEW)
    assert "trained 2 students" in other.err, other.err  # those without augmentation are in the store
    command("run", *QUICK, "aug=none", MIX, VIEW, "paths.store=fresh")
    _, shared, fresh = results(tmp_path)
    assert accuracies(shared) == accuracies(fresh)


def test_what_an_augmentation_is_called_is_no_part_of_a_key(command):
    command("run", *QUICK, "aug=none", VIEW, MIX)
    renamed = ["aug=none", "aug.name=mine", VIEW.replace("view", "crops"), MIX.replace("mixup", "second")]
    assert "trained 0 students" in command("run", *QUICK, *renamed).err


def test_the_weights_of_a_tuning_seed_are_of_one_evaluation_alone(command, tmp_path):
    """Random crops pad with black, which in the space of float images depends on the evaluation's constants alone."""
    data = [own_images(tmp_path / "ours"), "method=custom", "aug=crop_flip", *QUICK[:-1], "num_eval=1"]
    command("run", *data, "method.mean=[0.3]", "seed=3")
    command("run", *data, "method.mean=[0.05]", "seed=3")
    assert "trained 0 students" in command("run", *data, "method.mean=[0.3]", "seed=0").err
    command("run", *data, "method.mean=[0.3]", "seed=0", "paths.store=fresh")
    *_, shared, fresh = results(tmp_path)
    assert accuracies(shared) == accuracies(fresh)


def test_a_network_of_ones_own_that_was_edited_is_trained_anew(command, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = tmp_path / "edited_network.py"
    quick = [argument for argument in QUICK if not argument.startswith("model=")]
    call = ["run", *quick, "model=mlp", "model._target_=edited_network.net", "model.name=mine"]
    code.write_text(NETWORK.format(more=""))
    assert "trained 5 students" in command(*call).err
    assert "trained 0 students" in command(*call).err
    code.write_text(NETWORK.format(more=", nn.Tanh()"))
    del sys.modules["edited_network"]
    assert "trained 5 students" in command(*call).err


def test_a_batch_larger_than_the_data_is_the_data(command):
    command("run", *QUICK)
    assert "trained 0 students" in command("run", *QUICK, "train.batch_size=4000").err
    assert "trained 4 students" in command("run", *QUICK, "train.batch_size=5").err


@pytest.mark.parametrize("method", ["random", "dm"])
def test_whitened_images_are_the_same_with_any_number_of_threads(method, tmp_path):
    """Their last digits are not: a matrix product of ten images is summed in another order by two threads."""
    call = [sys.executable, "-m", "ddrank.run", *QUICK, f"method={method}", "method.space=zca"]
    call = [argument for argument in call if method == "dm" or "iterations" not in argument]
    for threads, trained in (("2", "trained 5 students"), ("1", "trained 0 students")):
        several = {"OMP_NUM_THREADS": threads, "DDRANK_CORES": threads, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(call, cwd=tmp_path, env=os.environ | several, capture_output=True, text=True, check=False)
        assert trained in done.stderr, done.stderr
