"""The protocols: what is trained, what is looked at, what is chosen, what is kept."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import QUICK, results

from ddrank.arms import arms as build_arms
from ddrank.data import DistilledDataset, Space, load_real

THREE = [argument for argument in QUICK if not argument.startswith("protocol.lrs")] + ["protocol.lrs=[0.001,0.02,0.1]"]


def entries(path) -> list[dict]:
    return [json.loads(file.read_text()) for file in (path / "store/measurements").rglob("*.json")]


def test_strict_chooses_on_validation_and_tests_each_final_student_once(command, tmp_path):
    outcome = command("run", *THREE, "num_eval=2")
    assert outcome.code == 0, outcome.err
    (result,) = results(tmp_path)
    # Five distinct arms (syn_hard is syn_any): three rates on the tuning seed looked at on validation images, then two
    # students looked at on the test set.
    everything = entries(tmp_path)
    sets = {entry["key"]["tested_on"] for entry in everything}
    assert len(sets) == 2
    counts = sorted(sum(entry["key"]["tested_on"] == one for entry in everything) for one in sets)
    assert counts == [5 * 2, 5 * 3]
    (validation,) = (one for one in sets if sum(e["key"]["tested_on"] == one for e in everything) == 15)
    assert {e["key"]["seed"] for e in everything if e["key"]["tested_on"] == validation} == {0}
    # The chosen rate is the best on validation, for every arm.
    for name in ("real_hard", "syn_any", "rdm_any", "syn_any_noaug", "rdm_any_noaug"):
        (lr,) = set(result["arms"][name]["lr"])
        final = next(
            entry["key"]
            for entry in everything
            if entry["key"]["tested_on"] != validation
            and entry["key"]["seed"] == 0
            and entry["key"]["lr"] == lr
            and entry["value"]["accuracy"] == result["arms"][name]["accuracy"][0]
        )
        tuned = {
            entry["key"]["lr"]: entry["value"]["accuracy"]
            for entry in everything
            if entry["key"]["tested_on"] == validation
            and all(entry["key"][part] == final[part] for part in ("train", "aug", "training"))
        }
        assert len(tuned) == 3
        assert tuned[lr] == max(tuned.values())
    # 3 rates and 1 further seed for each of 5 arms: the tuning seed's student is not trained twice.
    assert "trained 20 students" in outcome.err, outcome.err
    assert not list((tmp_path / "store/tensors").rglob("*.safetensors"))  # nor are weights left lying about


def test_the_tuning_seed_is_fixed(command, tmp_path):
    command("run", *THREE, "seed=3", "num_eval=1")
    command("run", *THREE, "seed=0", "num_eval=4", "paths.store=other")
    apart, together = results(tmp_path)
    for name, arm in apart["arms"].items():
        assert arm["lr"] == together["arms"][name]["lr"][3:]
        assert arm["accuracy"] == together["arms"][name]["accuracy"][3:]


def test_what_one_protocol_leaves_in_the_store_is_not_taken_up_by_the_other(command, tmp_path):
    """Strict keeps the tuning seed's student where that seed is not evaluated; its tests on the way are not in it."""
    long = [*QUICK, "train.epochs=20", "train.step_size=10"]
    command("run", *long, "seed=1")
    assert list((tmp_path / "store/tensors").rglob("*.safetensors"))
    command("run", *long, "protocol=ddranking")
    command("run", *long, "protocol=ddranking", "paths.store=other")
    _, after, fresh = results(tmp_path)
    assert after["arms"] == fresh["arms"]


def test_a_kill_between_choosing_and_testing_costs_no_training(command, tmp_path, monkeypatch):
    from ddrank import measure

    kept = measure.Store.drop_tensors
    monkeypatch.setattr(measure.Store, "drop_tensors", lambda *arguments: None)
    command("run", *THREE)
    monkeypatch.setattr(measure.Store, "drop_tensors", kept)
    (first,) = results(tmp_path)
    everything = [(path, json.loads(path.read_text())) for path in (tmp_path / "store/measurements").rglob("*.json")]
    sets = {entry["key"]["tested_on"] for _, entry in everything}
    (tests,) = (one for one in sets if sum(entry["key"]["tested_on"] == one for _, entry in everything) == 5)
    for path, entry in everything:
        if entry["key"]["tested_on"] == tests:
            path.unlink()
    assert "trained 0 students" in command("run", *THREE).err
    assert results(tmp_path)[1]["arms"] == first["arms"]


def all_arms(config, teachers=None, **distilled):
    import torch

    real = load_real(config.dataset, "data")
    made = DistilledDataset(torch.zeros(10, 1, 8, 8), torch.arange(10), **distilled)
    space = Space("normalized", real.mean, real.std)
    return real, {arm.name: arm for arm in build_arms(config, real, made, space, space, teachers)}


