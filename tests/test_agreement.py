"""Distilled images get the labels that the real dataset gives their classes, in whatever layout they come.

Every class has a colour of its own. Distilled images are copies of real ones, so that an image's colour tells its
class, and the class's colour under its label is seen in the real dataset as it is loaded from its own layout.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from conftest import QUICK_SELECTION
from hydra import compose, initialize_config_dir
from layouts import encoded_as_png
from PIL import Image
from pyarrow import parquet

from ddrank import config as schema
from ddrank.data import RealDataset, load_real, write_distilled
from ddrank.data.classes import ClassNames, meant_labels
from ddrank.errors import InputError
from ddrank.evaluation import find_distilled, load_distilled

SIZE, IPC = 16, 2
WOOF = ("n02096294", "n02093754", "n02111889", "n02088364", "n02086240")  # by their indices: 193, 182, 258, 162, 155
ORDER = torch.randperm(60, generator=torch.Generator().manual_seed(3)).tolist()


@dataclass(frozen=True)
class Place:
    """A real dataset on disk: its settings, its folders in the order of its labels as torchvision or the config counts
    them, and two training images (H, W, 3) of each."""

    settings: tuple[str, ...]
    folders: tuple[str, ...]
    pictures: dict[str, list[np.ndarray]]


def colour(number: int) -> np.ndarray:
    """A colour apart from those of the other numbers below 27."""
    return 40 + 85 * np.array([number % 3, number // 3 % 3, number // 9])


def real_images(home: Path, names: tuple[str, ...], inside: str = "{split}/{name}") -> dict[str, list[np.ndarray]]:
    """Write ten training and two test images of each class as PNG. Returns the first two for training, by class."""
    dice, pictures = np.random.default_rng(0), {}
    for number, name in enumerate(names):
        for split, count in (("train", 10), ("val", 2)):
            folder = home / inside.format(split=split, name=name)
            folder.mkdir(parents=True)
            drawn = (colour(number) + dice.normal(0, 12, (count, SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)
            for index, image in enumerate(drawn):
                Image.fromarray(image).save(folder / f"{index}.png")
            if split == "train":
                pictures[name] = list(drawn[:IPC])
    return pictures


def own_folder(root: Path, names: tuple[str, ...]) -> Place:
    loader = f"dataset.loader.path={root}/own"
    settings = ("dataset=imagefolder", "dataset.name=own", loader, f"dataset.num_classes={len(names)}")
    return Place(settings, tuple(sorted(names)), real_images(root / "own", names))


def named(root: Path) -> Place:
    return own_folder(
        root, ("zebra", "ant", "Bee", "sea_lion", "cow", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")
    )


def numbers(root: Path) -> Place:
    return own_folder(root, tuple(str(number) for number in range(12)))  # as text: 0, 1, 10, 11, 2, ...


def synsets(root: Path) -> Place:
    """A subset of ImageNet, whose labels are in the order of class_indices, not of the folders."""
    indices = "dataset.loader.class_indices=[193,182,258,162,155]"
    settings = ("dataset=imagewoof", "dataset.loader.folder=woof", indices, "dataset.num_classes=5")
    return Place(settings, WOOF, real_images(root / "data/woof", tuple(sorted(WOOF))))


def wnids(root: Path) -> Place:
    """TinyImageNet, whose validation images are in folders."""
    home, names = root / "data/tiny-imagenet-200", ("n02124075", "n04067472", "n01443537")
    pictures = real_images(home, names)
    (home / "wnids.txt").write_text("\n".join(names))
    (home / "words.txt").write_text("n02124075\tEgyptian cat\nn04067472\treel\nn01443537\tgoldfish, Carassius auratus")
    return Place(("dataset=tinyimagenet", "dataset.num_classes=3"), tuple(sorted(names)), pictures)


# --- distilled data, in layouts by the names of classes ---


def folders(place: Place, folder: Path, rename=str) -> Path:
    for name, images in place.pictures.items():
        (folder / rename(name)).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / rename(name) / f"{number}.png")
    return folder


def in_capitals(place: Place, folder: Path) -> Path:
    return folders(place, folder, str.upper)


def rows(place: Place) -> list[tuple[str, np.ndarray]]:
    """(folder, image), in no order."""
    ordered = [(name, image) for name, images in place.pictures.items() for image in images]
    return [ordered[index] for index in ORDER if index < len(ordered)]


def words_in_parquet(place: Place, folder: Path) -> Path:
    return table(place, folder, pyarrow.array([name for name, _ in rows(place)]))


def class_label_in_parquet(place: Place, folder: Path) -> Path:
    """A ClassLabel feature, whose order of the names is its own."""
    names = [name for name in reversed(sorted(place.folders))]
    info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    return table(place, folder, pyarrow.array([names.index(name) for name, _ in rows(place)]), info)


def table(place: Place, folder: Path, labels: pyarrow.Array, info: dict | None = None) -> Path:
    folder.mkdir(parents=True)
    images = [{"bytes": encoded_as_png(image), "path": None} for _, image in rows(place)]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    made = pyarrow.table({"image": pyarrow.array(images, kind), "label": labels})
    made = made.replace_schema_metadata({"huggingface": json.dumps(info)} if info else None)
    parquet.write_table(made, folder / "train.parquet")
    return folder


# --- and by labels ---


def numbered(place: Place, folder: Path, where: str) -> Path:
    for label, name in enumerate(place.folders):
        for number, image in enumerate(place.pictures[name]):
            path = folder / where.format(label=label, number=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=95)
    return folder


def sre2l(place: Place, folder: Path) -> Path:
    return numbered(place, folder, "new{label:03d}/class{label:03d}_id{number:03d}.jpg")


def rded(place: Place, folder: Path) -> Path:
    return numbered(place, folder, "{label:05d}/class{label:05d}_id{number:05d}.jpg")


def d4m(place: Place, folder: Path) -> Path:
    return numbered(place, folder, "{label}/{label}-image{number}0.png")


def plain_numbers(place: Place, folder: Path) -> Path:
    return numbered(place, folder, "{label}/{number}.png")


def class_and_number(place: Place, folder: Path) -> Path:
    return numbered(place, folder, "class{label:03d}/{number}.png")


def labels_of(place: Place) -> torch.Tensor:
    return torch.tensor([place.folders.index(name) for name, _ in rows(place)])


def images_of(place: Place) -> np.ndarray:
    return np.stack([image for _, image in rows(place)])


def npz(place: Place, folder: Path) -> Path:
    folder.mkdir(parents=True)
    np.savez(folder / "set.npz", images=images_of(place), labels=labels_of(place).numpy())
    return folder


def npy(place: Place, folder: Path) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", images_of(place))
    np.save(folder / "labels.npy", labels_of(place).numpy())
    return folder


def one_file(place: Place, folder: Path) -> Path:
    folder.mkdir(parents=True)
    torch.save({"images": torch.from_numpy(images_of(place)), "labels": labels_of(place)}, folder / "set.pt")
    return folder / "set.pt"


def one_hot(place: Place, folder: Path) -> Path:
    folder.mkdir(parents=True)
    torch.save(torch.from_numpy(images_of(place)), folder / "images.pt")
    torch.save(torch.eye(len(place.folders), dtype=torch.int64)[labels_of(place)], folder / "labels.pt")
    return folder


def soft(place: Place, folder: Path) -> Path:
    """Logits, highest at the class, and no other word about the order of the images."""
    one_hot(place, folder)
    logits = 4 * torch.load(folder / "labels.pt") + torch.rand(len(ORDER), 1)[: len(rows(place))]
    torch.save(logits, folder / "labels.pt")
    return folder


PLACES = (named, numbers, synsets, wnids)
BY_NAME = (folders, in_capitals, words_in_parquet, class_label_in_parquet)
BY_LABEL = (sre2l, rded, d4m, class_and_number, npz, npy, one_file, one_hot, soft)


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: place.__name__)
def place(request, tmp_path_factory) -> tuple[Place, RealDataset, Path]:
    root = tmp_path_factory.mktemp(request.param.__name__)
    made = request.param(root)
    config = composed(made, root, root)
    return made, load_real(config.dataset, root / "data"), root


def composed(place: Place, root: Path, data: Path, *settings: str):
    schema.register()
    common = (
        "method=custom",
        f"ipc={IPC}",
        f"dataset.size={SIZE}",
        f"paths.data={root}/data",
        f"paths.store={root}/store",
    )
    with initialize_config_dir(str(schema.folder()), version_base="1.3"):
        return compose("config", overrides=[*place.settings, *common, f"method.data={data}", *settings])


def agrees(images: torch.Tensor, labels: torch.Tensor, real: RealDataset) -> None:
    """Assert that pixels (N, C, H, W) from 0 to 255 have the colours of their classes in the real dataset."""
    pixels = real.train.images[torch.arange(len(real.train))].float()
    of_class = torch.stack([pixels[real.train.labels == label].mean((0, 2, 3)) for label in range(real.num_classes)])
    assert torch.cdist(of_class, of_class).fill_diagonal_(1e9).min() > 50
    assert labels.tolist() == torch.arange(real.num_classes).repeat_interleave(IPC).tolist()
    assert torch.cdist(images.float().mean((2, 3)), of_class).argmin(1).tolist() == labels.tolist()


@pytest.mark.parametrize("layout", [*BY_NAME, *BY_LABEL], ids=lambda layout: layout.__name__)
def test_labels_and_images_agree(place, tmp_path, layout):
    made, real, root = place
    config = composed(made, root, layout(made, tmp_path / "distilled"))
    distilled = load_distilled(config, find_distilled(config), real)
    agrees(distilled.images, distilled.labels, real)


@pytest.mark.parametrize("layout", [folders, words_in_parquet, sre2l, one_hot], ids=lambda layout: layout.__name__)
def test_what_is_converted_agrees(place, tmp_path, command, layout):
    made, real, root = place
    data = layout(made, tmp_path / "distilled")
    paths = (f"dataset.size={SIZE}", f"paths.data={root}/data", "method.space=pixel")
    outcome = command("distill", "convert", str(data), "mine", *made.settings, *paths)
    assert outcome.code == 0, outcome.err
    config = composed(made, root, tmp_path / "mine")
    distilled = load_distilled(config, find_distilled(config), real)
    agrees(255 * distilled.images, distilled.labels, real)


def test_folders_that_are_numbers_are_labels_unless_the_dataset_has_such_folders(tmp_path):
    for make in (named, synsets):
        root = tmp_path / make.__name__
        made = make(root)
        config = composed(made, root, plain_numbers(made, root / "distilled"))
        real = load_real(config.dataset, root / "data")
        distilled = load_distilled(config, find_distilled(config), real)
        agrees(distilled.images, distilled.labels, real)


def test_display_names_will_do(tmp_path):
    made = synsets(tmp_path)
    real = load_real(composed(made, tmp_path, tmp_path).dataset, tmp_path / "data")
    assert real.class_names[:2] == ("Australian terrier", "Border terrier")
    assert real.names.folders == WOOF
    shown = dict(zip(WOOF, real.class_names, strict=True))
    for number, rename in enumerate((shown.get, lambda name: shown[name].lower().replace(" ", "_"))):
        config = composed(made, tmp_path, folders(made, tmp_path / f"distilled{number}", rename))
        distilled = load_distilled(config, find_distilled(config), real)
        agrees(distilled.images, distilled.labels, real)


def test_soft_labels_go_with_their_classes(tmp_path):
    """Their columns are in the order of the file's names, or already in that of the dataset."""
    made = synsets(tmp_path)
    data = folders(made, tmp_path / "distilled")
    real = load_real(composed(made, tmp_path, data).dataset, tmp_path / "data")
    expected = 3 * torch.eye(5).repeat_interleave(IPC, 0)
    by_file = expected  # folders are read in the order of their names, as torchvision does
    by_dataset = expected[:, [sorted(WOOF).index(name) for name in WOOF]]
    for soft_labels in (by_file, by_dataset):
        torch.save(soft_labels, tmp_path / "soft.pt")
        config = composed(made, tmp_path, data, f"method.soft_labels={tmp_path}/soft.pt", "method.labels=single")
        distilled = load_distilled(config, find_distilled(config), real)
        assert torch.equal(distilled.soft_labels, expected)


