"""Inception-v3 (Szegedy, Vanhoucke, Ioffe, Shlens and Wojna 2015), with or without the auxiliary head."""

from typing import Any

import torch
from torch import Tensor, nn

from peers.unit import Classifier, Size, Unit


def normed(given: int, channels: int, size: Size, **window: Any) -> Unit:
    return Unit(given, channels, size, norm=True, epsilon=1e-3, **window)


def square(given: int, channels: int, size: int) -> Unit:
    return normed(given, channels, size, padding=size // 2)


def wide(given: int, channels: int, size: int = 7) -> Unit:
    """A row of places."""
    return normed(given, channels, (1, size), padding=(0, size // 2))


def tall(given: int, channels: int, size: int = 7) -> Unit:
    """A column of places."""
    return normed(given, channels, (size, 1), padding=(size // 2, 0))


class Module35(nn.Module):
    """1 x 1, 5 x 5, 3 x 3 twice, and pooling, side by side."""

    def __init__(self, given: int, pooled: int, d: int) -> None:
        super().__init__()
        self.one = normed(given, 64 // d, 1)
        self.reduce5 = normed(given, 48 // d, 1)
        self.five = square(48 // d, 64 // d, 5)
        self.reduce3 = normed(given, 64 // d, 1)
        self.three1 = square(64 // d, 96 // d, 3)
        self.three2 = square(96 // d, 96 // d, 3)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.project = normed(given, pooled, 1)

    def forward(self, x: Tensor) -> Any:
        three = self.three2(self.three1(self.reduce3(x)))
        return torch.cat((self.one(x), self.five(self.reduce5(x)), three, self.project(self.pool(x))), 1)


class Reduction17(nn.Module):
    """Half as many places: 3 x 3, 3 x 3 twice, and pooling, side by side."""

    def __init__(self, given: int, d: int) -> None:
        super().__init__()
        self.three = normed(given, 384 // d, 3, stride=2)
        self.reduce = normed(given, 64 // d, 1)
        self.three1 = square(64 // d, 96 // d, 3)
        self.three2 = normed(96 // d, 96 // d, 3, stride=2)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Any:
        return torch.cat((self.three(x), self.three2(self.three1(self.reduce(x))), self.pool(x)), 1)


class Module17(nn.Module):
    """1 x 1, 7 x 7, 7 x 7 twice, each as a row and a column, and pooling, side by side."""

    def __init__(self, given: int, channels: int, d: int) -> None:
        super().__init__()
        full = 192 // d
        self.one = normed(given, full, 1)
        self.reduce = normed(given, channels, 1)
        self.wide = wide(channels, channels)
        self.tall = tall(channels, full)
        self.reduce2 = normed(given, channels, 1)
        self.tall1 = tall(channels, channels)
        self.wide1 = wide(channels, channels)
        self.tall2 = tall(channels, channels)
        self.wide2 = wide(channels, full)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.project = normed(given, full, 1)

    def forward(self, x: Tensor) -> Any:
        seven = self.tall(self.wide(self.reduce(x)))
        twice = self.wide2(self.tall2(self.wide1(self.tall1(self.reduce2(x)))))
        return torch.cat((self.one(x), seven, twice, self.project(self.pool(x))), 1)


class Reduction8(nn.Module):
    """Half as many places: 3 x 3, 7 x 7 and 3 x 3, and pooling, side by side."""

    def __init__(self, given: int, d: int) -> None:
        super().__init__()
        full = 192 // d
        self.reduce = normed(given, full, 1)
        self.three = normed(full, 320 // d, 3, stride=2)
        self.reduce7 = normed(given, full, 1)
        self.wide = wide(full, full)
        self.tall = tall(full, full)
        self.three7 = normed(full, full, 3, stride=2)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Any:
        seven = self.three7(self.tall(self.wide(self.reduce7(x))))
        return torch.cat((self.three(self.reduce(x)), seven, self.pool(x)), 1)


class Module8(nn.Module):
    """1 x 1, a row beside a column, 3 x 3 and a row beside a column, and pooling, side by side."""

    def __init__(self, given: int, d: int) -> None:
        super().__init__()
        half = 384 // d
        self.one = normed(given, 320 // d, 1)
        self.reduce = normed(given, half, 1)
        self.wide = wide(half, half, 3)
        self.tall = tall(half, half, 3)
        self.reduce3 = normed(given, 448 // d, 1)
        self.three = square(448 // d, half, 3)
        self.wide3 = wide(half, half, 3)
        self.tall3 = tall(half, half, 3)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.project = normed(given, 192 // d, 1)

    def forward(self, x: Tensor) -> Any:
        near, far = self.reduce(x), self.three(self.reduce3(x))
        parts = self.one(x), self.wide(near), self.tall(near), self.wide3(far), self.tall3(far)
        return torch.cat((*parts, self.project(self.pool(x))), 1)


class Head(nn.Module):
    """The auxiliary classifier; `size` is that of its second convolution."""

    def __init__(self, given: int, classes: int, size: int, d: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, 3)
        self.conv1 = normed(given, 128 // d, 1)
        self.conv2 = normed(128 // d, 768 // d, size)
        self.classifier = Classifier(768 // d, classes)

    def forward(self, x: Tensor) -> Any:
        return self.classifier(self.conv2(self.conv1(self.pool(x))).mean((2, 3)))


class InceptionV3(nn.Module):
    def __init__(
        self, classes: int = 1000, divide: int = 1, dropout: float = 0.5, head: bool = True, head_size: int = 5
    ) -> None:
        super().__init__()
        d = divide
        self.conv1 = normed(3, 32 // d, 3, stride=2)
        self.conv2 = normed(32 // d, 32 // d, 3)
        self.conv3 = square(32 // d, 64 // d, 3)
        self.conv4 = normed(64 // d, 80 // d, 1)
        self.conv5 = normed(80 // d, 192 // d, 3)
        self.pool = nn.MaxPool2d(3, 2)
        before = zip((192 // d, 256 // d, 288 // d), (32 // d, 64 // d, 64 // d), strict=True)
        self.module35 = nn.Sequential(*(Module35(given, pooled, d) for given, pooled in before))
        self.reduction17 = Reduction17(288 // d, d)
        self.module17 = nn.Sequential(*(Module17(768 // d, c // d, d) for c in (128, 160, 160, 192)))
        self.reduction8 = Reduction8(768 // d, d)
        self.module8 = nn.Sequential(*(Module8(given // d, d) for given in (1280, 2048)))
        if head:
            self.aux = Head(768 // d, classes, head_size, d)
        self.dropout = nn.Dropout(dropout)
        self.classifier = Classifier(2048 // d, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.pool(self.conv3(self.conv2(self.conv1(x))))
        x = self.pool(self.conv5(self.conv4(x)))
        middle = self.module17(self.reduction17(self.module35(x)))
        x = self.module8(self.reduction8(middle))
        scores = self.classifier(self.dropout(x.mean((2, 3))))
        return (scores, self.aux(middle)) if hasattr(self, "aux") else (scores,)