def test_what_each_arm_is_trained_on(composed):
    import torch

    real, arms = all_arms(composed("method=dm"))
    assert len(arms["real_hard"].samples(0)) == len(real.kept) == 1297 - len(real.validation)
    assert arms["syn_hard"].aug == arms["syn_any"].aug != {}
    assert arms["syn_any_noaug"].aug == arms["rdm_any_noaug"].aug == {}
    first, second = arms["rdm_any"].samples(0), arms["rdm_any"].samples(1)
    assert first.labels.tolist() == list(range(10))
    assert not torch.equal(first.images, second.images)  # a fresh draw for each seed
    assert torch.equal(first.images, arms["rdm_any_noaug"].samples(0).images)
    pixels = (first.images * real.std[0] + real.mean[0]).flatten(1)
    assert float(torch.cdist(pixels, real.kept.images.flatten(1)).min(1).values.max()) < 1e-4
    assert float(torch.cdist(pixels, real.validation.images.flatten(1)).min(1).values.min()) > 0.01


def test_soft_label_arms(composed):
    import torch

    class Labelled:
        fingerprint = "teacher"

        def label(self, images):
            return images.flatten(1)[:, :10]

    _, arms = all_arms(
        composed(
            "method=random", "method.labels=single", "criterion=kl", "method.aug_for_hard=false", "method.relabel=false"
        ),
        Labelled(),
        soft_labels=torch.eye(10),
        lr=0.3,
    )
    assert torch.equal(arms["syn_any"].samples(0).soft, torch.eye(10))
    random = arms["rdm_any"].samples(0)
    assert torch.equal(random.soft, random.images.flatten(1)[:, :10])  # made for these images
    assert (random.soft_from, arms["syn_any"].samples(0).soft_from) == (
        "teacher",
        None,
    )  # theirs, in keys; and the file's
    assert arms["syn_any"].lr == 0.3
    assert arms["rdm_any"].lr is None
    assert arms["syn_hard"].lr is None
    assert arms["syn_hard"].samples(0).soft is None
    assert arms["syn_hard"].aug == {}  # DSA acts on the batch
    assert arms["syn_any"].teachers is None
    _, arms = all_arms(composed("method=random", "method.labels=multi", "criterion=kl"), Labelled())
    assert arms["syn_any"].teachers is arms["rdm_any_noaug"].teachers is not None
    assert arms["syn_hard"].teachers is None


def test_the_ddranking_protocol_trains_real_data_as_long_as_the_method(composed):
    real, arms = all_arms(composed("method=dm", "protocol=ddranking", "train.epochs=77", "train.step_size=5"))
    assert arms["real_hard"].training.epochs == 77
    assert arms["real_hard"].lr == 0.05
    assert len(arms["real_hard"].samples(0)) == len(real.train)  # nothing is held out


def test_without_aug_for_hard_the_views_remain(composed):
    _, arms = all_arms(composed("method=sre2l"))
    assert set(arms["syn_any"].aug) == {"view", "mixup"}
    assert set(arms["syn_hard"].aug) == {"view"}
    assert arms["syn_any_noaug"].aug == {}


def test_settings_that_change_nothing_are_no_part_of_a_key(command):
    command("run", *QUICK)
    same = ("train.betas=[0.1,0.2]", "train.cosine_span=0.7")
    assert "trained 0 students" in command("run", *QUICK, *same).err
    assert "trained 4 students" in command("run", *QUICK, "train.momentum=0.8").err


def test_a_later_tuning_seed_is_not_trained_twice(command):
    assert "trained 10 students" in command("run", *QUICK, "seed=1").err  # tuned on seed 0, tested on seed 1
    assert "trained 0 students" in command("run", *QUICK, "seed=0").err


def test_a_given_learning_rate_wins_over_the_files_and_what_is_left_unused_is_said(command, tmp_path):
    (tmp_path / "ours").mkdir()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in (("images", torch.randn(10, 1, 8, 8, generator=generator)), ("lr", torch.tensor(0.02))):
        torch.save(tensor, tmp_path / "ours" / f"{name}.pt")
    data = [*QUICK[:-1], "method=custom", f"method.data={tmp_path}/ours"]
    assert "unused" not in command("run", *data).err
    assert "unused" not in command("run", *data, "method.lr=0.02").err
    given = command("run", *data, "method.lr=0.5").err
    assert "its learning rate 0.02 is left unused, by method.lr=0.5; method.lr=null would take it" in given
    assert [result["arms"]["syn_any"]["lr"] for result in results(tmp_path)] == [
        *([pytest.approx(0.02)], [pytest.approx(0.02)], [0.5])
    ]


@pytest.mark.parametrize(
    ("settings", "by"),
    [
        (["method.labels=hard"], "method.labels=hard"),
        (["method.labels=single", "method.relabel=true", "criterion=kl"], "method.relabel=true"),
        (["method.labels=multi", "criterion=kl"], "method.labels=multi"),
    ],
    ids=["hard", "relabelled", "multi"],
)
def test_soft_labels_that_are_left_unused_are_said(command, tmp_path, settings, by):
    (tmp_path / "ours").mkdir()
    generator = torch.Generator().manual_seed(0)
    images, soft = torch.randn(10, 1, 8, 8, generator=generator), 5 * torch.eye(10)
    torch.save(images, tmp_path / "ours" / "images.pt")
    torch.save(soft, tmp_path / "ours" / "labels.pt")
    outcome = command("run", *QUICK[:-1], "method=custom", f"method.data={tmp_path}/ours", *settings)
    assert f"its soft labels are left unused, by {by}" in outcome.err, outcome.err
