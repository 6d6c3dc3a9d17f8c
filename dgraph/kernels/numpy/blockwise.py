"""One rule on several arrays of the same shape, block by block, so that what a rule leaves is still in the cache.

In: arrays (stride 0 where one is repeated), a rule on their blocks. Out: actions. Promise: blocks are cut in the memory order
of the array that is written; scratch holds a fixed number of blocks, and an action a few views, whatever the arrays' size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dgraph.kernels.call import Action, Array, Call
from dgraph.kernels.numpy.block import Carver, Step, aligned, block_sizes, blocks, memory_order
from dgraph.kernels.numpy.loop import Loop, tiles, walk
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


def loops_over(arrays: Sequence[Array], by: Array) -> list[Loop]:
    """Loops over the blocks of arrays of one shape, in the memory order of `by`, which is one of that shape."""
    order = memory_order(by)
    cut = tiles(Rect.whole(by.shape), block_sizes(by.shape, order, LIMIT)) if by.size else ()
    found = []
    for tile in cut:
        axes = tile.axes(order)
        found.append(Loop(tuple(tile.stack(array, axes) for array in arrays), len(axes)).merged())
    return found


class Blocks:
    """The blocks of arrays of one shape, in the memory order of the first, each with `spares` (blocks of scratch) in its shape."""

    def __init__(self, arrays: Sequence[Array], spares: Sequence[Array] = ()) -> None:
        loops = loops_over(arrays, arrays[0])
        self._loops = [(loop, tuple(like(loop.first[0], spare) for spare in spares)) for loop in loops]

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        """One block of every array at a time, and the spares."""
        for loop, spares in self._loops:
            for views in loop:
                yield (*views, *spares)


def each(rule: Rule, blocks_of_all: Iterable[tuple[Array, ...]]) -> Action:
    """An action that calls the rule with one tuple of blocks after the other."""

    def act() -> None:
        for views in blocks_of_all:
            rule(*views)

    return act


def looped(work: Sequence[tuple[Rule, Loop]]) -> Action:
    """An action that calls every rule with the blocks of its loop."""

    def act() -> None:
        for rule, loop in work:
            for views in loop:
                rule(*views)

    return act


def assign_or_add(rule: Rule, inputs: Sequence[Array], out: Array, accumulate: bool, carver: Carver,
                  spare: int = 0) -> Action:  # fmt: skip
    """`out = rule(inputs)`, or `out += rule(inputs)`. Takes one block of `carver`, and `spare` more, which the rule gets behind
    `out` to work in."""
    flat, *spares = (carver.take([LIMIT], out.dtype) for _ in range(1 + spare))
    loops = loops_over((*inputs, out), out)
    return looped([(_assigning(rule, loop.first[-1], accumulate, flat, spares), loop) for loop in loops])


def _assigning(rule: Rule, target: Array, accumulate: bool, flat: Array, spares: Sequence[Array]) -> Rule:
    """What does the rule on blocks like `target`, which are the last of those that it is called with."""
    free = tuple(like(target, one) for one in spares)
    if is_dense(target) and not accumulate:
        return partial(_behind, rule, free) if free else rule
    result, deliver = like(target, flat), delivery(target, accumulate)

    def act(*views: Array) -> None:
        rule(*views[:-1], result, *free)
        deliver(result, views[-1])

    return act


def _behind(rule: Rule, free: tuple[Array, ...], *views: Array) -> None:
    rule(*views, *free)


def delivery(target: Array, accumulate: bool) -> Callable[[Array, Array], object]:
    """What takes a dense block, another than the target's own, to its place, or adds it there; the targets are like this one. It
    does not hold the result afterwards.

    The sum is made in the dense block where the target is strided: numpy copies one that is read at the same time.
    """
    if not accumulate:
        return _assign
    return _add if is_dense(target) else _add_strided


def _assign(result: Array, target: Array) -> None:
    np.copyto(target, result)


def _add(result: Array, target: Array) -> None:
    np.add(target, result, out=target)


def _add_strided(result: Array, target: Array) -> None:
    np.add(target, result, out=result)
    np.copyto(target, result)


def delivered(result: Array, target: Array, accumulate: bool) -> list[Step]:
    """Steps that take a dense block to its place, as `delivery`; none if it is there."""
    return [] if result is target else [partial(delivery(target, accumulate), result, target)]


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


@dataclass(frozen=True)
class Beside:
    """`out (+)= rule(inputs)`, element by element, on arrays of the shape of the inputs of a sum; `spare` blocks are the rule's to
    work in."""

    rule: Rule
    inputs: Sequence[Array]
    out: Array
    accumulate: bool
    spare: int = 0


def sums_of(sums: Sequence[Sum], scratch: Array, beside: Sequence[Beside] = (), ahead: Sequence[Beside] = ()) -> Action:
    """An action that takes several sums of one shape, whose first inputs lie in one memory order, in one pass; what is `ahead` of
    them, and what is `beside` them, is done with a block before and behind its sums, while it is in the cache, in one more block of
    scratch and those that are spare. Sums of blocks are made by BLAS or in float64, those over blocks in float64."""
    first, out, carver = sums[0].inputs[0], sums[0].out, Carver(scratch)
    room = _Room.of(carver, out.dtype, len(sums))
    spares = [
        carver.take([LIMIT], out.dtype) for _ in range(max((1 + one.spare for one in (*ahead, *beside)), default=0))
    ]
    order = memory_order(first)
    sizes = block_sizes(first.shape, order, LIMIT)
    axes = tuple(d for d, (n, m) in enumerate(zip(first.shape, out.shape, strict=True)) if n != m)
    inputs = [
        *(array for one in ahead for array in (*one.inputs, one.out)),
        *(array for one in sums for array in one.inputs),
        *(array for one in beside for array in (*one.inputs, one.out)),
    ]
    work: list[_Sums] = []
    for target in tiles(Rect.whole(out.shape), sizes) if out.size else ():
        kept = target.axes(order)
        box = Rect.of((0, first.shape[d]) if d in axes else target.box.bounds[d] for d in range(out.ndim))
        outs = Loop(tuple(target.stack(one.out, kept) for one in sums), len(kept))
        totals = [like(view, total) for view, total in zip(outs.first, room.totals, strict=True)]
        parts: list[tuple[Rule, Loop]] = []
        for block in tiles(box, sizes) if box else ():
            along = [*kept, *block.axes([d for d in order if d in axes])]
            loop = Loop(tuple(block.stack(array, along) for array in inputs), len(along)).merged(len(kept))
            adding = partial(_adding, axes=axes, room=room)
            parts.append((_pass(sums, ahead, beside, loop.first, adding, totals, spares), loop))
        ends = [_end(one, view, total, room) for one, view, total in zip(sums, outs.first, totals, strict=True)]
        work.append(_Sums.of(outs, totals, parts, ends))

    def act() -> None:
        for one in work:
            one.act()

    return act


@dataclass(frozen=True)
class _Room:
    """Blocks of scratch: of the sums' dtype `rounded` and `few`, in float64 the others."""

    rounded: Array
    few: Array
    wide: Array
    narrow: Array
    totals: Sequence[Array]

    @staticmethod
    def of(carver: Carver, dtype: np.dtype[Any], sums: int) -> _Room:
        rounded, few = (carver.take([LIMIT], dtype) for _ in range(2))
        wide, narrow, *totals = (carver.take([LIMIT], "float64") for _ in range(2 + sums))
        return _Room(rounded, few, wide, narrow, totals)


