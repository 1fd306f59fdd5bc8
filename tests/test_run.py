"""python -m ddrank.run from end to end, on real data, at small size."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import QUICK, QUICK_SELECTION, results
from omegaconf import OmegaConf
from sklearn.linear_model import LogisticRegression
from wandb_files import read_run

from ddrank import config as schema
from ddrank import score
from ddrank.data import Space, load_real
from ddrank.errors import StoreWarning
from ddrank.result import Result


def arms(result: dict) -> dict:
    return {name: (arm["accuracy"], arm["lr"]) for name, arm in result["arms"].items()}


def test_an_evaluation_leaves_a_result_a_table_pictures_and_curves(command, tmp_path):
    outcome = command("run", *QUICK, "num_eval=2")
    assert outcome.code == 0, outcome.err
    for word in ("real_hard", "rdm_any_noaug", "DDRS", "2 seeds"):
        assert word in outcome.out
    (result,) = results(tmp_path)
    assert result["schema"] == "ddrank/result/1"
    assert set(result["arms"]) == set(score.ARMS)
    assert result["seeds"] == [0, 1]
    assert (result["method"], result["dataset"]) == ("dm", "digits")
    assert all(0 <= value <= 1 for arm in result["arms"].values() for value in arm["accuracy"])
    assert result["config"]["train"]["epochs"] == 3
    (folder,) = {path.parent for path in tmp_path.rglob("result.json")}
    assert {"result.json", "images.png", "curves.png", "fits.csv", "curves.csv"} <= {p.name for p in folder.iterdir()}
    header, *rows = (folder / "fits.csv").read_text().splitlines()
    assert header == "arm,seed,lr,accuracy,seconds"
    assert len(rows) == len(score.ARMS) * 2
    assert (tmp_path / "distilled/digits/dm/ipc1/grid.png").is_file()
    assert "making" in outcome.err  # it says that it made the missing data


def test_hard_label_methods_share_syn_hard_and_syn_any(command, tmp_path):
    command("run", *QUICK)
    (result,) = results(tmp_path)
    assert arms(result)["syn_hard"] == arms(result)["syn_any"]
    # real 1 + synthetic 1 + random 1 + both without augmentation 2: five students, each tuned and tested.
    outcome = command("run", *QUICK, "num_eval=2")
    assert "trained 5 students" in outcome.err, outcome.err


def test_the_same_command_again_trains_nothing_and_finds_the_same(command, tmp_path):
    first = command("run", *QUICK)
    assert "trained 5 students" in first.err
    again = command("run", *QUICK)
    assert "trained 0 students" in again.err
    one, two = results(tmp_path)
    assert arms(one) == arms(two)
    assert one["scores"] == two["scores"]


def test_without_the_store_the_numbers_come_out_to_the_last_bit(command, tmp_path):
    command("run", *QUICK, "num_eval=2", "aug=dsa")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    outcome = command("run", *QUICK, "num_eval=2", "aug=dsa")
    assert "trained 10 students" in outcome.err
    one, two = results(tmp_path)
    assert arms(one) == arms(two)
    losses = [sorted((tmp_path / folder / "measurements").rglob("*.json")) for folder in ("store", "elsewhere")]
    curves = [[json.loads(path.read_text())["value"]["losses"] for path in files] for files in losses]
    assert curves[0] == curves[1]


def test_another_weight_trains_nothing(command, tmp_path):
    command("run", *QUICK)
    assert "trained 0 students" in command("run", *QUICK, "score.w=0.9").err
    half, more = results(tmp_path)
    assert half["scores"]["ior"] == more["scores"]["ior"]
    expected = score.ddrs(more["scores"]["hlr"]["mean"], more["scores"]["ior"]["mean"], 0.9)
    assert more["scores"]["ddrs"]["mean"] == pytest.approx(expected)


def test_a_second_method_with_the_same_recipe_trains_only_its_own_students(command):
    command("run", *QUICK)
    outcome = command("run", *QUICK_SELECTION, "method=random")
    assert "trained 2 students" in outcome.err, outcome.err  # with and without augmentation


def test_a_sweep_over_seeds_finds_what_one_job_finds(command, tmp_path):
    command("run", *QUICK, "num_eval=3", "paths.store=one")
    (together,) = results(tmp_path / "runs")
    outcome = command("run", "-m", *QUICK, "seed=0,1,2", "num_eval=1", "paths.runs=swept", "paths.store=other")
    assert outcome.code == 0, outcome.err
    apart = results(tmp_path / "swept")
    assert [result["seeds"] for result in apart] == [[0], [1], [2]]
    for name in score.ARMS:
        assert together["arms"][name]["accuracy"] == [result["arms"][name]["accuracy"][0] for result in apart], name
    assert "rank" in outcome.out
    (ranking,) = (tmp_path / "swept").rglob("ranking.json")
    (entry,) = json.loads(ranking.read_text())["groups"][0]["entries"]
    assert "ddrs" in json.dumps(entry)


def test_a_sweep_goes_on_past_a_bad_job_and_says_so(command, tmp_path):
    outcome = command("run", "-m", *QUICK_SELECTION, "method=random", "ipc=1,1000")
    assert outcome.code == 2
    assert "ipc=1000" in outcome.err
    assert len(results(tmp_path)) == 1
    assert "rank" in outcome.out


@pytest.mark.slow
def test_killed_half_way_and_run_again(tmp_path):
    arguments = [sys.executable, "-m", "ddrank.run", *QUICK, "num_eval=3", "train.epochs=40", "logger=none"]
    running = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    entries = tmp_path / "store/measurements"
    deadline = time.monotonic() + 120
    while len(list(entries.rglob("*.json"))) < 4 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    finished = {path: path.read_bytes() for path in entries.rglob("*.json")}
    assert 4 <= len(finished) < 20
    assert not results(tmp_path)
    killed, again = (
        subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True).stderr for _ in range(2)
    )
    assert "trained 0 students" in again
    for path, content in finished.items():
        assert path.read_bytes() == content  # nothing that had finished was trained again
    undisturbed = subprocess.run(
        [*arguments, "paths.store=fresh"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    trained = [int(text.split("trained ")[-1].split()[0]) for text in (killed, undisturbed.stderr)]
    assert trained[0] + len(finished) >= trained[1] > trained[0]
    all_results = results(tmp_path)
    assert all(arms(result) == arms(all_results[-1]) for result in all_results)


@pytest.mark.parametrize(
    "arguments",
    [
        ("method.labels=single", "criterion=sce"),
        ("method.labels=single", "criterion=kl", "aug=mixup", "method.temperature=4"),
        ("method.labels=single", "criterion=mse_gt", "aug=cutmix"),
        ("method.labels=multi", "criterion=kl", "aug=cutmix"),
        ("method.labels=multi", "criterion=sce", "aug=mixup", "method.teachers=[convnet,mlp]"),
        ("method.labels=multi", "criterion=mse_gt", "aug=crop_mixup"),
        ("method.labels=multi", "criterion=kl", "method=noise", "aug=crop_flip"),
    ],
)
def test_soft_labels_of_every_kind(command, tmp_path, arguments):
    outcome = command("run", *QUICK_SELECTION, "method=random", *arguments)
    assert outcome.code == 0, outcome.err
    (result,) = results(tmp_path)
    assert result["labels"] in arguments[0]
    keys = [json.loads(path.read_text())["key"] for path in (tmp_path / "store/measurements").rglob("*.json")]
    criteria = {key["criterion"]["_target_"] for key in keys}
    assert len(criteria) == 2  # cross entropy for the hard arms, the chosen one for the others
    assert any(key["teachers"] for key in keys) == ("multi" in arguments[0])
    assert "trained the teacher" in outcome.err
    assert "trained the teacher" not in command("run", *QUICK_SELECTION, "method=random", *arguments).err


@pytest.mark.parametrize("method", ["sre2l", "rded", "d4m"])
def test_the_recipes_of_the_decoupled_methods_run_on_digits(command, tmp_path, method):
    command("distill", "method=random")
    data = ("method.distiller=null", "method.data=distilled/digits/random/ipc1")
    outcome = command("run", f"method={method}", *data, *QUICK_SELECTION)
    assert outcome.code == 0, outcome.err
    (result,) = results(tmp_path)
    assert (result["method"], result["labels"], result["criterion"]) == (method, "multi", "kl")


def test_zca_on_shapes(command, tmp_path):
    arguments = (
        "dataset=shapes",
        "dataset.size=8",
        "dataset.loader.train_per_class=30",
        "dataset.loader.test_per_class=5",
    )
    outcome = command(
        "run",
        *QUICK_SELECTION,
        "method=random",
        *arguments,
        "method.space=zca",
        "method.labels=single",
        "criterion=sce",
    )
    assert outcome.code == 0, outcome.err
    (result,) = results(tmp_path)
    assert result["dataset"] == "shapes-8px-10c"
    from safetensors import safe_open

    (path,) = (tmp_path / "distilled").rglob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["space"] == '"zca"'


def test_own_data_with_stored_soft_labels_and_learning_rate(command, tmp_path):
    torch.manual_seed(0)
    (tmp_path / "own").mkdir()
    torch.save(torch.randn(10, 1, 8, 8), tmp_path / "own/images.pt")
    torch.save(torch.randn(10, 10), tmp_path / "own/labels.pt")
    torch.save(torch.tensor(0.02), tmp_path / "own/lr.pt")
    outcome = command(
        "run",
        *QUICK_SELECTION,
        "method=custom",
        "method.name=ours",
        "method.data=own",
        "method.labels=single",
        "criterion=sce",
    )
    assert outcome.code == 0, outcome.err
    (result,) = results(tmp_path)
    assert result["method"] == "ours"
    rates = {name: arm["lr"] for name, arm in result["arms"].items()}
    assert rates["syn_any"] == rates["syn_any_noaug"] == [pytest.approx(0.02)]  # its own, not searched
    assert rates["rdm_any"] == rates["syn_hard"] == [0.05]


@pytest.mark.slow
def test_batch_normalisation_meets_no_batch_of_one(command):
    # Ten images in batches of three leave one over, and the last blocks of a ResNet are one pixel.
    outcome = command("run", *QUICK, "model=resnet18", "train.batch_size=3", "train.epochs=1", "train.step_size=1")
    assert outcome.code == 0, outcome.err


def test_a_timm_network_as_teacher(command):
    soft = ("method=random", "method.labels=multi", "criterion=kl", "method.teachers=[timm:resnet10t]")
    outcome = command("run", *QUICK_SELECTION, *soft)
    assert "trained the teacher resnet10t" in outcome.err, outcome.err


def test_teacher_weights_from_a_file(command, tmp_path):
    from ddrank.models import ConvNet

    torch.manual_seed(3)
    weights = tmp_path / "ckpt_best.pt"
    torch.save(ConvNet(num_classes=10, channels=1, size=8).state_dict(), weights)
    soft = ("method=random", "method.labels=multi", "criterion=kl", f"method.teacher_weights=[{weights}]")
    outcome = command("run", *QUICK_SELECTION, *soft)
    assert outcome.code == 0, outcome.err
    assert "trained the teacher" not in outcome.err
    assert "ckpt_best.pt, teacher convnet3: accuracy 0." in outcome.err
    torch.save(ConvNet(num_classes=10, channels=1, size=8).state_dict(), weights)
    assert "trained 4 students" in command("run", *QUICK_SELECTION, *soft).err  # other weights, other measurements


def test_what_a_teacher_from_a_file_knows_is_measured_and_said(command, tmp_path):
    """Logistic regression by scikit-learn in the weights of an MLP; and with its classes in another order."""
    config = OmegaConf.load(schema.folder() / "dataset" / "digits.yaml")
    real = load_real(OmegaConf.merge(config, {"validation": {"fraction": 0.1, "most": 5000}}), tmp_path)
    train, tests = (Space("normalized", real.mean, real.std).samples(part) for part in (real.kept, real.validation))
    known = LogisticRegression(max_iter=200).fit(train.floats().flatten(1), train.labels)
    expected = known.score(tests.floats().flatten(1), tests.labels)
    assert expected > 0.9
    lines = torch.tensor(known.coef_).float(), torch.tensor(known.intercept_).float()
    soft = ("method=random", "method.labels=multi", "criterion=kl", "method.teachers=[mlp]")
    for shift, beginning in ((0, f"accuracy {expected:.4f} on images held out"), (1, "accuracy 0.0")):
        weight, bias = (part.roll(shift, 0) for part in lines)
        weights = {
            "fc_1.weight": torch.cat([torch.eye(64), -torch.eye(64)]),
            "fc_2.weight": torch.eye(128),
            "fc_3.weight": torch.cat([weight, -weight], 1),
            **{"fc_1.bias": torch.zeros(128), "fc_2.bias": torch.zeros(128), "fc_3.bias": bias},
        }
        torch.save(weights, tmp_path / "teacher.pt")
        outcome = command("run", *QUICK_SELECTION, *soft, "method.teacher_weights=[teacher.pt]", "plan=true")
        assert "accuracy" not in outcome.err  # a plan computes nothing
        outcome = command("run", *QUICK_SELECTION, *soft, "method.teacher_weights=[teacher.pt]")
        assert outcome.code == 0, outcome.err
        (said,) = [line for line in outcome.err.splitlines() if "teacher.pt, teacher mlp: " in line]
        assert beginning in said
        assert ("its classes may be in another order" in said) == bool(shift)


def test_images_of_unknown_space_are_not_taken_for_another_than_the_methods(command, tmp_path):
    """As MTT's files are whitened where its published evaluation is not."""
    torch.save(torch.randn(10, 1, 8, 8), tmp_path / "images.pt")
    own = ("method=custom", "method.data=images.pt", "method.made_in=zca")
    sentence = command("run", *QUICK_SELECTION, *own).sentence()
    assert "images.pt does not say in which space its images are" in sentence
    assert "say method.space=zca for such images, or method.made_in=normalized for others" in sentence
    assert not (tmp_path / "runs").exists()
    for setting in ("method.space=zca", "method.made_in=normalized"):
        assert command("run", *QUICK_SELECTION, *own, setting).code == 0


