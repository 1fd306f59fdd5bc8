"""Real datasets in their official layouts, against torchvision and PIL; one sentence for each layout that is not."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from scipy.io import savemat
from torchvision import datasets, transforms

from ddrank import config as schema
from ddrank.data import load_real
from ddrank.data.files import Files, Format, Names
from ddrank.data.folders import load_imagefolder
from ddrank.data.imagenet import _classes, load_imagenet
from ddrank.data.mnist import load_fashion_mnist, load_mnist, load_svhn
from ddrank.data.tinyimagenet import load_tinyimagenet
from ddrank.errors import InputError

NEW = (
    "tinyimagenet", "imagenet1k", "imagenette", "imagewoof", "imagefruit", "imageyellow", "imagemeow", "imagesquawk",
    "mnist", "fashionmnist", "svhn",
)  # fmt: skip
TINY = ("n02124075", "n04067472", "n01443537")  # as in wnids.txt: in no order
WOOF = [193, 182, 258]


def write(path: Path, seed: int, size: tuple[int, int] = (23, 17), mode: str = "RGB") -> None:
    """A smooth random image; its format is that of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)
    image.save(path, format={".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG"}[path.suffix.lower()])


def by_torchvision(folder: Path, size: int, resize: int | None = None) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Images, labels and classes as ImageFolder with Resize and CenterCrop gives them."""
    steps = [transforms.Resize(resize or size), transforms.CenterCrop(size), transforms.PILToTensor()]
    source = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    return torch.stack([image for image, _ in source]), torch.tensor(source.targets), source.classes


# --- one file ---


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    ("stored", "size", "resize"),
    [
        ((23, 17), 8, 8),
        ((17, 23), 8, 11),
        ((64, 64), 64, 64),
        ((5, 9), 16, 16),
        ((333, 500), 224, 256),
        ((31, 8), 7, 8),
    ],
)
def test_a_file_is_what_torchvision_makes_of_it_bit_by_bit(tmp_path, mode, stored, size, resize):
    write(tmp_path / "one.jpg", seed=size, size=stored, mode=mode)
    image = Image.open(tmp_path / "one.jpg")
    assert image.mode == mode
    wanted = transforms.CenterCrop(size)(transforms.Resize(resize)(image.convert("RGB")))
    wanted = torch.from_numpy(np.asarray(wanted).copy()).permute(2, 0, 1)
    ours = Files(tmp_path, Names(["one.jpg"]), Format(size, resize), tmp_path / "sums")[0]
    assert torch.equal(ours, wanted)
    grey = Files(tmp_path, Names(["one.jpg"]), Format(size, resize, channels=1), tmp_path / "sums")[0]
    wanted = transforms.CenterCrop(size)(transforms.Resize(resize)(image.convert("L")))
    assert torch.equal(grey, torch.from_numpy(np.asarray(wanted).copy())[None])


def test_what_does_not_fit_eight_bits_or_would_start_a_program_is_refused(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(tmp_path / "deep.png")
    (tmp_path / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    assert Image.open(tmp_path / "script.jpg").format == "EPS"  # what Pillow would hand to Ghostscript
    files = Files(tmp_path, Names(["deep.png", "script.jpg"]), Format(8, 8), tmp_path / "sums")
    with pytest.raises(InputError, match="its pixels are of mode I;16, not of 8 bits a channel"):
        files[0]
    with pytest.raises(InputError, match=r"script\.jpg cannot be read as an image"):
        files[1]


def test_names_of_any_kind_come_back():
    names = ["a/b.JPEG", "ü/ß 7.png", "", "\udcff.jpg", "z" * 300]
    packed = Names(names)
    assert [packed[number] for number in range(len(packed))] == names
    assert packed[-1] == names[-1]
    with pytest.raises(IndexError):
        packed[5]


# --- TinyImageNet ---


def tiny(root: Path) -> Path:
    """The archive's layout with three classes of the two hundred."""
    home = root / "tiny-imagenet-200"
    for label, synset in enumerate(TINY):
        for number in range(4):
            mode = "L" if number == 1 else "RGB"
            write(home / f"train/{synset}/images/{synset}_{number}.JPEG", 10 * label + number, (64, 64), mode)
        (home / f"train/{synset}/{synset}_boxes.txt").write_text(f"{synset}_0.JPEG\t0\t0\t62\t62\n")
    (home / "wnids.txt").write_text("".join(f"{synset}\n" for synset in TINY))
    (home / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\nn00001740\tentity\nn04067472\treel\n")
    lines = []
    for number in range(6):
        write(home / f"val/images/val_{number}.JPEG", 100 + number, (64, 64))
        lines.append(f"val_{number}.JPEG\t{TINY[number % 3]}\t0\t32\t44\t62\n")
    (home / "val/val_annotations.txt").write_text("".join(lines))
    write(home / "test/images/test_0.JPEG", 500, (64, 64))
    return home


@pytest.mark.parametrize("decode_gib", [0, 2])
def test_tinyimagenet_as_unpacked(tmp_path, decode_gib):
    home = tiny(tmp_path)
    train, test, names = load_tinyimagenet(tmp_path, decode_gib=decode_gib)
    images, labels, classes = by_torchvision(home / "train", 64)
    assert classes == sorted(TINY)
    assert names == ("goldfish", "n02124075", "reel")
    assert train.images.shape == (12, 3, 64, 64)
    assert torch.equal(train.images[:], images)
    assert torch.equal(train.labels, labels)
    assert test.labels.tolist() == [1, 2, 0, 1, 2, 0]
    for number in range(6):
        pixels = np.asarray(Image.open(home / f"val/images/val_{number}.JPEG").convert("RGB"))
        assert np.array_equal(test.images[number].permute(1, 2, 0).numpy(), pixels)
    assert isinstance(train.images, Files) == (decode_gib == 0)


@pytest.mark.parametrize("inside", ["", "images"])
def test_tinyimagenet_with_its_validation_images_in_folders(tmp_path, inside):
    home = tiny(tmp_path)
    _, before, _ = load_tinyimagenet(tmp_path)
    for number in range(6):
        target = home / "val" / TINY[number % 3] / inside
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(home / f"val/images/val_{number}.JPEG", target)
    (home / "val/images").rmdir()
    _, test, _ = load_tinyimagenet(tmp_path)
    images, labels, _ = by_torchvision(home / "val", 64)
    assert torch.equal(test.images, images)
    assert torch.equal(test.labels, labels)
    order = before.labels.argsort(stable=True)  # the same images
    assert torch.equal(before.images[order], test.images)


def annotate(home: Path, line: str) -> None:
    path = home / "val/val_annotations.txt"
    path.write_text(path.read_text() + line)


TINY_HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, r"tiny-imagenet-200 does not exist: put tiny-imagenet-200\.zip"),
    "no train": (lambda home: shutil.rmtree(home / "train"), "train does not exist"),
    "no val": (lambda home: shutil.rmtree(home / "val"), "val does not exist"),
    "no wnids": (lambda home: (home / "wnids.txt").unlink(), r"wnids\.txt does not exist"),
    "wnids binary": (lambda home: (home / "wnids.txt").write_bytes(b"\xff\xfe\xff"), r"wnids\.txt cannot be read"),
    "a class more in wnids": (
        lambda home: (home / "wnids.txt").write_text("\n".join([*TINY, "n99999999"])),
        "n99999999 has no folder in train/",
    ),
    "a folder more": (lambda home: (home / "train/n00000001").mkdir(), "n00000001 has a folder in train/, but"),
    "no annotations": (
        lambda home: (home / "val/val_annotations.txt").unlink(),
        r"val_annotations\.txt does not exist",
    ),
    "unknown synset": (
        lambda home: annotate(home, "val_0.JPEG\tn00000009\t0\t0\t1\t1\n"),
        r"val_annotations\.txt, line 7, gives the class 'n00000009'",
    ),
    "no tabs": (lambda home: annotate(home, "val_0.JPEG n01443537\n"), "line 7, gives the class ''"),
    "absent image": (
        lambda home: annotate(home, "val_77.JPEG\tn01443537\t0\n"),
        r"line 7, names the image 'val_77\.JPEG', which is not in",
    ),
    "image elsewhere": (lambda home: annotate(home, "../../x.JPEG\tn01443537\n"), "names the image '../../x.JPEG'"),
    "class without test images": (
        lambda home: (home / "val/val_annotations.txt").write_text("val_0.JPEG\tn01443537\n"),
        "names no image of the class n02124075",
    ),
    "empty class": (
        lambda home: [path.unlink() for path in (home / "train/n01443537/images").iterdir()],
        "n01443537 holds no images",
    ),
    "validation half moved": (
        lambda home: (shutil.rmtree(home / "val/images"), [(home / "val" / one).mkdir() for one in TINY[:2]]),
        "val has neither images/ nor a folder for the class n01443537",
    ),
    "truncated image": (
        lambda home: _truncate(home / "val/images/val_3.JPEG"),
        r"val_3\.JPEG cannot be read as an image \(.*[Tt]runcated",
    ),
    "text as an image": (
        lambda home: (home / "train/n01443537/images/n01443537_2.JPEG").write_text("<html>404</html>"),
        r"n01443537_2\.JPEG cannot be read as an image",
    ),
}


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("harm", TINY_HARM)
def test_what_is_not_tinyimagenet_is_one_sentence(tmp_path, harm):
    home = tiny(tmp_path)
    change, sentence = TINY_HARM[harm]
    change(home)
    refused(lambda: load_tinyimagenet(tmp_path), sentence)


