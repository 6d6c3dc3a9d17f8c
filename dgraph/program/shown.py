"""Which tensors are looked at behind a run.

In: a forward graph. Out: names. Promise: what metrics, confusion matrices and predictions read is among them.
"""

from __future__ import annotations

from dgraph.graph.node import Graph
from dgraph.ops import OPS
from dgraph.ops.metric import METRICS


def reported(graph: Graph) -> frozenset[str]:
    """What losses say and metrics are found from: predictions, labels, sums."""
    nodes = [node for node in graph.ops.values() if OPS[node.op].loss is not None or node.op in METRICS]
    found = set[str]()
    for node in nodes:
        ports = dict((*node.inputs, *node.outputs))
        said = "probability" if "probability" in ports else "input"
        found.update(ports[port] for port in (said, "labels", "output") if port in ports)
    return frozenset(found)
