"""What an offline run of W&B left on disk: its messages, read without W&B's server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OfflineRun:
    """The run's own record (`run.run_group`, `run.tags`), its summary by flat keys, its history, and its files."""

    run: Any
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    folder: Path


def read_run(file: Path, seconds: float = 60) -> OfflineRun:
    """A run that was finished; waits up to `seconds`, since W&B's own process may still be writing."""
    deadline = time.monotonic() + seconds
    while not any(record.HasField("exit") for record in _records(file)) and time.monotonic() < deadline:
        time.sleep(0.1)
    run, summary, history = None, {}, []
    for record in _records(file):
        if record.HasField("run"):
            run = record.run
        for item in record.summary.update:
            summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        if record.HasField("history"):
            items = record.history.item
            history.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
    return OfflineRun(run, summary, history, file.parent / "files")


def _records(path: Path) -> Iterator[Any]:
    """The records of a run's file: W&B's protobuf messages in LevelDB's log format, in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    content, position, message = path.read_bytes(), 7, b""
    assert content[:4] in (b":W&B", b"")
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        if position + 7 + length > len(content):  # still being written
            return
        message += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            message = b""
            yield record
