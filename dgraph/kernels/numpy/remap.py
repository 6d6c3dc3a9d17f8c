"""Ops that only move elements: which element of the input an element of the result is follows from the access maps alone.

In: calls whose operands take every point of the piece to an element of theirs, or outside. Out: kernels for joining, cutting,
padding, repeating and reordering. Promise: every element is copied once, from where it lies to where it belongs; where it is
repeated, its delta is a sum in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, Step, in_sequence, memory_order
from dgraph.kernels.numpy.blockwise import Blocks, Indifferent, assign_or_add, each, nbytes, sum_nbytes, sum_of
from dgraph.kernels.numpy.view import Operand
from dgraph.rect import Rect

FEW = 16
"""So many terms are summed as they are, one view after the other."""


def inputs_of(call: Call, arrays: Mapping[str, Array], suffix: str = "") -> Iterator[tuple[str, Operand]]:
    """The ports `input`, or `input0`, `input1`, ..., with this suffix, that take part with any elements."""
    for port, rect in call.rects.items():
        if port.startswith("input") and port.endswith(suffix) and rect:
            yield port, Operand.of(call, port, arrays[port])


def product(first: Array, *rest: Array) -> None:
    """The rule `out = first * ...`, a copy of a single factor; the last argument is `out`."""
    *others, out = rest
    if not others:
        np.copyto(out, first)
    for k, other in enumerate(others):
        np.multiply(out if k else first, other, out=out)


def total(first: Array, *rest: Array) -> None:
    """The rule `out = first + ...`, a copy of a single term; the last argument is `out`."""
    *others, out = rest
    if not others:
        np.copyto(out, first)
    for k, other in enumerate(others):
        np.add(out if k else first, other, out=out)


Move = Callable[[Array, Array, bool, Array], Action]
"""`move(source, target, accumulate, scratch)`: `target (+)= source`, in room for a block of scratch."""


def moved(source: Array, target: Array, accumulate: bool, scratch: Array) -> Action:
    """A copy goes straight to its place; in blocks where one lies across the other in memory."""
    if accumulate:
        return assign_or_add(product, [source], target, True, Carver(scratch))
    if memory_order(source) == memory_order(target):
        return partial(np.copyto, target, source)
    return each(np.copyto, Blocks((target, source)))


def sum_over_repeats(factors: Sequence[Array], target: Array, accumulate: bool, scratch: Array) -> Action:
    """`target (+)= product of the factors`, summed over the axes of which the target has one element only: in float64, unless a
    few views of a single factor are all."""
    if factors[0].shape == target.shape:
        return assign_or_add(product, factors, target, accumulate, Carver(scratch))
    repeats = [n if n != m else 1 for n, m in zip(factors[0].shape, target.shape, strict=True)]
    if len(factors) == 1 and prod(repeats) <= FEW:
        views = [factors[0][_at(place, repeats)] for place in np.ndindex(*repeats)]
        return assign_or_add(total, views, target, accumulate, Carver(scratch))
    return sum_of(product if len(factors) > 1 else None, factors, target, accumulate, scratch)


def _summed(source: Array, target: Array, accumulate: bool, scratch: Array) -> Action:
    return sum_over_repeats([source], target, accumulate, scratch)


def _at(place: Sequence[int], repeats: Sequence[int]) -> tuple[slice, ...]:
    """One element along the axes that are repeated, all along the others."""
    return tuple(slice(x, x + 1) if n > 1 else slice(None) for x, n in zip(place, repeats, strict=True))


def _box(operand: Operand, part: Rect, piece: Rect) -> Rect:
    """A part of a piece that was narrowed to the labels of an operand, with all of those that it lacks."""
    triples = zip(operand.space.labels, part.bounds, piece.bounds, strict=True)
    return Rect.of(inner if name in operand.labels else outer for name, inner, outer in triples)


@dataclass(frozen=True)
class Remap(Indifferent):
    """`output (+)= input`, for every input, where its map stays inside; elsewhere the attribute `value`, if there is one. `move` is
    how elements get from one place to another."""

    move: Move = moved

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(1, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        output, accumulate = Operand.of(call, "output", arrays["output"]), "output" in call.accumulate
        steps: list[Step] = []
        outside = [call.piece]
        for _, source in inputs_of(call, arrays):
            for part, view in source.parts(call.piece):
                box = _box(source, part, call.piece)
                outside = [rest for rim in outside for rest in rim.subtract(box)]
                target = output.view(box)
                spread = view if view.shape == target.shape else np.broadcast_to(view, target.shape)
                steps.append(self.move(spread, target, accumulate, scratch))
        for rim in outside if "value" in call.attributes else ():
            fill = partial(np.copyto, src=call.attributes["value"])
            steps.append(assign_or_add(fill, [], output.view(rim), accumulate, Carver(scratch)))
        return in_sequence(steps)


@dataclass(frozen=True)
class RemapGradient(Indifferent):
    """`input.delta (+)= output.delta`, for every input, where its map stays inside: a sum over the labels that the input lacks."""

    move: Move = moved

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return sum_nbytes(call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        delta = Operand.of(call, "output.delta", arrays["output.delta"])
        steps: list[Step] = []
        for port, target in inputs_of(call, arrays, ".delta"):
            parts = list(target.parts(call.piece, once=True))
            accumulate = port in call.accumulate
            if not accumulate and not (len(parts) == 1 and target.is_exact(parts[0][0])):
                steps.append(partial(target.array.fill, 0))
                accumulate = len(parts) > 1
            for part, view in parts:
                source = delta.view(_box(target, part, call.piece))
                move = self.move if source.shape == view.shape else _summed
                steps.append(move(source, view, accumulate, scratch))
        return in_sequence(steps)


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {(name, False): Remap() for name in ("transpose", "slice", "crop", "pad")}
    | {(name, True): RemapGradient() for name in ("transpose", "slice", "crop", "pad")}
)
