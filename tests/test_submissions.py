"""Submissions: made from real results, checked, refused, and ranked with local runs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
import torch
import yaml
from conftest import QUICK_SELECTION
from omegaconf import OmegaConf
from PIL import Image

import ddrank
from ddrank.leaderboard import Ranking, submission
from ddrank.leaderboard.__main__ import main
from ddrank.leaderboard.about import About, together
from ddrank.leaderboard.collect import collect, find
from ddrank.leaderboard.configuration import configuration
from ddrank.leaderboard.page.thumbnails import originals
from ddrank.leaderboard.portable import portable, without_places
from ddrank.leaderboard.schema import schema
from ddrank.leaderboard.submission import Submission
from ddrank.result import Result

ROOT = Path(__file__).parents[1]
TOLD = ("--paper", "https://arxiv.org/abs/2006.05929", "--code", "https://github.com/you/ours", "--by", "Ada Lovelace")
PLACE = "leaderboard/submissions"


# What somebody might do to a submission's content, and what is said to it.
HOSTILE = (
    (lambda c: c["result"]["arms"]["syn_any"]["accuracy"].__setitem__(1, 76.2), "[1] is 76.2, expected a fraction"),
    (lambda c: c["result"]["arms"]["syn_any"]["accuracy"].__setitem__(0, True), "expected a fraction in [0, 1]"),
    (lambda c: c["result"]["arms"].pop("rdm_any"), "result.arms lacks rdm_any"),
    (lambda c: c["result"]["arms"].update(extra={}), 'result.arms has the key "extra"'),
    (
        lambda c: c["result"]["arms"]["syn_any"].update(source="reference"),
        'source is "reference", expected "measured"',
    ),
    (lambda c: c["result"]["arms"]["syn_any"]["accuracy"].append(0.5), "3 accuracies"),
    (lambda c: c["result"].update(seeds=[1, 1]), "result.seeds is [1, 1], expected a list of different"),
    (lambda c: c["result"].update(seeds=[0, 1.0]), "seeds are [0, 1.0]"),
    (lambda c: c["result"].update(seeds=[]), "result.seeds is []"),
    (
        lambda c: c["result"]["scores"]["ddrs"].update(mean=0.99),
        "result.scores.ddrs.mean is 0.99, but the accuracies",
    ),
    (lambda c: c["result"]["scores"]["ior"]["per_seed"].pop(), "result.scores.ior.per_seed is"),
    (lambda c: c["result"]["scores"].pop("ars"), "result.scores lacks ars"),
    (lambda c: c["result"].update(ipc="1"), 'result.ipc is "1", expected a whole number of images per class'),
    (lambda c: c["result"].update(ipc=10**400), "expected a number below 2^63"),
    (lambda c: c["result"].update(method="<script>"), 'result.method is "<script>", expected a name'),
    (lambda c: c["result"].update(dataset="../../etc"), 'result.dataset is "../../etc", expected a name'),
    (lambda c: c["result"].update(model="mlp\n"), "expected printable text"),
    (lambda c: c["result"].update(method="theirs"), "mixes two evaluations: its method is 'theirs'"),
    (lambda c: c["result"].update(protocol="ours"), 'protocol is "ours", expected "strict" or "ddranking"'),
    (
        lambda c: c["result"]["config"]["protocol"].update(select_on="test"),
        'result.config.protocol.select_on is "test", expected "validation"',
    ),
    (lambda c: c["result"]["config"].update(paths={"store": "/home/ada"}), "paths in its result names a place"),
    (lambda c: c["result"]["config"].update(x={"y": "/home/ada"}), "x in its result names a place"),
    (
        lambda c: c["result"]["config"].update(x=["trained in /home/ada"]),
        'result.config.x[0] names a home folder ("trained in /home/ada")',
    ),
    (lambda c: c["result"]["config"].update({"x:\\Users\\ada": 1}), "result.config names a home folder"),
    (
        lambda c: c["result"]["environment"].update(device="x /root/ada"),
        "result.environment.device names a home folder",
    ),
    (lambda c: c["result"]["environment"].update(host="ada"), 'environment has the key "host"'),
    (lambda c: c["result"]["distilled"].update(sha256="abc"), "expected a sha256"),
    (lambda c: c["result"].update(config=[]), "result.config is [], expected the whole configuration"),
    (lambda c: c["result"].update(schema="ddrank/result/2"), 'expected "ddrank/result/1"'),
    (lambda c: c.update(result=None), "result is null, expected a result"),
    (lambda c: c.update(schema="ddrank/submission/2"), "has the schema"),
    (lambda c: c.update(extra=1), 'it has the key "extra"'),
    (lambda c: c.pop("by"), "it lacks by"),
    (lambda c: c.update(paper=["https://a.org"]), "paper is"),
    (lambda c: c.update(date="21.11.2026"), "expected a day as YYYY-MM-DD"),
    (lambda c: c.update(date="2023-02-29"), "expected a day as YYYY-MM-DD"),
    (lambda c: c.update(date=str(date.today() + timedelta(days=3))), "a day to come"),
    (lambda c: c.update(grid="PHN2Zz4="), "grid cannot be shown"),
    (lambda c: c.update(grid="<svg>"), "grid cannot be shown"),
    (lambda c: c.update(note="\x1b[2J"), "expected printable text"),
)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """A folder in which two seeds of one configuration were evaluated: runs/digits/ours-ipc1."""
    folder = tmp_path_factory.mktemp("evaluated")
    settings = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in QUICK_SELECTION)}
    settings["paths.store"] = str(folder / "store")
    torch.save(torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)), folder / "images.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in (0, 1):
            run = folder / "runs" / "digits" / "ours-ipc1" / str(seed)
            place = {"dataset": "digits", "ipc": 1, "method": "ours", "folder": run, "seed": seed}
            ddrank.evaluate(folder / "images.pt", **place, **settings)
    return folder


@pytest.fixture
def here(evaluated, tmp_path, monkeypatch) -> Path:
    """A working folder of one's own with the two runs."""
    shutil.copytree(evaluated / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def submitted(here) -> Path:
    """The submission of both seeds."""
    assert main(["submit", "runs", *TOLD]) == 0
    (path,) = (here / PLACE).iterdir()
    return path


def sentence(capsys, *arguments: str) -> str:
    """The one line with which a command refuses."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("ddrank: ")
    return line


def refusal(capsys, *arguments: str) -> str:
    """The line on a file that `check` refuses; another one sums up."""
    capsys.readouterr()
    assert main(["check", *arguments]) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    *lines, summary = printed.err.splitlines()
    assert summary.startswith("ddrank: submissions that cannot be taken: ")
    (line,) = lines
    return line


def rewritten(path: Path, change) -> Path:
    """The file with its content changed by `change`, in place, under the name that its new content asks for."""
    content = json.loads(path.read_text())
    change(content)
    content.pop("sha256", None)  # as earlier versions wrote results
    path.write_text(json.dumps(content))
    return path


def rescored(content: dict) -> None:
    """Scores and all that follow from changed accuracies."""
    content["result"] = Result.of(content["result"], "test").to_dict()


def rounded(content: dict) -> None:
    """One accuracy of a submission or a result as another machine might have found it, and the scores of that."""
    result = content.get("result", content)
    result["arms"]["syn_any"]["accuracy"][0] += 2**-20
    result |= Result.of(result, "test").to_dict()


def named(path: Path) -> Path:
    """The file under the name of its content."""
    return path.rename(path.with_name(submission.read(path).file_name))


class TestSubmit:
    def test_the_commands_of_the_docs_submit_check_and_rebuild(self, here, capsys):
        text = (ROOT / "docs" / "contributing.md").read_text()
        (block,) = (block for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) if "submit" in block)
        commands = [shlex.split(line) for line in block.splitlines()]
        assert [command[3] for command in commands] == ["submit", "check", "leaderboard/submissions"]
        for command in commands:
            assert command[:3] == ["python", "-m", "ddrank.leaderboard"]
            assert main(command[3:]) == 0, capsys.readouterr().err
        ranked = json.loads((here / "ranking" / "ranking.json").read_text())
        (entry,) = ranked["groups"][0]["entries"]
        assert (entry["method"], entry["seeds"], len(entry["files"])) == ("ours", [0, 1], 3)
        assert ranked["set_apart"] == []

    def test_it_holds_all_seeds_and_what_is_told(self, submitted, here):
        content = json.loads(submitted.read_text())
        assert list(content) == ["schema", "paper", "code", "by", "date", "note", "grid", "result"]
        assert (content["paper"], content["code"], content["by"]) == (TOLD[1], TOLD[3], TOLD[5])
        assert content["date"] in {(date.today() - timedelta(days=days)).isoformat() for days in (0, 1)}  # at midnight
        assert submitted.stat().st_size < submission.MOST_BYTES
        runs = [Result.load(here / "runs" / "digits" / "ours-ipc1" / str(seed) / "result.json") for seed in (0, 1)]
        for name, arm in content["result"]["arms"].items():
            assert arm["accuracy"] == [run.arms[name].accuracy[0] for run in runs]  # at full precision
        assert re.fullmatch(r"digits-ours-ipc1-mlp-strict-[0-9a-f]{8}\.json", submitted.name)

    def test_its_picture_is_the_runs_and_small(self, submitted, here):
        content = base64.b64decode(json.loads(submitted.read_text())["grid"])
        assert len(content) <= submission.MOST_GRID
        with Image.open(io.BytesIO(content)) as small, Image.open(next(here.rglob("images.png"))) as whole:
            assert small.format == "PNG"
            assert small.width / small.height == pytest.approx(whole.width / whole.height, rel=0.02)

    def test_a_picture_with_too_much_in_it_is_made_smaller(self, here, capsys):
        noise = torch.randint(0, 256, (480, 480, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        for picture in here.rglob("images.png"):
            Image.fromarray(noise.numpy()).save(picture)
        assert main(["submit", "runs", *TOLD]) == 0
        (path,) = (here / PLACE).iterdir()
        assert submission.MOST_GRID / 3 < len(submission.read(path).about.grid) <= submission.MOST_GRID

    def test_without_a_run_folders_picture_that_beside_the_data_is_taken_or_none(self, here):
        for picture in here.rglob("images.png"):
            picture.unlink()
        one = Result.load(next(here.rglob("result.json")))
        one.save(here / "one" / "result.json")
        assert main(["submit", "one", *TOLD, "--to", "without"]) == 0
        (here / "data").mkdir()
        data = here / "data" / "distilled.safetensors"
        data.write_bytes(b"evaluated")
        told = {"path": "data/distilled.safetensors", "sha256": hashlib.sha256(b"evaluated").hexdigest()}
        replace(one, distilled=told).save(here / "one/result.json")
        Image.new("RGB", (30, 10), "red").save(here / "data" / "grid.png")
        assert main(["submit", "one", *TOLD, "--to", "with"]) == 0
        data.write_bytes(b"made anew")
        assert main(["submit", "one", *TOLD, "--to", "anew"]) == 0
        names = ("without", "anew", "with")
        without, anew, beside = (submission.read(next((here / name).iterdir())) for name in names)
        assert without.about.grid == anew.about.grid == b""
        assert Image.open(io.BytesIO(beside.about.grid)).convert("RGB").getpixel((5, 5)) == (255, 0, 0)

    @pytest.mark.parametrize("side", [9_000, 10_000, 16_000])  # too large, where PIL warns, where PIL refuses
    def test_a_picture_that_would_fill_memory_is_refused_and_not_shown(self, here, capsys, side):
        bomb = io.BytesIO()
        Image.new("1", (side, side)).save(bomb, "PNG")
        for picture in here.rglob("images.png"):
            picture.write_bytes(bomb.getvalue())
        assert "images.png is no picture (it has " in sentence(capsys, "submit", "runs", *TOLD)
        assert not (here / PLACE).exists()
        _, (first, second) = originals(Ranking.from_runs(["runs"]))
        assert first.startswith("The picture digits/ours-ipc1/0/images.png cannot be shown (it has ")
        assert second.startswith("The picture digits/ours-ipc1/1/images.png")

    @pytest.mark.parametrize("kept", [0, 7, 30, 60])
    def test_a_picture_that_is_broken_is_refused(self, here, capsys, kept):
        for picture in here.rglob("images.png"):
            picture.write_bytes(picture.read_bytes()[:kept])
        assert "images.png is no picture (" in sentence(capsys, "submit", "runs", *TOLD)

    def test_the_same_again_does_nothing_and_another_is_refused(self, submitted, here, capsys):
        before = submitted.read_bytes()
        rewritten(submitted, lambda content: content.update(date="2024-02-29"))  # as on another day
        old = submitted.read_bytes()
        assert main(["submit", "runs", *TOLD]) == 0
        assert "nothing to do" in capsys.readouterr().out
        assert submitted.read_bytes() == old != before
        assert "holds another submission" in sentence(capsys, "submit", "runs", *TOLD, "--note", "better")
        assert submitted.read_bytes() == old
        assert len(list((here / PLACE).iterdir())) == 1

    def test_two_configurations_are_refused_and_named(self, here, capsys):
        one = Result.load(next(here.rglob("result.json")))
        other = json.loads(json.dumps(one.config | {"method": one.config["method"] | {"name": "theirs"}}))
        replace(one, method="theirs", config=other).save(here / "runs" / "x" / "result.json")
        line = sentence(capsys, "submit", "runs", *TOLD)
        assert "2 configurations (ours at IPC 1, theirs at IPC 1), expected seeds of one" in line
        assert not (here / PLACE).exists()

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            (("--paper", "arxiv"), 'paper is "arxiv", expected a web address'),
            (("--code", "javascript:alert(1)"), 'code is "javascript:alert(1)", expected a web address'),
            (("--paper", "https://you:secret@x.org/a"), "expected a web address"),
            (("--by", "<b>Ada</b>"), 'by is "<b>Ada</b>", expected the name of who ran it'),
            (("--by", " "), "expected the name of who ran it"),
            (("--note", "two\nlines"), "expected printable text on one line"),
            (("--note", "x" * 501), "expected a sentence or two, at most 500 characters"),
        ],
    )
    def test_what_could_not_be_checked_is_not_written(self, here, capsys, changed, said):
        assert said in sentence(capsys, "submit", "runs", *TOLD, *changed)
        assert not (here / PLACE).exists()

    def test_a_place_without_a_result_is_refused(self, here, submitted, capsys):
        (here / "empty").mkdir()
        assert "there is no result.json in empty" in sentence(capsys, "submit", "empty", *TOLD)
        assert "nowhere does not exist" in sentence(capsys, "submit", "nowhere", *TOLD)
        assert "is a submission already" in sentence(capsys, "submit", str(submitted), *TOLD)
        next((here / "runs").rglob("result.json")).write_text("{")
        assert "is not JSON" in sentence(capsys, "submit", "runs", *TOLD)

    def test_help_tells_of_the_subcommands_and_they_of_themselves(self, capsys):
        for arguments, said in (
            (["--help"], "submit"),
            (["submit", "--help"], "--paper"),
            (["check", "--help"], "DIR"),
        ):
            with pytest.raises(SystemExit) as stop:
                main(arguments)
            assert stop.value.code == 0
            assert said in capsys.readouterr().out

    def test_a_folder_called_like_a_subcommand_is_still_ranked(self, here, capsys):
        (here / "runs").rename(here / "submit")
        assert main(["./submit"]) == 0
        assert "ours" in capsys.readouterr().out


class TestPortable:
    def test_no_path_of_the_machine_travels(self, submitted, evaluated, here):
        text = submitted.read_text()
        assert str(evaluated) in next(here.rglob("result.json")).read_text()  # where the store and the data are
        assert str(evaluated) not in text
        assert evaluated.parent.name not in text
        config = json.loads(text)["result"]["config"]
        assert "paths" not in config
        assert config["method"]["data"] == "images.pt"
        assert config["logger"] == {"name": "csv"}

    def test_all_of_a_real_environment_is_kept_and_no_host(self, here):
        real = Result.load(next(here.rglob("result.json")))
        assert portable(real).environment == real.environment
        named = replace(real, environment={**real.environment, "host": "ada-laptop"})
        assert portable(named) == portable(real)

    @pytest.mark.parametrize(
        ("setting", "kept"),
        [
            ("/home/ada/birds/", "birds"),
            ("~/birds", "birds"),
            ("~ada", ""),
            ("../../ada/birds", "birds"),
            ("C:\\Users\\ada\\birds", "birds"),
            ("\\\\server\\ada\\birds", "birds"),
            ("file:///home/ada/birds", "birds"),
            ("/home/ada/x://birds", "birds"),
            ("https://ada:secret@x.org/birds?token=1#a", "https://x.org/birds"),
            ("hf://datasets/us/birds", "hf://datasets/us/birds"),
            ("us/birds", "us/birds"),
            (["/a/b", {"c": "/d/e"}, 1, None], ["b", {"c": "e"}, 1, None]),
            ({"data": "ada/birds", "teacher_weights": ["ada/a.pt"]}, {"data": "birds", "teacher_weights": ["a.pt"]}),
            ({"path": "ada/birds", "loader": {"path": None}}, {"path": "birds", "loader": {"path": None}}),
        ],
    )
    def test_places_become_names(self, setting, kept):
        assert without_places(setting) == kept
        assert without_places(kept) == kept

    def test_it_is_the_same_configuration_even_of_a_folder_of_images(self, here):
        result = Result.load(next(here.rglob("result.json")))
        config = json.loads(json.dumps(result.config))
        config["dataset"]["loader"]["path"] = "/home/ada/birds"
        result = replace(result, config=config)
        assert portable(result).config["dataset"]["loader"]["path"] == "birds"
        assert configuration(portable(result)) == configuration(result)


class TestCheck:
    def test_what_submit_writes_is_fine(self, submitted, capsys):
        assert main(["check"]) == 0
        assert capsys.readouterr().out.splitlines()[-2:] == [
            f"fine: {PLACE}/{submitted.name}",
            "1 submission, all fine",
        ]

    def test_the_projects_own_are_fine(self, monkeypatch, capsys):
        monkeypatch.chdir(ROOT)
        assert main(["check"]) == 0, capsys.readouterr().err

    @pytest.mark.parametrize(("change", "said"), HOSTILE, ids=[said for _, said in HOSTILE])
    def test_a_hostile_file_is_one_sentence(self, submitted, capsys, change, said):
        rewritten(submitted, change)
        assert said in refusal(capsys)
        assert main([str(submitted), "--out", "out", "--no-figures"]) == (0 if "a day to come" in said else 2)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda text: "{" + text, "is not JSON"),
            (lambda text: text.replace('"w": 0.5', '"w": NaN'), "NaN is no number"),
            (lambda text: text.replace('"w": 0.5', '"w": 1e999'), "expected a number below 2^63"),
            (lambda text: text.replace('"by": ', '"by": "Eve", "by": '), 'the key "by" occurs twice'),
            (lambda text: "[" * 50_000, "is not JSON"),
            (
                lambda text: text.replace('"note": ""', '"note": ' + "[" * 40 + "]" * 40),
                "note[0][0] is nested more than",
            ),
            (lambda text: text + " " * 100_000, "expected at most 100,000"),
            (lambda text: "null", "has the schema null"),
            (lambda text: "", "is not JSON"),
            (lambda text: "\udcff", "is not JSON in UTF-8"),
        ],
    )
    def test_hostile_text_is_one_sentence(self, submitted, capsys, change, said):
        submitted.write_text(change(submitted.read_text()), encoding="utf-8", errors="surrogateescape")
        assert said in refusal(capsys)

    def test_a_picture_that_would_fill_memory_is_not_opened(self, submitted, capsys):
        bomb = io.BytesIO()
        Image.new("1", (12_000, 12_000)).save(bomb, "PNG")
        rewritten(submitted, lambda content: content.update(grid=base64.b64encode(bomb.getvalue()).decode()))
        assert "grid cannot be shown" in refusal(capsys)

    def test_links_folders_and_pipes_are_no_submissions(self, submitted, capsys, tmp_path):
        moved = submitted.rename(tmp_path / "elsewhere.json")
        submitted.symlink_to(moved)
        assert "is a link or no file at all" in refusal(capsys)
        submitted.unlink()
        submitted.mkdir()
        assert "is a link or no file at all" in refusal(capsys)
        submitted.rmdir()
        os.mkfifo(submitted)
        assert "is a link or no file at all" in refusal(capsys)

    def test_an_edited_accuracy_changes_the_name(self, submitted, capsys):
        rewritten(submitted, lambda content: content["result"]["arms"]["syn_any"].update(accuracy=[0.99, 0.99]))
        assert "but the accuracies give" in refusal(capsys)
        rewritten(submitted, rescored)
        assert f"should be called {submission.read(submitted).file_name}" in refusal(capsys)

    def test_other_accuracies_for_a_seed_that_is_there_are_refused(self, submitted, here, capsys):
        other = Path(shutil.copy(submitted, submitted.with_name("other.json")))
        named(rewritten(other, lambda c: (c["result"]["arms"]["syn_any"].update(accuracy=[0.5, 0.5]), rescored(c))))
        capsys.readouterr()
        assert main(["check"]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        *lines, summary = printed.err.splitlines()
        assert [("different accuracies for seed 0" in line) for line in lines] == [True, True]
        assert "2 of 2" in summary

    def test_seeds_of_one_configuration_may_come_one_by_one(self, here, capsys):
        for seed in ("0", "1"):
            assert main(["submit", f"runs/digits/ours-ipc1/{seed}", *TOLD]) == 0
        assert main(["check"]) == 0
        (group,) = Ranking.from_runs([PLACE]).groups
        assert [entry.result.seeds for entry in group.entries] == [[0, 1]]

    def test_all_files_are_checked_not_only_the_first(self, submitted, capsys):
        for name in ("a.json", "z.json"):
            submitted.with_name(name).write_text("{}")
        capsys.readouterr()
        assert main(["check"]) == 2
        printed = capsys.readouterr()
        assert printed.out == f"fine: {PLACE}/{submitted.name}\n"
        assert [line.count("has the schema null") for line in printed.err.splitlines()] == [1, 1, 0]

    def test_a_place_without_submissions_is_refused(self, here, capsys):
        assert "nowhere.json does not exist" in sentence(capsys, "check", "nowhere.json")
        (here / "empty").mkdir()
        assert "there is no submission in empty" in sentence(capsys, "check", "empty")


class TestSchema:
    def test_its_protocols_are_those_of_conf(self):
        result = schema()["$defs"]["result"]["properties"]
        configs = [OmegaConf.load(path) for path in (ROOT / "conf" / "protocol").glob("*.yaml")]
        assert set(result["protocol"]["enum"]) == {config.name for config in configs}
        rules = {
            rule["if"]["properties"]["name"]["const"]: rule["then"]["properties"]
            for rule in result["config"]["properties"]["protocol"]["allOf"]
        }
        for config in configs:
            assert len(rules[config.name]) == 2
            for key, rule in rules[config.name].items():
                assert config[key] == rule["const"]

    def test_every_rule_says_what_it_expects(self):
        def rules(place):
            if isinstance(place, dict):
                if {"type", "pattern"} & place.keys() and not isinstance(place.get("type"), dict):
                    yield place
                for entry in place.values():
                    yield from rules(entry)

        found = list(rules(schema()))
        assert len(found) > 20
        assert [rule for rule in found if "description" not in rule] == []


class TestRanking:
    def test_a_submission_and_a_local_run_are_one_entry_with_what_is_known(self, submitted, here):
        (group,) = Ranking.from_runs(["runs", PLACE]).groups
        (entry,) = group.entries
        told = submission.read(submitted).about
        assert (entry.about, entry.result.seeds, len(entry.files)) == (told, [0, 1], 3)
        assert entry.about.grid.startswith(b"\x89PNG")

    def test_a_local_run_that_contradicts_a_submission_is_set_apart_and_the_submission_ranked(self, submitted, here):
        agreeing, other = sorted((here / "runs").rglob("result.json"))
        rewritten(other, rounded)
        for given in (["runs", PLACE], [PLACE, "runs"]):
            ranking = Ranking.from_runs(given)
            (entry,) = ranking.groups[0].entries
            assert entry.result.arms == submission.read(submitted).result.arms
            assert {file.resolve() for file in entry.files} == {agreeing, submitted}
            (apart,) = ranking.set_apart()
            assert apart["files"] == ["digits/ours-ipc1/1/result.json"]
            assert apart["why"].startswith(f"{submitted.name} and digits/ours-ipc1/1/result.json hold different acc")

    def test_local_runs_that_contradict_each_other_leave_the_submission_ranked(self, here):
        one, other = sorted((here / "runs").rglob("result.json"))
        assert main(["submit", str(one), *TOLD]) == 0
        again = Path(shutil.copytree(other.parent, here / "runs" / "again")) / "result.json"
        rewritten(again, rounded)
        ranking = Ranking.from_runs(["runs", PLACE])
        assert [entry.result.seeds for entry in ranking.groups[0].entries] == [[0]]
        (apart,) = ranking.apart
        assert {file.resolve() for file in apart.files} == {one, other, again}

    def test_submissions_that_contradict_each_other_are_set_apart_with_all_local_runs(self, submitted, here):
        other = Path(shutil.copy(submitted, submitted.with_name("other.json")))
        rewritten(other, rounded)
        _, apart = collect(["runs", PLACE])
        assert [len(one.files) for one in apart] == [4]

    def test_a_broken_submission_is_set_apart_and_the_rest_ranked(self, submitted, capsys):
        submitted.with_name("broken.json").write_text('{"schema": "ddrank/submission/1"}')
        assert main([PLACE]) == 0
        printed = capsys.readouterr()
        assert "ours" in printed.out
        assert "broken.json: it lacks paper" in printed.err
        assert "files set apart: 1" in printed.err

    def test_what_else_is_json_is_no_noise(self, submitted, here):
        ranking = here / "runs" / "ranking.json"
        ranking.write_text("{}")
        (here / "runs" / "submissions").mkdir()
        hidden = here / "runs" / "submissions" / ".half-written.json"
        hidden.write_text("{")
        elsewhere = Path(shutil.copy(submitted, here / "runs" / submitted.name))
        files, apart = find(["runs"])
        assert apart == []
        assert {path.name for path in files} == {"result.json", elsewhere.name}

    def test_a_submission_of_any_name_is_one_when_given_by_name(self, submitted, here):
        given = Path(shutil.copy(submitted, here / "mine.txt"))
        assert Ranking.from_runs([given]).groups[0].entries[0].about.by == "Ada Lovelace"

    def test_everyone_who_ran_a_part_is_named(self):
        parts = [About(by="Ada"), About(paper="https://a.org", by="Eve", date="2024-01-01"), About(by="Ada", note="x")]
        assert together(parts) == About(paper="https://a.org", by="Ada, Eve", date="2024-01-01", note="x")
        assert together([About()]) == About()

    def test_text_and_content_are_the_same_there_and_back(self, submitted):
        text = submitted.read_text()
        read = submission.parse(text, submitted)
        assert isinstance(read, Submission)
        assert read.to_json() == text
