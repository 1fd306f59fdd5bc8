"""python -m ddrank.leaderboard submit RESULT: a finished result as a submission."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from PIL import Image

from ddrank import atomic
from ddrank.errors import InputError
from ddrank.leaderboard import picture
from ddrank.leaderboard.about import UNKNOWN, About
from ddrank.leaderboard.collect import Run, collect
from ddrank.leaderboard.configuration import printable
from ddrank.leaderboard.portable import portable
from ddrank.leaderboard.submission import MOST_BYTES, MOST_GRID, Submission, parse, read

FOLDER = Path("leaderboard/submissions")
_WIDEST = 480  # pixels of a picture
_COLOURS = 128


def main(argv: Sequence[str]) -> None:
    """Write the submission that the command line describes. Raises InputError."""
    options = _parser().parse_args(argv)
    about = About(paper=options.paper, code=options.code, by=options.by, note=options.note)
    path, new = submit(options.result, about, options.to)
    what = "written" if new else "nothing to do: it is already there, as"
    print(f"{what}: {printable(str(path))}")


def submit(source: Path, about: About, folder: Path = FOLDER) -> tuple[Path, bool]:
    """Write the result in `source` (a file, or a folder of runs of one configuration) into `folder`, dated today and
    with a picture where its run has one. Returns the file, and whether it is new.

    Raises InputError where there is not exactly one such result, where it could not be checked, and where the file is
    there with other content.
    """
    run = _only(source)
    made = Submission(portable(run.result), replace(about, date=date.today().isoformat(), grid=_grid(run)))
    path = folder / made.file_name
    text = made.to_json()
    parse(text, f"the submission of {source}")
    if len(text.encode()) > MOST_BYTES:
        raise InputError(f"{source} makes a submission of more than {MOST_BYTES:,} bytes: shorten its configuration")
    if path.exists():
        if _timeless(read(path)) != _timeless(made):
            raise InputError(
                f"{path} holds another submission of these measurements: remove it if this one is to take its place"
            )
        return path, False
    return atomic.write_bytes(path, text.encode()), True


def _only(source: Path) -> Run:
    """The one run in `source`."""
    runs, apart = collect([source])
    if apart:
        raise InputError(apart[0].sentence)
    if not runs:
        raise InputError(f"there is no result.json in {source}: give a result.json or the folder of a finished run")
    if len(runs) > 1:
        named = ", ".join(sorted({f"{run.result.method} at IPC {run.result.ipc}" for run in runs}))
        raise InputError(
            f"{source} holds {len(runs)} configurations ({named}), expected seeds of one: give the folder of one"
        )
    if runs[0].about != UNKNOWN:
        raise InputError(f"{source} is a submission already: give a result.json or the folder of a finished run")
    return runs[0]


def _timeless(submission: Submission) -> Submission:
    """A submission without what differs when the same measurements are put together again."""
    result = replace(submission.result, environment={}, seconds={})
    return Submission(result, replace(submission.about, date=""))


def _grid(run: Run) -> bytes:
    """A small PNG of the run's images, empty where there is no picture of them."""
    found = next(iter(picture.files(run.result, run.files)), None)
    if found is None:
        return b""
    try:
        image = picture.read(found).convert("RGB")
    except ValueError as error:
        raise InputError(f"{found} is no picture ({error}): remove it, or draw it again") from error
    width = min(_WIDEST, image.width)
    while len(content := _png(image, width)) > MOST_GRID:
        width = int(width * min(0.9, (MOST_GRID / len(content)) ** 0.5))
    return content


def _png(image: Image.Image, width: int) -> bytes:
    small = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.quantize(_COLOURS).save(content, "PNG", optimize=True)
    return content.getvalue()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ddrank.leaderboard submit",
        description="Write a finished result as a small file that can be reviewed and ranked: paths in it are "
        "cut down to names.",
    )
    parser.add_argument(
        "result",
        metavar="RESULT",
        type=Path,
        help="a result.json, the folder of a run, or a folder of runs of one configuration with different seeds",
    )
    parser.add_argument("--paper", metavar="URL", required=True, help="where the method is published")
    parser.add_argument("--code", metavar="URL", required=True, help="where the code that made the data is")
    parser.add_argument("--by", metavar="NAME", required=True, help="who ran the evaluation")
    parser.add_argument("--note", default="", help="what a reader should know, such as what the data were made with")
    parser.add_argument("--to", metavar="DIR", type=Path, default=FOLDER, help=f"where to (default: {FOLDER})")
    return parser
