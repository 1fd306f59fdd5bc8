"""Distilled datasets on disk: what is written is read, and whatever does not fit is said in one sentence."""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ddrank import __version__
from ddrank.data import Space, read_distilled, write_distilled
from ddrank.data.distilled import read_metadata
from ddrank.errors import InputError

FITS = {"num_classes": 3, "ipc": 2, "channels": 1, "size": 4}
METADATA = {
    "dataset": "digits",
    "method": "dm",
    "ipc": 2,
    "space": "normalized",
    "seed": 7,
    "distiller": {"kind": "DM", "lr": 1.0, "augment": True},
}
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def soft() -> torch.Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(1)) + 5 * torch.eye(3)[LABELS]


def refused(path: Path | str, *, names: Path | str | None = None, **options) -> str:
    """The one sentence with which `path` is refused, which names the file."""
    with pytest.raises(InputError) as error:
        read_distilled(path, **FITS | options)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert str(names or path) in sentence
    return sentence


# --- what is written is read ---


def test_what_is_written_is_read(tmp_path, images, soft):
    path = write_distilled(tmp_path / "a" / "b", images, LABELS, metadata=METADATA, soft_labels=soft, lr=0.03)
    assert path == tmp_path / "a" / "b" / "distilled.safetensors"
    for place in (path, path.parent, str(path)):
        read = read_distilled(place, **FITS)
        assert torch.equal(read.images, images)
        assert torch.equal(read.labels, LABELS)
        assert torch.equal(read.soft_labels, soft)
        assert read.lr == pytest.approx(0.03)
        assert (read.space, read.stored_kind, read.path) == ("normalized", "logits", path)
        assert read.metadata == METADATA | {"soft_labels": "logits", "ddrank": __version__}
    assert read_metadata(path) == read.metadata
    assert [entry.name for entry in path.parent.iterdir()] == ["distilled.safetensors"]


def test_the_file_is_what_the_format_says(tmp_path, images, soft):
    path = write_distilled(tmp_path, images.double(), LABELS, metadata=METADATA, soft_labels=soft, lr=0.03)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"images", "labels", "soft_labels", "lr"}
        assert file.get_tensor("images").dtype == torch.float32
        assert file.get_tensor("labels").dtype == torch.int64
        assert file.get_tensor("lr").ndim == 0
        assert {key: json.loads(value) for key, value in file.metadata().items()}["distiller"] == METADATA["distiller"]


def test_what_is_left_out_is_none(tmp_path, images):
    read = read_distilled(write_distilled(tmp_path, images, LABELS, metadata={}), **FITS)
    assert read.soft_labels is None
    assert read.lr is None
    assert read.space == "normalized"


def test_the_same_content_is_the_same_file(tmp_path, images):
    one = read_distilled(write_distilled(tmp_path / "1", images, LABELS, metadata=METADATA), **FITS)
    same = read_distilled(write_distilled(tmp_path / "2", images, LABELS, metadata=METADATA), **FITS)
    other = read_distilled(write_distilled(tmp_path / "3", images + 1, LABELS, metadata=METADATA), **FITS)
    assert len(one.sha256) == 64
    assert one.sha256 == same.sha256 != other.sha256


def test_what_a_file_says_of_itself_wins(tmp_path, images, soft):
    said = METADATA | {"space": "zca", "soft_labels": "probabilities"}
    path = write_distilled(tmp_path, images, LABELS, metadata=said, soft_labels=soft.softmax(1))
    read = read_distilled(path, **FITS, space="pixel", soft_kind="logits")
    assert (read.space, read.stored_kind) == ("zca", "probabilities")


def test_metadata_of_other_programs_need_not_be_json(tmp_path, images):
    path = tmp_path / "other.safetensors"
    save_file({"images": images}, path, metadata={"format": "pt", "space": "zca"})
    read = read_distilled(path, **FITS)
    assert read.metadata == {"format": "pt", "space": "zca"}
    assert read.space == "zca"
    assert torch.equal(read.labels, LABELS)  # no labels: class-major


def test_probabilities_are_read_as_their_logarithms(tmp_path, images, soft):
    probabilities = soft.softmax(1)
    probabilities[0] = torch.tensor([0.0, 0.25, 0.75])
    torch.save(images, tmp_path / "images.pt")
    torch.save(probabilities, tmp_path / "labels.pt")
    read = read_distilled(tmp_path, **FITS, soft_kind="probabilities")
    assert read.stored_kind == "probabilities"
    assert torch.isfinite(read.soft_labels).all()
    torch.testing.assert_close(read.soft_labels[1:], probabilities[1:].log())
    torch.testing.assert_close(read.soft_labels.softmax(1), probabilities)


