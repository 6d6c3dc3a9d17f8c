"""Rects: pure integers, by hypothesis against sets of points."""

from itertools import pairwise, product

from hypothesis import given
from hypothesis import strategies as st

from dgraph.rect import Rect, dim_text, share

BOUNDS = st.tuples(st.integers(-4, 6), st.integers(0, 5)).map(lambda p: (p[0], p[0] + p[1]))
RECTS = st.lists(BOUNDS, min_size=2, max_size=2).map(Rect.of)


def points(rect):
    return set(product(*(range(a, b) for a, b in rect.bounds)))


@given(RECTS, RECTS)
def test_intersect_and_subtract_are_those_of_sets(a, b):
    assert points(a.intersect(b)) == points(a) & points(b)
    parts = a.subtract(b)
    assert set().union(*map(points, parts)) == points(a) - points(b)
    assert sum(part.volume for part in parts) == len(points(a) - points(b))
    assert (b in a) == (points(b) <= points(a))


@given(RECTS, RECTS)
def test_hull_is_the_smallest_that_holds_both(a, b):
    hull = a.hull(b)
    assert a in hull
    assert b in hull
    if a and b:
        for d, (start, stop) in enumerate(hull.bounds):
            assert start in (a.start[d], b.start[d])
            assert stop in (a.stop[d], b.stop[d])


def test_notation_is_numpys():
    rect = Rect((0, 0, 28, 28), (256, 16, 36, 36))
    assert repr(rect) == "Rect(array([ 0,  0, 28, 28], dtype=int32), array([256,  16,  36,  36], dtype=int32))"
    assert str(rect) == "[ 0  0 28 28]+[256  16  36  36]"
    assert dim_text((256, 16, 64, 64)) == "[256  16  64  64]"
    assert Rect.of([(3, 3), (0, 5)]) == Rect.empty(2)


@given(st.integers(0, 50), st.integers(1, 12))
def test_shares_are_balanced(extent, parts):
    shares = [share(extent, parts, k) for k in range(parts)]
    sizes = [b - a for a, b in shares]
    assert sum(sizes) == extent
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1
    assert all(a[1] == b[0] for a, b in pairwise(shares))


def test_41_over_2_is_21_and_20():
    assert [share(41, 2, k) for k in range(2)] == [(0, 21), (21, 41)]
