"""ddrank in Python: the same evaluation as the command's, from tensors and from files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import ddrank
from ddrank import InputError
from ddrank.override import override

QUICK = {
    "model": "mlp",
    "num_eval": 1,
    "protocol.lrs": [0.05],
    "train.epochs": 3,
    "train.step_size": 2,
    "dataset.real.epochs": 1,
    "dataset.teacher.epochs": 1,
    "engine.workers": 1,
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def images(seed: int = 0, ipc: int = 1) -> torch.Tensor:
    return torch.randn(10 * ipc, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_tensors_and_the_command_give_the_same_numbers(command, tmp_path):
    result = ddrank.evaluate(images(), dataset="digits", ipc=1, **QUICK)
    torch.save(images(), tmp_path / "images.pt")
    settings = [override(key, value) for key, value in QUICK.items()]
    outcome = command("run", "method=custom", "method.data=images.pt", "dataset=digits", "ipc=1", *settings)
    assert outcome.code == 0, outcome.err
    assert "trained 0 students" in outcome.err  # all of them came from the store
    file = next(path for path in tmp_path.glob("runs/digits/custom-ipc1/*/result.json") if path.parent.name < "9999")
    assert result.arms["syn_any"].accuracy == ddrank.Result.load(file).arms["syn_any"].accuracy


def test_the_evaluated_tensors_stay_beside_the_result(tmp_path):
    given = images(1)
    labels = torch.arange(10).flip(0)
    result = ddrank.evaluate(given.numpy(), labels.numpy(), dataset="digits", ipc=1, folder=tmp_path / "mine", **QUICK)
    kept = ddrank.load_distilled(tmp_path / "mine")
    order = torch.argsort(labels)
    assert torch.equal(kept.images[kept.labels.argsort()], given[order])
    assert json.loads((tmp_path / "mine" / "result.json").read_text())["scores"] == json.loads(
        json.dumps(result.to_dict()["scores"])
    )


def test_soft_labels_are_used_as_single_labels_unless_said_otherwise():
    soft = torch.eye(10) * 3
    result = ddrank.evaluate(images(), soft_labels=soft, dataset="digits", ipc=1, **QUICK)
    assert (result.labels, result.criterion) == ("single", "sce")
    again = ddrank.evaluate(images(), soft_labels=soft, dataset="digits", ipc=1, criterion="kl", **QUICK)
    assert (again.labels, again.criterion) == ("single", "kl")


def test_soft_labels_beside_a_path(tmp_path):
    torch.save(images(), tmp_path / "images.pt")
    soft = np.eye(10, dtype=np.float32) * 3
    result = ddrank.evaluate(tmp_path / "images.pt", soft_labels=soft, dataset="digits", ipc=1, **QUICK)
    assert result.arms["syn_any"].accuracy == (
        ddrank.evaluate(images(), soft_labels=soft, dataset="digits", ipc=1, **QUICK).arms["syn_any"].accuracy
    )


def test_a_methods_own_recipe_is_used_by_its_name():
    result = ddrank.evaluate(images(), dataset="digits", ipc=1, method="dm", lr=0.03, **QUICK)
    assert (result.method, result.aug) == ("dm", "dsa")
    assert result.arms["syn_any"].lr == [0.03]
    assert ddrank.evaluate(images(), dataset="digits", ipc=1, method="ours", **QUICK).method == "ours"


def test_tables():
    result = ddrank.evaluate(images(), dataset="digits", ipc=1, method="a_b", **QUICK)
    accuracy = f"{result.arms['real_hard'].accuracy[0]:.4f}"
    assert f"│ real_hard     │   {accuracy} │" in result.table()
    assert f"| real_hard | {accuracy} | - | 0.05 |" in result.table("markdown")
    assert rf"real\_hard & {accuracy} & - \\" in result.table("latex")
    assert f"<td>{accuracy}</td>" in result._repr_html_()
    with pytest.raises(InputError, match="no table style 'word': choose one of text, markdown, latex, html"):
        result.table("word")


@pytest.mark.parametrize("arguments, sentence", [
    ({"images": torch.zeros(9, 1, 8, 8)}, "9 images, expected 10"),
    ({"images": torch.zeros(10, 64)}, "of shape (10, 64), expected floating point of shape"),
    ({"images": torch.zeros(10, 1, 8, 8, dtype=torch.uint8)}, "pixels as bytes: give images / 255"),
    ({"images": torch.zeros(10, 1, 8, 8), "labels": torch.eye(10)}, "give a row for each image as soft_labels="),
    ({"images": "no/such/folder"}, "no/such/folder"),
    ({"images": object()}, "images are a object, expected a tensor"),
    ({"images": "x.pt", "labels": [1]}, "labels are given beside a path"),
    ({"images": images(), "labels": [0] * 10}, "class"),
    ({"images": images(), "soft_labels": torch.zeros(10, 3)}, "soft labels"),
    ({"images": images(), "method": "DM "}, "method is 'DM ': write 'dm' for the recipe of that method"),
    ({"images": images(), "method": "../up"}, "method.name is '../up', expected a name that a folder can have"),
    ({"images": "a${x}b"}, "x"),
    ({"images": "x" * 300}, "does not exist"),
    ({"images": images(), "dataset": "digit"}, "dataset=digit is not known (did you mean digits?)"),
    ({"images": images(), "num_evals": 1}, "num_eval"),
    ({"images": images(), "train.epochs": torch}, "train.epochs is"),
    ({"images": images(), "ipc": 0}, "ipc is 0, expected 1 or more"),
])  # fmt: skip
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments, sentence, tmp_path):
    with pytest.raises(InputError) as caught:
        ddrank.evaluate(
            **({"dataset": "digits", "ipc": 1} | {k: v for k, v in QUICK.items() if k != "ipc"} | arguments)
        )
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("value, written", [
    ("a'b", r"k='a\'b'"), ("end\\", r"k='end\\'"), ("null", "k='null'"), ("10", "k='10'"),
    ([1, "a b", None], "k=[1,'a b',null]"),
    ({"resnet18": 0.5}, "k={resnet18:0.5}"), (np.float64(0.5), "k=0.5"), (torch.tensor(3), "k=3"), (True, "k=true"),
])  # fmt: skip
def test_settings_from_python_reach_hydra_as_they_are(value, written):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert override("k", value) == written
    expected = value.item() if hasattr(value, "item") else value
    assert OverridesParser.create().parse_override(written).value() == expected


def test_a_reference_accuracy_stands_in_for_real_hard_and_is_marked(command, tmp_path):
    reference = {"dataset.real_hard_reference": {"mlp": 0.9}}
    result = ddrank.evaluate(images(), dataset="digits", ipc=1, folder="one", **QUICK, **reference)
    assert result.arms["real_hard"].accuracy == [0.9]
    assert result.arms["real_hard"].source == "reference"
    assert next(iter(result.arms)) == "real_hard"
    assert result.scores["hlr"].per_seed[0] == pytest.approx(0.9 - result.arms["syn_hard"].accuracy[0])
    content = json.loads((tmp_path / "one" / "result.json").read_text())
    assert content["arms"]["real_hard"] == {"accuracy": [0.9], "lr": [None], "source": "reference"}
    assert "real_hard" not in (tmp_path / "one" / "fits.csv").read_text()
    for style in ("text", "markdown", "html", "latex"):
        assert "published reference, not measured" in result.table(style)
    latex = result.table("latex")
    assert r"real\_hard$^{*}$ & 0.9000 & - \\" in latex
    assert "HLR$^{*}$ &" in latex
    assert "IOR &" in latex
    other = ddrank.evaluate(
        images(), dataset="digits", ipc=1, **QUICK, **{"dataset.real_hard_reference": {"lenet": 0.9}}
    )
    assert other.arms["real_hard"].source == "measured"
    with pytest.raises(InputError, match=r"real_hard_reference\.mlp is 90, expected a fraction"):
        ddrank.evaluate(images(), dataset="digits", ipc=1, **QUICK, **{"dataset.real_hard_reference": {"mlp": 90}})


def test_a_reference_is_marked_in_rankings(tmp_path):
    from ddrank.leaderboard.rank import Ranking
    from ddrank.leaderboard.tables import to_csv, to_json, to_markdown

    ddrank.evaluate(images(), dataset="digits", ipc=1, **QUICK, **{"dataset.real_hard_reference": {"mlp": 0.9}})
    ranking = Ranking.from_runs([tmp_path / "runs"])
    assert "0.9000*" in to_markdown(ranking)
    assert "*: a published reference, not measured" in to_markdown(ranking)
    assert ",real_hard," in to_csv(ranking)
    assert json.loads(to_json(ranking))["groups"][0]["entries"][0]["arms"]["real_hard"]["source"] == "reference"


@pytest.mark.parametrize(
    ("factor", "said", "mend"),
    [
        (1, {}, "method.space=pixel, given to ddrank.evaluate"),
        (1, {"method.space": "zca"}, "method.space=pixel, given to ddrank.evaluate"),
        (255, {}, "images = images / 255 before saving, and method.space=pixel, given to ddrank.evaluate"),
    ],
)
def test_values_in_another_space_are_mended_by_an_argument(tmp_path, factor, said, mend):
    pixels = factor * torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError) as refused:
        ddrank.evaluate(pixels, dataset="digits", ipc=1, folder=tmp_path / "mine", **QUICK, **said)
    assert f"but method.space of ddrank.evaluate says {said.get('method.space', 'normalized')}: " in str(refused.value)
    assert f"; mend it with {mend};" in str(refused.value)
    assert "the file made again" not in str(refused.value)
    again = ddrank.evaluate(pixels / factor, dataset="digits", ipc=1, **QUICK, **{"method.space": "pixel"})
    assert again.config["method"]["space"] == "pixel"


@pytest.mark.slow  # the doctor trains a network
def test_the_doctor_tells_the_same_of_values_in_another_space(command, tmp_path):
    pixels = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError):
        ddrank.evaluate(pixels, dataset="digits", ipc=1, folder=tmp_path / "mine", **QUICK)
    shown = " ".join(command("doctor", "mine", "dataset=digits", "engine=eager").out.split())
    assert "given to ddrank.evaluate" in shown
    assert "the file made again" not in shown


def test_what_was_refused_as_impossible_stays_to_be_looked_at(tmp_path):
    with pytest.raises(InputError, match="no value is below 0") as caught:
        ddrank.evaluate(images().abs().clamp(0, 1), dataset="digits", ipc=1, folder="refused", **QUICK)
    assert str(caught.value).startswith("refused/distilled.safetensors")
    assert (tmp_path / "refused/distilled.safetensors").is_file()
