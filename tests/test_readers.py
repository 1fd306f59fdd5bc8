"""Everybody's distilled files, each in its own layout, read to the same tensors, classes and space."""

from __future__ import annotations

import functools
import http.server
import io
import pickle
import shutil
import threading
from pathlib import Path

import fsspec
import layouts
import numpy as np
import pyarrow
import pytest
import torch
from layouts import CLASSES, IPC, LABELS, floats, picture, soft
from PIL import Image
from pyarrow import parquet
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

from ddrank.data import Space, read_distilled, write_distilled
from ddrank.data.readers import FORMATS, find, load_weights_only, look
from ddrank.errors import InputError

FITS = {"num_classes": CLASSES, "ipc": IPC, "channels": 3, "size": layouts.SIZE}


def pixels(*files: Path) -> torch.Tensor:
    """Image files as torchvision and PIL read them: uint8 (N, C, H, W)."""
    return torch.stack([pil_to_tensor(Image.open(file).convert("RGB")) for file in files])


# --- tensors ---


def test_ours(tmp_path):
    path = write_distilled(
        tmp_path, floats(), LABELS, metadata={"space": "zca"}, others=(floats(seed=1),), soft_labels=soft(), lr=0.1
    )
    found = find(tmp_path)
    assert (found.format, found.space, found.soft_kind, found.path) == ("ddrank", "zca", "logits", path)
    assert torch.equal(found.images, floats())
    assert torch.equal(found.others[0], floats(seed=1))
    assert torch.equal(found.labels, LABELS)
    assert torch.equal(found.soft_labels, soft())
    assert found.lr == pytest.approx(0.1)


def test_what_ddranking_keeps(tmp_path):
    layouts.ddranking(tmp_path)
    for place in (tmp_path, tmp_path / "images.pt"):
        found = find(place)
        assert (found.format, found.space, found.labels) == ("ddranking", None, None)
        assert torch.equal(found.images, floats())
        assert torch.equal(found.soft_labels, soft())
        assert found.lr == pytest.approx(0.01)
        assert [file.name for file in found.files] == ["images.pt", "labels.pt", "lr.pt"]


def old_numpy(path: Path) -> None:
    """Rewrite a file of torch.save as NumPy 1 would have made it."""
    content = torch.load(path, weights_only=False)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    assert b"numpy._core.multiarray" in raw
    path.write_bytes(raw.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


@pytest.mark.parametrize("change", [lambda path: None, old_numpy], ids=["numpy2", "numpy1"])
def test_result_files_of_dc(tmp_path, change):
    path = layouts.dc(tmp_path)
    change(path)
    for place in (path, tmp_path):
        found = find(place)
        assert (found.format, found.space, found.path) == ("dc", None, path)
        assert torch.equal(found.images, floats(seed=0))
        assert [torch.equal(other, floats(seed=run)) for run, other in enumerate(found.others, 1)] == [True, True]
        assert torch.equal(found.labels, LABELS)
        assert found.metadata == {"accuracies": {"ConvNet": [0.25, 0.26, 0.27]}}
    read = read_distilled(tmp_path, **FITS)
    assert (read.space, read.pixels) == ("normalized", False)
    assert torch.equal(read.set_for(4), floats(seed=1))


def test_a_run_with_other_labels_is_no_further_set(tmp_path):
    content = {"data": [[floats(), LABELS], [floats(seed=1), LABELS.flip(0)], (floats(seed=2), LABELS)]}
    torch.save(content, tmp_path / "anything.pt")
    (other,) = find(tmp_path / "anything.pt").others
    assert torch.equal(other, floats(seed=2))


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.int32])
def test_other_numbers_of_numpy(tmp_path, kind):
    path = tmp_path / "numbers.pt"
    torch.save({"a": [kind(3), np.dtype(">f8").type(0.1)]}, path)
    assert load_weights_only(path)["a"] == [3, 0.1]


def test_the_best_files_of_a_fork_of_dc(tmp_path):
    path = layouts.dc_best(tmp_path)
    for place in (path, tmp_path):
        found = find(place)
        assert (found.format, found.path) == ("dc", path)
        assert torch.equal(found.images, floats())
        assert torch.equal(found.labels, LABELS)
    (tmp_path / "labels_DM_CIFAR10_2_best.pt").unlink()  # as for SRe2L's ImageNette file, which has none
    assert find(path).labels is None
    assert torch.equal(read_distilled(path, **FITS).labels, LABELS)


def test_trajectory_matching_takes_the_best_else_the_latest(tmp_path):
    layouts.mtt(tmp_path)
    found = find(tmp_path)
    assert (found.format, found.space, found.path.name) == ("mtt", None, "images_best.pt")
    assert torch.equal(found.images, floats(seed=3))
    assert torch.equal(found.labels, LABELS)
    for file in tmp_path.glob("*best*"):
        file.unlink()
    assert torch.equal(find(tmp_path).images, floats(seed=2))  # 1000, not 900
    assert torch.equal(find(tmp_path / "images_900.pt").images, floats(seed=1))


