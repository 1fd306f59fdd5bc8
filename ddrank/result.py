"""result.json: all that one evaluation found, enough to recompute every score at another w or g."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from ddrank import atomic, score
from ddrank.errors import InputError
from ddrank.store.entry import digest

SCHEMA = "ddrank/result/1"
SOURCES = ("measured", "reference")
_NAMES = ("method", "dataset", "model", "aug", "criterion", "labels", "protocol")
_OBJECTS = ("distilled", "environment", "seconds", "config")
_REQUIRED = (*_NAMES, "ipc", "seeds", "arms", "w", "g", "distilled")


@dataclass(frozen=True)
class Arm:
    """One arm's students: a test accuracy (fraction) and a learning rate for each seed.

    `source` is `measured`, or `reference`: a published accuracy that stands in for each seed's.
    """

    accuracy: list[float]
    lr: list[float | None]
    source: str = "measured"


@dataclass(frozen=True)
class Result:
    """One evaluation of one method on one dataset at one IPC; `store` are the digests of the store's entries that it
    rests on."""

    method: str
    dataset: str
    ipc: int
    model: str
    aug: str
    criterion: str
    labels: str
    protocol: str
    seeds: list[int]
    arms: dict[str, Arm]
    w: float
    g: float
    distilled: dict[str, str]
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    store: list[str] = field(default_factory=list)

    @property
    def scores(self) -> dict[str, score.Statistic]:
        """HLR, IOR, DDRS and ARS over the seeds, at this result's w and g."""
        return score.scores({name: arm.accuracy for name, arm in self.arms.items()}, self.w, self.g)

    def table(self, style: str = "text") -> str:
        """Arms and scores as a table: `text`, `markdown`, `latex` or `html`."""
        from ddrank.table import table

        return table(self, style)

    def _repr_html_(self) -> str:
        return self.table("html")

    def to_dict(self) -> dict[str, Any]:
        content = {"schema": SCHEMA, **asdict(self)}
        if not self.store:  # as of a result from before it was told, or one that travels
            del content["store"]
        content["scores"] = {name: asdict(statistic) for name, statistic in self.scores.items()}
        return content

    def save(self, path: Path | str) -> Path:
        """Write the result as JSON with a checksum, whole or not at all."""
        content = json.loads(json.dumps(self.to_dict(), allow_nan=False))
        content["sha256"] = digest(content)
        return atomic.write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path | str) -> Result:
        """Read a result file; scores are recomputed from its arms, never taken over.

        Raises InputError when the file cannot be read, is of another schema, contradicts itself or its checksum, which
        files of earlier versions do not have.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): give a result.json or a run folder") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not JSON ({error}): run the evaluation again to write it anew") from error
        result = cls.of(content, path)
        if "sha256" in content and content.pop("sha256") != digest(content):
            raise InputError(
                f"{path} is not as it was written (its checksum does not fit): run the evaluation or copy it again"
            )
        return result

    @classmethod
    def of(cls, content: Any, source: Path | str) -> Result:
        """A result from what a result file holds; `source` names it in what goes wrong (InputError)."""
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            found = content.get("schema") if isinstance(content, dict) else type(content).__name__
            raise InputError(
                f"{source} has the schema {found!r}, expected {SCHEMA!r}: give a result.json of this version"
            )
        try:
            if missing := [name for name in _REQUIRED if name not in content]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
            known["arms"] = {name: Arm(**arm) for name, arm in content["arms"].items()}
            result = cls(**known)
            result._check()
        except KeyError as error:
            raise InputError(f"{source} is not a whole result (it lacks {error}): run the evaluation again") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{source} is not a whole result ({error}): run the evaluation again") from error
        return result

    def _check(self) -> None:
        for name in _NAMES:
            value = getattr(self, name)
            if not isinstance(value, str) or not value or not value.isprintable():
                raise ValueError(f"{name} is {value!r}, expected a printable name")
        for name in _OBJECTS:
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected an object")
        if not isinstance(self.store, list) or not all(isinstance(digest, str) for digest in self.store):
            raise ValueError(f"store is {self.store!r}, expected a list of digests")
        if not isinstance(self.distilled["sha256"], str):
            raise ValueError(f"distilled.sha256 is {self.distilled['sha256']!r}, expected a string")
        if type(self.ipc) is not int or self.ipc < 1:
            raise ValueError(f"ipc is {self.ipc!r}, expected a whole number of images per class")
        if not isinstance(self.seeds, list) or not all(type(seed) is int for seed in self.seeds):
            raise ValueError(f"seeds are {self.seeds!r}, expected a list of whole numbers")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds {self.seeds} are not one or more different numbers")
        if not self.arms:
            raise ValueError("it lacks every arm")
        for name, arm in self.arms.items():
            if name not in score.ARMS:
                raise ValueError(f"unknown arm {name!r}")
            if not isinstance(arm.accuracy, list) or not isinstance(arm.lr, list):
                raise ValueError(f"arm {name} does not hold lists of accuracies and learning rates")
            if len(arm.accuracy) != len(self.seeds) or len(arm.lr) != len(self.seeds):
                raise ValueError(
                    f"arm {name} has {len(arm.accuracy)} accuracies and {len(arm.lr)} learning rates "
                    f"for {len(self.seeds)} seeds"
                )
            if arm.source not in SOURCES:
                raise ValueError(f"arm {name} has the source {arm.source!r}, expected one of {', '.join(SOURCES)}")
            if not all(0 <= value <= 1 for value in arm.accuracy):
                raise ValueError(f"arm {name} has accuracies outside [0, 1]: they are fractions, not percent")
            if not all(value is None or (type(value) in (int, float) and isfinite(value)) for value in arm.lr):
                raise ValueError(f"arm {name} has learning rates that are no numbers: {arm.lr}")
        _ = self.scores
