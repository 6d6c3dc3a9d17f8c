"""One op as a problem for its kernels: random operands in any memory order, exact scratch, allocations counted."""

import tracemalloc

import numpy as np

from dgraph.graph.access import image
from dgraph.kernels.call import Call
from dgraph.kernels.numpy import KERNELS
from dgraph.ops import OPS


class Problem:
    """One op on small tensors: attributes, access, and random values for every port."""

    def __init__(self, case, dtype="float64", seed=0):
        self.name, given, self.dim = case
        self.op, self.dtype = OPS[self.name], dtype
        spatial = len(self.dim) - 2
        self.attributes = {k: a.read(given.get(k, a.default), spatial) for k, a in self.op.attributes.items()}
        labels = (self.dim[0], 1, *self.dim[2:])
        dims = {"input": self.dim, "probability": self.dim, "labels": labels}
        self.access = self.op.access(self.attributes, dims)
        random = np.random.default_rng(seed)
        self.values = {
            port: random.normal(size=self.access.dims[port]).astype(dtype)
            for port in (*self.op.inputs, *self.op.outputs)
            if port != "params"
        }
        if "labels" in self.values:
            self.values["labels"][:] = random.integers(-1, self.dim[1], labels)
        if self.name == "evaluate":
            self.values["probability"] = random.integers(0, 4, self.dim).astype(dtype)

    def reads(self, gradient):
        rule = self.op.gradient
        if not gradient:
            return [port for port in self.op.inputs if port != "params"]
        seeds = [] if self.op.loss else ["output.delta"]
        return [*seeds, *(port for port in rule.reads if port != "b")]

    def writes(self, gradient):
        return [f"{port}.delta" for port in self.op.gradient.of] if gradient else list(self.op.outputs)

    def rect(self, port, piece):
        plain = port.removesuffix(".delta")
        return image(self.access.maps[plain], self.access.space, piece, self.access.dims[plain])

    def call(self, gradient, piece, accumulate, without=()):
        ports = [p for p in (*self.reads(gradient), *self.writes(gradient)) if p not in without]
        rects = {port: self.rect(port, piece) for port in ports}
        added = frozenset(self.writes(gradient) if accumulate else ())
        return Call(self.name, gradient, self.attributes, self.access, piece, rects, added, self.dtype)

    def run(self, gradient=False, pieces=None, accumulate=False, start=np.nan, order=None, without=()):
        """The written ports after all pieces, which start out as `start`."""
        results = {
            port: np.full(self.access.dims[port.removesuffix(".delta")], start, self.dtype)
            for port in self.writes(gradient)
        }
        for piece in pieces or [self.access.space.whole]:
            call = self.call(gradient, piece, accumulate, without)
            arrays = {
                port: placed((self.values | results)[port][rect.slices()], order) for port, rect in call.rects.items()
            }
            bound(call, arrays)()
            for port, rect in call.rects.items():
                if port in results:
                    results[port][rect.slices()] = arrays[port]
        return results

    def with_forward(self):
        """The same with the forward op's results among the values, and a random delta."""
        self.values |= self.run()
        random = np.random.default_rng(7)
        self.values["output.delta"] = random.normal(size=self.access.dims["output"]).astype(self.dtype)
        return self


def placed(values, order=None):
    """A copy in a memory order, as every other element of a larger array where an order is given."""
    if order is None:
        return values.copy()
    axes = [d for d in order if d < values.ndim]
    memory = np.full([2 * values.shape[d] + 1 for d in axes], np.nan, values.dtype)
    inverse = np.argsort(axes)
    array = memory[tuple(slice(1, None, 2) for _ in axes)].transpose(inverse)
    array[...] = values
    return array


def bound(call, arrays):
    kernel = KERNELS[call.op, call.gradient]
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
