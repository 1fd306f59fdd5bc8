"""Images that are decoded as they are used: the same batches, the same students, one sentence for what is broken."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK_SELECTION
from PIL import Image

from ddrank import models
from ddrank.criteria import CrossEntropy
from ddrank.data import Batches, Samples, TestBatches
from ddrank.data.files import Files, Format, Names
from ddrank.data.folders import load_imagefolder
from ddrank.data.imagenet import _classes, load_imagenet
from ddrank.data.mapped import decoded_once
from ddrank.data.samples import Rows
from ddrank.data.stream import Stream
from ddrank.engine import Engine
from ddrank.errors import InputError
from ddrank.student import Training, accuracy_on, new_network, train

CONSTANTS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def write_images(folder: Path, count: int, seed: int, size: tuple[int, int] = (20, 16), suffix: str = ".JPEG") -> None:
    """`count` smooth images of a tint that `seed` decides."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    tint = generator.uniform(0, 255, 3)
    for number in range(count):
        coarse = np.clip(tint + generator.normal(0, 40, (4, 4, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:03d}{suffix}")


def class_folders(root: Path, classes: int = 3, train: int = 12, test: int = 5, **options) -> Path:
    for label in range(classes):
        write_images(root / "train" / f"kind{label}", train, seed=label, **options)
        write_images(root / "test" / f"kind{label}", test, seed=label, **options)
    return root


@pytest.fixture
def loaded(tmp_path):
    """Training and test samples twice: streamed and in memory, normalised."""
    folder = class_folders(tmp_path / "birds")
    both = []
    for decode_gib in (0, 2):
        train, test, _ = load_imagefolder(tmp_path / "data", str(folder), 16, decode_gib=decode_gib)
        both.append([Samples(part.images, part.labels, **CONSTANTS) for part in (train, test)])
    (streamed, _), (memory, _) = both
    assert isinstance(streamed.images, Files)
    assert isinstance(memory.images, torch.Tensor)
    return both


def same_batches(ours, theirs) -> None:
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name])


def test_streamed_training_batches_are_those_of_a_tensor_bit_by_bit(loaded):
    (streamed, _), (memory, _) = loaded
    with Batches(streamed, 7) as ours, Batches(memory, 7) as theirs:
        torch.manual_seed(3)
        passes = [list(ours) for _ in range(3)]
        left = torch.get_rng_state()
        torch.manual_seed(3)
        for batches in passes:
            same_batches(batches, theirs)
    assert torch.equal(torch.get_rng_state(), left)  # the loader drew nothing from the global generator
    assert not torch.equal(passes[0][0]["label"], passes[1][0]["label"])


def test_streamed_test_batches_are_those_of_a_tensor_bit_by_bit(loaded):
    (_, streamed), (_, memory) = loaded
    with TestBatches(streamed, 4) as ours:
        same_batches(ours, TestBatches(memory, 4))


def test_a_subset_streams_too_and_keeps_its_labels_and_soft_labels(loaded):
    (streamed, _), (memory, _) = loaded
    index = torch.tensor([30, 2, 2, 17, 5])
    soft = torch.rand(len(streamed), 3)
    parts = [Samples(one.images, one.labels, soft, **CONSTANTS)[index] for one in (streamed, memory)]
    assert isinstance(parts[0].images, Rows)
    assert isinstance(parts[0][torch.tensor([1, 0])].images.base, Files)  # a subset of a subset is one step away
    with TestBatches(parts[0], 2) as ours:
        same_batches(ours, TestBatches(parts[1], 2))
    assert torch.equal(parts[0].read().images, parts[1].images)


def test_a_batch_may_be_larger_than_a_piece(tmp_path):
    folder = class_folders(tmp_path / "many", classes=2, train=75, test=1)
    train, _, _ = load_imagefolder(tmp_path, str(folder), 8, decode_gib=0)
    assert Stream(train.images.format, 150).piece < 150
    with TestBatches(train, 150) as ours:
        (batch,) = ours
    assert torch.equal(batch["image"], train.images[:].float().div(255))


