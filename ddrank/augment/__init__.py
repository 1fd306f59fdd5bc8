"""Augmentations: Lightning callbacks that replace `batch["image"]` at the start of a training batch.

They work on whole batches (float32, N x C x H x W, in training space, already on the device) and draw from torch's
global generators, which the caller seeds for each student. The numbers that steer a batch are drawn on the CPU and sent
over without waiting, so that nothing blocks the device and the draws are the same on every device.
"""

from ddrank.augment.dsa import DSA, DSAParams, apply_dsa
from ddrank.augment.mix import CutMix, MixUp, cutmix, mixed_loss, mixup
from ddrank.augment.views import Views

__all__ = ["DSA", "CutMix", "DSAParams", "MixUp", "Views", "apply_dsa", "cutmix", "mixed_loss", "mixup"]
