"""What the command and a finished sweep say about a ranking: the table, the files, what was set apart."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from ddrank.leaderboard import tables, terminal
from ddrank.leaderboard.configuration import printable
from ddrank.leaderboard.rank import Ranking


def report(ranking: Ranking, out: Path | None = None) -> None:
    """Print a ranking, write its files into `out` where given, and say on standard error what was set apart.

    Raises InputError when a file cannot be written; the table has been printed by then.
    """
    escape_what_cannot_be_printed()
    terminal.show(ranking, Console(highlight=False))
    for note in ranking.notes:
        complain(note)
    for apart in ranking.apart:
        complain(apart.sentence)
    if ranking.apart:
        complain(f"files set apart: {sum(len(apart.files) for apart in ranking.apart)}; all others are ranked")
    if out is not None:
        for path in tables.write(ranking, out):
            print(f"written: {printable(str(path))}")


def escape_what_cannot_be_printed() -> None:
    """Let standard output show as escapes what its encoding lacks: names may hold anything."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def complain(sentence: str) -> None:
    """Print one sentence on standard error."""
    print(f"ddrank: {printable(sentence)}", file=sys.stderr)
