"""python -m ddrank.doctor: planted faults are named with their cause, and clean data are left alone."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from ddrank import config as schema
from ddrank import doctor, engine
from ddrank.data import DistilledDataset, RealDataset, fit_space, load_real, read_distilled, write_distilled
from ddrank.data.readers import look
from ddrank.data.readers.found import Found
from ddrank.distill.make import distill
from ddrank.doctor import copies, judge, order, rate, readings, soft, spaces, values
from ddrank.doctor.__main__ import overrides, quoted
from ddrank.doctor.examine import Diagnosis, examine
from ddrank.doctor.findings import SUSPECT, WRONG, Finding
from ddrank.doctor.picture import draw
from ddrank.progress import Display
from ddrank.store import Store

DATASETS = {
    "digits": ("dataset=digits",),
    "shapes": (
        "dataset=shapes",
        "dataset.num_classes=5",
        "dataset.size=16",
        "dataset.loader.train_per_class=120",
        "dataset.loader.test_per_class=60",
    ),
    "hundred": (
        "dataset=shapes",
        "dataset.num_classes=100",
        "dataset.size=16",
        "dataset.loader.train_per_class=40",
        "dataset.loader.test_per_class=10",
    ),
    "photographs": (
        "dataset=imagefolder",
        "dataset.name=photographs",
        "dataset.num_classes=2",
        "dataset.size=32",
        "dataset.loader.path=photographs",
    ),
    "many": (  # more than ten classes: their numbers as text are in another order
        "dataset=shapes",
        "dataset.num_classes=12",
        "dataset.size=16",
        "dataset.loader.train_per_class=120",
        "dataset.loader.test_per_class=60",
    ),
}
IPC = 5


def photographs(folder: Path) -> None:
    """Crops of 32 pixels from scikit-learn's two photographs, as folders of two classes."""
    generator = np.random.default_rng(0)
    for name, photograph in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        small = Image.fromarray(photograph).resize((320, 214))
        for number in range(150):
            x, y = (int(generator.integers(side - 32)) for side in small.size)
            small.crop((x, y, x + 32, y + 32)).save(folder / name / f"{number:03}.png")


@cache
def composed(*arguments: str, name: str = "doctor"):
    schema.register()
    with initialize_config_dir(str(schema.folder()), version_base="1.3"):
        return compose(name, overrides=["method.data=nowhere", "engine.workers=1", "engine.compile=false", *arguments])


@dataclass
class Clinic:
    """A real dataset with all that an examination needs."""

    dataset: str
    real: RealDataset
    store: Store
    root: Path

    def diagnose(self, found: Found, *arguments: str) -> Diagnosis:
        config = composed(*DATASETS[self.dataset], *arguments)
        with Display() as display:
            return examine(found, config, self.real, self.store, engine.start(config.engine), display)

    def space(self, name: str):
        return fit_space(name, self.real.train, self.real.mean, self.real.std, self.store)

    def drawn(self, ipc: int = IPC, seed: int = 0) -> Tensor:
        """Random real images as pixels, class-major."""
        return readings.as_pixels(self.real.draw(ipc, torch.Generator().manual_seed(seed)).images)

    def clean(self, ipc: int = IPC, noise: float = 0.1, seed: int = 0) -> Found:
        """Random real images, changed a little as a distillation does, in normalised space."""
        images = self.space("normalized").forward(self.drawn(ipc, seed))
        drift = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        return Found("ddranking", images + noise * drift)

    def labels(self, ipc: int = IPC) -> Tensor:
        return torch.arange(self.real.num_classes).repeat_interleave(ipc)

    def logits(self, ipc: int = IPC) -> Tensor:
        """Soft labels as a teacher gives them."""
        labels = self.labels(ipc)
        logits = torch.randn(len(labels), self.real.num_classes, generator=torch.Generator().manual_seed(1))
        return logits.index_put((torch.arange(len(labels)), labels), torch.tensor(5.0), accumulate=True)

    def made(self, method: str, ipc: int) -> Found:
        """What a distiller of ours makes."""
        folder = self.root / "made" / self.dataset / method / str(ipc)
        few = ("dataset.teacher.epochs=1", *(["method.distiller.iterations=5"] if method == "dm" else []))
        settings = (*DATASETS[self.dataset], f"method={method}", f"ipc={ipc}", f"method.data={folder}", *few)
        config = composed(*settings, name="distill")
        with Display() as display:
            distill(config, self.real, engine.start(config.engine), self.store, display)
        return look(folder)


@pytest.fixture(scope="module")
def clinics(tmp_path_factory, common_folder):
    torch.set_num_threads(1)
    root, common, opened = tmp_path_factory.mktemp("clinic"), common_folder / "clinics", {}

    def clinic(dataset: str) -> Clinic:
        if dataset not in opened:
            config = composed(*DATASETS[dataset]).copy()
            if dataset == "photographs":
                photographs(root / dataset)
                config.dataset.loader.path = str(root / dataset)
            opened[dataset] = Clinic(dataset, load_real(config.dataset, root), Store(common / "store"), common)
        return opened[dataset]

    return clinic


def kinds(diagnosis: Diagnosis) -> list[str]:
    return [finding.kind for finding in diagnosis.findings]


