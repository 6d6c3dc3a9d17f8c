"""Chains of calls on random operands, by a fusion and by the NumPy kernels one after the other."""

import numpy as np

from dgraph.graph.access import image
from dgraph.kernels.call import Call, Chain, Moment
from dgraph.kernels.numpy import KERNELS
from dgraph.ops import OPS
from dgraph.rect import Rect
from tests.problem import scratch_of


class Chained:
    """Some nodes of a network on one rank, as a chain.

    nodes: (op, whether its gradient, port -> tensor; attributes). A tensor that several nodes write adds up. `dims`: those of the
    tensors; `piece`: by label, the bounds of what is done.
    """

    def __init__(self, nodes, dims, dtype="float64", seed=0, piece=None, added=(), inner=(), moment=None, start=None):
        self.dims, self.dtype, self.start = dims, dtype, dict(start or {})
        self.moment = moment or Moment()
        random = np.random.default_rng(seed)
        self.values = {name: random.normal(size=dim) for name, dim in dims.items()}
        self.nodes, self.inner, self.piece = nodes, frozenset(inner), dict(piece or {})
        written, links, calls, self.rects = {}, [], [], {}
        for k, (name, gradient, ports, attributes) in enumerate(nodes):
            call = self._call(
                name, gradient, ports, attributes, {p for p, t in ports.items() if t in {*written, *added}}
            )
            read = {p for p in ports if p not in self.written(name, gradient, ports) or p in call.accumulate}
            links.append({p: written[ports[p]] for p in ports if ports[p] in written and p in read})
            for port in self.written(name, gradient, ports):
                written[ports[port]] = (k, port)
            calls.append(call)
            self.rects |= {ports[p]: rect for p, rect in call.rects.items()}
        self.results = frozenset(written)
        inside = [
            (k, port)
            for k, (name, gradient, ports, _) in enumerate(nodes)
            for port in self.written(name, gradient, ports)
            if ports[port] in self.inner
        ]
        self.chain = Chain(tuple(calls), tuple(links), frozenset(inside))

    def written(self, name, gradient, ports):
        if not gradient:
            return [port for port in ports if port in OPS[name].outputs]
        return [
            port for port in ports if port.endswith(".delta") and port.removesuffix(".delta") not in OPS[name].outputs
        ]

    def _call(self, name, gradient, ports, attributes, accumulate):
        op = OPS[name]
        plain = {port.removesuffix(".delta"): self.dims[tensor] for port, tensor in ports.items()}
        first = plain.get("input", plain.get("input0", plain.get("output")))
        plain.setdefault("input", first)
        whole = {k: a.read((attributes or {}).get(k, a.default), len(first) - 2) for k, a in op.attributes.items()}
        access = op.access(whole, plain)
        box = access.space.box(access.space.whole)
        piece = Rect.of(self.piece.get(label, bounds) for label, bounds in box.items())
        rects = {
            port: image(access.maps[port.removesuffix(".delta")], access.space, piece, self.dims[tensor])
            for port, tensor in ports.items()
        }
        added = frozenset(accumulate) & set(self.written(name, gradient, ports))
        return Call(name, gradient, whole, access, piece, rects, added, self.dtype, "op", self.moment)

    def arrays(self, place=np.array):
        """Fresh arrays of all tensors, as `place` lays them; results hold no number unless they `start` with one."""
        first = {
            name: np.full(rect.size, self.start.get(name, np.nan))
            if name in self.results
            else self.values[name][rect.slices()]
            for name, rect in self.rects.items()
        }
        return {name: place(np.asarray(value, self.dtype)) for name, value in first.items()}

    def one_by_one(self):
        """All tensors after the NumPy kernels."""
        found = self.arrays()
        for call, (_, _, ports, _) in zip(self.chain.calls, self.nodes, strict=True):
            kernel = KERNELS[call.op, call.gradient]
            own = {port: found[ports[port]] for port in call.rects}
            kernel.bind(call, own, scratch_of(kernel.workspace(call)))()
        return found

    def fused(self, fusion, place=np.array, times=1, over=None):
        """The tensors that are not inner, after the fusion; `over`: a result and the operand in whose place it lies."""
        assert fusion.fits(self.chain)
        found = {name: array for name, array in self.arrays(place).items() if name not in self.inner}
        if over is not None:
            result, operand = (self.nodes[k][2][port] for k, port in over)
            found[result] = found[operand]
        own = [{p: found[t] for p, t in ports.items() if t in found} for _, _, ports, _ in self.nodes]
        action = fusion.bind(self.chain, own, scratch_of(fusion.workspace(self.chain)))
        for _ in range(times):
            action()
        return found

    def in_place(self, fusion, place=np.array):
        """How often the fusion may write over an operand; whatever it then gives is what it gives otherwise."""
        found, pairs = self.fused(fusion, place), fusion.overwrites(self.chain)
        for over in pairs:
            again = self.fused(fusion, place, over=over)
            for name in found.keys() & self.results:
                np.testing.assert_array_equal(again[name], found[name], err_msg=name)
        return len(pairs)
