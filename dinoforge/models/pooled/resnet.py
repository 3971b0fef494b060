"""ResNet-50 without its classifier, with the tensor names of torchvision, DINO and PAWS.

He et al. 2016, with the stride in the 3 x 3 convolutions, as in all of these.
Shapes: B images, D width, X and Y pixels.
"""

from typing import ClassVar

from torch import Tensor, nn

from dinoforge.models.batch_norm import BatchNorm2d
from dinoforge.models.pooled.network import PooledNetwork

__all__ = ["ResNet50"]

_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels inside its blocks, blocks
_EXPANSION = 4  # channels after a block / inside it


class ResNet50(PooledNetwork):
    """23,508,032 parameters, D = 2048; statistics of normalization are those of all ranks."""

    name = "resnet50"
    width = 2048
    init_scheme: ClassVar[str] = "kaiming"

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before = 64
        for number, (channels, blocks) in enumerate(_STAGES, start=1):
            layers = []
            for block in range(blocks):
                stride = 2 if number > 1 and block == 0 else 1
                layers.append(_Bottleneck(before, channels, stride))
                before = channels * _EXPANSION
            self.add_module(f"layer{number}", nn.Sequential(*layers))

    def forward(self, images_B3XY: Tensor) -> Tensor:
        """Return the mean of the last features over the image, ``[B, D]``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images_B3XY))))
        for number in range(1, len(_STAGES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        pooled_BD: Tensor = x.mean(dim=(2, 3))
        return pooled_BD


class _Bottleneck(nn.Module):
    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        after = channels * _EXPANSION
        self.conv1 = nn.Conv2d(before, channels, 1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, after, 1, bias=False)
        self.bn3 = BatchNorm2d(after)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            conv = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(conv, BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inside = self.relu(self.bn1(self.conv1(x)))
        inside = self.relu(self.bn2(self.conv2(inside)))
        result: Tensor = self.relu(self.bn3(self.conv3(inside)) + self.downsample(x))
        return result
