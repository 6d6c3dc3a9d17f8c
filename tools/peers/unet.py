"""3-D U-Net (Çiçek, Abdulkadir, Lienkamp, Brox and Ronneberger 2016), padded, so that every voxel gets scores."""

from typing import Any

import torch
from torch import Tensor, nn

from peers.unit import Unit


class Pair(nn.Module):
    """Two 3 x 3 x 3 convolutions."""

    def __init__(self, given: int, first: int, second: int) -> None:
        super().__init__()
        self.conv1 = Unit(given, first, 3, norm=True, dims=3, padding=1)
        self.conv2 = Unit(first, second, 3, norm=True, dims=3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.conv2(self.conv1(x))


class Up(nn.Module):
    """Twice as many places, joined with what the contracting path had there."""

    def __init__(self, given: int, beside: int, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(given, given, 2, 2)
        self.pair = Pair(given + beside, channels, channels)

    def forward(self, x: Tensor, beside: Tensor) -> Any:
        return self.pair(torch.cat((beside, self.up(x)), 1))


class UNet3d(nn.Module):
    def __init__(self, channels: int = 3, classes: int = 3, divide: int = 1) -> None:
        super().__init__()
        d = divide
        self.down1 = Pair(channels, 32 // d, 64 // d)
        self.down2 = Pair(64 // d, 64 // d, 128 // d)
        self.down3 = Pair(128 // d, 128 // d, 256 // d)
        self.bottom = Pair(256 // d, 256 // d, 512 // d)
        self.up3 = Up(512 // d, 256 // d, 256 // d)
        self.up2 = Up(256 // d, 128 // d, 128 // d)
        self.up1 = Up(128 // d, 64 // d, 64 // d)
        self.scores = Unit(64 // d, classes, 1, nn.Identity, dims=3)
        self.pool = nn.MaxPool3d(2)

    def forward(self, x: Tensor) -> Any:
        one = self.down1(x)
        two = self.down2(self.pool(one))
        three = self.down3(self.pool(two))
        x = self.up3(self.bottom(self.pool(three)), three)
        return self.scores(self.up1(self.up2(x, two), one))
