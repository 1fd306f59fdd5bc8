"""The ConvNet of the dataset distillation papers."""

from __future__ import annotations

from torch import Tensor, nn

from ddrank.models.layers import activation, check_size, norm_layer, pooling, whole


class ConvNet(nn.Module):
    """`depth` blocks of 3 x 3 convolution, normalisation, activation and 2 x 2 pooling, then one linear layer.

    Gidaris and Komodakis, CVPR 2018, as used by Zhao et al., "Dataset Condensation with Gradient Matching", ICLR 2021.
    Convolutions have a bias and padding 1; the first one has padding 3 for one-channel images, which turns 28 x 28 into
    32 x 32 and 8 x 8 into 12 x 12. Keys of the state_dict: `features.<i>.weight|bias`, counted over convolution,
    normalisation, activation and pooling in turn ("none" takes no number), and `classifier.weight|bias`.

    Args:
        num_classes, channels, size: classes, image channels, side of the images in pixels.
        depth: number of blocks. width: channels of each.
        norm: "instance" (GroupNorm of one channel a group), "batch", "group" (four groups), "layer" or "none".
        act: "relu", "leaky_relu" or "sigmoid". pool: "avg", "max" or "none".

    Raises InputError for an unknown choice, and for images that `depth` poolings leave nothing of.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        size: int,
        depth: int = 3,
        width: int = 128,
        norm: str = "instance",
        act: str = "relu",
        pool: str = "avg",
    ):
        super().__init__()
        whole("depth", depth)
        whole("width", width)
        padding = 3 if channels == 1 else 1
        side = size + 2 * padding - 2
        if pool != "none":
            check_size(f"a ConvNet of depth {depth}", size, max(1, 2**depth - (side - size)))
        layers: list[nn.Module | None] = []
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=padding), norm_layer(norm, width, side)]
            layers += [activation(act), pooling(pool)]
            channels, padding = width, 1
            side = side if pool == "none" else side // 2
        self.features = nn.Sequential(*(layer for layer in layers if layer is not None))
        self.classifier = nn.Linear(width * side * side, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, D): the flattened output of the last block, the embedding that DM matches."""
        return self.features(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.classifier(self.embed(x))
