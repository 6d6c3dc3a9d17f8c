"""From a config to a program, all without MPI and without data.

In: a config. Out: `Program`, or the forward graph alone. Promise: whatever does not fit is a fault with its place in the config.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dgraph.autodiff import add_gradients
from dgraph.config import Config
from dgraph.data import Description
from dgraph.error import DgraphError
from dgraph.graph.build import build_graph
from dgraph.graph.node import Graph
from dgraph.graph.spec import NodeSpec
from dgraph.layout import Mesh, assign_layout, part_readers
from dgraph.models import expand, place_of
from dgraph.ops import DECLARED, OPS
from dgraph.program.backend import backend_of
from dgraph.program.check import (
    check_accumulated,
    check_data,
    check_judging,
    check_labels,
    check_partial,
    check_updates,
)
from dgraph.program.compiled import Program
from dgraph.program.section import described, steps_of_epoch
from dgraph.program.updating import optimizer_of


def compile_config(config: Config, training: bool = True) -> Program:
    """Compiles a config; with `training` false, the forward graph alone.

    Raises ConfigError (with a place) for what does not fit, CheckError for what a layout cannot express.
    """
    backend = backend_of(config)
    data, specs, forward = forward_graph(config, training)
    if training:
        check_accumulated(config, data)
        check_judging(config, data, forward)
    with _graph_place(config, specs):
        mesh = Mesh.of(config.mesh)
        if mesh.ranks > 1:
            forward = part_readers(forward, assign_layout(forward, mesh, OPS), OPS)
        optimizer = optimizer_of(config, steps_of_epoch(config, data))
        graph = add_gradients(forward, OPS, optimizer.norms) if training else forward
        layout = assign_layout(graph, mesh, OPS, config.train.shard)
    check_updates(config, graph)
    return Program(config, data, forward, graph, layout, optimizer, backend)


def forward_graph(config: Config, training: bool = False) -> tuple[Description, tuple[NodeSpec, ...], Graph]:
    """What the data is, the nodes that a config stands for, and their graph; raises as `compile_config`. `training`: there must
    be samples to train on."""
    data = described(config, training)
    specs, parameters = expand(config, data.shape, data.label_shape)
    with _graph_place(config, specs):
        graph = build_graph(config.name, specs, parameters, DECLARED)
        check_data(graph, data, config.data.batch)
        check_labels(graph, data)
        if training:
            check_partial(graph, config, data)
    return data, specs, graph


@contextmanager
def _graph_place(config: Config, specs: Sequence[NodeSpec]) -> Iterator[None]:
    """Gives errors of graph and layout the place where the config declares what they are about, and the block around it."""
    try:
        yield
    except DgraphError as error:
        readers = tuple(spec.name for spec in specs if error.name in (tensor for _, tensor in spec.inputs))
        if error.name or error.place is None:
            error.place = place_of(config, error.name, error.key, readers)
        raise error.within(config.origin(error.name.removeprefix("update_"))) from None
