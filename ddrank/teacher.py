"""Teachers: networks trained on the real data that label images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ddrank import build
from ddrank.config import model_named
from ddrank.data import RealDataset, Samples, Space, TestBatches
from ddrank.data.readers.tensors import load_weights_only, reason
from ddrank.engine import Engine
from ddrank.errors import InputError
from ddrank.fit import Assignment, run
from ddrank.models import build as build_model
from ddrank.progress import Display
from ddrank.store import Store, digest
from ddrank.student import Training

CROSS_ENTROPY = {"_target_": "ddrank.criteria.CrossEntropy"}
_HARDLY = 3  # times the accuracy of guessing: what a network whose classes are in another order may reach by luck
VERSION = 3  # raise it when the same key would get other weights, or keys get another form: `gc` drops those before
# Of the dataset condensation papers' ResNet, and so of the ddranking package's: its parts, and ours.
OTHER_NAMES = {".shortcut.": ".downsample.", "classifier.": "fc."}


@dataclass(frozen=True)
class Teachers:
    """One or more frozen networks in evaluation mode; called on images they give their mean logits."""

    networks: tuple[nn.Module, ...]
    fingerprint: str

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Mean logits (N, classes) of all teachers for `images` (N, C, H, W) in the teachers' space."""
        return torch.stack([network(images).float() for network in self.networks]).mean(0)

    def to(self, device: torch.device | str) -> Teachers:
        """The same teachers on `device`."""
        return replace(self, networks=tuple(network.to(device) for network in self.networks))

    def label(self, images: Tensor, batch_size: int = 500) -> Tensor:
        """Mean logits for any number of images, on the CPU."""
        device = next(self.networks[0].parameters()).device
        return torch.cat([self(part.to(device)).cpu() for part in images.split(batch_size)])


