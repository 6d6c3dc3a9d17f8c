"""One op as a problem for its kernels: random operands in any memory order, exact scratch, allocations counted."""

import tracemalloc
from collections.abc import Mapping

import numpy as np

from dgraph.graph.access import image
from dgraph.graph.node import family
from dgraph.kernels.call import Call, Moment
from dgraph.kernels.numpy import KERNELS
from dgraph.ops import OPS


class Problem:
    """One op on small tensors: attributes, access, and random values for every port.

    case: (op, attributes, dims of the data inputs by port, or the dim of `input` alone). `values`: by port, the values or a
    function (random, dim) of them; `without`: input ports that are joined to nothing.
    """

    def __init__(self, case, dtype="float64", seed=0, values=None, without=(), moment=None):
        self.name, given, dims = case
        self.op, self.dtype, self.moment = OPS[self.name], dtype, moment or Moment()
        if not isinstance(dims, Mapping):
            dims = {"input": dims, "probability": dims, "labels": (dims[0], 1, *dims[2:])}
        dims = {port: dim for port, dim in dims.items() if port not in without}
        spatial = len(next(iter(dims.values()))) - 2
        self.attributes = {k: a.read(given.get(k, a.default), spatial) for k, a in self.op.attributes.items()}
        self.access = self.op.access(self.attributes, dims)
        self.inputs = [
            port
            for port, index in self.access.maps.items()
            if (port in self.op.inputs or family(port) in self.op.many) and index and port not in without
        ]
        random = np.random.default_rng(seed)
        given_values = self._integers(random, next(iter(dims.values()))) | dict(values or {})
        self.values = {}
        for port in (*self.inputs, *self.op.outputs):
            dim = self.access.dims[port]
            value = given_values.get(port, random.normal(size=dim))
            self.values[port] = np.array(value(random, dim) if callable(value) else value, dtype)
            assert self.values[port].shape == dim, f"{port} must have dim {dim}"

    def _integers(self, random, dim):
        """Classes as labels, some of them missing; probabilities with equal values where they are read."""
        special = {"labels": lambda random, own: random.integers(-1, dim[1], own)}
        return special | ({"probability": random.integers(0, 4, dim)} if "probability" in self.inputs else {})

    def reads(self, gradient):
        rule = self.op.gradient
        if not gradient:
            return self.inputs
        seeds = [] if self.op.loss else [f"{port}.delta" for port in rule.by]
        return [*seeds, *(p for p in (*self.inputs, *self.op.outputs) if {p, family(p)} & {*rule.reads})]

    def writes(self, gradient):
        if not gradient:
            return list(self.op.outputs)
        return [f"{port}.delta" for port in self.inputs if {port, family(port)} & {*self.op.gradient.of}]

    def rect(self, port, piece):
        plain = port.removesuffix(".delta")
        return image(self.access.maps[plain], self.access.space, piece, self.access.dims[plain])

    def gaps(self, gradient, piece):
        """The written ports of which a piece does not touch every element of its rect."""
        box = self.access.space.box(piece)
        maps = {port: self.access.maps[port.removesuffix(".delta")] for port in self.writes(gradient)}
        return {port for port, index in maps.items() if not all(e.is_dense(box) for e in index)}

    def call(self, gradient, piece, accumulate, without=()):
        """`accumulate`: all of the written ports, none, or these."""
        ports = [p for p in (*self.reads(gradient), *self.writes(gradient)) if p not in without]
        rects = {port: self.rect(port, piece) for port in ports}
        if isinstance(accumulate, bool):
            accumulate = self.writes(gradient) if accumulate else ()
        added = frozenset(accumulate) & rects.keys()
        return Call(
            self.name, gradient, self.attributes, self.access, piece, rects, added, self.dtype, "op", self.moment
        )

    def run(
        self,
        gradient=False,
        pieces=None,
        accumulate=False,
        start=np.nan,
        order=None,
        without=(),
        step=2,
        kernels=KERNELS,
    ):
        """The written ports after all pieces, which start out as `start`."""
        results = {
            port: np.full(self.access.dims[port.removesuffix(".delta")], start, self.dtype)
            for port in self.writes(gradient)
            if port not in without
        }
        for piece in pieces or [self.access.space.whole]:
            call = self.call(gradient, piece, accumulate, without)
            values = self.values | results
            arrays = {port: placed(values[port][rect.slices()], order, step) for port, rect in call.rects.items()}
            bound(call, arrays, kernels)()
            for port, rect in call.rects.items():
                if port in results:
                    results[port][rect.slices()] = arrays[port]
                assert order is None or not step or nothing_around(arrays[port]), f"{self.name} writes beside {port}"
        return results

    def with_forward(self):
        """The same with the forward op's results among the values, and a random delta of every output that sends one back."""
        self.values |= self.run()
        random = np.random.default_rng(7)
        for port in self.op.gradient.by if self.op.gradient else ():
            self.values[f"{port}.delta"] = random.normal(size=self.access.dims[port]).astype(self.dtype)
        return self


def placed(values, order=None, step=2):
    """A copy in a memory order, as every second element (or other `step`; 0: without gaps) of a larger array of NaN where an order
    is given."""
    if order is None:
        return values.copy()
    if not step:
        axes = [d for d in order if d < values.ndim]
        return np.array(values.transpose(axes), order="C").transpose(np.argsort(axes))
    axes = [d for d in order if d < values.ndim]
    memory = np.full([step * values.shape[d] + 1 for d in axes], np.nan, values.dtype)
    inverse = np.argsort(axes)
    array = memory[tuple(slice(1, None, step) for _ in axes)].transpose(inverse)
    array[...] = values
    return array


def nothing_around(array):
    """Whether the memory around an array that was `placed` is NaN still; the array's values are lost."""
    array[...] = np.nan
    return np.isnan(array.base).all()


def bound(call, arrays, kernels=KERNELS):
    kernel = kernels[call.op, call.gradient]
    return kernel.bind(call, arrays, scratch_of(kernel.workspace(call)))


def scratch_of(nbytes):
    """Exactly so many aligned bytes, none of them a good number."""
    memory = np.full(nbytes + 64, 0xFF, np.uint8)
    return memory[-memory.ctypes.data % 64 :][:nbytes]


BUFFERS = 72 << 10
"""Bytes of two of numpy's own buffers, which it takes for strided operands, whatever their size, and a few small objects."""


def peak_of(action):
    """Bytes that a second run of an action allocates at most."""
    action()
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
