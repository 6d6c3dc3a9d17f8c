"""ResNet-50 (He, Zhang, Ren and Sun 2015), the stride in the 3 x 3 convolution of a bottleneck."""

from torch import nn

from tests.peers.unit import Classifier, Unit


class Bottleneck(nn.Module):
    def __init__(self, given, channels, wide, stride, project):
        super().__init__()
        self.reduce = Unit(given, channels, 1, norm=True)
        self.conv = Unit(channels, channels, 3, norm=True, stride=stride, padding=1)
        self.expand = Unit(channels, wide, 1, nn.Identity, norm=True)
        if project:
            self.project = Unit(given, wide, 1, nn.Identity, norm=True, stride=stride)

    def forward(self, x):
        shortcut = self.project(x) if hasattr(self, "project") else x
        return (self.expand(self.conv(self.reduce(x))) + shortcut).relu()


def stage(given, channels, wide, count, stride):
    first = Bottleneck(given, channels, wide, stride, True)
    return nn.Sequential(first, *(Bottleneck(wide, channels, wide, 1, False) for _ in range(count - 1)))


class ResNet50(nn.Module):
    def __init__(self, classes=1000, divide=1):
        super().__init__()
        first, *inner = (c // divide for c in (64, 64, 128, 256, 512))
        wide = [4 * c for c in inner]
        self.conv = Unit(3, first, 7, norm=True, stride=2, padding=3)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stage1 = stage(first, inner[0], wide[0], 3, 1)
        self.stage2 = stage(wide[0], inner[1], wide[1], 4, 2)
        self.stage3 = stage(wide[1], inner[2], wide[2], 6, 2)
        self.stage4 = stage(wide[2], inner[3], wide[3], 3, 2)
        self.classifier = Classifier(wide[3], classes)

    def forward(self, x):
        x = self.pool(self.conv(x))
        x = self.stage4(self.stage3(self.stage2(self.stage1(x))))
        return self.classifier(x.mean((2, 3)))
