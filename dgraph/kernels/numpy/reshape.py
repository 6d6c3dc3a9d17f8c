"""Flatten and reshape, forward and gradient.

In: calls whose operands are made of the same factors, or have dimensions with none in common. Out: kernels. Promise: common
factors are copied once, from where they lie to where they belong; dimensions with none in common go through scratch, a block of
all of them at a time, which is written as the ones and read as the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, Step, aligned, block_sizes, blocks, in_sequence
from dgraph.kernels.numpy.blockwise import LIMIT, Indifferent, assign_or_add, nbytes
from dgraph.kernels.numpy.remap import product
from dgraph.kernels.numpy.view import Operand
from dgraph.rect import Rect

Axes = tuple[int, ...]


def _axes(call: Call) -> tuple[Axes, Axes, Axes]:
    """The labels (as axes) that both operands have, and those of the input and of the output alone."""
    own, other = ({n for e in call.access.maps[port] for n, _ in e.terms} for port in ("input", "output"))
    kinds = (own & other, own - other, other - own)
    shared, inner, outer = (tuple(d for d, n in enumerate(call.space.labels) if n in kind) for kind in kinds)
    return shared, inner, outer


def _blocks(call: Call) -> Iterator[Rect]:
    """Blocks of the piece with all of the dimensions that the operands do not share, of at most `LIMIT` elements if possible."""
    shared, _, outer = _axes(call)
    size = [1 if d in outer else n for d, n in enumerate(call.piece.size)]
    sizes = block_sizes(size, shared, LIMIT)
    return blocks(call.piece, [call.piece.size[d] if d in outer else n for d, n in enumerate(sizes)])


@dataclass(frozen=True)
class Reshape(Indifferent):
    """`target (+)= source`, the same elements with other indices; the gradient from output to input."""

    source: str
    target: str

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        elements = max(LIMIT, prod(call.piece.size[d] for d in _axes(call)[1]))
        return nbytes(1, call.dtype) + aligned(elements * np.dtype(call.dtype).itemsize)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        source, target = (Operand.of(call, port, arrays[port]) for port in (self.source, self.target))
        accumulate = self.target in call.accumulate
        shared, inner, outer = _axes(call)
        if all(call.piece.size[d] == 1 for d in inner + outer):
            values = [source.view(call.piece)]
            return assign_or_add(product, values, target.view(call.piece), accumulate, Carver(scratch))
        first, last = (outer, inner) if self.target == "output" else (inner, outer)
        steps: list[Step] = []
        for block in _blocks(call):
            carver = Carver(scratch)
            given = source.view(block).transpose(shared + last + first)
            wanted = target.view(block).transpose(shared + first + last)
            elements = carver.take([given.size], call.dtype)
            steps.append(partial(np.copyto, elements.reshape(given.shape), given))
            steps.append(assign_or_add(product, [elements.reshape(wanted.shape)], wanted, accumulate, carver))
        return in_sequence(steps)


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {
        (name, gradient): Reshape(*(("output.delta", "input.delta") if gradient else ("input", "output")))
        for name in ("flatten", "reshape")
        for gradient in (False, True)
    }
)
