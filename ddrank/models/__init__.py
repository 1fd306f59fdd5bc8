"""Networks that are trained from scratch: students and teachers.

Every network takes the keyword arguments `num_classes`, `channels` and `size` (side of the square images in pixels)
besides its own, maps float images (N, channels, size, size) to logits (N, num_classes), and is initialised at random
from torch's global generator.
"""

from ddrank.models.alexnet import AlexNet
from ddrank.models.convnet import ConvNet
from ddrank.models.lenet import LeNet
from ddrank.models.mlp import MLP
from ddrank.models.named import timm_model, torchvision_model
from ddrank.models.resnet import ResNet
from ddrank.models.vgg import VGG
from ddrank.models.zoo import build, embed

__all__ = [
    "MLP",
    "VGG",
    "AlexNet",
    "ConvNet",
    "LeNet",
    "ResNet",
    "build",
    "embed",
    "timm_model",
    "torchvision_model",
]
