"""JAX's side of a training step: one process with two CPU devices of a thread each, jit over a sharded mesh.

python tools/bench_jax_peer.py NETWORK SPLIT BEGUN.npz --rank 0 --size 1      as `bench_peer.Peer` starts it

In: a network, what is split (batch, or space: the first spatial dimension), the file of what it begins with. Out: steps, as told.
Promise: statistics of batch norms are over the whole batch, as in dgraph; the losses are those of the file before any time is
taken; of the two orders of dimensions, it works in the faster one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bench_network import LIMITS, VALUE
from bench_peer import answer

FORMATS = {"channels_first": "NC{}", "channels_last": "N{}C"}
Values = Mapping[str, Any]


class Layers:
    """The ops that networks are made of, in one order of dimensions; `values` are by dgraph's names. Running statistics are kept in
    `running`, to be taken when the forward pass is done."""

    def __init__(self, values: Values, order: str) -> None:
        self.values, self.order = values, order
        self.channel = order.index("C")
        self.space = tuple(d for d, letter in enumerate(order) if letter not in "NC")
        self.running: dict[str, Any] = {}

    def conv(self, x: Any, name: str, stride: int = 1) -> Any:
        """A convolution that is padded to keep places."""
        filters = self.values[f"{name}.W"]
        pads = [(size // 2, size // 2) for size in filters.shape[2:]]
        orders = (self.order, "OI" + self.order.replace("N", "").replace("C", ""), self.order)
        return jax.lax.conv_general_dilated(x, filters, (stride,) * len(pads), pads, dimension_numbers=orders)

    def bias(self, x: Any, name: str) -> Any:
        """Adds a number a channel."""
        return x + self._by_channel(self.values[f"{name}.b"])

    def norm(self, x: Any, name: str) -> Any:
        """A batch norm in training."""
        axes = (0, *self.space)
        mean, variance = jnp.mean(x, axes), jnp.var(x, axes)
        count = x.size / x.shape[self.channel]
        found = {"running_mean": mean, "running_variance": variance * count / (count - 1)}
        for key, now in found.items():
            kept = self.values[f"{name}.{key}"]
            self.running[f"{name}.{key}"] = 0.9 * kept + 0.1 * jax.lax.stop_gradient(now).reshape(kept.shape)
        scale = self.values[f"{name}.scale"].reshape(-1) * jax.lax.rsqrt(variance + 1e-5)
        shift = self.values[f"{name}.shift"].reshape(-1) - mean * scale
        return x * self._by_channel(scale) + self._by_channel(shift)

    def narrow(self, x: Any, more: int) -> Any:
        """Every second place, and so many channels of zeros before and behind."""
        taken = x[tuple(slice(None, None, 2) if d in self.space else slice(None) for d in range(x.ndim))]
        return jnp.pad(taken, [(more, more) if d == self.channel else (0, 0) for d in range(x.ndim)])

    def max_pool(self, x: Any) -> Any:
        """The largest of two places each way."""
        sizes = tuple(2 if d in self.space else 1 for d in range(x.ndim))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, sizes, sizes, "VALID")

    def scores(self, x: Any) -> Any:
        """The mean over space, and a classifier."""
        weights = self.values["classifier.weights1"]
        return jnp.mean(x, self.space) @ weights.reshape(len(weights), -1).T + self.values["classifier.bias1"].reshape(
            -1
        )

    def _by_channel(self, numbers: Any) -> Any:
        return numbers.reshape([-1 if d == self.channel else 1 for d in range(len(self.order))])


def resnet20(layers: Layers, x: Any) -> Any:
    """As `configs/resnet20_cifar.yaml`."""
    x = jax.nn.relu(layers.norm(layers.conv(x, "conv"), "conv"))
    for stage in (1, 2, 3):
        for k in range(3):
            name, stride = f"stage{stage}.{k}", 2 if stage > 1 and k == 0 else 1
            inner = jax.nn.relu(layers.norm(layers.conv(x, f"{name}.conv1", stride), f"{name}.conv1"))
            inner = layers.norm(layers.conv(inner, f"{name}.conv2"), f"{name}.conv2")
            x = jax.nn.relu(inner + (layers.narrow(x, x.shape[layers.channel] // 2) if stride == 2 else x))
    return layers.scores(x)


def conv3d(layers: Layers, x: Any) -> Any:
    """As `bench_jax.CONV3D`."""
    x = jax.nn.relu(layers.bias(layers.conv(x, "conv1"), "conv1"))
    x = layers.max_pool(jax.nn.relu(layers.bias(layers.conv(x, "conv2"), "conv2")))
    x = jax.nn.relu(layers.bias(layers.conv(x, "conv3"), "conv3"))
    return layers.scores(x)


PEERS: dict[str, Callable[[Layers, Any], Any]] = {"resnet20": resnet20, "conv3d": conv3d}


class Theirs:
    """A network with the values that ours had at first, the batch, and an optimizer like ours, in one order of dimensions."""

    def __init__(self, network: str, split: str, begun: Values, order: str) -> None:
        images = begun["images"] if order[1] == "C" else np.moveaxis(begun["images"], 1, -1)
        mesh = Mesh(np.array(jax.devices()), ("p",))
        spec: Any = PartitionSpec
        cut = 0 if split == "batch" else next(d for d, letter in enumerate(order) if letter not in "NC")
        whole = NamedSharding(mesh, spec())
        shared = NamedSharding(mesh, spec(*("p" if d == cut else None for d in range(len(order)))))
        named = NamedSharding(mesh, spec("p" if split == "batch" else None))
        values = {name.removeprefix(VALUE): jnp.asarray(begun[name]) for name in begun if name.startswith(VALUE)}
        trained = {name: value for name, value in values.items() if ".running_" not in name}
        kept = {name: value for name, value in values.items() if ".running_" in name}
        speeds = {name: jnp.zeros_like(value) for name, value in trained.items()}
        self._state = jax.device_put((trained, kept, speeds), whole)
        self._images = jax.device_put(images, shared)
        self._labels = jax.device_put(begun["labels"].reshape(-1).astype(np.int32), named)
        rate, momentum, peer = float(begun["rate"]), float(begun["momentum"]), PEERS[network]

        def loss_of(trained: Any, kept: Any, images: Any, labels: Any) -> Any:
            layers = Layers({**trained, **kept}, order)
            chances = jax.nn.log_softmax(peer(layers, images))
            return -jnp.mean(jnp.take_along_axis(chances, labels[:, None], 1)), layers.running

        def train(state: Any, images: Any, labels: Any) -> Any:
            trained, kept, speeds = state
            (loss, running), slopes = jax.value_and_grad(loss_of, has_aux=True)(trained, kept, images, labels)
            speeds = {name: momentum * speeds[name] + slopes[name] for name in speeds}
            trained = {name: trained[name] - rate * speeds[name] for name in trained}
            return (trained, running, speeds), loss

        self._train = jax.jit(train, out_shardings=(whole, whole), donate_argnums=0)
        self.seconds = self._begin(begun["losses"].tolist())

    def step(self) -> float:
        """One step of training; its loss."""
        self._state, loss = self._train(self._state, self._images, self._labels)
        for value in jax.tree_util.tree_leaves(self._state):
            value.block_until_ready()
        return float(loss)

    def _begin(self, losses: list[float]) -> float:
        """Does what ours did at first, compiles, and gives the seconds of another step. Raises ValueError unless it has the
        losses of ours."""
        mine = [self.step() for _ in LIMITS[1:]]
        for other, loss, limit in zip(mine, losses[1:], LIMITS[1:], strict=True):
            if not abs(other - loss) <= limit * abs(loss):
                raise ValueError(f"the same weights have the losses {losses[1:]} here, and {mine} there")
        start = perf_counter()
        self.step()
        return perf_counter() - start


def main() -> None:
    """The process of the peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=[*PEERS])
    parser.add_argument("split", choices=["batch", "space"])
    parser.add_argument("begun", type=Path)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--size", type=int)
    asked = parser.parse_args()
    with np.load(asked.begun) as begun:
        values = dict(begun)
    space = "DHW"[-(values["images"].ndim - 2) :]
    found = {name: Theirs(asked.network, asked.split, values, o.format(space)) for name, o in FORMATS.items()}
    best = min(found, key=lambda name: found[name].seconds)
    answer(found[best].step, {"format": best})


if __name__ == "__main__":
    main()
