"""Pooling: the largest or the mean of every window, forward and gradient.

In: calls with the ports `input` and `output`, windows as the input's access map says. Out: kernels that go over the offsets of a
window, in row-major order, with one block of the output in the cache. Promise: what lies in the padding is not touched; a
gradient of a largest value goes to the first place in the window that holds it.

     window of 3, stride 2           offset 0: input 0 2 4    ->  output 0 1 2
     input  0 1 2 3 4 5 6            offset 1: input 1 3 5
    output [  0 ] [  2  ]            offset 2: input 2 4 6    one strided view each
               [ 1 ]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, Step, block_sizes, blocks, in_sequence, memory_order
from dgraph.kernels.numpy.blockwise import LIMIT, Indifferent, delivered, like, nbytes
from dgraph.kernels.numpy.view import Operand
from dgraph.rect import Rect


@dataclass(frozen=True)
class Windows:
    """The two operands of a call: what the windows slide over (input), and their results (output)."""

    wide: Operand
    narrow: Operand

    @staticmethod
    def of(call: Call, arrays: Mapping[str, Array], wide: str, narrow: str) -> Windows:
        return Windows(Operand.of(call, wide, arrays[wide]), Operand.of(call, narrow, arrays[narrow]))

    def blocks(self, piece: Rect) -> Iterator[tuple[Rect, Array]]:
        """Blocks of the piece that hold all offsets, each with its view of the narrow operand."""
        outer = [label in self.narrow.labels for label in self.wide.space.labels]
        axes = [axis for axis, kept in enumerate(outer) if kept]
        order = [axes[d] for d in memory_order(self.narrow.array)]
        extents = [n if kept else 1 for n, kept in zip(piece.size, outer, strict=True)]
        limited = block_sizes(extents, order, LIMIT)
        sizes = [n if kept else whole for n, kept, whole in zip(limited, outer, piece.size, strict=True)]
        inner = [axis for axis, kept in enumerate(outer) if not kept]
        for block in blocks(piece, sizes, [*order, *inner]) if piece else ():
            yield block, self.narrow.view(block)

    def offsets(self, block: Rect) -> Iterator[tuple[Array, tuple[slice, ...]]]:
        """For every offset in row-major order: the wide operand's elements, and their part of the block's narrow view."""
        labels = self.wide.space.labels
        spans = (((a, b),) if label in self.narrow.labels else [(x, x + 1) for x in range(a, b)]
                 for label, (a, b) in zip(labels, block.bounds, strict=True))  # fmt: skip
        origin = self.narrow.narrow(block).start
        for bounds in product(*spans):
            for part, view in self.wide.parts(Rect.of(bounds)):
                yield view, self.narrow.narrow(part).slices(origin)


class Spare:
    """Dense blocks of scratch, in the shape of one view after the other."""

    def __init__(self, scratch: Array, dtypes: Sequence[str]) -> None:
        carver = Carver(scratch)
        self._flat = [carver.take([LIMIT], dtype) for dtype in dtypes]

    def like(self, view: Array) -> tuple[Array, ...]:
        """The blocks, in the shape and memory order of a view."""
        return tuple(like(view, flat) for flat in self._flat)


def _gathered(wide: Array, into: Array, part: tuple[slice, ...], outside: float) -> list[Step]:
    """Steps that copy what an offset sees into a dense block, with `outside` where it sees padding."""
    target = into[part]
    fill: list[Step] = [partial(into.fill, outside)] if target.size < into.size else []
    return [*fill, partial(np.copyto, target, wide)]


def _scattered(wide: Array, change: Array, into: Array, part: tuple[slice, ...]) -> list[Step]:
    """Steps that add a dense block to what an offset sees; `into` is a dense block to do it in."""
    return [
        *_gathered(wide, into, part, 0),
        partial(np.add, into, change, out=into),
        partial(np.copyto, wide, into[part]),
    ]


# --- the largest


class MaxPool(Indifferent):
    """`output = max of input` over every window."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(2, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        windows, spare = Windows.of(call, arrays, "input", "output"), Spare(scratch, [call.dtype] * 2)
        steps: list[Step] = []
        for block, view in windows.blocks(call.piece):
            largest, seen = spare.like(view)
            steps.append(partial(largest.fill, -np.inf))
            for wide, part in windows.offsets(block):
                steps += _gathered(wide, seen, part, -np.inf)
                steps.append(partial(np.maximum, largest, seen, out=largest))
            steps += delivered(largest, view, "output" in call.accumulate)
        return in_sequence(steps)


