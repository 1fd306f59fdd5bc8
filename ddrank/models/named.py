"""Networks of torchvision and timm by name, fitted to the dataset's classes, channels and image size."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Callable, Sequence

import torch
from torch import nn

from ddrank.errors import InputError
from ddrank.models.resnet import SMALL

# torchvision and timm are imported where they are used: together they take seconds, and most commands need neither.

PROBED = (8, 16, 24, 28, 32, 48, 64, 75, 96, 128, 160, 192, 224, 299)  # pixels: sizes tried for an error message


def torchvision_model(arch: str, *, num_classes: int, channels: int, size: int) -> nn.Module:
    """The classification network `arch` of torchvision.models, without weights.

    The first convolution gets `channels` inputs; up to 64 pixels the stem keeps the resolution (see `adapt`; for
    ResNets this is the "modified ResNet" of SRe2L and of ddranking). Vision transformers are made for `size`, auxiliary
    classifiers are left out.

    Raises InputError when torchvision has no such network, and when it cannot process images of this size.
    """
    from torchvision import models

    _check_known("torchvision", arch, models.list_models(models))

    def make(side: int) -> nn.Module:
        arguments = {}
        if arch in ("googlenet", "inception_v3"):
            arguments = {"aux_logits": False, "init_weights": True}
        elif arch.startswith("vit_"):
            arguments = {"image_size": side}
        elif arch.startswith("maxvit_"):
            arguments = {"input_size": (side, side)}
        network = models.get_model(arch, weights=None, num_classes=num_classes, **arguments)
        adapt(network, side <= SMALL, channels)
        return network

    return _fitting(make, f"torchvision's {arch}", num_classes, channels, size)


def timm_model(arch: str, *, num_classes: int, channels: int, size: int) -> nn.Module:
    """The network `arch` of timm, without weights.

    Networks that take `img_size` (vision transformers and the like) are made for `size` as they are; the stem of the
    others keeps the resolution up to 64 pixels (see `adapt`).

    Raises InputError when timm has no such network, and when it cannot process images of this size.
    """
    import timm

    if not (isinstance(arch, str) and timm.is_model(arch)):
        _check_known("timm", arch, timm.list_models())
    arguments = {"pretrained": False, "num_classes": num_classes, "in_chans": channels}
    takes_size = True
    try:
        with torch.device("meta"):
            timm.create_model(arch, img_size=size, **arguments)
    except Exception as error:  # any other failure is one of this size, and is met again below
        takes_size = not (isinstance(error, TypeError) and "img_size" in str(error))

    def make(side: int) -> nn.Module:
        if takes_size:
            return timm.create_model(arch, img_size=side, **arguments)
        network = timm.create_model(arch, **arguments)
        adapt(network, side <= SMALL)
        return network

    return _fitting(make, f"timm's {arch}", num_classes, channels, size)


def adapt(network: nn.Module, small: bool, channels: int | None = None) -> None:
    """Fit the stem to `small` images, and the first convolution to `channels` where they are given; in place.

    A small stem keeps the resolution where the network's own begins with an overlapping convolution of stride 2: a
    7 x 7 one becomes 3 x 3 with stride 1, a 3 x 3 one gets stride 1, and a max-pooling that follows in the stem is
    removed. AlexNet's 11 x 11 with stride 4 becomes 5 x 5 with stride 1 and keeps its pooling, as in ddranking.
    Networks that begin with stride 1 (VGG), with patches (ConvNeXt, Swin, ViT) or with several convolutions side by
    side (FastViT) stay as they are.
    """
    convs = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    name, conv = convs[0]
    small = small and sum(other.in_channels == conv.in_channels for _, other in convs) == 1
    channels = channels or conv.in_channels
    kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
    if small and (kernel, stride) == ((7, 7), (2, 2)):
        kernel, stride, padding = (3, 3), (1, 1), (1, 1)
    elif small and (kernel, stride) == ((11, 11), (4, 4)):
        kernel, stride, padding = (5, 5), (1, 1), (2, 2)
    elif small and (kernel, stride) == ((3, 3), (2, 2)):
        stride = (1, 1)
    if small and conv.stride == (2, 2) and stride == (1, 1):
        _remove_stem_pooling(network, name)
    if conv.in_channels == channels and kernel == conv.kernel_size:
        conv.stride = stride
        return
    bias = conv.bias is not None
    new = type(conv)(channels, conv.out_channels, kernel_size=kernel, stride=stride, padding=padding, bias=bias)
    _replace(network, name, new)


def _remove_stem_pooling(network: nn.Module, conv: str) -> None:
    """Remove the first max-pooling that stands beside or around the convolution called `conv`, not inside a block."""
    for name, module in network.named_modules():
        parent = name.rpartition(".")[0]
        if isinstance(module, nn.MaxPool2d) and (not parent or conv.startswith(f"{parent}.")):
            _replace(network, name, nn.Identity())
            return


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _check_known(library: str, arch: str, known: Sequence[str]) -> None:
    if arch not in known:
        close = difflib.get_close_matches(str(arch), known)
        advice = f"did you mean {' or '.join(close)}?" if close else f"such as {', '.join(known[:3])}"
        raise InputError(
            f"model.arch is {arch!r}, expected the name of a classification network of {library}: {advice}"
        )


def _fitting(make: Callable[[int], nn.Module], what: str, num_classes: int, channels: int, size: int) -> nn.Module:
    """`make(size)`, after a trial with two images; InputError with the sizes that work when it fails."""
    cause = _failure(make, num_classes, channels, size)
    if cause is None:
        return make(size)
    working = [side for side in PROBED if side != size and _failure(make, num_classes, channels, side) is None]
    works = "none of the sizes tried works"
    if working:
        works = f"the smallest size that works is {working[0]} (of those tried, these work: {str(working)[1:-1]})"
    raise InputError(
        f"{what} cannot process images of {size} x {size} pixels ({cause}): {works}; "
        "choose another model or another image size"
    )


def _failure(make: Callable[[int], nn.Module], num_classes: int, channels: int, size: int) -> str | None:
    """What goes wrong when `make(size)` classifies two images of that size, in a line; None when nothing does.

    On the meta device, where only shapes are computed; networks that cannot be made there (torchvision's RegNets) are
    tried in earnest. Leaves the random state as it was.
    """
    for device in ("meta", "cpu"):
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad():
                logits = make(size).eval()(torch.zeros(2, channels, size, size))
        except NotImplementedError:
            continue
        except Exception as error:  # whatever a foreign network says to an image it cannot take
            return textwrap.shorten(str(error), 120) or type(error).__name__
        shape = tuple(getattr(logits, "shape", ()))
        return None if shape == (2, num_classes) else f"it gives {shape} instead of (2, {num_classes}) logits"
    return "it cannot be tried"
