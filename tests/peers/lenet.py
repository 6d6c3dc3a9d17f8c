"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998), with mean pooling and a softmax classifier."""

from torch import nn

from tests.peers.unit import Classifier, Unit


class LeNet5(nn.Module):
    def __init__(self, extent=28, classes=10):
        super().__init__()
        self.conv1 = Unit(1, 6, 5, nn.Tanh, padding=2)
        self.conv2 = Unit(6, 16, 5, nn.Tanh)
        self.hidden1 = nn.Linear(16 * (extent // 4 - 2) ** 2, 120)
        self.hidden2 = nn.Linear(120, 84)
        self.classifier = Classifier(84, classes)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x):
        x = self.pool(self.conv2(self.pool(self.conv1(x))))
        x = self.hidden1(x.flatten(1)).tanh()
        return self.classifier(self.hidden2(x).tanh())