def test_the_ddranking_protocol_chooses_on_the_test_set(command, tmp_path):
    outcome = command(
        "run",
        *QUICK,
        "protocol=ddranking",
        "protocol.lrs=[0.001,0.1]",
        "num_eval=2",
        "train.epochs=20",
        "train.step_size=50",
    )
    assert outcome.code == 0, outcome.err
    (result,) = results(tmp_path)
    assert result["protocol"] == "ddranking"
    entries = [json.loads(path.read_text()) for path in (tmp_path / "store/measurements").rglob("*.json")]
    for name in ("rdm_any", "syn_any"):
        for seed, accuracy, lr in zip((0, 1), *arms(result)[name], strict=True):
            of_seed = [
                entry
                for entry in entries
                if entry["key"]["seed"] == seed and entry["value"]["accuracy"] == accuracy and entry["key"]["lr"] == lr
            ]
            assert of_seed
            # The student's accuracy is the best of its tests, which come every ten epochs.
            tests = of_seed[0]["value"]["tests"]
            assert [epoch for epoch, _ in tests] == [10, 20]
            assert accuracy == max(value for _, value in tests)
    # Searched for each seed: two rates and two seeds for four arms, one rate for the real data.
    assert "trained 18 students" in outcome.err, outcome.err
    assert result["arms"]["real_hard"]["lr"] == [0.05, 0.05]  # the dataset's own


