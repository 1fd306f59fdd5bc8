"""The leaderboard: collecting, merging, ranking, and what it writes."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console
from scipy import stats

from ddrank import score
from ddrank.errors import InputError
from ddrank.leaderboard import Ranking, figures, tables, terminal
from ddrank.leaderboard.__main__ import main
from ddrank.leaderboard.architectures import architectures
from ddrank.leaderboard.collect import Apart, Run, collect, find
from ddrank.leaderboard.latex import to_latex
from ddrank.leaderboard.sweep import PrintRanking
from ddrank.result import Arm, Result
from ddrank.score import ARMS

# Of two methods, one is better on HLR and the other on IOR: which one is ahead depends on w.
RECOVERS = dict(zip(ARMS, (0.9, 0.8, 0.70, 0.65, 0.6, 0.6), strict=True))  # HLR 0.1, IOR 0.05
IMPROVES = dict(zip(ARMS, (0.9, 0.5, 0.75, 0.55, 0.6, 0.5), strict=True))  # HLR 0.4, IOR 0.2
COLUMNS = 2 + 4 + 3 + len(ARMS) + 1  # of a Markdown table: rank and method, scores, intervals, arms, n
MIDDLING = dict(zip(ARMS, (0.9, 0.6, 0.65, 0.60, 0.6, 0.6), strict=True))  # HLR 0.3, IOR 0.05


def result(method="dm", seeds=(0,), accuracies=RECOVERS, step=0.01, **changes) -> Result:
    """A result whose accuracies grow by `step` with the seed on the distilled arms."""
    config = {
        "seed": seeds[0],
        "num_eval": len(seeds),
        "score": {"w": 0.5, "g": 0.5},
        "paths": {"runs": "runs"},
        "logger": {"name": "csv"},
        "engine": {"name": "auto", "threads": 1, "precision": "32-true"},
        "method": {"name": method, "data": f"distilled/digits/{method}/ipc1"},
        "aug": {"name": "none"},
        "train": {"epochs": 300},
    }
    arms = {
        name: Arm([value + step * seed * name.startswith("syn") for seed in seeds], [0.01 + seed for seed in seeds])
        for name, value in accuracies.items()
    }
    made = Result(
        method=method,
        dataset="digits",
        ipc=1,
        model="convnet3",
        aug="none",
        criterion="ce",
        labels="hard",
        protocol="strict",
        seeds=list(seeds),
        arms=arms,
        w=0.5,
        g=0.5,
        distilled={"path": f"distilled/digits/{method}/ipc1/distilled.safetensors", "sha256": "ab" * 32},
        config=config,
    )
    return replace(made, **changes)


def configured(original: Result, **values) -> Result:
    """`original` with other values in its config, by dotted keys with '__' for the dot."""
    config = OmegaConf.create(original.config)
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    return replace(original, config=OmegaConf.to_container(config))


def put(folder: Path, *results: Result) -> list[Path]:
    """Each result as a run of its own in `folder`."""
    count = len(list(folder.glob("*/result.json")))
    return [made.save(folder / str(count + index) / "result.json") for index, made in enumerate(results)]


def names(ranking: Ranking) -> list[list[str]]:
    return [[entry.name for entry in group.entries] for group in ranking.groups]


def shown(ranking: Ranking, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    terminal.show(ranking, console)
    return console.file.getvalue()


class TestFinding:
    def test_result_files_are_found_at_any_nesting(self, tmp_path):
        here = result("a").save(tmp_path / "result.json")
        deep = result("b").save(tmp_path / "x" / "y" / "z" / "result.json")
        (tmp_path / "x" / "other.json").write_text("{}")
        files, apart = find([tmp_path])
        assert set(files) == {here, deep}
        assert apart == []

    def test_a_file_given_by_name_may_have_any_name(self, tmp_path):
        path = result("a").save(tmp_path / "best of all.json")
        assert find([path]) == ([path], [])
        assert names(Ranking.from_runs([path])) == [["a"]]

    def test_a_single_folder_or_file_needs_no_list(self, tmp_path):
        (file,) = put(tmp_path, result("a"))
        for given in (str(tmp_path), tmp_path, file):
            assert names(Ranking.from_runs(given)) == [["a"]]

    def test_a_file_reached_twice_counts_once(self, tmp_path):
        (path,) = put(tmp_path, result())
        (tmp_path / "again").symlink_to(tmp_path / "0", target_is_directory=True)
        (tmp_path / "0" / "circle").symlink_to(tmp_path, target_is_directory=True)
        files, _ = find([tmp_path, path, tmp_path / "again" / "result.json"])
        assert len(files) == 1

    def test_linked_folders_are_followed(self, tmp_path):
        put(tmp_path / "elsewhere", result())
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        assert len(find([tmp_path / "runs"])[0]) == 1

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("/home/ada/runs", "dm/0/result.json"),
            ("/home/ada/runs/dm/0/result.json", "result.json"),
            ("../../../home/ada", "runs/dm/0/result.json"),
            ("../../../home/ada/result.json", "result.json"),
            (".", "runs/dm/0/result.json"),
            ("runs", "dm/0/result.json"),
            ("runs/dm/0/result.json", "runs/dm/0/result.json"),
        ],
    )
    def test_others_are_told_the_place_of_a_file_below_the_folder_that_was_given(self, given, expected):
        root = Path(given)
        files = (root if root.suffix else root / expected,)
        sentence = f"{files[0]} and {files[0]}.old cannot be read"
        ranking = Ranking.of([Run(result(), files)], [Apart(files, sentence)], roots=[root]).at(w=0.1)
        assert tables.to_dict(ranking)["groups"][0]["entries"][0]["files"] == [expected]
        why = f"{expected} and {expected}.old cannot be read"
        assert tables.to_dict(ranking)["set_apart"] == [{"files": [expected], "why": why}]

    def test_a_folder_that_cannot_be_listed_is_told_without_its_path(self):
        ranking = Ranking.of([])
        assert [ranking.place(Path(path)) for path in ("/", "..", "../..", "/mnt/runs")] == [".", ".", ".", "runs"]

    def test_a_path_that_does_not_exist_is_an_error(self, tmp_path):
        put(tmp_path, result())
        with pytest.raises(InputError, match="nowhere does not exist"):
            find([tmp_path, tmp_path / "nowhere"])

    def test_broken_files_are_set_apart_and_the_rest_is_kept(self, tmp_path):
        put(tmp_path, result("a"), result("b"), result("c"), result("d"))
        (tmp_path / "0" / "result.json").write_text("{")
        percent = json.loads((tmp_path / "1" / "result.json").read_text())
        percent["arms"]["syn_any"]["accuracy"] = [70.0]
        (tmp_path / "1" / "result.json").write_text(json.dumps(percent))
        lacking = json.loads((tmp_path / "2" / "result.json").read_text())
        del lacking["arms"]["rdm_any"], lacking["sha256"]
        (tmp_path / "2" / "result.json").write_text(json.dumps(lacking))
        runs, apart = collect([tmp_path])
        assert [run.result.method for run in runs] == ["d"]
        said = {str(item.files[0].parent.name): item.sentence for item in apart}
        assert "not JSON" in said["0"]
        assert "not percent" in said["1"]
        assert "lacks the arm rdm_any" in said["2"]

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"schema": "ddrank/result/0"}, "has the schema 'ddrank/result/0', expected 'ddrank/result/1'"),
            ({"seeds": [0, 0]}, "seeds [0, 0] are not one or more different numbers"),
            ({"seeds": [0, 1, 2]}, "2 accuracies and 2 learning rates for 3 seeds"),
            ({"arms": []}, "is not a whole result"),
            ({"protocol": "ddranking"}, "its protocol is 'ddranking', and 'strict' in its config (protocol.name)"),
            ({"ipc": 10}, "its ipc is 10, and 1 in its config (ipc)"),
        ],
    )
    def test_a_file_that_contradicts_itself_is_set_apart_with_the_reason(self, tmp_path, change, sentence):
        whole = configured(result("bad", seeds=[0, 1]), protocol__name="strict", ipc=1)
        put(tmp_path, whole, result("good", seeds=[0, 1]))
        file = tmp_path / "0" / "result.json"
        unchecked = {name: part for name, part in json.loads(file.read_text()).items() if name != "sha256"}
        file.write_text(json.dumps(unchecked | change))
        ranking = Ranking.from_runs([tmp_path])
        assert names(ranking) == [["good"]]
        (apart,) = ranking.apart
        assert str(file) in apart.sentence
        assert sentence in apart.sentence


class TestMerging:
    def test_one_file_a_seed_becomes_one_run_in_seed_order(self, tmp_path):
        put(tmp_path, *(result(seeds=[seed]) for seed in (2, 0, 1)))
        together = result(seeds=[0, 1, 2])
        runs, apart = collect([tmp_path])
        assert apart == []
        assert len(runs) == 1
        assert runs[0].result.seeds == [0, 1, 2]
        assert runs[0].result.arms == together.arms
        assert len(runs[0].files) == 3

    def test_the_numbers_are_those_of_one_job_with_all_seeds(self, tmp_path):
        put(tmp_path / "sweep", *(result(seeds=[seed]) for seed in (2, 0, 1)))
        put(tmp_path / "job", result(seeds=[0, 1, 2]))
        sweep, job = (Ranking.from_runs([tmp_path / part]).groups[0].entries[0] for part in ("sweep", "job"))
        assert sweep.scores == job.scores
        assert sweep.scores["ddrs"].n == 3
        assert sweep.scores["ddrs"].std > 0

    @pytest.mark.parametrize(
        "other",
        [
            {"paths__runs": "elsewhere", "paths__data": "/data"},
            {"logger__name": "wandb"},
            {"score__w": 0.9},
            {"engine__threads": 8, "engine__accelerator": "cpu"},
            {"method__data": "elsewhere/dm"},
            {"num_eval": 7},
            {"dataset__loader__decode_gib": 0},
        ],
    )
    def test_settings_that_change_no_number_do_not_divide(self, tmp_path, other):
        put(tmp_path, result(seeds=[0]), configured(result(seeds=[1]), **other))
        assert names(Ranking.from_runs([tmp_path])) == [["dm"]]

    @pytest.mark.parametrize(
        ("other", "label"),
        [
            (configured(replace(result(seeds=[1]), aug="dsa"), aug__name="dsa"), "dm (aug=dsa)"),
            (replace(result(seeds=[1]), criterion="kl"), "dm (criterion=kl)"),
            (replace(result(seeds=[1]), labels="multi"), "dm (labels=multi)"),
            (replace(result(seeds=[1]), distilled={"path": "x", "sha256": "cd" * 32}), "dm (data=cdcdcdcd)"),
            (configured(result(seeds=[1]), train__epochs=1000), "dm (train.epochs=1000)"),
            (configured(result(seeds=[1]), engine__precision="bf16-mixed"), "dm (engine.precision=bf16-mixed)"),
            (configured(result(seeds=[1]), method__temperature=4.0), "dm (method.temperature=4.0)"),
            (
                configured(replace(result(seeds=[1]), aug="dsa"), aug__name="dsa", aug__flip=True, train__epochs=9),
                "dm (aug=dsa, train.epochs=9)",
            ),
        ],
    )
    def test_settings_that_change_numbers_divide_and_are_shown(self, tmp_path, other, label):
        put(tmp_path, result(seeds=[0]), other)
        (found,) = names(Ranking.from_runs([tmp_path]))
        assert len(found) == 2
        assert label in found

    def test_augmentations_in_another_order_divide(self, tmp_path):
        view, mix = {"view": {"_target_": "Views"}}, {"mixup": {"_target_": "MixUp"}}
        orders = ({"name": "none"} | view | mix, {"name": "none"} | mix | view)
        put(tmp_path, *(configured(result(seeds=[seed]), aug=aug) for seed, aug in enumerate(orders)))
        (found,) = names(Ranking.from_runs([tmp_path]))
        assert len(found) == 2

    @pytest.mark.parametrize(
        "other",
        [
            *({"dataset__real__epochs": 1}, {"dataset__size": 64}, {"dataset__validation__fraction": 0.2}),
            *({"dataset__loader__test_resize": 72}, {"dataset__loader__squash": True}),
            *({"protocol__lrs": [0.1]}, {"protocol__best_checkpoint": True}),
            *({"protocol__real__search": False}, {"protocol__real__epochs": 1}, {"protocol__real__batch_size": 8}),
        ],
        ids=str,
    )
    def test_what_has_another_real_hard_is_ranked_apart(self, tmp_path, other):
        put(tmp_path, result(), configured(result(), **other))
        assert len(Ranking.from_runs([tmp_path]).groups) == 2

    @pytest.mark.parametrize(
        "others",
        [
            [{}, {"dataset__loader__test_resize": None, "dataset__loader__squash": False}],  # as in earlier versions
            [{"train__epochs": count, "protocol__real__epochs": count} for count in (300, 1000)],  # the methods' own
            [{"dataset__loader__folder": name} for name in ("imagenet", "imagenette2")],
        ],
        ids=["unset", "epochs", "folder"],
    )
    def test_what_changes_no_real_hard_is_ranked_together(self, tmp_path, others):
        put(tmp_path, *(configured(result(), **other) for other in others))
        assert len(Ranking.from_runs([tmp_path]).groups) == 1

    def test_a_setting_that_only_one_of_them_has_is_shown_as_unset(self, tmp_path):
        put(tmp_path, result(), configured(result(), method__temperature=4.0))
        assert "dm (method.temperature=unset)" in names(Ranking.from_runs([tmp_path]))[0]

    def test_many_differences_are_cut_down_and_long_ones_told_apart_by_a_hash(self, tmp_path):
        put(tmp_path, result(), configured(result(), **{f"train__setting{index}": index for index in range(9)}))
        (few,) = names(Ranking.from_runs([tmp_path]))
        assert set(few) == {"dm (train.setting0=0, …)", "dm (train.setting0=unset, …)"}
        alike = ("a" * 80 + end for end in "xy")
        put(tmp_path / "long", *(configured(result(), train__note=note) for note in alike))
        (long,) = names(Ranking.from_runs([tmp_path / "long"]))
        assert len(set(long)) == 2
        assert all(re.fullmatch(r"dm \(train\.note=a+…, #[0-9a-f]{8}\)", name) for name in long)

    def test_the_same_seed_with_the_same_accuracies_counts_once(self, tmp_path):
        put(tmp_path, result(seeds=[0, 1]), result(seeds=[1, 2]), result(seeds=[0, 1]))
        (entry,) = Ranking.from_runs([tmp_path]).groups[0].entries
        assert entry.result.seeds == [0, 1, 2]
        assert entry.result.arms == result(seeds=[0, 1, 2]).arms

    def test_the_same_seed_with_other_accuracies_sets_its_configuration_apart(self, tmp_path):
        files = put(tmp_path, result(seeds=[0]), result(seeds=[1]), result(seeds=[0], step=0, accuracies=MIDDLING))
        put(tmp_path, result("random"))
        ranking = Ranking.from_runs([tmp_path])
        assert names(ranking) == [["random"]]
        (apart,) = ranking.apart
        assert set(apart.files) == set(files)
        assert str(files[0]) in apart.sentence
        assert str(files[2]) in apart.sentence
        assert "seed 0" in apart.sentence


class TestRanking:
    def test_the_highest_ddrs_comes_first(self, tmp_path):
        put(
            tmp_path,
            result("middling", accuracies=MIDDLING),
            result("recovers"),
            result("improves", accuracies=IMPROVES),
        )
        (group,) = Ranking.from_runs([tmp_path], w=0.5).groups
        # a = 0.5 * IOR - 0.5 * HLR: -0.025, -0.1, -0.125
        assert [(entry.rank, entry.name) for entry in group.entries] == [
            (1, "recovers"),
            (2, "improves"),
            (3, "middling"),
        ]
        assert group.entries[0].scores["ddrs"].mean == pytest.approx(score.ddrs(0.1, 0.05, 0.5))

    def test_w_changes_the_order(self, tmp_path):
        put(tmp_path, result("recovers"), result("improves", accuracies=IMPROVES))
        assert names(Ranking.from_runs([tmp_path], w=0.0)) == [["recovers", "improves"]]
        assert names(Ranking.from_runs([tmp_path], w=1.0)) == [["improves", "recovers"]]

    def test_w_and_g_are_the_rankings_and_not_the_files(self, tmp_path):
        put(tmp_path, result("improves", accuracies=IMPROVES, w=0.9, g=0.9))
        scores = Ranking.from_runs([tmp_path], w=0.2, g=0.3).groups[0].entries[0].scores
        assert scores["ddrs"].mean == pytest.approx(score.ddrs(0.4, 0.2, 0.2))
        assert scores["ars"].mean == pytest.approx(score.ars(0.2, 0.1, 0.3))

    def test_equal_scores_share_a_rank(self, tmp_path):
        shifted = {name: value - 0.2 for name, value in RECOVERS.items()}  # the same differences but for rounding
        assert shifted["real_hard"] - shifted["syn_hard"] != RECOVERS["real_hard"] - RECOVERS["syn_hard"]
        middling = result("middling", accuracies=MIDDLING)
        put(tmp_path, result("b"), result("a", accuracies=shifted), middling, result("c", accuracies=IMPROVES))
        (group,) = Ranking.from_runs([tmp_path]).groups
        assert [(entry.rank, entry.name) for entry in group.entries] == [(1, "a"), (1, "b"), (3, "c"), (4, "middling")]
        assert [group.is_best(entry, "ddrs") for entry in group.entries] == [True, True, False, False]

    def test_only_what_is_comparable_is_ranked_together(self, tmp_path):
        others = [{"dataset": "mnist5k"}, {"ipc": 10}, {"ipc": 2}, {"model": "vgg11"}, {"protocol": "ddranking"}]
        put(tmp_path, result(), *(result(**other) for other in others))
        groups = Ranking.from_runs([tmp_path]).groups
        assert [(group.dataset, group.ipc, group.model, group.protocol) for group in groups] == [
            ("digits", 1, "convnet3", "ddranking"),
            ("digits", 1, "convnet3", "strict"),
            ("digits", 1, "vgg11", "strict"),
            ("digits", 2, "convnet3", "strict"),
            ("digits", 10, "convnet3", "strict"),
            ("mnist5k", 1, "convnet3", "strict"),
        ]
        assert all([entry.rank for entry in group.entries] == [1] for group in groups)
        assert groups[0].title == "digits, IPC 1, convnet3, protocol ddranking"

    def test_different_protocols_are_ranked_apart_and_said(self, tmp_path, capsys):
        put(tmp_path, result("a"), result("b"), result("b", protocol="ddranking"), result("c", ipc=10))
        ranking = Ranking.from_runs([tmp_path])
        assert names(ranking) == [["b"], ["a", "b"], ["c"]]
        (note,) = ranking.notes
        assert note.startswith("digits, IPC 1, convnet3 was evaluated under different protocols (ddranking, strict)")
        assert main([str(tmp_path)]) == 0
        assert capsys.readouterr().err.splitlines() == [f"ddrank: {note}"]
        assert json.loads(tables.to_json(ranking))["notes"] == [note]

    @pytest.mark.parametrize(
        ("settings", "variant"),
        [
            ([{"model__width": 64}, {"model__width": 128}], "model.width"),
            ([{"protocol__select_on": "test"}, {"protocol__select_on": "validation"}], "protocol.select_on"),
        ],
    )
    def test_models_and_protocols_of_one_name_and_other_settings_are_ranked_apart(self, tmp_path, settings, variant):
        put(tmp_path, *(configured(result(), **setting) for setting in settings))
        groups = Ranking.from_runs([tmp_path]).groups
        values = sorted(str(value) for setting in settings for value in setting.values())
        assert sorted(group.variant for group in groups) == sorted(f"{variant}={value}" for value in values)
        assert {group.title for group in groups} == {
            f"digits, IPC 1, convnet3, protocol strict ({variant}={value})" for value in values
        }

    def test_the_best_of_hlr_is_the_lowest(self, tmp_path):
        put(tmp_path, result("recovers"), result("improves", accuracies=IMPROVES))
        (group,) = Ranking.from_runs([tmp_path]).groups
        best = {key: [entry.name for entry in group.entries if group.is_best(entry, key)] for key in score.SCORES}
        assert best == {"hlr": ["recovers"], "ior": ["improves"], "ddrs": ["recovers"], "ars": ["improves"]}

    @pytest.mark.parametrize("weights", [{"w": -0.1}, {"w": float("nan")}, {"g": 2}])
    def test_weights_outside_the_unit_interval_are_refused(self, tmp_path, weights):
        put(tmp_path, result())
        with pytest.raises(InputError, match=f"the weight {next(iter(weights))} is"):
            Ranking.from_runs([tmp_path], **weights)


class TestOutputs:
    @pytest.fixture
    def ranking(self, tmp_path):
        put(tmp_path, result("recovers", seeds=[0, 1, 2]), result("improves", seeds=[0, 1], accuracies=IMPROVES))
        put(tmp_path, result("recovers", ipc=10))
        return Ranking.from_runs([tmp_path], w=0.25, g=0.75)

    def test_csv_has_a_row_an_entry_at_full_precision(self, ranking):
        rows = list(csv.DictReader(io.StringIO(tables.to_csv(ranking))))
        assert [(row["ipc"], row["rank"], row["method"]) for row in rows] == [
            ("1", "1", "recovers"),
            ("1", "2", "improves"),
            ("10", "1", "recovers"),
        ]
        entries = [entry for group in ranking.groups for entry in group.entries]
        for row, entry in zip(rows, entries, strict=True):
            for name, statistic in entry.scores.items():
                assert (float(row[f"{name}_mean"]), float(row[f"{name}_std"])) == (statistic.mean, statistic.std)
            for name, arm in entry.result.arms.items():
                assert float(row[f"{name}_mean"]) == fmean(arm.accuracy)
            assert (float(row["w"]), float(row["g"]), int(row["n"])) == (0.25, 0.75, len(entry.result.seeds))
        assert rows[0]["seeds"] == "0 1 2"

    def test_json_holds_enough_to_recompute_every_score(self, ranking):
        content = json.loads(tables.to_json(ranking))
        assert (content["schema"], content["w"], content["g"]) == ("ddrank/ranking/1", 0.25, 0.75)
        assert [(group["dataset"], group["ipc"], group["model"], group["protocol"]) for group in content["groups"]] == [
            ("digits", 1, "convnet3", "strict"),
            ("digits", 10, "convnet3", "strict"),
        ]
        first = content["groups"][0]["entries"][0]
        assert (first["rank"], first["method"], first["seeds"]) == (1, "recovers", [0, 1, 2])
        again = score.scores({name: arm["accuracy"] for name, arm in first["arms"].items()}, content["w"], content["g"])
        for name, statistic in again.items():
            assert first["scores"][name]["mean"] == statistic.mean
            assert tuple(first["scores"][name]["per_seed"]) == statistic.per_seed

    def test_markdown_shows_the_best_in_bold(self, ranking):
        text = tables.to_markdown(ranking)
        assert "## digits, IPC 10, convnet3, protocol strict" in text
        recovers, improves = (
            re.search(rf"^\| \d \| {name} .*$", text, re.M).group() for name in ("recovers", "improves")
        )
        _, _, _, ddrs, ior, hlr, *_ = map(str.strip, recovers.split("|"))
        statistics = ranking.groups[0].entries[0].scores
        assert ddrs == f"**{statistics['ddrs'].mean:.4f} ± {statistics['ddrs'].std:.4f}**"
        assert hlr == f"**{statistics['hlr'].mean:.4f} ± {statistics['hlr'].std:.4f}**"
        assert ior == f"{statistics['ior'].mean:.4f} ± {statistics['ior'].std:.4f}"
        assert improves.count("**") == 4  # IOR and ARS

    def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head(self, ranking):
        lines = [line for line in tables.to_markdown(ranking).splitlines() if line.startswith("|")]
        assert len(lines) == 2 * 2 + 3
        assert {line.count("|") for line in lines} == {COLUMNS + 1}

    @pytest.mark.parametrize("width", [80, 120, 160])
    def test_the_terminal_table_fits(self, ranking, width):
        text = shown(ranking, width)
        assert max(map(len, text.splitlines())) <= width
        assert all(group.title in text for group in ranking.groups)
        first = ranking.groups[0].entries[0].scores
        (row,) = re.findall(r"^ +1  recovers .* 3 *$", text, re.M)
        assert f"{first['ddrs'].mean:.4f} ± {first['ddrs'].std:.4f}" in row
        assert all(f"{first[name].mean:.4f}" in row for name in score.SCORES)
        assert (f"{first['hlr'].std:.4f}" in row) == (width == 160)
        assert ("noaug" in text) == (width >= 120)

    def test_a_narrow_terminal_still_shows_rank_name_and_ddrs(self, ranking):
        text = shown(ranking, 32)
        assert max(map(len, text.splitlines())) <= 32
        assert re.search(rf"1  recovers +{ranking.groups[0].entries[0].scores['ddrs'].mean:.4f}", text)

    def test_one_seed_has_no_spread(self, tmp_path):
        put(tmp_path, result(seeds=[4]))
        text = shown(Ranking.from_runs([tmp_path]), 80)
        assert "±" not in text.split("DDRS at")[0]

    def test_a_score_without_its_arms_stays_empty(self, tmp_path):
        put(tmp_path, result("whole"), result("part", accuracies={arm: RECOVERS[arm] for arm in ARMS[:4]}))
        ranking = Ranking.from_runs([tmp_path])
        (row,) = [row for row in csv.DictReader(io.StringIO(tables.to_csv(ranking))) if row["method"] == "part"]
        assert (row["ars_mean"], row["syn_any_noaug_mean"]) == ("", "")
        assert re.search(r"^ +1  part .* -  1 *$", shown(ranking, 80), re.M)
        (entry,) = [e for e in json.loads(tables.to_json(ranking))["groups"][0]["entries"] if e["method"] == "part"]
        assert "ars" not in entry["scores"]

    @pytest.mark.parametrize(
        "name", ["<script>alert(1)</script>", "[red]dm[/red]", "[/]", "a|b", "`**x**`", "a,b\"c'd", "=1+1", "数据 é"]
    )
    def test_names_are_data_and_never_markup(self, tmp_path, name):
        put(tmp_path, result(name), result("dm"))
        ranking = Ranking.from_runs([tmp_path])
        assert name in shown(ranking, 140)
        assert name in {row["method"] for row in csv.DictReader(io.StringIO(tables.to_csv(ranking)))}
        assert name in {entry["method"] for entry in json.loads(tables.to_json(ranking))["groups"][0]["entries"]}
        text = tables.to_markdown(ranking)
        assert "<script>" not in text
        rows = [line for line in text.splitlines() if line.startswith("| 1 |")]
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {COLUMNS + 1}
        assert not re.search(r"(?<!\\)[\[\]`]", text)

    def test_settings_that_would_steer_the_terminal_are_made_harmless(self, tmp_path):
        put(tmp_path, result(), configured(result(), train__note="\x1b[2J\n\x9b2J\u202e"))
        text = shown(Ranking.from_runs([tmp_path]), 140)
        assert not set(text) & set("\x1b\x9b\u202e")
        assert "train.note=" in text


def simulated(method: str, hard: float, syn: float, seed: int, shared: int | None = 0, **changes) -> Result:
    """A result over 5 seeds whose arms vary by 0.003; real_hard and rdm_any are those of all with the same `shared`."""
    own, common = (
        np.random.default_rng([seed, 1]),
        np.random.default_rng([2, *([100 + seed] if shared is None else [shared])]),
    )
    arms = {
        name: Arm((mean + spread * source.standard_normal(5)).tolist(), [0.01] * 5)
        for name, mean, spread, source in [
            ("real_hard", 0.95, 0.003, common),
            ("rdm_any", 0.50, 0.05, common),
            ("syn_hard", hard, 0.003, own),
            ("syn_any", syn, 0.003, own),
        ]
    }
    return replace(result(method, seeds=range(5)), arms=arms, **changes)


class TestCertainty:
    def test_entries_say_how_sure_their_ranks_are(self, tmp_path):
        put(tmp_path, simulated("a", 0.80, 0.80, 1), simulated("b", 0.80, 0.801, 2), simulated("c", 0.5, 0.7, 3))
        (group,) = Ranking.from_runs([tmp_path]).groups
        places = {entry.name: entry.places for entry in group.entries}
        assert places == {"a": (1, 2), "b": (1, 2), "c": (3, 3)}
        assert [entry.tied for entry in group.entries] == [True, True, False]
        first, second, last = group.entries
        assert group.tied_with(first) == (second.name,)
        assert group.tied_with(last) == ()
        assert first.first + second.first == pytest.approx(1, abs=0.001)
        assert last.first < 0.001
        n, mean, std = 5, first.scores["ddrs"].mean, first.scores["ddrs"].std
        assert first.interval("ddrs") == pytest.approx(stats.t.interval(0.95, n - 1, mean, std / n**0.5))
        assert first.interval("ars") is None

    def test_methods_that_share_their_random_images_are_told_apart_sooner(self, tmp_path):
        put(tmp_path / "shared", simulated("a", 0.80, 0.80, 1), simulated("b", 0.77, 0.77, 2))
        put(tmp_path / "own", simulated("a", 0.80, 0.80, 1, shared=None), simulated("b", 0.77, 0.77, 2, shared=None))
        assert not Ranking.from_runs([tmp_path / "shared"]).groups[0].entries[0].tied
        assert Ranking.from_runs([tmp_path / "own"]).groups[0].entries[0].tied

    def test_nothing_depends_on_the_order_of_the_files(self, tmp_path):
        files = put(tmp_path, *(simulated(f"m{seed}", 0.8, 0.8, seed, shared=seed % 2) for seed in range(4)))
        assert Ranking.from_runs(files) == Ranking.from_runs(files[::-1])

    def test_one_seed_has_no_intervals_and_is_tied_with_all(self, tmp_path):
        put(tmp_path, result("one", seeds=[7]), simulated("a", 0.80, 0.80, 1), simulated("b", 0.6, 0.5, 2))
        (group,) = Ranking.from_runs([tmp_path]).groups
        (one,) = [entry for entry in group.entries if entry.name == "one"]
        assert (one.places, one.first, one.interval("ddrs")) == ((1, 3), None, None)
        assert set(group.tied_with(one)) == {"a", "b"}
        assert "| - | 1–3 = | - |" in tables.to_markdown(Ranking.from_runs([tmp_path]))

    def test_a_reference_has_no_interval(self, tmp_path):
        measured = simulated("a", 0.8, 0.8, 1)
        arms = measured.arms | {"real_hard": Arm([0.95] * 5, [None] * 5, "reference")}
        put(tmp_path, replace(measured, arms=arms))
        (entry,) = Ranking.from_runs([tmp_path]).groups[0].entries
        assert entry.interval("real_hard") is None
        assert entry.interval("syn_any") is not None

    def test_the_sweep_shows_who_only_looked_good(self, tmp_path):
        # By accuracy b is first; its hard labels recover little, so that it is last but where w counts IOR alone.
        put(tmp_path, simulated("a", 0.80, 0.80, 1), simulated("b", 0.40, 0.85, 2), simulated("c", 0.7, 0.7, 3))
        (group,) = Ranking.from_runs([tmp_path]).groups
        order = [entry.name for entry in group.entries]
        accuracy, at_0, at_1 = (
            dict(zip(order, ranks.tolist(), strict=True))
            for ranks in (group.sweep.accuracy, group.sweep.ranks[0], group.sweep.ranks[-1])
        )
        assert accuracy == at_1 == {"b": 1, "a": 2, "c": 3}
        assert at_0 == {"a": 1, "c": 2, "b": 3}
        assert (group.sweep.tau[0], group.sweep.tau[-1]) == pytest.approx((-1 / 3, 1))
        for w in (0.0, 0.37, 1.0):
            again = {entry.name: entry.rank for entry in Ranking.from_runs([tmp_path], w=w).groups[0].entries}
            assert again == dict(zip(order, group.sweep.ranks[round(100 * w)].tolist(), strict=True))

    def test_another_weight_needs_no_file(self, tmp_path):
        files = put(tmp_path, simulated("a", 0.80, 0.80, 1), simulated("b", 0.40, 0.85, 2))
        ranking, expected = Ranking.from_runs([tmp_path]), Ranking.from_runs([tmp_path], w=0.9, g=0.1)
        for file in files:
            file.unlink()
        assert ranking.at(w=0.9, g=0.1) == expected

    def test_all_outputs_hold_intervals_and_ties(self, tmp_path):
        put(tmp_path, simulated("a", 0.80, 0.80, 1), simulated("b", 0.5, 0.7, 2))
        ranking = Ranking.from_runs([tmp_path])
        (first, _) = ranking.groups[0].entries
        row, _ = ranking.to_dicts()
        assert (row["rank_low"], row["rank_high"], row["first"], row["tied"]) == (1, 1, first.first, False)
        assert first.first > 0.99
        assert (row["ddrs_low"], row["ddrs_high"]) == first.interval("ddrs")
        assert (row["syn_any_low"], row["syn_any_high"]) == first.interval("syn_any")
        content = json.loads(tables.to_json(ranking))["groups"][0]
        assert content["entries"][0]["rank_interval"] == [1, 1]
        assert tuple(content["entries"][0]["intervals"]["ddrs"]) == first.interval("ddrs")
        assert content["sweep"]["ranks"][5] == [1, 2]
        low, high = first.interval("ddrs")
        assert rf"| \[{low:.4f}, {high:.4f}\] | 1 | 1.00 |" in ranking._repr_markdown_()
        assert "Kendall's tau" in ranking._repr_markdown_()
        assert re.search(rf"\[{low:.4f}, {high:.4f}\] +1 +1.00", shown(ranking, 160))


class TestArchitectures:
    def test_mean_and_worst_over_models(self, tmp_path):
        for model, harm in (("convnet3", 0.0), ("vgg11", 0.1)):
            put(tmp_path, simulated("a", 0.80 - harm, 0.80, 1, model=model))
            put(tmp_path, simulated("b", 0.79, 0.79 - harm / 10, 2, model=model))
        put(tmp_path, simulated("c", 0.9, 0.9, 3))
        ranking = Ranking.from_runs([tmp_path])
        (table,) = architectures(ranking)
        assert (table.models, [row.name for row in table.rows]) == (("convnet3", "vgg11"), ["b", "a", "c"])
        scores = {
            (group.model, entry.name): entry.scores["ddrs"] for group in ranking.groups for entry in group.entries
        }
        b, _, c = table.rows
        own = [scores[model, "b"] for model in table.models]
        assert b.models == tuple(statistic.mean for statistic in own)
        assert (b.mean, b.worst) == (pytest.approx(fmean(b.models)), min(b.models))
        seeds = [fmean(pair) for pair in zip(*(statistic.per_seed for statistic in own), strict=True)]
        assert b.interval == pytest.approx(stats.t.interval(0.95, 4, fmean(seeds), stats.sem(seeds)))
        assert (c.models[1], c.mean, c.interval, c.worst) == (None, None, None, None)
        assert f"| b | {b.models[0]:.4f} | **{b.models[1]:.4f}** | **{b.mean:.4f}** |" in tables.to_markdown(ranking)
        assert json.loads(tables.to_json(ranking))["architectures"][0]["rows"][0]["worst"] == b.worst

    def test_other_images_are_another_row(self, tmp_path):
        other = {"path": "x", "sha256": "cd" * 32}
        put(tmp_path, simulated("a", 0.8, 0.8, 1), simulated("a", 0.8, 0.8, 1, model="vgg11", distilled=other))
        (table,) = architectures(Ranking.from_runs([tmp_path]))
        assert [row.name for row in table.rows] == ["a (data=abababab)", "a (data=cdcdcdcd)"]
        assert [row.mean for row in table.rows] == [None, None]

    def test_a_method_keeps_its_row_where_it_was_tried_in_two_ways_with_one_model(self, tmp_path):
        short = {**simulated("a", 0.8, 0.8, 1).config, "train": {"epochs": 30}}
        put(tmp_path, simulated("a", 0.8, 0.8, 1), simulated("a", 0.7, 0.7, 2, config=short))
        put(tmp_path, simulated("a", 0.8, 0.8, 3, model="vgg11"))
        (table,) = architectures(Ranking.from_runs([tmp_path]))
        found = [(row.name, None in row.models) for row in table.rows]
        assert found == [("a (train.epochs=300)", False), ("a (train.epochs=30)", True)]

    def test_other_choices_are_no_other_model(self, tmp_path):
        config = simulated("a", 0.8, 0.8, 1).config | {"protocol": {"name": "strict", "select_on": "test"}}
        put(tmp_path, simulated("a", 0.8, 0.8, 1), simulated("a", 0.8, 0.8, 2, config=config))
        assert architectures(Ranking.from_runs([tmp_path])) == []


class TestLatex:
    def test_the_best_is_bold_with_half_its_interval(self, tmp_path):
        put(tmp_path, simulated("a", 0.80, 0.80, 1), simulated("b", 0.5, 0.85, 2), simulated("a", 0.8, 0.8, 1, ipc=10))
        ranking = Ranking.from_runs([tmp_path])
        text = to_latex(ranking)
        assert text.count(r"\begin{table}") == text.count(r"\toprule") == text.count(r"\bottomrule") == 2
        a, b = ranking.groups[0].entries
        low, high = a.interval("ddrs")
        half = rf" {{\scriptsize$\pm${(high - low) / 2:.4f}}}"
        assert rf"a & \textbf{{{a.scores['ddrs'].mean:.4f}}}{half} & {a.scores['ior'].mean:.4f}" in text
        assert rf"\textbf{{{b.scores['ior'].mean:.4f}}}" in text
        assert rf"\textbf{{{a.scores['hlr'].mean:.4f}}}" in text
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(rows) == 2 + 3
        assert {line.count("&") for line in rows} == {6}

    def test_names_are_data_and_never_commands(self, tmp_path):
        put(tmp_path, result(r"a_b&50%<x>|y$z$\input{c}#~^{d}"), result("dm"))
        text = to_latex(Ranking.from_runs([tmp_path]))
        assert (
            r"a\_b\&50\%\textless{}x\textgreater{}\textbar{}y\$z\$\textbackslash{}input\{c\}\#"
            r"\textasciitilde{}\textasciicircum{}\{d\} & "
        ) in text
        assert r"\input{" not in text


class TestFigures:
    @pytest.fixture(scope="class")
    def written(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("figures")
        odd = (r"$\frac{", "<b>&amp;", "../../up", "数据")
        put(folder / "runs", *(simulated(name, 0.8, 0.8 - seed / 50, seed) for seed, name in enumerate(odd)))
        ranking = Ranking.from_runs([folder / "runs"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return figures.write(ranking, folder / "out")

    def test_they_are_what_their_names_say(self, written):
        begins = {"png": b"\x89PNG", "pdf": b"%PDF-", "svg": b"<?xml"}
        assert len(written) == 9
        assert all(path.read_bytes().startswith(begins[path.suffix[1:]]) for path in written)
        assert all(b"<b>" not in path.read_bytes() for path in written if path.suffix == ".svg")

    def test_groups_of_odd_and_equal_names_get_files_of_their_own(self, tmp_path):
        odd = [result(dataset=name) for name in ("../a", "a", "/a/", "数据")]
        put(tmp_path, *odd)
        found = figures.group_names(Ranking.from_runs([tmp_path]).groups)
        assert len(set(found)) == 4
        assert all(re.fullmatch(r"[A-Za-z0-9.-]+(_\d)?", name) and not name.startswith(".") for name in found)

    @pytest.mark.parametrize("w", [0.0, 0.5, 1.0])
    def test_lines_of_equal_ddrs_have_the_ddrs_that_they_say(self, tmp_path, w):
        put(tmp_path, simulated("a", 0.80, 0.80, 1), simulated("b", 0.4, 0.7, 2))
        ranking = Ranking.from_runs([tmp_path], w=w)
        figure = figures.plane(ranking, ranking.groups[0])
        (axis,) = figure.axes
        said = [text for text in axis.texts if re.fullmatch(r"[\d.]+", text.get_text())]
        assert len(said) >= 4
        assert all(score.ddrs(*text.xy, w) == pytest.approx(float(text.get_text()), abs=1e-6) for text in said)

    def test_names_cover_neither_each_other_nor_points(self, tmp_path):
        crowd = [simulated(f"method {k}", 0.8 + 0.004 * (k % 4), 0.8 + 0.004 * (k // 4), k) for k in range(12)]
        put(tmp_path, *crowd)
        ranking = Ranking.from_runs([tmp_path])
        figure = figures.plane(ranking, ranking.groups[0])
        figure.draw_without_rendering()
        (axis,) = figure.axes
        boxes = [text.get_window_extent() for text in axis.texts if text.get_text().startswith("method")]
        assert len(boxes) == 12
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        points = [
            axis.transData.transform((entry.scores["hlr"].mean, entry.scores["ior"].mean))
            for entry in ranking.groups[0].entries
        ]
        assert not any(box.contains(*point) for box in boxes for point in points)


class TestCommand:
    def test_it_prints_the_ranking_and_writes_the_files(self, tmp_path, capsys):
        put(tmp_path / "runs", result("recovers"), result("improves", accuracies=IMPROVES))
        out = tmp_path / "a" / "b"
        assert main([str(tmp_path / "runs"), "--w", "1", "--g", "0", "--out", str(out)]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        assert printed.out.index("improves") < printed.out.index("recovers")
        assert "DDRS at w = 1, ARS at g = 0" in printed.out
        assert {path.name for path in out.iterdir()} == {
            *("ranking.csv", "ranking.json", "ranking.md", "ranking.tex", "index.html", "figures")
        }
        drawn = {f"digits-ipc1-convnet3-strict-{kind}" for kind in ("plane", "sweep", "arms")}
        assert {path.name for path in (out / "figures").iterdir()} == {
            f"{name}.{form}" for name in drawn for form in ("png", "pdf", "svg")
        }
        content = json.loads((out / "ranking.json").read_text())
        assert [entry["method"] for entry in content["groups"][0]["entries"]] == ["improves", "recovers"]
        assert (out / "ranking.csv").read_text().startswith("dataset,ipc,model,protocol,rank,name,method,")
        assert "| 1 | improves |" in (out / "ranking.md").read_text()

    def test_broken_files_are_reported_and_the_rest_ranked(self, tmp_path, capsys):
        put(tmp_path, result("good"), result("bad"), result("worse"))
        for name in ("1", "2"):
            (tmp_path / name / "result.json").write_text("{")
        assert main([str(tmp_path), "--out", str(tmp_path / "out"), "--no-figures", "--no-page"]) == 0
        printed = capsys.readouterr()
        assert "good" in printed.out
        assert str(tmp_path / "1" / "result.json") in printed.err
        assert str(tmp_path / "2" / "result.json") in printed.err
        assert "files set apart: 2" in printed.err
        told = json.loads((tmp_path / "out" / "ranking.json").read_text())
        assert [one["files"] for one in told["set_apart"]] == [["1/result.json"], ["2/result.json"]]
        assert told["set_apart"][0]["why"].startswith("1/result.json is not JSON")
        assert told["groups"][0]["entries"][0]["files"] == ["0/result.json"]

    def test_each_broken_file_is_set_apart_with_its_own_sentence_and_the_rest_ranked(self, tmp_path, capsys):
        def broken(name: str, **changes) -> Path:
            whole = configured(result(name, seeds=[0, 1]), protocol__name="strict")
            file = whole.save(tmp_path / name / "result.json")
            unchecked = {name: part for name, part in json.loads(file.read_text()).items() if name != "sha256"}
            file.write_text(json.dumps(unchecked | changes))
            return file

        arms = json.loads(result(seeds=[0, 1]).save(tmp_path / "good" / "result.json").read_text())["arms"]
        percent = {"accuracy": [70.0, 71.0], "lr": [0.1, 0.1], "source": "measured"}
        twice = [result("twice", seeds=[0, 1], accuracies=accuracies) for accuracies in (RECOVERS, MIDDLING)]
        again = [made.save(tmp_path / f"again{index}" / "result.json") for index, made in enumerate(twice)]
        sentences = {
            broken("schema", schema="ddrank/result/9"): "has the schema 'ddrank/result/9', expected 'ddrank/result/1'",
            broken(
                "lacking", arms={name: arm for name, arm in arms.items() if name != "rdm_any"}
            ): "lacks the arm rdm_any",
            broken("percent", arms=arms | {"syn_any": percent}): "they are fractions, not percent",
            broken("seeds", seeds=[1, 1]): "seeds [1, 1] are not one or more different numbers",
            broken("mixed", protocol="ddranking"): "its protocol is 'ddranking', and 'strict' in its config",
            again[0]: f"and {again[1]} hold different accuracies for seed 0 of one configuration",
        }
        result("other", protocol="ddranking").save(tmp_path / "other" / "result.json")
        assert main([str(tmp_path), "--out", str(tmp_path / "out"), "--no-figures"]) == 0
        lines = capsys.readouterr().err.splitlines()
        for file, sentence in sentences.items():
            (line,) = [line for line in lines if str(file) in line]
            assert sentence in line
        assert sum("was evaluated under different protocols (ddranking, strict)" in line for line in lines) == 1
        assert lines[-1] == "ddrank: files set apart: 7; all others are ranked"
        assert len(lines) == len(sentences) + 2
        groups = json.loads((tmp_path / "out/ranking.json").read_text())["groups"]
        assert [[entry["method"] for entry in group["entries"]] for group in groups] == [["other"], ["dm"]]

    def test_nothing_left_to_rank_is_one_sentence_and_status_2(self, tmp_path, capsys):
        put(tmp_path, result("bad"), result("worse"))
        for name in ("0", "1"):
            (tmp_path / name / "result.json").write_text("{")
        assert main([str(tmp_path)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert len(printed.err.splitlines()) == 1
        assert "none of the result files" in printed.err
        assert "not JSON" in printed.err

    def test_a_folder_without_results_is_one_sentence_and_status_2(self, tmp_path, capsys):
        assert main([str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith(f"ddrank: there is no result.json in {tmp_path}")

    def test_a_path_that_does_not_exist_is_one_sentence_and_status_2(self, tmp_path, capsys):
        put(tmp_path, result())
        assert main([str(tmp_path), str(tmp_path / "nowhere")]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith(f"ddrank: {tmp_path / 'nowhere'} does not exist")
        assert len(printed.err.splitlines()) == 1

    @pytest.mark.parametrize("arguments", [["--w", "50"], ["--g", "nan"]])
    def test_a_wrong_weight_is_one_sentence_and_status_2(self, tmp_path, capsys, arguments):
        put(tmp_path, result())
        assert main([str(tmp_path), *arguments]) == 2
        assert "expected a number in [0, 1]" in capsys.readouterr().err

    def test_a_place_that_cannot_be_written_is_one_sentence_and_status_2(self, tmp_path, capsys):
        (path,) = put(tmp_path, result())
        before = path.read_bytes()
        assert main([str(tmp_path), "--out", str(path)]) == 2
        assert "could not be written" in capsys.readouterr().err
        assert path.read_bytes() == before

    def test_it_runs_as_a_module_without_torch(self, tmp_path):
        put(tmp_path, result("<script>"), result("dm|é"))
        code = (
            "import runpy, sys; sys.argv[0] = 'leaderboard'\n"
            "try: runpy.run_module('ddrank.leaderboard', run_name='__main__')\n"
            "finally: print('torch' in sys.modules)"
        )
        environment = os.environ | {"COLUMNS": "100", "PYTHONIOENCODING": "ascii"}
        plain = run([sys.executable, "-m", "ddrank.leaderboard", str(tmp_path)], environment)
        assert plain.returncode == 0, plain.stderr
        assert "<script>" in plain.stdout
        assert "dm|\\xe9" in plain.stdout
        watched = run([sys.executable, "-c", code, str(tmp_path)], environment)
        assert watched.stdout.splitlines()[-1] == "False"
        broken = run([sys.executable, "-m", "ddrank.leaderboard", str(tmp_path / "nowhere")], environment)
        assert (broken.returncode, broken.stdout) == (2, "")
        assert "Traceback" not in broken.stderr


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    top = Path(__file__).parent.parent
    return subprocess.run(command, cwd=top, env=environment, capture_output=True, text=True, timeout=180, check=False)


class TestSweep:
    @staticmethod
    def config(folder: Path, w=0.5):
        return OmegaConf.create(
            {
                "score": {"w": w, "g": 0.5},
                "logger": {"_target_": "ddrank.loggers.Csv"},
                "runs": str(folder),
                "hydra": {"sweep": {"dir": "${runs}"}},
            }
        )

    def test_hydra_builds_it_and_it_ranks_the_sweep(self, tmp_path, capsys):
        put(tmp_path, *(result("recovers", seeds=[seed]) for seed in range(3)))
        put(tmp_path, *(result("improves", seeds=[seed], accuracies=IMPROVES) for seed in range(3)))
        callback = instantiate({"_target_": "ddrank.leaderboard.sweep.PrintRanking"})
        callback.on_multirun_end(config=self.config(tmp_path, w=1.0), config_name="config")
        printed = capsys.readouterr()
        assert printed.out.index("improves") < printed.out.index("recovers")
        assert printed.err == ""
        content = json.loads((tmp_path / "ranking.json").read_text())
        assert content["w"] == 1.0
        assert [entry["seeds"] for entry in content["groups"][0]["entries"]] == [[0, 1, 2]] * 2
        assert (tmp_path / "ranking.csv").is_file()
        assert (tmp_path / "ranking.md").is_file()

    def test_jobs_without_a_result_do_not_keep_it_from_ranking_the_others(self, tmp_path, capsys):
        put(tmp_path, result(seeds=[0]), result(seeds=[1]))
        for name in ("10", "3", ".submitit"):
            (tmp_path / name).mkdir()
        PrintRanking().on_multirun_end(self.config(tmp_path))
        printed = capsys.readouterr()
        assert "recovers" not in printed.out
        assert re.search(r"1  dm .* 2 *$", printed.out, re.M)

    def test_it_ranks_without_torch(self, tmp_path):
        put(tmp_path, result(seeds=[0]), result(seeds=[1]))
        code = (
            "import sys; from omegaconf import OmegaConf; from ddrank.leaderboard.sweep import PrintRanking\n"
            "PrintRanking().on_multirun_end(OmegaConf.create(sys.argv[1])); print('torch' in sys.modules)"
        )
        done = run([sys.executable, "-c", code, OmegaConf.to_yaml(self.config(tmp_path))], dict(os.environ))
        assert done.stdout.splitlines()[-1] == "False", done.stderr
        assert (tmp_path / "ranking.json").is_file()

    def test_a_sweep_without_results_is_said_and_not_raised(self, tmp_path, capsys):
        PrintRanking().on_multirun_end(self.config(tmp_path))
        assert "there is no result.json" in capsys.readouterr().err

    def test_it_never_raises(self, tmp_path, capsys):
        put(tmp_path, result())
        PrintRanking().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
        assert "the sweep could not be ranked" in capsys.readouterr().err
