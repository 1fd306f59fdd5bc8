"""The MLP of the dataset condensation papers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Two hidden layers of 128 units with ReLU (Zhao et al., ICLR 2021), on images of any size.

    Keys of the state_dict: `fc_1`, `fc_2` and `fc_3`, each with `.weight|bias`.
    """

    def __init__(self, *, num_classes: int, channels: int, size: int):
        super().__init__()
        self.fc_1 = nn.Linear(channels * size * size, 128)
        self.fc_2 = nn.Linear(128, 128)
        self.fc_3 = nn.Linear(128, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 128): the second hidden layer, after its ReLU."""
        return F.relu(self.fc_2(F.relu(self.fc_1(x.flatten(1)))))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.fc_3(self.embed(x))