def test_unwhitened_copies_are_pixels(tmp_path):
    layouts.mtt(tmp_path)
    found = find(tmp_path / "images_zca_900.pt")
    assert (found.format, found.space) == ("mtt", "pixels")
    read = read_distilled(tmp_path / "images_zca_900.pt", **FITS, space="zca")
    assert (read.space, read.pixels) == ("zca", True)
    assert torch.equal(read.images, floats(seed=1).sigmoid())


def test_parts_are_put_together(tmp_path):
    layouts.mtt_parts(tmp_path)
    for place in (tmp_path, tmp_path / "images_best_0.pt"):
        found = find(place)
        assert torch.equal(found.images, floats())
        assert torch.equal(found.labels, LABELS)
        assert len(found.files) == 6
    with pytest.raises(InputError, match="is one part of a split set: give its first part"):
        find(tmp_path / "images_best_1.pt")
    (tmp_path / "images_best_1.pt").unlink()
    with pytest.raises(InputError, match=r"lacks images_best_1\.pt"):
        find(tmp_path)


def test_datm(tmp_path):
    layouts.datm(tmp_path)
    found = find(tmp_path)
    assert (found.format, found.space, found.labels) == ("datm", None, None)
    assert torch.equal(found.images, floats())
    assert torch.equal(found.soft_labels, soft())
    assert found.lr == pytest.approx(0.03)
    with pytest.raises(InputError, match=r"which method\.format=mtt does not have: say method\.format=datm"):
        find(tmp_path / "images_best.pt", format="mtt")


# --- images ---


@pytest.mark.parametrize("classes", [3, 12])
@pytest.mark.parametrize("name", ["sre2l", "rded", "d4m"])
def test_folders_of_the_decoupled_methods(tmp_path, name, classes):
    getattr(layouts, name)(tmp_path, classes=classes)
    found = find(tmp_path, num_classes=classes)
    assert (found.format, found.space, found.images.dtype) == (name, "pixels", torch.uint8)
    assert torch.equal(found.labels, torch.arange(classes).repeat_interleave(IPC))
    patterns = {
        "sre2l": "new{0:03d}/class{0:03d}_id{1:03d}.jpg",
        "rded": "{0:05d}/class{0:05d}_id{1:05d}.jpg",
        "d4m": "{0}/{0}-image{1}0.png",
    }
    files = [tmp_path / patterns[name].format(label, number) for label in range(classes) for number in range(IPC)]
    assert torch.equal(found.images, pixels(*files))
    if name == "d4m":
        originals = [picture(label, number) for label in range(classes) for number in range(IPC)]
        assert torch.equal(found.images, torch.stack([pil_to_tensor(image) for image in originals]))


def test_numbers_of_images_are_in_numerical_order(tmp_path):
    layouts.d4m(tmp_path, ipc=12)
    names = [file.name for file in find(tmp_path).files[:12]]
    assert names == [f"0-image{number}0.png" for number in range(12)]


def test_any_image_folder_is_read_as_torchvision_does(tmp_path):
    layouts.imagefolder(tmp_path, ("cat", "ant", "Bee"))
    found, theirs = find(tmp_path), ImageFolder(tmp_path)
    assert (found.format, found.class_names) == ("imagefolder", tuple(theirs.classes))
    assert found.class_names == ("Bee", "ant", "cat")
    assert found.labels.tolist() == theirs.targets
    assert torch.equal(found.images, torch.stack([pil_to_tensor(image) for image, _ in theirs]))


def test_folders_named_by_numbers_are_in_numerical_order(tmp_path):
    layouts.imagefolder(tmp_path, tuple(str(label) for label in range(11)))
    assert find(tmp_path).class_names == tuple(str(label) for label in range(11))
    assert torch.equal(find(tmp_path).images[-1], pil_to_tensor(picture(10, 1)))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_modes_of_images(tmp_path, mode):
    layouts.imagefolder(tmp_path, mode=mode)
    found = find(tmp_path)
    grey = mode in ("L", "1")
    expected = pixels(*found.files)
    assert torch.equal(found.images, expected[:, :1] if grey else expected)
    read = read_distilled(tmp_path, **FITS)  # grey images for a dataset in colour
    assert torch.equal(read.images, expected)
    assert torch.equal(read.shown(Space("pixel")), expected)


def test_grey_images_saved_in_colour_fit_a_grey_dataset(tmp_path):
    layouts.imagefolder(tmp_path, mode="L")
    for file in tmp_path.rglob("*.png"):
        Image.open(file).convert("RGB").save(file)
    read = read_distilled(tmp_path, **FITS | {"channels": 1})
    assert torch.equal(read.images, pixels(*find(tmp_path).files)[:, :1])
    layouts.imagefolder(tmp_path)
    with pytest.raises(InputError, match=r"shape \(6, 3, 8, 8\), expected \(6, 1, 8, 8\)"):
        read_distilled(tmp_path, **FITS | {"channels": 1})


# --- arrays and tables ---


