"""Where the tensors of one rank lie in memory.

In: a layout, a plan, a rank. Out: `Placement`: for every tensor the buffers that its writers write and its readers read. Promise:
every rank that takes part in a sum of a tensor uses the same memory order for it.

    one buffer      what is received falls beside what is written, or is a gradient that is added to it: read rect and write
                    rect are two views of it
    two buffers     the writers' part stays as it is, because others or this rank read it again; the sum is made beside it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from dgraph.graph.node import Dim, Graph, OpNode
from dgraph.kernels.call import Call, Kernel
from dgraph.layout.assign import Layout
from dgraph.plan.make import Plan
from dgraph.plan.transfer import Transfer
from dgraph.rect import Rect

Kernels = Mapping[tuple[str, bool], Kernel]


@dataclass(frozen=True)
class Buffer:
    """A block of memory for the elements of `rect`; `order` lists the dimensions, the slowest first. `shared`: where ranks can
    share memory, others read this buffer in place, from the start of its tensor's convoy to the wait."""

    tensor: str
    rect: Rect
    order: tuple[int, ...]
    nbytes: int
    shared: bool = False


@dataclass(frozen=True)
class Place:
    """The buffers (their numbers) of a tensor's writers and readers on this rank; None where it has none."""

    write: int | None
    read: int | None


@dataclass(frozen=True)
class Placement:
    """The buffers of one rank, by number, and which of them are those of a tensor.

    `bare` are tensors of which this rank reads elements that no rank writes: they are zero, as gradients of what was cut off.
    `absent` are the numbers of buffers that nobody needs: they are in no memory. `offsets` are those of buffers that are needed for
    a while only, in an arena of `arena_nbytes` bytes; others have memory of their own. `over` are buffers that lie in the place of
    another, over which they are written. `lasting` are tensors whose values stay until something else is run.
    """

    buffers: tuple[Buffer, ...]
    places: Mapping[str, Place]
    bare: frozenset[str] = frozenset()
    absent: frozenset[int] = frozenset()
    offsets: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    arena_nbytes: int = 0
    over: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    lasting: frozenset[str] = frozenset()

    @property
    def nbytes(self) -> int:
        """Bytes of the arena, and of all buffers that are not in it."""
        alone = self.absent | self.offsets.keys()
        return self.arena_nbytes + sum(buffer.nbytes for k, buffer in enumerate(self.buffers) if k not in alone)

    def numbers(self, tensors: Iterable[str]) -> frozenset[int]:
        """The buffers of some tensors."""
        places = [self.places[tensor] for tensor in tensors]
        return frozenset(number for place in places for number in (place.write, place.read) if number is not None)

    def only(self, numbers: frozenset[int]) -> Placement:
        """The same with no memory for any but these buffers."""

        def there(number: int | None) -> int | None:
            return number if number in numbers else None

        places = {name: Place(there(place.write), there(place.read)) for name, place in self.places.items()}
        absent = frozenset(range(len(self.buffers))) - numbers
        return replace(self, places=MappingProxyType(places), absent=absent)


def place_tensors(layout: Layout, plan: Plan, orders: Mapping[str, tuple[int, ...]], itemsize: int) -> Placement:
    """The buffers of one rank."""
    buffers: list[Buffer] = []
    places: dict[str, Place] = {}
    bare: set[str] = set()
    shared = {convoy.transfers[0].tensor for convoy in plan.convoys if convoy.is_read_in_place(itemsize)}

    def add(tensor: str, rect: Rect, written: bool) -> int | None:
        if not rect:
            return None
        buffers.append(
            Buffer(tensor, rect, orders[tensor], rect.volume * itemsize, shared=written and tensor in shared)
        )
        return len(buffers) - 1

    for name, tensor in layout.tensors.items():
        read, write = layout.read_rect(name, plan.rank), layout.write_rect(name, plan.rank)
        if _one_buffer(read, write, plan.transfers.get(name), tensor.node.role == "gradient"):
            number = add(name, read.hull(write), True)
            places[name] = Place(number, number)
        else:
            places[name] = Place(add(name, write, True), add(name, read, False))
        if name not in plan.transfers and read not in write:
            bare.add(name)
    return Placement(tuple(buffers), MappingProxyType(places), frozenset(bare))


def _one_buffer(read: Rect, write: Rect, transfer: Transfer | None, gradient: bool) -> bool:
    """A gradient may be added to where it was written if others take of it only what this rank does not read."""
    if transfer is None or transfer.sums_in_place:
        return True
    if transfer.overlaps and not (gradient and not any(rect.intersect(read) for _, rect in transfer.sends)):
        return False
    return read.hull(write).volume <= read.volume + write.volume


def memory_orders(graph: Graph, kernels: Kernels, dtype: str) -> Mapping[str, tuple[int, ...]]:
    """The memory order of every tensor, the same on all ranks: as the kernels wish; results of element-wise ops as their
    input; gradients as their tensors; otherwise as the dim says."""
    orders: dict[str, tuple[int, ...]] = {}
    for node in graph.ops.values():
        if node.kind == "forward" and (node.op, False) in kernels:
            _wishes(node, graph, kernels[node.op, False], dtype, orders)
    for tensor in graph.tensors.values():
        if tensor.of is not None:
            orders[tensor.name] = orders.get(tensor.of, tuple(range(len(tensor.dim))))
        orders.setdefault(tensor.name, tuple(range(len(tensor.dim))))
    return MappingProxyType(orders)


def _wishes(node: OpNode, graph: Graph, kernel: Kernel, dtype: str, orders: dict[str, tuple[int, ...]]) -> None:
    dims = {port: graph.tensors[tensor].dim for port, tensor in (*node.inputs, *node.outputs) if node.port_map(port)}
    call = _whole_call(node, dims, dtype)
    for port, tensor in (*node.inputs, *node.outputs):
        wish = kernel.order(call, port) if port in dims else None
        if wish is not None:
            orders.setdefault(tensor, wish)
    primary = [(port, tensor) for port, tensor in node.inputs if port in dims][:1]
    for port, tensor in node.outputs:
        for source_port, source in primary:
            if node.port_map(port) == node.port_map(source_port) and source in orders:
                orders.setdefault(tensor, orders[source])


def _whole_call(node: OpNode, dims: Mapping[str, Dim], dtype: str) -> Call:
    rects = {port: Rect.whole(dim) for port, dim in dims.items()}
    return Call(node.op, False, node.attributes, node.access, node.access.space.whole, rects, frozenset(), dtype)
