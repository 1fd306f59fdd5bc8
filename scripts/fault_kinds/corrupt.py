"""Files that are no longer what was written: cut off somewhere, or with a bit turned over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from ddrank.errors import InputError
from ddrank.result import Result
from ddrank.store.survey import CHECKPOINTS
from ddrank.store.verification import problem_of

from .contents import entry_files, resumptions
from .jobs import DISTILLATION, RUN, STUDENT, TAUGHT
from .trial import Job, Trial, tail

REPLACED = Job("run-in-one-folder", RUN.command, (*RUN.arguments, "hydra.run.dir=runs/one"))


def truncated(path: Path, random: Random) -> None:
    """Cut a file off at a random place."""
    content = path.read_bytes()
    path.write_bytes(content[: random.randrange(len(content))])


def flipped(path: Path, random: Random) -> None:
    """Turn a random bit of a file over."""
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def entries(spoil: Callable[[Path, Random], None]) -> Callable[[Trial], bool]:
    """Up to three entries of the store are spoilt: `verify` names these, and the next run computes them again."""

    def strike(trial: Trial) -> bool:
        trial.finished_before(TAUGHT)
        spoilt = [file.path for file in trial.random.sample(entry_files(trial.folder), trial.random.randint(1, 3))]
        for path in spoilt:
            spoil(path, trial.random)
            trial.forget(path)
        trial.check(TAUGHT, spoilt)
        said = trial.nursery.start("ddrank.store.__main__:main", ["verify"], trial.folder).end()
        named = {line.split()[1] for line in said.said.splitlines() if line.startswith("corrupt: ")}
        if said.status != 2 or named != {str(path.relative_to(trial.folder)) for path in spoilt}:
            trial.wrong.append(f"`verify` named {len(named)} of {len(spoilt)} corrupt entries, status {said.status}")
        trial.completed(TAUGHT)
        return True

    return strike


def checkpoints(trial: Trial) -> bool:
    """The checkpoint of a student or a distillation that was killed is spoilt: it says so, and begins anew."""
    job = trial.random.choice((STUDENT, DISTILLATION))
    if not trial.killed(job) or not resumptions(trial.folder):
        return False
    spoilt = [file for file in entry_files(trial.folder) if file.folder in CHECKPOINTS]
    for file in spoilt:
        trial.random.choice((truncated, flipped))(file.path, trial.random)
    # Of a zip file there are bits that mean nothing, and are in no checksum.
    trial.check(job, [file.path for file in spoilt if problem_of(file) is not None])
    trial.completed(job)
    return True


def results(trial: Trial) -> bool:
    """A result file is spoilt: the leaderboard names it, and the same command replaces it."""
    trial.finished_before(REPLACED)
    path = trial.folder / "runs/one/result.json"
    right = Result.load(path)
    trial.random.choice((truncated, flipped))(path, trial.random)
    trial.forget(path)
    try:
        if Result.load(path) != right:
            trial.wrong.append("a result was read that is another than was written")
    except InputError:
        board = trial.nursery.start("ddrank.leaderboard.__main__:main", ["runs"], trial.folder).end()
        if str(path.relative_to(trial.folder)) not in board.said or "Traceback" in board.said:
            trial.wrong.append(f"the leaderboard does not name it: {tail(board.said)}")
    trial.check()
    trial.completed(REPLACED)
    return True
