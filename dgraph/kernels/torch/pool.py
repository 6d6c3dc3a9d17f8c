"""The largest of every window, forward and gradient, one dimension after the other.

In: calls with the ports `input` and `output`, windows as the input's access map says. Out: kernels that go over blocks of whole
windows. Promise: the gradient goes to the first of the largest in row-major order: the last dimension is reduced first, so that the
first dimension chooses first on the way back; what lies in the padding is not touched.

    windows of 2 x 2:    x --W--> r = max(x[w], x[w + 1]) --H--> y = max(r[h], r[h + 1])        2 + 1 passes instead of 4
                         y.delta --H--> r.delta: to r[h] unless r[h + 1] > r[h] --W--> x.delta: likewise
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from types import MappingProxyType

import numpy as np
import torch

from dgraph.kernels.backend import Key
from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, Step, aligned, in_sequence, memory_order
from dgraph.kernels.numpy.blockwise import Indifferent

LIMIT = 1 << 18
"""Elements of the input that a block reads, if it has more than one row of windows."""
_GATE = torch.ops.aten.threshold_backward.grad_input
_FORWARD = torch.ops.aten.max_pool2d_with_indices.out
_BACKWARD = torch.ops.aten.max_pool2d_with_indices_backward.grad_input

Size = tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """Windows along one dimension of an array: that with number k sees, for its offset j, the element `starts[j] + stride * k`."""

    number: int
    starts: tuple[int, ...]
    stride: int
    count: int
    extent: int

    def bounds(self, offset: int) -> tuple[int, int]:
        """The windows of which an offset sees an element."""
        start = self.starts[offset]
        first, last = -(start // self.stride), -((start - self.extent) // self.stride)
        return max(0, first), max(0, min(self.count, last), max(0, first))

    def is_full(self, offset: int) -> bool:
        """Whether it does of all windows."""
        return self.bounds(offset) == (0, self.count)

    @property
    def tiles(self) -> bool:
        """Whether every element is seen by one window, once."""
        whole = self.extent == self.count * len(self.starts) and self.stride == len(self.starts)
        return whole and self.starts == tuple(range(len(self.starts)))

    def seen(self, wide: Array, offset: int) -> torch.Tensor:
        """What an offset sees of an array with the elements."""
        first, last = self.bounds(offset)
        start = self.starts[offset] + first * self.stride
        stop = start + (last - first) * self.stride
        return torch.from_numpy(wide[self._at(start, min(stop, self.extent) if last > first else start, self.stride)])

    def of(self, narrow: Array, offset: int) -> torch.Tensor:
        """The windows of which an offset sees an element, in an array with one element a window."""
        return torch.from_numpy(narrow[self._at(*self.bounds(offset), 1)])

    def part(self, first: int, last: int) -> tuple[Axis, int]:
        """The windows from `first` to `last` alone, on the elements that they see; and where these start."""
        ends = [start + self.stride * k for start in self.starts for k in (first, last - 1)]
        low, high = max(0, min(ends)), min(self.extent, max(ends) + 1)
        starts = tuple(start + self.stride * first - low for start in self.starts)
        return replace(self, starts=starts, count=last - first, extent=max(0, high - low)), low

    def _at(self, start: int, stop: int, step: int) -> tuple[slice, ...]:
        return (*(slice(None),) * self.number, slice(start, stop, step))


def axes_of(call: Call) -> tuple[Axis, ...]:
    """The windows of a piece along every spatial dimension."""
    box, rect = call.space.box(call.piece), call.rects["input"]
    found = []
    for number, expression in enumerate(call.access.maps["input"][2:], 2):
        (position, stride), (offset, step) = expression.terms
        (first, last), corner = box[position], expression.offset - rect.start[number]
        starts = tuple(first * stride + j * step + corner for j in range(*box[offset]))
        found.append(Axis(number, starts, stride, last - first, rect.size[number]))
    return tuple(found)


@dataclass(frozen=True)
class Block:
    """Whole windows of some samples: where they lie in input and output, and the axes on these parts."""

    wide: tuple[slice, ...]
    narrow: tuple[slice, ...]
    axes: tuple[Axis, ...]
    shapes: tuple[Size, ...]
    """Of the input, of what is left when the last dimension is reduced, and so on, to the output."""


def blocks_of(call: Call) -> Iterator[Block]:
    """The blocks of a piece: a few rows of windows, or several samples."""
    axes = axes_of(call)
    (first, *others), size = axes, call.rects["input"].size
    row = size[1] * first.stride * prod(axis.extent for axis in others)
    rows = max(1, min(first.count, LIMIT // max(1, row)))
    samples = max(1, LIMIT // max(1, row * rows)) if rows == first.count else 1
    for n in range(0, size[0], samples):
        for k in range(0, first.count, rows):
            axis, low = first.part(k, min(k + rows, first.count))
            some = slice(n, min(n + samples, size[0]))
            wide = (some, slice(None), slice(low, low + axis.extent))
            shape = [some.stop - n, size[1], axis.extent, *size[3:]]
            yield _block(wide, (some, slice(None), slice(k, k + axis.count)), (axis, *others), shape)


def _block(wide: tuple[slice, ...], narrow: tuple[slice, ...], axes: tuple[Axis, ...], shape: list[int]) -> Block:
    shapes = [tuple(shape)]
    for axis in reversed(axes):
        shape = [axis.count if d == axis.number else n for d, n in enumerate(shape)]
        shapes.append(tuple(shape))
    return Block(wide, narrow, axes, tuple(shapes))


class _Room:
    """Dense arrays in scratch, in one memory order; with no scratch it only counts bytes."""

    def __init__(self, dtype: str, scratch: Array | None = None, order: Sequence[int] = ()) -> None:
        self._dtype, self._order, self.nbytes = np.dtype(dtype), order, 0
        self._carver = None if scratch is None else Carver(scratch)

    def take(self, shape: Size) -> Array:
        """The next array."""
        self.nbytes += aligned(prod(shape) * self._dtype.itemsize)
        if self._carver is None:
            return np.broadcast_to(np.zeros((), self._dtype), shape)
        return self._carver.take_ordered(shape, self._order, self._dtype)


def _largest(axis: Axis, wide: Array, narrow: Array) -> list[Step]:
    """Steps by which every window gets its largest element."""
    offsets = sorted(range(len(axis.starts)), key=axis.is_full, reverse=True)
    full = [offset for offset in offsets[:2] if axis.is_full(offset)]
    target = torch.from_numpy(narrow)
    if len(full) == 2:
        steps: list[Step] = [partial(torch.maximum, *(axis.seen(wide, offset) for offset in full), out=target)]
    elif full:
        steps = [partial(target.copy_, axis.seen(wide, full[0]))]
    else:
        steps = [partial(target.fill_, -np.inf)]
    for offset in offsets[len(full) :]:
        some = axis.of(narrow, offset)
        if some.numel():
            steps.append(partial(torch.maximum, some, axis.seen(wide, offset), out=some))
    return steps


class MaxPool(Indifferent):
    """`output = max of input` over every window."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return max((self._steps(call, block, _Room(call.dtype))[1] for block in _kinds(call)), default=0)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        order, steps = memory_order(arrays["input"]), list[Step]()
        for block in blocks_of(call):
            steps += self._steps(call, block, _Room(call.dtype, scratch, order), arrays)[0]
        return in_sequence(steps)

    def _steps(self, call: Call, block: Block, room: _Room,
               arrays: Mapping[str, Array] | None = None) -> tuple[list[Step], int]:  # fmt: skip
        added, last = "output" in call.accumulate, len(block.axes)
        values = [room.take(shape) for shape in block.shapes[1 : last + added]]
        if arrays is None:
            return [], room.nbytes
        target = arrays["output"][block.narrow]
        values = [arrays["input"][block.wide], *values, *([] if added else [target])]
        steps = _reducing(block, values)
        if added:
            steps.append(partial(torch.from_numpy(target).add_, torch.from_numpy(values[-1])))
        return steps, room.nbytes


