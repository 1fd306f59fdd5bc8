"""What an examination says: on the terminal, and as doctor.json and doctor.png in the run's folder."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ddrank import atomic
from ddrank.data import RealDataset
from ddrank.data.readers.found import Found
from ddrank.doctor.examine import Diagnosis
from ddrank.doctor.findings import WRONG
from ddrank.doctor.picture import draw

SCHEMA = "ddrank/doctor/1"
_COLOURS = {True: "bold red", False: "bold yellow"}


def report(diagnosis: Diagnosis, found: Found, config: DictConfig, real: RealDataset, folder: Path) -> None:
    """Print the findings and write doctor.json and doctor.png into `folder`."""
    header = describe(diagnosis, found, config)
    table = atomic.write_bytes(
        folder / "doctor.json", json.dumps(_content(diagnosis, found, config), indent=1).encode()
    )
    picture = draw(diagnosis, found, real, header, folder / "doctor.png")
    console = Console(file=sys.stdout, highlight=False)
    console.print(f"[bold]{escape(header)}[/bold]")
    for finding in diagnosis.findings:
        console.print()
        colour = _COLOURS[finding.severity == WRONG]
        console.print(f"[{colour}]{finding.severity}[/{colour}]  [bold]{finding.kind}[/bold]")
        lines = Table.grid(padding=(0, 2, 0, 0))
        for name, text in (("found", finding.what), ("why", finding.why), ("mend", finding.setting)):
            lines.add_row(f"  [dim]{name}[/dim]", escape(text))
        console.print(lines)
    console.print()
    if not diagnosis.findings:
        console.print("[bold green]nothing found[/bold green]")
    if diagnosis.notes:
        console.print(f"[dim]checked:[/dim] {escape('; '.join(diagnosis.notes))}")
    console.print(f"[dim]files:[/dim] {escape(str(_shown(table)))}, {escape(str(_shown(picture)))}", soft_wrap=True)


def describe(diagnosis: Diagnosis, found: Found, config: DictConfig) -> str:
    """The data in one line: what, where, format, number, space."""
    shape = " x ".join(str(side) for side in diagnosis.images.shape[1:])
    count, classes = len(diagnosis.images), config.dataset.num_classes
    each = f"{classes} classes x {count // classes}" if count % classes == 0 else f"{classes} classes"
    sets = f", {1 + len(found.others)} sets" if found.others else ""
    parts = [
        f"{found.source or config.method.data}",
        f"{config.method.name} on {config.dataset.name}",
        f"format {found.format}",
        f"{count} images of {shape} ({each}{sets})",
    ]
    if diagnosis.believed is not None:
        parts.append(f"taken as {diagnosis.believed.name}")
    if found.soft_labels is not None:
        parts.append(f"soft labels taken as {diagnosis.soft_kind}")
    return ", ".join(parts)


def _content(diagnosis: Diagnosis, found: Found, config: DictConfig) -> dict:
    return {
        "schema": SCHEMA,
        "source": found.source or config.method.data,
        "format": found.format,
        "dataset": config.dataset.name,
        "method": config.method.name,
        "ipc": config.ipc,
        "images": list(diagnosis.images.shape),
        "space": {
            "believed": diagnosis.believed and diagnosis.believed.name,
            "fitting": diagnosis.fitting and diagnosis.fitting.name,
        },
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "checked": list(diagnosis.notes),
        "facts": diagnosis.facts,
    }


def _shown(path: Path) -> Path:
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path
