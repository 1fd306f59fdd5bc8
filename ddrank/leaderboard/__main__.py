"""python -m ddrank.leaderboard RUNS...: rank finished runs; `submit` and `check`: submissions."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ddrank.errors import InputError
from ddrank.leaderboard.configuration import printable
from ddrank.leaderboard.rank import Ranking
from ddrank.leaderboard.report import complain, escape_what_cannot_be_printed, report
from ddrank.wording import counted

_SUBCOMMANDS = {
    "submit": "write a finished result as a submission to leaderboard/submissions",
    "check": "check submissions",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Rank the runs that the command line names, or do what its subcommand says. Returns the exit status: 0, or 2 for
    bad input."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in _SUBCOMMANDS:
            escape_what_cannot_be_printed()
            import_module(f"ddrank.leaderboard.{argv[0]}").main(argv[1:])
            return 0
        options = _parser().parse_args(argv)
        ranking = Ranking.from_runs(options.runs, w=options.w, g=options.g)
        report(ranking, options.out)
        if options.out is not None and options.page:
            _page(ranking, options.out)
        if options.out is not None and options.figures:
            _figures(ranking, options.out / "figures")
        if options.wandb:
            _wandb(ranking, options.out or Path(), options.figures)
    except InputError as error:
        complain(str(error))
        return 2
    return 0


def _page(ranking: Ranking, folder: Path) -> None:
    from ddrank.leaderboard import page

    print(f"written: {printable(str(page.write(ranking, folder)))}")


def _figures(ranking: Ranking, folder: Path) -> None:
    from ddrank.leaderboard import figures  # only now: whoever wants a table does not wait for matplotlib

    print(f"written: {counted(len(figures.write(ranking, folder)), 'figure')} in {printable(str(folder))}")


def _wandb(ranking: Ranking, folder: Path, drawn: bool) -> None:
    from ddrank.leaderboard import wandb_ranking
    from ddrank.wandb_run import Account

    wandb_ranking.log(ranking, Account.of_environment(), Path(os.environ.get("WANDB_DIR") or folder), drawn)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ddrank.leaderboard",
        description="Rank finished runs by DDRS within each dataset, IPC, model and protocol.",
        epilog="Or a subcommand (with --help of its own): "
        + "; ".join(f"{name}: {what}" for name, what in _SUBCOMMANDS.items())
        + ". A folder of such a name is given as ./submit.",
    )
    parser.add_argument(
        "runs", metavar="RUNS", nargs="+", type=Path, help="result files and submissions, or folders that hold some"
    )
    parser.add_argument("--w", type=float, default=0.5, help="weight of IOR against HLR in DDRS (default: 0.5)")
    parser.add_argument(
        "--g", type=float, default=0.5, help="weight of the gain with augmentation in ARS (default: 0.5)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="write ranking.csv, .json, .md and .tex, the page index.html and, in figures/, PNG, PDF and SVG there",
    )
    parser.add_argument(
        "--figures",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="draw them, for seconds a group (default: yes)",
    )
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="log table and figures to a W&B run (WANDB_PROJECT, WANDB_ENTITY, WANDB_DIR; offline unless WANDB_MODE or "
        "WANDB_API_KEY is set)",
    )
    parser.add_argument(
        "--page", action=argparse.BooleanOptionalAction, default=True, help="write index.html (default: yes)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