class TeacherRoom:
    """Makes the teachers that a config names: trained on first need on the real data, without the validation split,
    and kept in the store; or read from state_dict files."""

    def __init__(self, config: DictConfig, real: RealDataset, store: Store, engine: Engine, display: Display):
        self._config, self._real, self._store = config, real, store
        self._engine, self._display = engine, display
        self._in_space: dict[Space, Samples] = {}

    def teachers(self, space: Space) -> Teachers:
        """The teachers of `method.teachers`, for images in `space`."""
        networks, fingerprints = [], []
        for position in range(len(self._config.method.teachers)):
            network, fingerprint = self._teacher(position, space)
            networks.append(network.eval().requires_grad_(False).to(self._engine.device))
            fingerprints.append(fingerprint)
        return Teachers(tuple(networks), digest({"teachers": fingerprints}))

    def network(self, name: str, space: Space) -> nn.Module:
        """A network of the `conf/model` name that knows the real data: the teacher of that name, where the method has
        one, else one trained like a teacher."""
        names = list(self._config.method.teachers)
        if name in names:
            return self._teacher(names.index(name), space)[0]
        return self.trained(model_named(name, self._config), space)[0]

    def missing(self, name: str, space: Space) -> bool:
        """Whether `network` would have to train."""
        names = list(self._config.method.teachers)
        if name in names and self._config.method.teacher_weights:
            return False
        return not self._store.has_tensors(self._key(model_named(name, self._config), space, seed=0))

    def trained(self, model: dict[str, Any], space: Space, seed: int = 0) -> tuple[nn.Module, str]:
        """A network of the `model` config trained on the real data, and a fingerprint of how."""
        key, network = self._key(model, space, seed), self._network(model)
        weights = self._store.tensors(key, partial(self._fit, model, space, seed), self._about(model))
        network.load_state_dict(weights)
        self._store.checkpoint(key).remove()
        return network, digest(key)

    def _key(self, model: dict[str, Any], space: Space, seed: int) -> dict[str, Any]:
        teacher, samples = self._config.dataset.teacher, self._samples(space)
        return {
            "kind": "teacher",
            "version": VERSION,
            "train": samples.fingerprint,
            "model": build.identity(model),
            "training": Training.of(teacher).effective(len(samples)),
            "aug": build.identities(teacher.aug),
            "lr": teacher.lr,
            "seed": seed,
            **self._engine.in_key(teacher.batch_size, len(samples)),
        }

    def _about(self, model: dict[str, Any]) -> dict[str, str]:
        return {"dataset": self._real.name, "model": model["name"]}

    def _teacher(self, position: int, space: Space) -> tuple[nn.Module, str]:
        names, files = list(self._config.method.teachers), list(self._config.method.teacher_weights)
        model = model_named(names[position], self._config)
        if files:
            network, fingerprint = self._read(Path(files[position]), model)
            self._examine(network, fingerprint, Path(files[position]), model, space)
            return network, fingerprint
        # The same architecture twice means two teachers: they differ by their seed.
        return self.trained(model, space, seed=names[:position].count(names[position]))

    def _examine(self, network: nn.Module, fingerprint: str, path: Path, model: dict[str, Any], space: Space) -> None:
        """Say how well a network from a file knows the validation split, since the file does not tell in which order
        its classes are and how its images were normalised."""
        tests, classes = space.samples(self._real.validation), self._real.num_classes
        key = {"kind": "accuracy of given weights", "weights": fingerprint, "tests": tests.fingerprint}
        found = self._store.tensors(key, partial(self._accuracy, network, tests, model["name"]), self._about(model))
        accuracy = float(found["accuracy"])
        said = f"{path}, teacher {model['name']}: accuracy {accuracy:.4f} on images held out of the training set"
        if accuracy < min(_HARDLY / classes, (1 + 1 / classes) / 2):
            said += (
                f", hardly above chance ({1 / classes:.4f}): its classes may be in another order, or its images were "
                "normalised otherwise (method.mean, method.std, method.space)"
            )
        self._display.say(said)

    @torch.no_grad()
    def _accuracy(self, network: nn.Module, tests: Samples, name: str) -> dict[str, Tensor]:
        network, device, right = network.eval().to(self._engine.device), self._engine.device, 0
        batches = TestBatches(tests, self._engine.test_batch)
        with batches, self._display.activity(f"testing teacher {name}", len(batches)) as activity:
            for batch in batches:
                labels = batch["label"].to(device)
                right += int((network(batch["image"].to(device))[: len(labels)].argmax(1) == labels).sum())
                activity.advance()
        return {"accuracy": torch.tensor(right / len(tests))}

    def assignment(self, model: dict[str, Any], space: Space, seed: int = 0) -> Assignment:
        """The training of a teacher, tested on the validation split."""
        teacher = self._config.dataset.teacher
        return Assignment(
            name=f"teacher {model['name']}",
            model=model,
            num_classes=self._real.num_classes,
            training=Training.of(teacher),
            criterion=CROSS_ENTROPY,
            aug=build.unnamed(teacher.aug),
            black=space.black(self._real.channels, self._real.size),
            lr=teacher.lr,
            seed=seed,
            samples=self._samples(space),
            tests=space.samples(self._real.validation),
            keep_weights=True,
            checkpoint=self._store.checkpoint(self._key(model, space, seed), self._about(model)),
        )

    def _fit(self, model: dict[str, Any], space: Space, seed: int) -> dict[str, Tensor]:
        assignment = self.assignment(model, space, seed)
        with self._display.activity(assignment.name, assignment.training.epochs) as activity:
            outcome = run(assignment, self._engine, activity.advance, activity.resume)
        self._display.say(
            f"trained the {assignment.name}: validation accuracy {outcome.accuracy:.4f}, kept in the store"
        )
        return outcome.weights

    def _samples(self, space: Space) -> Samples:
        if space not in self._in_space:
            self._in_space = {space: space.samples(self._real.kept)}
        return self._in_space[space]

    def _network(self, model: dict[str, Any]) -> nn.Module:
        real = self._real
        return build_model(model, num_classes=real.num_classes, channels=real.channels, size=real.size)

    def _read(self, path: Path, model: dict[str, Any]) -> tuple[nn.Module, str]:
        """A network with the weights of a state_dict file, its names those of `OTHER_NAMES` or ours; DataParallel's
        `module.` prefixes are dropped."""
        network = self._network(model)
        try:
            weights = load_weights_only(path)
            weights = weights.get("state_dict", weights.get("model", weights))
            own = network.state_dict()
            network.load_state_dict({_own_name(name, own): tensor for name, tensor in weights.items()})
        except Exception as error:
            raise InputError(
                f"{path} does not hold the weights of a {model['name']} for this dataset ({reason(error)}): "
                "give a state_dict saved with torch.save, and its architecture as method.teachers"
            ) from error
        digests = {
            name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in network.state_dict().items()
        }
        return network, digest({"weights": digests, "model": build.identity(model)})


def _own_name(name: str, own: Mapping[str, Tensor]) -> str:
    """The name in `own` of what a state_dict calls `name`."""
    name = name.removeprefix("module.")
    if name in own:
        return name
    for theirs, ours in OTHER_NAMES.items():
        name = name.replace(theirs, ours)
    return name
