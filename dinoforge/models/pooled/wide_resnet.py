"""Wide ResNets for images of 32 pixels; WRN-28-2 as PAWS trains it, with its tensor names.

Zagoruyko and Komodakis 2016, table 1: WRN-depth-factor, normalization before convolutions.
Shapes: B images, D width, X and Y pixels.
"""

from torch import Tensor, nn
from torch.nn.functional import relu

from dinoforge.models.batch_norm import BatchNorm2d
from dinoforge.models.pooled.network import PooledNetwork

__all__ = ["WideResNet"]

_STAGES = (16, 32, 64)  # channels, times the width factor


class WideResNet(PooledNetwork):
    """``wrn28_2``: 1,468,352 parameters, D = 128; normalization has the statistics of all ranks.

    ``depth`` is 6 n + 4 for n blocks in each of three stages.

    Convolutions have biases, and the last normalization a momentum of 0.99, as published: its
    running statistics are nearly those of the last step.
    """

    def __init__(self, depth: int = 28, factor: int = 2) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        assert blocks > 0 == rest, f"no WRN has the depth {depth}"
        self.name = f"wrn{depth}_{factor}"
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        before = 16
        for number, base in enumerate(_STAGES, start=1):
            channels = base * factor
            layers = []
            for block in range(blocks):
                stride = 2 if number > 1 and block == 0 else 1
                layers.append(_WideBlock(before, channels, stride))
                before = channels
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self.width = before
        self.bn1 = BatchNorm2d(before, momentum=0.99)

    def forward(self, images_B3XY: Tensor) -> Tensor:
        """Return the mean of the last features over the image, ``[B, D]``."""
        x = self.conv1(images_B3XY)
        for number in range(1, len(_STAGES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return relu(self.bn1(x)).mean(dim=(2, 3))


class _WideBlock(nn.Module):
    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, channels, 3, padding=1)
        self.bn2 = BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.shortcut = nn.Sequential()
        if stride > 1 or before != channels:
            self.shortcut.append(nn.Conv2d(before, channels, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        inside = self.conv1(relu(self.bn1(x)))
        result: Tensor = self.conv2(relu(self.bn2(inside))) + self.shortcut(x)
        return result