# --- clean data ---


@pytest.mark.parametrize("dataset", ["digits", "shapes"])
@pytest.mark.parametrize("method, ipc", [("dm", 1), ("random", 10), ("kmeans", 10)])
def test_nothing_is_found_in_what_the_distillers_make(clinics, dataset, method, ipc):
    clinic = clinics(dataset)
    found = clinic.made(method, ipc)
    for settings in ((), (f"method={method}", f"ipc={ipc}")):
        diagnosis = clinic.diagnose(found, *settings)
        assert kinds(diagnosis) == []
    assert any(note.startswith("images look like their classes") for note in diagnosis.notes)
    assert method == "dm" or any("are training images" in note for note in diagnosis.notes)


@pytest.mark.parametrize("dataset", ["digits", "shapes"])
@pytest.mark.parametrize("ipc", [1, 10])
@pytest.mark.parametrize("space", ["normalized", "zca", "pixel"])
def test_nothing_is_found_in_any_space_that_the_configuration_says(clinics, dataset, ipc, space):
    clinic = clinics(dataset)
    found = Found("ddranking", clinic.space(space).forward(clinic.drawn(ipc)), labels=clinic.labels(ipc))
    assert kinds(clinic.diagnose(found, f"method.space={space}", f"ipc={ipc}")) == []


@pytest.mark.parametrize("dataset", ["digits", "shapes"])
@pytest.mark.parametrize("ipc", [1, 10])
@pytest.mark.parametrize("space", ["normalized", "zca"])
@pytest.mark.parametrize("contrast, noise", [(0.0, 1.0), (4.0, 0.0), (1.5, 2.0), (0.45, 0.0), (0.25, 0.0)])
def test_nothing_is_found_in_noise_nor_in_strongly_changed_images(clinics, dataset, ipc, space, contrast, noise):
    clinic = clinics(dataset)
    drift = torch.randn(
        (clinic.real.num_classes * ipc, *clinic.drawn(1).shape[1:]), generator=torch.Generator().manual_seed(3)
    )
    images = contrast * clinic.space(space).forward(clinic.drawn(ipc)) + noise * drift
    assert kinds(clinic.diagnose(Found("mtt", images), f"method.space={space}")) == []


@pytest.mark.parametrize("dataset", ["digits", "shapes"])
@pytest.mark.parametrize("stored", ["logits", "probabilities"])
def test_nothing_is_found_in_soft_labels_that_are_what_they_are_said_to_be(clinics, dataset, stored):
    clinic = clinics(dataset)
    labels = clinic.logits().softmax(1) if stored == "probabilities" else clinic.logits()
    found = replace(clinic.clean(), soft_labels=labels, lr=0.02)
    diagnosis = clinic.diagnose(found, "method=datm", "method.space=normalized", f"method.soft_kind={stored}")
    assert kinds(diagnosis) == []
    assert f"soft labels are {stored}, of their images' classes" in diagnosis.notes


def test_pixels_in_folders_are_pixels_whatever_space_they_are_trained_in(clinics):
    clinic = clinics("shapes")
    bytes_ = (clinic.drawn() * 255).round().to(torch.uint8)
    for found in (Found("sre2l", bytes_), Found("imagefolder", clinic.drawn(), space="pixels")):
        diagnosis = clinic.diagnose(found, "method.space=normalized")
        assert kinds(diagnosis) == []
        assert diagnosis.believed.name == "pixel"


# --- planted faults ---


def images_as(clinic: Clinic, found: Found, change) -> Found:
    """The images of `found`, which are normalised, with their pixels changed."""
    return replace(found, images=change(clinic.space("normalized").inverse(found.images)))


def twice(clinic: Clinic, found: Found) -> Found:
    return replace(found, images=clinic.space("normalized").forward(found.images))


def one_value(value: float, clinic: Clinic, found: Found) -> Found:
    images = found.images.clone()
    images[3, 0, 2, 2] = value
    return replace(found, images=images)


def constant(clinic: Clinic, found: Found) -> Found:
    images = found.images.clone()
    images[7] = 0.25
    return replace(found, images=images)


def copied(source: str, classes: int, clinic: Clinic, found: Found) -> Found:
    images, samples = found.images.clone(), getattr(clinic.real, source)
    for label in range(classes):
        pixels = readings.as_pixels(samples.images[(samples.labels == label).nonzero().flatten()[:IPC]])
        images[label * IPC : (label + 1) * IPC] = clinic.space("normalized").forward(pixels)
    return replace(found, images=images)


def duplicated(clinic: Clinic, found: Found) -> Found:
    images = found.images.clone()
    images[1] = images[0] + 1e-4
    return replace(found, images=images)


def one_class_the_same(clinic: Clinic, found: Found) -> Found:
    images = found.images.clone()
    images[IPC : 2 * IPC] = images[IPC]
    return replace(found, images=images)


def blocks(order_of: list[int], clinic: Clinic, found: Found) -> Found:
    """Block k holds the images of class order_of[k]; the last ones stay."""
    classes = clinic.real.num_classes
    places = [*order_of, *range(len(order_of), classes)]
    return replace(found, images=found.images.unflatten(0, (classes, IPC))[places].flatten(0, 1))


