"""A training step on one rank beside PyTorch's: eager, in the faster of its two memory formats, and compiled.

In: networks of `configs/` and their peers. Out: rows by network, backend and peer. Promise: both sides begin with the same weights,
take the same batch, which lies in memory, and give the same loss before any time is taken; a step of either is all of it: gradients
set to zero, forward, loss, backward, update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from bench_row import CONFIGS, Options, Row, compare, geometric_mean
from dgraph.config import load_config
from dgraph.kernels.call import Array
from dgraph.program import compile_config
from dgraph.runtime.communicator import Communicator, OneRank
from dgraph.train import Worker
from peers.lenet import LeNet5
from peers.resnet import ResNet20, ResNet50
from peers.unet import UNet3d
from peers.unit import named
from peers.vgg import VggA

LIMITS = (1e-3, 1e-3, 1e-2)
"""How far apart, relatively, the losses may be of an evaluation, of the first step, and of the second one, which has seen gradients
and an update; batch norms behind rectifiers make much of a rounding error in float32."""
EACH, MEAN, COMPILED = 1.0, 0.9, 1.0
NUMPY_MEAN = 1.8
WARM = 2


@dataclass(frozen=True)
class Network:
    """A config, what of it is changed, and the same network in PyTorch."""

    config: str
    peer: Callable[[], nn.Module]
    batch: int
    shape: tuple[int, ...] | None = None

    def overrides(self) -> list[str]:
        """One batch of samples, kept in memory."""
        shape = [] if self.shape is None else [f"data.shape={list(self.shape)}"]
        return [
            *shape,
            f"data.batch={self.batch}",
            f"data.samples={self.batch}",
            "data.shares={train: 1}",
            "data.keep=true",
        ]


NETWORKS = {
    "lenet5": Network("lenet5", LeNet5, 128),
    "resnet20": Network("resnet20_cifar", ResNet20, 128),
    "vgg_a": Network("vgg_a", lambda: VggA(64), 16, (3, 64, 64)),
    "resnet50": Network("resnet50", ResNet50, 8),
    "unet3d": Network("unet3d", UNet3d, 1),
}


class Ours:
    """dgraph's side, one rank of it: `step` trains on one batch, always the same.

    `begun` are the values of all parameters and states at first, `losses` those of an evaluation of them and of the first steps.
    """

    def __init__(self, network: Network, backend: str, communicator: Communicator, more: tuple[str, ...] = ()) -> None:
        overrides = [*network.overrides(), f"backend={backend}", *more]
        config = load_config(CONFIGS / f"{network.config}.yaml", overrides, communicator.size)
        self.worker = Worker(compile_config(config), communicator)
        self.indices = self.worker.training_batches(shuffle=False).indices(0, 0)
        self.begun = {tensor.name: self.value(tensor.name).copy() for tensor in self.worker.program.graph.kept}
        self.worker.forward(self.indices)
        self.losses = [_loss(self.worker.metrics()), *(_loss(self.step()) for _ in LIMITS[1:])]

    def step(self) -> Array | None:
        """One step of training; its metrics. Collective."""
        return self.worker.train_step(self.indices)

    def value(self, tensor: str) -> Array:
        """What a tensor holds on this rank."""
        found = self.worker.engine.value(tensor)
        if found is None:
            raise ValueError(f"rank {self.worker.communicator.rank} reads nothing of {tensor}")
        return found


def _loss(metrics: Array | None) -> float:
    return float("nan") if metrics is None else float(metrics[0])


class Theirs:
    """PyTorch's side, with the weights, the batch and the optimizer that ours had at first."""

    def __init__(self, peer: nn.Module, ours: Ours, memory_format: torch.memory_format) -> None:
        follow(peer, ours.begun)
        self.network: nn.Module = _laid_out(peer, memory_format)
        self.images: Tensor = _laid_out(torch.tensor(ours.value("data.raw_output")), memory_format)
        self.labels = _class_numbers(torch.tensor(ours.value("data.labels_output")))
        recipe, rate = ours.worker.program.optimizer.recipe, ours.worker.program.optimizer.rate(0)
        if recipe.rule != "sgd":
            raise ValueError(f"the peers train with sgd, not {recipe.rule}")
        momentum = float(recipe.numbers["momentum"])
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=rate, momentum=momentum)
        self.run: Callable[[Tensor], Tensor] = self.network
        self.seconds = self._follow(ours.losses)

    def step(self) -> Tensor:
        """One step of training; its loss."""
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.run(self.images), self.labels)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss

    def _follow(self, losses: list[float]) -> float:
        """Does what ours did at first; the seconds of its last step. Raises ValueError unless it has the losses of ours; those of
        training only where no dropout draws masks of its own."""
        with torch.no_grad():
            self.network.eval()
            mine = [nn.functional.cross_entropy(self.network(self.images), self.labels).item()]
            self.network.train()
        start = perf_counter()
        for _ in LIMITS[1:]:
            start = perf_counter()
            mine.append(self.step().item())
        seconds = perf_counter() - start
        drawn = any(isinstance(module, nn.Dropout) for module in self.network.modules())
        for other, loss, limit in list(zip(mine, losses, LIMITS, strict=True))[: 1 if drawn else None]:
            if not abs(other - loss) <= limit * abs(loss):
                raise ValueError(f"the same weights have the losses {losses} here, and {mine} there")
        return seconds