def test_arrays_of_numpy(tmp_path):
    found = find(layouts.npz(tmp_path))
    assert (found.format, found.space) == ("npz", None)
    assert torch.equal(found.images, floats())
    assert torch.equal(found.labels, LABELS)
    assert torch.equal(found.soft_labels, soft())
    assert found.lr == pytest.approx(0.02)
    assert find(tmp_path).format == "npz"


@pytest.mark.parametrize("images", ["images", "x", "data"])
@pytest.mark.parametrize("labels", ["labels", "y"])
@pytest.mark.parametrize("order", ["NHWC", "NCHW", "NHW"])
def test_arrays_of_pixels_in_any_order(tmp_path, images, labels, order):
    array = np.stack([np.array(picture(label, 0)) for label in range(CLASSES)])
    expected = torch.from_numpy(array).permute(0, 3, 1, 2)
    if order == "NHW":
        array, expected = array[..., 0], expected[:, :1]
    elif order == "NCHW":
        array = array.transpose(0, 3, 1, 2)
    np.savez_compressed(tmp_path / "set.npz", **{images: array, labels: np.arange(CLASSES)})
    found = find(tmp_path / "set.npz")
    assert found.space == "pixels"
    assert torch.equal(found.images, expected)


@pytest.mark.parametrize("make", [layouts.huggingface, layouts.saved_to_disk])
def test_data_sets_of_hugging_face(tmp_path, make):
    make(tmp_path)
    found = find(tmp_path)
    assert (found.format, found.space, found.class_names) == ("huggingface", "pixels", ("ant", "bee", "cat"))
    assert torch.equal(found.labels, LABELS)
    originals = [picture(label, number) for label in range(CLASSES) for number in range(IPC)]
    assert torch.equal(found.images, torch.stack([pil_to_tensor(image) for image in originals]))


