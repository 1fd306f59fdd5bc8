"""RDED: its key patches recomputed one by one with torchvision, its stitching cell by cell, and the command."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from ddrank import build
from ddrank import config as schema
from ddrank.augment.views import draw_boxes
from ddrank.data import RealDataset, Samples, Space
from ddrank.data.files import Files, Format, Names
from ddrank.distill.base import Task
from ddrank.distill.rded import RDED, key_patches, patch_scores, stitched
from ddrank.engine import Engine
from ddrank.errors import InputError
from ddrank.models import ConvNet
from ddrank.models import build as build_model
from ddrank.progress import Display
from ddrank.store import Store


def observer() -> nn.Module:
    torch.manual_seed(0)
    return ConvNet(depth=1, width=4, num_classes=3, channels=3, size=9, norm="batch").eval()


def task(ipc: int = 2, per_class: int = 12, seed: int = 0, size: int = 9, space: str = "normalized", make=None) -> Task:
    """Three classes of noise of size x size."""
    labels = torch.arange(3).repeat(per_class)
    images = torch.randn(len(labels), 3, size, size, generator=torch.Generator().manual_seed(1))
    samples = Samples(images, labels)
    zca = {"zca_mean": torch.zeros(3 * size**2), "zca_matrix": torch.eye(3 * size**2)} if space == "zca" else {}
    return Task(
        real=RealDataset("toy", samples, samples, ("a", "b", "c"), (0.0,) * 3, (1.0,) * 3, 0.1, 5000),
        samples=samples,
        space=Space(space, **zca) if zca else Space(space, (0.0,) * 3, (1.0,) * 3),
        ipc=ipc,
        generator=torch.Generator().manual_seed(seed),
        network=make or (lambda name: observer()),
        trained=make or (lambda name: observer()),
        training=lambda name: [],
        architecture=lambda name: {"name": name},
        store=Store(tempfile.mkdtemp()),
        engine=Engine(),
        display=Display(),
    )


def crops_one_by_one(real: Tensor, rded: RDED, generator: torch.Generator) -> list[list[Tensor]]:
    """Of each image its crops, by torchvision, from the boxes that are drawn for all images crop after crop."""
    size = real.shape[-1]
    boxes = [
        draw_boxes(len(real), (size, size), tuple(rded.area), (1.0, 1.0), generator=generator).tolist()
        for _ in range(rded.num_crop)
    ]
    side = [size // rded.factor] * 2
    return [
        [tv.resized_crop(image, *drawn[number], side, antialias=True) for drawn in boxes]
        for number, image in enumerate(real)
    ]


@torch.no_grad()
def scores_one_by_one(patches: list[Tensor], label: int, size: int, network: nn.Module) -> list[float]:
    found = []
    for patch in patches:
        canvas = torch.zeros(1, 3, size, size)
        side = patch.shape[-1]
        start = (size - side) // 2
        canvas[0, :, start : start + side, start : start + side] = patch
        found.append(float(F.cross_entropy(network(canvas), torch.tensor([label]))))
    return found


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_key_patches_are_the_crops_of_lowest_cross_entropy(factor):
    rded, network = RDED(num_crop=4, factor=factor), observer()
    real = torch.randn(6, 3, 9, 9, generator=torch.Generator().manual_seed(2))
    patches, scores = key_patches(real, 1, network, rded, torch.Generator().manual_seed(3))
    crops = crops_one_by_one(real, rded, torch.Generator().manual_seed(3))
    chosen = []
    for number, of_image in enumerate(crops):
        entropies = scores_one_by_one(of_image, 1, 9, network)
        best = int(np.argmin(entropies))
        chosen.append(best)
        assert float(scores[number]) == pytest.approx(min(entropies), abs=1e-5)
        torch.testing.assert_close(patches[number], of_image[best], atol=1e-5, rtol=1e-5)
    assert len(set(chosen)) > 1


def test_crops_are_square_and_of_the_areas_asked_for():
    boxes = draw_boxes(500, (30, 30), (0.25, 0.5), (1.0, 1.0), generator=torch.Generator().manual_seed(0))
    assert torch.equal(boxes[:, 2], boxes[:, 3])
    assert (int(boxes[:, 2].min()), int(boxes[:, 2].max())) == (15, 21)


@pytest.mark.parametrize(("factor", "area"), [(1, (0.08, 1.0)), (2, (0.08, 1.0)), (2, (0.5, 0.8))])
def test_the_whole_of_it_against_a_loop(factor, area):
    """Images of a class in an order of chance, their best crops, the best of these by rank into the cells."""
    rded, one = RDED(num_crop=3, factor=factor, area=area), task()
    made = rded.distill(one).images
    generator = torch.Generator().manual_seed(0)
    for label in range(3):
        members = torch.nonzero(one.samples.labels == label).flatten()
        real = one.samples.images[members[torch.randperm(12, generator=generator)]]
        best = []
        for of_image in crops_one_by_one(real, rded, generator):
            entropies = scores_one_by_one(of_image, label, 9, observer())
            best.append((min(entropies), of_image[int(np.argmin(entropies))]))
        ranked = [patch for _, patch in sorted(best, key=lambda pair: pair[0])]
        for image in range(2):
            torch.testing.assert_close(
                made[2 * label + image],
                stitched(torch.stack(ranked[image : 2 * factor**2 : 2]), factor, 9)[0],
                atol=1e-5,
                rtol=1e-5,
            )


def test_the_published_images_are_more_certain_than_others():
    """The observer's cross entropy on what is made is below that on the real images, class by class."""
    one, network = task(ipc=3), observer()
    made = RDED(num_crop=5).distill(one).images
    for label in range(3):
        scores = patch_scores(made[3 * label : 3 * label + 3], label, network, 9)
        real = patch_scores(one.samples.images[one.members(label)], label, network, 9)
        assert float(scores.max()) < float(real.median())
        assert scores.tolist() == sorted(scores.tolist())


