"""GoogLeNet (Szegedy et al. 2014), with both auxiliary heads."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peers.unit import Classifier, Unit


class Inception(nn.Module):
    """`channels`: 1 x 1; 3 x 3 reduced and full; 5 x 5 reduced and full; behind the pooling."""

    def __init__(self, given: int, channels: Sequence[int]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pooled = channels
        self.one = Unit(given, one, 1)
        self.reduce3 = Unit(given, reduce3, 1)
        self.three = Unit(reduce3, three, 3, padding=1)
        self.reduce5 = Unit(given, reduce5, 1)
        self.five = Unit(reduce5, five, 5, padding=2)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.project = Unit(given, pooled, 1)

    def forward(self, x: Tensor) -> Any:
        branches = self.one(x), self.three(self.reduce3(x)), self.five(self.reduce5(x)), self.project(self.pool(x))
        return torch.cat(branches, 1)


class Head(nn.Module):
    """An auxiliary classifier on a map of `extent` x `extent`."""

    def __init__(self, given: int, extent: int, classes: int, divide: int, dropout: float) -> None:
        super().__init__()
        places = ((extent - 5) // 3 + 1) ** 2
        self.pool = nn.AvgPool2d(5, 3)
        self.conv = Unit(given, 128 // divide, 1)
        self.hidden = nn.Linear(128 // divide * places, 1024 // divide)
        self.dropout = nn.Dropout(dropout)
        self.classifier = Classifier(1024 // divide, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.hidden(self.conv(self.pool(x)).flatten(1)).relu()
        return self.classifier(self.dropout(x))


MODULES = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}


class GoogLeNet(nn.Module):
    def __init__(
        self,
        extent: int = 224,
        classes: int = 1000,
        divide: int = 1,
        dropout: tuple[float, float] = (0.4, 0.7),
        heads: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = Unit(3, 64 // divide, 7, stride=2, padding=3)
        self.reduce2 = Unit(64 // divide, 64 // divide, 1)
        self.conv2 = Unit(64 // divide, 192 // divide, 3, padding=1)
        given = 192 // divide
        for name, full in MODULES.items():
            channels = [c // divide for c in full]
            setattr(self, name, Inception(given, channels))
            given = channels[0] + channels[2] + channels[4] + channels[5]
        if heads:
            self.aux1 = Head(512 // divide, extent // 16, classes, divide, dropout[1])
            self.aux2 = Head(528 // divide, extent // 16, classes, divide, dropout[1])
        self.classifier = Classifier(given, classes)
        self.norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.dropout = nn.Dropout(dropout[0])

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.pool(self.conv1(x)))
        x = self.pool(self.norm(self.conv2(self.reduce2(x))))
        x = a = self._modules_of(self.pool(self._modules_of(x, "3a", "3b")), "4a")
        x = d = self._modules_of(x, "4b", "4c", "4d")
        x = self._modules_of(self.pool(self._modules_of(x, "4e")), "5a", "5b")
        scores = self.classifier(self.dropout(x.mean((2, 3))))
        return (scores, self.aux1(a), self.aux2(d)) if hasattr(self, "aux1") else (scores,)

    def _modules_of(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.get_submodule(f"inception{name}")(x)
        return x