def _reducing(block: Block, values: Sequence[Array]) -> list[Step]:
    """Steps from the input to the output, one dimension after the other, the last first."""
    pairs = zip(reversed(block.axes), values, values[1:], strict=False)
    return [step for axis, wide, narrow in pairs for step in _largest(axis, wide, narrow)]


def _kinds(call: Call) -> list[Block]:
    """One block of every kind that needs scratch of its own size."""
    return list({block.shapes: block for block in blocks_of(call)}.values())


# --- gradient


class MaxPoolGradient(Indifferent):
    """Adds output.delta to the delta of the first of the largest in every window."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        if _is_librarys(call):
            return _Indexed(call).nbytes
        return max((self._steps(call, block, _Room(call.dtype))[1] for block in _kinds(call)), default=0)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        if _is_librarys(call):
            return in_sequence(_Indexed(call).steps(arrays, scratch))
        order, target = memory_order(arrays["input"]), arrays["input.delta"]
        steps: list[Step] = []
        if "input.delta" not in call.accumulate and not self._assigns(call):
            steps.append(partial(torch.from_numpy(target).zero_))
        for block in blocks_of(call):
            steps += self._steps(call, block, _Room(call.dtype, scratch, order), arrays)[0]
        return in_sequence(steps)

    def _assigns(self, call: Call) -> bool:
        """Whether every element of the input's delta is written once."""
        return "input.delta" not in call.accumulate and all(axis.tiles for axis in axes_of(call))

    def _steps(self, call: Call, block: Block, room: _Room,
               arrays: Mapping[str, Array] | None = None) -> tuple[list[Step], int]:  # fmt: skip
        values, deltas = ([room.take(shape) for shape in block.shapes[1:-1]] for _ in range(2))
        shapes = reversed(block.shapes[1:])
        spare = [
            [room.take(shape) for _ in range(len(a.starts) + 1)] for a, shape in zip(block.axes, shapes, strict=True)
        ]
        if arrays is None:
            return [], room.nbytes
        values = [arrays["input"][block.wide], *values]
        deltas = [arrays["input.delta"][block.wide], *deltas, arrays["output.delta"][block.narrow]]
        steps = _reducing(block, values)
        for k, axis in enumerate(block.axes):
            level = len(block.axes) - 1 - k
            assigns = axis.tiles if level else self._assigns(call)
            if level and not assigns:
                steps.append(partial(torch.from_numpy(deltas[level]).zero_))
            steps += _giving(axis, values[level], deltas[level], deltas[level + 1], spare[k], assigns)
        return steps, room.nbytes


