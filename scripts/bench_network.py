"""What one process of `bench.py` measures: bench_network.py JOB, a `Job` as JSON; the answer is JSON too.

Times are in seconds, memory in bytes, speeds in operations a second.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional as F

VARIANTS = {"eager": None, "auto": "32-true", "auto bf16": "bf16-mixed"}
SIDES = {"convnet4": 64}  # pixels; 32 for all others
CLASSES, TEST_BATCH, ROOF_BATCH, OVERHEAD_BATCH = 10, 500, 256, 10
LR = 0.001


@dataclass(frozen=True)
class Job:
    """What one process measures; `variant` is "overhead" or one of VARIANTS."""

    network: str
    variant: str
    parts: list[str]
    batches: list[int]
    tests: int
    seconds: float
    device: str

    @property
    def side(self) -> int:
        return SIDES.get(self.network, 32)


def measure(job: Job) -> dict[str, Any]:
    """All that one process measures; times in seconds, memory in bytes."""
    torch.manual_seed(0)
    count = max(job.tests, TEST_BATCH, 4 * max(job.batches))
    images = torch.randn(count, 3, job.side, job.side).to(job.device)
    labels = torch.randint(CLASSES, (count,)).to(job.device)
    if job.variant == "overhead":
        return {"overhead": overhead(job, images[:10_000], labels[:10_000])}
    return eager(job, images, labels) if job.variant == "eager" else auto(job, images, labels)


def eager(job: Job, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Plain PyTorch."""
    network = composed(job)[0]().to(job.device)
    optimizer = torch.optim.SGD(network.parameters(), LR, momentum=0.9, weight_decay=0.0005)

    def steps(batch: int) -> Clock:
        clock, count = Clock(job), len(images) // batch * batch

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for index in torch.randperm(count, device=images.device).split(batch):
                yield images[index], labels[index]

        loop(network.train(), F.cross_entropy, optimizer, batches, clock)
        return clock

    def test(count: int) -> None:
        network.eval()
        with torch.no_grad():
            starts = range(0, count, TEST_BATCH)
            parts = [slice(begin, min(begin + TEST_BATCH, count)) for begin in starts]
            int(sum((network(images[part]).argmax(1) == labels[part]).sum() for part in parts))

    return {"threads": torch.get_num_threads()} | common(job, steps, test)


