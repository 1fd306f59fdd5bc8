"""python -m ddrank.leaderboard RUNS...: rank finished runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ddrank.errors import InputError
from ddrank.leaderboard.configuration import printable
from ddrank.leaderboard.rank import Ranking
from ddrank.leaderboard.report import complain, report


def main(argv: Sequence[str] | None = None) -> int:
    """Rank the runs that the command line names. Returns the exit status: 0, or 2 for bad input."""
    options = _parser().parse_args(argv)
    try:
        ranking = Ranking.from_runs(options.runs, w=options.w, g=options.g)
        report(ranking, options.out)
        if options.out is not None and options.page:
            _page(ranking, options.out)
        if options.out is not None and options.figures:
            _figures(ranking, options.out / "figures")
    except InputError as error:
        complain(str(error))
        return 2
    return 0


def _page(ranking: Ranking, folder: Path) -> None:
    from ddrank.leaderboard import page

    print(f"written: {printable(str(page.write(ranking, folder)))}")


def _figures(ranking: Ranking, folder: Path) -> None:
    from ddrank.leaderboard import figures  # only now: whoever wants a table does not wait for matplotlib

    print(f"written: {len(figures.write(ranking, folder))} figures in {printable(str(folder))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ddrank.leaderboard",
        description="Rank finished runs by DDRS within each dataset, IPC, model and protocol.",
    )
    parser.add_argument(
        "runs", metavar="RUNS", nargs="+", type=Path, help="result files, or folders that hold result.json files"
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
        "--page", action=argparse.BooleanOptionalAction, default=True, help="write index.html (default: yes)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
