"""How fast ddrank distils: python scripts/bench_distill.py [--methods dc,...] [--ipc 10] [--out FILE.json]

For each method, on random images of CIFAR-10's shape and with the method's published settings, iterations a second of

- loop: the published procedure as it reads, class by class, in plain PyTorch, written for this benchmark;
- ddrank: the distiller of the same name under engine=auto, in float32;
- ddrank bf16: the same under engine.precision=bf16-mixed.

Every side has a process of its own, since how a process keeps its memory is a setting of the engine, and all cores;
sides take turns in several repetitions, of which the medians count. First calls, and so compilation, are not in the
times. An iteration of many steps is not carried out as a whole: its parts are timed, and counted as often as it has
them.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ddrank.augment import DSA
from ddrank.augment.dsa import apply_dsa
from ddrank.crew import cores
from ddrank.data import RealDataset, Samples, Space
from ddrank.distill.base import Task
from ddrank.distill.dm import DM
from ddrank.distill.experts import ExpertRecipe, Experts
from ddrank.distill.gradient import DC
from ddrank.distill.trajectory import MTT, Matching
from ddrank.engine import Engine
from ddrank.models import ConvNet
from ddrank.progress import Display
from ddrank.store import Store

CLASSES, SHAPE, OF_EACH = 10, (3, 32, 32), 512
WANTED = {"dc": 2.0, "dm": 3.0}  # times the loop
PRECISIONS = {"ddrank": "32-true", "ddrank bf16": "bf16-mixed"}

Parts = dict[str, float]  # seconds of each part of an iteration
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu, with one thread, on a machine at work")
    parser.add_argument("--out", type=Path, help="a JSON file for all numbers")
    args = parser.parse_args()
    content: dict[str, Any] = {"machine": machine("cpu") | {"threads": args.threads}, "ipc": args.ipc}
    for name in args.methods.split(","):
        sides, counts = METHODS[name](args.ipc)
        measured = {side: [] for side in sides}
        for _ in range(args.repetitions):
            for side, measure in sides.items():
                measured[side].append(_apart(measure, args.ipc, args.threads, CLOCKS[args.clock]))
        content[name] = {side: _summary(found, counts) for side, found in measured.items()}
        _show(name, content[name], counts)
    if args.out:
        args.out.write_text(json.dumps(content, indent=2))


# DC: gradient matching


def bench_dc(ipc: int) -> tuple[dict[str, Callable[..., Parts]], dict[str, int]]:
    """The sides, and how often an iteration (one network) has each part."""
    outer, inner = DC().loops(ipc)
    counts = {"matching step": outer, "epoch": (outer - 1) * inner}
    return {"loop": dc_loop} | {side: partial(dc_ours, of) for side, of in PRECISIONS.items()}, counts


def dc_loop(ipc: int, clock: Clock) -> Parts:
    """A matching step and an epoch of the network's training: Zhao et al., ICLR 2021, algorithm 1."""
    samples, labels = _samples(), torch.arange(CLASSES).repeat_interleave(ipc)
    members = [torch.nonzero(samples.labels == label).flatten() for label in range(CLASSES)]
    images = torch.randn(len(labels), *SHAPE, requires_grad=True)
    network = _network("convnet").train()
    parameters = list(network.parameters())
    pixels = torch.optim.SGD([images], 0.1, momentum=0.5)
    weights = torch.optim.SGD(parameters, 0.01)

    def match() -> None:
        loss = torch.tensor(0.0)
        for label in range(CLASSES):
            batch = samples.images[members[label][torch.randperm(OF_EACH)[:256]]]
            answer = F.cross_entropy(network(batch), torch.full((len(batch),), label))
            wanted = [part.detach().clone() for part in torch.autograd.grad(answer, parameters)]
            own = images[label * ipc : (label + 1) * ipc]
            answer = F.cross_entropy(network(own), torch.full((ipc,), label))
            loss = loss + dc_distance(wanted, torch.autograd.grad(answer, parameters, create_graph=True))
        pixels.zero_grad()
        loss.backward()
        pixels.step()

    def epoch() -> None:
        copied = TensorDataset(copy.deepcopy(images.detach()), labels)
        for batch, label in DataLoader(copied, batch_size=256, shuffle=True):
            answer = F.cross_entropy(network(batch), label)
            weights.zero_grad()
            answer.backward()
            weights.step()

    match()
    epoch()
    return {"matching step": _seconds(match, 1, clock), "epoch": _seconds(epoch, 3, clock)}


