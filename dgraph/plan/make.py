"""Layout -> plan: all messages of one rank.

In: a layout and a rank. Out: a frozen `Plan`. Promise: no MPI and no other rank is asked; every rank finds the same collectives and
the same buckets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from dgraph.layout.assign import Layout, TensorLayout
from dgraph.layout.field import Mesh
from dgraph.plan.fuse import BUCKET, fuse
from dgraph.plan.kind import KINDS, Kind, recognise
from dgraph.plan.merge import find_merges
from dgraph.plan.message import receives, sends
from dgraph.plan.transfer import Convoy, Transfer


@dataclass(frozen=True, eq=False)
class Plan:
    """The transfers of one rank, by tensor, in graph order, without tensors that need no message; and how they travel, in the
    order of their starts."""

    rank: int
    transfers: Mapping[str, Transfer]
    convoys: tuple[Convoy, ...]

    @cached_property
    def merged(self) -> frozenset[str]:
        """The nodes that find a statistic of what this rank has alone, because it is merged with those of others."""
        return frozenset(node for convoy in self.convoys if convoy.merge for node in convoy.merge.nodes)


def make_plan(layout: Layout, rank: int, lower: Collection[str] = KINDS, bucket: int = BUCKET) -> Plan:
    """The plan of one rank. `lower`: which kinds are recognised; `bucket`: elements that are fused into one convoy at most, 0: no
    transfers are fused."""
    transfers = {}
    for number, (name, tensor) in enumerate(layout.tensors.items()):
        transfer = make_transfer(name, number, tensor, layout.mesh, rank, lower)
        if transfer is not None:
            transfers[name] = transfer
    merges = find_merges(layout, transfers, rank, lower)
    for convoy in merges:
        transfers |= {transfer.tensor: transfer for transfer in convoy.transfers}
    merged = {tensor for convoy in merges for tensor in convoy.tensors}
    others = [transfer for name, transfer in transfers.items() if name not in merged]
    convoys = (*merges, *fuse(layout.graph, others, bucket))
    return Plan(rank, MappingProxyType(transfers), tuple(sorted(convoys, key=lambda one: (one.start, one.number))))


def make_transfer(name: str, number: int, tensor: TensorLayout, mesh: Mesh, rank: int,
                  lower: Collection[str] = KINDS) -> Transfer | None:  # fmt: skip
    """One tensor's transfer on one rank; None where it neither sends nor receives."""
    if tensor.is_local:
        return None
    incoming, outgoing = receives(tensor, mesh, rank), sends(tensor, mesh, rank)
    if not len(incoming) and not len(outgoing):
        return None
    place = mesh.coordinates(rank)
    kind = recognise(tensor, mesh)
    if kind.name not in lower:
        kind = Kind("messages", kind.axes)
    axes = tuple(mesh.names[axis] for axis in kind.axes)
    return Transfer(
        name, number, tensor.read.at(place), tensor.write.at(place), outgoing, incoming, kind.name, axes,
        kind.group(mesh, rank),
    )  # fmt: skip