def auto(job: Job, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """ddrank's own training and testing with engine=auto."""
    from ddrank import engine
    from ddrank.data import Samples
    from ddrank.student import accuracy_on

    make, config = composed(job, f"engine.precision={VARIANTS[job.variant]}", "engine.compile=true")
    running, student = engine.start(config.engine), None

    def steps(batch: int) -> Clock:
        nonlocal student
        clock, count = Clock(job), len(images) // batch * batch
        student = trained(make(), Samples(images[:count], labels[:count]), batch, running, Timer(clock))
        return clock

    def test(count: int) -> None:
        accuracy_on(student, Samples(images[:count], labels[:count]), running)

    with running.cores():
        if "steps" not in job.parts and "tests" in job.parts:
            steps(job.batches[0])
        found = {"threads": torch.get_num_threads()} | common(job, steps, test)
        if "roof" in job.parts:
            dtype = torch.bfloat16 if job.variant == "auto bf16" else torch.float32
            found["roof"] = {
                "step": roof(make(), job.side, ROOF_BATCH, True, dtype, job.device),
                "test": roof(make(), job.side, TEST_BATCH, False, dtype, job.device),
            }
    return found


def common(job: Job, steps: Callable[[int], Clock], test: Callable[[int], None]) -> dict[str, Any]:
    """What is measured of every variant."""
    found: dict[str, Any] = {"operations": operations(composed(job)[0](), job.side)}
    if "steps" in job.parts:
        clocks = {batch: steps(batch) for batch in job.batches}
        found["steps"] = {
            batch: {"seconds": median(clock.timed), "first": clock.laps[0], "count": len(clock.timed)}
            for batch, clock in clocks.items()
        }
    if "tests" in job.parts:
        found["tests"] = test_pass(job, test)
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found["gpu_memory"] = torch.cuda.max_memory_allocated() if job.device == "cuda" else None
    return found


def test_pass(job: Job, test: Callable[[int], None]) -> dict[str, float]:
    """Seconds of a test pass over `images`, after two over one batch: one for warming up, one for a guess."""
    test(min(TEST_BATCH, job.tests))
    one = duration(lambda: test(min(TEST_BATCH, job.tests)), job.device)
    affordable = int(3 * job.seconds / one) * TEST_BATCH
    count = min(job.tests, max(2 * TEST_BATCH, affordable))
    passes: list[float] = []
    while sum(passes) < job.seconds:
        passes.append(duration(lambda: test(count), job.device))
    return {"seconds": median(passes), "images": count, "count": len(passes)}


def overhead(job: Job, images: Tensor, labels: Tensor) -> dict[str, dict[str, float]]:
    """Seconds of an eager step at a batch of 10, in one long epoch and in epochs of one step."""
    from ddrank import engine
    from ddrank.criteria import CrossEntropy
    from ddrank.data.samples import Batches, Samples
    from ddrank.student import Student

    make, config = composed(job, "engine.compile=false")
    running, found = engine.start(config.engine), {}

    def by_hand(samples: Samples) -> Clock:
        clock, student = Clock(job), Student(make(), CrossEntropy(), recipe(OVERHEAD_BATCH), LR, CLASSES)
        optimizer = student.to(job.device).train().configure_optimizers()["optimizer"]

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in Batches(samples, OVERHEAD_BATCH):
                yield batch["image"], batch["label"]

        loop(student, lambda logits, label: student.criterion(logits, None, label), optimizer, batches, clock)
        return clock

    def lightning(samples: Samples) -> Clock:
        clock = Clock(job)
        trained(make(), samples, OVERHEAD_BATCH, running, Timer(clock, across=True))
        return clock

    with running.cores():
        for name, count in (("one long epoch", len(images)), ("epochs of one step", OVERHEAD_BATCH)):
            samples = Samples(images[:count], labels[:count])
            rounds = [(by_hand(samples).timed, lightning(samples).timed) for _ in range(2)]
            hand, through = ([one for part in parts for one in part] for parts in zip(*rounds, strict=True))
            found[name] = {"hand": median(hand), "lightning": median(through)}
    return found


def composed(job: Job, *engine: str) -> tuple[Callable[[], nn.Module], Any]:
    """What makes the network, and the configuration with these settings of the engine."""
    from hydra import compose, initialize_config_dir

    from ddrank.config import folder, register
    from ddrank.models import build
    from ddrank.student import new_network

    register()
    settings = ["engine=auto", f"engine.accelerator={job.device}", "engine.threads=all", *engine]
    with initialize_config_dir(str(folder()), version_base="1.3"):
        config = compose("config", ["dataset=cifar10", f"model={job.network}", *settings])

    def make() -> nn.Module:
        return new_network(lambda: build(config.model, num_classes=CLASSES, channels=3, size=job.side), 0)

    return make, config


def trained(network: nn.Module, samples: Any, batch: int, engine: Any, timer: Timer) -> Any:
    """A student trained by ddrank until the timer has enough."""
    from ddrank.criteria import CrossEntropy
    from ddrank.student import train

    given = {"training": recipe(batch), "criterion": CrossEntropy(), "lr": LR, "seed": 0, "num_classes": CLASSES}
    return train(network, samples, augmentations=[timer], engine=engine, **given)


def recipe(batch: int) -> Any:
    """As the eager loop trains, and for ever."""
    from ddrank.student import Training

    sgd = {"optimizer": "sgd", "momentum": 0.9, "betas": (0.9, 0.999), "weight_decay": 0.0005}
    constant = {"schedule": "constant", "step_size": 0, "gamma": 0.1, "cosine_span": 1.0}
    return Training(epochs=1_000_000, batch_size=batch, **sgd, **constant)


def loop(
    network: nn.Module, criterion: Callable, optimizer: Any, batches: Callable[[], Iterable], clock: Clock
) -> None:
    """A training loop as one writes it by hand; epoch after epoch, until the clock has enough."""
    clock.start()
    while True:
        for image, label in batches():
            optimizer.zero_grad()
            criterion(network(image), label).backward()
            optimizer.step()
            clock.lap()
            if clock.done:
                return


class Clock:
    """Durations of steps in seconds, until there are three and `job.seconds` of them after the first ones."""

    def __init__(self, job: Job):
        self._seconds, self._device = job.seconds, job.device
        self.laps: list[float] = []

    def start(self) -> None:
        self._last = now(self._device)

    def lap(self) -> None:
        time_now = now(self._device)
        self.laps.append(time_now - self._last)
        self._last = time_now

    @property
    def timed(self) -> list[float]:
        """Without the first step, which compiles, and where steps are short without the first three."""
        return self.laps[3 if len(self.laps) > 3 and self.laps[1] < self._seconds / 10 else 1 :]

    @property
    def done(self) -> bool:
        steps = self.timed
        return len(steps) >= (2 if steps and min(steps) > self._seconds / 2 else 3) and sum(steps) >= self._seconds


class Timer(Callback):
    """Has a clock take the time of Lightning's steps; the turn from epoch to epoch counts only with `across`."""

    def __init__(self, clock: Clock, across: bool = False):
        self._clock, self._across = clock, across

    def on_train_batch_start(self, trainer: Any, student: Any, batch: Any, number: int) -> None:
        if not self._clock.laps or (number == 0 and not self._across):
            self._clock.start()

    def on_train_batch_end(self, trainer: Any, student: Any, outputs: Any, batch: Any, number: int) -> None:
        self._clock.lap()
        trainer.should_stop = self._clock.done


def operations(network: nn.Module, side: int) -> dict[str, float]:
    """Operations on one image, a multiply-add being two: `test` forward, `step` forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        logits = network(torch.randn(2, 3, side, side))
        forward = counter.get_total_flops()
        logits.sum().backward()
    return {"test": forward / 2, "step": counter.get_total_flops() / 2}


def convolutions_of(network: nn.Module, side: int) -> list[tuple[nn.Conv2d, tuple[int, ...], int]]:
    """The network's distinct convolutions in the order of their use, with their input (C, H, W) and how often."""
    found: dict[str, tuple[nn.Conv2d, tuple[int, ...], int]] = {}

    def note(layer: nn.Conv2d, given: tuple[Tensor], out: Tensor) -> None:
        shape = tuple(given[0].shape[1:])
        key = f"{layer} {shape}"
        found[key] = (layer, shape, found[key][2] + 1 if key in found else 1)

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(note)
    with torch.no_grad():
        network.eval()(torch.randn(1, 3, side, side))
    return list(found.values())


@torch.no_grad()
def roof(network: nn.Module, side: int, batch: int, backward: bool, dtype: torch.dtype, device: str) -> float:
    """Operations per second of the network's convolutions called alone, in the layout that is better for all of them.

    The first one is not asked for the gradient of its input, the images.
    """
    convolutions, best = convolutions_of(network, side), 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        work = seconds = 0.0
        for number, (layer, shape, count) in enumerate(convolutions):
            form = {"device": device, "dtype": dtype, "memory_format": layout}
            image, kernel = torch.randn(batch, *shape).to(**form), layer.weight.to(**form)
            bias = None if layer.bias is None else layer.bias.to(device, dtype)
            settings = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups)
            forward = partial(torch.ops.aten.convolution, image, kernel, bias, *settings)
            gradient, needed = torch.ones_like(forward()), [number > 0, True, bias is not None]
            work += count * 2.0 * gradient.numel() * kernel[0].numel() * (2 + needed[0] if backward else 1)
            seconds += count * shortest(forward, device)
            if backward:
                sizes = None if bias is None else [len(bias)]
                given = (gradient, image, kernel, sizes, *settings, needed)
                seconds += count * shortest(partial(torch.ops.aten.convolution_backward, *given), device)
        best = max(best, work / seconds)
    return best


def shortest(call: Callable[[], Any], device: str) -> float:
    """Seconds of the fastest of several calls, after one for warming up; 0.1 s of them, or two."""
    call()
    times: list[float] = []
    while len(times) < 2 or sum(times) < 0.1:
        times.append(duration(call, device))
    return min(times)


def duration(call: Callable[[], Any], device: str) -> float:
    began = now(device)
    call()
    return now(device) - began


def now(device: str) -> float:
    """Seconds, when the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    print(json.dumps(measure(Job(**json.loads(sys.argv[1])))))
