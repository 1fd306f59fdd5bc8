"""result.json: what is written comes back, and nothing broken is believed."""

from __future__ import annotations

import json
import math
import re

import pytest

from ddrank.errors import InputError
from ddrank.result import Arm, Result
from ddrank.score import ARMS


def make() -> Result:
    return Result(
        method="dm",
        dataset="digits",
        ipc=10,
        model="convnet3",
        aug="dsa",
        criterion="ce",
        labels="hard",
        protocol="strict",
        seeds=[3, 4],
        arms={name: Arm([0.5 + 0.01 * place, 0.6 + 0.01 * place], [0.01, 0.02]) for place, name in enumerate(ARMS)},
        w=0.25,
        g=0.75,
        distilled={"path": "distilled/digits/dm/ipc10/distilled.safetensors", "sha256": "ab" * 32},
        environment={"device": "cpu"},
        seconds={"total": 1.5},
        config={"train": {"epochs": 300}},
    )


@pytest.fixture
def file(tmp_path):
    return make().save(tmp_path / "run" / "result.json")


def changed(file, change):
    """The file with its content passed through `change`, and without a checksum, as earlier versions wrote it."""
    content = json.loads(file.read_text())
    content.pop("sha256")
    change(content)
    file.write_text(json.dumps(content))
    return file


def refused(file) -> str:
    with pytest.raises(InputError) as caught:
        Result.load(file)
    sentence = str(caught.value)
    assert str(file) in sentence
    assert "\n" not in sentence
    return sentence


def test_a_result_comes_back_as_it_was(file):
    assert Result.load(file) == make()


def test_the_file_is_of_the_documented_form(file):
    content = json.loads(file.read_text())
    assert content["schema"] == "ddrank/result/1"
    assert content["arms"]["real_hard"] == {"accuracy": [0.5, 0.6], "lr": [0.01, 0.02], "source": "measured"}
    assert set(content["scores"]) == {"hlr", "ior", "ddrs", "ars"}
    assert content["scores"]["hlr"]["per_seed"] == pytest.approx([-0.01, -0.01])
    assert content["scores"]["ddrs"] == {
        "mean": pytest.approx(make().scores["ddrs"].mean),
        "std": pytest.approx(0.0, abs=1e-12),
        "n": 2,
        "per_seed": pytest.approx(list(make().scores["ddrs"].per_seed)),
    }


def test_scores_are_at_the_results_own_weights():
    # hlr -0.01 and ior 0.02 - 0.03 = -0.01, at w 0.25: a = 0.25 * -0.01 + 0.75 * 0.01 = 0.005
    expected = (math.exp(0.005) - math.exp(-1)) / (math.exp(1) - math.exp(-1))
    assert make().scores["ddrs"].per_seed[0] == pytest.approx(expected)


def test_stored_scores_are_not_believed(file):
    changed(file, lambda content: content["scores"]["ddrs"].update(mean=0.99))
    assert Result.load(file).scores["ddrs"] == make().scores["ddrs"]


def test_a_result_without_the_arms_of_ars_has_the_other_scores(file):
    changed(file, lambda content: content["arms"].pop("syn_any_noaug"))
    assert set(Result.load(file).scores) == {"hlr", "ior", "ddrs"}


def test_saving_replaces_the_file_and_leaves_nothing_beside_it(file):
    make().save(file)
    assert [path.name for path in file.parent.iterdir()] == ["result.json"]


def test_a_number_that_json_does_not_know_is_not_written(file):
    before = file.read_bytes()
    arms = {**make().arms, "syn_any": Arm([float("nan"), 0.5], [0.01, 0.01])}
    with pytest.raises(ValueError, match="nan"):
        Result(**{**vars(make()), "arms": arms}).save(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content.update(schema="ddrank/result/99"), "schema 'ddrank/result/99', expected"),
        (lambda content: content.pop("schema"), "schema None, expected"),
        (lambda content: content.pop("method"), "lacks method"),
        (lambda content: [content.pop(key) for key in ("arms", "w")], "lacks arms, w"),
        (lambda content: content["distilled"].pop("sha256"), "lacks 'sha256'"),
        (lambda content: content.update(arms={}), "lacks every arm"),
        (lambda content: content.update(arms=[]), "not a whole result"),
        (lambda content: content["arms"].update(syn_all=content["arms"]["syn_any"]), "unknown arm 'syn_all'"),
        (lambda content: content["arms"]["syn_any"].pop("lr"), "not a whole result"),
        (lambda content: content["arms"]["syn_any"].update(accuracy=[0.5]), "1 accuracies and 2 learning rates"),
        (lambda content: content["arms"]["syn_any"].update(lr=[0.1] * 3), "2 accuracies and 3 learning rates"),
        (lambda content: content["arms"]["syn_any"].update(accuracy=[52.0, 61.0]), "syn_any .*not percent"),
        (lambda content: content["arms"]["syn_any"].update(accuracy=[0.5, float("nan")]), "syn_any .*outside"),
        (lambda content: content["arms"]["syn_any"].update(accuracy=["0.5", "0.6"]), "not a whole result"),
        (lambda content: content["arms"]["syn_any"].update(accuracy={"3": 0.5, "4": 0.6}), "syn_any .*lists"),
        (lambda content: content.update(seeds=[3, 3]), "different numbers"),
        (lambda content: content.update(seeds=[]), "different numbers"),
        (lambda content: content.update(seeds=["3", "4"]), "whole numbers"),
        (lambda content: content.update(seeds=2), "whole numbers"),
        (lambda content: content.update(ipc="10"), "ipc is '10'"),
        (lambda content: content.update(ipc=0), "ipc is 0"),
        (lambda content: content.update(w=50), "weight"),
        (lambda content: content.update(method=""), "method is ''"),
        (lambda content: content.update(method=7), "method is 7"),
        (lambda content: content.update(method="dm\x1b[2J\n"), "printable"),
        (lambda content: content.update(config=[]), "config is \\[\\]"),
        (lambda content: content.update(distilled="images.pt"), "distilled is 'images.pt'"),
    ],
)
def test_a_broken_result_is_refused(file, change, says):
    sentence = refused(changed(file, change))
    assert re.search(says, sentence), sentence


@pytest.mark.parametrize("content", ["", "no json", "[" * 100_000])
def test_what_is_not_json_is_refused(file, content):
    file.write_text(content)
    assert "not JSON" in refused(file)


def test_a_number_that_is_not_the_written_one_is_refused(file):
    file.write_text(file.read_text().replace("0.51", "0.50", 1))
    assert "its checksum does not fit" in refused(file)


def test_no_bit_of_a_file_changes_what_is_read(file):
    written = file.read_bytes()
    for place in range(len(written)):
        file.write_bytes(written[:place] + bytes([written[place] ^ (1 << place % 8)]) + written[place + 1 :])
        try:
            assert Result.load(file) == make(), place
        except InputError:
            continue
    file.write_bytes(written)
    assert Result.load(file) == make()


def test_half_a_file_is_refused(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "not JSON" in refused(file)


def test_other_bytes_are_refused(file):
    file.write_bytes(b"\x80\x04\x95\xff")
    assert "not JSON" in refused(file)


@pytest.mark.parametrize("content", ["[]", "3", "null"])
def test_json_that_is_no_result_is_refused(file, content):
    file.write_text(content)
    assert "expected 'ddrank/result/1'" in refused(file)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "cannot be read" in refused(tmp_path / "result.json")
