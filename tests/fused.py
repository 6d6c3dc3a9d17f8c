"""A backend whose chains are done by NumPy's kernels in turn, and a network that has many."""

from dataclasses import replace

import numpy as np

from dgraph.kernels.backend import NUMPY
from dgraph.kernels.numpy.block import Carver, aligned


class InTurn:
    """The kernels of a chain, one after the other, with inner results in scratch: what any fusion must equal."""

    def __init__(self, most=99):
        self.most = most

    def fits(self, chain):
        return len(chain.inner) <= self.most

    def workspace(self, chain):
        inner = sum(aligned(self._nbytes(chain, k, port)) for k, port in chain.inner)
        return inner + max(NUMPY.kernels[call.op, call.gradient].workspace(call) for call in chain.calls)

    def bind(self, chain, arrays, scratch):
        results, carver, rest = {}, Carver(scratch), scratch
        for k, port in sorted(chain.inner):
            first = chain.links[k].get(port)
            results[k, port] = (
                results[first] if first else carver.take(self._size(chain, k, port), chain.calls[0].dtype)
            )
            rest = rest[0 if first else aligned(self._nbytes(chain, k, port)) :]
        actions = []
        for k, (call, own) in enumerate(zip(chain.calls, arrays, strict=True)):
            inside = {port: results[source] for port, source in chain.links[k].items() if source in chain.inner}
            inside |= {port: array for (j, port), array in results.items() if j == k}
            assert not inside.keys() & own.keys()
            assert inside.keys() | own.keys() == call.rects.keys()
            actions.append(NUMPY.kernels[call.op, call.gradient].bind(call, own | inside, rest))

        def act():
            for action in actions:
                action()

        return act

    def _size(self, chain, k, port):
        return chain.calls[k].rects[port].size

    def _nbytes(self, chain, k, port):
        return chain.calls[k].rects[port].volume * np.dtype(chain.calls[k].dtype).itemsize


def backend(*chains):
    """One with fusions of these chains: the names of ops, of gradients with .grad behind."""
    keys = [tuple((op.removesuffix(".grad"), op.endswith(".grad")) for op in chain.split()) for chain in chains]
    return replace(NUMPY, fusions={key: InTurn() for key in keys})


NORMED = (
    "{name: C, conv: {channels: 4, size: 3, padding: 1}, norm: batch, nonlinearity: relu, split: SPLIT}",
    "{name: D, conv: {channels: 4, size: 3, padding: 1}, affine: {bias: C}, nonlinearity: tanh}",
    "{name: S, add: {}, inputs: [C, D], nonlinearity: relu}",
    "{name: out, softmax: {classes: 3, bias: true}}",
)
CHAINS = (
    "conv mean variance normalize relu",
    "normalize relu",
    "conv affine tanh",
    "conv affine",
    "add relu",
    "tanh.grad affine.grad",
    "relu.grad add.grad",
    "relu.grad normalize.grad variance.grad mean.grad",
)
