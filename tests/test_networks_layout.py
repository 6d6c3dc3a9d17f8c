"""Networks by name on any mesh: what ranks compute together is what one computes alone; dropout and batch norm included.

A split is laid over a whole network: every convolution and linear layer is cut, and what stands between follows.
"""

from functools import cache
from itertools import product

import numpy as np
import pytest

from dgraph.verify import one_rank, run_steps
from tests.scaled import FILTERS, config_of, scaled

LIMIT = {"float64": 1e-9, "float32": 1e-4}
MESHES = {1: {"y": 1, "x": 1}, 2: {"y": 2, "x": 1}, 3: {"y": 1, "x": 3}, 4: {"y": 2, "x": 2}, 6: {"y": 3, "x": 2}}
BOTH = ["y", "x"]
SPLITS = {
    "batch": [{"N": BOTH}],
    "spatial": [{"H": "y", "W": "x"}],
    "filter": [{"O": BOTH}],
    "channel": [{"C": BOTH}],
    "mixed": [{"N": "y", "H": "x"}, {"O": "x", "W": "y"}, {"C": "y", "N": "x"}, {"H": BOTH}, {"O": "y", "C": "x"}],
}
SMALL = {
    "lenet5": {"shape": (1, 28, 28)},
    "alexnet": {"shape": (3, 63, 63), "divide": 16},
    "vgg_a": {"shape": (3, 32, 32), "divide": 16},
    "vgg_a_lrn": {"shape": (3, 32, 32), "divide": 16},
    "vgg_b": {"shape": (3, 32, 32), "divide": 16},
    "vgg_c": {"shape": (3, 32, 32), "divide": 16},
    "vgg_d": {"shape": (3, 32, 32), "divide": 16},
    "vgg_e": {"shape": (3, 32, 32), "divide": 16},
    "googlenet": {"shape": (3, 64, 64), "divide": 8},
    "resnet18": {"shape": (3, 48, 48), "divide": 16},
    "resnet34": {"shape": (3, 48, 48), "divide": 16},
    "resnet50": {"shape": (3, 48, 48), "divide": 16},
    "resnet101": {"shape": (3, 48, 48), "divide": 16},
    "resnet152": {"shape": (3, 48, 48), "divide": 16},
    "inception_v3": {"shape": (3, 91, 91), "divide": 16},
    "inception_v3_aux": {"shape": (3, 107, 107), "divide": 16, "overrides": ["layers.aux.conv2.conv.size=1"]},
    "inception_v4": {"shape": (3, 107, 107), "divide": 32},
    "resnet20_cifar": {"shape": (3, 16, 16), "divide": 4},
    "unet3d": {"shape": (3, 16, 16, 16), "divide": 16},
    "cosmoflow": {"shape": (2, 32, 32, 32), "divide": 16},
}


@cache
def small(name, dtype):
    """The plain values of a network scaled down."""
    classes = None if name in ("unet3d", "cosmoflow") else 5
    values = scaled(name, batch=5, classes=classes, dtype=dtype, shift=2, **SMALL[name])
    values["train"]["optimizer"] = {"sgd": {"rate": 1e-4, "momentum": 0.9}}
    return values


def placed(name, dtype, split, ranks):
    """The network with a split laid over it; splits with several entries take turns."""
    values = small(name, dtype)
    layers, turn = [], 0
    for layer in values["layers"]:
        layer = {key: value for key, value in layer.items() if key != "split"}
        kind = next((kind for kind in (*FILTERS, "softmax") if kind in layer), None)
        if kind:
            layer["split"] = spelt(SPLITS[split][turn % len(SPLITS[split])], kind)
            turn += 1
        layers.append(layer)
    return config_of({**values, "mesh": MESHES[ranks], "layers": layers})


def spelt(split, kind):
    """A split in the letters of a kind of layer."""
    return {"K" if letter == "O" and kind in ("linear", "softmax") else letter: axes for letter, axes in split.items()}


@cache
def alone(name, dtype):
    """What one rank gets in three steps."""
    return run_steps(one_rank(placed(name, dtype, "batch", 1)), 3)


def apart(ours, theirs, names):
    """The distance of two sets of arrays, relative to the length of all of theirs together."""
    off = sum(np.square(ours[name] - theirs[name]).sum() for name in names)
    return float(np.sqrt(off / sum(np.square(theirs[name]).sum() for name in names)))


def check(name, dtype, split, ranks):
    ours, theirs = run_steps(placed(name, dtype, split, ranks), 3), alone(name, dtype)
    losses = [[float(values[0]) for values in outcome.metrics] for outcome in (ours, theirs)]
    np.testing.assert_allclose(*losses, rtol=LIMIT[dtype])
    kept = theirs.parameters.keys()
    # Not those of activations: in GoogLeNet, which of several equal values is the largest of a window is a matter of rounding.
    trained = [name for name in theirs.gradients if name.removesuffix(".grad") in kept]
    assert apart(ours.gradients, theirs.gradients, trained) <= LIMIT[dtype]
    assert apart(ours.parameters, theirs.parameters, kept) <= LIMIT[dtype]


IN_OTHERS = ("resnet101", "inception_v3")
"""Networks whose modules others have too."""
CHOSEN = [
    (name, list(SPLITS)[k % 5], (3, 4, 2, 6)[k % 4])
    for k, name in enumerate(name for name in SMALL if name not in IN_OTHERS)
]


@pytest.mark.parametrize(("name", "split", "ranks"), CHOSEN)
def test_every_network_on_some_mesh(name, split, ranks):
    check(name, "float64", split, ranks)


@pytest.mark.heavy
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("split", "ranks"), [*product(SPLITS, MESHES)])
@pytest.mark.parametrize("dtype", LIMIT)
def test_every_network_on_any_mesh(name, split, ranks, dtype):
    check(name, dtype, split, ranks)
