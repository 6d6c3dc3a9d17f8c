"""Copies between arrays of any strides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgraph.runtime.sum import bind_copy


@given(st.data())
def test_copies_of_runs_are_copies_and_nothing_beside(data):
    """Whatever lies side by side in both arrays goes as one element; the memory around stays as it was."""
    ndim = data.draw(st.integers(1, 4))
    shape = data.draw(st.lists(st.integers(0, 5), min_size=ndim, max_size=ndim))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))

    def part():
        order = data.draw(st.permutations(range(ndim)))
        gaps = data.draw(st.lists(st.integers(0, 2), min_size=ndim, max_size=ndim))
        whole = random.random([shape[axis] + gap for axis, gap in zip(order, gaps, strict=True)])
        inside = tuple(slice(gap // 2, gap // 2 + shape[axis]) for axis, gap in zip(order, gaps, strict=True))
        return whole, inside, np.argsort(order)

    (into, inside, turned), (source, there, other) = part(), part()
    expected = into.copy()
    expected[inside].transpose(turned)[...] = source[there].transpose(other)
    for action in bind_copy(into[inside].transpose(turned), source[there].transpose(other)):
        action()
    np.testing.assert_array_equal(into, expected)


@pytest.mark.parametrize(("width", "run"), [(2, 8), (5, 20), (8, None)])
def test_a_row_goes_as_one_element(width, run):
    array = np.zeros((100, 8), np.float32)
    (action,) = bind_copy(array[:, :width], np.ones((100, width), np.float32))
    assert action.args[1].dtype == (np.float32 if run is None else np.dtype(f"V{run}"))
    action()
    assert array.sum() == 100 * width
