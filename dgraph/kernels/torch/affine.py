"""`a * x + b` where a and b are one number a channel (or a one number), forward and gradient, with a nonlinearity before it.

In: calls whose operands have their channels innermost. Out: kernels and chains. Promise: the deltas of a and b are sums of few
terms in float32, of the rest in float64; what spans other dimensions or lies otherwise is done by the NumPy kernel.

    relu.grad + affine.grad      what passes the relu is summed while it is in the cache
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import torch

from dgraph.kernels.backend import Key
from dgraph.kernels.call import Action, Array, Call, Chain, Fusion, Kernel
from dgraph.kernels.numpy import KERNELS as OTHERS
from dgraph.kernels.numpy.block import Step, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent
from dgraph.kernels.numpy.chain import Arrays, assigns, completed, linked, one_by_one, workspace_of
from dgraph.kernels.torch import pointwise
from dgraph.kernels.torch.channel import PART, TERMS, ColumnSums, Matrices, Row, matrices, of_channels

Operands = Mapping[str, Array]


def by_channel(call: Call) -> bool:
    """Whether a (if it takes part) and b have one number a channel; a may be one number in all."""
    spans = [call.access.dims[port] for port in ("a", "b") if port in call.rects or f"{port}.delta" in call.rects]
    return all(dim == (1,) or all(n == 1 for d, n in enumerate(dim) if d != 1) for dim in spans)


def _values(array: Array) -> Array:
    """The numbers of a or b: one, or one a channel."""
    return array if array.ndim == 1 else of_channels(array)


class Affine(Indifferent):
    """`output (+)= a * input + b`."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return OTHERS["affine", False].workspace(call)

    def bind(self, call: Call, arrays: Operands, scratch: Array) -> Action:
        """See `Kernel.bind`."""
        views = matrices(arrays["output"], arrays["input"]) if by_channel(call) else None
        if views is None:
            return OTHERS["affine", False].bind(call, arrays, scratch)
        return in_sequence(_steps(views, call, arrays, "output" in call.accumulate))

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`."""
        return [("output", "input")]


def _steps(views: Matrices, call: Call, arrays: Operands, accumulate: bool) -> list[Step]:
    """`target (+)= a * x + b`, with those of a and b that take part; `views`: target and x."""
    rows = {port: views.row() for port in ("a", "b") if port in call.rects and port in arrays}
    steps: list[Step] = [partial(row.set, _values(arrays[port])) for port, row in rows.items()]
    for target, x in views.blocks(PART):
        steps += _of_block(target, x, rows.get("a"), rows.get("b"), accumulate)
    return steps


def _of_block(target: torch.Tensor, x: torch.Tensor, a: Row | None, b: Row | None, accumulate: bool) -> list[Step]:
    if accumulate:
        first = partial(target.add_, x) if a is None else partial(target.addcmul_, x, a.tensor)
        return [first] if b is None else [first, partial(target.add_, b.tensor)]
    if a is None:
        return [partial(target.copy_, x) if b is None else partial(torch.add, x, b.tensor, out=target)]
    if b is None:
        return [partial(torch.mul, x, a.tensor, out=target)]
    return [partial(torch.addcmul, b.tensor, x, a.tensor, out=target)]


class AffineGradient(Indifferent):
    """`input.delta (+)= a * output.delta`; the deltas of a and b are sums."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return OTHERS["affine", True].workspace(call)

    def bind(self, call: Call, arrays: Operands, scratch: Array) -> Action:
        """See `Kernel.bind`."""
        delta = arrays["output.delta"]
        views = matrices(arrays.get("input.delta", delta), delta) if by_channel(call) else None
        own = matrices(delta)
        if views is None or own is None or not own.dense or "a.delta" in call.rects:
            return OTHERS["affine", True].bind(call, arrays, scratch)
        steps: list[Step] = []
        if "b.delta" in call.rects:
            sums = ColumnSums(own)
            steps += [*sums.steps, *_delivering(call, arrays, sums)]
        if "input.delta" in call.rects:
            without = {port: array for port, array in arrays.items() if port != "b"}
            steps += _steps(views, call, without, "input.delta" in call.accumulate)
        return in_sequence(steps)

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`: sums come first."""
        return [("input.delta", "output.delta")]


@dataclass(frozen=True)
class Gradient:
    """The gradient of a nonlinearity by the library's `function`, of its delta, its output and `more`, then that of an affine op
    with a bias alone: the delta of its input is that of its output."""

    function: Callable[..., object]
    more: tuple[object, ...] = ()

    def fits(self, chain: Chain) -> bool:
        """See `Fusion.fits`."""
        before, affine = chain.calls
        plain = "a" not in affine.rects and "a.delta" not in affine.rects and by_channel(affine)
        passed = linked(chain, 1, output_delta=(0, "input.delta")) and (0, "input.delta") in chain.inner
        return plain and passed and assigns(before, "input.delta") and assigns(affine, "input.delta")

    def workspace(self, chain: Chain) -> int:
        """See `Fusion.workspace`."""
        return workspace_of(chain, _ALL)

    def bind(self, chain: Chain, arrays: Arrays, scratch: Array) -> Action:
        """See `Fusion.bind`."""
        target, operands = arrays[1]["input.delta"], (arrays[0]["output"], arrays[0]["output.delta"])
        full = completed(chain, arrays, {(0, "input.delta"): target})
        views, own = matrices(target, *operands), matrices(target)
        if views is None or own is None or not own.dense:
            return one_by_one(chain, full, _ALL, scratch)
        sums = ColumnSums(own)
        passing = [self._passing(*block) for block in views.blocks(TERMS * views.width)]
        if views.dense:
            steps = [step for pair in zip(passing, sums.steps, strict=True) for step in pair]
        else:
            steps = [*passing, *sums.steps]
        return in_sequence([*steps, *_delivering(chain.calls[1], arrays[1], sums)])

    def overwrites(self, chain: Chain) -> Collection[tuple[tuple[int, str], tuple[int, str]]]:
        """See `InPlace.overwrites`."""
        return [((1, "input.delta"), (0, "output.delta"))]

    def _passing(self, target: torch.Tensor, output: torch.Tensor, delta: torch.Tensor) -> Step:
        return partial(self.function, delta, output, *self.more, grad_input=target)


def _delivering(call: Call, arrays: Operands, sums: ColumnSums) -> list[Step]:
    """The step that gives the delta of b."""
    if "b.delta" not in call.rects:
        return []
    return [partial(_deliver, sums, of_channels(arrays["b.delta"]), "b.delta" in call.accumulate)]


def _deliver(sums: ColumnSums, target: Array, accumulate: bool) -> None:
    value = sums.total()
    if target.size < value.size:
        value = value.sum(keepdims=True)
    np.copyto(target, value + target if accumulate else value, casting="same_kind")


KERNELS: Mapping[Key, Kernel] = MappingProxyType({("affine", False): Affine(), ("affine", True): AffineGradient()})
_ALL: Mapping[Key, Kernel] = MappingProxyType({**OTHERS, **pointwise.KERNELS, **KERNELS})
_ATEN = torch.ops.aten
FUSIONS: Mapping[tuple[Key, ...], Fusion] = MappingProxyType(
    {
        (("relu", True), ("affine", True)): Gradient(_ATEN.threshold_backward.grad_input, (0,)),
        (("tanh", True), ("affine", True)): Gradient(_ATEN.tanh_backward.grad_input),
        (("logistic", True), ("affine", True)): Gradient(_ATEN.sigmoid_backward.grad_input),
    }
)
