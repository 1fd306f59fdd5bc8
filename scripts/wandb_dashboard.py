"""Build a W&B workspace over the runs of ddrank: python scripts/wandb_dashboard.py --entity ME [--project ddrank]

It shows the ranking (of sweeps with logger=wandb, and of `python -m ddrank.leaderboard --wandb`), IOR against HLR,
DDRS, accuracies and the students' curves of all runs in a project, and what tells runs apart. Bars are means over the
runs of a method: --group keeps to those of one dataset, IPC and model. Each call saves a new view; with --dry-run, it
is printed as JSON and nothing is sent. Needs the extra ddrank[dashboard], and to be logged in to W&B.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from ddrank.errors import InputError
from ddrank.leaderboard.report import complain
from ddrank.leaderboard.wandb_ranking import FIGURES, JOB_TYPE, TABLE
from ddrank.score import ARMS, SCORES
from ddrank.wandb_run import one_line

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

METHOD = "method.name"  # in a run's config


def main() -> int:
    options = _parser().parse_args()
    try:
        workspace = dashboard(options.entity, options.project, options.name, options.group)
        if options.dry_run:
            print(json.dumps(spec(workspace), indent=1))
        else:
            print(save(workspace))
    except InputError as error:
        complain(str(error))
        return 2
    return 0


def dashboard(entity: str, project: str, name: str, group: str | None = None) -> Workspace:
    """The workspace, not saved yet, over all runs or those of one group and the rankings.

    Raises InputError where wandb-workspaces is missing.
    """
    try:
        from wandb_workspaces import expr, workspaces
        from wandb_workspaces.reports import v2 as panels
    except ImportError as error:
        raise InputError("a dashboard needs wandb-workspaces: pip install 'ddrank[dashboard]'") from error

    def score(name: str) -> panels.SummaryMetric:
        return panels.SummaryMetric(f"score/{name}")

    def bars(title: str, metrics: list[str]) -> panels.BarPlot:
        return panels.BarPlot(
            title=title,
            metrics=metrics,
            groupby=panels.Config(METHOD),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )

    def curves(quantity: str) -> list[panels.LinePlot]:
        axis = {"x": "curve/epoch", "title_x": "epoch"}
        return [panels.LinePlot(title=arm, **axis, metric_regex=rf"curve/{arm}/seed\d+/{quantity}") for arm in ARMS]

    kinds = ("plane", "sweep", "arms")
    sections = {
        "Ranking": [
            panels.WeavePanelSummaryTable(table_name=TABLE, layout=panels.Layout(w=24, h=12)),
            *(panels.MediaBrowser(title=kind, media_keys=[f"{FIGURES}/{kind}"], num_columns=1) for kind in kinds),
        ],
        "Scores": [
            panels.ScatterPlot(title="IOR against HLR: better is up and to the left", x=score("hlr"), y=score("ior")),
            bars("DDRS", ["score/ddrs"]),
            bars("ARS", ["score/ars"]),
        ],
        "Accuracy": [bars(arm, [f"arm/{arm}"]) for arm in ARMS],
        "Students' training loss": curves("training_loss"),
        "Students' test accuracy": curves("test_accuracy"),
        "Runs beside each other": [panels.RunComparer(diff_only="split")],
    }
    either = expr.Or(expr.Metric("Group") == group, expr.Metric("JobType") == JOB_TYPE)
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[workspaces.Section(name=title, panels=held, is_open=True) for title, held in sections.items()],
        runset_settings=workspaces.RunsetSettings(
            filters=either if group else "",
            order=[expr.Ordering(expr.Summary("score/ddrs"), ascending=False)],
            pinned_columns=[f"summary:score/{name}" for name in SCORES],
        ),
    )


def spec(workspace: Workspace) -> dict:
    """What is sent to W&B as the view's specification."""
    return workspace._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def save(workspace: Workspace) -> str:
    """Save a new view and return its address. Raises InputError when the server does not take it."""
    try:
        return workspace.save().url
    except Exception as error:  # of W&B's client: whatever goes wrong between here and the server
        where = f"{workspace.entity}/{workspace.project}"
        raise InputError(
            f"the dashboard could not be saved in {where}: {one_line(error)}; log in with `wandb login`, and see that "
            "entity and project exist"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    entity = os.environ.get("WANDB_ENTITY")
    parser.add_argument("--entity", default=entity, required=not entity, help="user or team (default: WANDB_ENTITY)")
    project = os.environ.get("WANDB_PROJECT") or "ddrank"
    parser.add_argument("--project", default=project, help="default: WANDB_PROJECT, or ddrank")
    parser.add_argument("--name", default="ddrank", help="of the view (default: ddrank)")
    parser.add_argument("--group", help="only its runs, and the rankings: digits-ipc1-convnet3 (default: all runs)")
    parser.add_argument("--dry-run", action="store_true", help="print the view as JSON; send nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
