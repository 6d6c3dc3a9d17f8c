"""One rule on several arrays of the same shape, block by block, so that what a rule leaves is still in the cache.

In: arrays (stride 0 where one is repeated), a rule on their blocks. Out: actions. Promise: blocks are cut in the memory order
of the array that is written; scratch holds a fixed number of blocks, whatever the arrays' size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from dgraph.kernels.call import Action, Array, Call
from dgraph.kernels.numpy.block import Carver, Step, aligned, block_sizes, blocks, in_sequence, memory_order
from dgraph.rect import Rect

LIMIT = 1 << 14
"""Elements of a block."""
Rule = Callable[..., object]
"""`rule(*inputs, out)` assigns `out`; it may read its inputs after it began to write. One that needs room to work in gets blocks of
it behind `out`."""


class Indifferent:
    """A kernel without a wish for memory orders."""

    def order(self, call: Call, port: str) -> tuple[int, ...] | None:
        """None: any will do."""
        return None


def nbytes(count: int, dtype: str, elements: int = LIMIT) -> int:
    """Bytes of scratch for so many blocks."""
    return count * aligned(elements * np.dtype(dtype).itemsize)


def each(rule: Rule, views: Iterable[tuple[Array, ...]]) -> Action:
    """An action that calls the rule with one tuple of views after the other."""
    fixed = tuple(views)

    def act() -> None:
        for blocks_of_all in fixed:
            rule(*blocks_of_all)

    return act


def assign_or_add(rule: Rule, inputs: Sequence[Array], out: Array, accumulate: bool, carver: Carver,
                  spare: int = 0) -> Action:  # fmt: skip
    """`out = rule(inputs)`, or `out += rule(inputs)`. Takes one block of `carver`, and `spare` more, which the rule gets behind
    `out` to work in."""
    flat, *spares = (carver.take([LIMIT], out.dtype) for _ in range(1 + spare))
    steps: list[Step] = []
    for part in parts(out):
        target = out[part]
        result = target if is_dense(target) and not accumulate else like(target, flat)
        free = (like(target, one) for one in spares)
        steps.append(partial(rule, *(array[part] for array in inputs), result, *free))
        steps += delivered(result, target, accumulate)
    return in_sequence(steps)


def delivered(result: Array, target: Array, accumulate: bool) -> list[Step]:
    """Steps that assign a dense block to its place, or add it there; it does not hold the result afterwards.

    The sum is made in the dense block: numpy copies a target that is strided and read at the same time.
    """
    if result is target:
        return []
    sums: list[Step] = [partial(np.add, target, result, out=result)] if accumulate else []
    return [*sums, partial(np.copyto, target, result)]


def parts(array: Array) -> Iterator[tuple[slice, ...]]:
    """Slices of an array, in its memory order; those of a dense array are dense."""
    order = memory_order(array)
    if array.size:
        for block in blocks(Rect.whole(array.shape), block_sizes(array.shape, order, LIMIT), order):
            yield block.slices()


def alike(array: Array, other: Array) -> Array:
    """A view of an array with more or fewer last dimensions of extent 1: as many as another has."""
    return array.reshape((*array.shape, *(1,) * other.ndim)[: other.ndim])


def is_dense(view: Array) -> bool:
    """Whether its elements are a run of memory, in whatever order of axes."""
    return view.transpose(memory_order(view)).flags.c_contiguous


def like(view: Array, scratch: Array) -> Array:
    """The first elements of flat scratch in the shape and memory order of a view."""
    order = memory_order(view)
    return scratch[: view.size].reshape([view.shape[d] for d in order]).transpose(np.argsort(order))


def sum_nbytes(dtype: str) -> int:
    """Bytes of scratch that `sum_of_product` takes."""
    return nbytes(1, dtype) + nbytes(3, "float64")


def sum_of_product(factors: Sequence[Array], out: Array, accumulate: bool, scratch: Array) -> Action:
    """`out (+)= sum(factors[0] * ...)` of one or two factors, as `sum_of`."""
    return sum_of(_product if len(factors) == 2 else None, factors, out, accumulate, scratch)


def _product(first: Array, second: Array, out: Array) -> None:
    np.copyto(out, first)
    np.multiply(out, second, out=out)


def sum_of(rule: Rule | None, inputs: Sequence[Array], out: Array, accumulate: bool, scratch: Array,
           scale: float = 1.0) -> Action:  # fmt: skip
    """`out (+)= scale * sum(rule(inputs))` over every dim in which `out` has length 1; the sums are float64.

    rule: None stands for the only input itself. inputs: arrays of one shape, the first not repeated. out: the same shape, or 1.
    """
    shape, carver = inputs[0].shape, Carver(scratch)
    rounded, wide = carver.take([LIMIT], out.dtype), carver.take([LIMIT], "float64")
    part, total = carver.take([LIMIT], "float64"), carver.take([LIMIT], "float64")
    order = memory_order(inputs[0])
    sizes = block_sizes(shape, order, LIMIT)
    axes = tuple(d for d, (n, m) in enumerate(zip(shape, out.shape, strict=True)) if n != m)
    steps: list[Step] = []
    for target in blocks(Rect.whole(out.shape), sizes, order) if out.size else ():
        view = out[target.slices()]
        sums, one, few = like(view, total), like(view, part), like(view, rounded)
        steps.append(partial(sums.fill, 0))
        box = Rect.of((0, shape[d]) if d in axes else target.bounds[d] for d in range(out.ndim))
        for block in blocks(box, sizes, order) if box else ():
            views = [array[block.slices()] for array in inputs]
            values, wide_block = like(views[0], rounded), like(views[0], wide)
            if rule is not None:
                steps.append(partial(rule, *views, values))
            steps += [
                partial(np.copyto, wide_block, views[0] if rule is None else values),
                partial(np.add.reduce, wide_block, axis=axes, out=one, keepdims=True),
                partial(np.add, sums, one, out=sums),
            ]
        if scale != 1.0:
            steps.append(partial(np.multiply, sums, scale, out=sums))
        steps.append(partial(np.copyto, few, sums, casting="same_kind"))
        steps += delivered(few, view, accumulate)
    return in_sequence(steps)
