"""python -m ddrank.store ls | verify | gc | export | import: look after a store."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ddrank.errors import InputError
from ddrank.leaderboard.report import complain

_UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status: 0, or 2 for bad input and corrupt entries."""
    options = _parser().parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what the terminal's encoding lacks
    try:
        sound = _COMMANDS[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        complain("interrupted; what was done so far is whole, and the same command goes on")
        return 130
    return 0 if sound else 2


def _ls(options: argparse.Namespace) -> bool:
    from ddrank.store.listing import list_entries

    list_entries(options.store, _selection(options), options.summary, options.json)
    return True


def _verify(options: argparse.Namespace) -> bool:
    from ddrank.store.verification import verify

    return verify(options.store, options.remove)


def _gc(options: argparse.Namespace) -> bool:
    from ddrank.store.garbage import collect

    collect(options.store, _selection(options), options.runs, options.older_than, options.remove)
    return True


def _export(options: argparse.Namespace) -> bool:
    from ddrank.store.archive import export

    return export(options.store, options.archive, _selection(options), options.runs)


def _import(options: argparse.Namespace) -> bool:
    from ddrank.store.archive import take_in

    return take_in(options.store, options.archive)


_COMMANDS = {"ls": _ls, "verify": _verify, "gc": _gc, "export": _export, "import": _import}


def _selection(options: argparse.Namespace):
    from ddrank.store.survey import Selection

    return Selection(options.kind, options.dataset, options.model, options.arm, options.key)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ddrank.store",
        description="Look after a store: finished measurements, teachers, experts and unfinished work.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    ls = _command(commands, "ls", "say what each entry is, and how many there are of each kind")
    _add_selection(ls)
    ls.add_argument("--summary", action="store_true", help="only how many there are")
    ls.add_argument("--json", action="store_true", help="as JSON")
    verify = _command(commands, "verify", "read and check all of every entry; exit status 2 where any is corrupt")
    verify.add_argument("--remove", action="store_true", help="remove corrupt entries: they are computed again")
    gc = _command(commands, "gc", "show what nobody needs any more, or remove it")
    _add_selection(gc)
    _add_runs(gc, "also what no result below these folders rests on, if no run has used it for a day or --older-than")
    gc.add_argument(
        "--older-than",
        metavar="AGE",
        type=_age,
        help="also what no run has used for so long: 12h, 30d, 8w (with --runs: of that)",
    )
    gc.add_argument("--remove", action="store_true", help="remove it; without, it is only shown")
    export = _command(commands, "export", "write entries into an archive")
    export.add_argument("archive", metavar="ARCHIVE", type=Path, help="a new file, NAME.tar or NAME.tar.gz")
    _add_selection(export)
    _add_runs(export, "only what the results below these folders rest on")
    take_in = _command(commands, "import", "put the entries of an archive into the store, each checked")
    take_in.add_argument("archive", metavar="ARCHIVE", type=Path, help="what export wrote")
    return parser


def _command(commands, name: str, what: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    parser.add_argument(
        "--store", metavar="DIR", type=Path, default=Path("store"), help="the runs' paths.store (default: store)"
    )
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_argument_group("which entries (default: all; several values: any of them)")
    kinds = "measurement, teacher, expert, student, zca, judge, training, distillation, ..."
    chosen.add_argument("--kind", metavar="KIND", nargs="+", default=(), help=kinds)
    chosen.add_argument("--dataset", metavar="NAME", nargs="+", default=())
    chosen.add_argument("--model", metavar="NAME", nargs="+", default=())
    chosen.add_argument("--arm", metavar="NAME", nargs="+", default=(), help="the arm that was first to need it")
    chosen.add_argument("--key", metavar="DIGITS", nargs="+", default=(), help="the first digits of entries' keys")


def _add_runs(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--runs", metavar="RUNS", nargs="+", type=Path, default=(), help=what)


def _age(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no age: say 12h, 30d or 8w")
    return float(found[1]) * _UNITS[found[2]]


if __name__ == "__main__":
    sys.exit(main())
