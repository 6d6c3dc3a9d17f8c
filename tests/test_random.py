"""Random values: known answers, moments, and the same bits in any rect."""

import tracemalloc
from math import erfc, exp, pi, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dgraph.block import blocks
from dgraph.error import ConfigError
from dgraph.random import (
    INITIAL,
    fill_normal,
    fill_truncated_normal,
    fill_uniform,
    initial,
    normal,
    permutation,
    philox,
    uniform,
)
from dgraph.random.quantile import normal_quantile
from dgraph.rect import Rect


def truncated(seed, purpose, step, dim, rect, mean=0.0, deviation=1.0, low=-2.0, high=2.0, dtype="float32"):
    """The truncated normal values of `rect`."""
    out = np.empty(rect.size, dtype)
    fill_truncated_normal(out, seed, purpose, step, dim, rect, mean, deviation, low, high)
    return out


KINDS = [uniform, normal, truncated]
FILLS = [fill_uniform, fill_normal, fill_truncated_normal]


@st.composite
def rects(draw):
    dim = tuple(draw(st.lists(st.integers(1, 9), max_size=5)))
    starts = tuple(draw(st.integers(0, n - 1)) for n in dim)
    return dim, Rect(starts, tuple(draw(st.integers(1, n - a)) for n, a in zip(dim, starts, strict=True)))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (0xFFFFFFFF, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ],
)
def test_philox_gives_the_known_answers(word, expected):
    words = np.full((4, 3), word, np.uint64)
    philox(words, (word, word), np.empty((2, words.shape[1]), np.uint64))
    assert (words == np.array(expected, np.uint64)[:, None]).all()


def test_philox_gives_the_known_answer_of_pi():
    words = np.array([[0x243F6A88], [0x85A308D3], [0x13198A2E], [0x03707344]], np.uint64)
    philox(words, (0xA4093822, 0x299F31D0), np.empty((2, words.shape[1]), np.uint64))
    assert [hex(w) for w in words[:, 0]] == ["0xd16cfe09", "0x94fdcceb", "0x5001e420", "0x24126ea1"]


