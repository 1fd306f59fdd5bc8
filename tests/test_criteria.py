"""The criteria against hand-worked values and torch's own functions."""

import doctest
import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional as F

from ddrank import criteria
from ddrank.criteria import KL, MSEGT, CrossEntropy, SoftCrossEntropy, kl, mse_gt, soft_cross_entropy
from ddrank.errors import InputError

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), target, torch.randint(4, (5,), generator=generator)


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(criteria)
    assert result.attempted >= 4
    assert result.failed == 0


# Two classes, one image: the student's logits (log 3, 0) are the probabilities (3/4, 1/4) at T = 1.
STUDENT = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
TEACHER = torch.tensor([[0.0, 0.0]], dtype=torch.float64)


def test_cross_entropy_by_hand():
    assert CrossEntropy()(STUDENT, None, torch.tensor([0])).item() == pytest.approx(math.log(4 / 3))


def test_soft_cross_entropy_by_hand():
    expected = 0.5 * math.log(4 / 3) + 0.5 * math.log(4)
    assert soft_cross_entropy(STUDENT, TEACHER).item() == pytest.approx(expected)


def test_kl_by_hand():
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert kl(STUDENT, TEACHER).item() == pytest.approx(expected)


def test_temperature_divides_both_logits_by_hand():
    student, teacher = 2 * STUDENT, torch.tensor([[math.log(9), 0.0]], dtype=torch.float64)  # at T = 2: both (3/4, 1/4)
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert soft_cross_entropy(student, teacher, temperature=2).item() == pytest.approx(entropy)
    assert kl(student, teacher, temperature=2).item() == pytest.approx(0, abs=1e-12)


def test_mse_gt_by_hand():
    target = torch.tensor([[math.log(3) - 1, 2.0]], dtype=torch.float64)  # squared errors 1 and 4
    expected = 2 * 2.5 + 0.1 * math.log(4)
    assert mse_gt(STUDENT, target, torch.tensor([1]), mse_weight=2, ce_weight=0.1).item() == pytest.approx(expected)


def test_modules_agree_with_torch(batch):
    logits, target, label = batch
    log_q, p = F.log_softmax(logits / 3, 1), F.softmax(target / 3, 1)
    expected = {
        CrossEntropy(): F.cross_entropy(logits, label),
        SoftCrossEntropy(3.0): -(p * log_q).sum(1).mean(),
        KL(3.0): torch.distributions.kl_divergence(
            torch.distributions.Categorical(p), torch.distributions.Categorical(logits=logits / 3)
        ).mean(),
        MSEGT(): F.mse_loss(logits, target) + 0.025 * F.cross_entropy(logits, label),
    }
    for criterion, value in expected.items():
        torch.testing.assert_close(criterion(logits, target, label), value)


@pytest.mark.parametrize("criterion", [SoftCrossEntropy, KL])
def test_scale_loss_multiplies_by_the_squared_temperature(criterion, batch):
    torch.testing.assert_close(criterion(4.0, scale_loss=True)(*batch), 16 * criterion(4.0)(*batch))


def test_kl_and_soft_cross_entropy_have_the_same_gradient(batch):
    logits, target, label = batch
    ours, theirs = (torch.autograd.grad(c(5.0)(logits, target, label), logits)[0] for c in (KL, SoftCrossEntropy))
    torch.testing.assert_close(ours, theirs)


def test_kl_takes_probabilities_of_zero():
    target = torch.tensor([[0.0, -math.inf]], dtype=torch.float64)
    assert kl(STUDENT, target).item() == pytest.approx(math.log(4 / 3))


def test_needs():
    assert [c.needs for c in (CrossEntropy, SoftCrossEntropy, KL, MSEGT)] == [
        ("label",),
        ("soft",),
        ("soft",),
        ("soft", "label"),
    ]


@pytest.mark.parametrize("criterion", [SoftCrossEntropy, KL])
@pytest.mark.parametrize("temperature", [0, -1.5, None, math.nan])
def test_a_temperature_must_be_above_zero(criterion, temperature):
    with pytest.raises(InputError, match=rf"temperature of the criterion {criterion.__name__} is {temperature}"):
        criterion(temperature)


@pytest.mark.parametrize("criterion", [SoftCrossEntropy(), KL(), MSEGT()])
def test_missing_soft_labels_are_an_error(criterion, batch):
    with pytest.raises(InputError, match="needs soft labels"):
        criterion(batch[0], None, batch[2])


@pytest.mark.parametrize("criterion", [CrossEntropy(), MSEGT()])
def test_missing_class_indices_are_an_error(criterion, batch):
    with pytest.raises(InputError, match="needs class indices"):
        criterion(batch[0], batch[1], None)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "criterion").glob("*.yaml")))
def test_every_config_makes_its_criterion(name, batch):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+criterion={name}", "+method.temperature=20"]).criterion
    config = OmegaConf.to_container(config, resolve=True)
    assert config.pop("name") == name
    criterion = instantiate(config)
    kinds = {"ce": CrossEntropy, "sce": SoftCrossEntropy, "kl": KL, "mse_gt": MSEGT}
    assert type(criterion) is kinds[name]
    assert getattr(criterion, "temperature", 20) == 20
    assert criterion(*batch).isfinite()
