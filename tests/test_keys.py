"""The store's keys: what can change a number is in them, and nothing that cannot."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import QUICK, results
from test_measure import all_arms

from ddrank.build import build, check_codes, codes, identities, identity
from ddrank.data import DistilledDataset, RealDataset, Samples, fit_space
from ddrank.data.digits import load_digits
from ddrank.engine import Engine
from ddrank.errors import InputError
from ddrank.measure import Measurer
from ddrank.progress import Display
from ddrank.store import Store
from ddrank.teacher import TeacherRoom

VIEW = "+aug.view={_target_: ddrank.augment.Views, transforms: [{RandomCrop: {size: 8, padding: 2}}]}"
MIX = "+aug.mixup={_target_: ddrank.augment.MixUp, lam: 0.8}"
VIEWS = {"_target_": "ddrank.augment.Views", "transforms": []}
MLP = {"_target_": "ddrank.models.MLP", "name": "mlp"}
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


def test_augmentations_count_in_their_order_and_whatever_they_are_called(command, tmp_path):
    command("run", *QUICK, "aug=none", VIEW, MIX)
    other = command("run", *QUICK, "aug=none", MIX, VIEW)
    assert "trained 2 students" in other.err, other.err  # those without augmentation are in the store
    command("run", *QUICK, "aug=none", MIX, VIEW, "paths.store=fresh")
    _, shared, fresh = results(tmp_path)
    assert accuracies(shared) == accuracies(fresh)
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


def test_a_distiller_of_ones_own_that_was_edited_makes_other_data(command, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code, places = tmp_path / "edited_distiller.py", ("paths.distilled=made", "paths.distilled=begun")
    call = ["distill", "method=dm", "method.distiller.model=mlp", "method.distiller.iterations=2", "job.frames=0"]
    call += ["method.distiller.real_batch=8", "engine=eager", "engine.threads=1"]
    own = [*call, "method.distiller._target_=edited_distiller.DM"]
    code.write_text("from ddrank.distill.dm import DM as Ours\n\n\nclass DM(Ours):\n    pass\n")
    assert command(*own, places[0]).code == 0
    assert "is there already" in command(*own, places[0]).out
    command(*own, places[1], "job.stop_at=1")
    code.write_text(code.read_text().replace("pass", "version = 1"))
    del sys.modules["edited_distiller"]
    for edited in (own, call):
        assert "was made with other code of its distiller than that of now" in command(*edited, places[0]).sentence()
    assert "going on" not in command(*own, places[1], "job.stop_at=1").err
    assert len(list((tmp_path / "store/distillations").glob("*.pt"))) == 2


def test_a_key_means_the_code_that_was_imported_and_not_what_its_file_has_become(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = tmp_path / "edited_since.py"
    one, other = ({"_target_": f"edited_since.{name}"} for name in ("net", "built"))
    source = NETWORK + "\n\nbuilt = lambda: None\n"
    code.write_text(source.format(more=""))
    before, nested = identity(one), codes({"part": [one]})
    build(other, "model")
    first = hashlib.sha256(code.read_bytes()).hexdigest()
    code.write_text(source.format(more=", nn.Tanh()"))
    assert identity(one) == before == one | {"code": first}
    assert identity(other)["code"] == first  # asked for after the edit, and built before
    assert codes({"part": [one]}) == nested == {"edited_since.net": first}
    del sys.modules["edited_since"]
    assert identity(one) == one | {"code": hashlib.sha256(code.read_bytes()).hexdigest()}
    with pytest.raises(InputError, match=r"the file of edited_since.net was edited after it had been imported"):
        check_codes(nested)


def test_a_name_is_left_out_where_it_is_for_display_alone():
    named = {"_target_": "ddrank.models.MLP", "name": "mlp", "nested": {"name": "counts"}}
    assert identity(named) == {"_target_": "ddrank.models.MLP", "nested": {"name": "counts"}}
    own = {"_target_": "collections.namedtuple", "name": "may be an argument"}
    assert identity(own).items() > own.items()
    assert len(identity(own)["code"]) == 64
    assert identities({"name": "group", "part": named}) == [identity(named)]


OWN = {"_target_": "collections.namedtuple", "name": "may be an argument"}  # whatever is not ddrank's


def test_keys_hold_the_identities_of_their_components(composed, tmp_path):
    config = composed("method=dm", "aug=none")
    real, arms = all_arms(config)
    machine = (Store(tmp_path), Engine(), Display())
    space, arm = arms["syn_any"].space, replace(arms["syn_any"], criterion=OWN, aug={"first": VIEWS, "second": OWN})
    key = Measurer(config, real, *machine)._key(arm, 0, 0.1)
    assert (key["criterion"], key["aug"]) == (identity(OWN), [VIEWS, identity(OWN)])
    assert len(key["criterion"]["code"]) == len(key["aug"][1]["code"]) == 64
    config.dataset.teacher.aug = {"name": "two", "first": VIEWS, "second": OWN}
    room = TeacherRoom(config, real, *machine)
    key = room._key(OWN, space, 0)
    assert (key["model"], key["aug"]) == (identity(OWN), [VIEWS, identity(OWN)])
    assert room._key(MLP | {"name": "mine"}, space, 0) == room._key(MLP, space, 0)


def test_the_version_is_raised_with_the_form_of_keys(composed, tmp_path):
    """Or entries that can never be asked for again would stay in the store for good."""
    config = composed("method=dm")
    real, arms = all_arms(config)
    machine = (Store(tmp_path), Engine(), Display())
    measured = Measurer(config, real, *machine)._key(arms["rdm_any"], 0, 0.1)
    of_teacher = TeacherRoom(config, real, *machine)._key(MLP, arms["rdm_any"].space, 0)
    both = {"kind": str, "version": 3, "train": str, "model": dict, "training": dict, "aug": list, "lr": float}
    both |= {"seed": int, "precision": str}
    assert form(measured) == both | {"criterion": dict, "teachers": type(None)}
    assert form(of_teacher) == both


def form(key: dict) -> dict:
    return {name: value if name == "version" else type(value) for name, value in key.items()}


def test_a_batch_larger_than_the_data_is_the_data(command):
    command("run", *QUICK)
    assert "trained 0 students" in command("run", *QUICK, "train.batch_size=4000").err
    assert "trained 4 students" in command("run", *QUICK, "train.batch_size=5").err


def test_whitened_images_are_told_by_what_they_were_computed_from(tmp_path):
    """Their last digits are the machine's: two threads sum the products of a matrix in another order."""
    train, test, names = load_digits(Path())
    real = RealDataset("digits", train, test, names, (0.3,), (0.4,), 0.1, 5000)
    drawn, *others = (real.draw(1, torch.Generator().manual_seed(seed)) for seed in range(3))
    ours = DistilledDataset(drawn.floats(), drawn.labels, pixels=True, sha256="of the file", space="pixel")
    ours = replace(ours, others=tuple(more.floats() for more in others))
    here = fit_space("zca", real.train, real.mean, real.std, Store(tmp_path))
    elsewhere = replace(here, zca_matrix=here.zca_matrix * (1 + 1e-6 * torch.randn_like(here.zca_matrix)))
    found = []
    for space in (here, elsewhere):
        placed = ours.placed(space)
        found.append([space.samples(real.kept), space.samples(drawn), *(placed.samples(seed) for seed in range(3))])
        assert placed.samples(3).fingerprint == placed.samples(0).fingerprint
    for one, other in zip(*found, strict=True):
        assert not torch.equal(one.images, other.images)
        assert one.images.allclose(other.images, atol=1e-3)
        assert one.fingerprint == other.fingerprint
    assert len({samples.fingerprint for samples in found[0]}) == 5
    assert found[0][0][torch.arange(5)].fingerprint != found[0][0][torch.arange(1, 6)].fingerprint


def test_labels_of_teachers_are_told_by_the_teachers():
    images, labels = torch.randn(10, 1, 8, 8), torch.arange(10)
    soft = torch.randn(10, 10)
    one, other, stored = (
        *(Samples(images, labels, soft + digits, soft_from="theirs") for digits in (0, 1e-7)),
        Samples(images, labels, soft),
    )
    assert one.fingerprint == other.fingerprint != stored.fingerprint
    assert one.fingerprint != Samples(images, labels, soft, soft_from="others").fingerprint
