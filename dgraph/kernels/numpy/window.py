"""Windows that slide over an operand: one strided view for every offset in them.

In: a call whose wide operand (what windows slide over) has a label of offsets that its narrow operand (one element a window)
lacks, as the access maps say. Out: `Windows`: blocks of the narrow operand, offsets in row-major order; steps that copy
what an offset sees into a dense block (`gathered`) and add a dense block to it (`scattered`). Promise: what lies in the
padding is not touched.

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

import numpy as np

from dgraph.kernels.call import Array, Call
from dgraph.kernels.numpy.block import Carver, Step, block_sizes, blocks, memory_order
from dgraph.kernels.numpy.blockwise import LIMIT, like
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


def gathered(wide: Array, into: Array, part: tuple[slice, ...], outside: float) -> list[Step]:
    """Steps that copy what an offset sees into a dense block, with `outside` where it sees padding."""
    target = into[part]
    fill: list[Step] = [partial(into.fill, outside)] if target.size < into.size else []
    return [*fill, partial(np.copyto, target, wide)]


def scattered(wide: Array, change: Array, into: Array, part: tuple[slice, ...]) -> list[Step]:
    """Steps that add a dense block to what an offset sees; `into` is a dense block to do it in."""
    return [
        *gathered(wide, into, part, 0),
        partial(np.add, into, change, out=into),
        partial(np.copyto, wide, into[part]),
    ]
