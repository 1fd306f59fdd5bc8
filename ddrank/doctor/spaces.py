"""Which space are the values of the images in? Every way to read them is held against the real data's statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddrank.data import Space
from ddrank.data.distilled import WRITTEN_BY_API
from ddrank.doctor.findings import SUSPECT, WRONG, Finding
from ddrank.doctor.readings import AS_PIXELS, FROM_BYTES, Reading

_OFFSET, _CONTRAST, _SPECTRUM = 0.25, 0.6, 0.35  # by how much distilled images differ from real ones, typically
_FACTORS = torch.logspace(-1, 1, 17, 4.5)  # of contrast, that methods may raise or lower all images by
_RAISED = 1.2  # misfit of the largest and smallest of them
_GOOD, _CLEARER, _CERTAIN = 3.0, 4.0, 12.0  # misfits: of a reading that may be right; differences that count
_RESCALED = 1.8  # the same, beyond what contrast explains, of readings that differ by brightness and contrast alone
_TIE = 1.0
_DRAWN = 0.1  # variance of the brightness of a real image, in units of the variance of all pixels
_SEEN = 100  # images that tell how large values are
_TOUCHES = 0.004  # of the range: about one of 255 levels
_WHITE = 0.35  # spread of the log power between coarse and fine
_HUGE = 9.0  # mean absolute value of pixels, whose range is 0 to 1
_UNIT = 1.05  # below which the largest value of pixels in [0, 1] lies, as resizing and rounding leave them
_BRIGHT = 128  # above which that of pixels from 0 to 255 lies
_SETTING, _ARGUMENT = "method.space", "method.space of ddrank.evaluate"  # what may say the space, beside the file
_DARKEST = 0.1  # mean of a channel, below which no image need have a value below 0


@dataclass(frozen=True)
class Fit:
    """How well the values fit one reading.

    Attributes:
        misfit: squared deviations of brightness, contrast and spectrum from the real data's, each in units of what is
            usual among distilled data.
        raised: the same, where all images may have been raised or lowered in contrast by one factor.
        outside: share of values that no pixel in [0, 1] becomes.
        exact: whether they end, in every channel, exactly where pixels do (clamped or real images).
    """

    reading: Reading
    misfit: float
    raised: float
    outside: float
    exact: bool


def fits(images: Tensor, real: Tensor, readings: Sequence[Reading]) -> list[Fit]:
    """How `images` (N, C, H, W), finite, fit each of `readings`; `real` are pixels (n, C, H, W) in [0, 1]."""
    power = _spectrum(images)
    return [_fit(images, power, reading.space.forward(real), reading) for reading in readings]


def best(candidates: Sequence[Fit], white: bool = False) -> Fit:
    """The fit to go on with: the first (what the configuration says), unless another is clearly better than even images
    of any contrast would fit.

    Of several that fit alike the first is taken: `candidates` go from the usual to the unusual. `white` says that the
    images are noise.
    """
    believed, *others = candidates
    if believed.exact:
        return believed
    exact = [fit for fit in others if fit.exact and fit.misfit < max(_GOOD, believed.misfit)]
    if exact:
        return min(exact, key=lambda fit: fit.misfit)
    fair = [fit for fit in others if fit.misfit < _GOOD and fit.outside < (0.25 if fit.misfit < 0.3 else 0.1)]
    if not fair:
        return believed
    least = min(fit.misfit for fit in fair)
    closest = next(fit for fit in fair if fit.misfit < least + _TIE)
    if white and "zca" in (believed.reading.name, closest.reading.name):
        return believed  # noise looks the same, whitened or not
    clearer, beyond = believed.misfit - closest.misfit > _CLEARER, believed.raised - closest.misfit
    if _rescaled(believed, closest):
        return closest if beyond > _RESCALED else believed
    return closest if clearer and beyond > _RAISED else believed


def white(images: Tensor) -> bool:
    """Whether `images` (N, C, H, W) are noise, as far as their power spectrum tells."""
    return float(_spectrum(images).clamp_min(1e-12).log().std()) < _WHITE


def who_says(metadata: Mapping[str, Any], own: bool) -> str:
    """What says in which space the images are: the file, where `own` is true and its metadata say so, or a setting."""
    if not own:
        return _SETTING
    return _ARGUMENT if metadata.get("written_by") == WRITTEN_BY_API else "the file"


def check_space(candidates: Sequence[Fit], images: Tensor, said_by: str) -> list[Finding]:
    """A finding where the values fit another reading than the believed one, which is the first of `candidates`.

    `said_by` tells where the belief comes from (see `who_says`).
    """
    believed, found = candidates[0], best(candidates, white(images))
    if found is believed:
        return check_possible(images, believed.reading.space, said_by)
    clear = found.exact if _rescaled(believed, found) else believed.misfit - found.misfit > _CERTAIN
    certain = clear or impossible(images, believed.reading.space)
    low, high = float(images.min()), float(images.max())
    what = (
        f"the values (from {low:.3g} to {high:.3g}, mean {float(images.mean()):.3g}, standard deviation "
        f"{float(images.std()):.3g}) fit {found.reading.words}"
    )
    return [_elsewhere(WRONG if certain else SUSPECT, what, said_by, believed.reading.name, found.reading.setting)]


def check_possible(images: Tensor, space: Space, said_by: str) -> list[Finding]:
    """A finding where finite values cannot be in `space`, in which `said_by` says they are, whatever they show."""
    reason = impossible(images, space)
    if reason is None:
        return []
    low, high = (float(bound) for bound in images.aminmax())
    setting = f"images brought to [0, 1] before saving, and {AS_PIXELS}"
    if low >= 0 and high < _UNIT:
        setting = AS_PIXELS
    elif low >= 0 and _BRIGHT < high <= 255:
        setting = FROM_BYTES
    return [_elsewhere(WRONG, reason, said_by, space.name, setting)]


def _elsewhere(severity: str, what: str, said_by: str, space: str, setting: str) -> Finding:
    """What is said of values that are not in the `space` that `said_by` says; `setting` mends it."""
    if said_by == _ARGUMENT:
        setting += ", given to ddrank.evaluate"
    elif said_by != _SETTING:
        setting = f"the file made again, which says of itself what wins ({setting})"
    return Finding(
        "value-space",
        severity,
        f"{what}, but {said_by} says {space}",
        "students, teachers and test images would live in another space than these images",
        setting,
    )


def _rescaled(one: Fit, other: Fit) -> bool:
    """Whether two readings differ by brightness and contrast alone, which methods change."""
    return "zca" not in (one.reading.name, other.reading.name)


def impossible(images: Tensor, space: Space) -> str | None:
    """Why finite values cannot be in `space`, whatever the images show; None where they can. A whitening need not be
    fitted."""
    low, high = (float(bound) for bound in images.aminmax())
    some = images[torch.linspace(0, len(images) - 1, min(_SEEN, len(images))).long()]
    if float((some if space.name == "zca" else space.inverse(some)).abs().mean()) > _HUGE:
        return f"the values reach from {low:.3g} to {high:.3g}, as pixels from 0 to 255 do"
    signed = space.name == "zca" or min(space.mean, default=0.0) > _DARKEST  # black is clearly below 0
    if signed and low >= 0 and high > low:
        return f"no value is below 0 (they reach from {low:.3g} to {high:.3g}), as of pixels"
    return None


def _fit(images: Tensor, power: Tensor, real: Tensor, reading: Reading) -> Fit:
    spectral = (_spectral(power, real) / _SPECTRUM) ** 2
    scaled = _scaled(images, real, torch.cat([torch.ones(1), _FACTORS])) + spectral
    raised = scaled[1:] + _RAISED * torch.linspace(-1, 1, len(_FACTORS)).square()
    low, high = _bounds(reading, real)
    span = high - low
    outside = ((images < low - 0.05 * span) | (images > high + 0.05 * span)).float().mean()
    least, most = images.amin((0, 2, 3)).view(1, -1, 1, 1), images.amax((0, 2, 3)).view(1, -1, 1, 1)
    exact = bool((((least - low) / span).abs() < _TOUCHES).all() and (((most - high) / span).abs() < _TOUCHES).all())
    misfit = float(scaled[0])
    return Fit(reading, misfit, min(misfit, float(raised.min())), float(outside), exact and reading.name != "zca")


def _scaled(images: Tensor, real: Tensor, factors: Tensor) -> Tensor:
    """How brightness and contrast of `images` fit those of `real` images times each of `factors`, as a misfit."""
    dims = (0, 2, 3)
    spread, real_spread = images.std(dims).clamp_min(1e-9), real.std(dims).clamp_min(1e-9)
    mean, real_mean = images.mean(0), real.mean(0)
    # The mean image of N images is off by 1/N of their variance by chance alone.
    chance = images.var(0, correction=0).mean() / max(1, len(images) - 1)
    difference = torch.stack([(mean - factor * real_mean).square().mean() for factor in factors])
    unit = torch.maximum(factors.square() * real_spread.square().mean(), spread.square().mean())
    offset = (difference - chance).clamp_min(0) / unit
    contrast = ((spread / real_spread).log() - factors.log().unsqueeze(1)).square().mean(1)
    return offset / (_OFFSET**2 + _DRAWN / len(images)) + contrast / _CONTRAST**2


def _bounds(reading: Reading, real: Tensor) -> tuple[Tensor, Tensor]:
    """Where black and white lie, (1, C, 1, 1) each; of whitened images, where the real ones end."""
    if reading.name == "zca":
        return real.amin((0, 2, 3), keepdim=True), real.amax((0, 2, 3), keepdim=True)
    black_and_white = torch.stack([torch.zeros(real.shape[1], 1, 1), torch.ones(real.shape[1], 1, 1)])
    low, high = reading.space.forward(black_and_white)
    return low[None], high[None]


def _spectral(power: Tensor, real: Tensor) -> float:
    """Root mean square difference of the log power spectra, apart from contrast and added white noise."""
    real_power = _spectrum(real)
    noise = torch.cat([torch.zeros(1), torch.logspace(-4, 2, 40)]).unsqueeze(1)
    difference = (real_power / real_power.mean() + noise).log() - power.clamp_min(1e-12).log()
    return float((difference - difference.mean(1, keepdim=True)).square().mean(1).sqrt().min())


def _spectrum(images: Tensor) -> Tensor:
    """Mean power in bands of spatial frequency, from coarse to fine."""
    height, width = images.shape[2:]
    parts = [torch.fft.fft2(part).abs().square().sum((0, 1)) for part in images.split(64)]
    power = torch.stack(parts).sum(0) / images.shape[:2].numel()
    y, x = torch.fft.fftfreq(height).abs().view(-1, 1), torch.fft.fftfreq(width).abs().view(1, -1)
    frequency = torch.hypot(x, y) * max(height, width)  # in waves an image
    band = (frequency.clamp_min(0.5).log2() * 2).round().long()
    band -= band.min()
    total = torch.zeros(int(band.max()) + 1).index_add_(0, band.flatten(), power.flatten())
    count = band.flatten().bincount(minlength=len(total))
    return (total / count.clamp_min(1))[(count > 0) & (torch.arange(len(total)) > 0)]
