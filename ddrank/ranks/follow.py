"""A follower's life: one assignment after the other, until the leader says that it is over, or ends."""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from typing import Any, NoReturn

from ddrank.crew import end_at_once
from ddrank.errors import InputError
from ddrank.ranks.channel import Channel
from ddrank.ranks.place import LEADER, Place, divide_cores, place


def follow(of_this: Place) -> NoReturn:
    """Follow the leader of the group that `of_this` is a place in."""
    try:
        channel, store = _joined(of_this)
    except (OSError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        sys.exit(
            f"ddrank: rank {of_this.rank} found no leader at {of_this.address}, port {of_this.port} ({reason}): the "
            "process of rank 0 tells why, or its machine cannot be reached by this name"
        )
    warnings.simplefilter("ignore")  # the leader says the same
    try:
        _work(of_this, store)
    except InputError as error:
        channel.send(kind="refused", said=str(error))
        end_at_once(2)
    except SystemExit as stop:  # SIGTERM, of which there is nothing to say
        end_at_once(stop.code)
    except BaseException:
        channel.send(kind="failed", said=traceback.format_exc())
        end_at_once(1)


def _joined(of_this: Place) -> tuple[Channel, Any]:
    leader = os.environ.get(LEADER)
    if leader:  # before the imports, which take a while: the leader may end meanwhile
        host, port = leader.rsplit(":", 1)
        channel = _channel(of_this, host, int(port))
    from ddrank.ranks.team import addresses

    store, _ = addresses(of_this)
    if not leader:  # which would have divided its own cores
        divide_cores(of_this.beside)
        channel = _channel(of_this, of_this.address, int(store.get("leader")))
    return channel, store


def _channel(of_this: Place, host: str, port: int) -> Channel:
    channel = Channel.to(host, port)
    channel.send(rank=of_this.rank)
    channel.watch(_end)
    return channel


def _end(message: dict[str, Any] | None) -> None:
    """End with the leader, in the middle of a training if need be."""
    end_at_once(1 if message is None else 0)


def _work(of_this: Place, store: Any) -> NoReturn:
    import torch

    from ddrank import crew, fit
    from ddrank.ranks.team import FOR_LONG, gather

    store.set_timeout(FOR_LONG)
    team = gather(of_this, store, store.get("device").decode())
    parts: dict[str, Any] = {}
    settled = None
    while True:
        engine, content, new, forget = team.told(None)
        if engine != settled:
            engine.settle()
            settled = engine
        if forget:
            parts.clear()
        for name, saved in new.items():
            parts[name] = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=False)  # the leader's own
        assignment, _ = crew.unpacked(content, parts)
        fit.run_here(assignment, engine)


if __name__ == "__main__":
    follow(place())
