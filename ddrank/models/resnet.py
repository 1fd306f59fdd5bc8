"""ResNet-18, 34 and 50, for small and for large images."""

from __future__ import annotations

from torch import Tensor, nn

from ddrank.models.layers import check_size, norm_layer, one_of

SMALL = 64  # pixels: up to this size the stem keeps the resolution
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # of each stage


class ResNet(nn.Module):
    """A residual network (He et al., CVPR 2016; ResNet-50 with its stride in the 3 x 3 convolution).

    Modules are named as in torchvision (`conv1`, `bn1`, `layer1.0.conv1`, ..., `fc`), and are initialised as there
    (convolutions He-normal by fan-out), so torchvision's weights load, and with batch normalisation both compute the
    same. The small stem, a 3 x 3 convolution of stride 1 without max-pooling, makes the "modified ResNet-18" of the
    dataset distillation papers (SRe2L, RDED); the other one is 7 x 7 with stride 2 and a 3 x 3 max-pooling.

    Args:
        num_classes, channels, size: classes, image channels, side of the images in pixels.
        depth: 18, 34 or 50. norm: "batch" or "instance" (GroupNorm of one channel a group).
        small_stem: true or false; by default true up to 64 pixels.

    Raises InputError for another depth or norm, and for instance normalisation of images so small that the last stage
    sees single pixels (normalised alone, each is constant, whatever the image).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        size: int,
        depth: int = 18,
        norm: str = "batch",
        small_stem: bool | None = None,
    ):
        super().__init__()
        one_of("depth", depth, tuple(BLOCKS))
        one_of("norm", norm, ("batch", "instance"))
        small = size <= SMALL if one_of("small_stem", small_stem, (None, True, False)) is None else small_stem
        if norm == "instance":
            check_size(f"ResNet-{depth} with instance normalisation", size, (8 if small else 32) + 1)
        block = Bottleneck if depth == 50 else BasicBlock
        self.conv1 = convolution(channels, 64, 3) if small else convolution(channels, 64, 7, 2)
        self.bn1 = norm_layer(norm, 64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        width = 64
        for stage, count in enumerate(BLOCKS[depth]):
            blocks = []
            for index in range(count):
                blocks.append(block(width, 64 * 2**stage, 2 if stage and not index else 1, norm))
                width = 64 * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, D): the averaged maps of the last stage, D = 512, or 2048 for ResNet-50."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.fc(self.embed(x))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, norm: str):
        super().__init__()
        self.conv1 = convolution(inputs, width, 3, stride)
        self.bn1 = norm_layer(norm, width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = norm_layer(norm, width)
        self.downsample = shortcut(inputs, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, the last to four times the width, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, norm: str):
        super().__init__()
        self.conv1 = convolution(inputs, width, 1)
        self.bn1 = norm_layer(norm, width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = norm_layer(norm, width)
        self.conv3 = convolution(width, width * self.expansion, 1)
        self.bn3 = norm_layer(norm, width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, width * self.expansion, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size but for its stride, He-normal by fan-out."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def shortcut(inputs: int, outputs: int, stride: int, norm: str) -> nn.Module | None:
    """What brings a block's input to the shape of its output; None where it has that shape."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(convolution(inputs, outputs, 1, stride), norm_layer(norm, outputs))
