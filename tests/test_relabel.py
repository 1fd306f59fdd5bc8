"""Relabelling: a teacher's labels stored with images, one an image or one a view, and trained on as they are stored."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from conftest import QUICK_SELECTION, results
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from ddrank.criteria import MSEGT
from ddrank.data import Samples, read_distilled, write_distilled
from ddrank.data import stored_views as storage
from ddrank.data.readers import find
from ddrank.data.readers.fkd import FKD
from ddrank.data.stored_views import ViewBatches, images_digest, read_views, write_views
from ddrank.distill.__main__ import _in_full
from ddrank.engine import Engine
from ddrank.errors import InputError
from ddrank.student import Training, train

HALF = {"atol": 2e-3, "rtol": 2e-3}  # what float16 keeps of logits of some units
MEAN, STD = 0.3052, 0.3760  # of digits
TEACHER = ("teacher=mlp", "method.teacher_weights=[teacher.pt]", "dataset=digits", "engine.threads=1")


@pytest.fixture
def weights(tmp_path) -> dict[str, Tensor]:
    """An MLP's random weights, in teacher.pt."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"fc_1": (128, 64), "fc_2": (128, 128), "fc_3": (10, 128)}
    weights = {f"{name}.weight": 0.2 * torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    weights |= {f"{name}.bias": torch.randn(shape[0], generator=generator) for name, shape in shapes.items()}
    torch.save(weights, tmp_path / "teacher.pt")
    return weights


@pytest.fixture
def source(tmp_path) -> dict[str, Tensor]:
    """Two images of each digit in theirs/distilled.safetensors, with an old label each and a learning rate."""
    write(tmp_path / "theirs")
    return load_file(tmp_path / "theirs/distilled.safetensors")


def write(folder: Path, seed: int = 0, dataset: str = "digits") -> Path:
    generator = torch.Generator().manual_seed(seed)
    return write_distilled(
        folder,
        torch.randn(20, 1, 8, 8, generator=generator),
        torch.arange(10).repeat_interleave(2),
        soft_labels=torch.randn(20, 10, generator=generator),
        lr=0.07,
        metadata={"dataset": dataset, "method": "mine", "space": "normalized", "seed": 3},
    )


def logits(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    hidden = F.relu(F.linear(images.flatten(1), weights["fc_1.weight"], weights["fc_1.bias"]))
    hidden = F.relu(F.linear(hidden, weights["fc_2.weight"], weights["fc_2.bias"]))
    return F.linear(hidden, weights["fc_3.weight"], weights["fc_3.bias"])


# --- one label an image ---


def test_soft_labels_are_the_mean_of_the_teachers_logits(command, tmp_path, weights, source):
    other = {name: -tensor for name, tensor in weights.items()}
    torch.save(other, tmp_path / "other.pt")
    two = ("teacher=[mlp,mlp]", "method.teacher_weights=[teacher.pt,other.pt]", *TEACHER[2:])
    outcome = command("distill", "relabel", "theirs", "mine", *two)
    assert outcome.code == 0, outcome.err
    assert "one soft label (logits) an image" in outcome.out
    made = load_file(tmp_path / "mine/distilled.safetensors")
    expected = (logits(weights, source["images"]) + logits(other, source["images"])) / 2
    torch.testing.assert_close(made["soft_labels"], expected)
    for name in ("images", "labels", "lr"):
        assert made[name].numpy().tobytes() == source[name].numpy().tobytes(), name
    found, theirs = find(tmp_path / "mine"), tmp_path / "theirs/distilled.safetensors"
    assert {key: found.metadata[key] for key in ("method", "seed", "soft_labels")} == {
        "method": "mine",
        "seed": 3,
        "soft_labels": "logits",
    }
    assert found.metadata["relabelled"]["from"]["sha256"] == hashlib.sha256(theirs.read_bytes()).hexdigest()
    assert len(found.metadata["relabelled"]["fingerprint"]) == 64
    assert (tmp_path / "mine/grid.png").is_file()
    assert not (tmp_path / "runs").exists()  # nothing is there to keep


def test_in_place_only_if_it_is_said(command, tmp_path, weights, source):
    before = (tmp_path / "theirs/distilled.safetensors").read_bytes()
    assert "is there already: say overwrite=true" in command("distill", "relabel", "theirs", *TEACHER).sentence()
    assert (tmp_path / "theirs/distilled.safetensors").read_bytes() == before
    assert command("distill", "relabel", "theirs", *TEACHER, "overwrite=true").code == 0
    made = load_file(tmp_path / "theirs/distilled.safetensors")
    assert torch.equal(made["images"], source["images"])
    torch.testing.assert_close(made["soft_labels"], logits(weights, source["images"]))


def test_pictures_are_labelled_as_students_see_them(command, tmp_path, weights):
    layouts.imagefolder(tmp_path / "pictures", tuple(str(label) for label in range(10)), mode="L")
    assert command("distill", "relabel", "pictures", "mine", *TEACHER).code == 0
    made = load_file(tmp_path / "mine/distilled.safetensors")
    seen = (find(tmp_path / "pictures").images / 255 - MEAN) / STD
    torch.testing.assert_close(made["images"], seen)
    torch.testing.assert_close(made["soft_labels"], logits(weights, seen))
    assert find(tmp_path / "mine").constants == ((MEAN,), (STD,))


def test_the_words_of_relabelling():
    assert _in_full("teacher=convnet") == "method.teachers=[convnet]"
    assert _in_full("teacher=[convnet,mlp]") == "method.teachers=[convnet,mlp]"
    assert _in_full("views=3") == "relabel.views=3"
    assert _in_full("fkd=a folder/FKD") == "relabel.fkd='a folder/FKD'"
    assert _in_full("train.epochs=3") == "train.epochs=3"


# --- stored views ---


def rebuilt(images: Tensor, stored: dict[str, Tensor], epoch: int, sizes: list[int], resized: bool) -> list[Tensor]:
    """The views of one epoch by torchvision, image by image, and mixed by hand."""
    views, at = [], 0
    for batch, size in enumerate(sizes):
        seen = []
        for place in range(at, at + size):
            image = images[stored["order"][epoch, place]]
            top, left, height, width = stored["boxes"][epoch, place].tolist()
            if resized:
                image = tv.resized_crop(image, top, left, height, width, [8, 8], antialias=True)
            else:
                image = tv.crop(tv.pad(image, [1] * 4, fill=-MEAN / STD), top + 1, left + 1, height, width)
            seen.append(tv.horizontal_flip(image) if stored["flips"][epoch, place] else image)
        seen = torch.stack(seen)
        partners = seen[stored["partners"][epoch, at : at + size].long()]
        if "pasted" in stored:
            top, left, bottom, right = stored["pasted"][epoch, batch].tolist()
            seen[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
            assert stored["shares"][epoch, batch] == 1 - (bottom - top) * (right - left) / 64
        else:
            share = stored["shares"][epoch, batch].float()
            seen = share * seen + (1 - share) * partners
        views.append(seen)
        at += size
    return views


@pytest.mark.parametrize("aug", ["rrc_cutmix", "crop_mixup"])
def test_stored_labels_are_the_teachers_on_the_stored_views(command, tmp_path, weights, source, aug):
    asked = ("views=3", "train.batch_size=8", "dataset.mirror=true", f"aug={aug}")
    outcome = command("distill", "relabel", "theirs", "mine", *TEACHER, *asked)
    assert outcome.code == 0, outcome.err
    assert "labels of 3 epochs of 20 views" in outcome.out
    made = load_file(tmp_path / "mine/distilled.safetensors")
    assert all(torch.equal(made[name], source[name]) for name in source)
    stored = load_file(tmp_path / "mine/views/00000.safetensors")
    assert stored["logits"].dtype == torch.float16
    assert 0 < int(stored["flips"].sum()) < 60
    assert len(stored["boxes"].flatten(0, 1).unique(dim=0)) > 5
    assert not torch.equal(stored["order"][0], stored["order"][1])
    for epoch in range(3):
        assert sorted(stored["order"][epoch].tolist()) == list(range(20))
        views = rebuilt(source["images"], stored, epoch, [8, 8, 4], resized=aug == "rrc_cutmix")
        labels = torch.cat([logits(weights, view) for view in views])
        torch.testing.assert_close(stored["logits"][epoch].float(), labels, **HALF)
    read = read_views(tmp_path / "mine/views")
    batches = ViewBatches(Samples(source["images"], source["labels"], views=read))
    epochs = [list(batches) for _ in range(4)]
    for epoch in range(4):  # the fourth is the first again
        views = rebuilt(source["images"], stored, epoch % 3, [8, 8, 4], resized=aug == "rrc_cutmix")
        for batch, view in zip(epochs[epoch], views, strict=True):
            torch.testing.assert_close(batch["image"], view, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(batch["view_label"], logits(weights, batch["image"]), **HALF)
    labels = torch.cat([batch["label"] for batch in epochs[0]])
    assert torch.equal(labels, source["labels"][stored["order"][0].long()])


def test_the_first_epochs_of_more_are_the_same_in_any_file(command, tmp_path, weights, source, monkeypatch):
    asked = (*TEACHER, "train.batch_size=8")
    assert command("distill", "relabel", "theirs", "three", *asked, "views=3").code == 0
    monkeypatch.setattr(storage, "_SHARD_BYTES", 1)
    assert command("distill", "relabel", "theirs", "two", *asked, "views=2").code == 0
    assert command("distill", "relabel", "theirs", "else", *asked, "views=2", "seed=1").code == 0
    assert sorted(path.name for path in (tmp_path / "two/views").glob("*.safetensors")) == [
        "00000.safetensors",
        "00001.safetensors",
    ]
    three, two, other = (read_views(tmp_path / name / "views") for name in ("three", "two", "else"))
    assert (three.epochs, two.epochs, three.sizes) == (3, 2, (8, 8, 4))
    for epoch in range(2):
        for one, same in zip(three.epoch(epoch), two.epoch(epoch), strict=True):
            assert torch.equal(one.logits, same.logits)
            assert torch.equal(one.index, same.index)
            assert torch.equal(one.drawn.boxes, same.drawn.boxes)
    assert not torch.equal(two.epoch(0)[0].index, other.epoch(0)[0].index)
    (tmp_path / "two/views/00001.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"00001\.safetensors is missing or not as it was written"):
        read_views(tmp_path / "two/views")


def test_a_student_is_trained_on_them_epoch_after_epoch(command, tmp_path, weights, source):
    assert command("distill", "relabel", "theirs", "mine", *TEACHER, "train.batch_size=8", "views=2").code == 0
    samples = Samples(source["images"], source["labels"], views=read_views(tmp_path / "mine/views"))

    def network() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    recipe = {"optimizer": "sgd", "momentum": 0.9, "betas": (0.9, 0.999), "weight_decay": 0.0}
    training = Training(3, 8, **recipe, schedule="constant", step_size=0, gamma=0.1, cosine_span=1.0)
    criterion = MSEGT(mse_weight=0.1, ce_weight=1.0)
    trained = train(
        network(),
        samples,
        training=training,
        criterion=criterion,
        augmentations=[],
        lr=0.1,
        seed=0,
        engine=Engine(),
        num_classes=10,
    )
    by_hand = network()
    optimizer = torch.optim.SGD(by_hand.parameters(), 0.1, momentum=0.9)
    batches = ViewBatches(samples)
    for _ in range(3):
        for batch in batches:
            out, lam, label = by_hand(batch["image"]), batch["lam"], batch["label"]
            loss = 0.1 * F.mse_loss(out, batch["view_label"]) + lam * F.cross_entropy(out, label)
            loss = loss + (1 - lam) * F.cross_entropy(out, label[batch["partner"]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for one, other in zip(trained.network.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    plain = Samples(source["images"], source["labels"])
    assert len({plain.fingerprint, samples.fingerprint}) == 2


def test_an_interrupted_one_leaves_what_was_there(tmp_path, command, weights, source):
    assert command("distill", "relabel", "theirs", "mine", *TEACHER, "views=1").code == 0
    views = read_views(tmp_path / "mine/views")
    before = (tmp_path / "mine/views/index.json").read_bytes()

    def interrupted():
        yield views.epoch(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_views(tmp_path / "mine", interrupted(), count=2, frame=views.frame, images="", about={})
    assert (tmp_path / "mine/views/index.json").read_bytes() == before
    assert not list((tmp_path / "mine").glob(".views-*"))
    assert read_views(tmp_path / "mine/views") == views


def test_what_a_killed_one_left_is_removed(tmp_path, command, weights, source):
    (tmp_path / "mine/.views-abandoned").mkdir(parents=True)
    (tmp_path / "mine/.views-abandoned/00000.safetensors").write_bytes(b"half of it")
    assert command("distill", "relabel", "theirs", "mine", *TEACHER, "views=1").code == 0
    assert [path.name for path in (tmp_path / "mine").glob("*views*")] == ["views"]


# --- SRe2L's own ---


def fkd(folder: Path, images: Tensor, weights: dict[str, Tensor], mixed: bool, epochs: int = 2) -> list[Tensor]:
    """An FKD folder of `images` as SRe2L's code writes it, batches of 8; its images by their places, epoch by epoch."""
    generator = torch.Generator()
    generator.manual_seed(42)
    sampler = RandomSampler(images, generator=generator)
    loader = DataLoader(torch.arange(len(images)), batch_size=8, shuffle=False, sampler=sampler)
    torch.manual_seed(7)
    orders = []
    for epoch in range(epochs):
        orders.append([])
        for number, index in enumerate(loader):
            boxes = [RandomResizedCrop.get_params(images[0], (0.3, 1.0), (3 / 4, 4 / 3)) for _ in index]
            flips = torch.rand(len(index)) < 0.5
            views = [
                tv.resized_crop(images[image], *box, [8, 8], antialias=True)
                for image, box in zip(index, boxes, strict=True)
            ]
            views = torch.stack([view.flip(2) if flip else view for view, flip in zip(views, flips, strict=True)])
            partners, lam, pasted = None, None, None
            if mixed:
                partners, lam = torch.randperm(len(index)), 0.6
                pasted = [np.int64(2), np.int64(1), np.int64(6), np.int64(8)]  # rows, columns
                views[:, :, 2:6, 1:8] = views[partners][:, :, 2:6, 1:8]
            place = folder / f"epoch_{epoch}"
            place.mkdir(parents=True, exist_ok=True)
            coordinates = torch.tensor(boxes) / 8
            content = [coordinates, flips, partners, lam, pasted, logits(weights, views).half()]
            torch.save(content, place / f"batch_{number}.tar")
            orders[-1].append(index)
    return [torch.cat(order) for order in orders]


@pytest.mark.parametrize("mixed", [True, False])
def test_an_fkd_folder_is_replayed(command, tmp_path, weights, source, mixed):
    orders = fkd(tmp_path / "FKD", source["images"], weights, mixed)
    outcome = command("distill", "relabel", "theirs", "mine", "fkd=FKD", "dataset=digits")
    assert outcome.code == 0, outcome.err
    assert "labels of 2 epochs of 20 views" in outcome.out
    made = load_file(tmp_path / "mine/distilled.safetensors")
    assert torch.equal(made["images"], source["images"])
    views = read_views(tmp_path / "mine/views")
    batches = ViewBatches(Samples(source["images"], source["labels"], views=views))
    for epoch in range(2):
        assert torch.equal(torch.cat([batch.index for batch in views.epoch(epoch)]), orders[epoch])
        for number, batch in enumerate(batches):
            written = torch.load(tmp_path / f"FKD/epoch_{epoch}/batch_{number}.tar", weights_only=False)
            assert torch.equal(batch["view_label"], written[5].float())
            torch.testing.assert_close(batch["view_label"], logits(weights, batch["image"]), **HALF)
            if mixed:
                assert batch["lam"] == pytest.approx(1 - 4 * 7 / 64)
                assert torch.equal(batch["partner"], written[2])
            else:
                assert "lam" not in batch


def test_fkd_follows_the_files_as_imagefolder_sorts_them(command, tmp_path, weights):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (10, 11, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for label in range(10):
        (tmp_path / f"pictures/{label}").mkdir(parents=True)
        for number in range(11):
            content = layouts.encoded_as_png(pictures[label, number, 0].numpy())
            (tmp_path / f"pictures/{label}/{number}.png").write_bytes(content)
    alphabetic = sorted(range(11), key=str)  # 0, 1, 10, 2, ...
    images = (pictures[:, alphabetic].flatten(0, 1) / 255 - MEAN) / STD
    fkd(tmp_path / "FKD", images, weights, mixed=False, epochs=1)
    assert command("distill", "relabel", "pictures", "mine", "fkd=FKD", "dataset=digits").code == 0
    made = load_file(tmp_path / "mine/distilled.safetensors")
    torch.testing.assert_close(made["images"], (pictures.flatten(0, 1) / 255 - MEAN) / STD)
    views = read_views(tmp_path / "mine/views")
    for batch in ViewBatches(Samples(made["images"], made["labels"], views=views)):
        torch.testing.assert_close(batch["view_label"], logits(weights, batch["image"]), **HALF)


class Evil:
    def __reduce__(self):
        return Path.write_text, (Path("run.txt"), "run")


def test_what_is_no_fkd_folder_of_these_images(command, tmp_path, weights, source):
    folder = tmp_path / "FKD"
    call = ("distill", "relabel", "theirs", "mine", "fkd=FKD", "dataset=digits")

    def refusal() -> str:
        with pytest.raises(InputError) as refused:
            list(FKD(folder, torch.arange(20), size=8, num_classes=10).epochs())
        return str(refused.value)

    assert "there is no such folder" in refusal()
    fkd(folder, source["images"][:12], weights, mixed=True, epochs=1)
    assert "holds labels of 12 images, but there are 20 images" in command(*call).sentence()
    fkd(folder, source["images"], weights, mixed=True, epochs=1)
    first = folder / "epoch_0/batch_0.tar"
    content = torch.load(first, weights_only=False)
    for item, wrong, words in (
        (0, content[0] + 0.5, "crops beyond the image"),
        (2, content[2] + 1, "do not fit its 8 logits"),
        (4, [0, 0, 9, 9], "pastes the box (0, 0, 9, 9)"),
        (5, content[5][:, :3], "expected 10 classes"),
    ):
        torch.save([*content[:item], wrong, *content[item + 1 :]], first)
        assert words in refusal()
    torch.save([*content[:4], Evil(), content[5]], first)
    assert "was not opened for safety" in refusal()
    first.write_bytes(pickle.dumps(Evil()))
    assert "was not opened for safety" in command(*call).sentence()
    assert not Path("run.txt").exists()
    first.unlink()
    assert "without gaps" in refusal()
    assert not (tmp_path / "mine").exists()


# --- evaluation ---


def test_stored_views_are_evaluated(command, tmp_path):
    write(tmp_path / "theirs")
    recipe = ("train=decoupled", "train.batch_size=8", "train.epochs=3", "aug=rrc_cutmix", "engine.threads=1")
    one = (*(each for each in QUICK_SELECTION if not each.startswith("train.")), *recipe, "logger=none")
    made = command("distill", "relabel", "theirs", "mine", "teacher=mlp", "views=2", *one)
    assert made.code == 0, made.err
    assert "trained the teacher mlp" in made.err
    labels = ("method=custom", "method.labels=multi", "criterion=kl", "method.temperature=4", "method.teachers=[mlp]")
    call = ("run", *labels, "method.data=mine", "ipc=2", *one)
    stored = command(*call, "method.stored_views=true")
    assert stored.code == 0, stored.err
    assert "trained the teacher" not in stored.err
    fly = command(*call)
    assert "which method.stored_views=false leaves unused" in fly.err
    assert "trained 1 student; 5 came from the store" in fly.err  # all arms but syn_any are the same
    first, second = results(tmp_path / "runs")
    assert first["arms"]["rdm_any"] == second["arms"]["rdm_any"]
    assert first["config"]["method"]["stored_views"]
    call = (*call, "method.stored_views=true")
    for change, words in (
        (("train.batch_size=4",), "in batches of 8, but train.batch_size is 4: say train.batch_size=8"),
        (("aug=cutmix",), "was made with other aug than random images would be given now"),
        (("dataset.teacher.epochs=2",), "was made with other teachers than random images would be given now"),
        (("method.data=theirs",), "holds no stored views"),
        (("method.labels=hard", "criterion=ce"), "but method.labels=hard: choose multi"),
    ):
        assert words in command(*call, *change).sentence()
    of_an_earlier_version(tmp_path / "mine/views/index.json", second["config"]["aug"])
    assert command(*call).code == 0
    assert "was made with other aug than random images" in command(*call, "aug=cutmix").sentence()
    sentence = command(*call, "dataset.teacher.epochs=2").sentence()
    assert "was made by an earlier version of ddrank" in sentence
    assert "relabel` and overwrite=true, or say method.trust=true" in sentence
    write(tmp_path / "mine", seed=1)
    assert "holds views of other images than mine/distilled.safetensors" in command(*call).sentence()


def of_an_earlier_version(index: Path, aug: dict) -> None:
    """Have an index tell the augmentation as it was told once: by name, without an order of its own."""
    content = json.loads(index.read_text())
    content["about"]["aug"] = {name: part for name, part in aug.items() if name != "name"}
    index.write_text(json.dumps(content, indent=1, sort_keys=True))


def test_labels_that_were_stored_are_evaluated(command, tmp_path, weights, source):
    assert command("distill", "relabel", "theirs", "mine", *TEACHER).code == 0
    read = read_distilled(tmp_path / "mine", num_classes=10, ipc=2, channels=1, size=8)
    torch.testing.assert_close(read.soft_labels, logits(weights, source["images"]))
    assert images_digest(read.images) == images_digest(source["images"])
    labels = ("method=custom", "method.labels=single", "criterion=kl", "method.teachers=[mlp]", "aug=none")
    outcome = command("run", *labels, *TEACHER[1:], "method.data=mine", "ipc=2", *QUICK_SELECTION, "logger=none")
    assert outcome.code == 0, outcome.err
    others = ("method.teachers=[lenet]", "method.data=mine", "ipc=2", *QUICK_SELECTION, *TEACHER[2:])
    sentence = command("run", *labels, *others).sentence()
    assert "are those of mlp, but random images would have those of lenet: say method.teachers=[mlp]" in sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "relabel was given 0 places (none), expected one or two"),
        (("theirs", "mine", "more"), "relabel was given 3 places (theirs, mine, more)"),
        (("nowhere", "mine"), "the distilled data nowhere do not exist"),
        (("nowhere",), "give a second place"),
        (("theirs", "mine", "teacher=[]"), "such as method.teachers=[convnet]"),
        (("theirs", "mine", "method=dm", "teacher=[]"), "name one, such as teacher=convnet"),
        (("theirs", "mine", "teacher=convnt"), "there is no model 'convnt'"),
        (("theirs", "mine", "dataset=shapes"), "was made for digits, not for shapes"),
        (("tensors", "mine"), "does not tell the space of its images"),
        (("tensors", "mine", "method.space=normalized"), "no value is below 0"),
        (("theirs", "mine", "ipc=5"), "holds 20 images, expected 50"),
        (("theirs", "mine", "views=-1"), "relabel.views is -1"),
        (("theirs", "mine", "views=2", "fkd=FKD"), "give one of them"),
        (("theirs", "mine", "views=2", "aug=dsa"), "but aug has DSA in a place of its own"),
        (("theirs", "mine", "vews=2"), "vews"),
    ],
)
def test_what_cannot_be_relabelled(command, tmp_path, weights, source, arguments, words):
    (tmp_path / "tensors").mkdir()
    torch.save(source["images"].abs(), tmp_path / "tensors/images.pt")
    weighted = () if any(part.startswith(("teacher=", "method=")) for part in arguments) else TEACHER
    said = [part for part in weighted if part.partition("=")[0] not in {each.partition("=")[0] for each in arguments}]
    assert words in command("distill", "relabel", *arguments, *said).sentence()
    assert not (tmp_path / "mine").exists()


def test_the_help_tells_of_relabelling(command):
    outcome = command("distill", "--help")
    assert outcome.code == 0
    assert "relabel SRC DST" in outcome.out