def test_a_pass_that_was_left_does_not_spoil_the_next(loaded):
    (streamed, _), (memory, _) = loaded
    with TestBatches(streamed, 4) as ours:
        for number, _ in enumerate(ours):
            if number == 1:
                break
        same_batches(ours, TestBatches(memory, 4))


def test_without_workers_the_pixels_are_the_same(loaded):
    (streamed, _), (memory, _) = loaded
    stream = Stream(streamed.images.format, ahead=8, workers=0)
    pieces = list(stream.pieces([streamed.images.paths(slice(0, 3)), streamed.images.paths(slice(3, 5))]))
    assert torch.equal(torch.cat(pieces), memory.images[:5])


def test_files_read_as_the_tensor_would(loaded):
    (streamed, _), (memory, _) = loaded
    files, tensor = streamed.images, memory.images
    assert (files.shape, files.dtype, files.device, len(files)) == (tensor.shape, tensor.dtype, tensor.device, 36)
    assert files.nbytes == tensor.nbytes
    for index in (3, -1, slice(None), slice(2, 30, 5), torch.tensor(7), torch.tensor([9, 0, 9]), torch.arange(30)):
        assert torch.equal(files[index], tensor[index])
    assert torch.equal(files.to("cpu"), tensor)
    rows = Rows(files, torch.tensor([4, 1, 8]))
    assert torch.equal(rows[1], tensor[1])
    assert torch.equal(rows[1:], tensor[[1, 8]])
    assert rows.nbytes == tensor[:3].nbytes


