"""Graph -> layout: the pieces of every op and the read and write rects of every tensor, on all ranks.

In: a graph, a mesh, the table of ops. Out: a frozen `Layout`. Promise: pure integers, the same on every rank; nothing here costs
more for 65,536 ranks than arrays over the mesh axes that a tensor depends on.

Which ranks' values count. The ranks that differ only on axes that cut nothing of a tensor's writers hold the same values:
they are *replicas*, and a reader takes those at its own place on these axes. Where several ops add into one tensor and an
axis cuts some of them only, the others count at place 0 of that axis alone (`OpLayout.counted`), so that nothing is added twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np

from dgraph.error import ConfigError
from dgraph.graph.access import Affine, image
from dgraph.graph.node import Graph, Op, OpNode, Split, TensorNode
from dgraph.layout.field import (
    Booleans,
    Field,
    Interval,
    Mesh,
    balanced,
    cut,
    flat_index,
    image_field,
    image_interval,
    whole,
)
from dgraph.layout.share import Share, share_of_input, share_of_split
from dgraph.rect import Rect


@dataclass(frozen=True, eq=False)
class OpLayout:
    """An op on all ranks: its share, the field of every port, and on which axes a written port counts at place 0 only."""

    node: OpNode
    share: Share
    fields: Mapping[str, Field]
    counted: Mapping[str, frozenset[int]]

    def counts(self, port: str, coordinates: tuple[int, ...]) -> bool:
        """Whether what a rank writes through `port` is part of the tensor's value."""
        return all(coordinates[axis] == 0 for axis in self.counted.get(port, ()))


@dataclass(frozen=True, eq=False)
class TensorLayout:
    """A tensor on all ranks. `replicas` are the axes on which a reader takes from ranks at its own place."""

    node: TensorNode
    read: Field
    write: Field
    replicas: frozenset[int]

    @cached_property
    def is_local(self) -> bool:
        """Whether every rank reads what it wrote and no two ranks that may talk touch the same element: no messages at all.

        Sufficient: read and write are the same field, and every axis that is not one of replicas cuts exactly one
        dimension, into disjoint intervals.
        """
        if not self.write.equals(self.read):
            return False
        seen: set[int] = set()
        for interval in self.write.intervals:
            axes = interval.axes()
            if seen & axes or not interval.is_disjoint():
                return False
            seen |= axes
        ndim = self.write.intervals[0].start.ndim
        return all(axis in seen or axis in self.replicas for axis in range(ndim))


@dataclass(frozen=True, eq=False)
class Layout:
    """All ops and tensors of a graph on all ranks of a mesh."""

    graph: Graph
    mesh: Mesh
    ops: Mapping[str, OpLayout]
    tensors: Mapping[str, TensorLayout]

    def pieces(self, op: str, rank: int) -> tuple[Rect, ...]:
        """The pieces of an op on one rank, boxes of its iteration space; mostly one, none where it is empty."""
        return self.ops[op].share.at(self.mesh.coordinates(rank))

    def piece_rect(self, op: str, port: str, piece: Rect) -> Rect:
        """The rect of a port's operand that one piece touches."""
        node = self.graph.ops[op]
        tensor = dict(node.outputs).get(port) or dict(node.inputs)[port]
        return image(node.port_map(port), node.access.space, piece, self.graph.tensors[tensor].dim)

    def distinct(self, op: str, port: str, coordinates: tuple[int, ...]) -> tuple[Rect, ...]:
        """What a rank has of an operand that no rank before it has: over the ranks that differ on the axes of the field, every
        element once."""
        field = self.ops[op].fields[port]
        place = tuple(c if axis in field.axes() else 0 for axis, c in enumerate(coordinates))
        own = field.at(place)
        rest = [own] if own else []
        for other in field.meeting(own):
            if other < place:
                rest = [part for one in rest for part in one.subtract(field.at(other))]
        return tuple(rest)

    def read_rect(self, tensor: str, rank: int) -> Rect:
        return self.tensors[tensor].read.at(self.mesh.coordinates(rank))

    def write_rect(self, tensor: str, rank: int) -> Rect:
        return self.tensors[tensor].write.at(self.mesh.coordinates(rank))


def assign_layout(graph: Graph, mesh: Mesh, table: Mapping[str, Op], shard: bool = False) -> Layout:
    """Places `graph` on `mesh`. `shard`: cut updates over the ranks that would repeat them, where a parameter does not say.

    Raises ConfigError for splits that name what is not there or cannot be cut.
    """
    ops: dict[str, OpLayout] = {}
    tensors: dict[str, TensorLayout] = {}
    for node in graph.ops.values():
        if node.kind == "update":
            ops[node.name] = _update_layout(node, graph, ops, mesh, shard)
        elif node.kind == "measure":
            ops[node.name] = _measure_layout(node, graph, ops, mesh, shard)
        elif node.kind == "zero":
            continue
        else:
            ops[node.name] = _op_layout(node, _share(node, graph, table[node.op], ops, mesh))
    for tensor in graph.tensors.values():
        tensors[tensor.name] = _tensor_layout(tensor, graph, ops, mesh)
    for node in graph.ops.values():
        if node.kind == "zero":
            written = tensors[node.outputs[0][1]].write
            ops[node.name] = OpLayout(node, _share_of_field(node, written, mesh), {"output": written}, {})
    return Layout(graph, mesh, {name: ops[name] for name in graph.ops}, tensors)