def interleaved(clinic: Clinic, found: Found) -> Found:
    images = found.images.unflatten(0, (clinic.real.num_classes, IPC)).transpose(0, 1).flatten(0, 1)
    return replace(found, images=images)


def shuffled(clinic: Clinic, found: Found) -> Found:
    return replace(
        found, images=found.images[torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))]
    )


def labelled(change, clinic: Clinic, found: Found) -> Found:
    return replace(found, labels=change(clinic.labels()))


def swapped_labels(labels: Tensor) -> Tensor:
    return torch.where(labels < 2, 1 - labels, labels)


def softly(change, clinic: Clinic, found: Found) -> Found:
    return replace(found, soft_labels=change(clinic.logits()))


def holed(logits: Tensor) -> Tensor:
    return logits.index_put((torch.tensor([2]), torch.tensor([1])), torch.tensor(float("nan")))


SINGLE = ("method=datm", "method.space=normalized")
PROBABILITIES = (*SINGLE, "method.soft_kind=probabilities")

# name: (how it is planted, settings, kind, severity, what the setting says)
FAULTS = {
    "pixels": (lambda c, f: images_as(c, f, lambda p: p.clamp(0, 1)), (), "value-space", WRONG, "method.space=pixel"),
    "pixels a little outside": (
        lambda c, f: images_as(c, f, lambda p: p),
        (),
        "value-space",
        None,
        "method.space=pixel",
    ),
    "bytes": (lambda c, f: images_as(c, f, lambda p: p * 255), (), "value-space", WRONG, "/ 255"),
    "normalised twice": (twice, (), "value-space", None, "images * std + mean"),
    "from -1 to 1": (
        lambda c, f: images_as(c, f, lambda p: 2 * p.clamp(0, 1) - 1),
        (),
        "value-space",
        None,
        "method.mean=[0.5",
    ),
    "whitened": (lambda c, f: images_as(c, f, c.space("zca").forward), (), "value-space", None, "method.space=zca"),
    "not whitened": (lambda c, f: f, ("method.space=zca",), "value-space", None, "method.space=normalized"),
    "normalised, said pixels": (
        lambda c, f: f,
        ("method.space=pixel",),
        "value-space",
        None,
        "method.space=normalized",
    ),
    "file says the wrong space": (lambda c, f: replace(f, space="zca"), (), "value-space", None, "the file made again"),
    "NaN": (partial(one_value, float("nan")), (), "not-finite", WRONG, "another checkpoint"),
    "infinity": (partial(one_value, float("inf")), (), "not-finite", WRONG, "another checkpoint"),
    "constant image": (constant, (), "constant", WRONG, "another file"),
    "near duplicate": (duplicated, (), "duplicates", SUSPECT, "different image"),
    "a class of one image": (one_class_the_same, (), "class-identical", WRONG, f"{IPC} different images"),
    "one image everywhere": (
        lambda c, f: replace(f, images=f.images[:1].repeat(len(f.images), 1, 1, 1)),
        (),
        "identical",
        WRONG,
        "the right file",
    ),
    "test images": (partial(copied, "test", 1), (), "test-images", WRONG, "training set alone"),
    "validation images": (
        partial(copied, "validation", 4),
        (),
        "validation-images",
        SUSPECT,
        "protocol=ddranking",
    ),
    "another IPC": (lambda c, f: f, ("ipc=10",), "ipc", WRONG, f"ipc={IPC}"),
    "an image too few": (lambda c, f: replace(f, images=f.images[1:]), (), "count", WRONG, "all images of every class"),
    "labels from one": (partial(labelled, lambda y: y + 1), (), "labels-from-one", WRONG, "labels - 1"),
    "labels of other classes": (partial(labelled, lambda y: y * 3), (), "labels-range", WRONG, "dataset="),
    "labels too few": (partial(labelled, lambda y: y[1:]), (), "labels-count", WRONG, "whole numbers"),
    "uneven labels": (
        partial(labelled, lambda y: y.index_fill(0, torch.tensor([0]), 1)),
        (),
        "labels-uneven",
        WRONG,
        "same number",
    ),
    "classes permuted": (partial(blocks, [3, 0, 1, 2]), (), "class-order", WRONG, "labels that say so"),
    "two classes swapped": (partial(blocks, [1, 0]), (), "class-order", SUSPECT, "[1, 0, 2, 3, 4"),
    "labels swapped": (
        partial(labelled, swapped_labels),
        (),
        ("class-order", "not-class-major"),
        None,
        "[1, 0, 2, 3, 4",
    ),
    "classes in turns": (interleaved, (), "not-class-major", WRONG, "transpose"),
    "images shuffled": (shuffled, (), "labels-shuffled", SUSPECT, "labels beside"),
    "made for another dataset": (
        lambda c, f: replace(f, metadata={"dataset": "cifar10"}),
        (),
        "dataset",
        WRONG,
        "dataset=cifar10",
    ),
    "channels last": (
        lambda c, f: replace(f, images=f.images.permute(0, 2, 3, 1)),
        (),
        "channels-last",
        WRONG,
        "permute",
    ),
    "flat images": (lambda c, f: replace(f, images=f.images.flatten(1)), (), "shape", WRONG, "shape"),
    "larger images": (
        lambda c, f: replace(f, images=f.images.repeat(1, 1, 2, 2)),
        (),
        "size",
        WRONG,
        "method.resize=true",
    ),
    "two channels": (
        lambda c, f: replace(f, images=torch.cat([f.images[:, :1]] * 2, 1)),
        (),
        "channels",
        WRONG,
        "dataset=",
    ),
    "height and width swapped": (
        lambda c, f: replace(f, images=f.images.transpose(2, 3)),
        (),
        "transposed",
        SUSPECT,
        "transpose(2, 3)",
    ),
    "probabilities, said logits": (
        partial(softly, lambda z: z.softmax(1)),
        SINGLE,
        "soft-probabilities",
        WRONG,
        "method.soft_kind=probabilities",
    ),
    "logits, said probabilities": (
        partial(softly, lambda z: z),
        PROBABILITIES,
        "soft-logits",
        WRONG,
        "method.soft_kind=logits",
    ),
    "log probabilities": (
        partial(softly, lambda z: z.log_softmax(1)),
        PROBABILITIES,
        "soft-log-probabilities",
        WRONG,
        "method.soft_kind=logits",
    ),
    "percentages": (
        partial(softly, lambda z: 100 * z.softmax(1)),
        PROBABILITIES,
        "soft-scaled",
        WRONG,
        "divided by their sum",
    ),
    "one-hot": (
        partial(softly, lambda z: torch.eye(z.shape[1])[z.argmax(1)]),
        PROBABILITIES,
        "soft-one-hot",
        SUSPECT,
        "method.labels=hard",
    ),
    "softened twice": (
        partial(softly, lambda z: (z / 20).softmax(1)),
        (*PROBABILITIES, "method.temperature=20", "criterion=kl"),
        "soft-softened",
        SUSPECT,
        "method.temperature=1",
    ),
    "soft labels' columns permuted": (
        partial(softly, lambda z: z.roll(1, 1)),
        SINGLE,
        "soft-order",
        WRONG,
        "soft[:, order]",
    ),
    "soft labels' rows shuffled": (
        partial(softly, lambda z: z[torch.randperm(len(z), generator=torch.Generator().manual_seed(4))]),
        SINGLE,
        "soft-disagree",
        SUSPECT,
        "row by row",
    ),
    "soft labels all the same": (
        partial(softly, torch.ones_like),
        SINGLE,
        "soft-constant",
        WRONG,
        "method.soft_labels=",
    ),
    "NaN in soft labels": (partial(softly, holed), SINGLE, "soft-not-finite", WRONG, "made again"),
    "soft labels of fewer images": (
        partial(softly, lambda z: z[1:]),
        SINGLE,
        "soft-shape",
        WRONG,
        "method.soft_labels=",
    ),
    "soft labels unused": (partial(softly, lambda z: z), (), "soft-unused", SUSPECT, "method.labels=single"),
    "soft labels missing": (lambda c, f: f, SINGLE, "soft-missing", WRONG, "method.relabel=true"),
    "the distiller's learning rate": (lambda c, f: replace(f, lr=1000.0), (), "lr-large", WRONG, "method.lr=0.01"),
    "a tiny learning rate": (lambda c, f: replace(f, lr=1e-9), (), "lr-unusual", SUSPECT, "method.lr=0.01"),
    "a learning rate that is none": (
        lambda c, f: replace(f, lr=float("nan")),
        (),
        "lr-invalid",
        WRONG,
        "method.lr=0.01",
    ),
}