def test_a_streaming_student_is_the_one_trained_in_memory(loaded):
    recipe = Training(3, 10, "sgd", 0.9, (0.9, 0.999), 0.0, "constant", 0, 0.1, 1.0)
    engine, outcomes = Engine(), []
    for train_samples, test_samples in loaded:
        student = train(
            new_network(lambda: models.ConvNet(num_classes=3, channels=3, size=16, depth=2, width=8), seed=1),
            train_samples,
            training=recipe,
            criterion=CrossEntropy(),
            augmentations=[],
            lr=0.02,
            seed=1,
            engine=engine,
            num_classes=3,
            tests=test_samples,
            test_every=1,
        )
        outcomes.append((student, accuracy_on(student, test_samples, engine)))
    (ours, our_accuracy), (theirs, their_accuracy) = outcomes
    assert our_accuracy == their_accuracy
    assert ours.tests == theirs.tests
    for one, other in zip(ours.network.parameters(), theirs.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_script_without_a_guard_streams_too(tmp_path):
    """The workers do not run it again: they would wait for what the script itself holds."""
    write_images(tmp_path / "images", 6, seed=0)
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys
print("once")
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_streaming import files_of
from ddrank.data.stream import Stream
files = files_of(Path({str(tmp_path / "images")!r}))
stream = Stream(files.format, ahead=2, workers=1)
print(sum(len(pixels) for pixels in stream.pieces([files.paths(slice(0, 4)), files.paths(slice(4, 6))])))
stream.close()
"""
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "once\n6\n", done.stderr


def test_workers_stay_from_pass_to_pass_and_end_with_their_batches(loaded):
    (streamed, _), _ = loaded
    before = set(multiprocessing.active_children())
    with Batches(streamed, 7) as batches:
        list(batches)
        working = set(multiprocessing.active_children()) - before
        list(batches)
        assert set(multiprocessing.active_children()) - before == working != set()
    assert not any(worker.is_alive() for worker in working)


@pytest.mark.parametrize("harm", ["truncated", "text", "gone"])
def test_a_file_that_breaks_while_streaming_is_one_sentence(loaded, harm):
    (streamed, _), _ = loaded
    path = Path(streamed.images.path(20))
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200] if harm == "truncated" else b"not an image at all")
    with Batches(streamed, 7) as batches, pytest.raises(InputError) as error:
        list(batches)
    sentence = str(error.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert ("does not exist any more" if harm == "gone" else "cannot be read as an image") in sentence


# --- what is kept ---


def test_the_fingerprint_follows_the_files_contents(loaded, tmp_path):
    (streamed, _), _ = loaded
    folder = tmp_path / "birds"

    def fingerprint(root: Path = tmp_path / "data", size: int = 16) -> str:
        return load_imagefolder(root, str(folder), size, decode_gib=0)[0].fingerprint

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(root=tmp_path / "elsewhere") == first  # computed anew
    assert fingerprint(size=8) != first
    path = Path(streamed.images.path(5))
    os.utime(path, ns=(1, 1))
    assert fingerprint() == first  # the content counts
    write_images(path.parent, 6, seed=99)
    assert fingerprint() != first
    Image.new("RGB", (20, 16)).save(path.with_suffix(".bmp"))
    before = path.with_suffix(".bmp").stat()
    black = fingerprint()
    Image.new("RGB", (20, 16), "white").save(path.with_suffix(".bmp"))  # as long as before
    os.utime(path.with_suffix(".bmp"), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.with_suffix(".bmp").stat().st_size == before.st_size
    assert fingerprint() != black
    part = torch.tensor([3, 1])
    now = load_imagefolder(tmp_path, str(folder), 16, decode_gib=0)[0]
    assert now[part].fingerprint != now[part.flip(0)].fingerprint


def test_checksums_are_kept_and_a_broken_file_of_them_does_no_harm(loaded, tmp_path, monkeypatch):
    (streamed, _), _ = loaded
    first = Samples(streamed.images, streamed.labels).fingerprint
    (cache,) = (tmp_path / "data" / "decoded").glob("*train.sha256.npz")

    def again() -> str:
        return load_imagefolder(tmp_path / "data", str(tmp_path / "birds"), 16, decode_gib=0)[0].fingerprint

    with monkeypatch.context() as patch:
        patch.setattr("ddrank.data.digests._digest", lambda path: pytest.fail(f"read {path} again"))
        assert again() == first
    cache.write_bytes(b"PK broken")
    assert again() == first
    assert cache.stat().st_size > 100


def files_of(folder: Path, size: int = 16) -> Files:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.JPEG"))
    return Files(folder, Names(names), Format(size, size), folder / "sums.npz")


def test_larger_datasets_are_decoded_once_into_a_file(tmp_path, monkeypatch, capfd):
    write_images(tmp_path / "images", 30, seed=5)
    files = files_of(tmp_path / "images")
    monkeypatch.setattr("ddrank.data.mapped._SMALL_BYTES", 0)
    place = tmp_path / "data" / "decoded" / "images"
    first = decoded_once(files, place, most_gib=2)
    assert torch.equal(first, files[:])
    (made,) = place.parent.glob("*.uint8")
    assert made.stat().st_size == files.nbytes
    with monkeypatch.context() as patch:
        patch.setattr(Format, "read", lambda *_: pytest.fail("decoded again"))
        assert torch.equal(decoded_once(files, place, most_gib=2), first)
    os.utime(files.path(3), ns=(1, 1))  # perhaps another image
    decoded_once(files, place, most_gib=2)
    assert len(list(place.parent.glob("*.uint8"))) == 2
    assert decoded_once(files, place, most_gib=0) is files
    assert "once" in capfd.readouterr().err


def test_decoding_into_a_file_leaves_the_whole_of_it_or_nothing(tmp_path, monkeypatch):
    write_images(tmp_path / "images", 5, seed=5)
    files = files_of(tmp_path / "images")
    Path(files.path(4)).write_bytes(b"broken")
    monkeypatch.setattr("ddrank.data.mapped._SMALL_BYTES", 0)
    with pytest.raises(InputError, match=r"004\.JPEG cannot be read as an image"):
        decoded_once(files, tmp_path / "data" / "images", most_gib=2)
    assert not [path for path in (tmp_path / "data").iterdir() if not path.name.endswith(".lock")]


def test_a_full_disk_is_a_sentence_that_knows_another_way(tmp_path, monkeypatch):
    write_images(tmp_path / "images", 5, seed=5)
    monkeypatch.setattr("ddrank.data.mapped._SMALL_BYTES", 0)

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"No space left on device.*dataset.loader.decode_gib=0"):
        decoded_once(files_of(tmp_path / "images"), tmp_path / "data" / "images", most_gib=2)


# --- evaluations ---


def test_an_evaluation_streams_a_folder_to_the_numbers_of_memory(command, tmp_path):
    folder = class_folders(tmp_path / "birds", train=6, test=4)
    shared = (
        "dataset=imagefolder", "dataset.name=birds", f"dataset.loader.path={folder}", "dataset.num_classes=3",
        "dataset.size=16", "method=random", "aug=none", *QUICK_SELECTION,
    )  # fmt: skip
    found = {}
    for decode_gib in (0, 2):
        own = (*shared, f"dataset.loader.decode_gib={decode_gib}", f"paths.store=store{decode_gib}")
        own = (*own, f"paths.distilled=distilled{decode_gib}")
        made = command("distill", *own)
        assert made.code == 0, made.err
        outcome = command("run", *own, f"hydra.run.dir=run{decode_gib}")
        assert outcome.code == 0, outcome.err
        found[decode_gib] = json.loads((tmp_path / f"run{decode_gib}" / "result.json").read_text())
    assert found[0]["arms"] == found[2]["arms"]
    assert len(found[0]["arms"]) == 6


def test_an_evaluation_on_a_subset_of_imagenet_streams_with_teachers(command, tmp_path):
    synsets = [_classes()[0][index] for index in (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)]
    for label, synset in enumerate(synsets):
        write_images(tmp_path / "data/imagenette2/train" / synset, 3, seed=label)
        write_images(tmp_path / "data/imagenette2/val" / synset, 2, seed=label)
    own = (
        "dataset=imagenette", "dataset.loader.folder=imagenette2", "dataset.loader.decode_gib=0", "dataset.size=16",
        "dataset.convnet_depth=2", "method=random", "method.labels=single", "method.relabel=true", "criterion=sce",
        "method.teachers=[mlp]", "aug=none", *QUICK_SELECTION,
    )  # fmt: skip
    made = command("distill", *own)
    assert made.code == 0, made.err
    outcome = command("run", *own, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert all(0 <= accuracy <= 1 for arm in result["arms"].values() for accuracy in arm["accuracy"])
    # The same subset from a folder with more classes is the same data.
    for split in ("train", "val"):
        write_images(tmp_path / "data/imagenette2" / split / _classes()[0][1], 2, seed=1)
    again, _, names = load_imagenet(
        tmp_path / "data", "imagenette2", 16, [0, 217, 482, 491, 497, 566, 569, 571, 574, 701], decode_gib=0
    )
    assert again.labels.bincount().tolist() == [3] * 10
    assert names[0] == "tench"


def test_a_broken_image_stops_an_evaluation_with_its_path(command, tmp_path):
    folder = class_folders(tmp_path / "birds", train=6, test=4)
    own = (
        "dataset=imagefolder", "dataset.name=birds", f"dataset.loader.path={folder}", "dataset.num_classes=3",
        "dataset.size=16", "method=random", "aug=none", "dataset.loader.decode_gib=0", *QUICK_SELECTION,
    )  # fmt: skip
    assert command("distill", *own).code == 0
    (folder / "test/kind1/002.JPEG").write_bytes(b"no image")
    sentence = command("run", *own).sentence()
    assert "test/kind1/002.JPEG cannot be read as an image" in sentence
    assert not list((tmp_path / "runs").rglob("result.json"))
