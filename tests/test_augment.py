"""Augmentations against loops over pixels, torchvision and hand-worked values."""

import doctest
import math
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from ddrank import config as schema
from ddrank.augment import DSA, CutMix, MixUp, Views, apply_dsa, cutmix, mix, mixed_loss, mixup
from ddrank.augment.dsa import OPERATIONS
from ddrank.augment.geometry import resized_crop
from ddrank.augment.views import draw_boxes
from ddrank.criteria import kl, mse_gt, soft_cross_entropy
from ddrank.data import Space
from ddrank.errors import InputError

CONF = Path(__file__).parents[1] / "conf"
ALONE = {  # strengths that leave one operation
    "color": {"saturation": 2.0, "brightness": 1.0, "contrast": 0.5},
    "crop": {"crop": 0.25},
    "cutout": {"cutout": 0.5},
    "flip": {"flip": 0.5},
    "scale": {"scale": 1.2},
    "rotate": {"rotate": 15.0},
}
NOTHING = dict.fromkeys(["flip", "rotate", "saturation", "brightness", "contrast", "scale", "crop", "cutout"], 0)


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def only(operation: str) -> DSA:
    return DSA(**NOTHING | ALONE[operation])


def bilinear(image, y: float, x: float):
    """Pixel (y, x) of `image` (C, H, W) between its pixels, 0 outside."""
    value = torch.zeros(len(image), dtype=image.dtype)
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                value += image[:, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return value


# --- DSA: the operations ---


def test_color_by_formula():
    images, params = torch.randn(4, 3, 5, 5), only("color").draw(4, (5, 5))
    for image, (brightness, saturation, contrast), out in zip(
        images, params.color, apply_dsa(images, params), strict=True
    ):
        image = image + brightness
        grey = (image[0] + image[1] + image[2]) / 3
        image = torch.stack([grey + saturation * (channel - grey) for channel in image])
        torch.testing.assert_close(out, image.mean() + contrast * (image - image.mean()))


def test_color_leaves_the_saturation_of_one_channel_alone():
    dsa = DSA(**NOTHING | {"saturation": 2.0})
    images = torch.randn(4, 1, 5, 5)
    torch.testing.assert_close(dsa(images), images)


def test_crop_shifts_and_fills_with_zero():
    images, params = torch.randn(20, 3, 8, 6), only("crop").draw(20, (8, 6))
    assert len(params.crop.unique(dim=0)) > 5
    for image, (down, right), out in zip(images, params.crop.tolist(), apply_dsa(images, params), strict=True):
        expected = torch.zeros_like(image)
        for i in range(8):
            for j in range(6):
                if 0 <= i + down < 8 and 0 <= j + right < 6:
                    expected[:, i, j] = image[:, i + down, j + right]
        assert torch.equal(out, expected)


def test_cutout_zeroes_a_clipped_square():
    images, params = torch.randn(20, 3, 8, 8), only("cutout").draw(20, (8, 8))
    for image, (top, left, bottom, right), out in zip(
        images, params.cutout.tolist(), apply_dsa(images, params), strict=True
    ):
        assert bottom - top == right - left == 4
        expected = image.clone()
        for i in range(8):
            for j in range(8):
                if top <= i < bottom and left <= j < right:
                    expected[:, i, j] = 0
        assert torch.equal(out, expected)


def test_flip_mirrors_the_width_of_half_of_the_images():
    images = torch.randn(400, 1, 4, 4)
    out = only("flip")(images)
    flipped = (out == images.flip(3)).flatten(1).all(1)
    assert (flipped | (out == images).flatten(1).all(1)).all()
    assert 0.4 < flipped.float().mean() < 0.6


def test_scale_multiplies_the_coordinates_around_the_centre():
    images, params = torch.randn(3, 2, 7, 6), only("scale").draw(3, (7, 6))
    for image, (across, down), out in zip(images, params.scale.tolist(), apply_dsa(images, params), strict=True):
        for i in range(7):
            for j in range(6):
                expected = bilinear(image, 3 + down * (i - 3), 2.5 + across * (j - 2.5))
                torch.testing.assert_close(out[:, i, j], expected, atol=1e-5, rtol=1e-5)


def test_rotate_turns_the_coordinates_around_the_centre():
    images, params = torch.randn(3, 2, 7, 7), only("rotate").draw(3, (7, 7))
    assert params.rotate.abs().min() > 0.01
    for image, angle, out in zip(images, params.rotate.tolist(), apply_dsa(images, params), strict=True):
        for i in range(7):
            for j in range(7):
                x, y = j - 3, i - 3
                source_y = 3 + math.sin(angle) * x + math.cos(angle) * y
                source_x = 3 + math.cos(angle) * x - math.sin(angle) * y
                torch.testing.assert_close(out[:, i, j], bilinear(image, source_y, source_x), atol=1e-5, rtol=1e-5)


def test_rotate_agrees_with_torchvision_inside_the_image():
    images = torch.randn(1, 3, 16, 16)
    params = only("rotate").draw(1, (16, 16))
    turned = tv.rotate(images, math.degrees(params.rotate.item()), tv.InterpolationMode.BILINEAR)
    torch.testing.assert_close(apply_dsa(images, params)[..., 4:12, 4:12], turned[..., 4:12, 4:12], atol=1e-4, rtol=0)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_are_differentiable_in_the_images(operation):
    images = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    params = only(operation).draw(2, (4, 4))
    assert torch.autograd.gradcheck(lambda x: apply_dsa(x, params), images)


def test_mixed_operations_are_differentiable_in_the_images():
    images = torch.randn(4, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    params = DSA().draw_shared((4, 4), groups=4)
    assert len(params.active.unique(dim=0)) > 1
    assert torch.autograd.gradcheck(lambda x: apply_dsa(x, params), images)


# --- DSA: the draws ---


def test_each_operation_is_drawn_equally_often():
    active = DSA().draw_shared((32, 32), groups=6000).active
    assert (active.sum(1) == 1).all()
    torch.testing.assert_close(active.float().mean(0), torch.full((6,), 1 / 6), atol=0.02, rtol=0)


@pytest.mark.parametrize(("left_out", "change"), [("flip", {"mirror": False}), ("rotate", {"rotate": 0})])
def test_operations_can_be_left_out(left_out, change):
    dsa = DSA(**change)
    assert set(dsa.operations) == set(OPERATIONS) - {left_out}
    active = dsa.draw_shared((32, 32), groups=5000).active.float().mean(0)
    expected = torch.tensor([0.0 if name == left_out else 1 / 5 for name in OPERATIONS])
    torch.testing.assert_close(active, expected, atol=0.025, rtol=0)


def test_parameters_fill_their_ranges():
    params = DSA().draw_shared((32, 13), groups=20000)
    low, high = params.color.amin(0), params.color.amax(0)
    torch.testing.assert_close(low, torch.tensor([-0.5, 0.0, 0.5]), atol=0.01, rtol=0)
    torch.testing.assert_close(high, torch.tensor([0.5, 2.0, 1.5]), atol=0.01, rtol=0)
    assert params.crop[:, 0].unique().tolist() == list(range(-4, 5))
    assert params.crop[:, 1].unique().tolist() == list(range(-2, 3))  # floor(13 / 8 + 0.5) = 2
    top, left, bottom, right = params.cutout.unbind(1)
    assert (bottom - top).unique().tolist() == [16]
    assert (right - left).unique().tolist() == [7]  # floor(6.5 + 0.5)
    assert (top + 8).unique().tolist() == list(range(33))  # an even side: centres 0 to 32
    assert (left + 3).unique().tolist() == list(range(13))  # an odd one: 0 to 12
    assert params.flip.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert params.scale.min().item() == pytest.approx(1 / 1.2, abs=1e-3)
    assert params.scale.max().item() == pytest.approx(1.2, abs=1e-3)
    assert params.rotate.min().item() == pytest.approx(-math.radians(15), abs=1e-3)
    assert params.rotate.max().item() == pytest.approx(math.radians(15), abs=1e-3)


def test_plain_mode_has_one_operation_and_parameters_for_each_image():
    params = DSA().draw(50, (32, 32))
    assert len(params.active.unique(dim=0)) == 1
    assert len(params.rotate.unique()) > 40
    assert len(params.color.unique(dim=0)) > 40


@pytest.mark.parametrize("operation", OPERATIONS)
def test_siamese_mode_shares_one_draw_between_batches_of_any_size(operation):
    image = torch.randn(1, 3, 8, 8)
    params = only(operation).draw_shared((8, 8))
    real, synthetic = apply_dsa(image.expand(5, -1, -1, -1), params), apply_dsa(image, params)
    assert torch.equal(real, synthetic.expand_as(real))


def test_groups_have_their_own_operation_and_parameters():
    params = DSA().draw_shared((8, 8), groups=12)
    assert len(params.active.unique(dim=0)) > 2
    images = torch.randn(30, 3, 8, 8)
    group_of = torch.randint(12, (30,))
    out = apply_dsa(images, params[group_of])
    for image, group, result in zip(images, group_of.tolist(), out, strict=True):
        torch.testing.assert_close(result, apply_dsa(image[None], params[[group]])[0], atol=1e-6, rtol=1e-5)


def test_multiple_mode_applies_everything_in_order():
    dsa, images = DSA(mode="multiple"), torch.randn(5, 3, 8, 8)
    params = dsa.draw(5, (8, 8))
    expected = images
    for name in ("color", "crop", "cutout", "flip", "scale", "rotate"):
        expected = OPERATIONS[name](expected, getattr(params, name))
    assert torch.equal(apply_dsa(images, params), expected)
    assert DSA(mode="multiple", mirror=False).draw(5, (8, 8)).active.sum(1).tolist() == [5] * 5


def test_a_generator_makes_draws_independent_of_the_global_one():
    draws = [DSA().draw(3, (8, 8), torch.Generator().manual_seed(7)).color for _ in range(2)]
    assert torch.equal(*draws)


def test_parameters_must_fit_the_images():
    with pytest.raises(ValueError, match="3 rows of DSA parameters do not fit 4 images"):
        apply_dsa(torch.zeros(4, 3, 8, 8), DSA().draw(3, (8, 8)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "both"}, "mode of DSA is 'both'"),
        ({"flip": 1.5}, "'flip' of DSA is 1.5"),
        ({"scale": 0.5}, "'scale' of DSA is 0.5"),
        ({"rotate": -1}, "'rotate' of DSA is -1"),
        ({"contrast": None}, "'contrast' of DSA is None"),
        (NOTHING, "use aug=none"),
    ],
)
def test_bad_strengths_are_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        DSA(**arguments)