@dataclass(frozen=True)
class _Sums:
    """The loop over blocks of results, and for each of them those over what is summed: their rules, the part of the outer loop's
    views that they walk, and along how many axes."""

    outer: Loop
    totals: Sequence[Array]
    parts: Sequence[tuple[Rule, slice, int]]
    ends: Sequence[Rule]

    @staticmethod
    def of(outs: Loop, totals: Sequence[Array], parts: Sequence[tuple[Rule, Loop]], ends: Sequence[Rule]) -> _Sums:
        stacks, inner = [*outs.stacks], []
        for rule, loop in parts:
            inner.append((rule, slice(len(stacks), len(stacks) + len(loop.stacks)), loop.depth - outs.depth))
            stacks += loop.stacks
        return _Sums(Loop(tuple(stacks), outs.depth).merged(), totals, inner, ends)

    def act(self) -> None:
        """Takes the sums."""
        for views in self.outer:
            for total in self.totals:
                total.fill(0)
            for rule, part, depth in self.parts:
                for block in walk(views[part], depth):
                    rule(*block)
            for end, view in zip(self.ends, views, strict=False):
                end(view)


def _pass(sums: Sequence[Sum], ahead: Sequence[Beside], beside: Sequence[Beside], views: Sequence[Array],
          adding: Callable[[Sum, Array, Array], Rule], totals: Sequence[Array], spares: Sequence[Array]) -> Rule:  # fmt: skip
    """What is done with a block of all inputs, of which `views` is the first."""
    rules: list[tuple[Rule, slice]] = []

    def take(count: int) -> slice:
        at = rules[-1][1].stop if rules else 0
        return slice(at, at + count)

    def assign(others: Sequence[Beside]) -> None:
        for other in others:
            part = take(len(other.inputs) + 1)
            free = spares[1 : 1 + other.spare]
            rules.append((_assigning(other.rule, views[part][-1], other.accumulate, spares[0], free), part))

    assign(ahead)
    for one, total in zip(sums, totals, strict=True):
        part = take(len(one.inputs))
        rules.append((adding(one, views[part.start], total), part))
    assign(beside)
    if len(rules) == 1:
        return rules[0][0]

    def act(*blocks_of_all: Array) -> None:
        for rule, part in rules:
            rule(*blocks_of_all[part])

    return act


