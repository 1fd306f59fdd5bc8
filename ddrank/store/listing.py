"""What is in a store, for people and as JSON."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ddrank.leaderboard.configuration import printable
from ddrank.store.survey import Entry, Selection, selected, survey

_COLUMNS = {"kind": 14, "dataset": 12, "what": 44, "lr": 8, "seed": 5, "accuracy": 9, "size": 9, "used": 17}
_DIGITS = 12  # of a digest, on a line


def list_entries(root: Path, selection: Selection, summary: bool, as_json: bool) -> None:
    """Print a line for each entry that is meant, and how many of each kind there are; only that with `summary`."""
    found, rows = Counter(), []
    sizes: Counter[str] = Counter()
    for one in selected(survey(root).entries, selection, "reading entries"):
        found[one.kind] += 1
        sizes[one.kind] += one.file.bytes
        if not summary:
            rows.append(row(one))
    rows.sort(key=lambda row: (row["kind"], *(str(row[name] or "") for name in ("dataset", "what")), row["used"]))
    kinds = {kind: {"entries": found[kind], "bytes": sizes[kind]} for kind in sorted(found)}
    if as_json:
        content = {"store": str(root), "kinds": kinds} | ({} if summary else {"entries": rows})
        print(json.dumps(content, indent=1))
        return
    if rows:
        print("".join(name.ljust(width) for name, width in _COLUMNS.items()) + "key")
    for one in rows:
        print(_line(one))
    for kind, of_kind in kinds.items():
        print(f"{of_kind['entries']:>8} {printable(kind):<18} {size(of_kind['bytes']):>9}")
    print(f"{found.total():>8} {'entries in all':<18} {size(sizes.total()):>9}")


def row(one: Entry) -> dict[str, Any]:
    """What there is to say of an entry; None where that is unknown."""
    accuracy = one.value.get("accuracy")
    parts = [one.told(name) for name in ("arm", "method")] + [one.model, one.about.get("what")]
    if one.told("ipc") is not None:
        parts.append(f"IPC {one.told('ipc')}")
    return {
        "kind": one.kind,
        "dataset": one.told("dataset"),
        "what": ", ".join(str(part) for part in parts if part) or None,
        "arm": one.told("arm"),
        "model": one.model,
        "lr": one.key.get("lr"),
        "seed": one.told("seed"),
        "accuracy": accuracy if isinstance(accuracy, float) and 0 <= accuracy <= 1 else None,
        "bytes": one.file.bytes,
        "used": time.strftime("%Y-%m-%d %H:%M", time.localtime(one.file.touched)),
        "key": one.file.name,
    }


def size(count: int) -> str:
    """Bytes in words: 512 B, 3.4 kB, 1.2 GB."""
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def _line(one: dict[str, Any]) -> str:
    accuracy = "" if one["accuracy"] is None else f"{one['accuracy']:.4f}"
    shown = one | {"size": size(one["bytes"]), "accuracy": accuracy}
    cells = ["" if shown[name] is None else printable(str(shown[name])) for name in _COLUMNS]
    padded = [(cell[: width - 1]).ljust(width) for cell, width in zip(cells, _COLUMNS.values(), strict=True)]
    return "".join(padded) + one["key"][:_DIGITS]
