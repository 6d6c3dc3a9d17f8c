"""Kernels of element-wise ops, pooling and losses: against loops over the iteration space, against
central differences, pieces against the whole, in any memory order, and without allocating."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.kernels.call import Call
from dgraph.kernels.numpy import KERNELS
from dgraph.ops import OPS
from dgraph.rect import Rect
from tests.problem import BUFFERS, Problem, bound, peak_of, placed

CASES = [
    ("identity", {}, (2, 3, 4, 5)),
    ("logistic", {}, (2, 3, 4)),
    ("tanh", {}, (2, 3, 2, 2, 2)),
    ("relu", {}, (2, 3, 4, 5)),
    ("leaky_relu", {"slope": 0.2}, (2, 3, 4, 5)),
    ("leaky_relu", {"slope": 1.5}, (3, 4)),
    ("threshold", {"at": 0.5}, (2, 3, 4, 5)),
    ("prelu", {}, (2, 3, 4)),
    ("prelu", {"spans": "NW"}, (2, 3, 2, 3)),
    ("elu", {"alpha": 0.7}, (2, 3, 4, 5)),
    ("softplus", {"beta": 2.0}, (2, 3, 4)),
    ("gelu", {}, (2, 3, 4, 5)),
    ("gelu", {"approximate": "tanh"}, (3, 4)),
    ("silu", {}, (2, 3, 4, 5)),
    ("softmax_activation", {}, (2, 5, 3, 2)),
    ("softmax_activation", {"axis": "W"}, (2, 3, 4)),
    ("affine", {"bias": "C"}, (2, 3, 4, 5)),
    ("affine", {"bias": "CHW"}, (3, 2, 4, 5)),
    ("affine", {"bias": ""}, (2, 3, 4)),
    ("affine", {"bias": "C", "scale": "CW"}, (2, 3, 4, 5)),
    ("affine", {"bias": "NDW"}, (2, 2, 2, 3, 2)),
    ("max_pool", {"size": 2}, (2, 3, 4, 6)),
    ("max_pool", {"size": 3, "stride": 2, "padding": 1}, (2, 1, 7, 6)),
    ("max_pool", {"size": [3, 2], "stride": 1, "padding": [[2, 0], 1]}, (1, 2, 5, 4)),
    ("max_pool", {"size": 3, "stride": 2}, (2, 2, 9)),
    ("max_pool", {"size": 2, "padding": 1}, (1, 2, 3, 4, 3)),
    ("average_pool", {"size": 2}, (2, 3, 4, 6)),
    ("average_pool", {"size": 3, "stride": 2, "padding": 1}, (2, 1, 7, 6)),
    ("average_pool", {"size": 3, "stride": 1, "padding": [[2, 1], 1], "count_padding": True}, (1, 2, 5, 4)),
    ("average_pool", {"size": 2, "stride": 4}, (2, 2, 10)),
    ("average_pool", {"size": 2, "stride": 1, "padding": 1}, (1, 1, 3, 2, 3)),
    ("max_pool", {"size": 2, "stride": 3, "dilation": 2, "padding": [[2, 0]], "ceil": True}, (2, 1, 6)),
    ("average_pool", {"size": 3, "stride": 2, "padding": [1, [0, 2]], "ceil": True}, (1, 2, 6, 5)),
    ("global_max_pool", {}, (3, 2, 4, 5)),
    ("global_max_pool", {}, (2, 3)),
    ("local_response_norm", {"size": 4, "alpha": 0.5, "k": 2}, (2, 7, 3)),
    ("local_response_norm", {"size": 5, "alpha": 2.0, "beta": 1.25}, (3, 3)),
    ("softmax", {}, (4, 7, 1, 1)),
    ("softmax", {}, (2, 5, 2, 3)),
    ("softmax", {}, (3, 2, 4)),
    ("evaluate", {}, (6, 7, 1, 1)),
    ("evaluate", {}, (2, 6, 2, 3)),
]
WITH_GRADIENT = [case for case in CASES if OPS[case[0]].gradient]


def name_of(case):
    return f"{case[0]}-{len(case[2]) - 2}d" if isinstance(case, tuple) else str(case)


def points(problem):
    """Index of every port at every point of the iteration space."""
    space = problem.access.space
    for values in product(*(range(n) for n in space.extents)):
        at = dict(zip(space.labels, values, strict=True))
        yield {
            port: tuple(sum(c * at[label] for label, c in e.terms) + e.offset for e in index)
            for port, index in problem.access.maps.items()
        }


def inside(index, array):
    return all(0 <= x < n for x, n in zip(index, array.shape, strict=True))


# --- definitions


def define_windows(problem):
    """All values of every window, and how many places it has."""
    x, windows, places = problem.values["input"], {}, {}
    for index in points(problem):
        at = index["output"]
        places[at] = places.get(at, 0) + 1
        if inside(index["input"], x):
            windows.setdefault(at, []).append(x[index["input"]])
    return windows, places


def define_pool(problem):
    windows, places = define_windows(problem)
    output = np.empty(problem.access.dims["output"])
    for at, values in windows.items():
        if problem.name != "average_pool":
            output[at] = max(values)
        else:
            output[at] = sum(values) / (places[at] if problem.attributes["count_padding"] else len(values))
    return {"output": output}


def define_response(problem):
    x, (windows, _) = problem.values["input"], define_windows(problem)
    size, alpha, beta, k = (problem.attributes[key] for key in ("size", "alpha", "beta", "k"))
    output = np.empty(x.shape)
    for at, values in windows.items():
        output[at] = x[at] / (k + alpha / size * np.square(values).sum()) ** beta
    return {"output": output}


def define_pointwise(problem):
    x = problem.values["input"]
    slope, axis = problem.attributes.get("slope"), problem.attributes.get("axis")
    erf, attributes = np.vectorize(math.erf), problem.attributes

    def gelu():
        cubic = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
        return x * (1 + (np.tanh(cubic) if attributes["approximate"] == "tanh" else erf(x / np.sqrt(2)))) / 2

    rules = {
        "identity": lambda: x,
        "logistic": lambda: 1 / (1 + np.exp(-x)),
        "tanh": lambda: np.tanh(x),
        "relu": lambda: np.where(x > 0, x, 0),
        "leaky_relu": lambda: np.where(x > 0, x, slope * x),
        "threshold": lambda: x > attributes["at"],
        "prelu": lambda: np.where(x > 0, x, problem.values["slope"] * x),
        "elu": lambda: np.where(x > 0, x, attributes["alpha"] * np.expm1(x)),
        "softplus": lambda: np.log1p(np.exp(attributes["beta"] * x)) / attributes["beta"],
        "gelu": gelu,
        "silu": lambda: x / (1 + np.exp(-x)),
        "softmax_activation": lambda: np.exp(x) / np.exp(x).sum(axis, keepdims=True),
        "affine": lambda: problem.values["a"] * x + problem.values["b"],
    }
    return {"output": rules[problem.name]()}


def samples(problem, port):
    """(label, values of all classes) of every sample that counts."""
    labels = problem.values["labels"]
    for n, _, *h in np.ndindex(labels.shape):
        label = int(labels[n, 0, *h])
        if label >= 0:
            yield label, problem.values[port][n, :, *h]


def define_softmax(problem):
    x = problem.values["input"]
    probability = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    losses = [-np.log(np.exp(v[k]) / np.exp(v).sum()) for k, v in samples(problem, "input")]
    mean = sum(losses) / problem.values["labels"].size
    return {"probability": probability, "output": np.full((1,) * x.ndim, mean)}


def define_evaluate(problem):
    ranks = [list(np.argsort(-v, kind="stable")).index(k) for k, v in samples(problem, "probability")]
    sums = (problem.values["loss"].item(), sum(r < 1 for r in ranks), sum(r < 5 for r in ranks), len(ranks))
    return {"output": np.reshape(sums, problem.access.dims["output"])}


DEFINITIONS = {
    "max_pool": define_pool,
    "average_pool": define_pool,
    "global_max_pool": define_pool,
    "local_response_norm": define_response,
    "softmax": define_softmax,
    "evaluate": define_evaluate,
}


@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forward_is_its_definition(case, dtype):
    problem = Problem(case, dtype)
    expected = DEFINITIONS.get(case[0], define_pointwise)(problem)
    for port, value in problem.run().items():
        assert value.dtype == dtype
        np.testing.assert_allclose(value, expected[port], rtol=1e-12 if dtype == "float64" else 2e-6)


def difference(problem, port, at, weights, step=1e-5):
    """Central difference of the weighted sum of the output."""
    kept, sums = problem.values[port][at], []
    for shift in (step, -step):
        problem.values[port][at] = kept + shift
        sums.append((problem.run()["output"] * weights).sum())
    problem.values[port][at] = kept
    return (sums[0] - sums[1]) / (2 * step)


@pytest.mark.parametrize("case", WITH_GRADIENT, ids=name_of)
def test_gradients_are_central_differences(case):
    problem = Problem(case).with_forward()
    weights = 1.0 if problem.op.loss else problem.values["output.delta"]
    for delta, value in problem.run(gradient=True).items():
        port = delta.removesuffix(".delta")
        expected = np.empty(value.shape)
        for at in np.ndindex(value.shape):
            expected[at] = difference(problem, port, at, weights)
        assert np.abs(value - expected).max() <= 1e-6 * max(1e-3, np.abs(expected).max())


@pytest.mark.parametrize("case", WITH_GRADIENT, ids=name_of)
def test_gradient_in_float32(case):
    exact, rounded = Problem(case).with_forward(), Problem(case, "float32").with_forward()
    results = exact.run(gradient=True)
    for port, value in rounded.run(gradient=True).items():
        np.testing.assert_allclose(value, results[port], rtol=1e-4, atol=1e-5)


# --- pieces, memory orders, accumulation


@st.composite
def cut_pieces(draw, problem):
    """The iteration space, cut at random along up to three labels."""
    space = problem.access.space
    cuttable = [name for name in space.labels if name not in problem.op.uncut]
    chosen = draw(st.lists(st.sampled_from(cuttable), unique=True, max_size=3))
    spans = []
    for name, extent in zip(space.labels, space.extents, strict=True):
        inner = st.sets(st.integers(1, extent - 1), max_size=2) if name in chosen and extent > 1 else st.just(set())
        edges = [0, *sorted(draw(inner)), extent]
        spans.append(list(pairwise(edges)))
    return [Rect.of(bounds) for bounds in product(*spans)]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_pieces_add_up_to_the_whole(data):
    case = data.draw(st.sampled_from(CASES))
    problem = Problem(case).with_forward()
    gradient = problem.op.gradient is not None and data.draw(st.booleans())
    pieces = data.draw(cut_pieces(problem))
    order = data.draw(st.permutations(range(5)))
    whole = problem.run(gradient)
    added = problem.run(gradient, pieces, accumulate=True, start=0.0, order=order)
    for port, value in added.items():
        np.testing.assert_allclose(value, whole[port], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize("gradient", [False, True])
def test_accumulation_adds_and_assignment_forgets(case, gradient):
    problem = Problem(case).with_forward()
    if gradient and problem.op.gradient is None:
        return
    assigned = problem.run(gradient, start=np.nan, order=(3, 0, 4, 1, 2))
    added = problem.run(gradient, accumulate=True, start=2.0)
    for port, value in added.items():
        assert np.isfinite(assigned[port]).all()
        np.testing.assert_allclose(value, assigned[port] + 2, rtol=1e-12)


@pytest.mark.parametrize("case", WITH_GRADIENT, ids=name_of)
def test_every_result_can_be_left_out(case):
    for gradient in (False, True):
        problem = Problem(case).with_forward()
        ports = problem.writes(gradient)
        whole = problem.run(gradient)
        for port in ports if len(ports) > 1 else ():
            others = problem.run(gradient, without=(port,))
            for other in set(ports) - {port}:
                np.testing.assert_array_equal(others[other], whole[other])


def test_affine_without_a_or_b():
    problem = Problem(("affine", {"bias": "C"}, (2, 3, 4, 5)))
    x, a, b = (problem.values[port] for port in ("input", "a", "b"))
    np.testing.assert_array_equal(problem.run(without=("a",))["output"], x + b)
    np.testing.assert_array_equal(problem.run(without=("b",))["output"], a * x)
    np.testing.assert_array_equal(problem.run(without=("a", "b"))["output"], x)


def test_piece_of_a_window_in_the_padding():
    problem = Problem(("average_pool", {"size": 2, "stride": 1, "padding": 1}, (1, 1, 3)))
    space = problem.access.space
    corner = Rect.of((0, 1) for _ in space.labels)
    assert not problem.rect("input", corner)
    assert problem.run(pieces=[corner])["output"][0, 0, 0] == 0
    problem.with_forward()
    assert not np.any(problem.run(gradient=True, pieces=[corner], start=0.0)["input.delta"])


# --- values


WORKED = np.array(
    [
        [[2, 13, 18, 12], [11, 16, 33, 17], [23, 34, 35, 23], [15, 25, 18, 7]],
        [[8, 4, 14, 5], [6, 17, 12, 13], [13, 18, 25, 9], [10, 12, 11, 8]],
        [[10, 24, 17, 16], [22, 23, 41, 17], [28, 42, 35, 28], [14, 31, 32, 19]],
    ]
)


def test_worked_pooling():
    problem = Problem(("max_pool", {"size": 2}, (1, 3, 4, 4)))
    problem.values["input"] = WORKED[None].astype(float)
    pooled = [[[16, 33], [34, 35]], [[17, 14], [18, 25]], [[24, 41], [42, 35]]]
    np.testing.assert_array_equal(problem.run()["output"], [pooled])


def test_first_of_equal_values_gets_the_gradient():
    problem = Problem(("max_pool", {"size": 2, "stride": 1}, (1, 1, 3, 3)))
    problem.values["input"][...] = 1
    problem.with_forward()
    problem.values["output.delta"] = np.array([[[[1.0, 2], [3, 4]]]])
    np.testing.assert_array_equal(problem.run(gradient=True)["input.delta"], [[[[1, 2, 0], [3, 4, 0], [0, 0, 0]]]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_scores_do_not_overflow(dtype):
    for name in ("logistic", "softmax"):
        problem = Problem((name, {}, (2, 3, 1)), dtype)
        problem.values["input"][...] = np.reshape([-1000, 0, 1000], (1, 3, 1))
        with np.errstate(all="raise", under="ignore"):
            result = problem.run()["output" if name == "logistic" else "probability"]
        np.testing.assert_allclose(result[0, :, 0], [0, 0.5 if name == "logistic" else 0, 1], atol=1e-30)


def test_not_a_number_is_never_correct():
    problem = Problem(("evaluate", {}, (2, 7, 1)))
    problem.values["labels"][...] = 0
    problem.values["probability"][...] = np.nan
    assert list(problem.run()["output"].ravel()[1:]) == [0, 0, 2]


def test_sums_of_many_elements_are_sound():
    """Naive float32 sums of ones stop at 2**24."""
    side = 4200
    access = OPS["affine"].access({"bias": "C", "scale": ""}, {"input": (1, 1, side, side)})
    whole = Rect.whole((1, 1, side, side))
    rects = {"output.delta": whole, "input": whole, "a.delta": Rect.whole((1,)), "b.delta": Rect.whole((1, 1, 1, 1))}
    call = Call("affine", True, {"bias": "C"}, access, whole, rects, frozenset(), "float32")
    ones = np.broadcast_to(np.float32(1), whole.size)
    arrays = {"output.delta": ones, "input": ones, "a.delta": np.empty(1, "f4"), "b.delta": np.empty((1,) * 4, "f4")}
    bound(call, arrays)()
    assert arrays["a.delta"] == arrays["b.delta"] == np.float32(side * side)


# --- no allocation


LARGE = {
    "max_pool": ({"size": 3, "stride": 2, "padding": 1}, (8, 16, 64, 64)),
    "average_pool": ({"size": 3, "stride": 2, "padding": 1}, (8, 16, 64, 64)),
    "global_max_pool": ({}, (8, 4, 256, 128)),
    "local_response_norm": ({"size": 5}, (8, 16, 64, 64)),
    "affine": ({"bias": "CHW"}, (16, 8, 64, 64)),
    "softmax": ({}, (512, 1000, 1, 1)),
    "evaluate": ({}, (512, 1000, 1, 1)),
}


@pytest.mark.parametrize("name", sorted({case[0] for case in CASES}))
@pytest.mark.parametrize("accumulate", [False, True])
def test_actions_allocate_nothing(name, accumulate):
    attributes, dim = LARGE.get(name, ({}, (8, 16, 64, 64)))
    problem = Problem((name, attributes, dim), "float32").with_forward()
    for gradient in (False, True):
        if gradient and problem.op.gradient is None:
            continue
        call = problem.call(gradient, problem.access.space.whole, accumulate)
        empty = {port: np.zeros(rect.size, "float32") for port, rect in call.rects.items()}
        arrays = {port: placed((empty | problem.values)[port], (1, 2, 3, 0)) for port in call.rects}
        assert peak_of(bound(call, arrays)) < BUFFERS
        assert KERNELS[name, gradient].workspace(call) <= 1 << 20
