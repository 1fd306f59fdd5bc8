"""What is held out has no part in distilled images: neither validation nor test images, whoever uses real data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Outcome
from safetensors.torch import load_file
from torch import Tensor

from ddrank.data import RealDataset, digits
from ddrank.data.samples import Samples

QUICK = (
    "engine.threads=1",
    "engine.workers=1",
    "job.frames=0",
    "method.made_in=normalized",
    "dataset.teacher.epochs=1",
)
EXPERTS = (
    "model=mlp",
    "experts=2",
    "train_epochs=2",
    "expert_epochs=1",
    "max_start_epoch=1",
    "syn_steps=2",
    "lr_img=10",
)
DIFFUSION = ("autoencoder_width=8", "autoencoder_steps=2", "unet_width=8", "unet_steps=2", "steps=4")
METHODS = {
    "dc": ("model=mlp", "outer=1", "inner=1", "iterations=2"),
    "dm": ("iterations=2", "real_batch=8"),
    "mtt": (*EXPERTS, "iterations=2"),
    "datm": (
        *EXPERTS,
        "initial_max_start_epoch=1",
        "growth=1",
        "threshold=9",
        "train_lr=0.05",
        "init=real",
        "iterations=2",
    ),
    "sre2l": ("iterations=2",),
    "rded": ("mipc=20", "model=mlp"),
    "d4m": DIFFUSION,
    "herding": ("model=mlp",),
    "random": (),
}


def spoiled(load, kept: bool = False):
    """A loader's data, all held-out images, or all kept ones, replaced by noise; and the test images."""

    def loaded(root: Path) -> tuple[Samples, Samples, tuple[str, ...]]:
        train, test, names = load(root)
        index = RealDataset("digits", train, test, names, (0.0,), (1.0,), 0.1, 5000).split[0 if kept else 1]
        images = train.images.clone()
        images[index] = torch.rand(images[index].shape)
        return Samples(images, train.labels), Samples(torch.rand(test.images.shape), test.labels), names

    return loaded


def made(outcome: Outcome, file: Path) -> dict[str, Tensor]:
    assert outcome.code == 0, outcome.err
    return load_file(file)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_held_out_changes_no_image(command, tmp_path, monkeypatch, method):
    settings = (f"method={method}", *QUICK, *(f"method.distiller.{setting}" for setting in METHODS[method]))
    file = tmp_path / f"distilled/digits/{method}/ipc1/distilled.safetensors"
    undisturbed = made(command("distill", *settings), file)
    monkeypatch.setattr(digits, "load_digits", spoiled(digits.load_digits))
    again = made(command("distill", *settings, "overwrite=true", "paths.store=another"), file)
    assert undisturbed.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in undisturbed.items())


def test_what_is_kept_changes_them(command, tmp_path, monkeypatch):
    """That is, the loader above is the one that is used."""
    settings = ("method=random", *QUICK)
    file = tmp_path / "distilled/digits/random/ipc1/distilled.safetensors"
    undisturbed = made(command("distill", *settings), file)
    monkeypatch.setattr(digits, "load_digits", spoiled(digits.load_digits, kept=True))
    again = made(command("distill", *settings, "overwrite=true", "paths.store=another"), file)
    assert not torch.equal(undisturbed["images"], again["images"])
