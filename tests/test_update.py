"""Optimizers against their formulas, in any memory order, and without allocating."""

import numpy as np
import pytest

from dgraph.kernels.numpy import UPDATES
from tests.problem import BUFFERS, peak_of, placed, scratch_of


def optimize(name, hyper, parameter, gradients, order=None):
    """The parameter after one step for every gradient, by the kernel."""
    update = UPDATES[name]
    parameter, gradient = placed(parameter, order), placed(gradients[0], order)
    states = {state: placed(np.zeros_like(parameter), order) for state in update.states(hyper)}
    count = [0]
    scratch = scratch_of(update.workspace(str(parameter.dtype)))
    action = update.bind(hyper, parameter, gradient, states, scratch, lambda: count[0])
    for values in gradients:
        count[0] += 1
        gradient[...] = values
        action()
    return parameter


def by_hand(name, hyper, p, gradients):
    """The same as written in the books."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        if name == "sgd":
            m = hyper.get("momentum", 0) * m + g
            p = p - hyper["rate"] * m
        else:
            b1, b2 = hyper["beta1"], hyper["beta2"]
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            p = p - hyper["rate"] * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + hyper["epsilon"])
    return p


OPTIMIZERS = [
    ("sgd", {"rate": 0.1}, ()),
    ("sgd", {"rate": 0.1, "momentum": 0.0}, ()),
    ("sgd", {"rate": 0.1, "momentum": 0.9}, ("velocity",)),
    ("adam", {"rate": 0.01, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6}, ("m", "v")),
]


@pytest.mark.parametrize(("name", "hyper", "states"), OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", [None, (2, 0, 1)])
def test_optimizers(name, hyper, states, dtype, order):
    assert UPDATES[name].states(hyper) == states
    random = np.random.default_rng(3)
    parameter = random.normal(size=(40, 30, 29))
    gradients = random.normal(size=(5, *parameter.shape))
    expected = by_hand(name, hyper, parameter, gradients)
    result = optimize(name, hyper, parameter.astype(dtype), gradients.astype(dtype), order)
    np.testing.assert_allclose(result, expected, **({"rtol": 1e-12} if dtype == "float64" else {"atol": 1e-5}))


@pytest.mark.parametrize(("name", "hyper", "states"), OPTIMIZERS)
def test_optimizers_allocate_nothing(name, hyper, states):
    arrays = [np.ones(1 << 20, "float32") for _ in range(2)]
    kept = {state: np.ones(1 << 20, "float32") for state in states}
    update = UPDATES[name]
    action = update.bind(hyper, *arrays, kept, scratch_of(update.workspace("float32")), lambda: 1)
    assert peak_of(action) < BUFFERS