def _giving(
    axis: Axis, wide: Array, wide_delta: Array, delta: Array, spare: Sequence[Array], assigns: bool
) -> list[Step]:
    """Steps that give every window's delta to the first of its largest elements.

    From the last offset to the second: where its element is larger than all before it, it takes what is left; the first gets the
    rest. Offsets that tile the input write where they belong (`assigns`), others are added there.
    """
    excesses, lefts, *others = spare
    steps, before = _running(axis, wide, others)
    left = delta
    for offset in range(len(axis.starts) - 1, 0, -1):
        some, excess, target = axis.of(left, offset), axis.of(excesses, offset), axis.seen(wide_delta, offset)
        if not some.numel():
            continue
        taken = target if assigns else excess
        rest = axis.seen(wide_delta, 0) if assigns and offset == 1 else axis.of(lefts, offset)
        if left is delta and not axis.is_full(offset):
            steps.append(partial(torch.from_numpy(lefts).copy_, torch.from_numpy(delta)))
        steps.append(partial(torch.sub, axis.seen(wide, offset), axis.of(before[offset - 1], offset), out=excess))
        steps.append(partial(_GATE, some, excess, 0, grad_input=taken))
        steps.append(partial(torch.sub, some, taken, out=rest))
        if not assigns:
            steps.append(partial(target.add_, taken))
        left = lefts
    first, some = axis.seen(wide_delta, 0), axis.of(left, 0)
    if some.numel() and not (assigns and len(axis.starts) > 1):
        steps.append(partial(first.copy_ if assigns else first.add_, some))
    return steps