# --- mixing ---


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(mix)
    assert result.attempted
    assert result.failed == 0


def test_mixup_by_loop():
    images = torch.randn(3, 2, 4, 4)
    out = mixup(images, torch.tensor([2, 0, 1]), 0.25)
    for i, partner in enumerate([2, 0, 1]):
        torch.testing.assert_close(out[i], 0.25 * images[i] + 0.75 * images[partner])


def test_cutmix_by_loop():
    images = torch.randn(3, 2, 5, 6)
    out = cutmix(images, torch.tensor([2, 0, 1]), (1, 2, 4, 6))
    for n, partner in enumerate([2, 0, 1]):
        for i in range(5):
            for j in range(6):
                source = partner if 1 <= i < 4 and 2 <= j < 6 else n
                assert torch.equal(out[n, :, i, j], images[source, :, i, j])


def test_mixup_callback_says_how_it_mixed():
    batch = started(MixUp(lam=0.8), torch.randn(6, 3, 8, 8))
    images, partner, lam = batch["before"], batch["partner"], batch["lam"]
    assert partner.dtype == torch.int64
    assert partner.sort().values.tolist() == list(range(6))
    assert 0 < lam < 1
    torch.testing.assert_close(batch["image"], lam * images + (1 - lam) * images[partner])


def test_cutmix_callback_corrects_its_share_to_the_pasted_area():
    for _ in range(100):
        batch = started(CutMix(), torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 9, 8))
        own = batch["image"] == batch["before"]
        moved = batch["partner"] != torch.arange(4)
        for kept in own[moved].flatten(1).float().mean(1).tolist():
            assert batch["lam"] == pytest.approx(kept)


