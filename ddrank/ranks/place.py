"""Who is who: which of the processes of a group this one is, as those that started it say."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ddrank.crew import SHARE, cores

LEADER = "DDRANK_LEADER"  # in the environment of followers that the leader has started: where it listens, HOST:PORT
LOOPBACK = "127.0.0.1"
JOIN = 600.0  # seconds for all ranks to be there


@dataclass(frozen=True)
class Place:
    """One of `ranks` processes.

    Attributes:
        rank: its number, 0 is the leader's.
        local_rank: its number among those of its machine.
        beside: how many processes share the cores that it sees.
        address, port: where the leader has its store of addresses (torch's TCPStore).
    """

    rank: int
    ranks: int
    local_rank: int
    beside: int
    address: str
    port: int

    def environment(self) -> dict[str, str]:
        """What tells another process this place, by the names that torchrun uses."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.ranks),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.beside),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The place of this process; None where nothing says that it has one.

    torchrun, and submitit's jobs (`ddrank.launchers.submitit`), say it by RANK and its like; srun by the variables of a
    job step of several tasks. A batch script that calls python without srun is no such step.
    """
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(environment):
        ranks = int(environment["WORLD_SIZE"])
        return Place(
            rank=int(environment["RANK"]),
            ranks=ranks,
            local_rank=int(environment.get("LOCAL_RANK", 0)),
            beside=int(environment.get("LOCAL_WORLD_SIZE", 1)),
            address=environment["MASTER_ADDR"],
            port=int(environment["MASTER_PORT"]),
        )
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        step = int(environment.get("SLURM_STEP_ID", 0))
        return Place(
            rank=int(environment["SLURM_PROCID"]),
            ranks=int(environment["SLURM_STEP_NUM_TASKS"]),
            local_rank=int(environment["SLURM_LOCALID"]),
            beside=_beside(environment),
            address=environment.get("MASTER_ADDR") or first_node(environment["SLURM_STEP_NODELIST"]),
            port=int(environment.get("MASTER_PORT") or 20000 + (31 * int(environment["SLURM_JOB_ID"]) + step) % 12000),
        )
    return None


_before: list[str | None] = []  # this process's share of the cores before it was divided, while it is


def divide_cores(processes: int) -> None:
    """Leave this process its part of the cores that so many `processes` see; 1: all of them again."""
    if _before:
        whole = _before.pop()
        os.environ.pop(SHARE, None)
        if whole is not None:
            os.environ[SHARE] = whole
    if processes > 1:
        _before.append(os.environ.get(SHARE))
        os.environ[SHARE] = str(max(1, cores() // processes))


def _beside(environment: Mapping[str, str]) -> int:
    """How many tasks of a job step share this one's cores: one where Slurm binds each to cores of its own, else all of
    its node."""
    bound = cores() < int(environment.get("SLURM_CPUS_ON_NODE", 1))
    return 1 if bound else int(re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))[0])


def first_node(nodes: str) -> str:
    """The first of a list of nodes as Slurm writes them.

    >>> first_node("gpu[07-09,12],cpu1"), first_node("rack[2,5]n[1-4]"), first_node("alone")
    ('gpu07', 'rack2n1', 'alone')
    """
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first)
