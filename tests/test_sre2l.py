"""SRe2L: its terms, its schedule and its views against torch's and torchvision's own, and what it recovers."""

from __future__ import annotations

import csv
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from ddrank import build
from ddrank import config as schema
from ddrank.augment.views import draw_boxes
from ddrank.data import RealDataset, Samples, Space
from ddrank.distill.base import Task
from ddrank.distill.sre2l import SRe2L, Statistics, cosine, total_variation, view
from ddrank.engine import Engine
from ddrank.errors import InputError
from ddrank.models import ConvNet
from ddrank.models import build as build_model
from ddrank.progress import Display
from ddrank.store import Store

MEAN, STD = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)
CLASSES = 5
DIGITS = ("method=sre2l", "dataset.teacher.epochs=4", "engine.threads=1", "engine.workers=1")
FILE = "distilled/digits/sre2l/ipc{}/distilled.safetensors"


def network(norm: str = "batch") -> ConvNet:
    torch.manual_seed(0)
    made = ConvNet(depth=2, width=6, num_classes=CLASSES, channels=3, size=8, norm=norm)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return made.eval()


def task(ipc: int = 2, seed: int = 0, norm: str = "batch", space: str = "normalized", make=None) -> Task:
    """Five classes of images of 8 x 8, whose content counts for nothing."""
    samples = Samples(torch.zeros(CLASSES, 3, 8, 8), torch.arange(CLASSES))
    spaces = {
        "normalized": Space("normalized", MEAN, STD),
        "pixel": Space("pixel"),
        "zca": Space("zca", zca_mean=torch.zeros(192), zca_matrix=torch.eye(192)),
    }
    return Task(
        real=RealDataset("toy", samples, samples, tuple("abcde"), MEAN, STD, 0.1, 5000),
        samples=samples,
        space=spaces[space],
        ipc=ipc,
        generator=torch.Generator().manual_seed(seed),
        network=lambda name: network(norm),
        trained=make or (lambda name: network(norm)),
        training=lambda name: [],
        architecture=lambda name: {"name": name},
        store=Store(tempfile.mkdtemp()),
        engine=Engine(),
        display=Display(),
    )


QUICK = partial(SRe2L, iterations=4, batch=3, roll=(0, 1))


# --- the distance of statistics ---


def test_the_distance_is_zero_on_the_statistics_of_the_batch_itself():
    """A pass in training mode with momentum 1 sets the running statistics to the batch's; its variance is unbiased."""
    net, images = network(), torch.randn(7, 3, 8, 8)
    counts = {}
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.register_forward_hook(lambda layer, inputs, _: counts.update({layer: inputs[0][:, 0].numel()}))
    net.train()(images)
    for layer, count in counts.items():
        layer.running_var *= (count - 1) / count
    assert len(counts) == 2
    with Statistics(net.eval()) as statistics:
        net(images)
    assert float(statistics.distance().detach()) < 1e-4
    with Statistics(net) as statistics:
        net(2 * images)
    assert float(statistics.distance().detach()) > 0.5


def test_the_distance_is_that_of_the_statistics_that_batch_norm_computes():
    """Unsquared norms over channels, biased variance, the first layer ten times, summed over layers."""
    torch.manual_seed(1)
    first, second = nn.BatchNorm2d(4), nn.BatchNorm2d(5)
    layers = [nn.Conv2d(3, 4, 3), first, nn.ReLU(), nn.Conv2d(4, 5, 3), second, nn.Flatten(), nn.LazyLinear(2)]
    net, images = nn.Sequential(*layers), torch.randn(6, 3, 8, 8)
    net(images)
    net.eval()
    gaps = []
    for place, layer in ((1, first), (4, second)):
        features = net[:place](images)
        mean, variance = torch.zeros(features.shape[1]), torch.zeros(features.shape[1])
        F.batch_norm(features, mean, variance, training=True, momentum=1.0)
        count = features[:, 0].numel()
        biased = variance * (count - 1) / count
        gaps.append((mean - layer.running_mean).square().sum().sqrt() + (biased - layer.running_var).norm())
    with Statistics(net) as statistics:
        net(images)
    torch.testing.assert_close(statistics.distance(), 10 * gaps[0] + gaps[1])
    with Statistics(net, first=1.0) as statistics:
        net(images)
    torch.testing.assert_close(statistics.distance(), gaps[0] + gaps[1])
    assert not any(layer._forward_pre_hooks for layer in (first, second))