def refused(load: Callable[[], object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        load()
    assert "\n" not in str(error.value)


# --- ImageNet and its subsets ---


def imagenet(home: Path, indices: list[int], count: int = 2) -> Path:
    for index in indices:
        synset = _classes()[0][index]
        for number in range(count):
            write(home / f"train/{synset}/{synset}_{number}.JPEG", 7 * index + number, (24, 20))
        write(home / f"val/{synset}/ILSVRC2012_val_{index:08d}.JPEG", 7 * index + 5, (20, 24))
    return home


def test_a_subset_has_its_labels_in_the_order_of_its_indices(tmp_path):
    imagenet(tmp_path / "imagenet", [*WOOF, 0, 999])
    imagenet(tmp_path / "imagewoof2", WOOF)
    train, test, names = load_imagenet(tmp_path, "imagenet", 16, WOOF)
    assert names == ("Australian terrier", "Border terrier", "Samoyed")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for split, samples in (("train", train), ("val", test)):
        images, labels, classes = by_torchvision(tmp_path / "imagewoof2" / split, 16)
        assert classes == sorted(_classes()[0][index] for index in WOOF)
        order = [
            number for index in WOOF for number in range(len(labels)) if labels[number] == sorted(WOOF).index(index)
        ]
        assert torch.equal(samples.images, images[order])
    alone, _, _ = load_imagenet(tmp_path, "imagewoof2", 16, WOOF)
    assert torch.equal(alone.images, train.images)
    assert torch.equal(alone.labels, train.labels)


def test_imagenet_has_its_thousand_classes_in_imagefolders_order(tmp_path):
    home = tmp_path / "imagenet"
    synsets = _classes()[0]
    assert len(set(synsets)) == 1000
    write(tmp_path / "one.JPEG", 1, (8, 8))
    for split in ("train", "val"):
        for synset in synsets:
            (home / split / synset).mkdir(parents=True)
            (home / split / synset / f"{synset}_1.JPEG").hardlink_to(tmp_path / "one.JPEG")
    train, test, names = load_imagenet(tmp_path, "imagenet", 8)
    classes = datasets.ImageFolder(str(home / "train")).classes
    assert list(synsets) == classes
    assert torch.equal(train.labels, torch.arange(1000))
    assert len(test) == len(names) == 1000
    (home / "train/n00000001").mkdir()
    refused(lambda: load_imagenet(tmp_path, "imagenet", 8), "has a folder n00000001, which is no class of ImageNet-1K")


IMAGENET_HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "imagenet does not exist: unpack the images there"),
    "a file": (lambda home: (shutil.rmtree(home), home.write_text("")), "imagenet is a file, expected a folder"),
    "no val": (lambda home: shutil.rmtree(home / "val"), "val does not exist"),
    "flat val": (
        lambda home: (shutil.rmtree(home / "val"), write(home / "val/ILSVRC2012_val_00000001.JPEG", 1)),
        "val holds images without folders of classes: sort them",
    ),
    "class missing": (
        lambda home: shutil.rmtree(home / "train" / _classes()[0][182]),
        "lacks 1 of the 3 classes, n02093754 among them",
    ),
    "no classes": (lambda home: [shutil.rmtree(one) for one in (home / "train").iterdir()], "train holds no folders"),
    "numbered classes": (
        lambda home: [one.rename(one.with_name(str(number))) for number, one in enumerate((home / "val").iterdir())],
        "lacks 3 of the 3 classes",
    ),
    "empty class": (
        lambda home: [one.unlink() for one in (home / "val" / _classes()[0][258]).iterdir()],
        "n02111889 holds no images",
    ),
}


