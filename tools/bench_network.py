"""The networks that steps are timed with, and dgraph's side of it.

In: configs of `configs/`. Out: `NETWORKS`; `Ours`, a worker that trains on one batch. Promise: a peer finds in one file all that it
begins with: values, batch, rate, and the losses that it has to have as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench_row import CONFIGS
from dgraph.config import Config, load_config, parse_config
from dgraph.kernels.call import Array
from dgraph.program import compile_config
from dgraph.rect import Rect
from dgraph.runtime.communicator import Communicator
from dgraph.train import Worker

LIMITS = (1e-3, 1e-3, 1e-2)
"""How far apart, relatively, the losses may be of an evaluation, of the first step, and of the second one, which has seen gradients
and an update; batch norms behind rectifiers make much of a rounding error in float32."""
VALUE = "value of "


@dataclass(frozen=True)
class Network:
    """A config of `configs/` by its name, or the text of one, and what of it is changed."""

    config: str
    batch: int
    shape: tuple[int, ...] | None = None
    more: tuple[str, ...] = ()

    def overrides(self) -> list[str]:
        """One batch of samples, kept in memory."""
        shape = [] if self.shape is None else [f"data.shape={list(self.shape)}"]
        one = [f"data.batch={self.batch}", f"data.samples={self.batch}", "data.shares={train: 1}", "data.keep=true"]
        return [*shape, *one, *self.more]

    def load(self, overrides: Sequence[str], ranks: int) -> Config:
        """The config with these values."""
        if "\n" in self.config:
            return parse_config(self.config, "bench.yaml", overrides, ranks)
        return load_config(CONFIGS / f"{self.config}.yaml", overrides, ranks)


NETWORKS = {
    "lenet5": Network("lenet5", 128),
    "resnet20": Network("resnet20_cifar", 128),
    "vgg_a": Network("vgg_a", 16, (3, 64, 64)),
    "resnet50": Network("resnet50", 8),
    "unet3d": Network("unet3d", 1),
}


class Ours:
    """dgraph's side: `step` trains on one batch, always the same. Making it is collective.

    `losses` are those of an evaluation of the first values and of the first steps.
    """

    def __init__(self, network: Network, backend: str, communicator: Communicator, more: tuple[str, ...] = ()) -> None:
        overrides = [*network.overrides(), f"backend={backend}", *more]
        config = network.load(overrides, communicator.size)
        self.worker = Worker(compile_config(config), communicator)
        self.indices = self.worker.training_batches(shuffle=False).indices(0, 0)
        self.begun = {tensor.name: self._whole(tensor.name).copy() for tensor in self.worker.program.graph.kept}
        self.worker.forward(self.indices)
        self.losses = [_loss(self.worker.metrics()), *(_loss(self.step()) for _ in LIMITS[1:])]

    def step(self) -> Array | None:
        """One step of training; its metrics. Collective."""
        return self.worker.train_step(self.indices)

    def save(self, folder: Path) -> Path:
        """Writes all that a peer begins with into a file of this folder."""
        worker = self.worker
        recipe, source = worker.program.optimizer.recipe, worker.source
        if recipe.rule != "sgd":
            raise ValueError(f"the peers train with sgd, not {recipe.rule}")
        values: dict[str, Any] = {VALUE + name: value for name, value in self.begun.items()}
        values |= {
            "images": source.read(self.indices, Rect.whole(source.shape)),
            "labels": source.labels(self.indices, Rect.whole(source.label_shape)),
            "losses": np.array(self.losses),
            "rate": np.array(worker.program.optimizer.rate(0)),
            "momentum": np.array(recipe.numbers["momentum"]),
        }
        path = folder / "begun.npz"
        np.savez(path, **values)
        return path

    def _whole(self, tensor: str) -> Array:
        """What a tensor holds. Raises ValueError where this rank reads a part of it."""
        found = self.worker.engine.value(tensor)
        if found is None or found.shape != self.worker.program.graph.tensors[tensor].dim:
            raise ValueError(f"rank {self.worker.communicator.rank} does not read all of {tensor}")
        return found


def _loss(metrics: Array | None) -> float:
    return float("nan") if metrics is None else float(metrics[0])
