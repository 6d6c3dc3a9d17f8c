"""What kernels of joining and shaping allocate, and what they leave where nothing comes from."""

import numpy as np
import pytest

from dgraph.kernels.numpy import KERNELS
from dgraph.rect import Rect
from tests.problem import BUFFERS, Problem, bound, peak_of, placed

DIM = (4, 16, 64, 64)
LARGE = {
    "add": ({}, {"input0": DIM, "input1": DIM, "input2": (16, 1, 1)}),
    "multiply": ({}, {"input0": DIM, "input1": DIM, "input2": (16, 1, 1)}),
    "concat": ({}, {"input0": DIM, "input1": DIM}),
    "flatten": ({}, {"input": DIM}),
    "reshape": ({"shape": [4, -1, 48, 64]}, {"input": (4, 18, 64, 64)}),
    "transpose": ({"order": "NHWC"}, {"input": DIM}),
    "slice": ({"H": [1, None, 2], "W": [3, 60]}, {"input": DIM}),
    "crop": ({"margin": 3}, {"input": DIM}),
    "pad": ({"padding": 3, "value": 1}, {"input": DIM}),
    "upsample": ({"scale": 2}, {"input": DIM}),
    "linear upsample": ({"scale": 2, "mode": "linear"}, {"input": DIM}),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("accumulate", [False, True])
def test_actions_allocate_nothing(name, accumulate):
    attributes, dims = LARGE[name]
    problem = Problem((name.split()[-1], attributes, dims), "float32").with_forward()
    for gradient in (False, True):
        call = problem.call(gradient, problem.access.space.whole, accumulate)
        empty = {port: np.zeros(rect.size, "float32") for port, rect in call.rects.items()}
        arrays = {port: placed((empty | problem.values)[port], (1, 2, 3, 0)) for port in call.rects}
        assert peak_of(bound(call, arrays)) < BUFFERS
        assert KERNELS[problem.name, gradient].workspace(call) <= 1 << 20


@pytest.mark.parametrize(
    ("op", "attributes", "inside"),
    [
        ("slice", {"H": [1, 7, 3], "W": [-2, None]}, (slice(None), slice(None), slice(1, 7, 3), slice(4, 6))),
        ("crop", {"margin": [[1, 2], 0]}, (slice(None), slice(None), slice(1, 6))),
    ],
)
def test_assigned_delta_of_what_is_left_out_is_zero(op, attributes, inside):
    problem = Problem((op, attributes, {"input": (2, 3, 8, 6)})).with_forward()
    expected = np.zeros((2, 3, 8, 6))
    expected[inside] = problem.values["output.delta"]
    np.testing.assert_array_equal(problem.run(gradient=True, start=0.0)["input.delta"], expected)


def test_piece_that_misses_an_input():
    """Channels 3 to 5 of a concatenation are those of the second input alone."""
    problem = Problem(("concat", {}, {"input0": (2, 3), "input1": (2, 4)})).with_forward()
    piece = Rect((0, 3), (2, 2))
    assert not problem.rect("input0", piece)
    np.testing.assert_array_equal(problem.run(pieces=[piece])["output"][:, 3:5], problem.values["input1"][:, :2])
    deltas = problem.run(gradient=True, pieces=[piece], accumulate=True, start=0.0)
    assert not deltas["input0.delta"].any()
    np.testing.assert_array_equal(deltas["input1.delta"][:, :2], problem.values["output.delta"][:, 3:5])


def test_sum_of_many_deltas_is_sound():
    """Naive float32 sums of ones stop at 2**24."""
    problem = Problem(("add", {}, {"input0": (1, 1, 4200, 4200), "input1": (1, 1, 1)}), "float32")
    problem.values["output.delta"] = np.ones(problem.access.dims["output"], "float32")
    deltas = problem.run(gradient=True, without=("input0.delta",))
    assert deltas["input1.delta"].item() == np.float32(4200 * 4200)