@pytest.mark.parametrize("harm", IMAGENET_HARM)
def test_what_is_not_imagenet_is_one_sentence(tmp_path, harm):
    home = imagenet(tmp_path / "imagenet", WOOF)
    change, sentence = IMAGENET_HARM[harm]
    change(home)
    refused(lambda: load_imagenet(tmp_path, "imagenet", 16, WOOF), sentence)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"class_indices": [0, 1000]}, "has 1000, expected indices from 0 to 999"),
        ({"class_indices": [193, 193]}, "names a class twice"),
        ({"class_indices": WOOF, "resize": 8}, "size=16, resize=8"),
        ({"class_indices": WOOF, "decode_gib": -1}, "decode_gib is -1"),
        ({}, "lacks 997 of the 1000 classes"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path, options, sentence):
    imagenet(tmp_path / "imagenet", WOOF)
    refused(lambda: load_imagenet(tmp_path, "imagenet", 16, **options), sentence)


# --- any folder ---


def birds(home: Path, splits: tuple[str, ...] = ("train", "test"), count: int = 3) -> Path:
    for split in splits:
        for label, name in enumerate(("wren", "crow", "owl")):
            for number in range(count):
                suffix = (".png", ".JPG", ".jpeg")[number % 3]
                write(home / split / name / f"{number}{suffix}", 50 * label + number + 1000 * len(split))
            (home / split / name / "notes.txt").write_text("not an image")
    return home


