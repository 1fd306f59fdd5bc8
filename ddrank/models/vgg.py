"""VGG for small images."""

from __future__ import annotations

from torch import Tensor, nn

from ddrank.models.layers import check_size, norm_layer, one_of

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # of each stage


class VGG(nn.Module):
    """Five stages of 3 x 3 convolutions with normalisation and ReLU, 2 x 2 max-pooling after each, one linear layer.

    Simonyan and Zisserman, ICLR 2015, in the small-image form of Zhao et al., ICLR 2021. The first convolution has
    padding 3 for one-channel images (28 x 28 becomes 32 x 32). The last maps are averaged, which changes nothing at
    32 x 32, where they are single pixels. On smaller images the inner poolings that would leave less than 2 x 2 are
    left out: instance normalisation of a single pixel is constant, so nothing would be learned behind it. Keys of the
    state_dict: `features.<i>.weight|bias` and `classifier.weight|bias`.

    Args:
        num_classes, channels, size: classes, image channels, side of the images in pixels.
        depth: 11, 13, 16 or 19. norm: "instance" (GroupNorm of one channel a group), "batch" or "none".

    Raises InputError for another depth or norm, and for images of a single pixel.
    """

    def __init__(self, *, num_classes: int, channels: int, size: int, depth: int = 11, norm: str = "instance"):
        super().__init__()
        one_of("depth", depth, tuple(CONVOLUTIONS))
        one_of("norm", norm, ("instance", "batch", "none"))
        check_size("VGG", size, 2)
        padding = 3 if channels == 1 else 1
        side = size + 2 * padding - 2
        layers: list[nn.Module | None] = []
        for stage, (width, count) in enumerate(zip(WIDTHS, CONVOLUTIONS[depth], strict=True), start=1):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=padding), norm_layer(norm, width, side)]
                layers += [nn.ReLU(inplace=True)]
                channels, padding = width, 1
            if side >= 4 or stage == len(WIDTHS):
                layers += [nn.MaxPool2d(2)]
                side //= 2
        layers += [nn.AdaptiveAvgPool2d(1)]
        self.features = nn.Sequential(*(layer for layer in layers if layer is not None))
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 512): the averaged maps of the last stage."""
        return self.features(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.classifier(self.embed(x))