SEEN = ("value-space", "test-images", "validation-images", "class-order", "not-class-major", "labels-shuffled")


def settings_of(finding: Finding) -> list[str]:
    """The command line settings that a finding's remedy begins with."""
    words = finding.setting.split()
    kept = list(itertools.takewhile(lambda word: "=" in word and "..." not in word, words))
    return [word.rstrip(",") for word in kept]


@pytest.mark.parametrize(
    "fault, dataset",
    [(fault, "digits") for fault in FAULTS]
    + [(fault, "shapes") for fault, (*_, kind, _, _) in FAULTS.items() if kind in SEEN or fault[0] == "h"],
)
def test_a_planted_fault_is_named_with_its_cause_and_nothing_else(clinics, dataset, fault):
    symmetric = fault == "height and width swapped"  # as most of five classes of shapes are
    clinic = clinics("many" if dataset == "shapes" and symmetric else dataset)
    plant, settings, kind, severity, setting = FAULTS[fault]
    found = plant(clinic, clinic.clean())
    diagnosis = clinic.diagnose(found, *settings)
    expected = (kind,) if isinstance(kind, str) else kind
    assert sorted(kinds(diagnosis)) == sorted(expected), [finding.sentence for finding in diagnosis.findings]
    finding = next(finding for finding in diagnosis.findings if finding.kind == expected[0])
    assert severity in (None, finding.severity)
    assert setting in finding.setting
    assert finding.why
    assert "\n" not in finding.sentence
    said = " ".join(diagnosis.notes)
    assert "no copies of real images" not in said or not {"test-images", "validation-images"} & set(kinds(diagnosis))
    assert "values in" not in said or "value-space" not in kinds(diagnosis)
    if (mend := settings_of(finding)) and kind != "dataset":  # for data of its own dataset
        keys = [part.partition("=")[0] for part in mend]
        kept = [setting for setting in settings if setting.partition("=")[0] not in keys]
        assert kinds(clinic.diagnose(found, *kept, *mend)) == []