def test_tables_of_numbers_and_names(tmp_path):
    array = np.stack([np.array(picture(label, 0)) for label in (2, 0, 1)])
    columns = {"img": array.tolist(), "fine_label": ["cat", "ant", "bee"], "soft_labels": np.eye(3).tolist()}
    parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    found = find(tmp_path / "train.parquet")
    assert found.class_names == ("ant", "bee", "cat")
    assert torch.equal(found.images, torch.from_numpy(array[[1, 2, 0]]).permute(0, 3, 1, 2))
    assert torch.equal(found.soft_labels, torch.eye(3)[[1, 2, 0]])
    columns = {"pixel_values": floats(3).tolist(), "label": [0, 1, 2]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    found = find(tmp_path / "train.parquet")
    assert found.space is None
    assert torch.equal(found.images, floats(3))


@pytest.mark.parametrize("order", ["NHWC", "NCHW"])
@pytest.mark.parametrize("kind", ["npz", "npy", "pt"])
def test_arrays_of_floats_in_either_order(tmp_path, kind, order):
    array = floats().numpy() if order == "NCHW" else floats().permute(0, 2, 3, 1).contiguous().numpy()
    if kind == "npz":
        np.savez(tmp_path / "set.npz", images=array, labels=LABELS.numpy())
    elif kind == "pt":
        torch.save(torch.from_numpy(array), tmp_path / "images.pt")
        torch.save(LABELS, tmp_path / "labels.pt")
    else:
        np.save(tmp_path / "images.npy", array)
        np.save(tmp_path / "labels.npy", LABELS.numpy())
    found = find(tmp_path)
    assert (found.format, found.space) == ("ddranking" if kind == "pt" else "npz", None)
    assert torch.equal(found.images, floats())
    assert torch.equal(found.labels, LABELS)
    assert found.notes == ()


def test_arrays_beside_each_other(tmp_path, memory):
    np.save(tmp_path / "images.npy", np.stack([np.array(picture(label, 0)) for label in range(CLASSES)]))
    np.save(tmp_path / "labels.npy", soft(CLASSES).numpy())
    np.save(tmp_path / "lr.npy", 0.02)
    upload(memory, tmp_path, "/there")
    for place in (tmp_path, tmp_path / "images.npy", "memory://there/images.npy", "memory://there"):
        found = find(place, cache=tmp_path / "cache")
        assert (found.format, found.space, found.images.shape) == ("npz", "pixels", (3, 3, 8, 8))
        assert torch.equal(found.images[1], pil_to_tensor(picture(1, 0)))
        assert torch.equal(found.soft_labels.sort(0).values, soft(CLASSES).sort(0).values)
        assert found.lr == pytest.approx(0.02)
        assert [file.name for file in found.files] == ["images.npy", "labels.npy", "lr.npy"]
    np.savez(tmp_path / "several.npz", a=np.zeros(3), b=np.zeros(3))
    (tmp_path / "several.npz").rename(tmp_path / "labels.npy")
    with pytest.raises(InputError, match=r"labels\.npy holds several arrays, expected one"):
        find(tmp_path / "images.npy")
    np.save(tmp_path / "labels.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"labels\.npy is truncated, or holds more than plain arrays"):
        find(tmp_path / "images.npy")


@pytest.mark.parametrize("kind", ["pt", "npy"])
def test_parts_beside_the_images_have_the_same_names_whatever_their_kind(tmp_path, memory, kind):
    parts = {"images": floats(), "labels": LABELS.flip(0), "soft_labels": soft(), "lr": torch.tensor(0.02)}
    for name, part in parts.items():
        if kind == "pt":
            torch.save(part, tmp_path / f"{name}.pt")
        else:
            np.save(tmp_path / f"{name}.npy", part.numpy())
    upload(memory, tmp_path, "/there")
    for place in (tmp_path, f"memory://there/images.{kind}"):
        found = look(place, cache=tmp_path / "cache")
        assert torch.equal(found.labels, LABELS.flip(0))
        assert torch.equal(found.soft_labels, soft())
        assert found.lr == pytest.approx(0.02)
        assert found.notes == ()


@pytest.mark.parametrize("kind", ["pt", "npy"])
def test_labels_are_those_named_as_the_images_are(tmp_path, memory, kind):
    def save(name: str, part: torch.Tensor) -> None:
        torch.save(part, tmp_path / name) if kind == "pt" else np.save(tmp_path / name, part.numpy())

    save(f"syn_images.{kind}", floats())
    save(f"syn_labels.{kind}", LABELS.flip(0))
    save(f"labels.{kind}", LABELS)  # of other images
    upload(memory, tmp_path, "/there")
    for place in (tmp_path / f"syn_images.{kind}", f"memory://there/syn_images.{kind}"):
        found = look(place, cache=tmp_path / "cache")
        assert torch.equal(found.labels, LABELS.flip(0))
        assert found.notes == (f"syn_labels.{kind} beside it is taken for its labels",)


def test_images_without_labels_say_so_and_name_what_is_not_read(tmp_path):
    torch.save(floats(), tmp_path / "images.pt")
    assert look(tmp_path).notes == ("no labels beside it: images are taken class by class",)
    torch.save(LABELS.flip(0), tmp_path / "label_syn.pt")
    (note,) = look(tmp_path).notes
    assert "label_syn.pt there is not read: if it holds their labels, rename it to labels.pt" in note
    (tmp_path / "label_syn.npy").mkdir()  # no file at all
    np.save(tmp_path / "a_label.npy", LABELS.numpy())  # of another kind than the images
    assert look(tmp_path).notes == (note,)
    (tmp_path / "label_syn.pt").rename(tmp_path / "labels.pt")
    assert look(tmp_path).notes == ()


@pytest.mark.parametrize(("images", "labels", "by"), [("pt", "npy", "torch.save"), ("npy", "pt", "numpy.save")])
def test_labels_of_another_kind_are_to_be_saved_in_that_of_the_images(tmp_path, images, labels, by):
    def save(name: str, part: torch.Tensor) -> None:
        torch.save(part, tmp_path / name) if name.endswith(".pt") else np.save(tmp_path / name, part.numpy())

    save(f"images.{images}", floats())
    save(f"labels.{labels}", LABELS)
    note = f"labels.{labels} there is not read: if it holds their labels, save them as labels.{images}, with {by}"
    (said,) = look(tmp_path).notes
    assert note in said
    save(f"labels.{images}", LABELS)
    assert look(tmp_path).notes == ()


def test_pictures_called_labels_are_no_place_of_labels(tmp_path):
    for name in layouts.imagefolder(tmp_path).rglob("*.png"):
        name.rename(name.with_name(f"label_{name.name}"))
    assert find(tmp_path).where_labels == tmp_path
    torch.save(floats(), tmp_path / "images.pt")
    torch.save(LABELS, tmp_path / "labels.pt")
    assert find(tmp_path / "images.pt").where_labels == tmp_path / "labels.pt"


@pytest.mark.parametrize("order", ["NHWC", "NCHW"])
def test_tensors_of_pixels_in_either_order(tmp_path, order):
    expected = torch.stack([pil_to_tensor(picture(label, 0)) for label in range(CLASSES)])
    torch.save(expected if order == "NCHW" else expected.permute(0, 2, 3, 1).contiguous(), tmp_path / "images.pt")
    found = find(tmp_path)
    assert (found.format, found.space) == ("ddranking", "pixels")
    assert torch.equal(found.images, expected)


@pytest.mark.parametrize("name", ["images.pt", "set.pt"])
@pytest.mark.parametrize(
    ("content", "labels", "soft_labels", "lr"),
    [
        ({"images": floats(), "labels": LABELS}, LABELS, None, None),
        ({"x": floats(), "y": LABELS, "lr": 0.5, "epoch": 3}, LABELS, None, 0.5),
        ({"images": floats(), "labels": LABELS, "soft_labels": soft(), "lr": torch.tensor(0.5)}, LABELS, soft(), 0.5),
        ({"data": floats(), "labels": soft()}, None, soft(), None),
        ((floats(), LABELS), LABELS, None, None),
        ([floats(), soft()], None, soft(), None),
    ],
)
def test_all_in_one_file_of_torch(tmp_path, name, content, labels, soft_labels, lr):
    torch.save(content, tmp_path / name)
    found = look(tmp_path / name)
    assert (found.format, found.space, found.lr) == ("ddranking", None, lr)
    assert torch.equal(found.images, floats())
    for there, expected in ((found.labels, labels), (found.soft_labels, soft_labels)):
        assert (there is None) == (expected is None)
        assert expected is None or torch.equal(there, expected)
    torch.save(LABELS.flip(0), tmp_path / "labels.pt")  # of other images: the file has its own
    assert labels is None or torch.equal(look(tmp_path / name).labels, labels)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": floats(), "x": floats()}, "holds both images and x: keep one"),
        ({"images": floats(), "labels": soft(), "soft_labels": soft()}, "soft labels twice"),
        ({"images": floats(), "labels": [0, 1]}, "holds a list, expected one tensor"),
        ((floats(), LABELS, LABELS), "holds a tuple, expected one tensor"),
    ],
)
def test_one_file_that_contradicts_itself(tmp_path, content, words):
    torch.save(content, tmp_path / "set.pt")
    with pytest.raises(InputError, match=words):
        find(tmp_path / "set.pt")


