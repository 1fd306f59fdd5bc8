"""The packages that `compare_ddranking.py` compares, each asked in a process of its own: compare_packages.py NAME SETUP

A request is a line of JSON on standard input that names a method of `Reference` or `Ours` and its arguments; the answer
is a line of JSON on standard output, with lines about the progress before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

LR = 0.01
WARM_EPOCHS = 3
TEST_EVERY = 10  # epochs, as in ddranking's hard-label evaluator
REFERENCE, OURS, OURS_BF16 = "ddranking", "ddrank float32", "ddrank bfloat16"
PRECISIONS = {OURS: "32-true", OURS_BF16: "bf16-mixed"}


def serve(name: str, setup: dict) -> None:
    """The process behind a `Side`: answer each request with what the method that it names returns."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def tell(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    started, told = time.perf_counter(), time.monotonic()

    def progress(done: int, of: int) -> None:
        nonlocal told
        if time.monotonic() - told > 15:
            told = time.monotonic()
            tell(epoch=done, of=of)

    package = Reference(setup, progress) if name == REFERENCE else Ours(setup, progress, PRECISIONS[name])
    tell(answer=package.described() | {"setup_seconds": time.perf_counter() - started})
    for line in sys.stdin:
        request = json.loads(line)
        told = time.monotonic()
        tell(answer=getattr(package, request.pop("do"))(**request))