class MaxPoolGradient(Indifferent):
    """Adds output.delta to the delta of the first of each window that equals its output."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(4, call.dtype) + nbytes(2, "bool")

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        inputs = Windows.of(call, arrays, "input", "output")
        deltas = Windows.of(call, arrays, "input.delta", "output.delta")
        spare = Spare(scratch, [*[call.dtype] * 4, "bool", "bool"])
        steps = _clearing(call, arrays["input.delta"])
        for block, view in inputs.blocks(call.piece):
            output, delta, seen, change, here, found = spare.like(view)
            steps += [partial(np.copyto, output, view), partial(np.copyto, delta, deltas.narrow.view(block))]
            steps.append(partial(found.fill, False))
            for (wide, part), (target, _) in zip(inputs.offsets(block), deltas.offsets(block), strict=True):
                steps += _gathered(wide, seen, part, np.nan)
                steps.append(partial(_give_to_first, seen, output, delta, change, here, found))
                steps += _scattered(target, change, seen, part)
        return in_sequence(steps)


def _give_to_first(seen: Array, output: Array, delta: Array, change: Array, here: Array, found: Array) -> None:
    """`change = delta` where this offset holds the output and no earlier one did (`found`), else 0."""
    np.equal(seen, output, out=here)
    np.greater(here, found, out=here)
    np.logical_or(here, found, out=found)
    np.copyto(change, here)
    np.multiply(change, delta, out=change)


def _clearing(call: Call, delta: Array) -> list[Step]:
    """Sets input.delta to zero unless it is added into."""
    return [] if "input.delta" in call.accumulate else [partial(delta.fill, 0)]


# --- the mean


class AveragePool(Indifferent):
    """`output = sum of input * weight` over every window; a piece with a part of the window gives a part of the sum."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(2, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        windows, spare = Windows.of(call, arrays, "input", "output"), Spare(scratch, [call.dtype] * 2)
        weight = _weights(call)
        steps: list[Step] = []
        for block, view in windows.blocks(call.piece):
            mean, seen = spare.like(view)
            steps.append(partial(mean.fill, 0))
            for wide, part in windows.offsets(block):
                steps += _gathered(wide, seen, part, 0)
                steps.append(partial(np.add, mean, seen, out=mean))
            steps.append(partial(np.multiply, mean, _weight_of(weight, block), out=mean))
            steps += delivered(mean, view, "output" in call.accumulate)
        return in_sequence(steps)


class AveragePoolGradient(Indifferent):
    """Adds `output.delta * weight` to the deltas of all of a window."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(2, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        windows = Windows.of(call, arrays, "input.delta", "output.delta")
        spare, weight = Spare(scratch, [call.dtype] * 2), _weights(call)
        steps = _clearing(call, arrays["input.delta"])
        for block, view in windows.blocks(call.piece):
            share, seen = spare.like(view)
            steps.append(partial(np.copyto, share, view))
            steps.append(partial(np.multiply, share, _weight_of(weight, block), out=share))
            for wide, part in windows.offsets(block):
                steps += _scattered(wide, share, seen, part)
        return in_sequence(steps)


def _weights(call: Call) -> Array:
    """1 / (the elements that count in a window), by position: one axis a label, of length 1 but for those of positions.

    With `count_padding` all of a window counts, else what lies in the tensor: wherever the piece is.
    """
    extents = dict(zip(call.space.labels, call.space.extents, strict=True))
    dim, index = call.access.dims["input"], call.access.maps["input"]
    counts = np.ones((1,) * len(extents))
    for n, expression in zip(dim, index, strict=True):
        if len(expression.terms) < 2:
            continue
        (position, stride), (offset, step) = expression.terms
        corner = np.arange(extents[position]) * stride + expression.offset
        places = corner[:, None] + np.arange(extents[offset]) * step
        inside = (places >= 0) & (places < n)
        if call.attributes["count_padding"] or inside.all():
            counts = counts * extents[offset]
        else:
            shape = [extents[label] if label == position else 1 for label in call.space.labels]
            counts = counts * inside.sum(axis=1).reshape(shape)
    return np.asarray(1 / counts, dtype=call.dtype)


def _weight_of(weight: Array, block: Rect) -> Array:
    """The weights of a block."""
    pairs = zip(weight.shape, block.bounds, strict=True)
    return weight[tuple(slice(None) if n == 1 else slice(a, b) for n, (a, b) in pairs)]


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {
        ("max_pool", False): MaxPool(),
        ("max_pool", True): MaxPoolGradient(),
        ("average_pool", False): AveragePool(),
        ("average_pool", True): AveragePoolGradient(),
    }
)
