"""Updates on the torch backend against NumPy's: rules, penalties, memory orders."""

import numpy as np
import pytest

from dgraph.kernels.call import Moment
from dgraph.kernels.numpy.update import Operands, Recipe, bind_update
from tests.problem import placed, scratch_of

pytest.importorskip("torch")
from dgraph.kernels.torch.update import update

MOMENTS = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}
RECIPES = [
    Recipe("sgd"),
    Recipe("sgd", {"nesterov": True}, l2=0.1),
    Recipe("sgd", {"momentum": 0.9, "dampening": 0.3}, factor=0.5),
    Recipe("sgd", {"momentum": 0.9, "nesterov": True}, l2=0.1),
    Recipe("sgd", {"momentum": 0.9}, l1=0.1),
    Recipe("sgd", {"momentum": 0.9}, averaged=True),
    Recipe("adam", MOMENTS),
    Recipe("adam", MOMENTS, l2=0.1),
    Recipe("adam", MOMENTS | {"decay": 0.1}, l2=0.1),
    Recipe("adamw", MOMENTS | {"decay": 0.1}),
    Recipe("rmsprop", {"alpha": 0.9, "epsilon": 1e-8, "momentum": 0.5, "centered": True}),
]


def after(bind, recipe, dtype, order, step):
    random = np.random.default_rng(0)
    values = [random.normal(size=(4, 3, 5)).astype(dtype) for _ in range(4)]
    parameter = placed(values[0], order, step)
    gradient = placed(values[1], order, step)
    states = {name: placed(np.zeros((4, 3, 5), dtype), order, step) for name in recipe.states}
    moment = Moment(share=0.5)
    action = bind(recipe, Operands(parameter, gradient, states, {}, 0), scratch_of(recipe.workspace(dtype)), moment)
    for k in range(3):
        moment.update, moment.rate = k + 1, 0.1 / (k + 1)
        gradient[...] = values[1 + k]
        action()
        np.testing.assert_array_equal(gradient, values[1 + k])
    return {"parameter": parameter, **states}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.rule)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("order", "step"), [(None, 1), ((0, 2, 1), 0), ((1, 2, 0), 2)])
def test_updates_equal_numpys(recipe, dtype, order, step):
    found = after(update, recipe, dtype, order, step)
    for name, value in after(bind_update, recipe, dtype, None, 1).items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6 if dtype == "float32" else 1e-13)
