"""Moves by PyTorch's copies and sums: the very numbers of NumPy's, wherever operands lie."""

import numpy as np
import pytest

from tests.problem import Problem

pytest.importorskip("torch")

from dgraph.kernels.torch import KERNELS
from dgraph.kernels.torch.remap import moved_by_library

DIM = (3, 5, 8, 6)
CASES = [
    ("add", {}, {"input0": DIM, "input1": DIM, "input2": (5, 1, 1)}),
    ("concat", {}, {"input0": DIM, "input1": (3, 2, 8, 6)}),
    ("concat", {"axis": "H"}, {"input0": DIM, "input1": (3, 5, 1, 6)}),
    ("slice", {"H": [1, None, 2], "W": [2, 6]}, DIM),
    ("crop", {"margin": [[1, 2], 0]}, DIM),
    ("pad", {"padding": [[1, 2], 3], "value": 0.5}, DIM),
]
PLACES = [(None, 2), ((0, 2, 3, 1), 0), ((0, 2, 3, 1), 1), ((1, 0, 3, 2), 2)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(("order", "step"), PLACES)
def test_moves_give_the_same_numbers(case, dtype, accumulate, order, step):
    problem = Problem(case, dtype).with_forward()
    for gradient in (False, True):
        how = {"accumulate": accumulate, "start": 2.0 if accumulate else np.nan}
        wanted = problem.run(gradient, **how, order=order, step=step)
        found = problem.run(gradient, **how, order=order, step=step, kernels=KERNELS)
        for port, value in wanted.items():
            np.testing.assert_array_equal(found[port], value, err_msg=port)


@pytest.mark.parametrize("accumulate", [False, True])
def test_what_the_library_cannot_read_is_moved_all_the_same(accumulate):
    """An operand that is repeated in place, one that lies backwards, and one onto itself."""
    source, scratch = np.arange(12.0).reshape(3, 4), np.empty(1 << 18, np.uint8)
    for given in (np.broadcast_to(source[:1], (3, 4)), source[:, ::-1]):
        target = np.ones((3, 4))
        moved_by_library(given, target, accumulate, scratch)()
        np.testing.assert_array_equal(target, given + accumulate)
    wanted = source * (1 + accumulate)
    moved_by_library(source, source, accumulate, scratch)()
    np.testing.assert_array_equal(source, wanted)