class Reference:
    """ddranking: its hard-label evaluator, the functions that it calls timed in their place."""

    def __init__(self, setup: dict, progress: Callable[[int, int], None]):
        import torch
        from ddranking.metrics import hard_label
        from torchvision.datasets import cifar

        cifar.check_integrity = lambda path, *_: os.path.isfile(path)
        hard_label.tqdm = iter
        self._module, self._progress, self._torch = hard_label, progress, torch
        self._validate, train_one_epoch = hard_label.validate, hard_label.train_one_epoch
        self._epochs: list[float] = []
        self._tests: list[tuple[float, float]] = []

        def timed_epoch(**arguments: Any) -> None:
            started = time.perf_counter()
            train_one_epoch(**arguments)
            self._epochs.append(time.perf_counter() - started)
            progress(len(self._epochs), self._evaluator.num_epochs)

        def timed_test(**arguments: Any) -> float:
            started = time.perf_counter()
            accuracy = self._validate(**arguments)
            self._tests.append((time.perf_counter() - started, accuracy / 100))
            return accuracy

        hard_label.train_one_epoch, hard_label.validate = timed_epoch, timed_test
        training = setup["training"]
        self._evaluator = hard_label.LabelRobustScoreHard(
            dataset="CIFAR10",
            real_data_path=setup["data"],
            model_name="ConvNet-3",
            data_aug_func="dsa",
            aug_params=dict(setup["dsa"]),
            optimizer=training["optimizer"],
            lr_scheduler=training["schedule"],
            step_size=training["step_size"],
            weight_decay=training["weight_decay"],
            momentum=training["momentum"],
            num_epochs=training["epochs"],
            real_batch_size=training["batch_size"],
            syn_batch_size=training["batch_size"],
            save_path=str(Path(setup["work"]) / "ddranking-results" / "scores.csv"),
            device="cpu",
            eval_full_data=True,
        )
        self._protocol_epochs = training["epochs"]
        self._distilled = distilled_images(setup)
        self._warm = False

    def described(self) -> dict:
        parts = (self._evaluator.dst_train, self._evaluator.test_loader_syn.dataset)
        pixels = [self._torch.from_numpy(part.data.transpose(0, 3, 1, 2).copy()) for part in parts]
        labels = [self._torch.tensor(part.targets) for part in parts]
        threads = self._torch.get_num_threads()
        return {"threads": threads, "sha256": _fingerprints(self._distilled, [*pixels, *labels])}

    def epoch(self, ipc: int, count: int) -> float:
        self._trained(*self._distilled[ipc], epochs=WARM_EPOCHS + count, tested=False)
        return fmean(self._epochs[WARM_EPOCHS:])

    def real_epoch(self, batches: int) -> float:
        evaluator, everything = self._evaluator, self._evaluator.dst_train
        part, scale = _real_part(len(everything), evaluator.real_batch_size, batches)
        evaluator.dst_train = self._torch.utils.data.Subset(everything, range(part))
        self._trained(None, None, epochs=2, tested=False, mode="real")
        evaluator.dst_train = everything
        return self._epochs[1] * scale

    def test(self) -> float:
        evaluator, network = self._evaluator, self._network(seed=0)
        for _ in range(1 if self._warm else 2):
            started = time.perf_counter()
            self._validate(
                model=network, loader=evaluator.test_loader_syn, class_map=evaluator.class_map, device=evaluator.device
            )
        self._warm = True
        return time.perf_counter() - started

    def student(self, ipc: int, epochs: int, seed: int) -> dict:
        started = time.perf_counter()
        accuracy = self._trained(*self._distilled[ipc], epochs=epochs, seed=seed)
        return {
            "seconds": time.perf_counter() - started,
            "accuracy": accuracy / 100,
            "tests": [test for _, test in self._tests],
            "first_epoch": self._epochs[0],
            "first_test_epoch": self._epochs[TEST_EVERY - 1] + self._tests[0][0],
        }

    def plan(self, ipc: int) -> list[dict]:
        """The students of its compute_metrics(), counted by running it without the training."""
        evaluator, images = self._evaluator, self._distilled[ipc][0]
        counted: Counter = Counter()

        def count(image_tensor: Any, mode: str, **_: Any) -> float:
            counted["real_hard" if mode == "real" else "syn_hard" if image_tensor is images else "rdm_any"] += 1
            return 1.0

        evaluator._compute_hard_label_metrics, evaluator.ipc = count, ipc
        evaluator.num_epochs, evaluator.test_interval = self._protocol_epochs, TEST_EVERY
        with suppress(ValueError):
            evaluator.compute_metrics(image_tensor=images)
        del evaluator._compute_hard_label_metrics
        return [
            {
                "arm": arm,
                "students": students,
                "epochs": evaluator.num_epochs,
                "images": len(evaluator.dst_train) if arm == "real_hard" else len(images),
                "tests": students * (evaluator.num_epochs // evaluator.test_interval),
                "validations": 0,
            }
            for arm, students in counted.items()
        ]

    def _trained(self, images: Any, labels: Any, epochs: int, tested: bool = True, seed: int = 0, mode="syn") -> float:
        """Best test accuracy, percent, of a student trained by the evaluator; times in `_epochs` and `_tests`."""
        evaluator = self._evaluator
        evaluator.num_epochs, evaluator.step_size = epochs, max(1, epochs // 2)
        evaluator.test_interval = TEST_EVERY if tested else epochs + 1
        self._epochs.clear()
        self._tests.clear()
        return evaluator._compute_hard_label_metrics(
            model=self._network(seed), image_tensor=images, image_path=None, lr=LR, hard_labels=labels, mode=mode
        )

    def _network(self, seed: int) -> Any:
        self._module.set_seed(seed)
        evaluator = self._evaluator
        return self._module.build_model(
            evaluator.model_name, evaluator.num_classes, evaluator.im_size, device=evaluator.device
        )


class Ours:
    """ddrank: the functions that its Measurer calls, with the configuration that it would have."""

    def __init__(self, setup: dict, progress: Callable[[int, int], None], precision: str):
        import torch

        from ddrank import engine
        from ddrank.data import Samples, Space, load_real
        from ddrank.student import Training

        self._setup, self._progress = setup, progress
        overrides = ["engine.accelerator=cpu", f"engine.precision={precision}", f"engine.threads={setup['threads']}"]
        self._config = composed(setup["data"], *overrides)
        self._engine = engine.start(self._config.engine)
        torch.set_num_threads(setup["threads"])
        self._real = load_real(self._config.dataset, setup["data"])
        self._space = Space("normalized", self._real.mean, self._real.std)
        self._training = Training.of(self._config.train)
        self._distilled = {ipc: Samples(*pair) for ipc, pair in distilled_images(setup).items()}
        self._warm: set[str] = set()

    def described(self) -> dict:
        import torch

        distilled = {ipc: (samples.images, samples.labels) for ipc, samples in self._distilled.items()}
        parts = (self._real.train, self._real.test)
        real = [part.images for part in parts] + [part.labels for part in parts]
        return {"threads": torch.get_num_threads(), "sha256": _fingerprints(distilled, real)}

    def epoch(self, ipc: int, count: int, aug: bool = True) -> float:
        ticks = self._ticks(self._distilled[ipc], self._training, WARM_EPOCHS + count, aug)
        return (ticks[-1] - ticks[WARM_EPOCHS - 1]) / count

    def real_epoch(self, batches: int) -> float:
        import torch

        from ddrank.student import Training

        training = Training.of(self._config.dataset.real)
        part, scale = _real_part(len(self._real.train), training.batch_size, batches)
        samples = self._space.samples(self._real.train[torch.arange(part)])
        ticks = self._ticks(samples, training, 2, aug=False)
        return (ticks[1] - ticks[0]) * scale

    def test(self, which: str = "test") -> float:
        from ddrank.student import accuracy_on

        samples = self._space.samples(getattr(self._real, which))
        for _ in range(1 if which in self._warm else 2):
            student = self._trained(self._distilled[1], replace(self._training, epochs=1))
            started = time.perf_counter()
            accuracy_on(student, samples, self._engine)
            seconds = time.perf_counter() - started
        self._warm.add(which)
        return seconds

    def student(self, ipc: int, epochs: int, seed: int) -> dict:
        training = replace(self._training, epochs=epochs, step_size=max(1, epochs // 2))
        ticks = [time.perf_counter()]

        def advance(note: str = "") -> None:
            ticks.append(time.perf_counter())
            self._progress(len(ticks) - 1, epochs)

        tests = self._space.samples(self._real.test)
        student = self._trained(
            self._distilled[ipc], training, seed=seed, tests=tests, test_every=TEST_EVERY, advance=advance
        )
        seconds, durations = time.perf_counter() - ticks[0], [after - before for before, after in pairwise(ticks)]
        accuracies = [accuracy for _, accuracy in student.tests]
        return {
            "seconds": seconds,
            "accuracy": max(accuracies),
            "tests": accuracies,
            "first_epoch": durations[0],
            "first_test_epoch": durations[TEST_EVERY - 1],
        }

    def plan(self, ipc: int, protocol: str) -> list[dict]:
        """The students of its arms, those that share their measurements counted once; as its Measurer goes about it."""
        from ddrank.arms import arms
        from ddrank.data import DistilledDataset

        config = composed(self._setup["data"], f"protocol={protocol}", f"ipc={ipc}")
        samples, rules = self._distilled[ipc], config.protocol
        made = DistilledDataset(samples.images, samples.labels)
        plan, known = [], []
        for arm in arms(config, self._real, made, self._space, self._space, None):
            recipe = (arm.source, arm.training, dict(arm.criterion), dict(arm.aug), arm.lr)
            if recipe in known:
                continue
            known.append(recipe)
            rates, seeds, epochs = len(rules.lrs) if arm.lr is None else 1, config.num_eval, arm.training.epochs
            entry = {"arm": arm.name, "epochs": epochs, "images": arm.count}
            if rules.select_on == "test":
                every = rules.test_every[config.method.labels] if rules.best_checkpoint else epochs
                students = rates * seeds
                plan.append(entry | {"students": students, "tests": students * (epochs // every), "validations": 0})
            else:
                validations = rates if arm.lr is None else 0
                students = validations + seeds - (validations > 0)
                plan.append(entry | {"students": students, "tests": seeds, "validations": validations})
        return plan

    def _ticks(self, samples: Any, training: Any, epochs: int, aug: bool) -> list[float]:
        """When each of the first epochs ended, of a student that is set up for all of its epochs."""
        ticks: list[float] = []

        def advance(note: str = "") -> None:
            ticks.append(time.perf_counter())
            self._progress(len(ticks), epochs)
            if len(ticks) == epochs:
                raise _EnoughError

        with suppress(_EnoughError):
            self._trained(samples, training, aug=aug, advance=advance)
        return ticks

    def _trained(self, samples: Any, training: Any, *, seed: int = 0, aug: bool = True, **options: Any) -> Any:
        from ddrank import build
        from ddrank.models import build as build_model
        from ddrank.student import new_network, train

        real, model = self._real, build.plain(self._config.model)
        black = self._space.black(real.channels, real.size)
        return train(
            new_network(lambda: build_model(model, num_classes=10, channels=real.channels, size=real.size), seed),
            samples,
            training=training,
            criterion=build.build(self._config.criterion, "criterion"),
            augmentations=build.parts(self._config.aug, "aug", black=black) if aug else [],
            lr=LR,
            seed=seed,
            engine=self._engine,
            num_classes=real.num_classes,
            **options,
        )


class _EnoughError(Exception):
    """Ends a training whose first epochs were all that was wanted."""


def composed(data: str, *overrides: str) -> Any:
    """ddrank's configuration of a hard-label method with DSA on CIFAR-10, under its ddranking protocol by default."""
    from hydra import compose, initialize_config_dir

    from ddrank.config import folder, register

    settings = ["method=custom", "method.data=unused", "dataset=cifar10", "protocol=ddranking", "engine=auto"]
    settings += ["model=convnet3", "aug=dsa", "train=dc", f"paths.data={data}"]
    register()
    with initialize_config_dir(str(folder()), version_base="1.3"):
        return compose("config", [*settings, *overrides])


def _real_part(images: int, batch_size: int, batches: int) -> tuple[int, float]:
    """How many images make `batches` batches, and by what their time is multiplied to give a whole epoch's."""
    part = min(images, batches * batch_size)
    return part, images / part


def distilled_images(setup: dict) -> dict[int, tuple[Any, Any]]:
    """Images float32 (N, 3, 32, 32), class-major and normalised, and labels int64 (N,), by IPC."""
    import torch

    return torch.load(Path(setup["data"]) / "distilled.pt")


def _fingerprints(distilled: dict[int, tuple[Any, Any]], real: list[Any]) -> dict[str, str]:
    """sha256 of the distilled images and of the real ones (uint8, (N, 3, 32, 32)), with their labels."""
    tensors = {f"ipc{ipc}": list(pair) for ipc, pair in distilled.items()} | {"real": real}
    return {
        name: hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in several)).hexdigest()
        for name, several in tensors.items()
    }


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