def test_names_of_other_classes_are_refused(tmp_path, command):
    made = named(tmp_path)
    odd = dict.fromkeys(("zebra",), "zonkey")
    data = folders(made, tmp_path / "distilled", lambda name: odd.get(name, name))
    config = composed(made, tmp_path, data)
    real = load_real(config.dataset, tmp_path / "data")
    with pytest.raises(InputError, match=r"classes 'zonkey', which are not 'zebra' \(of own\): give them"):
        load_distilled(config, find_distilled(config), real)
    config.method.trust = True
    distilled = load_distilled(config, find_distilled(config), real)
    agrees(distilled.images, distilled.labels, real)  # zonkey is last, as zebra is
    paths = (f"dataset.size={SIZE}", f"paths.data={tmp_path}/data")
    assert "(of own)" in command("distill", "convert", str(data), "mine", *made.settings, *paths).sentence()
    assert not (tmp_path / "mine").exists()
    assert command("distill", "convert", str(data), "mine", *made.settings, *paths, "method.trust=true").code == 0


def digit_pictures(folder: Path, names: tuple[str, ...], count: int) -> Path:
    """Real digits as PNG, in a folder for each class."""
    from ddrank.data.digits import load_digits

    train, _, _ = load_digits(folder)
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(train.images[train.labels == label][:count]):
            Image.fromarray((255 * image[0]).byte().numpy()).save(folder / name / f"{number}.png")
    return folder