def test_wandb_offline_leaves_a_run_that_wandb_reads_back(command, tmp_path):
    outcome = command("run", *QUICK, "logger=wandb")
    assert outcome.code == 0, outcome.err
    (result,) = results(tmp_path)
    (file,) = tmp_path.rglob("run-*.wandb")
    found = read_run(file)
    assert found.run.run_group == "digits-ipc1-mlp"
    assert list(found.run.tags) == ["dm"]
    assert found.summary["score/ddrs"] == pytest.approx(result["scores"]["ddrs"]["mean"])
    assert found.summary["arm/syn_any"] == pytest.approx(result["arms"]["syn_any"]["accuracy"][0])
    assert found.summary["lr/rdm_any"] == 0.05
    losses = {
        row["curve/epoch"]: row["curve/syn_any/seed0/training_loss"]
        for row in found.history
        if "curve/syn_any/seed0/training_loss" in row
    }
    assert len(losses) == 3


def test_tensorboard_and_no_logger(command, tmp_path):
    assert command("run", *QUICK, "logger=tensorboard").code == 0
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    assert command("run", *QUICK, "logger=none", "paths.runs=bare").code == 0
    assert not list((tmp_path / "bare").rglob("*.csv"))


def test_scores_of_a_result_are_those_of_its_arms(command, tmp_path):
    command("run", *QUICK, "num_eval=2")
    (path,) = tmp_path.rglob("result.json")
    result = Result.load(path)
    real, hard = (result.arms[name].accuracy for name in ("real_hard", "syn_hard"))
    assert result.scores["hlr"].per_seed == tuple(a - b for a, b in zip(real, hard, strict=True))
    content = json.loads(path.read_text())
    assert content["scores"]["hlr"]["mean"] == pytest.approx(sum(result.scores["hlr"].per_seed) / 2)


def test_a_corrupt_entry_is_reported_and_measured_again(command, tmp_path):
    command("run", *QUICK)
    (entry, *_) = sorted((tmp_path / "store/measurements").rglob("*.json"))
    good = entry.read_bytes()
    entry.write_bytes(good[: len(good) // 2])
    with pytest.warns(StoreWarning, match="corrupt") as warned:
        outcome = command("run", *QUICK)
    assert sum(one.category is StoreWarning for one in warned) == 1
    assert outcome.code == 0
    one, two = results(tmp_path)
    assert arms(one) == arms(two)
    assert json.loads(entry.read_bytes())["value"]["accuracy"] == json.loads(good)["value"]["accuracy"]


@pytest.mark.slow
def test_full_size_model_names(command, tmp_path):
    outcome = command("run", *QUICK, "model=torchvision", "model.arch=resnet18", "train.epochs=1", "train.step_size=1")
    assert outcome.code == 0, outcome.err
    assert results(tmp_path)[0]["model"] == "resnet18"
