"""ResNet-50 and the ResNet-20 of CIFAR-10 (He, Zhang, Ren and Sun 2015), the stride in the 3 x 3 convolution of a bottleneck."""

from typing import Any

from torch import Tensor, nn

from peers.unit import Classifier, Unit


class Bottleneck(nn.Module):
    def __init__(self, given: int, channels: int, wide: int, stride: int, project: bool) -> None:
        super().__init__()
        self.reduce = Unit(given, channels, 1, norm=True)
        self.conv = Unit(channels, channels, 3, norm=True, stride=stride, padding=1)
        self.expand = Unit(channels, wide, 1, nn.Identity, norm=True)
        if project:
            self.project = Unit(given, wide, 1, nn.Identity, norm=True, stride=stride)

    def forward(self, x: Tensor) -> Any:
        shortcut = self.project(x) if hasattr(self, "project") else x
        return (self.expand(self.conv(self.reduce(x))) + shortcut).relu()


def stage(given: int, channels: int, wide: int, count: int, stride: int) -> nn.Sequential:
    first = Bottleneck(given, channels, wide, stride, True)
    return nn.Sequential(first, *(Bottleneck(wide, channels, wide, 1, False) for _ in range(count - 1)))


class ResNet50(nn.Module):
    def __init__(self, classes: int = 1000, divide: int = 1) -> None:
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

    def forward(self, x: Tensor) -> Any:
        x = self.pool(self.conv(x))
        x = self.stage4(self.stage3(self.stage2(self.stage1(x))))
        return self.classifier(x.mean((2, 3)))


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut without parameters: every `stride`-th place, and new channels of zeros."""

    def __init__(self, given: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Unit(given, channels, 3, norm=True, stride=stride, padding=1)
        self.conv2 = Unit(channels, channels, 3, nn.Identity, norm=True, padding=1)
        self.stride, self.more = stride, (channels - given) // 2

    def forward(self, x: Tensor) -> Any:
        shortcut = x
        if self.stride > 1:
            shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return (self.conv2(self.conv1(x)) + shortcut).relu()


def residuals(given: int, channels: int, count: int) -> nn.Sequential:
    first = Residual(given, channels, channels // given)
    return nn.Sequential(first, *(Residual(channels, channels, 1) for _ in range(count - 1)))


class ResNet20(nn.Module):
    def __init__(self, classes: int = 10, divide: int = 1) -> None:
        super().__init__()
        d = divide
        self.conv = Unit(3, 16 // d, 3, norm=True, padding=1)
        self.stage1 = residuals(16 // d, 16 // d, 3)
        self.stage2 = residuals(16 // d, 32 // d, 3)
        self.stage3 = residuals(32 // d, 64 // d, 3)
        self.classifier = Classifier(64 // d, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.stage3(self.stage2(self.stage1(self.conv(x))))
        return self.classifier(x.mean((2, 3)))
