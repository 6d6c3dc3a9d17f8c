"""Layouts: intervals of all ranks, shares, and following what was written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgraph.error import ConfigError
from dgraph.layout.field import Interval, Mesh, cut
from dgraph.layout.share import compound_pieces
from tests.networks import config_text, program


def interval(pairs):
    starts, stops = zip(*pairs, strict=True)
    return Interval(np.array(starts), np.array(stops))


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)).map(lambda p: (p[0], p[0] + p[1])), min_size=1, max_size=6)
)
def test_disjoint_keeps_the_union_and_counts_nothing_twice(pairs):
    made = interval(pairs).disjoint()
    got = [x for a, b in zip(made.start, made.stop, strict=True) for x in range(a, b)]
    assert sorted(got) == sorted({x for a, b in pairs for x in range(a, b)})
    assert made.is_disjoint()


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)).map(lambda p: (p[0], p[0] + p[1])), min_size=1, max_size=6)
)
def test_filled_covers_all_and_keeps_what_was_there(pairs):
    alone = interval(pairs).disjoint()
    made = alone.filled(12)
    bounds = zip(alone.start, alone.stop, made.start, made.stop, strict=True)
    assert all(first <= a and b <= last for a, b, first, last in bounds if a < b)
    got = [x for a, b in zip(made.start, made.stop, strict=True) for x in range(a, b)]
    assert sorted(got) == list(range(12))


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_compound_pieces_are_the_interval(extent, groups, data):
    a = data.draw(st.integers(0, extent * groups))
    b = data.draw(st.integers(a, extent * groups))
    pieces = compound_pieces("g", "o", extent, interval([(a, b)]))
    points = [
        g * extent + o for piece in pieces for g in range(*piece["g"].at((0,))) for o in range(*piece["o"].at((0,)))
    ]
    assert sorted(points) == list(range(a, b))


def test_cuts_over_two_axes_take_the_first_as_the_slowest():
    mesh = Mesh(("y", "x"), (2, 3))
    made = cut(mesh, 41, (0, 1))
    assert [made.at(mesh.coordinates(rank)) for rank in range(6)] == [
        (0, 7), (7, 14), (14, 21), (21, 28), (28, 35), (35, 41),
    ]  # fmt: skip


def test_a_tiled_layer_of_28_positions_on_3_columns_writes_40_36_36():
    layers = [
        "{name: L1, tiled: {channels: 2, tile: 4, size: 10, stride: 2}, nonlinearity: tanh, split: {W: x}}",
        "{name: out, softmax: {classes: 3}, split: {N: x}}",
    ]
    made = program(config_text(layers, "{x: 3}", "[1, 64, 64]", batch=3))
    assert [made.layout.write_rect("L1.filterNL.output", rank).size[3] for rank in range(3)] == [40, 36, 36]
    assert [made.layout.pieces("L1.filter", rank)[0].size[4] for rank in range(3)] == [10, 9, 9]


def test_a_rank_with_no_rows_takes_no_part():
    layers = ["{name: C, conv: {channels: 2, size: 3}, split: {H: y}}", "{name: out, softmax: {classes: 3}}"]
    made = program(config_text(layers, "{y: 9}", "[1, 8, 8]"))
    assert made.layout.pieces("C.conv", 8) == ()
    assert not made.layout.read_rect("data.raw_output", 8)
    assert made.check()[0] == []


@pytest.mark.parametrize("split", ["{Q: y}", "{K: y}", "{H: y, GY: x}"])
def test_splits_of_what_is_not_there_are_refused(split):
    layers = [
        f"{{name: L, tiled: {{channels: 2, tile: 1, size: 2, stride: 1}}, split: {split}}}",
        "{name: out, softmax: {classes: 3}}",
    ]
    with pytest.raises(ConfigError, match=r"L\.filter"):
        program(config_text(layers))
