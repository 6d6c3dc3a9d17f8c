"""The pieces that networks repeat, and the names that they have in dgraph."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Size = int | tuple[int, ...]

CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
OWN = {
    nn.Conv2d: {"weight": "W", "bias": "b"},
    nn.Conv3d: {"weight": "W", "bias": "b"},
    nn.ConvTranspose3d: {"weight": "W", "bias": "b"},
    nn.Linear: {"weight": "W", "bias": "b"},
    nn.BatchNorm2d: {"weight": "scale", "bias": "shift"},
    nn.BatchNorm3d: {"weight": "scale", "bias": "shift"},
}
HEAD = {"weight": "weights1", "bias": "bias1"}
RUNNING = {"running_mean": "running_mean", "running_var": "running_variance"}


class Unit(nn.Module):
    """Convolution with a bias, or without one and batch norm behind it; then a nonlinearity."""

    def __init__(
        self,
        given: int,
        channels: int,
        size: Size,
        function: Callable[[], nn.Module] = nn.ReLU,
        norm: bool = False,
        epsilon: float = 1e-5,
        dims: int = 2,
        **window: Any,
    ) -> None:
        super().__init__()
        self.conv = CONVOLUTION[dims](given, channels, size, bias=not norm, **window)
        self.norm = NORM[dims](channels, eps=epsilon) if norm else nn.Identity()
        self.function = function()

    def forward(self, x: Tensor) -> Any:
        return self.function(self.norm(self.conv(x)))


class Classifier(nn.Module):
    """A linear layer over all that is left of a sample; dgraph calls its parameters weights1 and bias1."""

    def __init__(self, given: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(given, classes)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x.flatten(1))


def named(network: nn.Module) -> dict[str, tuple[Tensor, bool]]:
    """{dgraph's name: (torch tensor, whether it is a parameter)} of all parameters and running statistics."""
    found = {}
    for path, module in network.named_modules():
        parent, _, last = path.rpartition(".")
        layer = parent if last in ("conv", "norm", "linear") else path
        own = HEAD if last == "linear" else OWN.get(type(module), {})
        for name, tensor in module.named_parameters(recurse=False):
            found[f"{layer}.{own[name]}"] = (tensor, True)
        for name, tensor in module.named_buffers(recurse=False):
            if name in RUNNING:
                found[f"{layer}.{RUNNING[name]}"] = (tensor, False)
    return found