@pytest.mark.parametrize("split", ["test", "val", "valid"])
def test_a_folder_of_ones_own_reads_as_imagefolder_reads_it(tmp_path, split):
    home = birds(tmp_path / "birds", ("train", split))
    write(home / "train/owl/more/deep.png", 77)
    train, test, names = load_imagefolder(tmp_path / "data", str(home), 12, resize=14)
    for samples, part in ((train, "train"), (test, split)):
        images, labels, classes = by_torchvision(home / part, 12, 14)
        assert list(names) == classes == ["crow", "owl", "wren"]
        assert torch.equal(samples.images, images)
        assert torch.equal(samples.labels, labels)


@pytest.mark.parametrize("decode_gib", [0, 2])
def test_test_images_and_what_is_held_out_are_cut_out_of_larger_ones(tmp_path, decode_gib):
    """As the decoupled papers do it: 256 and 224 pixels; training images keep their own way."""
    home = birds(tmp_path / "birds", count=5)
    options = {"path": str(home), "size": 14, "test_resize": 16, "decode_gib": decode_gib}
    config = {
        **{"name": "birds", "num_classes": 3, "channels": 3, "size": 14, "mean": [0.5] * 3, "std": [0.5] * 3},
        "validation": {"fraction": 0.4, "most": 5000},
        "loader": {"_target_": "ddrank.data.folders.load_imagefolder", **options},
    }
    real = load_real(OmegaConf.create(config), tmp_path / "data")
    as_trained, labels, _ = by_torchvision(home / "train", 14)
    as_tested, _, _ = by_torchvision(home / "train", 14, 16)
    kept, held_out = real.split
    assert len(held_out) == 6
    assert torch.equal(real.train.images[:], as_trained)
    assert torch.equal(real.kept.images[:], as_trained[kept])
    assert torch.equal(real.validation.images[:], as_tested[held_out])
    assert torch.equal(real.validation.labels, labels[held_out])
    assert not torch.equal(as_tested, as_trained)
    assert torch.equal(real.test.images[:], by_torchvision(home / "test", 14, 16)[0])
    assert isinstance(real.validation.images, torch.Tensor) == bool(decode_gib)


