"""LeNet, as the dataset condensation papers have it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ddrank.models.layers import check_size


class LeNet(nn.Module):
    """Two 5 x 5 convolutions (6 and 16 channels), each with ReLU and 2 x 2 max-pooling, then 120, 84 and the classes.

    LeCun et al., 1998, in the form of Zhao et al., ICLR 2021: the first convolution has padding 2 for one channel
    (28 x 28) and none for three (32 x 32), so that both end in 16 x 5 x 5. Images too small for that (under 12 or 16
    pixels) get padding 4. Keys of the state_dict: `features.0`, `features.3`, `fc_1`, `fc_2`, `fc_3`.

    Raises InputError for images under 8 x 8.
    """

    def __init__(self, *, num_classes: int, channels: int, size: int):
        super().__init__()
        check_size("LeNet", size, 8)
        padding = 2 if channels == 1 else 0
        if size + 2 * padding < 16:
            padding = 4
        side = ((size + 2 * padding - 4) // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=padding),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.fc_1 = nn.Linear(16 * side * side, 120)
        self.fc_2 = nn.Linear(120, 84)
        self.fc_3 = nn.Linear(84, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 84): the second linear layer, after its ReLU."""
        return F.relu(self.fc_2(F.relu(self.fc_1(self.features(x).flatten(1)))))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.fc_3(self.embed(x))