def test_total_variation_by_hand():
    """Differences 1, 2 across, 3, 4 down, 5 and 2 on the diagonals."""
    image = torch.tensor([[0.0, 1.0], [3.0, 5.0]])
    assert float(total_variation(image.view(1, 1, 2, 2))) == pytest.approx(5**0.5 + 5 + 5 + 2)


def test_the_loss_is_the_sum_of_its_parts():
    """On the first view, recomputed from the same random numbers."""
    settings = {"alpha_bn": 0.3, "alpha_tv": 0.2, "alpha_l2": 0.1}
    values = QUICK(batch=5, **settings).begin(task()).step(0)
    generator = torch.Generator().manual_seed(0)
    seen = view(torch.randn((5, 3, 8, 8), generator=generator), QUICK(), generator)
    ce = F.cross_entropy(network()(seen), torch.arange(5))
    torch.testing.assert_close(values["ce"], ce)
    prior = 0.2 * total_variation(seen) + 0.1 * seen.square().sum((1, 2, 3)).sqrt().mean()
    torch.testing.assert_close(values["loss"], ce + 0.3 * values["bn"] + prior)


# --- schedule, views, batches ---


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_the_rate_is_torchs_cosine(steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.25)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        assert cosine(0.25, step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        annealing.step()


def test_every_batch_begins_with_a_fresh_adam_at_the_full_rate():
    recovery = QUICK().begin(task())
    for iteration in range(8):
        recovery.step(iteration)
        if iteration % 4 < 3:
            (adam,) = recovery.optimizers
            assert type(adam) is torch.optim.Adam
            assert (adam.param_groups[0]["betas"], adam.param_groups[0]["eps"]) == ((0.5, 0.9), 1e-8)
            assert adam.param_groups[0]["lr"] == cosine(0.25, iteration % 4, 4)
            assert [int(state["step"]) for state in adam.state.values()] == [iteration % 4 + 1]


@pytest.mark.parametrize("seed", range(4))
def test_a_view_is_torchvisions_crop_flip_and_roll_of_the_whole_batch(seed):
    images = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(9))
    sre2l = SRe2L(roll=(-4, 4))
    generator, again = (torch.Generator().manual_seed(seed) for _ in range(2))
    seen = view(images, sre2l, generator)
    ((top, left, height, width),) = draw_boxes(1, (12, 12), (0.08, 1.0), (3 / 4, 4 / 3), generator=again).tolist()
    expected = tv.resized_crop(images, top, left, height, width, [12, 12], antialias=True)
    if torch.rand((), generator=again) < 0.5:
        expected = tv.horizontal_flip(expected)
    down, right = torch.randint(-4, 5, (2,), generator=again).tolist()
    torch.testing.assert_close(seen, expected.roll((down, right), (2, 3)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("crop_each", [False, True])
def test_a_view_is_shared_by_the_batch_or_each_images_own(crop_each):
    images = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(9)).expand(6, -1, -1, -1)
    seen = view(images, SRe2L(crop_each=crop_each), torch.Generator().manual_seed(0))
    same = [bool(torch.equal(image, seen[0])) for image in seen[1:]]
    assert all(same) if not crop_each else not any(same)


def test_without_crop_and_mirror_views_are_rolled_as_far_as_asked():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    sre2l, generator, found = SRe2L(crop=None, mirror=False, roll=(-1, 2)), torch.Generator().manual_seed(0), set()
    for _ in range(200):
        seen = view(image, sre2l, generator)
        place = int(seen.flatten().argmin())
        down, right = ((part + 4) % 8 - 4 for part in divmod(place, 8))
        assert torch.equal(seen, image.roll((down, right), (2, 3)))
        found.add((down, right))
    assert found == {(down, right) for down in range(-1, 3) for right in range(-1, 3)}


def test_flips_come_half_of_the_time():
    image, generator = torch.arange(64.0).view(1, 1, 8, 8), torch.Generator().manual_seed(0)
    flipped = [torch.equal(view(image, SRe2L(crop=None, roll=(0, 0)), generator), image.flip(3)) for _ in range(300)]
    assert 110 < sum(flipped) < 190


def test_a_batch_holds_one_image_of_each_of_its_classes():
    sre2l, one = QUICK(), task(ipc=3)
    batches = [(part // 3).tolist() for part in sre2l.batches(one)]
    assert batches == 3 * [[0, 1, 2], [3, 4]]
    assert sorted(torch.cat(sre2l.batches(one)).tolist()) == list(range(15))
    assert sre2l.length(one) == 6 * 4


def test_images_move_batch_by_batch_within_the_pixel_range():
    one = task()
    recovery, before = QUICK(lr=3.0).begin(one), torch.zeros(10, 3, 8, 8)
    for iteration in range(16):
        recovery.step(iteration)
        images = recovery.result().images
        moved = (images != before).flatten(1).any(1).nonzero().flatten().tolist()
        assert moved == [[0, 2, 4], [6, 8], [1, 3, 5], [7, 9]][iteration // 4]
        before = images
    mean, std = (torch.tensor(constants).view(3, 1, 1) for constants in (MEAN, STD))
    pixels = images * std + mean
    assert float(pixels.min()) == pytest.approx(0, abs=1e-6)
    assert float(pixels.max()) == pytest.approx(1, abs=1e-6)
    at_bound = (images == (1 - mean) / std).flatten(2).any(2)
    assert at_bound.any(0).all()


def test_in_pixel_space_the_range_is_from_0_to_1():
    images = QUICK(lr=3.0).distill(task(space="pixel")).images
    assert (float(images.min()), float(images.max())) == (0, 1)


def test_the_shortest_of_all_is_announced_with_its_length():
    """A single iteration: there is no second one to measure."""
    (phase,) = QUICK(iterations=1, batch=5).rehearse(task(ipc=1))
    assert (phase.name, phase.steps) == ("iterations", 1)
    assert phase.seconds > 0


def test_the_seed_decides():
    made = [QUICK().distill(task(seed=seed)).images for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


# --- what it recovers, through the command ---


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A store for all tests, so that they share a teacher."""
    return tmp_path_factory.mktemp("store")


def images_of(path: Path) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("images")


def test_the_teacher_knows_what_is_recovered_and_its_statistics_are_met(command, tmp_path, store, monkeypatch):
    teachers = []
    begin = SRe2L.begin
    monkeypatch.setattr(
        SRe2L, "begin", lambda self, task: teachers.append(task.trained(self.model)) or begin(self, task)
    )
    settings = ("method.distiller.iterations=120", f"paths.store={store}", "job.frames=3", "hydra.run.dir=run")
    outcome = command("distill", *DIGITS, *settings)
    assert outcome.code == 0, outcome.err
    assert "120 iterations of" in outcome.err
    with open("run/iterations.csv") as file:
        gaps = [float(row["bn"]) for row in csv.DictReader(file)]
    assert len(gaps) == 120
    first, last = sum(gaps[:10]) / 10, sum(gaps[-10:]) / 10
    assert last < 0.7 * first
    images, teacher = images_of(tmp_path / FILE.format(1)), teachers[-1]
    with torch.no_grad():
        assert float((teacher(images).argmax(1) == torch.arange(10)).float().mean()) >= 0.9
        noise = torch.randn(200, *images.shape[1:], generator=torch.Generator().manual_seed(0))
        assert float((teacher(noise).argmax(1) == torch.arange(10).repeat(20)).float().mean()) < 0.3


def test_a_given_teacher_is_the_one_that_images_are_recovered_from(command, tmp_path):
    """With the weights of a file nothing is trained, and other weights give other images."""
    torch.manual_seed(0)
    quick = (*DIGITS, "method.distiller.iterations=3", "overwrite=true")
    made = []
    for name in ("one.pt", "two.pt"):
        network = ConvNet(depth=3, width=128, num_classes=10, channels=1, size=8, norm="batch")
        torch.save(network.state_dict(), tmp_path / name)
        outcome = command("distill", *quick, f"method.teacher_weights=[{name}]")
        assert outcome.code == 0, outcome.err
        assert "trained the teacher" not in outcome.err
        made.append((tmp_path / FILE.format(1)).read_bytes())
    assert made[0] != made[1]
    again = command("distill", *quick[:-1], "method.teacher_weights=[one.pt]")
    assert "was made with weights" in again.sentence()


def test_stopped_within_a_batch_and_between_two_it_resumes_to_the_same_images(command, tmp_path, store):
    quick = (*DIGITS, "ipc=2", "method.distiller.iterations=5", "method.distiller.batch=4", f"paths.store={store}")
    quick += ("job.frames=0",)
    assert command("distill", *quick, "paths.distilled=undisturbed").code == 0
    for stop in (3, 10, 29):
        assert command("distill", *quick, f"job.stop_at={stop}").code == 0
    resumed = command("distill", *quick)
    assert "going on at iteration 29 of 30" in resumed.err
    undisturbed = tmp_path / "undisturbed/digits/sre2l/ipc2/distilled.safetensors"
    assert (tmp_path / FILE.format(2)).read_bytes() == undisturbed.read_bytes()
    images = images_of(undisturbed)
    assert len({image.numpy().tobytes() for image in images}) == 20


# --- the published settings ---


def configured(*overrides: str) -> SRe2L:
    from hydra import compose, initialize_config_dir

    schema.register()
    with initialize_config_dir(str(schema.folder()), version_base=None):
        config = compose("distill", overrides=["method=sre2l", *overrides])
    return build.build(config.method.distiller, "method.distiller")


@pytest.mark.parametrize(
    ("dataset", "published"),
    [
        ("cifar10", {"iterations": 1000, "batch": 10, "lr": 0.25, "alpha_bn": 0.01, "crop": None, "roll": [0, 4]}),
        ("cifar100", {"iterations": 1000, "batch": 100, "lr": 0.25, "alpha_bn": 0.01, "crop": None, "roll": [0, 4]}),
        ("tinyimagenet", {"iterations": 4000, "batch": 100, "lr": 0.1, "alpha_bn": 1.0, "roll": [-4, 4]}),
        ("imagenet1k", {"iterations": 4000, "batch": 100, "lr": 0.25, "alpha_bn": 0.01, "roll": [0, 32]}),
    ],
)
def test_published_settings(dataset, published):
    expected = {"model": "resnet18", "first_bn": 10.0, "alpha_tv": 0.0, "alpha_l2": 0.0, "crop": [0.08, 1.0]}
    expected |= {"crop_each": False, "mirror": not dataset.startswith("cifar")}
    assert configured(f"dataset={dataset}").parameters() == expected | published


def test_digits_are_never_flipped():
    assert configured("dataset=digits").mirror is False
    assert configured("dataset=mnist5k").mirror is False


def test_the_settings_for_imagenet_run_at_224_pixels_with_torchvisions_resnet18():
    distiller = configured("dataset=imagenet1k", "method.distiller.batch=3", "method.distiller.iterations=2")
    samples = Samples(torch.zeros(CLASSES, 3, 224, 224), torch.arange(CLASSES))
    model = {"_target_": "ddrank.models.torchvision_model", "name": "resnet18", "arch": "resnet18"}
    trained = lambda name: build_model(model, num_classes=CLASSES, channels=3, size=224).eval()  # noqa: E731
    large = task(ipc=1, make=trained)
    recovery = distiller.begin(replace(large, samples=samples))
    first, second = (recovery.step(iteration) for iteration in range(2))
    assert 0 < float(second["loss"]) < float(first["loss"])
    assert recovery.result().images.shape == (5, 3, 224, 224)


# --- what is refused ---


@pytest.mark.parametrize(
    ("settings", "place", "problem"),
    [
        ({"batch": 0}, {}, "method.distiller.batch is 0"),
        ({"lr": -1}, {}, "method.distiller.lr is -1"),
        ({"crop": [0.5, 2.0]}, {}, r"method.distiller.crop is \[0.5, 2.0\], expected the smallest"),
        ({"roll": [3, 1]}, {}, r"method.distiller.roll is \[3, 1\]"),
        ({}, {"norm": "instance"}, "the model 'resnet18' of method.distiller.model has no batch normalisation"),
        ({}, {"space": "zca"}, "choose method.made_in=normalized or pixel"),
    ],
)
def test_what_cannot_be_is_refused(settings, place, problem):
    with pytest.raises(InputError, match=problem):
        SRe2L(**settings).begin(task(**place))