def test_the_reference_packages_tensors_lie_beside_each_other(tmp_path, images, soft):
    torch.save(images.requires_grad_(), tmp_path / "images.pt")
    torch.save(soft.double(), tmp_path / "labels.pt")
    torch.save(torch.tensor(0.02), tmp_path / "lr.pt")
    for place in (tmp_path, tmp_path / "images.pt"):
        read = read_distilled(place, **FITS, space="zca")
        assert torch.equal(read.images, images)
        assert not read.images.requires_grad
        assert torch.equal(read.labels, LABELS)
        torch.testing.assert_close(read.soft_labels, soft)
        assert read.soft_labels.dtype == torch.float32
        assert read.lr == pytest.approx(0.02)
        assert (read.space, read.stored_kind, read.metadata) == ("zca", "logits", {})


def test_hard_labels_and_a_plain_number_beside_the_images(tmp_path, images):
    turned = LABELS.flip(0)
    torch.save(images, tmp_path / "images.pt")
    torch.save(turned.int(), tmp_path / "labels.pt")
    torch.save(0.02, tmp_path / "lr.pt")
    read = read_distilled(tmp_path, **FITS)
    assert torch.equal(read.labels, LABELS)  # class-major, whatever the order in the file
    assert torch.equal(read.images, images[[4, 5, 2, 3, 0, 1]])
    assert read.labels.dtype == torch.int64
    assert read.soft_labels is None
    assert read.lr == pytest.approx(0.02)


def test_soft_labels_may_have_a_file_of_their_own(tmp_path, images, soft):
    path = write_distilled(tmp_path, images, LABELS, metadata=METADATA)
    torch.save(soft, tmp_path / "elsewhere.pt")
    read = read_distilled(path, **FITS, soft_labels=tmp_path / "elsewhere.pt")
    assert torch.equal(read.soft_labels, soft)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_any_floating_point_type_become_float32(tmp_path, images, dtype):
    torch.save(images.to(dtype), tmp_path / "images.pt")
    read = read_distilled(tmp_path, **FITS)
    assert read.images.dtype == torch.float32
    torch.testing.assert_close(read.images, images.to(dtype).float())


# --- what does not fit ---


def test_missing_files_and_unknown_kinds(tmp_path, images):
    assert "do not exist: give a file or folder that does as method.data" in refused(tmp_path / "nowhere")
    assert "holds neither distilled.safetensors nor images.pt, nor another known layout" in refused(tmp_path)
    path = write_distilled(tmp_path, images, LABELS, metadata={})
    (tmp_path / "images.tar").write_bytes(path.read_bytes())
    assert "is not of a known kind: expected distilled.safetensors or images.pt" in refused(tmp_path / "images.tar")
    absent = tmp_path / "soft.pt"
    assert "does not exist: give a file that holds one tensor" in refused(path, soft_labels=absent, names=absent)


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((9, 1, 4, 4), "holds 9 images, expected 6 (3 classes x ipc=2): correct ipc=... or give the data of this IPC"),
        ((6, 3, 4, 4), "holds images of shape (6, 3, 4, 4), expected (6, 1, 4, 4) (images, channels, height, width)"),
        ((6, 1, 8, 8), "holds images of shape (6, 1, 8, 8), expected (6, 1, 4, 4) (images, channels, height, width)"),
        ((6, 16), "holds images of shape (6, 16), expected (6, 1, 4, 4)"),
        ((), "holds images of shape (), expected (6, 1, 4, 4)"),
    ],
)
def test_images_of_another_shape(tmp_path, shape, problem):
    torch.save(torch.zeros(shape), tmp_path / "images.pt")
    assert problem in refused(tmp_path, names=tmp_path / "images.pt")


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.bool, torch.complex64])
def test_images_that_are_not_floating_point(tmp_path, dtype):
    torch.save(torch.ones(6, 1, 4, 4).to(dtype), tmp_path / "images.pt")
    sentence = refused(tmp_path / "images.pt")
    assert f"holds images of type {dtype}, expected floating point in the normalized space" in sentence


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(tmp_path, images, soft, value):
    images[4, 0, 2, 2] = images[1, 0, 0, 0] = value
    path = write_distilled(tmp_path, images, LABELS, metadata={})
    assert "has NaN or infinite values in 2 of 6 images: make the file again" in refused(path)
    soft[3, 1] = value
    path = write_distilled(tmp_path, torch.zeros(6, 1, 4, 4), LABELS, metadata={}, soft_labels=soft)
    assert "has NaN or infinite values in 1 of 6 soft labels" in refused(path)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([0, 0, 1, 1, 2, 3], "run from 0 to 3, expected class indices from 0 to 2"),
        ([-1, 0, 1, 1, 2, 2], "run from -1 to 2, expected class indices from 0 to 2"),
        ([0, 0, 0, 1, 2, 2], "give class 0 3 images, expected ipc=2 of each class"),
        ([0, 0, 1, 1, 2], "are torch.int64 of shape (5,), expected 6 class indices"),
        ([0.0, 0.0, 1.0, 1.0, 2.0, 1.5], "are torch.float32 of shape (6,), expected 6 class indices"),
        ([0.0, 0.0, 1.0, 1.0, 2.0, float("nan")], "are torch.float32 of shape (6,), expected 6 class indices"),
        ([[[0, 0, 1, 1, 2, 2]]], "are torch.int64 of shape (1, 1, 6), expected 6 class indices"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, images, labels, problem):
    path = write_distilled(tmp_path, images, torch.tensor(labels), metadata={})
    sentence = refused(path)
    assert sentence.startswith(f"the labels of {path} ")
    assert problem in sentence


