"""What the classes of a dataset are called, and which labels the names in distilled files mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ddrank.data.readers.found import Found
from ddrank.errors import InputError


class ClassNames(tuple[str, ...]):
    """The names of classes as they are shown, in the order of the labels; `folders`: those that their folders have."""

    folders: tuple[str, ...]

    def __new__(cls, names: Iterable[str], folders: Iterable[str] | None = None) -> ClassNames:
        made = super().__new__(cls, names)
        made.folders = tuple(made if folders is None else folders)
        return made


def in_dataset_order(found: Found, names: ClassNames, dataset: str, trust: bool = False) -> Found:
    """`found` with the labels that `dataset`, whose classes have these `names`, gives to the classes that the files
    name; files that name none are left alone.

    Soft labels follow, where their columns agree better with the files' order of classes than with the dataset's. With
    `trust`, names that the dataset does not have keep the files' order; otherwise they raise InputError.
    """
    given = _given(found)
    meant = meant_labels(given, names)
    if not given or (meant is None and trust):
        return found
    if meant is None:
        raise InputError(
            f"{found.where} calls its {strangers(found, names)} (of {dataset}): give them the dataset's names, or say "
            "method.trust=true if their order is that of the dataset's labels"
        )
    order = torch.full((len(found.class_names),), -1)
    order[found.labels.unique().long()] = torch.tensor(meant)
    labels = order[found.labels.long()]
    return replace(found, labels=labels, soft_labels=_columns(found, labels, order), class_names=tuple(names))


def strangers(found: Found, names: ClassNames) -> str | None:
    """Names of classes that the dataset, whose classes have these `names`, does not have, in words; None where it has
    all that the files give, or where they give none."""
    given = _given(found)
    if meant_labels(given, names) is not None:
        return None
    odd = [name for name in given if name not in names.folders] or given
    lacking = [name for name in names.folders if name not in given] or names.folders
    return f"classes {_some(odd)}, which are not {_some(lacking)}"


def meant_labels(given: Sequence[str], names: ClassNames) -> list[int] | None:
    """The label that each of the names `given` means: by the dataset's names of folders, else by those that are shown,
    as they are written, else in any case, else as numbers; plain numbers that are no such names (`7`, `class007`) are
    the labels themselves, from 0 or, where they are 1 to the number of classes, from 1. None where they fit neither.

    >>> names = ClassNames(["tench", "goldfish"], ["n01440764", "n01443537"])
    >>> meant_labels(["n01443537", "n01440764"], names), meant_labels(["Goldfish"], names), meant_labels(["1"], names)
    ([1, 0], [1], [1])
    """
    if not given:
        return []
    forms: tuple[Callable[[str], str | int | None], ...] = (str, _loosely, _whole)
    for known in (names.folders, tuple(names)):
        for form in forms:
            label = {form(name): number for number, name in enumerate(known)}
            wanted = [form(name) for name in given]
            if len(label) == len(known) and None not in label and _distinct(wanted) and set(wanted) <= set(label):
                return [label[name] for name in wanted]
    if len({_PREFIXED.sub("", name) for name in given}) > 1 or not all(map(_PREFIXED.search, given)):
        return None
    numbers = [int(_PREFIXED.search(name)[0]) for name in given]
    if not _distinct(numbers):
        return None
    if sorted(numbers) == list(range(1, len(names) + 1)):
        return [number - 1 for number in numbers]
    return numbers if max(numbers) < len(names) else None


def _given(found: Found) -> list[str]:
    """The names that the files give to the classes of their images, in the order of their labels."""
    if not found.class_names or found.labels is None or not found.labels.numel():
        return []
    used = found.labels.unique().tolist()
    if used[0] < 0 or used[-1] >= len(found.class_names):
        raise InputError(
            f"the labels of {found.where} run from {used[0]} to {used[-1]}, but it names {len(found.class_names)} "
            "classes: name them all"
        )
    return [found.class_names[label] for label in used]


_PREFIXED = re.compile(r"(?<![0-9])[0-9]{1,9}\Z")


def _loosely(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def _whole(name: str) -> int | None:
    return int(name) if re.fullmatch(r"[0-9]{1,9}", name) else None


def _distinct(values: Sequence) -> bool:
    return len(set(values)) == len(values)


def _columns(found: Found, labels: Tensor, order: Tensor) -> Tensor | None:
    """Soft labels with their columns in the dataset's order, in which the file's class i is `order[i]`."""
    soft = found.soft_labels
    shape = (len(labels), len(order))
    if soft is None or tuple(soft.shape) != shape or sorted(order.tolist()) != list(range(len(order))):
        return soft
    top = soft.float().argmax(1)
    as_the_file = int((top == found.labels).sum()) > int((top == labels).sum())
    return soft[:, order.argsort()] if as_the_file else soft


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
