"""Loops over blocks: which there are, in which order, and that what is kept does not grow with how many."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgraph.kernels.numpy.block import Carver, blocks
from dgraph.kernels.numpy.blockwise import LIMIT, Beside, Sum, assign_or_add, loops_over, nbytes, sum_nbytes, sums_of
from dgraph.kernels.numpy.loop import Loop, tiles
from dgraph.rect import Rect


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(1, 8)), min_size=1, max_size=3))
def test_tiles_hold_the_blocks_of_a_box(dims):
    box, sizes = Rect.of((a, a + n) for a, n, _ in dims), [size for *_, size in dims]
    of_tiles = [block for tile in tiles(box, sizes) for block in blocks(tile.box, tile.size)]
    assert sorted(of_tiles, key=str) == sorted((b for b in blocks(box, sizes) if b), key=str)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_loop_walks_in_the_order_of_its_axes(order):
    array = np.arange(4 * 6 * 5).reshape(4, 6, 5)
    other = np.broadcast_to(np.arange(6)[None, :, None], array.shape)
    (tile,) = tiles(Rect.whole(array.shape), (2, 3, 1))
    axes = tile.axes(order)
    loop = Loop((tile.stack(array, axes), tile.stack(other, axes)), len(axes))
    wanted = [(array[b.slices()], other[b.slices()]) for b in blocks(Rect.whole(array.shape), tile.size, order)]
    for one in (loop, loop.merged(), loop.merged(1)):
        found = list(one)
        assert len(found) == len(wanted)
        for ours, theirs in zip(found, wanted, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)


def test_axes_along_which_all_go_on_evenly_are_one():
    dense = np.zeros((8, 4, LIMIT), np.float32)
    (loop,) = loops_over([dense, dense], dense)
    assert (loop.depth, loop.stacks[0].shape[0]) == (1, 32)
    (loop,) = loops_over([dense, np.broadcast_to(np.zeros((8, 1, 1), np.float32), dense.shape)], dense)
    assert loop.depth == 2


def test_what_an_action_keeps_does_not_grow_with_the_number_of_blocks():
    shape = (400 * LIMIT, 4)
    x, out, total = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros((1, 4), np.float32)
    scratch = np.zeros(nbytes(4, "float32") + sum_nbytes("float32", 2), np.uint8)
    sums = [Sum(None, [x], total), Sum(np.multiply, [x, x], total)]
    tracemalloc.start()
    kept = [
        assign_or_add(np.multiply, [x, x], out, True, Carver(scratch), 1),
        sums_of(sums, scratch, [Beside(np.multiply, [x, x], out, False)]),
    ]
    nbytes_kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(kept) == 2
    assert nbytes_kept < 32 << 10  # 20 bytes a block, of which each has nine views
