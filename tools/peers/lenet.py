"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998), with mean pooling and a softmax classifier."""

from typing import Any

from torch import Tensor, nn

from peers.unit import Classifier, Unit


class LeNet5(nn.Module):
    def __init__(self, extent: int = 28, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = Unit(1, 6, 5, nn.Tanh, padding=2)
        self.conv2 = Unit(6, 16, 5, nn.Tanh)
        self.hidden1 = nn.Linear(16 * (extent // 4 - 2) ** 2, 120)
        self.hidden2 = nn.Linear(120, 84)
        self.classifier = Classifier(84, classes)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Any:
        x = self.pool(self.conv2(self.pool(self.conv1(x))))
        x = self.hidden1(x.flatten(1)).tanh()
        return self.classifier(self.hidden2(x).tanh())