def test_soft_labels_that_do_not_fit(tmp_path, images, soft):
    path = write_distilled(tmp_path, images, LABELS, metadata={}, soft_labels=soft[:, :2])
    assert "have shape (6, 2), expected (6, 3) (images, classes)" in refused(path)
    said = {"soft_labels": "probabilities"}
    for wrong in (soft, soft.softmax(1) * 1.1, torch.tensor([1.5, -0.5, 0.0]).repeat(6, 1)):
        path = write_distilled(tmp_path, images, LABELS, metadata=said, soft_labels=wrong)
        sentence = refused(path)
        assert "are said to be probabilities, but their rows do not sum to 1: say method.soft_kind=logits" in sentence
    own = tmp_path / "own.pt"
    torch.save(soft[:5], own)
    assert f"the soft labels of {own} have shape (5, 3)" in refused(path, soft_labels=own, names=own)


@pytest.mark.parametrize("lr", [-0.1, 0.0, float("nan"), float("inf"), [0.1, 0.2], 1j])
def test_a_learning_rate_that_is_none(tmp_path, images, lr):
    torch.save(images, tmp_path / "images.pt")
    torch.save(torch.tensor(lr), tmp_path / "lr.pt")
    sentence = refused(tmp_path, names=tmp_path / "images.pt")
    assert sentence.startswith(f"the learning rate beside {tmp_path / 'images.pt'} is ")
    assert sentence.endswith("expected one positive number")


@pytest.mark.parametrize(("key", "value"), [("space", "whitened"), ("space", ["zca"]), ("soft_labels", "logit")])
def test_metadata_that_mean_nothing(tmp_path, images, soft, key, value):
    path = write_distilled(tmp_path, images, LABELS, metadata=METADATA | {key: value}, soft_labels=soft)
    assert f"has {key} = {value!r}, expected one of" in refused(path)


def test_a_file_without_images(tmp_path, images):
    path = tmp_path / "distilled.safetensors"
    save_file({"pictures": images, "labels": LABELS}, path)
    assert "holds no tensor 'images' (it has labels, pictures)" in refused(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ([torch.zeros(2)] * 3, "list"),
        ("images", "str"),
        (None, "NoneType"),
    ],
)
def test_a_file_that_holds_something_else_than_a_tensor(tmp_path, content, kind):
    torch.save(content, tmp_path / "images.pt")
    assert f"holds a {kind}, expected one tensor: save it with torch.save" in refused(tmp_path / "images.pt")


@pytest.mark.parametrize(
    "unusual", [torch.zeros(6, 1, 4, 4).to_sparse(), torch.zeros(6, 1, 4, 4, device="meta")], ids=["sparse", "meta"]
)
def test_tensors_without_plain_values(tmp_path, unusual):
    torch.save(unusual, tmp_path / "images.pt")
    assert "expected a plain one" in refused(tmp_path / "images.pt")


# --- files that are damaged, or meant to harm ---


