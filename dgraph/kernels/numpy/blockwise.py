"""One rule on several arrays of the same shape, block by block, so that what a rule leaves is still in the cache.

In: arrays (stride 0 where one is repeated), a rule on their blocks. Out: actions. Promise: blocks are cut in the memory order
of the array that is written; scratch holds a fixed number of blocks, whatever the arrays' size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from dgraph.kernels.call import Action, Array, Call
from dgraph.kernels.numpy.block import Carver, Step, aligned, block_sizes, blocks, in_sequence, memory_order
from dgraph.rect import Rect

LIMIT = 1 << 14
"""Elements of a block."""
_ONES = {dtype: np.ones(LIMIT, dtype) for dtype in ("float32", "float64")}
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

    The sum is made in the dense block where the target is strided: numpy copies one that is read at the same time.
    """
    if result is target:
        return []
    if accumulate and is_dense(target):
        return [partial(np.add, target, result, out=target)]
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


def sum_nbytes(dtype: str, sums: int = 1) -> int:
    """Bytes of scratch that `sums_of` takes for so many sums."""
    return nbytes(2, dtype) + nbytes(2 + sums, "float64")


def sum_of_product(factors: Sequence[Array], out: Array, accumulate: bool, scratch: Array) -> Action:
    """`out (+)= sum(factors[0] * ...)` of one or two factors, as `sum_of`."""
    return sum_of(_product if len(factors) == 2 else None, factors, out, accumulate, scratch)


def _product(first: Array, second: Array, out: Array) -> None:
    np.multiply(first, second, out=out)


@dataclass(frozen=True)
class Sum:
    """`out (+)= scale * sum(rule(inputs))` over every dim in which `out` has length 1.

    rule: None stands for the only input itself. inputs: arrays of one shape, the first not repeated. out: the same shape, or 1.
    """

    rule: Rule | None
    inputs: Sequence[Array]
    out: Array
    accumulate: bool = False
    scale: float = 1.0


def sum_of(rule: Rule | None, inputs: Sequence[Array], out: Array, accumulate: bool, scratch: Array,
           scale: float = 1.0) -> Action:  # fmt: skip
    """An action that takes one sum."""
    return sums_of([Sum(rule, inputs, out, accumulate, scale)], scratch)


def sums_of(
    sums: Sequence[Sum], scratch: Array, beside: Callable[[tuple[slice, ...]], list[Step]] | None = None
) -> Action:
    """An action that takes several sums of one shape, whose first inputs lie in one memory order, in one pass; `beside` are more
    steps on a block while it is in the cache. Sums of blocks are made by BLAS or in float64, those over blocks in float64."""
    first, out, carver = sums[0].inputs[0], sums[0].out, Carver(scratch)
    rounded, few = (carver.take([LIMIT], out.dtype) for _ in range(2))
    wide, narrow, *totals = (carver.take([LIMIT], "float64") for _ in range(2 + len(sums)))
    order = memory_order(first)
    sizes = block_sizes(first.shape, order, LIMIT)
    axes = tuple(d for d, (n, m) in enumerate(zip(first.shape, out.shape, strict=True)) if n != m)
    steps: list[Step] = []
    for target in blocks(Rect.whole(out.shape), sizes, order) if out.size else ():
        part = target.slices()
        results = [like(out[part], total) for total in totals]
        steps += [partial(result.fill, 0) for result in results]
        box = Rect.of((0, first.shape[d]) if d in axes else target.bounds[d] for d in range(out.ndim))
        for block in blocks(box, sizes, order) if box else ():
            for one, result in zip(sums, results, strict=True):
                views = [array[block.slices()] for array in one.inputs]
                values = like(views[0], rounded)
                if one.rule is not None:
                    steps.append(partial(one.rule, *views, values))
                elif is_dense(views[0]):
                    values = views[0]
                else:
                    steps.append(partial(np.copyto, values, views[0]))
                steps += _added_up(values, axes, result, few, (wide, narrow))
            steps += beside(block.slices()) if beside else []
        for one, result in zip(sums, results, strict=True):
            there = one.out[part]
            if one.scale != 1.0:
                steps.append(partial(np.multiply, result, one.scale, out=result))
            steps.append(partial(np.copyto, like(there, few), result, casting="same_kind"))
            steps += delivered(like(there, few), there, one.accumulate)
    return in_sequence(steps)


def _added_up(values: Array, axes: tuple[int, ...], total: Array, few: Array, wide: tuple[Array, Array]) -> list[Step]:
    """Steps that add the sums of a dense block over some axes to a total: by BLAS where these run fastest in memory."""
    order = memory_order(values)
    long = [d for d in order if values.shape[d] > 1]
    kept = [d for d in long if d not in axes]
    if long[: len(kept)] != kept:
        block, sums = like(values, wide[0]), like(total, wide[1])
        return [
            partial(np.copyto, block, values),
            partial(np.add.reduce, block, axis=axes, out=sums, keepdims=True),
            partial(np.add, total, sums, out=total),
        ]
    matrix = values.transpose(order).reshape(total.size, -1)
    flat = few[: total.size]
    sums = flat.reshape([values.shape[d] if d in kept else 1 for d in order]).transpose(np.argsort(order))
    ones = _ONES[str(values.dtype)][: matrix.shape[1]]
    return [partial(np.matmul, matrix, ones, out=flat), partial(np.add, total, sums, out=total)]