@pytest.mark.parametrize("size", [(32, 32), (7, 9), (64, 31)])
def test_cutmix_boxes_are_torchvisions(size):
    height, width = size
    theirs = v2.CutMix(num_classes=2)
    for seed in range(100):
        lam = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
        theirs._dist = SimpleNamespace(sample=lambda shape, lam=lam: torch.tensor(lam))
        torch.manual_seed(seed)
        across, down = int(torch.randint(width, (1,))), int(torch.randint(height, (1,)))
        torch.manual_seed(seed)
        expected = theirs.make_params([torch.zeros(2, 3, height, width)])
        left, top, right, bottom = expected["box"]
        box = mix.cut_box(float(torch.tensor(lam)), (down, across), size)
        assert box == (top, left, bottom, right)
        assert mix.kept_share(box, size) == pytest.approx(expected["lam_adjusted"])


def test_cutmix_boxes_have_the_mean_area_of_clipped_squares():
    kept = torch.tensor([started(CutMix(), torch.zeros(1, 1, 256, 256))["lam"] for _ in range(2000)])
    # A square of side r = sqrt(u), u ~ U[0, 1], around a uniform point keeps r (1 - r / 4) of its side on average.
    assert kept.mean().item() == pytest.approx(1 - (1 / 2 - 1 / 5 + 1 / 48), abs=0.02)