def _running(axis: Axis, wide: Array, spare: Sequence[Array]) -> tuple[list[Step], list[Array]]:
    """For every offset but the last, the largest element of every window up to it, and the steps that find them."""
    steps: list[Step] = []
    found: list[Array] = []
    for offset in range(len(axis.starts) - 1):
        if not found and axis.is_full(0):
            found.append(axis.seen(wide, 0).numpy())
            continue
        largest, element = spare[offset], axis.seen(wide, offset)
        some, target = axis.of(largest, offset), torch.from_numpy(largest)
        if found and axis.is_full(offset):
            steps.append(partial(torch.maximum, torch.from_numpy(found[-1]), element, out=target))
        else:
            steps.append(
                partial(target.copy_, torch.from_numpy(found[-1])) if found else partial(target.fill_, -np.inf)
            )
            steps.append(partial(torch.maximum, some, element, out=some))
        found.append(largest)
    return steps, found


# --- windows that overlap


def _is_librarys(call: Call) -> bool:
    """Whether the library's own gradient is faster, and can be used: for windows that overlap, of whole samples of two dimensions,
    with as much padding behind as before. It finds the places of the largest again."""
    same = all(before == after for before, after in call.attributes["padding"])
    whole = call.rects["input"].size[2:] == call.access.dims["input"][2:]
    whole = whole and call.rects["output"].size[2:] == call.access.dims["output"][2:]
    kind = len(call.attributes["size"]) == 2 and "input.delta" not in call.accumulate
    overlap = any(len(axis.starts) > axis.stride for axis in axes_of(call))
    return kind and same and whole and overlap and _fits_library(call)


def _fits_library(call: Call) -> bool:
    """Whether it agrees with us on how many windows there are and how much padding there may be."""
    return all(
        2 * before <= size
        for (before, _), size in zip(call.attributes["padding"], call.attributes["size"], strict=True)
    )


class _Indexed:
    """The library's max pooling with places, sample by sample, and its gradient by these."""

    def __init__(self, call: Call) -> None:
        keys = ("size", "stride", "padding", "dilation", "ceil")
        size, stride, padding, dilation, ceil = (call.attributes[key] for key in keys)
        self._window = (size, stride or size, [before for before, _ in padding], dilation, ceil)
        self._shape = (1, *call.rects["output"].size[1:])
        self._dtype = np.dtype(call.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of scratch."""
        return sum(aligned(prod(self._shape) * size) for size in (self._dtype.itemsize, 8))

    def steps(self, arrays: Mapping[str, Array], scratch: Array) -> list[Step]:
        """What does it."""
        carver, order = Carver(scratch), memory_order(arrays["input"])
        largest, places = (
            torch.from_numpy(carver.take_ordered(self._shape, order, dtype))
            for dtype in (self._dtype, np.dtype("int64"))
        )
        steps: list[Step] = []
        for n in range(len(arrays["input"])):
            x, given, delta = (
                torch.from_numpy(arrays[port][n : n + 1]) for port in ("input", "output.delta", "input.delta")
            )
            steps.append(partial(_FORWARD, x, *self._window, out=largest, indices=places))
            steps.append(partial(_BACKWARD, given, x, *self._window, places, grad_input=delta))
        return steps


KERNELS: Mapping[Key, Kernel] = MappingProxyType(
    {("max_pool", False): MaxPool(), ("max_pool", True): MaxPoolGradient()}
)
