"""Optimizers' rules against their formulas, in any memory order, and without allocating."""

import numpy as np
import pytest

from dgraph.kernels.call import Moment
from dgraph.kernels.numpy.update import Operands, Recipe, bind_exchange, bind_measure, bind_update
from tests.problem import BUFFERS, peak_of, placed, scratch_of

ADAM = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6}
RMSPROP = {"alpha": 0.9, "epsilon": 1e-6, "momentum": 0.0, "centered": False}
LARS = {"momentum": 0.9, "decay": 0.01, "trust": 0.02}
RECIPES = [
    (Recipe("sgd"), ()),
    (Recipe("sgd", {"momentum": 0.0}), ()),
    (Recipe("sgd", {"momentum": 0.9}), ("velocity",)),
    (Recipe("sgd", {"momentum": 0.9, "dampening": 0.3}), ("velocity",)),
    (Recipe("sgd", {"momentum": 0.9, "nesterov": True}, l1=0.01, l2=0.1), ("velocity",)),
    (Recipe("rmsprop", RMSPROP), ("square",)),
    (Recipe("rmsprop", RMSPROP | {"momentum": 0.5, "centered": True}), ("square", "mean", "velocity")),
    (Recipe("adam", ADAM, clip=3.0), ("m", "v")),
    (Recipe("adamw", ADAM | {"decay": 0.1}, averaged=True), ("m", "v", "average")),
    (Recipe("lars", LARS), ("velocity",)),
    (Recipe("lars", LARS | {"momentum": 0.0}, clip=3.0, averaged=True), ("average",)),
    (Recipe("lamb", ADAM | {"decay": 0.1}), ("m", "v")),
    (Recipe("lamb", ADAM | {"decay": 0.1}, l2=0.01, clip=3.0), ("m", "v")),
]
RATE = 0.05


class Work:
    """One parameter, its only one, with all that its recipe needs, in arrays of any order."""

    def __init__(self, recipe, parameter, order=None):
        self.recipe, self.moment = recipe, Moment(rate=RATE)
        self.parameter, self.gradient = placed(parameter, order), placed(np.zeros_like(parameter), order)
        self.states = {state: placed(np.zeros_like(parameter), order) for state in recipe.states}
        self.norms = {stage: np.zeros((1, columns), parameter.dtype) for stage, columns in recipe.stages.items()}
        operands = Operands(self.parameter, self.gradient, self.states, self.norms, 0)
        scratch = scratch_of(recipe.workspace(str(parameter.dtype)))
        self.actions = [
            bind_measure(recipe, stage, [operands], out, scratch, self.moment) for stage, out in self.norms.items()
        ]
        self.actions.append(bind_update(recipe, operands, scratch, self.moment))

    def step(self, gradient=None):
        self.moment.update += 1
        self.moment.share = 1.0 if self.moment.update == 1 else 0.25
        if gradient is not None:
            self.gradient[...] = gradient
        for action in self.actions:
            action()


def by_hand(recipe, p, gradients):
    """The parameter and its average, as written in the books."""
    n, kept, average = recipe.numbers, {}, 0.0
    old = dict.fromkeys(("v", "m", "s", "a"), np.zeros_like(p))
    for t, g in enumerate(gradients, 1):
        if recipe.clip is not None:
            g = g * min(1, recipe.clip / (np.linalg.norm(g) + 1e-6))
        g = g + recipe.l1 * np.sign(p) + recipe.l2 * p
        p, kept = STEPS[recipe.rule](n, t, p, g, old)
        old |= kept
        average = p if t == 1 else average + 0.25 * (p - average)
    return p, average


def sgd(n, t, p, g, old):
    mu = n.get("momentum", 0)
    v = g if t == 1 else mu * old["v"] + (1 - n.get("dampening", 0)) * g
    return p - RATE * (g + mu * v if n.get("nesterov") else v), {"v": v}


