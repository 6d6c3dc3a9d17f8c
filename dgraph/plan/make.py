"""Layout -> plan: all messages of one rank.

In: a layout and a rank. Out: a frozen `Plan`. Promise: no MPI and no other rank is asked; every rank finds the same collectives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from dgraph.layout.assign import Layout, TensorLayout
from dgraph.layout.field import Mesh
from dgraph.plan.message import Messages, receives, sends
from dgraph.plan.paint import corners, paint
from dgraph.rect import Rect


@dataclass(frozen=True, eq=False)
class Transfer:
    """How one tensor's value comes from what ranks wrote to where this rank reads.

    `number` is the tensor's place in the graph: the tag of its messages and the order in which all ranks start transfers.
    `all_reduce` holds the ranks of the sum where the messages are one; they are then not sent one by one.
    """

    tensor: str
    number: int
    read_rect: Rect
    write_rect: Rect
    sends: Messages
    receives: Messages
    all_reduce: tuple[int, ...] | None

    @property
    def kind(self) -> str:
        return "all_reduce" if self.all_reduce else "messages"

    @cached_property
    def overlaps(self) -> bool:
        """Whether anything received falls on what this rank wrote itself, or on what another sends: a sum."""
        if not self.read_rect:
            return False
        own = self.write_rect.intersect(self.read_rect)
        starts, stops = corners([own] if own else [], own.ndim)
        incoming = self.receives
        counts, _ = paint(
            self.read_rect, (np.concatenate([starts, incoming.starts]), np.concatenate([stops, incoming.stops]))
        )
        return bool(counts.max() > 1)


@dataclass(frozen=True, eq=False)
class Plan:
    """The transfers of one rank, by tensor, in graph order; tensors that need no message are left out."""

    rank: int
    transfers: Mapping[str, Transfer]


def make_plan(layout: Layout, rank: int) -> Plan:
    """The plan of one rank."""
    transfers = {}
    for number, (name, tensor) in enumerate(layout.tensors.items()):
        transfer = _transfer(name, number, tensor, layout.mesh, rank)
        if transfer is not None:
            transfers[name] = transfer
    return Plan(rank, MappingProxyType(transfers))


def _transfer(name: str, number: int, tensor: TensorLayout, mesh: Mesh, rank: int) -> Transfer | None:
    if tensor.is_local:
        return None
    incoming, outgoing = receives(tensor, mesh, rank), sends(tensor, mesh, rank)
    if not len(incoming) and not len(outgoing):
        return None
    place = mesh.coordinates(rank)
    read, write = tensor.read.at(place), tensor.write.at(place)
    group = _all_reduce_group(tensor, incoming, mesh, rank)
    return Transfer(name, number, read, write, outgoing, incoming, group)


def _all_reduce_group(tensor: TensorLayout, incoming: Messages, mesh: Mesh, rank: int) -> tuple[int, ...] | None:
    """The ranks that all write and read one and the same rect, if the messages are just these ranks'.

    Read and write fields must be equal on all ranks, so that every member finds the same group.
    """
    if not tensor.write.equals(tensor.read):
        return None
    depends = tensor.write.axes()
    free = [a for a, n in enumerate(mesh.sizes) if n > 1 and a not in tensor.replicas and a not in depends]
    members = 1
    for axis in free:
        members *= mesh.sizes[axis]
    if members < 2 or len(incoming) != members - 1:
        return None
    return tuple(sorted([rank, *incoming.peers.tolist()]))
