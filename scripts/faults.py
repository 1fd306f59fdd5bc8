"""The fault campaign: whatever can die or break does, and nothing is lost, nothing wrong, and all is completed.

    python scripts/faults.py                         # at least 200 faults, over all kinds
    python scripts/faults.py run-killed --count 50   # of one kind
    python scripts/faults.py --list

For each fault a small job is begun in an empty folder, and struck at a random moment. Afterwards

1. whatever was whole at that moment is still there, with the same content (else: lost);
2. nothing half-written is seen as an entry or a result, `store verify` finds what was spoilt and nothing else, and what
   is there is what an undisturbed job would have left (else: wrong);
3. a disturbed command that has ended with status 0 has made all that it should have (else: not completed);
4. the same command ends with status 0 (else: not completed), goes on from the checkpoints that are there (else: wrong),
   and leaves the result files of an undisturbed one, in all but times and hosts (else: wrong), with their pictures.

A fault that came too late is no fault, and is repeated. Kinds that are impossible here are named, and the others have
their share of the faults. Exit status 1: something was lost, wrong or not completed.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from fault_kinds import KINDS
from fault_kinds.nursery import Nursery
from fault_kinds.trial import Trial, Undisturbed

from ddrank.progress import Display

_TRIES = 12  # until a fault hits


@dataclass
class Tally:
    """What became of the faults of one kind."""

    faults: int = 0
    hit: int = 0
    lost: int = 0
    wrong: int = 0
    not_completed: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.failures and self.hit == self.faults


class Campaign:
    """Faults, one after the other, in folders below `folder`."""

    def __init__(self, folder: Path, seed: int):
        self._folder, self._seed = folder, seed
        self._known: dict[str, Undisturbed] = {}
        self._nursery = Nursery(folder / "logs")

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *exception) -> None:
        self._nursery.close()

    def strike(self, name: str, number: int) -> Trial | None:
        """The fault `number` of a kind, struck until it hits; None where it never does."""
        for attempt in range(_TRIES):
            folder = self._folder / f"{name}-{number}-{attempt}"
            folder.mkdir()
            random = Random(f"{self._seed} {name} {number} {attempt}")
            trial = Trial(folder, random, self._nursery, self._known, self._folder)
            try:
                trial.hit = KINDS[name].strike(trial)
            except Exception:
                trial.wrong.append(f"the campaign itself failed: {traceback.format_exc()}")
            finally:
                self._nursery.clear()
            if trial.lost or trial.wrong or trial.unfinished:
                return trial
            shutil.rmtree(folder)
            if trial.hit:
                return trial
        return None

    def kind(self, name: str, numbers: range, struck: Callable[[str], None]) -> Tally:
        """The faults `numbers` of a kind; `struck` is told after each what was wrong, or nothing."""
        tally, began = Tally(), time.monotonic()
        for number in numbers:
            trial = self.strike(name, number)
            tally.faults += 1
            repeat = f"(faults.py {name} --seed {self._seed} --only {number})"
            sentence = ""
            if trial is None:
                sentence = f"{name}: came too late {_TRIES} times {repeat}"
            else:
                tally.hit += trial.hit
                tally.lost += bool(trial.lost)
                tally.wrong += bool(trial.wrong)
                tally.not_completed += bool(trial.unfinished)
                told = [f"lost: {one}" for one in trial.lost] + [f"wrong: {one}" for one in trial.wrong]
                told += [f"not completed: {one}" for one in trial.unfinished]
                if told:
                    sentence = f"{name} {repeat}: {'; '.join(dict.fromkeys(told))}"
            if sentence:
                tally.failures.append(sentence)
            struck(sentence)
        tally.seconds = time.monotonic() - began
        return tally


def main() -> None:
    given = _arguments()
    if given.list:
        for name, kind in KINDS.items():
            print(f"{name:<20}{kind.what}")
        return
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="faults-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"{folder} holds something: give a new folder")
    chosen = given.kinds or list(KINDS)
    impossible = {name: why for name in chosen if (why := KINDS[name].impossible())}
    numbers = {name: range(given.count or share(name, given.faults)) for name in chosen if name not in impossible}
    if given.only is not None:
        numbers = dict.fromkeys(numbers, range(given.only, given.only + 1))
    tallies: dict[str, Tally] = {}
    count = sum(map(len, numbers.values()))
    with Campaign(folder, given.seed) as campaign, Display() as display, display.activity("faults", count) as advance:

        def struck(name: str, sentence: str) -> None:
            if sentence:
                display.say(sentence)
            advance(name)

        for name, of_kind in numbers.items():
            tallies[name] = campaign.kind(name, of_kind, partial(struck, name))
    print(table(tallies, impossible))
    if given.json:
        kinds = {name: asdict(tally) for name, tally in tallies.items()}
        content = {"seed": given.seed, "impossible": impossible, "kinds": kinds}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    sound = all(tally.sound for tally in tallies.values())
    if sound and not given.folder:
        shutil.rmtree(folder)
    sys.exit(0 if sound else 1)


def share(name: str, faults: int) -> int:
    """How many of at least `faults` faults are of the kind `name`, where all kinds are struck that are possible."""
    in_all = sum(kind.count for kind in KINDS.values() if not kind.impossible())
    return math.ceil(KINDS[name].count * faults / in_all)


def table(tallies: dict[str, Tally], impossible: dict[str, str]) -> str:
    """The tallies as a Markdown table."""
    columns = ("faults", "hit", "lost", "wrong", "not_completed", "seconds")
    sums = [sum(getattr(tally, name) for tally in tallies.values()) for name in columns]
    rows = [
        (name, KINDS[name].what, *(getattr(tally, column) for column in columns)) for name, tally in tallies.items()
    ]
    lines = ["| kind | | faults | hit | lost | wrong | not completed | seconds |", "| --- | --- |" + " ---: |" * 6]
    for name, what, *numbers in [*rows, ("all", f"{len(tallies)} kinds", *sums)]:
        lines.append(f"| {name} | {what} | {' | '.join(str(round(number)) for number in numbers)} |")
    return "\n".join([*lines, *(f"{name}: left out, {why}" for name, why in impossible.items())])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="by default all (see --list)")
    parser.add_argument("--list", action="store_true", help="say which kinds there are")
    parser.add_argument("--count", type=int, help="faults of each kind")
    parser.add_argument("--faults", type=int, default=200, help="faults of all kinds together (at least)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="I", help="only the fault of this number, counted from 0")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--json", type=Path, help="write the table there, too")
    given = parser.parse_args()
    if unknown := [name for name in given.kinds if name not in KINDS]:
        parser.error(f"there is no kind {unknown[0]}: choose of {', '.join(KINDS)}")
    return given


if __name__ == "__main__":
    main()
