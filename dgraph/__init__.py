"""dgraph: a distributed dataflow-graph runtime with tiled tensors.

    network = dgraph.load("configs/digits.yaml", ranks=4)
    network.check(); network.plan(3); network.trace(3)
    network.train()                 # under mpirun: with network.train(communicator)

Importing the package imports nothing heavy: `load` fetches the rest.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Network", "Rect", "load"]


def __getattr__(name: str) -> Any:
    """The public names, imported on first use, so that threads can be set before NumPy loads."""
    if name in ("Network", "load"):
        from dgraph import network

        return getattr(network, name)
    if name == "Rect":
        from dgraph.rect import Rect

        return Rect
    raise AttributeError(f"module dgraph has no attribute {name}")