def test_the_doctor_tells_of_names_of_other_classes(tmp_path, command):
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    digit_pictures(tmp_path / "as words", words, 5)
    settings = ("dataset=digits", "engine.workers=1")
    outcome = command("doctor", str(tmp_path / "as words"), *settings)
    assert outcome.code == 1
    words = "the files name classes 'eight', 'five', 'four' and 7 more, which are not '0', '1', '2' and 7 more"
    assert words in " ".join(outcome.out.split())


@pytest.mark.parametrize("labels", [(), ("method.labels=single", "method.relabel=true", "criterion=sce")])
def test_pictures_are_evaluated_as_the_floats_that_they_are_converted_to(tmp_path, command, labels):
    """Pixels stay bytes until a batch is drawn; the numbers are the same to the last bit."""
    digit_pictures(tmp_path / "pictures", tuple(str(label) for label in range(10)), 2)
    assert command("distill", "convert", "pictures", "floats", "dataset=digits").code == 0
    quick = tuple(setting for setting in QUICK_SELECTION if not setting.startswith("method"))
    longer = ("train.epochs=60", "train.step_size=60")
    for data in ("pictures", "floats"):
        settings = ("dataset=digits", "method=custom", "aug=none", "ipc=2", *labels, *quick, *longer)
        outcome = command(
            "run", *settings, f"method.data={data}", f"hydra.run.dir=runs/{data}", f"paths.store={data}-s"
        )
        assert outcome.code == 0, outcome.err
    pictures, floats = (
        json.loads((tmp_path / f"runs/{data}/result.json").read_text()) for data in ("pictures", "floats")
    )
    assert pictures["arms"] == floats["arms"]
    assert pictures["arms"]["syn_any"]["accuracy"][0] > 0.2