@pytest.mark.parametrize("fault", ["pixels", "bytes", "not whitened", "classes permuted", "constant image"])
@pytest.mark.parametrize("dataset", ["digits", "shapes"])
def test_one_image_a_class_is_enough(clinics, dataset, fault, monkeypatch):
    monkeypatch.setitem(globals(), "IPC", 1)
    clinic = clinics(dataset)
    plant, settings, kind, _, setting = FAULTS[fault]
    plant = constant_first if fault == "constant image" else plant
    diagnosis = clinic.diagnose(plant(clinic, clinic.clean(ipc=1)), *settings)
    assert kinds(diagnosis) == [kind]
    assert setting in diagnosis.findings[0].setting


def constant_first(clinic: Clinic, found: Found) -> Found:
    images = found.images.clone()
    images[0] = 0.25
    return replace(found, images=images)


def test_several_faults_at_once_are_all_named_and_do_not_hide_each_other(clinics):
    clinic = clinics("digits")
    found = clinic.clean()
    found = softly(lambda z: z.softmax(1), clinic, blocks([3, 0, 1, 2], clinic, found))
    found = replace(
        found, lr=1000.0, soft_labels=blocks([3, 0, 1, 2], clinic, replace(found, images=found.soft_labels)).images
    )
    found = images_as(clinic, found, lambda pixels: pixels.clamp(0, 1))
    assert sorted(kinds(clinic.diagnose(found, "method=datm"))) == [
        "class-order",
        "lr-large",
        "soft-probabilities",
        "value-space",
    ]


def test_constants_of_other_data_are_told_by_name(clinics):
    clinic = clinics("shapes")
    mean, std = readings.CONSTANTS[3]["ImageNet"]
    pixels = clinic.drawn(10)
    found = Found("ddranking", (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))
    (finding,) = clinic.diagnose(found).findings
    assert finding.kind == "value-space"
    assert finding.setting == "method.space=normalized method.mean=[0.485,0.456,0.406] method.std=[0.229,0.224,0.225]"
    mended = clinic.diagnose(found, *finding.setting.split())
    assert kinds(mended) == []


def test_folders_sorted_as_text_are_recognised(clinics):
    clinic = clinics("many")
    found = clinic.clean()
    as_text = sorted(range(12), key=str)
    (finding,) = clinic.diagnose(blocks(as_text, clinic, found)).findings
    assert finding.kind == "class-order"
    assert "numbers sorted as text (0, 1, 10, 11, ..., 2)" in finding.what
    assert kinds(clinic.diagnose(found)) == []


def test_swapped_colours_and_misread_channels_are_told_by_what_the_images_show(clinics):
    clinic = clinics("many")
    found = clinic.clean()
    swapped = clinic.diagnose(replace(found, images=found.images.flip(1)))
    assert kinds(swapped) == ["bgr"]
    misread = found.images.permute(0, 2, 3, 1).reshape(found.images.shape)
    (finding,) = clinic.diagnose(replace(found, images=misread)).findings
    assert finding.kind == "channels-last"
    assert "reshape" in finding.setting


@pytest.mark.parametrize("ipc", [1, 10])
@pytest.mark.parametrize("space", ["normalized", "zca"])
def test_nothing_is_found_in_photographs(clinics, ipc, space, monkeypatch):
    monkeypatch.setattr(judge, "_BUDGET", 4e10)  # of two classes it could not tell much
    clinic = clinics("photographs")
    for contrast in (1.0, 0.3) if (space, ipc) == ("normalized", 10) else (1.0,):
        images = contrast * clinic.space(space).forward(clinic.drawn(ipc))
        diagnosis = clinic.diagnose(Found("mtt", images), f"method.space={space}")
        assert kinds(diagnosis) == []
        assert diagnosis.fitting.name == space


@pytest.mark.parametrize("dataset", ["digits", "shapes"])
def test_means_of_real_images_are_no_copies(clinics, dataset):
    clinic = clinics(dataset)
    labels, test = clinic.real.train.labels, clinic.real.test
    real = readings.as_pixels(clinic.real.train.images)
    means = torch.stack([real[labels == label].mean(0) for label in range(clinic.real.num_classes)])
    threes = clinic.drawn(6).unflatten(0, (-1, 3)).mean(1)
    of_test = [readings.as_pixels(test.images[test.labels == label][:3]).mean(0) for label in range(3)]
    for pixels in (means, threes, torch.stack(of_test)):
        nearest = copies.find_nearest(pixels, clinic.real)
        assert [nearest.copies(name).tolist() for name in ("training", "validation", "test")] == [[], [], []]