def test_class_indices_in_a_table_may_be_floats(tmp_path):
    columns = {"pixel_values": floats(3).tolist(), "label": [2.0, 0.0, 1.0]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    found = find(tmp_path / "train.parquet")
    assert torch.equal(found.images, floats(3)[[1, 2, 0]])
    for odd in (0.5, float("nan"), float("inf"), None):
        parquet.write_table(pyarrow.table(columns | {"label": [2.0, odd, 1.0]}), tmp_path / "train.parquet")
        with pytest.raises(InputError, match="expected class indices"):
            find(tmp_path / "train.parquet")


# --- what all share ---


def test_images_are_put_in_order_of_their_classes_with_all_that_is_theirs(tmp_path):
    labels = torch.tensor([2, 0, 1, 1, 0, 2])
    order = [1, 4, 2, 3, 0, 5]
    torch.save(floats(), tmp_path / "images.pt")
    torch.save(labels, tmp_path / "labels.pt")
    torch.save(soft(), tmp_path / "elsewhere.pt")
    found = find(tmp_path / "images.pt", soft_labels=tmp_path / "elsewhere.pt")
    read = read_distilled(tmp_path / "images.pt", soft_labels=tmp_path / "elsewhere.pt", **FITS)
    for ordered in (found, read):
        assert torch.equal(ordered.labels, LABELS)
        assert torch.equal(ordered.images, floats()[order])
        assert torch.equal(ordered.soft_labels, soft()[order])
    assert torch.equal(look(tmp_path / "images.pt").images, floats())  # as the file has it


def test_a_folder_that_can_be_read_in_several_ways(tmp_path):
    layouts.ddranking(tmp_path, lr=None)
    layouts.npz(tmp_path)
    layouts.dc(tmp_path)
    with pytest.raises(InputError) as error:
        find(tmp_path)
    for words in ("several ways", "images.pt (ddranking)", "set.npz (npz)", "_2ipc.pt (dc)", "say method.format"):
        assert words in str(error.value)
    for name in ("ddranking", "npz", "dc"):
        assert find(tmp_path, format=name).format == name
    layouts.dc(tmp_path, method="DSA")
    with pytest.raises(InputError, match="several ways"):
        find(tmp_path, format="dc")
    write_distilled(tmp_path, floats(seed=5), LABELS, metadata={})
    assert torch.equal(find(tmp_path).images, floats(seed=5))  # ours wins


def test_a_format_may_be_said(tmp_path):
    layouts.sre2l(tmp_path)
    assert find(tmp_path, format="imagefolder").class_names == ("new000", "new001", "new002")
    shutil.copy(layouts.npz(tmp_path / "n"), tmp_path / "n/set.bin")
    assert find(tmp_path / "n/set.bin", format="npz").format == "npz"
    with pytest.raises(InputError, match=r"method\.format is 'zip', expected auto or one of ddrank, dc, datm"):
        find(tmp_path, format="zip")


def test_what_is_found_tells_of_itself(tmp_path):
    found = find(layouts.datm(tmp_path / "a"))
    assert repr(found) == ("Found(datm: 6 images of 3 x 8 x 8 (float32), 3 classes x ipc 2, soft labels, lr 0.03)")
    assert (found.ipc, found.num_classes) == (2, 3)
    torch.save(floats(4), tmp_path / "images.pt")
    assert (find(tmp_path / "images.pt").ipc, find(tmp_path / "images.pt").num_classes) == (None, None)
    torch.save(torch.tensor([0, 0, 0, 1]), tmp_path / "labels.pt")
    assert (find(tmp_path / "images.pt").ipc, find(tmp_path / "images.pt").num_classes) == (None, 2)
    layouts.imagefolder(tmp_path / "f")
    assert repr(find(tmp_path / "f")).endswith("(uint8), 3 classes x ipc 2, space pixels)")


def test_every_format_is_known_by_name():
    assert list(FORMATS) == [
        "ddrank",
        "dc",
        "datm",
        "mtt",
        "ddranking",
        "npz",
        "huggingface",
        "sre2l",
        "rded",
        "d4m",
        "imagefolder",
    ]
    assert all(reader.layout for reader in FORMATS.values())


def test_pixels_are_brought_into_the_space_of_training_once(tmp_path):
    layouts.sre2l(tmp_path)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    read = read_distilled(tmp_path, **FITS)
    assert (read.pixels, read.space, read.images.dtype) == (True, "normalized", torch.uint8)
    placed = read.placed(Space("normalized", mean, std))
    normalised = Normalize(mean, std)(pixels(*find(tmp_path).files) / 255)
    assert torch.equal(placed.samples(0).floats(), normalised)
    assert torch.equal(placed.samples(0).batch(torch.tensor([4, 1]))["image"], normalised[[4, 1]])
    assert placed.images.dtype == torch.uint8  # until they are drawn
    assert not placed.pixels
    assert placed.placed(Space("normalized", mean, std)) is placed
    same = read.placed(Space("pixel"))
    assert torch.equal(same.samples(0).floats(), read.images / 255)
    assert same.space == "pixel"
    mu, matrix = torch.full((192,), 0.5), torch.eye(192) * 2
    white = read.placed(Space("zca", zca_mean=mu, zca_matrix=matrix))
    torch.testing.assert_close(white.samples(0).floats(), read.images / 255 * 2 - 1)


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_images_of_another_size(tmp_path, kind):
    if kind == "uint8":
        layouts.sre2l(tmp_path, size=13)
        images = find(tmp_path).images
    else:
        images = torch.randn(6, 3, 12, 16, generator=torch.Generator().manual_seed(0))
        torch.save(images, tmp_path / "images.pt")
    with pytest.raises(InputError, match=r"bring them to this size with method\.resize=true"):
        read_distilled(tmp_path, **FITS)
    expected = Compose([Resize(8, antialias=True), CenterCrop(8)])(images)
    read = read_distilled(tmp_path, **FITS, resize=True)
    assert torch.equal(read.images, expected)


# --- URLs ---


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


@pytest.fixture
def server(tmp_path):
    """A web server of a folder; its address, the folder, and the paths that were asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(f"{self.command} {self.path}")

        def end_headers(self):
            file = Path(self.translate_path(self.path))
            if file.is_file():
                self.send_header("ETag", f'"{file.stat().st_mtime_ns}-{file.stat().st_size}"')
            super().end_headers()

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder, asked
        running.shutdown()


def upload(system, folder: Path, to: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            system.pipe_file(f"{to}/{file.relative_to(folder).as_posix()}", file.read_bytes())


@pytest.mark.parametrize("name", ["ddranking", "datm", "sre2l", "d4m", "huggingface", "saved_to_disk", "mtt_parts"])
def test_folders_behind_urls(tmp_path, memory, name):
    folder = getattr(layouts, name)(tmp_path / "here")
    here = find(folder)
    upload(memory, folder, "/there/set")
    cache = tmp_path / "cache"
    for source in ("memory://there/set", f"file://{folder}"):
        found = find(source, cache=cache)
        assert (found.format, found.source, found.class_names) == (here.format, source, here.class_names)
        assert torch.equal(found.images, here.images)
        assert [file.read_bytes() for file in found.files] == [file.read_bytes() for file in here.files]
    kept = [file.name for file in (cache / "files").iterdir()]
    assert len(kept) == len(set(kept)) <= sum(file.is_file() for file in folder.rglob("*"))  # once, by content


def test_a_file_behind_a_url_comes_with_what_belongs_to_it(tmp_path, memory):
    upload(memory, layouts.datm(tmp_path / "here"), "/there")
    found = find("memory://there/images_best.pt", cache=tmp_path / "cache")
    assert torch.equal(found.soft_labels, soft())
    assert found.lr == pytest.approx(0.03)
    upload(memory, layouts.mtt_parts(tmp_path / "parts"), "/parts")
    assert torch.equal(find("memory://parts/images_best_0.pt", cache=tmp_path / "cache").images, floats())


def test_a_copy_serves_when_the_source_is_gone(tmp_path, memory, capsys):
    upload(memory, layouts.ddranking(tmp_path / "here"), "/there")
    cache = tmp_path / "cache"
    find("memory://there", cache=cache)
    assert "its copy" not in capsys.readouterr().err
    memory.store.clear()
    found = find("memory://there", cache=cache)
    assert torch.equal(found.images, floats())
    assert f"its copy in {cache} is used" in capsys.readouterr().err
    with pytest.raises(InputError, match="memory://elsewhere"):
        find("memory://elsewhere", cache=cache)


def test_what_changed_is_read_anew(tmp_path, memory):
    upload(memory, layouts.ddranking(tmp_path / "here"), "/there")
    find("memory://there", cache=tmp_path / "cache")
    buffer = io.BytesIO()
    torch.save(floats(seed=5), buffer)
    memory.pipe_file("/there/images.pt", buffer.getvalue())
    assert torch.equal(find("memory://there", cache=tmp_path / "cache").images, floats(seed=5))


def test_a_damaged_copy_is_fetched_anew(tmp_path, memory):
    upload(memory, layouts.ddranking(tmp_path / "here"), "/there")
    cache = tmp_path / "cache"
    find("memory://there", cache=cache)
    for file in (cache / "files").iterdir():
        file.write_bytes(b"damaged")
    assert torch.equal(find("memory://there", cache=cache).images, floats())
    for file in (cache / "files").iterdir():
        file.write_bytes(b"damaged")
    memory.store.clear()
    with pytest.raises(InputError, match="memory://there"):
        find("memory://there", cache=cache)
    (index,) = (cache / "index").iterdir()
    index.write_text("{")
    with pytest.raises(InputError, match="memory://there"):
        find("memory://there", cache=cache)


def test_a_web_server_is_asked_for_content_once(tmp_path, server):
    address, folder, asked = server
    layouts.ddranking(folder / "set")
    layouts.sre2l(folder / "pictures")
    cache = tmp_path / "cache"
    for source in (f"{address}/set/images.pt", f"{address}/set/"):
        found = find(source, cache=cache)
        assert torch.equal(found.images, floats())
        assert torch.equal(found.soft_labels, soft())
    assert torch.equal(find(f"{address}/pictures/", cache=cache).images, find(folder / "pictures").images)
    asked.clear()
    find(f"{address}/set/images.pt", cache=cache)
    assert not [request for request in asked if request.startswith("GET /set/images.pt")]
    torch.save(floats(seed=4), folder / "set/images.pt")
    assert torch.equal(find(f"{address}/set/images.pt", cache=cache).images, floats(seed=4))


def test_a_web_server_that_is_gone(tmp_path, server, capsys):
    address, folder, _ = server
    layouts.ddranking(folder / "set")
    find(f"{address}/set/images.pt", cache=tmp_path / "cache")
    shutil.rmtree(folder / "set")
    assert torch.equal(find(f"{address}/set/images.pt", cache=tmp_path / "cache").images, floats())
    assert "is used" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"nothing at http.*nowhere\.pt"):
        find(f"{address}/nowhere.pt", cache=tmp_path / "cache")
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9/x\.pt, or it cannot be reached: check the address"):
        find("http://127.0.0.1:9/x.pt", cache=tmp_path / "cache")


def test_a_driver_that_is_not_installed(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="nonsense://x cannot be read"):
        find("nonsense://x", cache=tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(InputError, match=r"pip install 'ddrank\[s3\]'"):
        find("s3://bucket/set.npz", cache=tmp_path)


def test_a_name_that_leads_elsewhere_is_not_followed(tmp_path, memory, monkeypatch):
    memory.pipe_file("/there/images.pt", b"x")
    listing = {"/there/../../planted.pt": {"name": "/there/../../planted.pt", "size": 1, "type": "file"}}
    monkeypatch.setattr(type(memory), "find", lambda self, *_, **__: listing)
    with pytest.raises(InputError, match="leads out of its folder"):
        find("memory://there", cache=tmp_path / "cache")


def test_a_url_in_a_message_is_the_users(tmp_path, memory):
    memory.pipe_file("/there/images.pt", pickle.dumps("no tensor"))
    with pytest.raises(InputError, match=r"^memory://there/images\.pt holds more than tensors"):
        find("memory://there/images.pt", cache=tmp_path / "cache")
    upload(memory, layouts.ddranking(tmp_path / "here"), "/that")
    with pytest.raises(InputError, match=r"^memory://that holds 6 images, expected 9"):
        read_distilled("memory://that", **FITS | {"ipc": 3}, cache=tmp_path / "cache")


# --- convert ---


def digits(folder: Path, *, soft_labels: bool = False) -> Path:
    generator = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(torch.randn(20, 1, 8, 8, generator=generator), folder / "images_best.pt")
    if soft_labels:
        torch.save(torch.randn(20, 10, generator=generator), folder / "labels_best.pt")
        torch.save(torch.tensor(0.03), folder / "lr_best.pt")
    else:
        torch.save(torch.arange(10).repeat_interleave(2), folder / "labels_best.pt")
    return folder


def test_what_was_converted_reads_the_same(command, tmp_path):
    folder = digits(tmp_path / "theirs", soft_labels=True)
    outcome = command("distill", "convert", "theirs", "mine", "dataset=digits", "method=datm")
    assert outcome.code == 0, outcome.err
    assert "wrote mine/distilled.safetensors and grid.png beside it: 20 images (ipc=2), space zca" in outcome.out
    theirs, mine = find(folder), find(tmp_path / "mine")
    assert torch.equal(mine.images, theirs.images)
    assert torch.equal(mine.soft_labels, theirs.soft_labels)
    assert torch.equal(mine.labels, torch.arange(10).repeat_interleave(2))
    assert mine.lr == pytest.approx(0.03)
    assert (mine.space, mine.soft_kind, mine.ipc) == ("zca", "logits", 2)
    assert {key: mine.metadata[key] for key in ("dataset", "method", "ipc")} == {
        "dataset": "digits",
        "method": "datm",
        "ipc": 2,
    }
    origin = mine.metadata["converted_from"]
    assert (origin["format"], sorted(origin["files"])) == ("datm", ["images_best.pt", "labels_best.pt", "lr_best.pt"])
    with Image.open(tmp_path / "mine/grid.png") as grid:
        assert grid.format == "PNG"
    before = (tmp_path / "mine/distilled.safetensors").read_bytes()
    again = ("distill", "convert", "theirs", "mine", "dataset=digits", "method=datm")
    assert "is there already: say overwrite=true" in command(*again).sentence()
    assert command(*again, "overwrite=true").code == 0
    assert (tmp_path / "mine/distilled.safetensors").read_bytes() == before


def test_pictures_are_converted_into_the_normalised_space(command, tmp_path):
    layouts.imagefolder(tmp_path / "with 'odd' name", tuple(str(label) for label in range(10)), mode="L")
    expected = find(tmp_path / "with 'odd' name").images / 255
    call = ("distill", "convert", "with 'odd' name")
    assert command(*call, "a", "dataset=digits").code == 0
    torch.testing.assert_close(find(tmp_path / "a").images, (expected - 0.3052) / 0.3760)
    assert find(tmp_path / "a").space == "normalized"
    assert command(*call, "b", "dataset=digits", "method.space=pixel").code == 0
    assert torch.equal(find(tmp_path / "b").images, expected)
    assert find(tmp_path / "b").space == "pixel"
    assert "whitening them needs the real data" in command(*call, "c", "method.space=zca").sentence()
    assert not (tmp_path / "c").exists()
    assert "expected 30 (10 classes x ipc=3)" in command(*call, "c", "dataset=digits", "ipc=3").sentence()


def test_probabilities_stay_probabilities(command, tmp_path):
    digits(tmp_path / "theirs", soft_labels=True)
    probabilities = torch.load(tmp_path / "theirs/labels_best.pt").softmax(1)
    torch.save(probabilities, tmp_path / "theirs/labels_best.pt")
    said = ("method.soft_kind=probabilities", "method.space=zca")
    call = ("distill", "convert", "theirs", "mine", "dataset=digits", *said)
    assert command(*call).code == 0
    mine = find(tmp_path / "mine")
    assert mine.soft_kind == "probabilities"
    torch.testing.assert_close(mine.soft_labels, probabilities)


def test_the_space_must_be_told_by_someone(command, tmp_path):
    digits(tmp_path / "theirs")
    call = ("distill", "convert", "theirs", "mine", "dataset=digits")
    sentence = command(*call).sentence()
    assert "does not tell the space of its images" in sentence
    assert "method.space=normalized, zca or pixel, or as method=..." in sentence
    assert "does not tell the space" in command(*call, "method=custom").sentence()
    assert not (tmp_path / "mine").exists()
    assert command(*call, "method.space=zca").code == 0
    assert find(tmp_path / "mine").space == "zca"
    assert command(*call, "method=dm", "overwrite=true").code == 0
    assert find(tmp_path / "mine").space == "normalized"


def test_converting_again_keeps_the_pixels(command, tmp_path):
    digits(tmp_path / "theirs")
    one = ("method.space=normalized", "method.mean=[0.5]", "method.std=[0.25]")
    assert command("distill", "convert", "theirs", "one", "dataset=digits", *one).code == 0
    assert command("distill", "convert", "one", "two", "dataset=digits").code == 0
    one, two = find(tmp_path / "one"), find(tmp_path / "two")
    assert (one.constants, two.constants) == (((0.5,), (0.25,)), ((0.3052,), (0.3760,)))
    torch.testing.assert_close(two.images * 0.3760 + 0.3052, one.images * 0.25 + 0.5)
    assert not torch.allclose(two.images, one.images, atol=0.01)


def test_converting_from_a_url(command, tmp_path, server):
    address, folder, _ = server
    digits(folder / "set")
    outcome = command(
        "distill", "convert", f"{address}/set/images_best.pt", "mine", "dataset=digits", "method.space=zca"
    )
    assert outcome.code == 0, outcome.err
    assert torch.equal(find(tmp_path / "mine").images, find(folder / "set").images)
    assert (tmp_path / "store/downloads/index").is_dir()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "convert was given 0 places (none), expected two"),
        (("theirs",), "convert was given 1 place (theirs), expected two"),
        (("theirs", "mine", "more"), "convert was given 3 places (theirs, mine, more)"),
        (("nowhere", "mine"), "the distilled data nowhere do not exist"),
        (("theirs", "mine", "datset=digits"), "datset"),
        (("theirs", "mine", "method.format=tar"), "method.format is 'tar'"),
        (("theirs", "mine", "dataset=mnist5k"), "choose the dataset they were made for"),
        (("theirs", "mine", "ipc=5"), "holds 20 images, expected 50"),
        (("theirs", "file/below"), "file"),
    ],
)
def test_what_cannot_be_converted(command, tmp_path, arguments, words):
    digits(tmp_path / "theirs")
    (tmp_path / "file").write_text("in the way")
    assert words in command("distill", "convert", *arguments).sentence()
    assert not (tmp_path / "mine").exists()


def test_the_help_tells_of_converting(command):
    outcome = command("distill", "--help")
    assert outcome.code == 0
    assert "convert SRC DST" in outcome.out
