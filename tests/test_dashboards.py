"""Where rankings and sweeps are looked at: W&B, its workspace, TensorBoard's HPARAMS tab, notebooks."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import wandb
from conftest import QUICK_SELECTION
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from test_leaderboard import IMPROVES, put, result
from wandb_files import read_run

from ddrank.leaderboard import Ranking, tables
from ddrank.leaderboard.__main__ import main
from ddrank.leaderboard.sweep import PrintRanking
from ddrank.run import main as evaluate
from ddrank.score import ARMS, SCORES

TOP = Path(__file__).parent.parent
ENVIRONMENT = tuple(
    f"WANDB_{name}" for name in ("API_KEY", "MODE", "PROJECT", "ENTITY", "DIR", "BASE_URL", "ERROR_REPORTING")
)

SILENT = {"WANDB_ERROR_REPORTING": "false"}  # W&B's client keeps its own metrics to itself


@pytest.fixture(autouse=True)
def _no_settings_of_wandb(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A folder with one sweep over two methods, logged to W&B (`wandb/`) and again, from the store, to TensorBoard."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ENVIRONMENT:
            patch.delenv(name, raising=False)
        for logger in ("wandb", "tensorboard"):
            arguments = [
                "-m",
                *QUICK_SELECTION,
                "method=random,kmeans",
                f"logger={logger}",
                f"hydra.sweep.dir={logger}",
            ]
            patch.setattr(sys, "argv", ["ddrank-run", *arguments])
            evaluate()
    return folder


def ranking_run(folder: Path):
    """The one W&B run of a ranking whose files lie in `folder`/wandb."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return read_run(file)


def table_of(found) -> list[dict]:
    (file,) = found.folder.glob("media/table/ranking_*.table.json")
    content = json.loads(file.read_text())
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


