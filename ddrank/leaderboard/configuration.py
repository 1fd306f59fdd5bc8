"""When two results are the same configuration but for seeds, and in what they differ otherwise."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ddrank.leaderboard.portable import without_places
from ddrank.result import Result

# Keys of a result's config that do not change what one seed's accuracies mean. Paths among them: what lies there is
# told by the sha256 of the data and the fingerprint of the teachers.
IGNORED = (
    "seed",
    "num_eval",
    "score",
    "paths",
    "logger",
    "method.data",
    "method.soft_labels",
    "method.teacher_weights",
    "engine.name",
    "engine.accelerator",
    "engine.threads",
    "engine.workers",
    "engine.compile",
    "engine.channels_last",
    "engine.allocator",
    "engine.checkpoint_every",
    "engine.devices",  # in a result's environment, where there are several: `auto` is as many as there are
    "engine.nodes",
    "dataset.loader.decode_gib",
    "plan",
    "protocol.per_seed",  # in results of earlier versions, where it changed nothing
)
# What has to agree for results of one dataset, IPC, model and protocol to be compared: a model's name does not tell its
# width, a dataset's not how long its real data were trained or what was cut out of its test images, nor a protocol's
# that a rate was chosen on the test set all the same. Names of settings, or their beginnings.
COMPARED = (
    *("model.", "dataset.size", "dataset.loader.", "dataset.real.", "dataset.validation."),
    *("protocol.select_on", "protocol.best_checkpoint", "protocol.lrs", "protocol.real."),
)
_PLACES = ("dataset.loader.folder", "dataset.loader.path")  # among these, what may differ all the same
FIELDS = ("method", "dataset", "ipc", "model", "aug", "criterion", "labels", "protocol")

# Differences that a name already tells: where `aug` differs, so do the settings below it.
_TOLD_BY = {"aug": "aug.", "criterion": "criterion.", "labels": "method.labels"}
_MOST_SHOWN = 3
_MOST_CHARACTERS = 24


def configuration(result: Result) -> dict[str, str]:
    """What a result measured, seeds apart, as dotted keys with values in JSON: equal where seeds may be merged."""
    fields = {name: _text(getattr(result, name)) for name in FIELDS}
    fields["data"] = str(result.distilled["sha256"])
    fields["teachers"] = str(result.distilled.get("teachers", ""))
    if (devices := result.environment.get("devices", 1)) != 1:
        fields["devices"] = _text(devices)
    if len(parts := [name for name, part in result.config.get("aug", {}).items() if isinstance(part, Mapping)]) > 1:
        fields["aug.order"] = _text(parts)
    fields["arms"] = " ".join(f"{name}:{arm.source}" for name, arm in sorted(result.arms.items()))
    return fields | {key: value for key, value in _settings(result) if key not in fields}


def comparability(result: Result) -> dict[str, str]:
    """The settings that results of one ranking have in common besides their dataset, IPC, model and protocol."""
    settings = dict(_settings(result))
    found = {key: value for key, value in settings.items() if key.startswith(COMPARED) and key not in _PLACES}
    if settings.get("protocol.real.epochs") == settings.get("train.epochs"):  # the method's own
        found.pop("protocol.real.epochs", None)
    unset = {key for key, value in found.items() if key.startswith("dataset.loader.") and value in ("null", "false")}
    return {key: value for key, value in found.items() if key not in unset}  # earlier versions had fewer of them


def differences(configurations: Sequence[Mapping[str, str]]) -> list[str]:
    """For each of several different configurations of one method, how it differs: 'aug=none, train.epochs=300'.

    More than three differences are cut down to some that tell the configurations apart, and '…'. Where shown values do
    not tell them apart, a short hash of the configuration follows. A single configuration differs in nothing: ''.
    """
    if len(configurations) < 2:
        return [""] * len(configurations)
    differing = _differing(configurations)
    shown = differing if len(differing) <= _MOST_SHOWN else _telling(differing, configurations)[:_MOST_SHOWN]
    texts = [
        ", ".join([f"{key}={_shortened(key, entry.get(key))}" for key in shown] + ["…"] * (shown != differing))
        for entry in configurations
    ]
    counts = Counter(texts)
    return [
        text if counts[text] == 1 else f"{text}, #{_hash(entry)}"
        for text, entry in zip(texts, configurations, strict=True)
    ]


def printable(text: str) -> str:
    """`text` with control characters, line breaks and broken Unicode replaced: safe to show on a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def slugs(texts: Sequence[str], otherwise: str) -> list[str]:
    """For each text a name of letters, digits, dots and hyphens, 'dm (aug=none)': 'dm-aug-none'; different ones.

    `otherwise` is that of a text in which there are none of these.
    """
    names: list[str] = []
    for text in texts:
        name = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:100] or otherwise
        number = 1 + sum(other == name or other.startswith(f"{name}_") for other in names)
        names.append(name if number == 1 else f"{name}_{number}")
    return names


def _differing(configurations: Sequence[Mapping[str, str]]) -> list[str]:
    known = dict.fromkeys(key for entry in configurations for key in entry)
    first = [key for key in (*FIELDS, "data", "arms") if key in known]
    keys = first + sorted(known.keys() - set(first))
    differing = [key for key in keys if _count(configurations, key) > 1]
    told = {
        key
        for name, below in _TOLD_BY.items()
        for key in differing
        if name in differing
        and key.startswith(below)
        and _count(configurations, name, key) == _count(configurations, name)
    }
    return [key for key in differing if key not in told]


def _telling(keys: Sequence[str], configurations: Sequence[Mapping[str, str]]) -> list[str]:
    """Those of `keys` that tell apart configurations which the ones before them do not."""
    chosen: list[str] = []
    for key in keys:
        if _count(configurations, *chosen, key) > _count(configurations, *chosen):
            chosen.append(key)
    return chosen


def _count(configurations: Sequence[Mapping[str, str]], *keys: str) -> int:
    return len({tuple(entry.get(key) for key in keys) for entry in configurations})


def _settings(result: Result) -> Iterator[tuple[str, str]]:
    # Of a folder, its name counts and not where it lies: what is in it is told by the sha256.
    return _leaves(without_places(result.config))


def _leaves(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        key = f"{above}{name}"
        if key in IGNORED:
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _shortened(key: str, value: str | None) -> str:
    if value is None:
        return "unset"
    text = printable(value.strip('"'))
    if key == "data":
        return text[:8]
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def _hash(entry: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:8]
