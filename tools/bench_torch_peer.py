"""PyTorch's side of a training step: eager or compiled, one process or several with DistributedDataParallel over gloo.

python tools/bench_torch_peer.py NETWORK BEGUN.npz --rank 0 --size 1       as `bench_peer.Peer` starts it

In: a network and the file of what it begins with. Out: steps, as told. Promise: the losses are those of the file before any time is
taken; of the two memory formats, it works in the faster one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from bench_network import LIMITS, VALUE
from bench_peer import answer
from peers.lenet import LeNet5
from peers.resnet import ResNet20, ResNet50
from peers.unet import UNet3d
from peers.unit import named
from peers.vgg import VggA

PEERS: dict[str, Callable[[], nn.Module]] = {
    "lenet5": LeNet5,
    "resnet20": ResNet20,
    "vgg_a": lambda: VggA(64),
    "resnet50": ResNet50,
    "unet3d": UNet3d,
}
FORMATS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}
NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


class Theirs:
    """One process: a network with the values that ours had at first, its part of the batch, and an optimizer like ours."""

    def __init__(
        self, peer: nn.Module, begun: Mapping[str, Any], memory_format: torch.memory_format, rank: int, size: int
    ) -> None:
        follow(peer, {name.removeprefix(VALUE): begun[name] for name in begun if name.startswith(VALUE)})
        self.network: nn.Module = _laid_out(peer, memory_format)
        share = len(begun["images"]) // size
        part = slice(rank * share, (rank + 1) * share)
        self.images: Tensor = _laid_out(torch.tensor(begun["images"][part]), memory_format)
        self.labels = _class_numbers(torch.tensor(begun["labels"][part]))
        self.run: Any = DistributedDataParallel(self.network) if size > 1 else self.network
        rate, momentum = float(begun["rate"]), float(begun["momentum"])
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=rate, momentum=momentum)
        self.size = size
        self.seconds = self._begin(begun["losses"].tolist())

    def step(self) -> Tensor:
        """One step of training; its loss."""
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.run(self.images), self.labels)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss

    def _begin(self, losses: Sequence[float]) -> float:
        """Does what ours did at first; the seconds of its last step. Raises ValueError unless it has the losses of ours; those of
        training only where no dropout draws masks of its own, and no batch norm has statistics of its own."""
        with torch.no_grad():
            self.network.eval()
            mine = [self._mean(nn.functional.cross_entropy(self.network(self.images), self.labels).item())]
            self.network.train()
        start = perf_counter()
        for _ in LIMITS[1:]:
            start = perf_counter()
            mine.append(self._mean(self.step().item()))
        seconds = perf_counter() - start
        own = (nn.Dropout, *(NORMS if self.size > 1 else ()))
        differs = any(isinstance(module, own) for module in self.network.modules())
        for other, loss, limit in list(zip(mine, losses, LIMITS, strict=True))[: 1 if differs else None]:
            if not abs(other - loss) <= limit * abs(loss):
                raise ValueError(f"the same weights have the losses {losses} here, and {mine} there")
        return self._mean(seconds)

    def _mean(self, value: float) -> float:
        """Over all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total.item()) / self.size


def follow(peer: nn.Module, kept: Mapping[str, Any]) -> None:
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


def faster(peer: Callable[[], nn.Module], begun: Mapping[str, Any], rank: int, size: int) -> tuple[str, Theirs]:
    """The memory format in which a step takes less time, and that side; both have the losses of ours."""
    found = {name: Theirs(peer(), begun, memory_format, rank, size) for name, memory_format in FORMATS.items()}
    best = min(found, key=lambda name: found[name].seconds)
    return best, found[best]


SHAPES: Mapping[str, tuple[int, ...]] = {"lenet5": (1, 28, 28), "resnet50": (3, 224, 224)}
"""Of the samples of networks that are trained alone."""


def train_alone(network: str, batch: int, format_name: str, steps: int) -> None:
    """Some steps from values of its own on made-up samples, with nothing beside them in the process."""
    torch.set_num_threads(1)
    memory_format = FORMATS[format_name]
    peer = _laid_out(PEERS[network](), memory_format)
    images, labels = (
        _laid_out(torch.rand(batch, *SHAPES[network]), memory_format),
        torch.zeros(batch, dtype=torch.int64),
    )
    optimizer = torch.optim.SGD(peer.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(peer(images), labels))
        optimizer.step()


def main() -> None:
    """One process of the peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=[*PEERS])
    parser.add_argument("begun", type=Path)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--size", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.size > 1:
        meeting = f"file://{asked.begun.parent.resolve()}/meeting"
        dist.init_process_group("gloo", init_method=meeting, rank=asked.rank, world_size=asked.size)
    with np.load(asked.begun) as begun:
        format_name, theirs = faster(PEERS[asked.network], dict(begun), asked.rank, asked.size)
    if asked.compiled:
        theirs.run = torch.compile(theirs.run)
        for _ in LIMITS:
            theirs.step()
    answer(theirs.step, {"format": format_name})
    if asked.size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