def _adding(one: Sum, view: Array, total: Array, axes: tuple[int, ...], room: _Room) -> Rule:
    """What adds the sums over some axes of the rule's values on blocks like `view` to a total."""
    values = like(view, room.rounded)
    matrix, add = _added_up(values, axes, total, room)
    if one.rule is None and is_dense(view):
        return lambda block: add(matrix(block))
    rule: Rule = one.rule or _copy
    summed = matrix(values)

    def act(*inputs: Array) -> None:
        rule(*inputs, values)
        add(summed)

    return act


def _copy(values: Array, out: Array) -> None:
    np.copyto(out, values)


def _added_up(values: Array, axes: tuple[int, ...], total: Array, room: _Room) -> tuple[Rule, Rule]:
    """For dense blocks like `values`: what makes of one what is added up, and what adds that to a total: by BLAS, as a matrix,
    where the axes of the sum run fastest in memory."""
    order = memory_order(values)
    long = [d for d in order if values.shape[d] > 1]
    kept = [d for d in long if d not in axes]
    if long[: len(kept)] != kept:
        block, sums = like(values, room.wide), like(total, room.narrow)

        def reduce(values: Array) -> None:
            np.copyto(block, values)
            np.add.reduce(block, axis=axes, out=sums, keepdims=True)
            np.add(total, sums, out=total)

        return lambda values: values, reduce
    rows, flat = total.size, room.few[: total.size]
    sums = flat.reshape([values.shape[d] if d in kept else 1 for d in order]).transpose(np.argsort(order))
    ones = _ONES[str(values.dtype)][: values.size // rows]

    def multiply(matrix: Array) -> None:
        np.matmul(matrix, ones, out=flat)
        np.add(total, sums, out=total)

    return lambda values: values.transpose(order).reshape(rows, -1), multiply


def _end(one: Sum, target: Array, total: Array, room: _Room) -> Rule:
    """What takes a total to its place."""
    rounded = like(target, room.few)
    deliver = delivery(target, one.accumulate)

    def act(out: Array) -> None:
        if one.scale != 1.0:
            np.multiply(total, one.scale, out=total)
        np.copyto(rounded, total, casting="same_kind")
        deliver(rounded, out)

    return act