@pytest.mark.parametrize(("callback", "key"), [(MixUp(lam=0.8), "lam"), (MixUp(lam=8.0), "lam")])
def test_share_of_mixup_is_beta_distributed(callback, key):
    lam = torch.tensor([started(callback, torch.zeros(2, 1, 2, 2))[key] for _ in range(2000)])
    assert lam.mean().item() == pytest.approx(0.5, abs=0.03)
    assert lam.var().item() == pytest.approx(1 / (4 * (2 * callback.lam + 1)), rel=0.1)  # of Beta(a, a)


@pytest.mark.parametrize(("mixing", "argument"), [(MixUp, "lam"), (CutMix, "beta")])
@pytest.mark.parametrize("value", [0, -1, None])
def test_the_beta_distribution_needs_a_positive_number(mixing, argument, value):
    with pytest.raises(InputError, match=f"'{argument}' of {mixing.__name__} is {value}"):
        mixing(**{argument: value})


def test_mixing_twice_is_an_error():
    batch = started(MixUp(), torch.zeros(2, 1, 4, 4))
    with pytest.raises(InputError, match="mixed already"):
        CutMix().on_train_batch_start(None, None, batch, 0)


# Two images, mixed with each other at 0.75. Probabilities of the student: (3/4, 1/4) and (1/2, 1/2).
LOGITS = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]], dtype=torch.float64)
LABEL = torch.tensor([0, 1])
TARGET = torch.tensor([[2.0, -1.0], [0.5, 1.0]], dtype=torch.float64)
MIXED = {"partner": torch.tensor([1, 0]), "lam": 0.75}


def test_hard_labels_are_mixed_by_hand():
    first = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    loss = mixed_loss(lambda target, label: F.cross_entropy(LOGITS, label), None, LABEL, MIXED, fixed_target=True)
    assert loss.item() == pytest.approx((first + math.log(2)) / 2)


@pytest.mark.parametrize("criterion", [soft_cross_entropy, kl])
def test_fixed_soft_labels_are_mixed_as_probabilities(criterion):
    logits = LOGITS.clone().requires_grad_()
    ours = mixed_loss(lambda target, label: criterion(logits, target, 2.0), TARGET, LABEL, MIXED, fixed_target=True)
    probabilities = F.softmax(TARGET / 2, 1)
    mixed = 0.75 * probabilities + 0.25 * probabilities.flip(0)
    theirs = criterion(logits, 2 * mixed.log(), 2.0)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits))
    if criterion is soft_cross_entropy:
        torch.testing.assert_close(ours, theirs)


def test_mse_gt_mixes_logits_and_classes():
    logits = LOGITS.clone().requires_grad_()
    ours = mixed_loss(lambda target, label: mse_gt(logits, target, label), TARGET, LABEL, MIXED, fixed_target=True)
    mixed = torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64)
    hard = F.cross_entropy(logits, mixed)
    theirs = F.mse_loss(logits, 0.75 * TARGET + 0.25 * TARGET.flip(0)) + 0.025 * hard
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits))


