"""Which transfers of a rank travel together, and from where to where in the order of the nodes.

In: a graph, the transfers of a rank. Out: convoys, in the order of their starts. Promise: ranks that take part in a transfer put it
into the same convoy.

What may be fused are small transfers of one kind between the same ranks, if all of them can start before any is needed. What none
but updates need, the gradients of parameters above all, fills buckets in the order in which backward finishes it; of other
transfers those that one node finishes go together, such as two statistics of a norm.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from dgraph.graph.node import Graph, OpNode
from dgraph.plan.transfer import Convoy, Transfer

BUCKET = 1 << 18
"""Elements of a bucket, if nobody says how many: 1 MiB of float32."""
WHOLE = ("all_reduce", "reduce_scatter", "all_gather", "broadcast")
"""Kinds in which every rank has, before or after, one and the same rect, so that all agree on what a bucket holds."""


def fuse(graph: Graph, transfers: Iterable[Transfer], bucket: int = BUCKET) -> tuple[Convoy, ...]:
    """The convoys of one rank. A bucket is full with `bucket` elements; larger transfers, and with 0 all of them, travel alone."""
    position = {name: k for k, name in enumerate(graph.ops)}
    nodes = list(graph.ops.values())
    single = sorted((_alone(graph, transfer, position) for transfer in transfers), key=lambda f: (f.start, f.number))
    done: list[Convoy] = []
    filling: dict[Hashable, int] = {}
    for convoy in single:
        key = _key(graph, nodes, convoy)
        at = filling.get(key)
        if at is not None and convoy.start < done[at].wait and _elements(done[at]) + _elements(convoy) <= bucket:
            done[at] = _joined(done[at], convoy)
            continue
        if convoy.kind in WHOLE and _elements(convoy) <= bucket:
            filling[key] = len(done)
        done.append(convoy)
    return tuple(sorted(done, key=lambda f: (f.start, f.number)))


def _alone(graph: Graph, transfer: Transfer, position: dict[str, int]) -> Convoy:
    """From the last writer to the first reader behind it; without one, to the end."""
    last = max(position[name] for name, _ in graph.writers[transfer.tensor])
    readers = [position[name] for name, port in graph.readers[transfer.tensor] if graph.ops[name].port_map(port)]
    return Convoy((transfer,), last, min((at for at in readers if at > last), default=len(position)))


def _key(graph: Graph, nodes: Sequence[OpNode], convoy: Convoy) -> Hashable:
    """What convoys that may be one have in common: who takes part, how, at which batches of a step; and the node that finishes
    them, unless nothing waits for them but updates."""
    first = nodes[convoy.start]
    urgent = convoy.wait < len(nodes) and not _is_late(nodes[convoy.wait])
    role = graph.tensors[convoy.transfers[0].tensor].role
    return convoy.kind, convoy.group, first.kind, _is_late(first), urgent, role, convoy.start if urgent else -1


def _is_late(node: OpNode) -> bool:
    """Whether a node runs behind the last batch of a training step."""
    return node.kind in ("measure", "update") and node.op != "follow"


def _elements(convoy: Convoy) -> int:
    """How many there are of what is whole on every rank."""
    return sum(max(t.read_rect.volume, t.write_rect.volume) for t in convoy.transfers)


def _joined(bucket: Convoy, convoy: Convoy) -> Convoy:
    return Convoy(
        (*bucket.transfers, *convoy.transfers), max(bucket.start, convoy.start), min(bucket.wait, convoy.wait)
    )