def _share(node: OpNode, graph: Graph, record: Op, ops: Mapping[str, OpLayout], mesh: Mesh) -> Share:
    """A gradient op does the piece of its op; an op without a split follows an input that an op computes, or else the data: the
    first of those with most labels, which it does not repeat over others."""
    if node.forward is not None:
        return ops[node.forward].share

    def weight(joined: tuple[str, str]) -> tuple[bool, int]:
        port, tensor = joined
        return graph.tensors[tensor].role == "activation", sum(1 for index in node.port_map(port) if index.terms)

    roles = ("activation", "data")
    followed = [(p, t) for p, t in node.inputs if graph.tensors[t].role in roles and node.port_map(p)]
    if node.split is not None or node.pieces or not followed:
        return share_of_split(node, record, mesh)
    port, tensor = max(followed, key=weight)
    writer, written_port = graph.writers[tensor][0]
    return share_of_input(node, record, port, _nominal(ops[writer], written_port), mesh)


def _nominal(writer: OpLayout, port: str) -> tuple[Interval, ...]:
    """Where a result is written, dimension by dimension, each from its own labels alone: a rank whose share is empty in another
    dimension or in a summed label is among the replicas of what follows, like the others."""
    pieces = writer.share.pieces
    return tuple(
        reduce(Interval.hull, (image_interval(expression, piece, extent) for piece in pieces))
        for expression, extent in zip(writer.node.port_map(port), writer.node.access.dims[port], strict=True)
    )


def _op_layout(node: OpNode, share: Share) -> OpLayout:
    fields: dict[str, Field] = {}
    for port in dict.fromkeys(port for port, _ in (*node.inputs, *node.outputs)):
        index, dim = node.port_map(port), node.access.dims.get(port.removesuffix(".delta"))
        if index and dim is not None:
            images = (image_field(index, share.access.space.labels, piece, dim) for piece in share.pieces)
            fields[port] = reduce(Field.hull, images)
    return OpLayout(node, share, fields, {})


def _share_of_field(node: OpNode, field: Field, mesh: Mesh) -> Share:
    """The share of an op over a tensor's own elements (update, measure, zero): the field itself; further labels whole."""
    space = node.access.space
    piece = {name: whole(mesh, extent) for name, extent in zip(space.labels, space.extents, strict=True)}
    piece |= zip(space.labels, field.intervals, strict=False)
    return Share(node.access, (piece,), field.axes())


# --- updates


def _update_layout(node: OpNode, graph: Graph, ops: Mapping[str, OpLayout], mesh: Mesh, shard: bool) -> OpLayout:
    """Where a parameter is updated, and on which axes ranks differ in that they would else repeat it."""
    field, axes = _update_field(node, graph.tensors[node.outputs[0][1]], graph, ops, mesh, shard)
    share = _share_of_field(node, field, mesh)
    return _op_layout(node, Share(share.access, share.pieces, axes))


def _measure_layout(node: OpNode, graph: Graph, ops: Mapping[str, OpLayout], mesh: Mesh, shard: bool) -> OpLayout:
    """A parameter is measured where it is updated, by ranks whose update rects overlap each element once (`Layout.distinct`)."""
    parameter = graph.tensors[node.attributes["parameter"]]
    update = graph.ops[parameter.attributes["update"]]
    field, _ = _update_field(update, parameter, graph, ops, mesh, shard)
    return _op_layout(node, _share_of_field(node, field, mesh))


def _update_field(node: OpNode, parameter: TensorNode, graph: Graph, ops: Mapping[str, OpLayout], mesh: Mesh,
                  shard: bool) -> tuple[Field, frozenset[int]]:  # fmt: skip
    """What of a parameter every rank updates: what it reads (every reader does the whole of it, replicas alike), or a cut of it;
    and the axes of the cut."""
    if node.split is not None:
        return _split_update(node, parameter, graph, mesh)
    read = _hull_of_readers(parameter, graph, ops, mesh)
    if parameter.attributes["shard"] if parameter.attributes["shard"] is not None else shard:
        return _sharded(read, mesh)
    return read, frozenset[int]()


def _sharded(read: Field, mesh: Mesh) -> tuple[Field, frozenset[int]]:
    """The read field cut again, along its longest dimension, over the axes on which it repeats."""
    axes = frozenset(a for a, n in enumerate(mesh.sizes) if n > 1) - read.axes()
    if not axes:
        return read, axes
    lengths = [int((interval.stop - interval.start).max()) for interval in read.intervals]
    longest = lengths.index(max(lengths))
    index, parts = flat_index(mesh, sorted(axes))
    intervals = list(read.intervals)
    intervals[longest] = balanced(intervals[longest], index, parts)
    return Field.of(read.dim, intervals), axes


