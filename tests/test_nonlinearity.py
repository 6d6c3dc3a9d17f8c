"""Nonlinearities, affine and the softmax loss against PyTorch; tails and large values; networks of them on any layout."""

from math import erfc, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.kernels.numpy.normal import normal
from dgraph.ops.letter import letters_of
from dgraph.program import compile_config
from dgraph.verify import compare as difference
from dgraph.verify import one_rank, run_steps
from tests.networks import config_text, load
from tests.peer import compare, dims, torch
from tests.problem import Problem

F = torch.nn.functional
DIMS = dims(most=6, longest=4)
SLOPES = st.floats(-2, 2)
FUNCTIONS = {
    "identity": ({}, lambda x: x),
    "threshold": ({"at": SLOPES}, lambda x, at: torch.heaviside(x - at, torch.zeros_like(x))),
    "logistic": ({}, torch.sigmoid),
    "tanh": ({}, torch.tanh),
    "relu": ({}, torch.relu),
    "leaky_relu": ({"slope": SLOPES}, lambda x, slope: torch.where(x > 0, x, slope * x)),
    "elu": ({"alpha": SLOPES}, lambda x, alpha: torch.where(x > 0, x, alpha * torch.expm1(x))),
    "softplus": ({"beta": st.floats(0.1, 5)}, lambda x, beta: F.softplus(x, beta, threshold=1000)),
    "gelu": ({"approximate": st.sampled_from(["none", "tanh"])}, F.gelu),
    "silu": ({}, F.silu),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nonlinearity_is_that_of_torch(name, data):
    given_attributes, function = FUNCTIONS[name]
    attributes = {key: data.draw(values) for key, values in given_attributes.items()}
    scale = data.draw(st.sampled_from([1, 10]))
    values = {"input": lambda random, dim: scale * random.normal(size=dim)}
    compare(
        data, name, attributes, {"input": data.draw(DIMS)}, lambda input: function(input, **attributes), values=values
    )


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_softmax_activation_is_that_of_torch(data):
    dim = data.draw(DIMS)
    axis = data.draw(st.integers(0, len(dim) - 1))
    attributes = {"axis": data.draw(st.sampled_from([axis, axis - len(dim), letters_of(len(dim))[axis]]))}
    compare(data, "softmax_activation", attributes, {"input": dim}, lambda input: torch.softmax(input, axis))


def some_letters(data, dim):
    return "".join(data.draw(st.lists(st.sampled_from(letters_of(len(dim))), unique=True)))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_prelu_is_that_of_torch(data):
    dim = data.draw(DIMS)

    def function(input, slope):
        return torch.where(input > 0, input, slope * input)

    compare(data, "prelu", {"spans": some_letters(data, dim)}, {"input": dim}, function)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_affine_is_that_of_torch(data):
    dim, without = data.draw(DIMS), data.draw(st.sets(st.sampled_from("ab")))

    def function(input, a=1, b=0):
        return a * input + b

    spans = {"bias": some_letters(data, dim), "scale": some_letters(data, dim)}
    compare(data, "affine", spans, {"input": dim}, function, without=without)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_softmax_is_the_cross_entropy_of_torch(data):
    dim = data.draw(dims(2))

    def function(input, labels):
        losses = F.cross_entropy(input, labels[:, 0].long(), ignore_index=-1, reduction="sum")
        return {"probability": torch.softmax(input, 1), "output": losses / labels.numel()}

    compare(data, "softmax", {}, {"input": dim, "labels": (dim[0], 1, *dim[2:])}, function)


@pytest.mark.parametrize(("dtype", "error", "least"), [("float64", 1e-15, -37.0), ("float32", 1e-6, -12.5)])
def test_normal_distribution_is_exact_in_its_tails(dtype, error, least):
    x = np.concatenate([np.linspace(least, 9, 20001), np.linspace(-1e-3, 1e-3, 201)]).astype(dtype)
    cdf, density, a, b = (np.empty_like(x) for _ in range(4))
    normal(x, cdf, density, a, b)
    wide = x.astype("float64")
    expected = np.array([erfc(-value / sqrt(2)) / 2 for value in wide])
    # erfc itself is given a rounded argument: its relative error is x^2 times that of the argument.
    np.testing.assert_array_less(np.abs(cdf / expected - 1), error + 2.5e-16 * wide**2)
    np.testing.assert_allclose(density, np.exp(-wide * wide / 2), rtol=error + 1e-13)


EXTREMES = [-1e300, -1e30, -1000, -40, 0.0, 40, 1000, 1e30, 1e300]


@pytest.mark.parametrize("name", ["logistic", "tanh", "elu", "softplus", "gelu", "silu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_overflows(name, dtype):
    finite = [value for value in EXTREMES if abs(value) < float(np.finfo(dtype).max)]
    for attributes in ({}, {"approximate": "tanh"}) if name == "gelu" else ({},):
        problem = Problem((name, attributes, (1, len(finite))), dtype, values={"input": [finite]})
        with np.errstate(all="raise", under="ignore"):
            problem.with_forward()
            problem.values["output.delta"][...] = 1
            slope = problem.run(gradient=True)["input.delta"]
        ends = {"logistic": (0, 0), "tanh": (0, 0)}.get(name, (0, 1))
        np.testing.assert_allclose(slope[0, [0, -1]], ends, atol=1e-12)


def test_a_softmax_of_large_values_is_sound():
    problem = Problem(("softmax_activation", {}, (1, 3)), values={"input": [[-1000, 0, 1000]]})
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(problem.run()["output"], [[0, 0, 1]])


@pytest.mark.parametrize("name", [*FUNCTIONS, "prelu", "softmax_activation"])
def test_not_a_number_stays(name):
    problem = Problem((name, {}, (1, 3)), values={"input": [[np.nan, 1, 2]]})
    assert np.isnan(problem.run()["output"][0, 0]) or name == "threshold"


NETWORK = [
    "{name: A, conv: {channels: 4, size: 3, padding: 1}, nonlinearity: gelu, split: {H: y, W: x}}",
    "{name: B, conv: {channels: 5, size: 3}, nonlinearity: {prelu: {spans: CH}}, split: {O: y, C: x}}",
    "{name: C, conv: {channels: 3, size: 1}, nonlinearity: {elu: {alpha: 0.5}}, split: {N: [y, x]}}",
    "{name: D, conv: {channels: 6, size: 1, groups: 3}, nonlinearity: silu, split: {O: [y, x]}}",
    "{name: E, nonlinearity: softmax, split: {H: y, N: x}}",
    "{name: F, nonlinearity: {softmax: {axis: W}}, split: {C: y, H: x}}",
    "{name: G, nonlinearity: {gelu: {approximate: tanh}}, split: {W: x, C: y}}",
    "{name: H, linear: {features: 7}, nonlinearity: softplus, split: {C: y, K: x}, init: {he: {distribution: uniform}}}",
    "{name: I, linear: {features: 4}, nonlinearity: prelu, init: {truncated_normal: {deviation: 0.3}}}",
    "{name: out, softmax: {classes: 3}}",
]


@pytest.mark.parametrize("mesh", ["{y: 1, x: 2}", "{y: 2, x: 2}", "{y: 3, x: 2}"])
def test_any_layout_gives_the_result_of_one_rank(mesh):
    config = load(config_text(NETWORK, mesh))
    assert compile_config(config).check()[0] == []
    result = difference(run_steps(config, 3), run_steps(one_rank(config), 3))
    assert result["worst"] <= 1e-10, result