class StandIn(http.server.BaseHTTPRequestHandler):
    """Answers W&B's client: who is logged in, and that a view is saved unless `server.refuses`; keeps what is asked."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body) if self.path == "/graphql" else {"query": self.path}
        self.server.asked.append(asked)
        if "upsertView" not in asked["query"]:
            viewer = {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
            return self._answer({"data": {"viewer": viewer}})
        if self.server.refuses:
            return self._answer({"errors": [{"message": "permission denied"}], "data": None})
        view = {"id": "abc", "name": asked["variables"]["name"]}
        return self._answer({"data": {"upsertView": {"view": view, "inserted": True}}})

    def _answer(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    made.asked, made.refuses = [], False
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def run_script(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    known = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=known | {"PYTHONPATH": str(TOP)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class TestWandb:
    def test_a_sweep_leaves_its_ranking_as_one_run_beside_those_of_its_jobs(self, swept):
        found = ranking_run(swept / "wandb")
        job = read_run(next((swept / "wandb/0").rglob("run-*.wandb")))
        assert (found.run.job_type, job.run.job_type) == ("ranking", "")
        assert (found.run.project, found.run.run_group) == (job.run.project, job.run.run_group)
        assert found.run.run_group == "digits-ipc1-mlp"
        ranking = Ranking.from_runs([swept / "wandb"])
        assert table_of(found) == json.loads(json.dumps(ranking.to_dicts()))
        (group,) = ranking.groups
        for entry in group.entries:
            key = f"ranking/digits-ipc1-mlp-strict/{entry.result.method}/ddrs"
            assert found.summary[key] == pytest.approx(entry.scores["ddrs"].mean)

    def test_a_students_curve_is_logged_over_its_epochs(self, swept):
        found = read_run(next((swept / "wandb/1").rglob("run-*.wandb")))
        key = "curve/syn_any/seed0/training_loss"
        assert [row["curve/epoch"] for row in found.history if key in row] == [1, 2, 3]

    def test_on_demand_it_logs_every_group_where_the_environment_says(self, tmp_path, monkeypatch, capsys):
        seeds = range(3)
        put(
            tmp_path / "runs", result("recovers", seeds), result("a/b <c>", seeds, IMPROVES), result("one", [0], ipc=10)
        )
        monkeypatch.setenv("WANDB_PROJECT", "mine")
        monkeypatch.setenv("WANDB_ENTITY", "me")
        monkeypatch.setenv("WANDB_DIR", str(tmp_path / "logged"))
        (tmp_path / "logged").mkdir()
        assert main([str(tmp_path / "runs"), "--wandb", "--w", "0.75"]) == 0
        found = ranking_run(tmp_path / "logged")
        assert f"logged to W&B: {found.folder.parent}" in capsys.readouterr().out
        assert (found.run.project, found.run.entity, found.run.run_group) == ("mine", "me", "")
        ranking = Ranking.from_runs([tmp_path / "runs"], w=0.75)
        assert table_of(found) == json.loads(json.dumps(tables.rows(ranking)))
        assert len(table_of(found)) == 3
        drawn = [{key for key in row if key.endswith("/path") and key.startswith("figures/")} for row in found.history]
        three = {f"figures/{kind}/path" for kind in ("plane", "sweep", "arms")}
        assert drawn[1:] == [three, three - {"figures/sweep/path"}]  # of one entry alone there is no sweep
        pictures = [found.folder / row[key] for row, keys in zip(found.history, drawn, strict=True) for key in keys]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
        keys = {key for key in found.summary if key.startswith("ranking/digits")}
        methods = {tuple(key.split("/")[1:3]) for key in keys}
        one, ten = "digits-ipc1-convnet3-strict", "digits-ipc10-convnet3-strict"
        assert methods == {(one, "recovers"), (one, "a-b-c"), (ten, "one")}
        assert f"ranking/{ten}/one/ddrs_low" not in keys  # of one seed there is no interval
        entry = next(entry for group in ranking.groups for entry in group.entries if entry.name == "a/b <c>")
        expected = {"ior": entry.scores["ior"].mean, "rank": entry.rank, "first": entry.first}
        expected |= dict(zip(("ior_low", "ior_high"), entry.interval("ior"), strict=True))
        expected |= dict(zip(("rank_low", "rank_high"), entry.places, strict=True))
        assert {name: found.summary[f"ranking/{one}/a-b-c/{name}"] for name in expected} == pytest.approx(expected)

    def test_without_the_flag_there_is_no_run_and_without_figures_none_is_logged(self, tmp_path, monkeypatch, capsys):
        put(tmp_path / "runs", result())
        monkeypatch.chdir(tmp_path)
        assert main(["runs"]) == 0
        assert not (tmp_path / "wandb").exists()
        assert main(["runs", "--wandb", "--no-figures"]) == 0
        found = ranking_run(tmp_path)
        assert len(found.history) == 1
        assert table_of(found)[0]["method"] == "dm"

    def test_disabled_it_leaves_nothing(self, tmp_path, monkeypatch, capsys):
        put(tmp_path / "runs", result())
        monkeypatch.setenv("WANDB_MODE", "disabled")
        assert main([str(tmp_path / "runs"), "--wandb", "--no-figures", "--out", str(tmp_path / "out")]) == 0
        assert "logged to W&B" not in capsys.readouterr().out
        assert not (tmp_path / "out/wandb").exists()

    @pytest.mark.parametrize("broken", ["init", "Table"])
    def test_where_it_fails_one_sentence_says_so_and_the_ranking_stays(self, tmp_path, monkeypatch, capsys, broken):
        def fail(*args, **kwargs):
            raise wandb.Error("the server\nsays no.")

        put(tmp_path / "runs", result("recovers"))
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        monkeypatch.setattr(wandb, broken, fail)
        assert main([str(tmp_path / "runs"), "--wandb", "--no-figures", "--out", str(tmp_path / "out")]) == 2
        printed = capsys.readouterr()
        assert "recovers" in printed.out
        assert (tmp_path / "out/ranking.csv").is_file()
        (line,) = printed.err.splitlines()
        assert line.startswith("ddrank: ")
        assert "the server says no" in line

    def test_a_sweep_is_ranked_also_where_it_fails(self, tmp_path, monkeypatch, capsys):
        def fail(*args, **kwargs):
            raise wandb.Error("no server")

        put(tmp_path, result("recovers"))
        monkeypatch.setattr(wandb, "init", fail)
        logger = OmegaConf.load(TOP / "conf/logger/wandb.yaml")
        settings = {"score": {"w": 0.5, "g": 0.5}, "logger": logger, "hydra": {"sweep": {"dir": str(tmp_path)}}}
        PrintRanking().on_multirun_end(OmegaConf.create(settings))
        printed = capsys.readouterr()
        assert "recovers" in printed.out
        assert (tmp_path / "ranking.json").is_file()
        (line,) = printed.err.splitlines()
        assert "W&B could not be started (no server)" in line

    def test_online_without_a_key_is_one_sentence(self, tmp_path):
        put(tmp_path / "runs", result())
        where = {"WANDB_MODE": "online", "HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9", **SILENT}
        done = run_script(["-m", "ddrank.leaderboard", "runs", "--wandb", "--no-figures"], tmp_path, **where)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "W&B could not be started" in done.stderr.splitlines()[-1]

    def test_offline_it_asks_no_server(self, server, tmp_path):
        put(tmp_path / "runs", result())
        where = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "HOME": str(tmp_path)}
        done = run_script(["-m", "ddrank.leaderboard", "runs", "--wandb", "--no-figures"], tmp_path, **where)
        assert "logged to W&B: " in done.stdout
        assert server.asked == []

    @pytest.mark.parametrize(
        ("offline", "environment", "mode"),
        [
            (None, {}, "offline"),
            (None, {"WANDB_API_KEY": "key"}, "online"),
            (None, {"WANDB_API_KEY": "key", "WANDB_MODE": "offline"}, "offline"),
            (None, {"WANDB_MODE": "online"}, "online"),
            (True, {"WANDB_API_KEY": "key"}, "offline"),
            (False, {}, "online"),
        ],
    )
    def test_it_is_offline_unless_someone_says_otherwise(self, monkeypatch, offline, environment, mode):
        from ddrank.wandb_run import Account

        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert Account("ddrank", offline=offline).mode == mode


class TestWorkspace:
    SCRIPT = str(TOP / "scripts/wandb_dashboard.py")

    def saved(self, server, folder, *arguments) -> subprocess.CompletedProcess:
        where = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "a" * 40, **SILENT}
        return run_script([self.SCRIPT, *arguments], folder, **where)

    def test_it_is_saved_as_a_view_that_shows_what_is_logged(self, server, swept):
        group = "digits-ipc1-mlp"
        done = self.saved(server, swept, "--entity", "me", "--project", "mine", "--name", "All", "--group", group)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"http://127.0.0.1:{server.server_port}/me/mine?nw=")
        (asked,) = [asked for asked in server.asked if "upsertView" in asked["query"]]
        sent = asked["variables"]
        assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("me", "mine", "All")
        assert sent["type"] == "project-view"
        spec = json.loads(sent["spec"])
        (shown,) = spec["section"]["runSets"]
        kept = [(row["key"]["name"], row["value"]) for row in shown["filters"]["filters"]]
        assert kept == [("group", group), ("jobType", "ranking")]
        self.check_panels(spec, swept)

    def check_panels(self, spec: dict, swept: Path) -> None:
        """Each panel shows a key that the runs of a sweep have."""
        panels = [panel for held in spec["section"]["panelBankConfig"]["sections"] for panel in held["panels"]]
        kinds = {panel["viewType"] for panel in panels}
        assert kinds == {
            *("Weave", "Media Browser", "Scatter Plot", "Bar Chart", "Run History Line Plot", "Run Comparer")
        }
        of = {kind: [panel["config"] for panel in panels if panel["viewType"] == kind] for kind in kinds}
        job, ranking = read_run(next((swept / "wandb/0").rglob("run-*.wandb"))), ranking_run(swept / "wandb")
        (scatter,) = of["Scatter Plot"]
        assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:score/hlr", "summary:score/ior")
        bars = [key for panel in of["Bar Chart"] for key in panel["metrics"]]
        assert bars == ["score/ddrs", "score/ars", *(f"arm/{arm}" for arm in ARMS)]
        assert {"score/hlr", "score/ior", *bars} <= set(job.summary)
        assert {panel["groupBy"] for panel in of["Bar Chart"]} == {"method.value.name"}
        media = [key for panel in of["Media Browser"] for key in panel["mediaKeys"]]
        assert {f"{key}/path" for key in media} <= set(ranking.summary)
        assert len(media) == 3
        (table,) = of["Weave"]
        assert '"val": "ranking"' in json.dumps(table)
        keys = {key for row in job.history for key in row}
        for quantity in ("training_loss", "test_accuracy"):
            lines = [panel for panel in of["Run History Line Plot"] if panel["metricRegex"].endswith(quantity)]
            assert [panel["chartTitle"] for panel in lines] == list(ARMS)
            assert {panel["xAxis"] for panel in lines} == {"curve/epoch"} < keys
            if quantity == "training_loss":  # test curves are of protocol=ddranking
                assert all(any(re.fullmatch(panel["metricRegex"], key) for key in keys) for panel in lines)

    def test_a_refusal_is_one_sentence(self, server, tmp_path):
        server.refuses = True
        done = self.saved(server, tmp_path, "--entity", "me")
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = [line for line in done.stderr.splitlines() if not line.startswith("wandb:")]
        assert line.startswith("ddrank: the dashboard could not be saved in me/ddrank: ")
        assert "permission denied" in line

    def test_a_dry_run_prints_it_and_asks_no_server(self, server, tmp_path):
        done = self.saved(server, tmp_path, "--entity", "me", "--dry-run")
        assert done.returncode == 0, done.stderr
        spec = json.loads(done.stdout)
        assert len(spec["section"]["panelBankConfig"]["sections"]) == 6
        assert spec["section"]["runSets"][0]["filters"]["filters"] == []
        assert server.asked == []


class TestTensorBoard:
    def test_each_job_of_a_sweep_is_a_row_of_the_hparams_tab(self, swept):
        rows = {}
        for folder in (swept / "tensorboard").glob("*/tensorboard"):
            events = EventAccumulator(str(folder)).Reload()
            found = {tag: held.plugin_data.content for tag, held in events.summary_metadata.items()}
            start = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG])
            hparams = {key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()}
            experiment = metadata.parse_experiment_plugin_data(found[metadata.EXPERIMENT_TAG])
            assert {info.name for info in experiment.hparam_infos} == set(hparams)
            metrics = [info.name.tag for info in experiment.metric_infos]
            rows[hparams["method"]] = hparams, {tag: events.Scalars(tag)[-1].value for tag in metrics}
        assert set(rows) == {"random", "kmeans"}
        (group,) = Ranking.from_runs([swept / "tensorboard"]).groups
        for entry in group.entries:
            hparams, values = rows[entry.result.method]
            assert hparams == {
                **{name: getattr(entry.result, name) for name in ("method", "dataset", "ipc", "model", "protocol")},
                **{name: getattr(entry.result, name) for name in ("aug", "criterion", "labels", "w", "g")},
                "seeds": "0",
            }
            expected = {f"score/{score}": entry.scores[score].mean for score in SCORES}
            expected |= {f"arm/{arm}": entry.accuracies[arm].mean for arm in ARMS}
            assert values == pytest.approx(expected, abs=1e-6)


class TestNotebook:
    @pytest.fixture
    def shown(self, tmp_path, monkeypatch, capsys) -> dict:
        """What the cells of the documentation leave, run in their order beside some runs."""
        put(tmp_path / "runs", result("recovers", range(3)), result("improves", range(3), IMPROVES))
        monkeypatch.chdir(tmp_path)
        text = (TOP / "docs/dashboards.md").read_text().split("## Notebooks")[1]
        cells = re.findall(r"```python\n(.*?)```", text, re.S)
        assert len(cells) == 3
        names: dict = {}
        for cell in cells:
            exec(cell, names)
        return names | {"printed": capsys.readouterr().out}

    def test_the_documented_cells_run(self, shown, tmp_path):
        ranking = shown["ranking"]
        assert ranking == Ranking.from_runs(["runs"])
        assert "| 1 | recovers |" in ranking._repr_markdown_()
        best = ranking.groups[0].entries[0]
        assert f"{ranking.groups[0].title} recovers {best.scores['ddrs'].mean}" in shown["printed"]
        assert [row["ddrs_mean"] for row in shown["rows"]] == [e.scores["ddrs"].mean for e in ranking.groups[0].entries]
        assert (tmp_path / "ranking/ranking.tex").is_file()
        assert len(list((tmp_path / "ranking/figures").glob("*.svg"))) == 3

    def test_the_rows_make_a_data_frame(self, shown):
        frame = pytest.importorskip("pandas").DataFrame(shown["rows"])
        assert frame.set_index("name").loc["improves", "ior_mean"] == pytest.approx(0.21)
        assert list(frame["rank"]) == [1, 2]
