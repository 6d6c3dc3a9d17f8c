"""VGG-A, the network of 11 layers of Simonyan and Zisserman 2014."""

from typing import Any

from torch import Tensor, nn

from peers.unit import Classifier, Unit


class Stage(nn.Module):
    def __init__(self, given: int, channels: int, count: int) -> None:
        super().__init__()
        before = [given] + [channels] * (count - 1)
        self.conv = nn.Sequential(*(Unit(c, channels, 3, padding=1) for c in before))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Any:
        return self.pool(self.conv(x))


class VggA(nn.Module):
    def __init__(self, extent: int = 224, classes: int = 1000, divide: int = 1, dropout: float = 0.5) -> None:
        super().__init__()
        wide = [c // divide for c in (64, 128, 256, 512, 512)]
        hidden = 4096 // divide
        self.stage1 = Stage(3, wide[0], 1)
        self.stage2 = Stage(wide[0], wide[1], 1)
        self.stage3 = Stage(wide[1], wide[2], 2)
        self.stage4 = Stage(wide[2], wide[3], 2)
        self.stage5 = Stage(wide[3], wide[4], 2)
        self.hidden1 = nn.Linear(wide[4] * (extent // 32) ** 2, hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.classifier = Classifier(hidden, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Any:
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4, self.stage5):
            x = stage(x)
        x = self.dropout(self.hidden1(x.flatten(1)).relu())
        x = self.dropout(self.hidden2(x).relu())
        return self.classifier(x)
