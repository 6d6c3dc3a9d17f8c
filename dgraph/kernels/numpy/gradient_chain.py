"""Gradients of a nonlinearity and of what stands before it, and those of two statistics, in fewer passes over memory.

In: chains. Out: fusions. Promise: the bits are those of the kernels one by one.

    relu.grad [+ add.grad] + normalize.grad      what passes the nonlinearity is summed and scaled while it is in the cache
    relu.grad + affine.grad                      the same, where the affine op is a bias alone
    variance.grad + mean.grad                    one pass over the delta of the input
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Chain, Fusion
from dgraph.kernels.numpy import nonlinearity, norm, pointwise
from dgraph.kernels.numpy.block import Carver, aligned, in_sequence
from dgraph.kernels.numpy.blockwise import Beside, Sum, assign_or_add, nbytes, sum_nbytes, sums_of
from dgraph.kernels.numpy.chain import Arrays, assigns, completed, home_of, linked, passes_on
from dgraph.kernels.numpy.norm import NormalizeGradient, by_statistic
from dgraph.kernels.numpy.pointwise import Pointwise
from dgraph.kernels.numpy.view import Operand
from dgraph.rect import Rect

Keys = tuple[tuple[str, bool], ...]
_NORMALIZE = NormalizeGradient()
_NONLINEAR: Mapping[str, Pointwise] = MappingProxyType(
    {
        name: kernel
        for family in (pointwise, nonlinearity)
        for (name, gradient), kernel in family.KERNELS.items()
        if isinstance(kernel, Pointwise) and gradient and name != "identity"
    }
)
"""The gradients of nonlinearities that are one rule."""


@dataclass(frozen=True)
class Gradient:
    """The gradient of a nonlinearity [+ add.grad], then that of what `last` names."""

    nonlinearity: str
    last: str

    def fits(self, chain: Chain) -> bool:
        """See `Fusion.fits`."""
        first, last = chain.calls[0], chain.calls[-1]
        if not assigns(first, "input.delta") or not assigns(last, "input.delta"):
            return False
        if not all(passes_on(chain, k) for k in range(1, len(chain.calls))):
            return False
        if self.last == "affine":
            plain = "a" not in last.rects and "a.delta" not in last.rects and "b.delta" in last.rects
            return plain and (0, "input.delta") in chain.inner
        return by_statistic(last)

    def workspace(self, chain: Chain) -> int:
        """See `Fusion.workspace`."""
        last, spare = chain.calls[-1], _NONLINEAR[self.nonlinearity].spare
        own = sum_nbytes(last.dtype) if self.last == "affine" else _NORMALIZE.workspace(last)
        return own + nbytes(1 + spare, last.dtype)

    def bind(self, chain: Chain, arrays: Arrays, scratch: Array) -> Action:
        """See `Fusion.bind`."""
        call, delta, at = chain.calls[-1], arrays[-1]["input.delta"], len(chain.calls) - 1
        inner = {(k, port): delta for k in range(at) for port in chain.calls[k].rects if port.startswith("input")}
        full = completed(chain, arrays, inner)
        home, others = home_of(chain, full, delta)
        if self.last == "affine":
            target = full[-1]["b.delta"]
            ahead = self._ahead(chain, full, _as_it_is, home, others)
            sums = [Sum(None, [home], target, "b.delta" in call.accumulate)]
            return sums_of(sums, scratch, (), ahead)
        own = {**full[-1], "output.delta": home}
        ahead = self._ahead(chain, full, partial(norm.by_label, call), home, others)
        return _NORMALIZE.behind(ahead, call, own, scratch)

    def _ahead(self, chain: Chain, full: Arrays, lift: Callable[[Array], Array], home: Array,
               others: list[tuple[Array, bool]]) -> list[Beside]:  # fmt: skip
        """What passes the nonlinearity to its home, and goes from there to others."""
        kernel = _NONLINEAR[self.nonlinearity]
        inputs, rule = [lift(full[0][port]) for port in kernel.reads], kernel.make(chain.calls[0].attributes)
        gate = Beside(rule, inputs, lift(home), False, kernel.spare)
        return [gate, *(Beside(_copy, [lift(home)], lift(other), added) for other, added in others)]

    def overwrites(self, chain: Chain) -> Collection[tuple[tuple[int, str], tuple[int, str]]]:
        """See `InPlace.overwrites`: the delta that comes in is read by the nonlinearity alone, and before any other of a block is
        written."""
        if _NONLINEAR[self.nonlinearity].over is None:
            return []
        return [
            ((k, port), (0, "output.delta"))
            for k, call in enumerate(chain.calls)
            for port in call.rects
            if port.startswith("input") and port.endswith(".delta")
        ]


def _as_it_is(array: Array) -> Array:
    return array


def _copy(x: Array, out: Array) -> None:
    np.copyto(out, x)


class Lines:
    """variance.grad + mean.grad: `input.delta += (input - mean) * variance.delta * 2 / n + mean.delta / n`."""

    def fits(self, chain: Chain) -> bool:
        """See `Fusion.fits`."""
        variance, mean = chain.calls
        added = all("input.delta" in call.accumulate for call in chain.calls)
        one = (variance.piece, variance.space, variance.rects["input.delta"]) == (
            mean.piece, mean.space, mean.rects["input.delta"]
        )  # fmt: skip
        return added and one and linked(chain, 1, input_delta=(0, "input.delta"))

    def workspace(self, chain: Chain) -> int:
        """See `Fusion.workspace`."""
        mean = chain.calls[1]
        return aligned(mean.rects["output.delta"].volume * np.dtype(mean.dtype).itemsize) + nbytes(2, mean.dtype)

    def bind(self, chain: Chain, arrays: Arrays, scratch: Array) -> Action:
        """See `Fusion.bind`."""
        (call, _), (own, other) = chain.calls, completed(chain, arrays, {})
        carver = Carver(scratch)
        level = carver.take(other["output.delta"].shape, call.dtype)
        rest = carver.rest

        def bind(piece: Rect, elements: float) -> Action:
            if not piece:
                return in_sequence([])
            views = norm.views_of(call, own, piece)
            spread = np.broadcast_to(Operand.of(call, "output.delta", level).view(piece), piece.size)
            target = views["input.delta"]
            inputs = [*(views[port] for port in ("input", "mean", "output.delta")), spread]
            rule = partial(_line, 2.0 / elements)
            find = partial(np.multiply, other["output.delta"], 1.0 / elements, out=level)
            return in_sequence([find, assign_or_add(rule, [*inputs, target], target, False, Carver(rest), 1)])

        return norm.of_present(call, bind)


def _line(scale: float, x: Array, mean: Array, variance: Array, level: Array, delta: Array, out: Array,
          a: Array) -> None:  # fmt: skip
    np.subtract(x, mean, out=a)
    np.multiply(a, variance, out=a)
    np.multiply(a, scale, out=a)
    np.add(delta, a, out=out)
    np.add(out, level, out=out)


def _chains() -> Iterator[tuple[Keys, Fusion]]:
    for name in _NONLINEAR:
        for ops in ((name, "affine"), (name, "normalize"), (name, "add", "normalize")):
            yield tuple((op, True) for op in ops), Gradient(name, ops[-1])
    yield (("variance", True), ("mean", True)), Lines()


FUSIONS: Mapping[Keys, Fusion] = MappingProxyType(dict(_chains()))