def test_truncated_files(tmp_path, images):
    path = write_distilled(tmp_path, images, LABELS, metadata=METADATA)
    path.write_bytes(path.read_bytes()[:-1])
    assert "is truncated or no safetensors file" in refused(path)
    with pytest.raises(InputError, match="is truncated or no safetensors file"):
        read_metadata(path)
    torch.save(images, tmp_path / "images.pt")
    content = (tmp_path / "images.pt").read_bytes()
    (tmp_path / "images.pt").write_bytes(content[: len(content) // 2])
    assert "is truncated or damaged" in refused(tmp_path / "images.pt")


class Danger:
    """Unpickling it runs a command."""

    def __init__(self, planted: Path):
        self.planted = planted

    def __reduce__(self):
        return os.system, (f"touch {self.planted}",)


@pytest.mark.parametrize("name", ["images.pt", "labels.pt", "lr.pt"])
@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))], ids=["torch", "pickle"]
)
def test_a_pickle_that_would_run_code_is_refused_without_running_it(tmp_path, images, name, save):
    planted = tmp_path / "planted"
    torch.save(images, tmp_path / "images.pt")
    save(Danger(planted), tmp_path / name)
    sentence = refused(tmp_path, names=tmp_path / name)
    assert "holds more than tensors and was not opened for safety" in sentence
    assert not planted.exists()
    if save is torch.save:  # the plant works where files are trusted
        torch.load(tmp_path / name, weights_only=False)
    else:
        pickle.loads((tmp_path / name).read_bytes())
    assert planted.exists()


def safetensors_file(folder: Path) -> Path:
    images = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return write_distilled(folder, images, LABELS, metadata=METADATA, soft_labels=torch.zeros(6, 3), lr=0.1)


def zip_file(folder: Path) -> Path:
    torch.save(torch.ones(6, 1, 4, 4), folder / "images.pt")
    return folder / "images.pt"


def old_file(folder: Path) -> Path:
    torch.save(torch.ones(6, 1, 4, 4), folder / "images.pt", _use_new_zipfile_serialization=False)
    return folder / "images.pt"


@pytest.mark.parametrize("make", [safetensors_file, zip_file, old_file])
def test_a_file_cut_anywhere_is_refused_and_nothing_else_happens(tmp_path, make):
    path, dice = make(tmp_path), random.Random(0)
    content = path.read_bytes()
    read_distilled(path, **FITS)
    for length in [0, 1, 7, 8, 9, *(dice.randrange(len(content)) for _ in range(30))]:
        path.write_bytes(content[:length])
        refused(path)


@pytest.mark.parametrize("name", ["distilled.safetensors", "images.pt"])
def test_random_bytes_are_refused_and_nothing_else_happens(tmp_path, name):
    path, dice = tmp_path / name, random.Random(1)
    for _ in range(30):
        path.write_bytes(dice.randbytes(dice.randrange(1, 400)))
        refused(path)


@pytest.mark.parametrize("make", [safetensors_file, zip_file, old_file])
def test_a_changed_byte_is_refused_or_read_and_nothing_else_happens(tmp_path, make):
    path, dice = make(tmp_path), random.Random(2)
    content = path.read_bytes()
    for _ in range(100):
        place = dice.randrange(min(len(content), 600))  # where the headers are
        path.write_bytes(content[:place] + dice.randbytes(1) + content[place + 1 :])
        sentence = None
        try:
            read_distilled(path, **FITS)
        except InputError as error:
            sentence = str(error)
        assert sentence is None or (str(path) in sentence and "\n" not in sentence)


# --- labels that are written otherwise ---


MIXED = torch.tensor([2, 0, 1, 1, 0, 2])
IN_ORDER = [1, 4, 2, 3, 0, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8, torch.bool])
def test_one_hot_rows_are_class_indices(tmp_path, images, dtype):
    torch.save(images, tmp_path / "images.pt")
    torch.save(torch.eye(3)[MIXED].to(dtype), tmp_path / "labels.pt")
    read = read_distilled(tmp_path, **FITS, hard=True)
    assert torch.equal(read.labels, LABELS)
    assert torch.equal(read.images, images[IN_ORDER])
    assert read.soft_labels is None
    read = read_distilled(tmp_path, **FITS)  # for a method with soft labels, they are also what they are
    assert torch.equal(read.labels, LABELS)
    assert torch.equal(read.images, images[IN_ORDER])
    assert torch.equal(read.soft_labels, torch.eye(3)[LABELS])