def test_whole_images_are_brought_to_their_size_and_test_images_may_still_be_cut_out(tmp_path):
    """As the code of MTT and the ddranking package do it at ImageNet's sizes."""
    home = birds(tmp_path / "birds")
    squashed = transforms.Compose([transforms.Resize((12, 12)), transforms.PILToTensor()])
    for split, test_resize in (("train", None), ("test", None), ("test", 14)):
        read = load_imagefolder(tmp_path / "data", str(home), 12, squash=True, test_resize=test_resize)
        source = datasets.ImageFolder(str(home / split), squashed)
        wanted = torch.stack([image for image, _ in source])
        if test_resize:
            wanted = by_torchvision(home / split, 12, test_resize)[0]
        assert torch.equal(read[split == "test"].images, wanted)
    refused(lambda: load_imagefolder(tmp_path, str(home), 12, resize=14, squash=True), "choose one of them")
    refused(lambda: load_imagefolder(tmp_path, str(home), 12, test_resize=8), "size=12, resize=8")


@pytest.mark.parametrize("inside", ["train", "."])
def test_without_a_test_split_a_fixed_fifth_of_each_class_is_it(tmp_path, inside):
    home = birds(tmp_path / "birds", (inside,), count=10)
    train, test, names = load_imagefolder(tmp_path, str(home), 16)
    assert names == ("crow", "owl", "wren")
    assert train.labels.bincount().tolist() == [8, 8, 8]
    assert test.labels.bincount().tolist() == [2, 2, 2]
    images, labels, _ = by_torchvision(home / inside, 16)
    everything = {(bytes(image.numpy()), int(label)) for image, label in zip(images, labels, strict=True)}
    parts = [
        {(bytes(image.numpy()), int(label)) for image, label in zip(part.images, part.labels, strict=True)}
        for part in (train, test)
    ]
    assert parts[0] | parts[1] == everything
    assert not parts[0] & parts[1]
    again = load_imagefolder(tmp_path, str(home), 16)
    assert torch.equal(again[1].images, test.images)


FOLDER_HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "birds does not exist: give a folder of classes as dataset.loader.path"),
    "one class": (lambda home: [shutil.rmtree(home / "train" / one) for one in ("owl", "crow")], "holds only wren/"),
    "no train": (lambda home: shutil.rmtree(home / "train"), "has a folder test/ but no train/"),
    "two test splits": (lambda home: shutil.copytree(home / "test", home / "val"), "in test/ and in val/: keep one"),
    "a class for tests alone": (
        lambda home: shutil.copytree(home / "test/owl", home / "test/kite"),
        "the class 'kite' is in .*test alone",
    ),
    "a class for training alone": (
        lambda home: shutil.rmtree(home / "test/owl"),
        "the class 'owl' is in .*train alone",
    ),
    "empty class": (lambda home: (home / "train/empty").mkdir(), "the class 'empty' is in|empty holds no images"),
    "too few to split": (
        lambda home: (
            shutil.rmtree(home / "test"),
            [(home / f"train/owl/{name}").unlink() for name in ("0.png", "1.JPG")],
        ),
        "cannot be split: its class 'owl' has 1",
    ),
    "empty file": (lambda home: (home / "test/owl/0.png").write_bytes(b""), r"test/owl/0\.png cannot be read"),
    "truncated png": (lambda home: _truncate(home / "train/crow/0.png"), r"train/crow/0\.png cannot be read"),
}