def follow(peer: nn.Module, kept: dict[str, Array]) -> None:
    """Gives a peer values by their names here. Raises ValueError where it has other ones."""
    theirs = named(peer)
    if kept.keys() != theirs.keys():
        raise ValueError(f"only one side has {sorted(kept.keys() ^ theirs.keys())}")
    with torch.no_grad():
        for name, value in kept.items():
            theirs[name][0].copy_(torch.tensor(value).reshape(theirs[name][0].shape))


def _laid_out(of: Any, memory_format: torch.memory_format) -> Any:
    """A network or a batch [N, C, D, H, W] or [N, C, H, W] in a memory format."""
    tensors = [of] if isinstance(of, Tensor) else of.parameters()
    if memory_format is torch.channels_last and any(tensor.ndim == 5 for tensor in tensors):
        memory_format = torch.channels_last_3d
    return of.to(memory_format=memory_format)


def _class_numbers(labels: Tensor) -> Tensor:
    """Labels [N, 1, ...] as numbers: [N] where a sample has one, else [N, ...]."""
    numbers = labels[:, 0].long()
    return numbers.reshape(-1) if numbers[0].numel() == 1 else numbers


FORMATS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}


def faster(peer: Callable[[], nn.Module], ours: Ours) -> tuple[str, Theirs]:
    """Eager PyTorch in that memory format in which a step takes less time; both have the losses of ours."""
    found = {name: Theirs(peer(), ours, memory_format) for name, memory_format in FORMATS.items()}
    best = min(found, key=lambda name: found[name].seconds)
    return best, found[best]


def rows(case: str, network: Network, options: Options, compiled: bool) -> Iterator[Row]:
    """One network on every backend that was asked for."""
    for backend in options.backends:
        ours = Ours(network, backend, OneRank(), options.overrides)
        format_name, theirs = faster(network.peer, ours)
        if compiled:
            theirs.run = torch.compile(theirs.network)
            for _ in range(WARM):
                theirs.step()
        goal = EACH if backend == "torch" and not compiled else None
        more = {"backend": backend, "peer": "torch.compile" if compiled else "eager", "format": format_name}
        yield compare(case, ours.step, theirs.step, options, goal, more)


def run(options: Options) -> Iterator[Row]:
    """The rows that were asked for, each when it is done, and the geometric means of those that are complete."""
    torch.set_num_threads(1)
    for peer, compiled in (("eager", False), ("compiled", True)):
        done: list[Row] = []
        for name, network in NETWORKS.items():
            if options.wants(f"{peer}.{name}"):
                for row in rows(f"{peer}.{name}", network, options, compiled):
                    done.append(row)
                    yield row
        for backend in options.backends:
            mine = [row for row in done if row.more["backend"] == backend]
            if len(mine) == len(NETWORKS):
                goal = NUMPY_MEAN if backend == "numpy" else COMPILED if compiled else MEAN
                yield geometric_mean(f"{peer}.mean", mine, goal, {"backend": backend})
