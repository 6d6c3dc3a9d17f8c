"""The values of a network's parameters and states, whole.

In: a forward graph; a checkpoint, or the seed of first values. Out: `Values`, which reads one tensor at a time. Promise: no
ranks: any mesh's checkpoint will do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dgraph.checkpoint import Checkpoint, sound_checkpoint, used
from dgraph.error import DataError
from dgraph.graph.fan import fans
from dgraph.graph.node import Graph
from dgraph.kernels.call import Array
from dgraph.random import initial
from dgraph.rect import Rect
from dgraph.runtime.cause import warn

Values = Callable[[str], Array]
"""The values of a tensor by its name."""


def initial_values(graph: Graph, seed: int, dtype: str) -> Values:
    """What training would begin with."""

    def read(name: str) -> Array:
        tensor = graph.tensors[name]
        values = np.empty(tensor.dim, dtype)
        rect = Rect.whole(tensor.dim)
        initial(tensor.attributes["init"], seed, name, tensor.dim, rect, *fans(graph, name), values)
        return values

    return read


def stored_values(graph: Graph, path: Path, dtype: str, best: bool = False) -> Values:
    """What the newest sound checkpoint of a run holds, or its `best`: averages of parameters where training kept some. Those passed
    over are named on stderr. Raises DataError where there is none, or where it is of another network."""
    checkpoint, passed = sound_checkpoint(path, best)
    for line in passed:
        warn(line)
    for tensor in graph.kept:
        _require(checkpoint, tensor.name, tensor.dim)

    def read(name: str) -> Array:
        values = np.empty(graph.tensors[name].dim, dtype)
        checkpoint.read(used(checkpoint, name), Rect.whole(values.shape), values)
        return values

    return read


def _require(checkpoint: Checkpoint, name: str, dim: tuple[int, ...]) -> None:
    found = checkpoint.dim(name)
    if found != dim:
        what = f"{checkpoint.path}: {name} has dim {list(found)}, not {list(dim)}"
        raise DataError(what, "the network is not the one that was saved")