@pytest.mark.parametrize("harm", FOLDER_HARM)
def test_what_is_no_folder_of_classes_is_one_sentence(tmp_path, harm):
    home = birds(tmp_path / "birds")
    change, sentence = FOLDER_HARM[harm]
    change(home)
    refused(lambda: load_imagefolder(tmp_path / "data", str(home), 16), sentence)


# --- MNIST, Fashion-MNIST, SVHN ---


def idx(path: Path, values: np.ndarray) -> None:
    """LeCun's format: a magic number with type (8: bytes) and dimensions, the sizes, the values, all big-endian."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(head + values.astype(np.uint8).tobytes())


def mnist_files(root: Path, name: str, train: int = 20, test: int = 10) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    content, generator = {}, np.random.default_rng(3)
    for split, count in (("train", train), ("t10k", test)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count) % 10
        idx(root / name / "raw" / f"{split}-images-idx3-ubyte", pixels)
        idx(root / name / "raw" / f"{split}-labels-idx1-ubyte", labels)
        content[split] = pixels, labels
    return content


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_mnist_and_fashion_mnist_from_their_official_files(tmp_path, name):
    content = mnist_files(tmp_path, name)
    load, kind = {"MNIST": load_mnist, "FashionMNIST": load_fashion_mnist}[name], getattr(datasets, name)
    train, test, names = load(tmp_path)
    for samples, split in ((train, "train"), (test, "t10k")):
        pixels, labels = content[split]
        assert samples.images.dtype == torch.uint8
        assert np.array_equal(samples.images.squeeze(1).numpy(), pixels)
        assert samples.labels.tolist() == labels.tolist()
        source = kind(str(tmp_path), train=split == "train")
        assert torch.equal(source.data.unsqueeze(1), samples.images)
        assert torch.equal(source.targets, samples.labels)
    assert names == (tuple("0123456789") if name == "MNIST" else tuple(kind.classes))


def svhn_files(root: Path, labels: np.ndarray | None = None) -> dict[str, np.ndarray]:
    content = {}
    for split, count in (("train", 12), ("test", 11)):
        pixels = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        (root / "svhn").mkdir(parents=True, exist_ok=True)
        of_split = (np.arange(count) % 10 + 1)[:, None] if labels is None else labels
        savemat(root / "svhn" / f"{split}_32x32.mat", {"X": pixels, "y": of_split})
        content[split] = pixels
    return content


def test_svhn_from_its_official_files(tmp_path, monkeypatch):
    content = svhn_files(tmp_path)
    train, test, names = load_svhn(tmp_path)
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)  # of the full files' checksums
    for samples, split in ((train, "train"), (test, "test")):
        source = datasets.SVHN(str(tmp_path / "svhn"), split=split)
        assert np.array_equal(samples.images.numpy(), source.data)
        assert samples.labels.tolist() == source.labels.tolist()
        assert int(samples.images[4, 2, 7, 9]) == content[split][7, 9, 2, 4]
    assert train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert names == tuple("0123456789")


def _no_network(*_: object, **__: object) -> None:
    raise OSError("Name or service not known")


@pytest.mark.parametrize("load", [load_mnist, load_fashion_mnist, load_svhn])
def test_without_files_and_network_it_says_what_to_put_where(tmp_path, monkeypatch, load):
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", _no_network)
    monkeypatch.setattr("torchvision.datasets.utils.download_url", _no_network)
    file = r"train_32x32\.mat" if load is load_svhn else r"train-images-idx3-ubyte\.gz"
    refused(lambda: load(tmp_path), rf"could not be downloaded.*put {file}")


RAW = "MNIST/raw/train-images-idx3-ubyte"
MNIST_HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda root: _truncate(root / RAW), "MNIST/raw does not hold the official files"),
    "text": (lambda root: (root / RAW).write_text("nothing of the kind"), "MNIST/raw does not hold the official files"),
    "empty": (lambda root: (root / RAW).write_bytes(b""), "MNIST/raw does not hold the official files"),
    "other size": (lambda root: idx(root / RAW, np.zeros((20, 27, 28))), r"of shape \(20, 27, 28\)"),
    "other count": (lambda root: idx(root / RAW, np.zeros((19, 28, 28))), "and 20 labels"),
    "labels": (
        lambda root: idx(root / "MNIST/raw/train-labels-idx1-ubyte", np.full(20, 11)),
        "labels from 11 to 11, but there are 10 classes",
    ),
}


@pytest.mark.parametrize("harm", MNIST_HARM)
def test_what_is_not_mnist_is_one_sentence(tmp_path, harm):
    mnist_files(tmp_path, "MNIST")
    change, sentence = MNIST_HARM[harm]
    change(tmp_path)
    refused(lambda: load_mnist(tmp_path), sentence)


SVHN_HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate, "train_32x32.mat does not hold the official files"),
    "text": (lambda path: path.write_text("no matrix"), "train_32x32.mat does not hold the official files"),
    "no labels": (lambda path: savemat(path, {"X": np.zeros((32, 32, 3, 2), np.uint8)}), "'y'"),
    "floats": (
        lambda path: savemat(path, {"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1))}),
        r"it has float64 images of shape \(32, 32, 3, 2\)",
    ),
    "label 0": (
        lambda path: savemat(path, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[0], [1]])}),
        "it has the label 0",
    ),
    "label 11": (
        lambda path: savemat(path, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[11], [1]])}),
        "labels from 1 to 11",
    ),
}


@pytest.mark.parametrize("harm", SVHN_HARM)
def test_what_is_not_svhn_is_one_sentence(tmp_path, harm):
    svhn_files(tmp_path)
    change, sentence = SVHN_HARM[harm]
    change(tmp_path / "svhn/train_32x32.mat")
    refused(lambda: load_svhn(tmp_path), sentence)


# --- their configurations ---


def composed(*overrides: str) -> DictConfig:
    schema.register()
    with initialize_config_dir(config_dir=str(schema.folder()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.mark.parametrize("dataset", NEW)
@pytest.mark.parametrize("method", ["dm", "random"])
def test_every_dataset_composes(dataset, method):
    config = composed(f"method={method}", f"dataset={dataset}")
    schema.check(config)
    assert config.dataset.name == dataset
    assert config.dataset.mirror == (dataset not in ("mnist", "svhn"))


def test_a_folder_of_ones_own_is_configured_on_the_command_line(tmp_path):
    home = birds(tmp_path / "birds")
    overrides = ["dataset=imagefolder", "dataset.name=birds", "dataset.num_classes=3", "dataset.size=16"]
    config = composed(*overrides, f"dataset.loader.path={home}")
    schema.check(config)
    real = load_real(config.dataset, tmp_path)
    assert (real.num_classes, real.channels, real.size, len(real.train)) == (3, 3, 16, 9)
    grey = [*overrides, f"dataset.loader.path={home}", "dataset.channels=1", "dataset.mean=[0.5]", "dataset.std=[0.2]"]
    assert load_real(composed(*grey).dataset, tmp_path).train.images.shape == (9, 1, 16, 16)
    wrong = composed(*overrides, f"dataset.loader.path={home}", "dataset.num_classes=4")
    refused(lambda: load_real(wrong.dataset, tmp_path), "birds has 3 classes .* but the configuration says 4")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ((), "dataset"),
        (("dataset.name=birds", "dataset.num_classes=3", "dataset.size=16"), "dataset.loader.path"),
        (("dataset.name=b", "dataset.num_classes=3", "dataset.size=16", "dataset.loader.path=nowhere"), "nowhere"),
        (("dataset.name=b", "dataset.num_classes=3", "dataset.size=16", "dataset.loader.place=x"), "place"),
    ],
)
def test_a_folder_that_is_not_named_is_one_sentence(command, settings, sentence):
    assert sentence in command("distill", "dataset=imagefolder", "method=random", *settings).sentence()


@pytest.mark.parametrize("dataset", ["tinyimagenet", "imagenet1k", "imagewoof"])
def test_a_dataset_that_is_not_there_is_one_sentence(command, dataset):
    folder = "tiny-imagenet-200" if dataset == "tinyimagenet" else "imagenet"
    assert f"data/{folder} does not exist" in command("distill", f"dataset={dataset}", "method=random").sentence()
