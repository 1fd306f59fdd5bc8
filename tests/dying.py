"""A command whose jobs end in every way that jobs can, for the launchers: python dying.py -m seed=range(5) ...

What a job does hangs on its seed and on the file `ends` (a line "seed end" each) in the folder that it is started in. A
job that gets through leaves a file in `done`, and says how many cores it has.
"""

import os
import signal
from pathlib import Path

from omegaconf import DictConfig

from ddrank.crew import cores
from ddrank.errors import InputError, LostError
from ddrank.launch import launch


def job(config: DictConfig) -> None:
    ends = dict(line.split() for line in Path("ends").read_text().splitlines())
    print(f"seed {config.seed} has {cores()} cores", flush=True)
    match ends.get(str(config.seed)):
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raises":
            raise ValueError("a defect")
        case "refuses":
            raise InputError("it cannot be done")
        case "loses":
            raise LostError("a process was lost")
    Path("done").mkdir(exist_ok=True)
    Path("done", str(config.seed)).touch()


if __name__ == "__main__":
    import dying

    launch(dying.job, "config")
