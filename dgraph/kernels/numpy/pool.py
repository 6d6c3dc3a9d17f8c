"""Pooling: the largest or the mean of every window, forward and gradient.

In: calls with the ports `input` and `output`, windows as the input's access map says. Out: kernels that go over the offsets of a
window, with one block of the output in the cache. Promise: what lies in the padding is not touched; a gradient of a largest
value goes to the first place in the window, in row-major order, that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Step, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent, delivered, nbytes
from dgraph.kernels.numpy.window import Spare, Windows, gathered, scattered
from dgraph.rect import Rect

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
                steps += gathered(wide, seen, part, -np.inf)
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
        once, steps = _clearing(call, deltas)
        for block, view in inputs.blocks(call.piece):
            output, delta, seen, change, here, found = spare.like(view)
            steps += [partial(np.copyto, output, view), partial(np.copyto, delta, deltas.narrow.view(block))]
            steps.append(partial(found.fill, False))
            for (wide, part), (target, _) in zip(inputs.offsets(block), deltas.offsets(block), strict=True):
                steps += gathered(wide, seen, part, np.nan)
                steps.append(partial(_give_to_first, seen, output, delta, change, here, found))
                steps += [partial(np.copyto, target, change[part])] if once else scattered(target, change, seen, part)
        return in_sequence(steps)


def _give_to_first(seen: Array, output: Array, delta: Array, change: Array, here: Array, found: Array) -> None:
    """`change = delta` where this offset holds the output and no earlier one did (`found`), else 0."""
    np.equal(seen, output, out=here)
    np.greater(here, found, out=here)
    np.logical_or(here, found, out=found)
    np.copyto(change, here)
    np.multiply(change, delta, out=change)


def _clearing(call: Call, windows: Windows) -> tuple[bool, list[Step]]:
    """Whether windows take every element of input.delta once, so that it can be assigned; else what sets it to zero, unless it is
    added into."""
    if "input.delta" in call.accumulate:
        return False, []
    once = bool(call.piece) and windows.wide.is_exact(call.piece)
    return once, [] if once else [partial(windows.wide.array.fill, 0)]


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
                steps += gathered(wide, seen, part, 0)
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
        once, steps = _clearing(call, windows)
        for block, view in windows.blocks(call.piece):
            share, seen = spare.like(view)
            steps.append(partial(np.copyto, share, view))
            steps.append(partial(np.multiply, share, _weight_of(weight, block), out=share))
            for wide, part in windows.offsets(block):
                steps += [partial(np.copyto, wide, share[part])] if once else scattered(wide, share, seen, part)
        return in_sequence(steps)


def _weights(call: Call) -> Array:
    """1 / (the elements that count in a window), by position: one axis a label, of length 1 but for those of positions.

    With `count_padding` the declared padding counts, else what lies in the tensor alone: wherever the piece is. What a last window
    covers beyond both never counts.
    """
    extents = dict(zip(call.space.labels, call.space.extents, strict=True))
    dim, index = call.access.dims["input"], call.access.maps["input"]
    counts = np.ones((1,) * len(extents))
    for n, expression, padding in zip(dim[2:], index[2:], call.attributes["padding"], strict=True):
        (position, stride), (offset, step) = expression.terms
        before, after = padding if call.attributes["count_padding"] else (0, 0)
        corner = np.arange(extents[position]) * stride + expression.offset
        places = corner[:, None] + np.arange(extents[offset]) * step
        inside = (places >= -before) & (places < n + after)
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