# --- stitching ---


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_image_r_holds_the_ranks_r_and_r_plus_ipc_and_so_on(factor):
    ipc, side = 4, 3
    ranks = torch.arange(ipc * factor**2.0).view(-1, 1, 1, 1).expand(-1, 2, side, side)
    images = stitched(ranks, factor, factor * side)
    assert images.shape == (ipc, 2, factor * side, factor * side)
    for image in range(ipc):
        for row in range(factor):
            for column in range(factor):
                cell = images[image, :, row * side : row * side + side, column * side : column * side + side]
                assert cell.unique().tolist() == [image + ipc * (row * factor + column)]


def test_with_factor_1_patches_are_the_images():
    patches = torch.randn(5, 3, 7, 7)
    assert torch.equal(stitched(patches, 1, 7), patches)


@pytest.mark.parametrize(
    ("size", "factor", "sides"), [(5, 2, [3, 2]), (8, 3, [3, 3, 2]), (7, 3, [3, 2, 2]), (11, 4, [3, 3, 3, 2])]
)
def test_the_first_cells_are_a_pixel_larger_where_the_factor_does_not_divide_the_size(size, factor, sides):
    """Enlarged by the nearest pixel: row i of m rows comes from row floor(i * s / m) of s."""
    side = size // factor
    patches = torch.randn(2 * factor**2, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = stitched(patches, factor, size)
    assert images.shape == (2, 3, size, size)
    starts = np.cumsum([0, *sides])
    for image in range(2):
        for row, height in enumerate(sides):
            for column, width in enumerate(sides):
                patch = patches[image + 2 * (row * factor + column)]
                down, across = ([i * side // length for i in range(length)] for length in (height, width))
                cell = images[image, :, starts[row] :, starts[column] :][:, :height, :width]
                assert torch.equal(cell, patch[:, down][:, :, across])


# --- which images ---


def test_a_class_with_fewer_images_than_mipc_gives_all():
    few, all_of_them = (RDED(mipc=mipc).distill(task(ipc=3)).images for mipc in (300, 12))
    assert torch.equal(few, all_of_them)


def test_no_image_gives_two_patches_and_only_mipc_are_looked_at():
    """Crops of the whole image are the image itself."""
    one = task(ipc=4)
    made = RDED(mipc=4, num_crop=1, area=(1.0, 1.0)).distill(one).images
    for label in range(3):
        real = one.samples.images[one.members(label)]
        sources = torch.cdist(made[4 * label : 4 * label + 4].flatten(1), real.flatten(1)).argmin(1)
        assert len(set(sources.tolist())) == 4
    assert not torch.equal(made, RDED(mipc=12, num_crop=1, area=(1.0, 1.0)).distill(one).images)


def test_the_seed_decides():
    made = [RDED(factor=2).distill(task(seed=seed)).images for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


# --- through the command, and the published settings ---


def configured(*overrides: str) -> RDED:
    from hydra import compose, initialize_config_dir

    schema.register()
    with initialize_config_dir(str(schema.folder()), version_base=None):
        config = compose("distill", overrides=["method=rded", *overrides])
    return build.build(config.method.distiller, "method.distiller")


@pytest.mark.parametrize(
    ("dataset", "model", "factor"),
    [
        ("cifar10", "convnet_bn", 1),
        ("cifar100", "convnet_bn", 1),
        ("tinyimagenet", "convnet_bn", 1),
        ("imagenet1k", "resnet18", 2),
        ("imagenette", "convnet_bn", 2),
    ],
)
def test_published_settings(dataset, model, factor):
    expected = {"model": model, "mipc": 300, "num_crop": 5, "factor": factor, "area": [0.08, 1.0]}
    assert configured(f"dataset={dataset}").parameters() == expected


def test_the_settings_for_imagenet_run_at_224_pixels_with_torchvisions_resnet18():
    model = {"_target_": "ddrank.models.torchvision_model", "name": "resnet18", "arch": "resnet18"}
    trained = lambda name: build_model(model, num_classes=3, channels=3, size=224).eval()  # noqa: E731
    made = (
        configured("dataset=imagenet1k", "method.distiller.num_crop=2")
        .distill(task(ipc=1, per_class=4, size=224, make=trained))
        .images
    )
    assert made.shape == (3, 3, 224, 224)
    assert made.isfinite().all()


def test_images_in_files_give_what_images_in_memory_give(tmp_path):
    generator, names = np.random.default_rng(0), [f"{number}.png" for number in range(36)]
    for name in names:
        Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(tmp_path / name)
    files = Files(tmp_path, Names(names), Format(9, 9), tmp_path / "digests")
    made = []
    for images in (files, files.to("cpu")):
        one = task()
        samples = Samples(images, one.samples.labels, mean=(0.4,) * 3, std=(0.2,) * 3)
        made.append(RDED(factor=2).distill(replace(one, samples=samples)).images)
    assert torch.equal(*made)


def test_stopped_among_the_classes_it_goes_on_to_the_same_images(command, tmp_path):
    settings = ("method=rded", "dataset.teacher.epochs=1", "method.distiller.mipc=20", "engine.threads=1")
    assert command("distill", *settings, "paths.distilled=undisturbed").code == 0
    for stop in (3, 7):
        assert command("distill", *settings, f"job.stop_at={stop}").code == 0
    assert "going on at iteration 7 of 10" in command("distill", *settings).err
    file = "digits/rded/ipc1/distilled.safetensors"
    made, undisturbed = (load_file(tmp_path / folder / file)["images"] for folder in ("distilled", "undisturbed"))
    assert torch.equal(made, undisturbed)
    assert (tmp_path / "distilled/digits/rded/ipc1/progress.png").exists()


@pytest.mark.parametrize(
    ("settings", "place", "problem"),
    [
        ({"num_crop": 0}, {}, "method.distiller.num_crop is 0"),
        ({"area": [0.0, 1.0]}, {}, r"method.distiller.area is \[0.0, 1.0\], expected the smallest"),
        ({"factor": 10}, {}, "method.distiller.factor is 10, but images of toy are 9 pixels"),
        ({"factor": 2}, {"ipc": 4}, "takes 16 patches of class 'a' of toy, each from another image, but there are 12"),
        ({"mipc": 3}, {"ipc": 4}, "takes 4 patches .* but there are 3"),
        ({}, {"space": "zca"}, "choose method.made_in=normalized or pixel"),
    ],
)
def test_what_cannot_be_is_refused(settings, place, problem):
    with pytest.raises(InputError, match=problem):
        RDED(**settings).distill(task(**place))