def test_labels_a_teacher_gave_to_the_mixed_view_stay():
    ours = mixed_loss(lambda target, label: mse_gt(LOGITS, target, label), TARGET, LABEL, MIXED, fixed_target=False)
    hard = F.cross_entropy(LOGITS, torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64))
    torch.testing.assert_close(ours, F.mse_loss(LOGITS, TARGET) + 0.025 * hard)
    soft = mixed_loss(lambda target, label: kl(LOGITS, target), TARGET, None, MIXED, fixed_target=False)
    torch.testing.assert_close(soft, kl(LOGITS, TARGET))


def test_unmixed_batches_have_the_plain_loss():
    loss = mixed_loss(lambda target, label: kl(LOGITS, target), TARGET, LABEL, {}, fixed_target=True)
    assert torch.equal(loss, kl(LOGITS, TARGET))


# --- views ---


def view(name: str, **arguments) -> Views:
    return Views([{name: arguments}])


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (12, 5)])
def test_resized_crops_agree_with_torchvision(size, antialias):
    images, boxes = torch.randn(50, 3, 10, 14), draw_boxes(50, (10, 14), (0.08, 1.0), (3 / 4, 4 / 3))
    out = resized_crop(images, boxes, size, antialias)
    for image, box, result in zip(images, boxes.tolist(), out, strict=True):
        expected = tv.resized_crop(image, *box, size=list(size), antialias=antialias)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_boxes_lie_in_the_image_and_in_their_ranges():
    top, left, height, width = draw_boxes(5000, (64, 64), (0.2, 0.6), (0.5, 2.0)).unbind(1)
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == (left + width).max() == 64
    area, ratio = height * width / 64**2, width / height
    assert 0.18 < area.min() < 0.22
    assert 0.58 < area.max() < 0.62
    assert area.mean().item() == pytest.approx(0.4, abs=0.01)
    assert 0.45 < ratio.min() < 0.55
    assert 1.8 < ratio.max() < 2.2
    assert ratio.log().mean().item() == pytest.approx(0, abs=0.02)


def test_boxes_that_never_fit_become_the_largest_central_one():
    assert draw_boxes(2, (10, 40), (1.0, 1.0), (1.0, 2.0)).tolist() == [[0, 10, 10, 20]] * 2
    assert draw_boxes(2, (40, 10), (1.0, 1.0), (0.5, 1.0)).tolist() == [[10, 0, 20, 10]] * 2


@pytest.mark.parametrize("ratio", [(1.0, 1.0), (3 / 4, 4 / 3)])
def test_a_crop_of_the_whole_area_is_the_identity(ratio):
    images = torch.randn(20, 3, 28, 28)
    assert torch.equal(view("RandomResizedCrop", size=28, scale=(1, 1), ratio=ratio)(images), images)


def test_padded_crops_by_search_with_black_around():
    black = torch.tensor(Space("normalized", (0.5, 0.3), (0.25, 0.1)).black(channels=2, size=6))
    torch.testing.assert_close(black, torch.tensor([-2.0, -3.0]))  # (0 - 0.5) / 0.25 and (0 - 0.3) / 0.1
    views = Views([{"RandomCrop": {"size": 6, "padding": 2}}], black=black.tolist())
    images = torch.randn(60, 2, 6, 6)
    padded = black.view(1, 2, 1, 1).repeat(60, 1, 10, 10)
    padded[:, :, 2:8, 2:8] = images
    corners = set()
    for image, out in zip(padded, views(images), strict=True):
        found = [(i, j) for i in range(5) for j in range(5) if torch.equal(image[:, i : i + 6, j : j + 6], out)]
        assert len(found) == 1
        corners.update(found)
    assert {i for i, _ in corners} == {j for _, j in corners} == set(range(5))


def test_black_of_pixels_and_of_whitened_images():
    assert Space("pixel").black(3, 4) == [0, 0, 0]
    whitened = Space("zca", zca_mean=torch.full((12,), 0.5), zca_matrix=2 * torch.eye(12))
    assert whitened.black(3, 2) == [-1, -1, -1]


def test_padding_is_zero_without_black():
    out = view("RandomCrop", size=4, padding=4)(torch.ones(50, 1, 4, 4))
    assert out.unique().tolist() == [0, 1]


