"""The backend that a config names.

In: a config, a graph. Out: `Backend`; which library does which ops. Promise: a library is imported only where a config asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from dgraph.config import Config
from dgraph.error import ConfigError
from dgraph.graph.node import Graph
from dgraph.kernels.backend import NUMPY, Backend


def backend_of(config: Config) -> Backend:
    """The kernels that a config runs on. Raises ConfigError, with its place, where their library is not installed."""
    if config.backend == NUMPY.name:
        return NUMPY
    try:
        backend: Backend = import_module(f"dgraph.kernels.{config.backend}").BACKENDS[config.dtype]
    except ConfigError as error:
        raise error.at(config.place("backend")) from None
    return backend


def libraries(graph: Graph, backend: Backend) -> Mapping[str, tuple[str, ...]]:
    """The ops of a graph by the library that does them, forward or gradient; those whose two halves differ are in both."""
    done: dict[str, dict[str, None]] = {}
    for node in graph.ops.values():
        key = node.op, node.kind == "gradient"
        if key in backend.kernels:
            done.setdefault(backend.maker(key), {})[node.op] = None
    return {library: tuple(ops) for library, ops in done.items()}