@settings(max_examples=300, deadline=None)
@example(((12, 5, 9), Rect((6, 3, 0), (2, 2, 9))), uniform, "float32")
@given(rects(), st.sampled_from(KINDS), st.sampled_from(["float32", "float64"]))
def test_a_rect_has_the_values_of_the_whole(case, kind, dtype):
    dim, rect = case
    whole = kind(7, "weights", 3, dim, Rect.whole(dim), dtype=dtype)
    assert (kind(7, "weights", 3, dim, rect, dtype=dtype) == whole[rect.slices()]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_rect_of_many_blocks_has_the_values_of_the_whole(kind):
    dim = (3, 500, 211)
    whole = kind(7, "weights", 0, dim, Rect.whole(dim))
    for rect in (Rect((1, 3, 0), (2, 490, 211)), Rect((0, 1, 5), (3, 499, 14)), Rect((2, 0, 210), (1, 500, 1))):
        assert (kind(7, "weights", 0, dim, rect) == whole[rect.slices()]).all()


@pytest.mark.parametrize("fill", FILLS)
def test_picks_choose_along_the_first_dimension(fill):
    dim, picks = (40, 3, 7), np.array([5, 39, 0, 5])
    whole, some = np.empty(dim), np.empty((4, 2, 7))
    fill(whole, 1, "x", 0, dim, Rect.whole(dim))
    fill(some, 1, "x", 0, dim, Rect((0, 1, 0), (40, 2, 7)), picks=picks)
    assert (some == whole[picks][:, 1:3]).all()
    line = np.empty(4)
    fill(line, 1, "x", 0, (40,), Rect.whole((40,)), picks=picks)
    column = np.empty(40)
    fill(column, 1, "x", 0, (40,), Rect.whole((40,)))
    assert (line == column[picks]).all()


def test_fill_writes_into_any_strides_and_nothing_else():
    dim, rect = (6, 5, 8), Rect((1, 2, 3), (4, 3, 4))
    frame = np.full((9, 7, 8), -1.0, np.float32)
    out = frame[1:5, 2:5, ::2].transpose(0, 1, 2)
    fill_uniform(out, 1, "x", 0, dim, rect)
    assert (out == uniform(1, "x", 0, dim, rect)).all()
    assert (frame == -1).sum() == frame.size - out.size
    turned = np.empty((4, 3, 4)[::-1], np.float32).T
    fill_uniform(turned, 1, "x", 0, dim, rect)
    assert (turned == out).all()


def test_elements_beyond_32_bits_have_values_of_their_own():
    dim = (1 << 40,)
    near, far = (uniform(1, "x", 0, dim, Rect((a,), (64,))) for a in (0, 1 << 36))
    assert (near != far).all()


def test_seed_purpose_and_step_all_count():
    dim = (64,)
    cases = [(1, "x", 0), (2, "x", 0), (1 + (1 << 32), "x", 0), (1, "y", 0), (1, "x", 1)]
    drawn = [uniform(*case, dim, Rect.whole(dim)) for case in cases]
    assert all((a != b).any() for i, a in enumerate(drawn) for b in drawn[:i])


def test_float32_is_float64_rounded():
    dim = (1000,)
    for kind in KINDS:
        wide = kind(1, "x", 0, dim, Rect.whole(dim), dtype="float64")
        assert (kind(1, "x", 0, dim, Rect.whole(dim)) == wide.astype("float32")).all()


def test_moments():
    dim, n = (1000, 1000), 1e6
    flat = uniform(3, "moments", 0, dim, Rect.whole(dim), -1, 3, "float64")
    assert abs(flat.mean() - 1) < 5 * (4 / 12**0.5) / n**0.5
    assert abs(flat.var() - 16 / 12) < 0.01
    assert flat.min() >= -1
    assert flat.max() <= 3
    bell = normal(3, "moments", 0, dim, Rect.whole(dim), 2, 0.5, "float64")
    z = (bell - 2) / 0.5
    assert abs(z.mean()) < 5 / n**0.5
    assert abs(z.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((z**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 5 * (96 / n) ** 0.5
    for values in (flat.ravel() - flat.mean(), z.ravel()):
        for lag in (1, 2, 3, 4, 1000):
            assert abs((values[lag:] * values[:-lag]).mean() / values.var()) < 5 / n**0.5


@pytest.mark.parametrize(
    "bounds", [(-2.0, 2.0), (-1.0, 3.0), (0.5, 1.0), (5.0, 6.0), (-6.5, -6.0), (-40.0, 40.0), (7.9, 50.0)]
)
def test_a_truncated_normal_value_is_a_quantile_of_what_is_left(bounds):
    dim, (low, high) = (100_000,), bounds
    values = truncated(3, "moments", 0, dim, Rect.whole(dim), 1.0, 0.5, low, high, "float64")
    z = (values - 1) / 0.5
    assert z.min() >= low - 1e-12
    assert z.max() <= high + 1e-12
    side = -1 if low > 0 else 1
    first, last = sorted((side * low, side * high))

    def below(x):
        return erfc(-x / sqrt(2)) / 2

    mass = below(last) - below(first)
    share = [(below(x) - below(first)) / mass for x in np.sort(side * z)[:: len(z) // 100]]
    assert np.abs(np.array(share) - np.linspace(0, 0.99, len(share)).clip(0, 1)).max() < 0.012


def test_moments_of_a_truncated_normal():
    dim = (1_000_000,)
    z = truncated(3, "moments", 0, dim, Rect.whole(dim), dtype="float64")
    density, mass = exp(-2) / sqrt(2 * pi), 2 * NormalDist().cdf(2) - 1
    assert abs(z.mean()) < 5e-3
    assert abs(z.var() - (1 - 4 * density / mass)) < 5e-3


def test_quantiles_of_the_normal_distribution():
    tails = 10.0 ** -np.arange(1, 300, 7)
    probabilities = np.concatenate([np.linspace(0.001, 0.999, 999), tails, 1 - tails[:2]])
    expected = [NormalDist().inv_cdf(p) for p in probabilities]
    np.testing.assert_allclose(normal_quantile(probabilities), expected, rtol=1e-14, atol=1e-15)


def test_permutation_is_one_and_depends_on_the_epoch():
    for n in (0, 1, 2, 7, 1000):
        assert sorted(permutation(1, "shuffle", 0, n)) == list(range(n))
    first, second = (permutation(1, "shuffle", epoch, 1000) for epoch in (0, 1))
    assert first.dtype == np.int64
    assert (first != second).any()
    assert (first == permutation(1, "shuffle", 0, 1000)).all()


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("columns", [1, 14, 28])
def test_scratch_is_bounded(fill, columns):
    dim = (1 << 19, 28)
    out = np.empty((1 << 19, columns), np.float32)
    tracemalloc.start()
    fill(out, 1, "x", 0, dim, Rect((0, 0), out.shape))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 16 << 20


def test_faults_of_the_caller_are_refused():
    for seed, step in ((-1, 0), (1 << 64, 0), (0, -1), (0, 1 << 32)):
        with pytest.raises(ValueError, match="out of range"):
            uniform(seed, "x", step, (4,), Rect.whole((4,)))
    with pytest.raises(ValueError, match="does not fit"):
        uniform(0, "x", 0, (4,), Rect((2,), (3,)))
    with pytest.raises(ValueError, match="does not fit"):
        fill_uniform(np.empty(3), 0, "x", 0, (4,), Rect.whole((4,)))


@pytest.mark.parametrize(
    ("init", "mean", "deviation"),
    [
        ({"zero": {}}, 0, 0),
        ({"constant": {"value": 2.5}}, 2.5, 0),
        ({"normal": {}}, 0, 0.01),
        ({"normal": {"mean": 1.0, "deviation": 2.0}}, 1, 2),
        ({"uniform": {"low": -1.0, "high": 3.0}}, 1, 4 / 12**0.5),
        ({"xavier": {}}, 0, (6 / 80) ** 0.5 / 3**0.5),
        ({"xavier": {"gain": 2.0}}, 0, 2 * (6 / 80) ** 0.5 / 3**0.5),
        ({"he": {}}, 0, (2 / 50) ** 0.5),
        ({"lecun": {"gain": 3.0}}, 0, 3 * (1 / 50) ** 0.5),
        ({"xavier": {"distribution": "normal"}}, 0, (2 / 80) ** 0.5),
        ({"he": {"distribution": "uniform", "gain": 0.5}}, 0, 0.5 * (2 / 50) ** 0.5),
        ({"he": {"fan": "out"}}, 0, (2 / 30) ** 0.5),
        ({"lecun": {"distribution": "uniform"}}, 0, (1 / 50) ** 0.5),
        ({"truncated_normal": {}}, 0, 0.01 * 0.8796),
        ({"truncated_normal": {"mean": 3.0, "deviation": 2.0, "low": -1.0, "high": 1.0}}, 3, 2 * 0.5396),
    ],
)
def test_initial_values(init, mean, deviation):
    dim, rect = (100, 300), Rect((10, 20), (30, 100))
    whole, part = np.empty(dim), np.empty(rect.size)
    initial(init, 5, "L0.W", dim, Rect.whole(dim), 50, 30, whole)
    initial(init, 5, "L0.W", dim, rect, 50, 30, part)
    assert (part == whole[rect.slices()]).all()
    assert abs(whole.mean() - mean) <= 0.03 * deviation
    assert abs(whole.std() - deviation) <= 0.02 * deviation


@pytest.mark.parametrize(
    ("init", "line"),
    [
        ({}, "error: parameter W needs one kind of initial values, not 0 (" + ", ".join(INITIAL) + ")"),
        ({"xaver": {}}, "error: parameter W has unknown initial values xaver (" + ", ".join(INITIAL) + ")"),
        ({"uniform": {"low": 1}}, "error: initial values uniform of W have no high (it takes: low, high)"),
        ({"he": {"gian": 1}}, "error: initial values he of W have an unknown gian (it takes: gain, distribution, fan)"),
        ({"zero": {"value": 1}}, "error: initial values zero of W have an unknown value (it takes: nothing)"),
    ],
)
def test_bad_initial_values_are_one_line(init, line):
    with pytest.raises(ConfigError) as caught:
        initial(init, 0, "W", (4,), Rect.whole((4,)), 1, 1, np.empty(4))
    assert str(caught.value) == line


@given(st.lists(st.integers(0, 6), max_size=4), st.integers(1, 40))
def test_blocks_are_the_box_in_c_order(size, limit):
    order = np.arange(int(np.prod(size))).reshape(size)
    walked = [order[block.slices()].ravel() for block in blocks(size, limit)]
    assert all(0 < part.size <= limit for part in walked)
    assert (np.concatenate([np.empty(0), *walked]) == order.ravel()).all()