def test_a_run_says_what_it_concluded(tmp_path, command):
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    write_distilled(tmp_path / "d", images, torch.arange(10).repeat_interleave(2), metadata={"space": "pixel"})
    settings = ("dataset=digits", "method=custom", "method.data=d", "ipc=2", "aug=none", *QUICK_SELECTION)
    outcome = command("run", *settings)
    assert outcome.code == 0, outcome.err
    said = "says that its images are in pixel space, which is taken, not method.space=normalized"
    assert [said in line for line in outcome.err.splitlines()].count(True) == 1


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["b", "a"], [1, 0]),
        (["B", "A"], [1, 0]),
        (["Second Class", "first class"], [1, 0]),
        (["0", "1"], [0, 1]),
        (["1", "2"], [0, 1]),
        (["class001", "class000"], [1, 0]),
        (["01"], [1]),
        (["x0", "y1"], None),
        (["0", "2"], None),
        (["0", "00"], None),
        (["a", "0"], None),
        (["a", "c"], None),
        (["", "a"], None),
        (["n01440764", "n01443537"], None),
        (["9" * 5000, "0"], None),
        ([], []),
    ],
)
def test_what_names_mean(given, meant):
    assert meant_labels(given, ClassNames(["first class", "second class"], ["a", "b"])) == meant


def test_names_that_differ_in_case_alone_are_told_apart():
    names = ClassNames(["cat", "Cat"])
    assert meant_labels(["Cat", "cat"], names) == [1, 0]
    assert meant_labels(["CAT", "cat"], names) is None