def test_a_random_selection_made_elsewhere_may_hold_validation_images(clinics):
    clinic = clinics("digits")
    drawn = clinic.real.draw(20, torch.Generator().manual_seed(0), clinic.real.train)
    found = Found("mtt", clinic.space("normalized").forward(readings.as_pixels(drawn.images)))
    diagnosis = clinic.diagnose(found)
    assert kinds(diagnosis) == []
    (note,) = [note for note in diagnosis.notes if "are training images" in note]
    assert note.startswith("200 of 200 images")
    assert "of them of the held-out validation split" in note


@pytest.mark.parametrize("kind", ["one-hot", "probabilities", "percentages"])
def test_squared_error_takes_any_numbers_as_targets(clinics, kind):
    clinic, settings = clinics("digits"), (*SINGLE, "criterion=mse_gt", "method.temperature=20")
    targets = {
        "one-hot": torch.eye(10)[clinic.labels()],
        "probabilities": clinic.logits().softmax(1),
        "percentages": 100 * clinic.logits().softmax(1),
    }
    found = replace(clinic.clean(), soft_labels=targets[kind])
    assert kinds(clinic.diagnose(found, *settings)) == []
    assert kinds(clinic.diagnose(found, *SINGLE)) != []
    distilled = distilled_as(clinic, found, soft_labels=found.soft_labels)
    assert doctor.cheap(distilled, composed(*settings), clinic.real) == []
    assert kind == "percentages" or doctor.cheap(distilled, composed(*SINGLE), clinic.real) != []


def test_constants_of_the_method_say_where_black_is(clinics):
    clinic = clinics("digits")

    def cheap(images: Tensor, *settings: str) -> list[str]:
        found = doctor.cheap(distilled_as(clinic, Found("mtt", images)), composed(*settings), clinic.real)
        return [finding.kind for finding in found]

    pixels = clinic.drawn(5)
    assert cheap(pixels, "method.mean=[0]", "method.std=[1]") == []
    assert cheap(255 * pixels, "method.mean=[0]", f"method.std=[{1 / 255}]") == []
    assert cheap(pixels) == cheap(255 * pixels) == ["value-space"]
    assert cheap(255 * pixels, "method.mean=[0]", "method.std=[1]") == ["value-space"]
    assert kinds(clinic.diagnose(Found("mtt", pixels), "method.mean=[0]", "method.std=[1]")) == []


@pytest.mark.slow
def test_the_order_of_a_hundred_classes_is_told(clinics):
    clinic = clinics("hundred")
    as_text = sorted(range(100), key=str)
    for ipc in (1, 2):
        found = clinic.clean(ipc)
        assert kinds(clinic.diagnose(found)) == []
        images = found.images.unflatten(0, (100, ipc))[as_text].flatten(0, 1)
        (finding,) = clinic.diagnose(replace(found, images=images)).findings
        assert finding.kind == "class-order"
        assert "numbers sorted as text" in finding.what


def test_a_judge_sees_large_images_shrunk_and_is_trained_on_a_part_of_many(clinics, monkeypatch):
    clinic = clinics("shapes")
    large = replace(
        clinic.real,
        **{
            name: replace(part, images=part.images.repeat_interleave(5, 2).repeat_interleave(5, 3))
            for name, part in (("train", clinic.real.train), ("test", clinic.real.test))
        },
    )
    monkeypatch.setattr(judge, "_BUDGET", 4e10)
    monkeypatch.setattr(judge, "_READ", 300 * 3 * 80 * 80)
    small = judge._reduced(large, 300)
    assert small.train.images.shape == (300, 3, 32, 32)
    assert small.train.labels.bincount().tolist() == [60] * 5
    assert small.test.images.shape[2:] == (32, 32)
    whole = clinic.real.train.images[readings.spread(clinic.real.train.labels, 300)].float()
    assert (small.train.images.float().mean() - whole.mean()).abs() < 0.5
    images = clinic.space("normalized").forward(clinic.drawn(2)).repeat_interleave(5, 2).repeat_interleave(5, 3)
    config = composed(*DATASETS["shapes"], "dataset.size=80")
    with Display() as display:
        machine = engine.start(config.engine)
        diagnosis = examine(Found("mtt", images), config, large, clinic.store, machine, display)
    assert kinds(diagnosis) == []


def test_an_image_that_holds_nan_is_marked_in_the_picture(clinics, tmp_path):
    clinic = clinics("digits")
    reds = []
    for plant in (lambda c, f: f, partial(one_value, float("nan"))):
        found = plant(clinic, clinic.clean())
        path = draw(clinic.diagnose(found), found, clinic.real, "", tmp_path / "doctor.png")
        pixels = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).int()[:400, :700]
        reds.append(int(((pixels[..., 0] - pixels[..., 1]) > 100).sum()))
    assert reds[0] == 0
    assert reds[1] > 50


# --- what an evaluation refuses ---