def test_crops_without_padding_are_smaller_windows():
    out = view("RandomCrop", size=(2, 3))(torch.arange(20.0).view(1, 1, 4, 5).repeat(200, 1, 1, 1))
    assert out.shape == (200, 1, 2, 3)
    assert out[:, 0, 0, 0].unique().tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]
    assert (out[:, 0, 1, 2] - out[:, 0, 0, 0]).unique().tolist() == [7]


def test_flips_are_independent_and_can_be_left_out():
    images = torch.randn(400, 1, 4, 4)
    out = view("RandomHorizontalFlip", p=0.5)(images)
    flipped = (out == images.flip(3)).flatten(1).all(1)
    assert (flipped | (out == images).flatten(1).all(1)).all()
    assert 0.4 < flipped.float().mean() < 0.6
    assert torch.equal(view("RandomHorizontalFlip", p=1.0)(images), images.flip(3))
    assert torch.equal(Views([{"RandomHorizontalFlip": {"p": 1.0}}], mirror=False)(images), images)


@pytest.mark.parametrize(("factor", "strips"), [(2, [[0, 1, 2], [3, 4, 5]]), (4, [[0, 1], [2, 3], [4], [5]])])
def test_patches_are_shuffled_in_strips_of_width_and_height(factor, strips):
    grid = 10 * torch.arange(6.0)[:, None] + torch.arange(6.0)
    out = view("ShufflePatches", factor=factor)(grid.expand(60, 1, 6, 6))
    orders = set()
    for image in out[:, 0]:
        columns, rows = image[0] % 10, image[:, 0] // 10
        assert torch.equal(image, 10 * rows[:, None] + columns)
        for order in (columns.tolist(), rows.tolist()):
            rest = list(order)
            while rest:  # the order is made of whole strips
                strip = next(strip for strip in strips if strip[0] == rest[0])
                assert rest[: len(strip)] == strip
                rest = rest[len(strip) :]
            assert sorted(order) == list(range(6))
        orders.add((tuple(columns.tolist()), tuple(rows.tolist())))
    assert len(orders) == 4 if factor == 2 else len(orders) > 40


def test_one_patch_is_the_identity():
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(view("ShufflePatches", factor=1)(images), images)


def test_noise_has_its_mean_and_sigma():
    noise = view("GaussianNoise", mean=0.5, sigma=0.1)(torch.zeros(100, 3, 8, 8))
    assert noise.mean().item() == pytest.approx(0.5, abs=0.005)
    assert noise.std().item() == pytest.approx(0.1, abs=0.005)


def test_resize_and_centre_crop_are_torchvisions():
    images = torch.randn(2, 3, 12, 16)
    assert torch.equal(view("Resize", size=9)(images), tv.resize(images, [9]))
    assert torch.equal(view("Resize", size=[9, 5])(images), tv.resize(images, [9, 5]))
    assert torch.equal(view("CenterCrop", size=7)(images), tv.center_crop(images, [7, 7]))


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([{"RandomErasing": {}}], "RandomErasing is unknown: use one of RandomResizedCrop, RandomCrop, "),
        ([{"RandomCrop": {"size": 4, "pad": 1}}], "has no argument 'pad': it has size, padding, fill"),
        ([{"ToTensor": {}}], "ToTensor is a decoding step, but the images are already normalised"),
        ([{"Normalize": {"mean": [0.5], "std": [0.5]}}], "Normalize is a decoding step"),
        ([{"RandomCrop": {}}], r"RandomCrop cannot have .*missing.*'size'"),
        ([{"RandomCrop": {"size": 0}}], "RandomCrop cannot have .*size is 0"),
        ([{"RandomCrop": {"size": 4, "padding": -1}}], "padding is -1"),
        ([{"RandomResizedCrop": {"size": 4, "scale": [1.0, 0.5]}}], r"scale is \[1.0, 0.5\]"),
        ([{"RandomHorizontalFlip": {"p": 2}}], "p is 2"),
        ([{"ShufflePatches": {"factor": 0}}], "factor is 0"),
        ([{"GaussianNoise": {"clip": True}}], "clip is True"),
        ([{"RandomCrop": 4}], "arguments of the view transform RandomCrop are 4"),
        (["RandomCrop"], "A view transform is RandomCrop"),
    ],
)
def test_bad_transforms_are_errors(transforms, message):
    with pytest.raises(InputError, match=message):
        Views(OmegaConf.create(transforms))