def dc_distance(real: list[Tensor], synthetic: tuple[Tensor, ...]) -> Tensor:
    total = torch.tensor(0.0)
    for a, b in zip(real, synthetic, strict=True):
        if a.dim() > 1:
            a, b = a.flatten(1), b.flatten(1)
            total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return total


def dc_ours(precision: str, ipc: int, clock: Clock) -> Parts:
    """The same with ddrank's distiller; what is compiled is compiled before."""
    matching = DC().begin(_task(ipc, precision))
    matching.match()
    matching.train(1)
    return {"matching step": _seconds(matching.match, 1, clock), "epoch": _seconds(lambda: matching.train(1), 3, clock)}


# MTT: matching training trajectories


def bench_mtt(ipc: int) -> tuple[dict[str, Callable[..., Parts]], dict[str, int]]:
    """The sides; an iteration is one student. Some of its steps are timed, since the loop keeps the graphs of all: some
    10 GB at IPC 10, and five times as much at IPC 50."""
    return {"loop": mtt_loop, "ddrank": mtt_ours}, {f"{STEPS} steps of a student": mtt_steps(ipc) // STEPS}


STEPS = 5  # that are timed


def mtt_steps(ipc: int) -> int:
    return 50 if ipc == 1 else 30


def mtt_loop(ipc: int, clock: Clock) -> Parts:
    """A student with the graphs of all its steps, and the way back through it: Cazenavette et al., CVPR 2022."""
    labels, dsa = torch.arange(CLASSES).repeat_interleave(ipc), DSA()
    images = torch.randn(len(labels), *SHAPE, requires_grad=True)
    rate = torch.tensor(0.01, requires_grad=True)
    optimizers = [torch.optim.SGD([images], 100.0, momentum=0.5), torch.optim.SGD([rate], 1e-7, momentum=0.5)]
    network = _network("convnet").train()
    shapes = {name: part.shape for name, part in network.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    start, target = (nn.utils.parameters_to_vector(_network("convnet").parameters()).detach() for _ in range(2))

    def student() -> None:
        weights = start.clone().requires_grad_()
        for _ in range(STEPS):
            order = torch.randperm(len(labels))
            named = zip(shapes.items(), weights.split(sizes), strict=True)
            parts = {name: part.view(shape) for (name, shape), part in named}
            answer = F.cross_entropy(functional_call(network, parts, (dsa(images[order]),)), labels[order])
            (gradient,) = torch.autograd.grad(answer, weights, create_graph=True)
            weights = weights - rate * gradient
        loss = (weights - target).square().sum() / (start - target).square().sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    student()
    return {f"{STEPS} steps of a student": _seconds(student, 1, clock)}


def mtt_ours(ipc: int, clock: Clock) -> Parts:
    """The same with ddrank's distiller, between random parameters; in as much memory as these steps have of all."""
    task, mtt = _task(ipc, "32-true"), MTT(lr_lr=1e-7)
    experts = Experts(task, ExpertRecipe("convnet"), 1, last=1)
    matching = Matching(mtt, task, experts, share=STEPS / mtt_steps(ipc))
    start, target = (nn.utils.parameters_to_vector(_network("convnet").parameters()).detach() for _ in range(2))

    def student() -> None:
        for optimizer in matching.optimizers:
            optimizer.zero_grad()
        matching.match(start, target, STEPS)
        for optimizer in matching.optimizers:
            optimizer.step()

    student()
    return {f"{STEPS} steps of a student": _seconds(student, 1, clock)}


# DM: distribution matching


def bench_dm(ipc: int) -> tuple[dict[str, Callable[..., Parts]], dict[str, int]]:
    """The sides, and how often an iteration has its one part."""
    return {"loop": dm_loop} | {side: partial(dm_ours, of) for side, of in PRECISIONS.items()}, {"iteration": 1}


def dm_loop(ipc: int, clock: Clock) -> Parts:
    """An iteration: Zhao and Bilen, WACV 2023, algorithm 1, with siamese DSA, class by class."""
    samples, dsa = _samples(), DSA()
    members = [torch.nonzero(samples.labels == label).flatten() for label in range(CLASSES)]
    images = torch.randn(CLASSES * ipc, *SHAPE, requires_grad=True)
    pixels = torch.optim.SGD([images], 1.0, momentum=0.5)

    def iteration() -> None:
        network = _network("convnet").train().requires_grad_(False)
        loss = torch.tensor(0.0)
        for label in range(CLASSES):
            batch = samples.images[members[label][torch.randperm(OF_EACH)[:256]]]
            own = images[label * ipc : (label + 1) * ipc]
            shared = dsa.draw_shared(SHAPE[1:])
            with torch.no_grad():
                wanted = network.embed(apply_dsa(batch, shared)).mean(0)
            loss = loss + (wanted - network.embed(apply_dsa(own, shared)).mean(0)).square().sum()
        pixels.zero_grad()
        loss.backward()
        pixels.step()

    iteration()
    return {"iteration": _seconds(iteration, 3, clock)}


def dm_ours(precision: str, ipc: int, clock: Clock) -> Parts:
    """The same with ddrank's distiller; what is compiled is compiled before."""
    matching = DM().begin(_task(ipc, precision))
    matching.step(0)
    return {"iteration": _seconds(lambda: matching.step(0), 3, clock)}


# what all methods share

METHODS = {"dc": bench_dc, "dm": bench_dm, "mtt": bench_mtt}


def _task(ipc: int, precision: str) -> Task:
    """A task of random images under engine=auto, as which this process is set up."""
    samples, names = _samples(), tuple(map(str, range(CLASSES)))
    engine = Engine(precision=precision, compile="auto", channels_last="auto", allocator=True)
    engine.settle()
    return Task(
        real=RealDataset("random", samples, samples, names, (0.0,), (1.0,), 0.1, 5000),
        samples=samples,
        space=Space("normalized", (0.0,), (1.0,)),
        ipc=ipc,
        generator=torch.Generator().manual_seed(0),
        network=_network,
        trained=_network,
        training=lambda name: [],
        architecture=lambda name: {"name": name},
        store=Store(tempfile.gettempdir()),
        engine=engine,
        display=Display(),
    )


def _samples() -> Samples:
    labels = torch.arange(CLASSES).repeat_interleave(OF_EACH)
    return Samples(torch.randn(len(labels), *SHAPE, generator=torch.Generator().manual_seed(0)), labels)


def _network(name: str) -> nn.Module:
    return ConvNet(num_classes=CLASSES, channels=SHAPE[0], size=SHAPE[1])


def _apart(measure: Callable[[int, Clock], Parts], ipc: int, threads: int, clock: Clock) -> dict[str, float]:
    """What `measure` finds in a new process, and the process's peak memory, bytes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, measure, ipc, threads, clock).result()


def _measured(measure: Callable[[int, Clock], Parts], ipc: int, threads: int, clock: Clock) -> dict[str, float]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return measure(ipc, clock) | {"memory": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def _seconds(part: Callable[[], object], times: int, clock: Clock) -> float:
    """The median of `times`."""
    taken = []
    for _ in range(times):
        began = clock()
        part()
        taken.append(clock() - began)
    return median(taken)


def _summary(found: list[dict[str, float]], counts: dict[str, int]) -> dict[str, Any]:
    parts = {name: median(one[name] for one in found) for name in counts}
    iteration = sum(count * parts[name] for name, count in counts.items())
    return {"parts": parts, "iteration": iteration, "memory": max(one["memory"] for one in found), "measured": found}


def _show(name: str, sides: dict[str, dict[str, Any]], counts: dict[str, int]) -> None:
    table = Table(title=f"{name}: an iteration is {', '.join(f'{count} x {part}' for part, count in counts.items())}")
    for head in ("", *(f"{part}, s" for part in counts), "iterations a second", "times the loop", "peak memory, GB"):
        table.add_column(head, justify="left" if not head else "right")
    for side, found in sides.items():
        times = sides["loop"]["iteration"] / found["iteration"]
        parts = (f"{found['parts'][part]:.3g}" for part in counts)
        table.add_row(side, *parts, f"{1 / found['iteration']:.3g}", f"{times:.2f}", f"{found['memory'] / 1e9:.2f}")
    Console().print(table, f"wanted: {WANTED[name]} times the loop" if name in WANTED else "")


if __name__ == "__main__":
    main()