def test_soft_labels_tell_the_order_of_the_images(tmp_path, images):
    torch.save(images, tmp_path / "images.pt")
    logits = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(3)[MIXED]
    torch.save(logits, tmp_path / "labels.pt")
    read = read_distilled(tmp_path, **FITS)
    assert torch.equal(read.labels, LABELS)
    assert torch.equal(read.images, images[IN_ORDER])
    assert torch.equal(read.soft_labels, logits[IN_ORDER])
    (note,) = read.notes
    assert "not class by class" in note


@pytest.mark.parametrize("top", [[0, 1, 1, 1, 2, 2], [1, 1, 2, 2, 0, 1], [0, 0, 1, 1, 2, 2]])
def test_soft_labels_that_tell_no_order_leave_the_images_class_by_class(tmp_path, images, top):
    torch.save(images, tmp_path / "images.pt")
    torch.save(torch.eye(3)[top] + torch.arange(3) / 10, tmp_path / "labels.pt")
    read = read_distilled(tmp_path, **FITS)
    assert torch.equal(read.images, images)
    assert torch.equal(read.labels, LABELS)
    told = top == LABELS.tolist()
    assert [note.rpartition(": ")[2] for note in read.notes] == ([] if told else ["images are taken class by class"])


def test_class_indices_count_more_than_soft_labels(tmp_path, images):
    path = write_distilled(tmp_path, images, LABELS, metadata={}, soft_labels=torch.eye(3)[MIXED])
    read = read_distilled(path, **FITS)
    assert torch.equal(read.images, images)
    assert torch.equal(read.soft_labels, torch.eye(3)[MIXED])


# --- what a file says of its space ---


def test_images_that_were_normalised_with_other_constants(tmp_path, images):
    theirs, ours = ((0.5,), (0.25,)), ((0.3,), (0.4,))
    said = METADATA | {"mean": list(theirs[0]), "std": list(theirs[1])}
    read = read_distilled(write_distilled(tmp_path, images, LABELS, metadata=said), **FITS)
    placed = read.placed(Space("normalized", *ours))
    torch.testing.assert_close(placed.images, (images * 0.25 + 0.5 - 0.3) / 0.4)
    assert placed.placed(Space("normalized", *ours)) is placed
    assert torch.equal(read.placed(Space("normalized", *theirs)).images, images)
    plain = read_distilled(write_distilled(tmp_path / "plain", images, LABELS, metadata=METADATA), **FITS)
    assert torch.equal(plain.placed(Space("normalized", *ours)).images, images)  # none are said: the method's


@pytest.mark.parametrize(
    "said",
    [
        {"mean": [0.5]},
        {"mean": [0.5], "std": [0.0]},
        {"mean": [0.5], "std": 0.2},
        {"mean": ["a"], "std": [0.2]},
        {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
        {"mean": [0.5], "std": [float("nan")]},
        {"mean": [True], "std": [1.0]},
    ],
)
def test_constants_that_mean_nothing(tmp_path, images, said):
    path = write_distilled(tmp_path, images, LABELS, metadata=METADATA | said)
    assert refused(path).endswith("make the file again")


def test_a_file_in_another_space_than_was_asked_for_says_so(tmp_path, images):
    path = write_distilled(tmp_path, images, LABELS, metadata=METADATA | {"space": "zca"})
    assert read_distilled(path, **FITS).notes == (
        "the file says that its images are in zca space, which is taken, not method.space=normalized",
    )
    assert read_distilled(path, **FITS, space="zca").notes == ()


def test_whitened_images_are_not_resized(tmp_path):
    torch.save(torch.randn(6, 1, 8, 8), tmp_path / "images.pt")
    assert read_distilled(tmp_path, **FITS, resize=True).images.shape == (6, 1, 4, 4)
    sentence = refused(tmp_path, names=tmp_path / "images.pt", resize=True, space="zca")
    assert "holds whitened images of 8 x 8 pixels" in sentence
    assert "cannot be resized" in sentence
    torch.save(torch.randn(6, 1, 4, 4), tmp_path / "images.pt")
    assert read_distilled(tmp_path, **FITS, resize=True, space="zca").space == "zca"
    torch.save(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), tmp_path / "images.pt")  # pixels are whitened afterwards
    assert read_distilled(tmp_path, **FITS, resize=True, space="zca").images.shape == (6, 1, 4, 4)
