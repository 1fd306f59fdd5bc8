"""python -m ddrank.leaderboard check: whether submissions are what they should be."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

from ddrank.errors import InputError
from ddrank.leaderboard.collect import check_rankable, merge
from ddrank.leaderboard.configuration import printable
from ddrank.leaderboard.report import complain
from ddrank.leaderboard.submission import Submission, read
from ddrank.leaderboard.submit import FOLDER
from ddrank.result import Result

_EARLIEST_ZONE = timezone(timedelta(hours=14))  # where a day begins first


def main(argv: Sequence[str]) -> None:
    """Say of each submission that the command line names whether it is fine. Raises InputError where one is not."""
    found = files(_parser().parse_args(argv).places)
    wrong = check(found)
    for file in found:
        if file in wrong:
            complain(wrong[file])
        else:
            print(f"fine: {printable(str(file))}")
    if wrong:
        raise InputError(f"submissions that cannot be taken: {len(wrong)} of {len(found)}")
    print(f"{len(found)} submission{'s' * (len(found) > 1)}, all fine")


def files(places: Iterable[Path]) -> list[Path]:
    """The given files, and every JSON file below the given folders. Raises InputError where there is none."""
    found: dict[Path, None] = {}
    for place in places:
        if not os.path.lexists(place):
            raise InputError(f"{place} does not exist: give submissions, or folders that hold some")
        if not place.is_dir():
            found[place] = None
            continue
        below = sorted(place.rglob("*.json"))
        if not below:
            raise InputError(f"there is no submission in {place}: make one with `python -m ddrank.leaderboard submit`")
        found |= dict.fromkeys(below)
    return list(found)


def check(files: Sequence[Path]) -> dict[Path, str]:
    """What is wrong, a sentence for each file that is not fine: by itself, or beside the others.

    By itself: the schema, scores that the accuracies do not give, a configuration that contradicts the result, a day to
    come, a name that is not the content's. Beside the others: other accuracies for a seed of the same configuration.
    """
    wrong: dict[Path, str] = {}
    results: list[tuple[Path, Result]] = []
    for file in files:
        try:
            submission = read(file)
            check_rankable(submission.result, file)
            _check_day_and_name(submission, file)
            results.append((file, submission.result))
        except InputError as error:
            wrong[file] = str(error)
    _, apart = merge(results)
    for conflict in apart:
        wrong |= {file: f"{file}: {conflict.sentence}" for file in conflict.files}
    return wrong


def _check_day_and_name(submission: Submission, file: Path) -> None:
    if date.fromisoformat(submission.about.date) > datetime.now(_EARLIEST_ZONE).date():
        raise InputError(f"{file}: date is {submission.about.date}, a day to come: give the day of making")
    if file.name != submission.file_name:
        raise InputError(f"{file} should be called {submission.file_name}: its content was changed, or its name")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ddrank.leaderboard check",
        description="Check submissions: their schema, their scores against their accuracies, one against the other. "
        "Exit status 2 if one cannot be taken.",
    )
    parser.add_argument(
        "places",
        metavar="FILES or DIR",
        nargs="*",
        type=Path,
        default=[FOLDER],
        help=f"submissions, or folders of them (default: {FOLDER})",
    )
    return parser
