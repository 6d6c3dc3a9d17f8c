"""Element-wise ops, pooling and losses on the torch backend against NumPy's kernels: attributes, pieces, memory orders, sums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.kernels.numpy import KERNELS as OTHERS
from dgraph.ops import OPS
from tests.chain import Chained
from tests.problem import Problem
from tests.test_kernels import CASES, cut_pieces
from tests.test_torch_norm import PLACES, TOLERANCE

pytest.importorskip("torch")
from dgraph.kernels.torch import KERNELS, loss
from dgraph.kernels.torch.affine import FUSIONS

MORE = [
    ("softmax", {"smoothing": 0.1}, (3, 4, 5)),
    ("average_pool", {"size": 3, "stride": 2, "padding": 1, "count_padding": True, "ceil": True}, (2, 3, 6, 5)),
    ("average_pool", {"size": [4, 5]}, (2, 3, 4, 5)),
    ("max_pool", {"size": 3, "stride": 1, "padding": 1}, (2, 3, 5, 4)),
    ("affine", {"bias": "C"}, (3, 16, 9, 9)),
    ("affine", {"bias": "C", "scale": "C"}, (3, 5, 4)),
    ("affine", {"bias": "", "scale": ""}, (3, 5)),
    ("softplus", {"beta": 3.0}, (3, 5)),
]
OURS = [
    (case, gradient)
    for case in [*CASES, *MORE]
    for gradient in (False, True)
    if (OPS[case[0]].gradient or not gradient) and KERNELS[case[0], gradient] is not OTHERS[case[0], gradient]
]


@pytest.fixture(autouse=True, scope="module")
def few_samples_are_many():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "MANY", 1)
        patch.setattr(loss, "LIMIT", 20)
        yield


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(OURS), st.data())
def test_kernels_equal_numpys(chosen, data):
    (case, gradient), dtype = chosen, data.draw(st.sampled_from(["float32", "float64"]))
    problem = Problem(case, dtype, data.draw(st.integers(0, 3)))
    if case[0] == "softplus":
        problem.values["input"] *= 30
    if case[0] == "max_pool":
        problem.values["input"] = np.round(problem.values["input"])
    problem.with_forward()
    without = tuple(data.draw(st.sets(st.sampled_from(["a", "b"])))) if case[0] == "affine" else ()
    without += tuple(f"{port}.delta" for port in without)
    how = {"accumulate": data.draw(st.booleans()), "start": 2.0, "without": without}
    if data.draw(st.booleans()):
        how |= {"accumulate": True, "pieces": data.draw(cut_pieces(problem))}
    wanted = problem.run(gradient, **how)
    last = (0, 2, 3, 4, 1)
    order, step = data.draw(st.sampled_from([(None, 2), (last, 0), (last, 1), ((1, 0, 2, 3, 4), 2)]))
    found = problem.run(gradient, **how, order=order, step=step, kernels=KERNELS)
    for port, value in found.items():
        bound = TOLERANCE[dtype] * max(1.0, np.abs(wanted[port]).max())
        np.testing.assert_allclose(value, wanted[port], rtol=0, atol=bound)


@pytest.mark.parametrize("key", sorted(FUSIONS), ids=lambda key: key[0][0])
@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("added", [(), ("gb",)])
def test_a_nonlinearity_and_a_bias(key, place, added):
    nodes = [
        (key[0][0], True, {"output.delta": "go", "output": "o", "input.delta": "gy"}, {}),
        ("affine", True, {"output.delta": "gy", "b.delta": "gb", "input.delta": "gx"}, {"bias": "C"}),
    ]
    dim = (3, 16, 9, 9)
    dims = dict.fromkeys(("go", "o", "gy", "gx"), dim) | {"gb": (1, 16, 1, 1)}
    made = Chained(nodes, dims, "float64", inner=("gy",), added=added, start=dict.fromkeys(added, 2.0))
    wanted, found = made.one_by_one(), made.fused(FUSIONS[key], PLACES[place])
    for name in ("gb", "gx"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-12, atol=1e-12)
    assert made.in_place(FUSIONS[key], PLACES[place])
