"""Files that are damaged, contradict themselves or are meant to harm: one sentence each, and nothing in them is run."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import CLASSES, IPC, LABELS, floats, soft
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file

from ddrank.data import read_distilled, write_distilled
from ddrank.data.cifar import load_cifar10
from ddrank.data.readers import FORMATS, Found, find
from ddrank.data.readers.tensors import load_weights_only
from ddrank.errors import InputError

FITS = {"num_classes": CLASSES, "ipc": IPC, "channels": 3, "size": layouts.SIZE}


def sentence_of(call: Callable, *arguments, **options) -> str:
    """The one sentence with which something is refused."""
    with pytest.raises(InputError) as error:
        call(*arguments, **options)
    sentence = str(error.value)
    assert sentence
    assert "\n" not in sentence
    return sentence


# --- pickles that would run code ---


class Danger:
    """Unpickling it makes a file."""

    def __init__(self, planted: Path):
        self.planted = planted

    def __reduce__(self):
        return os.mkdir, (str(self.planted),)


def torch_saved(content, path: Path) -> None:
    torch.save(content, path)


def old_torch_saved(content, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def pickled(content, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


PICKLED = {
    "dc": (lambda folder: layouts.dc(folder), "res_DM_CIFAR10_ConvNet_2ipc.pt"),
    "dc best images": (lambda folder: layouts.dc_best(folder), "images_DM_CIFAR10_2_best.pt"),
    "dc best labels": (lambda folder: layouts.dc_best(folder), "labels_DM_CIFAR10_2_best.pt"),
    "ddranking images": (lambda folder: layouts.ddranking(folder), "images.pt"),
    "ddranking labels": (lambda folder: layouts.ddranking(folder), "labels.pt"),
    "ddranking lr": (lambda folder: layouts.ddranking(folder), "lr.pt"),
    "mtt images": (lambda folder: layouts.mtt(folder), "images_best.pt"),
    "mtt labels": (lambda folder: layouts.mtt(folder), "labels_best.pt"),
    "mtt part": (lambda folder: layouts.mtt_parts(folder), "images_best_1.pt"),
    "datm images": (lambda folder: layouts.datm(folder), "images_best.pt"),
    "datm labels": (lambda folder: layouts.datm(folder), "labels_best.pt"),
    "datm lr": (lambda folder: layouts.datm(folder), "lr_best.pt"),
}


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a dict"])
@pytest.mark.parametrize("save", [torch_saved, old_torch_saved, pickled])
@pytest.mark.parametrize("name", PICKLED)
def test_a_pickle_with_code_is_refused_without_running_it(tmp_path, name, save, inside):
    make, file = PICKLED[name]
    folder, planted = tmp_path / "set", tmp_path / "planted"
    make(folder)
    find(folder)
    save({"data": [[Danger(planted), LABELS]]} if inside else Danger(planted), folder / file)
    sentence = sentence_of(find, folder)
    assert "holds more than tensors and was not opened for safety" in sentence
    assert file in sentence
    assert not planted.exists()
    if save is pickled:  # the plant is one
        pickle.loads((folder / file).read_bytes())
    else:
        torch.load(folder / file, weights_only=False)
    assert planted.exists()


def test_a_file_of_an_unknown_name_is_no_more_trusted(tmp_path):
    planted = tmp_path / "planted"
    for name in ("mine.pt", "mine.pth"):
        torch.save(Danger(planted), tmp_path / name)
        assert "was not opened for safety" in sentence_of(find, tmp_path / name)
        for format in FORMATS:
            sentence_of(find, tmp_path / name, format=format)
    torch.save(floats(), tmp_path / "images.pt")
    assert "for safety" in sentence_of(find, tmp_path / "images.pt", soft_labels=tmp_path / "mine.pt")
    assert not planted.exists()


@pytest.mark.parametrize("key", ["images", "labels", "soft_labels", "lr"])
def test_arrays_of_objects_are_refused_without_running_them(tmp_path, key):
    planted = tmp_path / "planted"
    arrays = {"images": floats().numpy(), "labels": LABELS.numpy(), "soft_labels": soft().numpy(), "lr": np.array(0.1)}
    np.savez(tmp_path / "set.npz", **arrays | {key: np.array([Danger(planted)], dtype=object)})
    assert "for safety" in sentence_of(find, tmp_path / "set.npz")
    assert not planted.exists()
    np.load(tmp_path / "set.npz", allow_pickle=True)[key]
    assert planted.exists()


def test_a_pickle_named_as_arrays_is_refused_without_running_it(tmp_path):
    pickled(Danger(tmp_path / "planted"), tmp_path / "set.npz")
    assert "for safety" in sentence_of(find, tmp_path / "set.npz")
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("save", [torch_saved, pickled])
def test_teacher_weights_are_refused_without_running_them(command, tmp_path, save):
    save(Danger(tmp_path / "planted"), tmp_path / "teacher.pt")
    arguments = ("method=random", "method.labels=multi", "criterion=kl", "method.teacher_weights=[teacher.pt]")
    assert "does not hold the weights" in command("run", "engine.workers=1", *arguments).sentence()
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("file", ["batches.meta", "data_batch_1", "test_batch"])
def test_batches_of_cifar_are_refused_without_running_them(tmp_path, file):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batch = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        pickled(batch, folder / name)
    pickled({b"label_names": [b"a"]}, folder / "batches.meta")
    load_cifar10(tmp_path)
    pickled({b"data": Danger(tmp_path / "planted"), b"labels": [0]}, folder / file)
    assert "not a file of the official archive" in sentence_of(load_cifar10, tmp_path)
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    "content",
    [
        np.array([1.0, 2.0]),
        np.dtype("f8"),
        np.dtype("O"),
        np.array(Danger(Path("x")), dtype=object),
        np.str_("text"),
        np.complex128(1j),
        np.datetime64("2024-01-01"),
        np.float64,
        np.load,
    ],
    ids=lambda content: type(content).__name__,
)
def test_of_numpy_only_numbers_are_let_in(tmp_path, content):
    torch.save([np.float64(0.5)], tmp_path / "file.pt")
    assert load_weights_only(tmp_path / "file.pt") == [0.5]
    torch.save({"data": [content]}, tmp_path / "file.pt")
    sentence_of(find, tmp_path / "file.pt")


# --- what is malformed: each makes something below `folder` and says what to read and words of the sentence ---


def tensors(folder: Path, images=None, **beside) -> Path:
    torch.save(floats() if images is None else images, folder / "images.pt")
    for name, tensor in beside.items():
        torch.save(tensor, folder / f"{name}.pt")
    return folder


def result_file(folder: Path, content) -> Path:
    torch.save(content, folder / "res_DC_MNIST_ConvNet_2ipc.pt")
    return folder


def arrays(folder: Path, **content) -> Path:
    np.savez(folder / "set.npz", **content)
    return folder


def table(folder: Path, **columns) -> Path:
    parquet.write_table(pyarrow.table(columns), folder / "train.parquet")
    return folder


def encoded_column(*contents: bytes | None) -> pyarrow.Array:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    return pyarrow.array([{"bytes": content, "path": "/etc/passwd"} for content in contents], kind)


def pictures(folder: Path, change: Callable[[Path], object]) -> Path:
    layouts.imagefolder(folder)
    change(folder)
    return folder


def numbered(folder: Path, name: str, change: Callable[[Path], object]) -> Path:
    getattr(layouts, name)(folder)
    change(folder)
    return folder


def bomb(path: Path, side: int) -> None:
    """A PNG of a few bytes that claims `side` x `side` pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def cut(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


NAN = torch.full((6, 3, 8, 8), float("nan"))
MALFORMED = {
    "nothing there": (lambda folder: folder / "nowhere", "do not exist"),
    "an empty folder": (lambda folder: folder, "holds neither distilled.safetensors nor images.pt"),
    "a text file": (lambda folder: layouts.pickled("x", folder / "notes.txt"), "is not of a known kind"),
    "rank 3": (lambda folder: tensors(folder, torch.zeros(6, 8, 8)), "(6, 1, 8, 8), expected (6, 3, 8, 8)"),
    "rank 0": (lambda folder: tensors(folder, torch.tensor(1.0)), "holds images of shape ()"),
    "no images": (lambda folder: tensors(folder, torch.zeros(0, 3, 8, 8)), "holds 0 images, expected 6"),
    "NaN": (lambda folder: tensors(folder, NAN), "NaN or infinite values in 6 of 6 images"),
    "integers": (lambda folder: tensors(folder, torch.zeros(6, 3, 8, 8).int()), "type torch.int32"),
    "complex": (lambda folder: tensors(folder, torch.zeros(6, 3, 8, 8) * 1j), "type torch.complex64"),
    "a sparse tensor": (lambda folder: tensors(folder, floats().to_sparse()), "expected a plain one"),
    "a meta tensor": (lambda folder: tensors(folder, floats().to("meta")), "expected a plain one"),
    "a tensor of repeats": (
        lambda folder: tensors(folder, torch.zeros(1).expand(10**6, 3, 224, 224)),
        "with fewer values than that",
    ),
    "a list": (lambda folder: tensors(folder, [floats()]), "holds a list, expected one tensor"),
    "uneven classes": (lambda folder: tensors(folder, labels=torch.tensor([0, 0, 0, 1, 2, 2])), "class 0 3 images"),
    "a label out of range": (lambda folder: tensors(folder, labels=LABELS + 1), "run from 1 to 3"),
    "a negative label": (lambda folder: tensors(folder, labels=LABELS - 1), "run from -1 to 1"),
    "half a label": (lambda folder: tensors(folder, labels=LABELS + 0.5), "expected 6 class indices"),
    "NaN as label": (lambda folder: tensors(folder, labels=LABELS * float("nan")), "expected 6 class indices"),
    "too few labels": (lambda folder: tensors(folder, labels=LABELS[:4]), "expected 6 class indices"),
    "wide soft labels": (lambda folder: tensors(folder, labels=torch.zeros(6, 4)), "shape (6, 4), expected (6, 3)"),
    "short soft labels": (lambda folder: tensors(folder, labels=torch.zeros(5, 3)), "shape (5, 3), expected (6, 3)"),
    "complex soft labels": (lambda folder: tensors(folder, labels=soft() * 1j), "soft labels"),
    "infinite soft labels": (lambda folder: tensors(folder, labels=soft() / 0), "values in 6 of 6 soft labels"),
    "a negative lr": (lambda folder: tensors(folder, lr=torch.tensor(-0.1)), "is -0.1"),
    "several lr": (lambda folder: tensors(folder, lr=torch.ones(3)), "expected one positive number"),
    "lr as text": (lambda folder: tensors(folder, lr="0.1"), "lr.pt holds a str"),
    "lr as NaN": (lambda folder: tensors(folder, lr=float("nan")), "is nan"),
    "a truncated tensor": (lambda folder: cut(tensors(folder) / "images.pt"), "is truncated"),
    "safetensors of text": (
        lambda folder: layouts.pickled("x", folder / "distilled.safetensors"),
        "no safetensors file",
    ),
    "safetensors without images": (
        lambda folder: save_file({"x": floats()}, folder / "distilled.safetensors") or folder,
        "holds no tensor 'images'",
    ),
    "an unknown space": (
        lambda folder: write_distilled(folder, floats(), LABELS, metadata={"space": "hsv"}),
        "space = 'hsv', expected one of",
    ),
    "dc without data": (lambda folder: result_file(folder, {"images": floats()}), "expected a dict with `data`"),
    "dc without runs": (lambda folder: result_file(folder, {"data": []}), "expected a dict with `data`"),
    "dc with one of a pair": (
        lambda folder: result_file(folder, {"data": [[floats()]]}),
        "expected a dict with `data`",
    ),
    "dc as a tensor": (lambda folder: result_file(folder, floats()), "expected a dict with `data`"),
    "dc with text": (lambda folder: result_file(folder, {"data": [["a", "b"]]}), "holds a str"),
    "dc with runs of another shape": (
        lambda folder: result_file(folder, {"data": [[floats(), LABELS], [floats()[:, :1], LABELS]]}),
        "holds images of shape (6, 1, 8, 8)",
    ),
    "a missing part": (lambda folder: (layouts.mtt_parts(folder) / "images_best_0.pt").unlink() or folder, "lacks"),
    "labels of one part": (lambda folder: (layouts.mtt_parts(folder) / "labels_best_2.pt").unlink() or folder, "parts"),
    "parts of other shapes": (
        lambda folder: torch.save(floats()[:, :1], layouts.mtt_parts(folder) / "images_best_2.pt") or folder,
        "unlike the first part",
    ),
    "npz without images": (lambda folder: arrays(folder, pictures=floats().numpy()), "it has 'pictures'"),
    "npz with images twice": (lambda folder: arrays(folder, images=[1], x=[1]), "holds both images and x"),
    "npz with soft labels twice": (
        lambda folder: arrays(folder, x=floats().numpy(), y=soft().numpy(), soft_labels=soft().numpy()),
        "soft labels twice",
    ),
    "npz of text": (lambda folder: arrays(folder, images=np.array(["a"])), "for safety"),
    "npz of double width": (lambda folder: arrays(folder, images=np.zeros((6, 3, 8, 16))), "(6, 3, 8, 16)"),
    "a truncated npz": (lambda folder: cut(layouts.npz(folder)), "is truncated"),
    "parquet without label": (lambda folder: table(folder, image=encoded_column(b"x")), "has no label column"),
    "parquet without image": (lambda folder: table(folder, label=[0, 1]), "has no image column"),
    "parquet that names a file": (
        lambda folder: table(folder, image=encoded_column(None), label=[0]),
        "is not in the file itself",
    ),
    "parquet with bytes that are no image": (
        lambda folder: table(folder, image=encoded_column(b"%!PS-Adobe"), label=[0]),
        "is no image that can be read",
    ),
    "parquet with an empty label": (
        lambda folder: table(folder, image=encoded_column(layouts.encoded(0, 0)), label=pyarrow.array([None], "int64")),
        "some of them perhaps empty",
    ),
    "parquet with ragged images": (
        lambda folder: table(folder, image=[[[1, 2]], [[1]]], label=[0, 1]),
        "are no numbers of one shape",
    ),
    "parquet with numbers that are no pixels": (
        lambda folder: table(folder, image=[[[1, 256]]], label=[0]),
        "expected pixels from 0 to 255",
    ),
    "parquet without rows": (lambda folder: table(folder, image=pyarrow.array([], "binary"), label=[]), "no rows"),
    "several splits": (
        lambda folder: (
            parquet.write_table(layouts.huggingface_table(), layouts.huggingface(folder) / "data/test.parquet")
            or folder
        ),
        "holds several splits (data/test, data/train)",
    ),
    "a truncated parquet": (
        lambda folder: cut(layouts.huggingface(folder) / "data/train-00001-of-00002.parquet").parents[1],
        "is truncated or no parquet file",
    ),
    "a truncated arrow": (
        lambda folder: cut(layouts.saved_to_disk(folder) / "data-00000-of-00001.arrow").parent,
        "is truncated or no arrow file",
    ),
    "text named png": (
        lambda folder: pictures(folder, lambda here: (here / "bee/0.png").write_text("no image")),
        "is no image that can be read (unknown kind)",
    ),
    "PostScript named png": (
        lambda folder: pictures(folder, lambda here: Image.new("RGB", (8, 8)).save(here / "bee/0.png", "EPS")),
        "is no image that can be read (unknown kind)",
    ),
    "a truncated png": (
        lambda folder: pictures(folder, lambda here: cut(here / "cat/1.png", 0.7)),
        "is damaged or truncated",
    ),
    "mixed sizes": (
        lambda folder: pictures(folder, lambda here: layouts.picture(0, 0, 9).save(here / "bee/1.png")),
        "is 9 x 9 pixels",
    ),
    "an empty class": (lambda folder: pictures(folder, lambda here: (here / "dog").mkdir()), "dog holds no images"),
    "one image too many": (
        lambda folder: pictures(folder, lambda here: layouts.picture(0, 0).save(here / "bee/9.png")),
        "holds 7 images, expected 6",
    ),
    "a class too many": (
        lambda folder: pictures(folder, lambda here: layouts.imagefolder(here, ("dog",))),
        "holds 8 images, expected 6",
    ),
    "16 bits": (
        lambda folder: pictures(folder, lambda here: Image.new("I;16", (8, 8)).save(here / "ant/0.png")),
        "expected 8 bits a channel",
    ),
    "a bomb": (lambda folder: pictures(folder, lambda here: bomb(here / "ant/0.png", 50_000)), "for safety"),
    "a smaller bomb": (lambda folder: pictures(folder, lambda here: bomb(here / "ant/0.png", 10_000)), "for safety"),
    "a class folder of another name": (
        lambda folder: numbered(folder, "sre2l", lambda here: (here / "new002").rename(here / "new012")),
        "or for another class than its folder",
    ),
    "a missing class": (
        lambda folder: numbered(folder, "d4m", lambda here: [file.unlink() for file in (here / "2").iterdir()]),
        "2 holds no images",
    ),
    "a file of another name": (
        lambda folder: numbered(folder, "rded", lambda here: layouts.picture(0, 0).save(here / "00001/x.jpg")),
        "is not named as rded names its files",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_said_in_one_sentence(tmp_path, name):
    make, words = MALFORMED[name]
    path = make(tmp_path)
    sentence = sentence_of(read_distilled, path, **FITS)
    assert words in sentence
    assert str(tmp_path) in sentence


def test_there_are_many_of_them():
    assert len(MALFORMED) >= 60


@pytest.mark.parametrize("name", MALFORMED)
def test_the_command_says_it_and_leaves_nothing(command, tmp_path, name):
    make, _ = MALFORMED[name]
    folder = tmp_path / "theirs"
    folder.mkdir()
    path = make(folder)
    outcome = command("distill", "convert", str(path), "mine", "dataset=digits")
    assert outcome.sentence()  # exit status 2, one line, no traceback
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "mine").exists()


def test_what_is_converted_without_labels_is_said_and_leaves_no_empty_run(command, tmp_path):
    torch.save(torch.rand(10, 1, 8, 8), tmp_path / "images.pt")
    outcome = command("distill", "convert", "images.pt", "mine", "dataset=digits", "method.space=pixel")
    assert outcome.code == 0
    assert outcome.err == "images.pt: no labels beside it: images are taken class by class\n"
    assert (tmp_path / "mine/distilled.safetensors").is_file()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("there", "run", "left"),
    [
        ("", ["hydra.run.dir=."], []),
        ("", ["hydra.run.dir=new/x"], []),
        ("keep", ["hydra.run.dir=keep/x"], ["keep"]),
        ("keep/x", ["hydra.run.dir=keep/x"], ["keep", "keep/x"]),
        ("runs", [], ["runs"]),
    ],
)
def test_folders_that_were_there_before_stay(command, tmp_path, monkeypatch, there, run, left):
    torch.save(torch.rand(10, 1, 8, 8), tmp_path / "images.pt")
    work = tmp_path / "work"
    (work / there).mkdir(parents=True)
    monkeypatch.chdir(work)
    source = ("../images.pt", "../mine", "dataset=digits", "method.space=pixel")
    assert command("distill", "convert", *source, "paths.store=../store", *run).code == 0
    assert work.is_dir()
    assert sorted(str(path.relative_to(work)) for path in work.rglob("*")) == left


def test_folders_that_were_there_before_a_refused_job_stay(command, tmp_path):
    (tmp_path / "keep").mkdir()
    for flags in (("hydra.run.dir=keep/x",), ("-m", "hydra.sweep.dir=new/x"), ("hydra.run.dir=keep",)):
        assert command("run", *flags, "method=custom", "method.data=nowhere").code == 2
    assert {path.name for path in tmp_path.iterdir()} - {"store"} == {"keep", "new"}
    assert [path.name for path in (tmp_path / "new/x").iterdir()] == ["multirun.yaml"]
    assert list((tmp_path / "keep").iterdir()) == []


# --- whatever bytes there are ---

QUIET = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FILES = {
    "ddrank": lambda folder: write_distilled(folder, floats(), LABELS, metadata={"space": "zca"}, soft_labels=soft()),
    "dc": layouts.dc,
    "dc old": lambda folder: old_torch_saved({"data": [[floats(), LABELS]]}, folder / "res_DM_A_B_2ipc.pt") or folder,
    "datm": lambda folder: layouts.datm(folder) / "labels_best.pt",
    "mtt": lambda folder: layouts.mtt(folder) / "images_best.pt",
    "ddranking": lambda folder: layouts.ddranking(folder) / "lr.pt",
    "npz": layouts.npz,
    "parquet": lambda folder: layouts.huggingface(folder) / "data/train-00000-of-00002.parquet",
    "arrow": lambda folder: layouts.saved_to_disk(folder) / "data-00000-of-00001.arrow",
    "info": lambda folder: layouts.saved_to_disk(folder) / "dataset_info.json",
    "jpg": lambda folder: layouts.sre2l(folder) / "new001/class001_id000.jpg",
    "png": lambda folder: layouts.d4m(folder) / "1/1-image00.png",
}


def valid(name: str, folder: Path) -> Path:
    folder.mkdir()
    path = FILES[name](folder)
    return next(folder.glob("res_*")) if path == folder else path


def read_or_refused(folder: Path) -> None:
    """Reading works or is refused in one sentence; nothing else happens."""
    for call in (lambda: read_distilled(folder, **FITS), lambda: find(folder)):
        sentence = None
        try:
            call()
        except InputError as error:
            sentence = str(error)
        assert sentence is None or ("\n" not in sentence and str(folder) in sentence)


def find_or_none(folder: Path) -> Found | None:
    try:
        return find(folder)
    except InputError:
        return None


@pytest.mark.parametrize("name", FILES)
def test_random_bytes(tmp_path, name):
    folder = tmp_path / "set"
    path = valid(name, folder)
    start = path.read_bytes()[:8]

    @QUIET
    @given(content=st.binary(max_size=300), begins=st.booleans())
    def check(content, begins):
        path.write_bytes(start * begins + content)
        read_or_refused(folder)

    check()


@pytest.mark.parametrize("name", FILES)
def test_truncated_anywhere(tmp_path, name):
    folder = tmp_path / "set"
    path = valid(name, folder)
    content, images = path.read_bytes(), find(folder).images

    @QUIET
    @given(share=st.floats(0, 1, exclude_max=True))
    def check(share):
        path.write_bytes(content[: int(share * len(content))])
        if name == "info":  # class names may be missing
            read_or_refused(folder)
        elif name in ("jpg", "png", "arrow") and share > 0.7:  # only the mark of its end may be missing
            assert not find_or_none(folder) or torch.equal(find(folder).images, images)
        else:
            sentence_of(find, folder)

    check()


@pytest.mark.parametrize("name", FILES)
def test_changed_bytes(tmp_path, name):
    folder = tmp_path / "set"
    path = valid(name, folder)
    content = path.read_bytes()

    @QUIET
    @given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 8), near_the_start=st.booleans())
    def check(seed, count, near_the_start):
        dice, changed = random.Random(seed), bytearray(content)
        for _ in range(count):
            changed[dice.randrange(min(len(content), 300) if near_the_start else len(content))] ^= 1 << dice.randrange(
                8
            )
        path.write_bytes(changed)
        read_or_refused(folder)

    check()


@QUIET
@given(
    shape=st.lists(st.integers(0, 7), max_size=5),
    kind=st.sampled_from([torch.float32, torch.float64, torch.uint8, torch.int64, torch.bool, torch.complex64]),
    labels=st.lists(st.integers(-2, 4) | st.floats(), max_size=7),
)
def test_tensors_of_any_shape_and_type(tmp_path, shape, kind, labels):
    torch.save(torch.ones(shape).to(kind), tmp_path / "images.pt")
    torch.save(torch.tensor(labels), tmp_path / "labels.pt")
    read_or_refused(tmp_path)


@QUIET
@given(
    content=st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_any_information_of_a_data_set(tmp_path, content):
    folder = layouts.saved_to_disk(tmp_path / "set")
    (folder / "dataset_info.json").write_text(json.dumps({"features": content}))
    read_or_refused(folder)
    (folder / "dataset_info.json").write_text(json.dumps(content))
    read_or_refused(folder)
