"""Result files as they are compared with each other: without times, and without what tells one host from another."""

from __future__ import annotations

from typing import Any

HOST = ("processor", "cores", "workers", "threads")  # of a result's environment


def key(result: dict[str, Any]) -> str:
    """What tells the results of one sweep apart."""
    return f"{result['method']}, IPC {result['ipc']}, seed {result['seeds'][0]}"


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """A result without times, without what tells hosts apart, and without where it was made and with which engine."""
    kept = {name: value for name, value in result.items() if name not in ("seconds", "sha256")}
    kept["environment"] = {name: value for name, value in result["environment"].items() if name not in HOST}
    kept["config"] = {name: value for name, value in result["config"].items() if name not in ("paths", "engine")}
    return kept