def _split_update(node: OpNode, parameter: TensorNode, graph: Graph, mesh: Mesh) -> tuple[Field, frozenset[int]]:
    """The parameter cut by the axes that its `update_split` names."""
    letters = _parameter_letters(parameter, graph)
    intervals = [whole(mesh, n) for n in parameter.dim]
    split: Mapping[str, Split] = node.split or {}
    for letter, entry in split.items():
        if letter.upper() not in letters:
            raise ConfigError(
                f"update of {parameter.name}: there is no dimension {letter} to split",
                f"known are: {', '.join(letters)}",
            ).about(parameter.name, f"update_split.{letter}")
        axes = tuple(mesh.names.index(axis) for axis in entry.axes)
        dimension = letters[letter.upper()]
        if entry.sizes is not None and sum(entry.sizes) != parameter.dim[dimension]:
            raise ConfigError(
                f"update of {parameter.name}: sizes {list(entry.sizes)} do not add up to {parameter.dim[dimension]}"
            ).about(parameter.name, f"update_split.{letter}.sizes")
        if intervals[dimension].axes():
            raise ConfigError(
                f"update of {parameter.name}: {letter} cuts a dimension that is cut already", "one letter a dimension"
            ).about(parameter.name, f"update_split.{letter}")
        intervals[dimension] = cut(mesh, parameter.dim[dimension], axes, entry.sizes)
    field = Field.of(parameter.dim, intervals)
    return field, frozenset(axis for interval in intervals for axis in interval.axes())


def _parameter_letters(parameter: TensorNode, graph: Graph) -> dict[str, int]:
    """The letters of a parameter's dimensions: those of its first reader's labels, and X0, X1 ..."""
    letters = {f"X{d}": d for d in range(len(parameter.dim))}
    for reader, port in graph.readers[parameter.name]:
        index: tuple[Affine, ...] = graph.ops[reader].port_map(port)
        if index:
            return letters | {
                expression.terms[-1][0].upper(): d for d, expression in enumerate(index) if expression.terms
            }
    return letters


# --- tensors


def _hull_of_readers(tensor: TensorNode, graph: Graph, ops: Mapping[str, OpLayout], mesh: Mesh) -> Field:
    """What a rank's consumers need. A gradient op that reads again what its own op wrote needs no reading: it is there."""
    others: list[Field] = []
    own: list[Field] = []
    for reader, port in graph.readers[tensor.name]:
        if port not in ops[reader].fields:
            continue
        forward = graph.ops[reader].forward
        mine = forward is not None and (forward, port) in graph.writers[tensor.name]
        (own if mine else others).append(ops[reader].fields[port])
    fields = others or own
    return reduce(Field.hull, fields) if fields else Field.nowhere(mesh, tensor.dim)


def _tensor_layout(tensor: TensorNode, graph: Graph, ops: dict[str, OpLayout], mesh: Mesh) -> TensorLayout:
    everywhere = frozenset(range(len(mesh.sizes)))
    if tensor.role == "seed":
        nowhere = Field.nowhere(mesh, tensor.dim)
        return TensorLayout(tensor, nowhere, nowhere, everywhere)
    read = _hull_of_readers(tensor, graph, ops, mesh)
    writers = [(name, port) for name, port in graph.writers[tensor.name] if graph.ops[name].kind != "zero"]
    if tensor.role == "data":
        same = graph.ops[writers[0][0]].attributes["read"] == "same"
        write = Field.of(tensor.dim, (whole(mesh, n) for n in tensor.dim)) if same else read
        return TensorLayout(tensor, read, write, everywhere)
    if not writers:
        return TensorLayout(tensor, read, read, everywhere)
    cutting = frozenset(axis for name, _ in writers for axis in ops[name].share.axes)
    fields = []
    for name, port in writers:
        missing = cutting - ops[name].share.axes
        layout = ops[name]
        if missing:
            ops[name] = OpLayout(layout.node, layout.share, layout.fields, {**layout.counted, port: missing})
        fields.append(layout.fields[port].only_where(_at_zero(mesh, missing)) if missing else layout.fields[port])
    if tensor.role == "norms":
        # A rank that measures nothing gives zeros, so that the sum is one message, whatever is cut.
        every = Field.of(tensor.dim, (whole(mesh, n) for n in tensor.dim))
        return TensorLayout(tensor, every, every, everywhere - cutting)
    return TensorLayout(tensor, read, reduce(Field.hull, fields), everywhere - cutting)


def _at_zero(mesh: Mesh, axes: frozenset[int]) -> Booleans:
    kept: Booleans = np.ones((1,) * len(mesh.sizes), dtype=np.bool_)
    for axis in axes:
        kept = kept & (mesh.index(axis) == 0)
    return kept
