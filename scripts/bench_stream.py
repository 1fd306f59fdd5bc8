"""How fast ddrank streams ImageNet-shaped data: python scripts/bench_stream.py [--folder DIR] [--out FILE.json]

It writes `shapes` out as JPEG files, train/<class>/*.JPEG and val/<class>/*.JPEG (100 classes, 20,000 training images
at 224 pixels unless told otherwise; `--folder` is used again if it is complete), and measures, in one run and taking
turns in several repetitions,

- decoder: images a second that processes, as many as ddrank's stream has, decode and resize when they do nothing else:
  each has its share of the files, in the order of a training pass, and keeps nothing;
- stream: images a second of a pass of ddrank's training batches (256, shuffled, normalised float32, nothing behind it),
  its workers there already, as in every epoch but the first;
- ratio: stream over decoder, of the medians;
- memory: the peak of a real evaluation that streams (`python -m ddrank.run dataset=imagefolder ...`, a small network,
  one epoch, one learning rate), all of its processes, shared pages counted once.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench import machine, peak_memory, spread
from PIL import Image
from rich.console import Console
from rich.progress import track

from ddrank.crew import cores
from ddrank.data import Batches, Samples
from ddrank.data.files import Format
from ddrank.data.folders import load_imagefolder
from ddrank.data.shapes import load_shapes
from ddrank.engine import Engine

LIMIT_GB = 4
WANTED_RATIO = 0.8
TEST_IMAGES = 10  # of each class
QUALITY = 90  # of the JPEG files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the images are, or shall be; else a temporary folder")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--images", type=int, default=20_000, help="for training")
    parser.add_argument("--size", type=int, default=224, help="of a training batch's images, pixels")
    parser.add_argument("--stored", type=int, help="size of the images in the files; else as `--size`")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--pass-images", type=int, help="measure passes over so many images; else over all")
    parser.add_argument("--no-evaluation", action="store_true", help="leave the peak memory out")
    parser.add_argument("--out", type=Path, help="a JSON file for all numbers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch) / "images"
        write(folder, args)
        content = {"machine": machine("cpu"), "settings": {name: str(value) for name, value in vars(args).items()}}
        content |= speeds(folder, args, Path(scratch))
        if not args.no_evaluation:
            content["evaluation"] = evaluation(folder, args, Path(scratch))
    show(content)
    if args.out:
        args.out.write_text(json.dumps(content, indent=1) + "\n")


def write(folder: Path, args: argparse.Namespace) -> None:
    """The images as JPEG files below `folder`, unless they are there."""
    wanted = {name: getattr(args, name) for name in ("classes", "images")} | {"size": args.stored or args.size}
    done = folder / "written.json"
    if done.exists() and json.loads(done.read_text()) == wanted:
        return
    per_class = max(1, args.images // args.classes)
    jobs = []
    for split, count in (("train", per_class), ("val", TEST_IMAGES)):
        few = max(1, 2000 // args.classes)  # images of each class that are drawn at a time
        for seed, start in enumerate(range(0, count, few)):
            jobs.append((str(folder / split), args.classes, min(few, count - start), start, wanted["size"], seed))
    with multiprocessing.get_context("spawn").Pool(cores()) as pool:
        list(track(pool.imap(_write, jobs), f"writing {folder}", len(jobs), console=Console(stderr=True)))
    done.write_text(json.dumps(wanted))


def _write(job: tuple[str, int, int, int, int, int]) -> None:
    """Some images of each class of `shapes`."""
    folder, classes, count, first, size, seed = job
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        seed = 2 * seed + (Path(folder).name == "val")
        samples, _, _ = load_shapes(Path(scratch), size, 3, classes, count, 1, seed=seed)
    seen = [first] * classes
    for image, label in zip(samples.images, samples.labels.tolist(), strict=True):
        path = Path(folder) / f"class{label:04d}" / f"{seen[label]:06d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, quality=QUALITY)
        seen[label] += 1


def speeds(folder: Path, args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Images a second of the decoder alone and of the stream, by repetition, and their ratio."""
    train, _, _ = load_imagefolder(scratch / "data", str(folder), args.size, decode_gib=0)
    samples = Samples(train.images, train.labels, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    if args.pass_images:
        samples = samples[torch.arange(len(samples))[:: max(1, len(samples) // args.pass_images)]]
    files = train.images.paths(getattr(samples.images, "index", slice(None)))
    files = [files[number] for number in torch.randperm(len(files), generator=torch.Generator().manual_seed(0))]
    torch.set_num_threads(cores())
    Engine(allocator=True).settle()  # as in an evaluation
    found: dict[str, list[float]] = {"decoder": [], "stream": []}
    with Batches(samples, args.batch) as batches, Decoders(train.images.format, cores()) as decoders:
        for repetition in range(-1, args.repetitions):  # the first of them warms everything up
            rates = {"decoder": decoders.rate(files), "stream": stream_rate(batches)}
            say(f"repetition {repetition + 1}/{args.repetitions}: {rates}")
            if repetition >= 0:
                for name, rate in rates.items():
                    found[name].append(rate)
    ratio = median(found["stream"]) / median(found["decoder"])
    return {"processes": cores(), "images": len(files), "images_per_s": found, "ratio": ratio}


def stream_rate(batches: Batches) -> float:
    count, began = 0, time.perf_counter()
    for batch in batches:
        count += len(batch["label"])
    return count / (time.perf_counter() - began)


class Decoders:
    """Processes that decode and resize, and do nothing else."""

    def __init__(self, format: Format, processes: int):
        self._pool = multiprocessing.get_context("forkserver").Pool(processes)
        self._processes, self._format = processes, format

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.terminate()

    def rate(self, files: list[str]) -> float:
        """Images a second over all of `files`."""
        few = math.ceil(len(files) / (8 * self._processes))  # no process waits long for the last
        parts = [(self._format, files[start : start + few]) for start in range(0, len(files), few)]
        began = time.perf_counter()
        assert sum(self._pool.imap_unordered(_decode, parts)) == len(files)
        return len(files) / (time.perf_counter() - began)


def _decode(part: tuple[Format, list[str]]) -> int:
    form, paths = part
    for path in paths:
        form.read(path)
    return len(paths)


def evaluation(folder: Path, args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Seconds and peak memory (bytes) of one evaluation that streams."""
    settings = [
        "dataset=imagefolder", "dataset.name=streamed", f"dataset.loader.path={folder.resolve()}",
        f"dataset.num_classes={args.classes}", f"dataset.size={args.size}", "dataset.loader.decode_gib=0",
        "dataset.real.epochs=1", "method=random", "method.distiller.draws=1", "model=convnet", "model.width=8",
        "dataset.convnet_depth=5", "aug=none", "num_eval=1", "protocol.lrs=[0.01]", "train.epochs=1",
    ]  # fmt: skip
    found = {}
    for module in ("ddrank.distill", "ddrank.run"):
        began = time.perf_counter()
        with (scratch / "said").open("w") as said:
            command = [sys.executable, "-m", module, f"hydra.run.dir={module}", *settings]
            running = subprocess.Popen(command, cwd=scratch, env=os.environ, stdout=said, stderr=said)
            memory = peak_memory(running)
        if running.returncode:
            return {"error": f"{module} (status {running.returncode}): {(scratch / 'said').read_text()[-2000:]}"}
        found[module] = {"seconds": time.perf_counter() - began, "memory": memory}
        say(f"{module}: {found[module]}")
    return found


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(content: dict[str, Any]) -> None:
    """Print the table."""
    print(", ".join(f"{name}: {value}" for name, value in content["machine"].items() if value is not None))
    print(f"\n{content['images']} images a pass, {content['processes']} processes; images a second")
    print(f"{'':10} {'median':>8} {'min':>8} {'max':>8} {'n':>3}")
    for name, rates in content["images_per_s"].items():
        row = spread(rates)
        print(f"{name:10} {row['median']:8.0f} {row['min']:8.0f} {row['max']:8.0f} {row['n']:3}")
    print(f"ratio      {content['ratio']:8.3f}  (wanted: {WANTED_RATIO} or more)")
    found = content.get("evaluation", {})
    if "error" in found:
        print(found["error"])
        return
    for module, values in found.items():
        memory = "unknown" if values["memory"] is None else f"{values['memory'] / 1e9:.2f} GB"
        print(f"{module}: {values['seconds']:.0f} s, peak memory {memory} (wanted: under {LIMIT_GB} GB)")


if __name__ == "__main__":
    main()