def rmsprop(n, t, p, g, old):
    s, m = (n["alpha"] * old[k] + (1 - n["alpha"]) * x for k, x in (("s", g * g), ("m", g)))
    v = n["momentum"] * old["v"] + g / (np.sqrt(s - m * m if n["centered"] else s) + n["epsilon"])
    return p - RATE * v, {"s": s, "m": m, "v": v}


def moments(n, t, g, old):
    m, s = (n[b] * old[k] + (1 - n[b]) * x for b, k, x in (("beta1", "m", g), ("beta2", "s", g * g)))
    return (m / (1 - n["beta1"] ** t)) / (np.sqrt(s / (1 - n["beta2"] ** t)) + n["epsilon"]), {"m": m, "s": s}


def adam(n, t, p, g, old):
    r, kept = moments(n, t, g, old)
    return p - RATE * n.get("decay", 0) * p - RATE * r, kept


def lars(n, t, p, g, old):
    w = np.linalg.norm(p)
    local = n["trust"] * w / (np.linalg.norm(g) + n["decay"] * w)
    v = n["momentum"] * old["v"] + RATE * local * (g + n["decay"] * p)
    return p - v, {"v": v}


def lamb(n, t, p, g, old):
    r, kept = moments(n, t, g, old)
    r = r + n["decay"] * p
    return p - RATE * np.linalg.norm(p) / np.linalg.norm(r) * r, kept


STEPS = {"sgd": sgd, "rmsprop": rmsprop, "adam": adam, "adamw": adam, "lars": lars, "lamb": lamb}


@pytest.mark.parametrize(("recipe", "states"), RECIPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", [None, (2, 0, 1)])
def test_optimizers(recipe, states, dtype, order):
    assert recipe.states == states
    random = np.random.default_rng(3)
    parameter = random.normal(size=(40, 30, 29))
    gradients = random.normal(size=(5, *parameter.shape))
    expected, average = by_hand(recipe, parameter, gradients)
    work = Work(recipe, parameter.astype(dtype), order)
    for gradient in gradients:
        work.step(gradient)
    close = {"rtol": 1e-11, "atol": 1e-12} if dtype == "float64" else {"atol": 2e-5}
    np.testing.assert_allclose(work.parameter, expected, **close)
    if recipe.averaged:
        np.testing.assert_allclose(work.states["average"], average, **close)


@pytest.mark.parametrize("rule", ["lars", "lamb"])
@pytest.mark.parametrize(("weight", "slope"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_ratio_of_nothing_is_1(rule, weight, slope):
    recipe = Recipe(rule, {"lars": LARS, "lamb": ADAM}[rule] | {"decay": 0.0})
    work = Work(recipe, np.full(3, weight))
    work.step(np.full(3, slope))
    np.testing.assert_allclose(work.parameter, weight - RATE * slope, rtol=1e-5)


@pytest.mark.parametrize("rule", ["lars", "lamb"])
def test_without_trust_there_is_no_ratio(rule):
    recipe = Recipe(rule, {"lars": LARS, "lamb": ADAM}[rule] | {"decay": 0.0, "trust": 0.0})
    assert not recipe.stages
    work = Work(recipe, np.full(3, 7.0))
    work.step(np.ones(3))
    np.testing.assert_allclose(work.parameter, 7 - RATE, rtol=1e-6)


def test_a_parameter_and_its_average_change_places():
    p, a = np.arange(50_000.0), -np.arange(50_000.0)
    action = bind_exchange(p, a, scratch_of(Recipe("sgd").workspace("float64")))
    action()
    assert (p == -np.arange(50_000)).all()
    assert (a == np.arange(50_000)).all()
    assert peak_of(action) < BUFFERS


@pytest.mark.parametrize(("recipe", "states"), RECIPES)
def test_optimizers_allocate_nothing(recipe, states):
    work = Work(recipe, np.ones(1 << 20, "float32"))
    assert peak_of(work.step) < BUFFERS
