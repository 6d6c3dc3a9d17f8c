"""Random meshes and fields for tests."""

import numpy as np
from hypothesis import strategies as st

from dgraph.graph.node import TensorNode
from dgraph.layout.assign import TensorLayout
from dgraph.layout.field import Field, Interval, Mesh, cut, whole


@st.composite
def meshes(draw, most=6):
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(lambda s: np.prod(s) <= most))
    return Mesh(tuple("zyx"[: len(sizes)]), tuple(sizes))


@st.composite
def fields(draw, mesh, dim, halo=3):
    """A field whose dims are cut by disjoint axes, then widened or shifted: shares, halos, replicas, empty ranks."""
    free = list(range(len(mesh.sizes)))
    intervals = []
    for n in dim:
        axes = draw(st.lists(st.sampled_from(free), unique=True, max_size=2)) if free else []
        free = [axis for axis in free if axis not in axes]
        interval = cut(mesh, n, axes) if axes else whole(mesh, n)
        low, high = draw(st.integers(0, halo)), draw(st.integers(0, halo))
        empty = interval.empty()
        start = np.where(empty, interval.start, np.maximum(interval.start - low, 0))
        stop = np.where(empty, interval.stop, np.minimum(interval.stop + high, n))
        intervals.append(Interval(start, stop))
    return Field.of(dim, intervals)


@st.composite
def tensor_layouts(draw):
    """(mesh, layout): any write field, any read field, any axes of replicas on which the write field does not depend."""
    mesh = draw(meshes())
    dim = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    write, read = draw(fields(mesh, dim)), draw(fields(mesh, dim))
    still = [axis for axis in range(len(mesh.sizes)) if axis not in write.axes()]
    replicas = frozenset(axis for axis in still if draw(st.booleans()))
    return mesh, TensorLayout(TensorNode("t", dim, "activation"), read, write, replicas)