def distilled_as(clinic: Clinic, found: Found, **more) -> DistilledDataset:
    return DistilledDataset(
        images=found.images, labels=clinic.labels(len(found.images) // clinic.real.num_classes), **more
    )


@pytest.mark.parametrize("dataset", ["digits", "shapes"])
def test_the_cheap_checks_find_what_cannot_be_right(clinics, dataset):
    clinic = clinics(dataset)

    def cheap(fault: str, *settings: str, **more) -> list[str]:
        found = FAULTS[fault][0](clinic, clinic.clean())
        config = composed(*DATASETS[dataset], *settings)
        return [finding.kind for finding in doctor.cheap(distilled_as(clinic, found, **more), config, clinic.real)]

    assert cheap("pixels") == cheap("bytes") == ["value-space"]
    assert cheap("pixels", space="pixel") == []
    assert cheap("pixels", pixels=True) == []
    assert cheap("bytes", space="pixel") == cheap("bytes", pixels=True) == ["value-space"]
    assert cheap("constant image") == ["constant"]
    assert cheap("one image everywhere") == ["identical"]
    probabilities = clinic.logits().softmax(1)
    assert cheap("another IPC", *SINGLE, soft_labels=probabilities) == ["soft-probabilities"]
    assert cheap("another IPC", *SINGLE, soft_labels=probabilities.log(), stored_kind="probabilities") == []
    assert cheap("another IPC", *SINGLE, soft_labels=clinic.logits()) == []
    assert cheap("another IPC", lr=1000.0) == ["lr-large"]
    assert cheap("another IPC", lr=20.0) == []  # suspect, but not impossible


@pytest.mark.parametrize("dataset", ["digits", "shapes"])
def test_the_cheap_checks_find_nothing_in_clean_data_however_far_they_reach(clinics, dataset):
    clinic, config = clinics(dataset), composed(*DATASETS[dataset])
    for ipc in (1, 10):
        shape = (clinic.real.num_classes * ipc, *clinic.drawn(1).shape[1:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(5))
        for space in ("normalized", "zca", "pixel"):
            images = clinic.space(space).forward(clinic.drawn(ipc))
            for changed in (images, images + 0.3 * noise, 4 * images + noise, 0.2 * images, noise, 10 * noise):
                found = distilled_as(clinic, Found("mtt", changed), space=space)
                if space == "pixel" or bool((changed < 0).any()):
                    assert doctor.cheap(found, config, clinic.real) == []


def test_an_evaluation_refuses_them_unless_they_are_trusted(command, tmp_path, clinics):
    clinic = clinics("digits")
    write_distilled(tmp_path / "mine", clinic.drawn(1), clinic.labels(1), metadata={})
    quick = ("model=mlp", "num_eval=1", "protocol.lrs=[0.05]", "train.epochs=1", "train.step_size=1")
    settings = ("method=custom", "method.data=mine", "dataset.real.epochs=1", "engine.workers=1", *quick)
    sentence = command("run", *settings).sentence()
    assert "no value is below 0" in sentence
    assert "method.trust=true" in sentence
    assert command("run", *settings, "method.space=pixel").code == 0
    assert command("run", *settings, "method.trust=true").code == 0


# --- the command ---


@pytest.fixture
def bench(command, clinics, monkeypatch):
    """The command, with a store that holds the judge already."""
    root = clinics("digits").root
    clinics("digits").diagnose(clinics("digits").clean())
    return lambda *arguments: command("doctor", *arguments, f"paths.store={root / 'store'}", "engine.workers=1")


def test_clean_data_end_with_status_0_and_findings_with_1(bench, tmp_path, clinics):
    clinic = clinics("digits")
    path = write_distilled(tmp_path / "mine", clinic.clean().images, clinic.labels(), metadata={"space": "normalized"})
    clean = bench("mine")
    assert clean.code == 0, clean.err
    assert "nothing found" in clean.out
    assert clean.out.index("50 images of 1 x 8 x 8") < clean.out.index("nothing found") < clean.out.index("doctor.json")
    ill = bench(str(path), "ipc=10")
    assert ill.code == 1
    assert "ipc=5" in ill.out
    table = json.loads(next(iter(sorted(tmp_path.rglob("doctor.json"))[-1:])).read_text())
    assert [finding["kind"] for finding in table["findings"]] == ["ipc"]
    assert table["images"] == [50, 1, 8, 8]
    assert table["space"] == {"believed": "normalized", "fitting": "normalized"}
    assert len(list(tmp_path.rglob("doctor.json"))) == 2
    for picture in tmp_path.rglob("doctor.png"):
        width, height = Image.open(picture).size
        assert width == 1440
        assert height > 600


def test_what_the_method_believes_is_what_is_examined(bench, tmp_path, clinics):
    clinic = clinics("digits")
    torch.save(clinic.clean().images, tmp_path / "images.pt")
    torch.save(clinic.logits(), tmp_path / "labels.pt")
    outcome = bench("images.pt", "method=datm")
    assert outcome.code == 1
    assert "method.space says zca" in " ".join(outcome.out.split())
    assert "soft-" not in outcome.out
    assert bench("images.pt", *SINGLE).code == 0
    assert "soft-unused" in bench("images.pt").out


@pytest.mark.parametrize("name", ["a b", "it's", "a=b", "x,y [1] {z}", "back\\slash'", "${dataset.name}", "ends\\"])
def test_any_path_may_be_named(bench, tmp_path, clinics, name):
    clinic = clinics("digits")
    write_distilled(tmp_path / name, clinic.clean().images, clinic.labels(), metadata={})
    outcome = bench(name)
    assert outcome.code == 0, outcome.err


def test_a_path_comes_first_and_overrides_stay_what_they_are():
    assert overrides(["images.pt", "ipc=1"]) == ["method.data='images.pt'", "ipc=1"]
    assert overrides(["method=dm", "ipc=1"]) == ["method=dm", "ipc=1"]
    assert overrides(["--help"]) == ["--help"]
    assert overrides([]) == []
    assert quoted("it's") == r"'it\'s'"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("nowhere",), "nowhere"),
        (("junk.pt",), "junk.pt"),
        ((), "method.data"),
        (("method=dm",), "PATH"),
        (("images.pt", "dataset=cifar10"), "cifar"),
        (("images.pt", "method.spac=zca"), "did you mean method.space?"),
        (("images.pt", "ipc=0"), "ipc is 0"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_status_2(command, tmp_path, arguments, words):
    torch.save(torch.zeros(10, 1, 8, 8), tmp_path / "images.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    outcome = command("doctor", *arguments)
    assert words in outcome.sentence()
    assert not list(tmp_path.rglob("doctor.*"))


def test_help_needs_no_torch(process):
    outcome = process("ddrank.doctor", "--help")
    assert outcome.code == 0
    assert "examine a distilled dataset before trusting it" in outcome.out


# --- parts ---


def test_the_best_order_of_classes_is_that_of_the_largest_sum():
    table = torch.tensor([[0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    assert order.assigned(table) == [1, 0, 2]


def test_soft_labels_are_told_apart():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    told = {
        "logits": logits,
        "probabilities": logits.softmax(1),
        "log-probabilities": logits.log_softmax(1),
        "percentages": 100 * logits.softmax(1),
        "one-hot": torch.eye(3)[:2],
        "constant": torch.full((2, 3), 1 / 3),
    }
    assert {name: soft.what_they_are(labels) for name, labels in told.items()} == {name: name for name in told}
    assert soft.entropy(torch.zeros(2, 3), "logits") == pytest.approx(1)
    assert soft.entropy(torch.eye(3), "one-hot") == pytest.approx(0, abs=1e-6)


def test_twice_normalised_is_one_affine_map(clinics):
    clinic = clinics("shapes")
    known = readings.readings("normalized", clinic.real.mean, clinic.real.std, clinic.real, clinic.store)
    reading = next(reading for reading in known if reading.name == "twice")
    once, pixels = clinic.space("normalized"), clinic.drawn(1)
    assert torch.allclose(reading.space.forward(pixels), once.forward(once.forward(pixels)), atol=1e-4)
    assert known[0].name == "normalized"


def test_bounds_of_clamped_images_tell_the_constants(clinics):
    clinic = clinics("shapes")
    known = readings.readings("normalized", clinic.real.mean, clinic.real.std, clinic.real, clinic.store)
    fits = spaces.fits(clinic.space("normalized").forward(clinic.drawn(10)), clinic.drawn(20, seed=1), known)
    assert [fit.reading.name for fit in fits if fit.exact] == ["normalized"]
    assert fits[0].misfit < 0.5
    assert fits[0].outside == 0


def test_duplicates_by_hand():
    images = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert values.check_duplicates(images, labels) == []
    images[5] = images[0]
    (finding,) = values.check_duplicates(images, labels)
    assert (finding.kind, finding.severity) == ("duplicates", WRONG)
    assert "images 0 and 5" in finding.what
    assert finding.why == "one image is taught as two classes"


def test_the_nearest_real_image_is_found(clinics):
    real = clinics("digits").real
    pixels = readings.as_pixels(real.test.images[[4, 9]])
    nearest = copies.find_nearest(pixels, real)
    assert nearest.index["test"].tolist() == [4, 9]
    assert nearest.distance["test"].tolist() == [0, 0]
    assert nearest.copies("test").tolist() == [0, 1]
    assert nearest.copies("training").tolist() == []
    rows = readings.as_pixels(real.kept.images).flatten(1)
    by_hand = (rows - pixels[0].flatten()).square().mean(1).sqrt()
    assert float(nearest.distance["training"][0]) == pytest.approx(float(by_hand.min()), abs=1e-5)


@pytest.mark.parametrize(
    "lr, kind",
    [(None, None), (0.01, None), (10.0, None), (11.0, "lr-unusual"), (101.0, "lr-large"), (0.0, "lr-invalid")],
)
def test_learning_rates(lr, kind):
    assert [finding.kind for finding in rate.check_rate(lr)] == ([kind] if kind else [])


def test_a_finding_is_one_sentence():
    finding = Finding("ipc", WRONG, "20 images are 2 a class, but ipc=1", "that is unfair", "ipc=2")
    assert finding.sentence == "20 images are 2 a class, but ipc=1: that is unfair; mend it with ipc=2"


def test_read_distilled_accepts_what_the_doctor_calls_clean(clinics, tmp_path):
    clinic = clinics("digits")
    path = write_distilled(tmp_path, clinic.clean().images, clinic.labels(), metadata={})
    assert kinds(clinic.diagnose(look(path))) == []
    read = read_distilled(path, num_classes=10, ipc=IPC, channels=1, size=8)
    assert doctor.cheap(read, composed(), clinic.real) == []
