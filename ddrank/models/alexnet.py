"""The small AlexNet of the dataset condensation papers."""

from __future__ import annotations

from torch import Tensor, nn

from ddrank.models.layers import check_size


class AlexNet(nn.Module):
    """Five convolutions (128, 192, 256, 192, 192 channels), three 2 x 2 max-poolings and one linear layer.

    Krizhevsky et al., 2012, in the form of Zhao et al., ICLR 2021: made for small images, without normalisation or
    dropout. The first convolution (5 x 5) has padding 2, and 4 for one-channel images, which turns 28 x 28 into
    32 x 32. Larger images give a larger linear layer; for AlexNet's own layout at 224 pixels take
    `torchvision_model("alexnet", ...)`. Keys of the state_dict: `features.0|3|6|8|10` and `fc`.

    Raises InputError for images that three poolings leave nothing of.
    """

    def __init__(self, *, num_classes: int, channels: int, size: int):
        super().__init__()
        padding = 4 if channels == 1 else 2
        side = size + 2 * padding - 4
        check_size("AlexNet", size, 8 - (side - size))
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 5, padding=padding),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 192, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(192, 192, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.fc = nn.Linear(192 * (side // 8) ** 2, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, D): the flattened output of the last pooling."""
        return self.features(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.fc(self.embed(x))