def test_crops_must_fit_the_images():
    with pytest.raises(InputError, match="does not fit images of shape"):
        view("RandomCrop", size=8)(torch.zeros(2, 3, 4, 4))
    with pytest.raises(InputError, match="3 channels of fill does not fit"):
        Views([{"RandomCrop": {"size": 4}}], black=[0.5] * 3)(torch.zeros(2, 1, 4, 4))


# --- callbacks ---

EVERYTHING = [
    {"RandomResizedCrop": {"size": 8}},
    {"RandomCrop": {"size": 8, "padding": 2}},
    {"RandomHorizontalFlip": {}},
    {"ShufflePatches": {"factor": 2}},
    {"GaussianNoise": {}},
]
CALLBACKS = [DSA(), DSA(mode="multiple"), MixUp(), CutMix(), Views(EVERYTHING)]


def started(callback, images):
    """The batch after a training batch of `images` has started; "before" holds a copy of the images."""
    batch = {"image": images, "before": images.clone()}
    callback.on_train_batch_start(None, None, batch, 0)
    return batch


@pytest.mark.parametrize("callback", CALLBACKS, ids=lambda callback: type(callback).__name__)
def test_callbacks_replace_the_images_and_leave_the_tensor_alone(callback):
    images = torch.randn(8, 3, 8, 8)
    for _ in range(12):
        batch = started(callback, images)
        assert torch.equal(images, batch["before"])
    assert batch["image"].dtype == torch.float32
    assert not torch.equal(batch["image"], images)


@pytest.mark.parametrize("callback", CALLBACKS, ids=lambda callback: type(callback).__name__)
def test_one_seed_gives_one_result(callback):
    images, results = torch.randn(8, 3, 8, 8), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(torch.stack([started(callback, images)["image"] for _ in range(3)]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


class Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.seen = nn.Linear(4, 1), []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return self.net(batch["image"].flatten(1)).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_training_sees_the_augmented_images(tmp_path):
    module = Recorder()
    data = [{"image": torch.rand(1, 2, 2), "index": i} for i in range(4)]
    callbacks = [view("Resize", size=2), Views([{"GaussianNoise": {"mean": 10.0, "sigma": 0.0}}]), MixUp()]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))
    (batch,) = module.seen
    original = torch.stack([entry["image"] for entry in data])[batch["index"]]
    torch.testing.assert_close(batch["image"], mixup(original + 10, batch["partner"], batch["lam"]))


# --- configs ---

AUGS = {
    "none": [],
    "dsa": [DSA],
    "mixup": [MixUp],
    "cutmix": [CutMix],
    "crop_flip": [Views],
    "crop_mixup": [Views, MixUp],
    "rrc": [Views],
    "rrc_cutmix": [Views, CutMix],
    "rded": [Views, CutMix],
    "edc": [Views, CutMix],
}


def test_every_config_is_listed_here():
    assert {path.stem for path in (CONF / "aug").glob("*.yaml")} == set(AUGS)


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("name", AUGS)
def test_every_config_makes_its_callbacks_in_order(name, mirror):
    schema.register()
    dataset = f"{{size: 8, mirror: {mirror}, crop_padding: 1, crop_area: 0.5, rded_factor: 2, "
    dataset += "mean: [0.5], std: [0.25]}"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        aug = compose(overrides=[f"+aug={name}", f"+dataset={dataset}"]).aug
    assert aug.name == name
    callbacks = [instantiate(aug[key]) for key in aug if key != "name"]
    assert [type(callback) for callback in callbacks] == AUGS[name]
    batch = {"image": torch.randn(4, 1, 8, 8)}
    for callback in callbacks:
        callback.on_train_batch_start(None, None, batch, 0)
        if isinstance(callback, DSA):
            assert ("flip" in callback.operations) is mirror
        if isinstance(callback, Views):
            assert any("Flip" in type(step).__name__ for step in callback.steps) is mirror
    assert batch["image"].shape == (4, 1, 8, 8)
