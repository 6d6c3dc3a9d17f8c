"""A training step on two ranks that split batch or space, beside JAX: jit over a sharded mesh of two CPU devices.

In: two ranks. Out: rows by network, split and backend. Promise: the same weights, batch and losses on both sides, statistics over
the whole batch on both; one thread a rank and a device.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench_network import NETWORKS, Network, Ours
from bench_row import Options, Row, Skipped, missing
from bench_torch import beside
from dgraph.runtime.communicator import Communicator

SCRIPT = "bench_jax_peer.py"
GOAL = 0.5
ENVIRONMENT = {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
}
CONV3D = """
mesh: {p: auto}
data: {source: synthetic, shape: [4, 32, 32, 32], classes: 10, batch: 2}
layers:
  - {name: conv1, conv: {channels: 16, size: 3, padding: 1}, nonlinearity: relu, split: {N: p}}
  - {name: conv2, conv: {channels: 32, size: 3, padding: 1}, nonlinearity: relu}
  - {name: pool, max_pool: {size: 2}}
  - {name: conv3, conv: {channels: 64, size: 3, padding: 1}, nonlinearity: relu}
  - {name: mean, global_average_pool: {}}
  - {name: classifier, softmax: {classes: 10, bias: true}}
train: {optimizer: {sgd: {rate: 0.01, momentum: 0.9}}, steps: 1}
"""
CASES = {
    "resnet20": (NETWORKS["resnet20"], "layers.conv.split={H: p}"),
    "conv3d": (Network(CONV3D, 2), "layers.conv1.split={D: p}"),
}
"""Each with what splits space."""


def run(options: Options, communicator: Communicator) -> Iterator[Row | Skipped]:
    """The rows that were asked for. Collective."""
    for name, (network, in_space) in CASES.items():
        for split, more in {"batch": (), "space": (in_space,)}.items():
            case = f"jax.{name}.{split}"
            if not options.wants(case):
                continue
            if missing("jax"):
                yield Skipped(case, missing("jax"))
                continue
            for backend in options.backends:
                ours = Ours(network, backend, communicator, (*more, *options.overrides))
                told = {"backend": backend, "ranks": communicator.size}
                yield beside(case, SCRIPT, [name, split], ours, options, GOAL, told, environment=ENVIRONMENT)
