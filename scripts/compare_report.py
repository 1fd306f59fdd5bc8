"""The report of compare_ddranking.py: its measurements as tables for a terminal, and the ratios that matter."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from statistics import fmean, median, stdev

from compare_packages import LR, OURS, OURS_BF16, REFERENCE, TEST_EVERY

IPCS = (1, 10, 50)
PROTOCOLS = ("ddranking", "strict")
VARIANTS: dict[str, Callable[[str], bool]] = {
    "all its arms": lambda arm: True,
    "no _noaug": lambda arm: not arm.endswith("_noaug"),
    "no real": lambda arm: arm != "real_hard",
    "neither": lambda arm: arm != "real_hard" and not arm.endswith("_noaug"),
}


def heading(report: dict) -> str:
    machine, setup = report["machine"], report["setup"]
    lines = [f"ddrank and ddranking 0.2.0 on {machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, CPU"]
    lines += [f"{setup['train']} training and {setup['test']} test images; ConvNet-3; {setup['training']}"]
    lines += [f"DSA {setup['dsa']}", "One student at a time, ddranking with its default threads and 4 loader workers,"]
    lines += [f"ddrank with engine=auto and engine.threads={setup['threads']}.", "Worked around in ddranking:"]
    return "\n".join(lines + [f"  - {defect}" for defect in report["worked_around"]]) + "\n"


def times_table(times: dict, setup: dict) -> str:
    lines = ["Times, seconds: median (least - most); x: ddranking's median / this"]
    lines += [f"{'':<20}" + "".join(f"{name:>36}" for name in times)]
    for piece in times[OURS]:
        cells = [_cell(times[name].get(piece), times[REFERENCE].get(piece)) for name in times]
        lines.append(f"{piece:<20}" + "".join(f"{cell:>36}" for cell in cells))
    counted = f"{setup['real_batches']} of {setup['batches']} batches, scaled to all"
    lines += [f"'epoch real' is measured on {counted}; 'test' is one pass over {setup['test']} images,"]
    lines += [
        "'validation' one over the images that ddrank holds out; 'noaug' without DSA. None has compilation in it."
    ]
    return "\n".join([*lines, ""])


def costs_table(costs: dict) -> str:
    lines = ["A full hard-label evaluation, computed: measured pieces (medians above) times these counts"]
    for run in (REFERENCE, *(f"{OURS} protocol={name}" for name in PROTOCOLS)):
        lines += [f"  {run}"]
        for arm in costs[run][IPCS[0]]:
            counts = f"{arm['students']:3} students x {arm['epochs']} epochs, {arm['tests']} test passes"
            lines += [f"    {arm['arm']:<15}{counts}, {arm['validations']} validation passes"]
    lines += ["Hours; x: ddranking's hours with the same arms / this"]
    lines += [f"{'':<44}" + "".join(f"{variant:>24}" for variant in VARIANTS)]
    for ipc in IPCS:
        for run, by_ipc in costs.items():
            totals = [(_total(by_ipc[ipc], name), _total(costs[REFERENCE][ipc], name)) for name in VARIANTS]
            cells = [f"{mine / 3600:.4g} x{reference / mine:7.2f}" for mine, reference in totals]
            lines.append(f"IPC {ipc:<3} {run:<36}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join([*lines, ""])


def students_table(students: dict, times: dict, epochs: int) -> str:
    said = "ddranking's protocol" if epochs == 1000 else f"ddranking's protocol cut to {epochs} epochs (it has 1000)"
    lines = [f"One whole student at IPC 1, {said}, a test pass every {TEST_EVERY} epochs, really trained"]
    for name, done in students.items():
        computed = epochs * median(times[name]["epoch ipc1"]) + epochs // TEST_EVERY * median(times[name]["test"])
        seconds = [student["seconds"] for student in done]
        first = f"first epoch {done[0]['first_epoch']:.2f}, first with a test {done[0]['first_test_epoch']:.2f}"
        cell = _cell(seconds, [student["seconds"] for student in students[REFERENCE]] if name != REFERENCE else None)
        accuracy = ", ".join(f"{student['accuracy']:.4f}" for student in done)
        lines.append(f"  {name:<16}{cell:<36} s; {first}; from pieces {computed:.4g}; best test accuracy {accuracy}")
    lines += ["  Compilation included, from an empty cache; the first epochs above (one step each) show what it costs."]
    return "\n".join([*lines, ""])


def accuracy_table(students: dict, options: argparse.Namespace) -> str:
    values = {name: [student["accuracy"] for student in done] for name, done in students.items()}
    first, second = values.values()
    difference = fmean(second) - fmean(first)
    error = math.sqrt(sum(stdev(sample) ** 2 / len(sample) for sample in (first, second)))
    lines = [f"Accuracy (fraction) at IPC 10, {options.accuracy_epochs} epochs, lr {LR}, the same random real images, "]
    lines[0] += f"best of the tests every {TEST_EVERY} epochs"
    for name, sample in values.items():
        listed = " ".join(f"{value:.4f}" for value in sample)
        lines.append(f"  {name:<16}{listed}   mean {fmean(sample):.4f}  std {stdev(sample):.4f}")
    within = "less" if abs(difference) < 2 * error else "NOT less"
    lines += [f"  ddrank - ddranking {difference:+.4f}, standard error {error:.4f}: {within} than 2 standard errors"]
    return "\n".join([*lines, ""])


def ratios(report: dict) -> dict[str, float]:
    found: dict[str, float] = {}
    if times := report.get("times"):
        reference = median(times[REFERENCE]["test"])
        found |= {f"test pass, {side}": reference / median(times[side]["test"]) for side in (OURS, OURS_BF16)}
    if students := report.get("students"):
        seconds = {name: median(student["seconds"] for student in done) for name, done in students.items()}
        found[f"one student at IPC 1, {OURS}, compilation included"] = seconds[REFERENCE] / seconds[OURS]
    if costs := report.get("costs"):
        for variant in VARIANTS:
            reference, ours = (_total(costs[run][1], variant) for run in (REFERENCE, f"{OURS} protocol=strict"))
            name = f"full hard-label evaluation at IPC 1, {OURS}, strict against ddranking, {variant}"
            found[name] = reference / ours
    return found


def _total(arms: list[dict], variant: str) -> float:
    return sum(arm["seconds"] for arm in arms if VARIANTS[variant](arm["arm"]))


def _cell(seconds: list[float] | None, reference: list[float] | None) -> str:
    if seconds is None:
        return "-"
    ratio = f" x{median(reference) / median(seconds):6.2f}" if reference and reference is not seconds else ""
    return f"{median(seconds):.4g} ({min(seconds):.4g} - {max(seconds):.4g}){ratio}"
