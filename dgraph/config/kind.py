"""The kinds of layers, nonlinearities and norms: which keys each has.

In: nothing. Out: tables of readers. Promise: the older kinds are checked here, value by value; a *plain* kind is one op, which
checks its attributes itself when the graph is built, at the same places: here only the names of its keys are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgraph.config.reader import Key, Keys, Reader, boolean, choice, integer, items, literal, number
from dgraph.config.source import Tree

_COUNT = integer(1)
_FROM_ZERO = integer(0)
NOT_SAID: Any = None
"""The default of a key whose op knows the real one."""


def _per_dimension(least: int) -> Reader[int | tuple[int, ...]]:
    """Reads an integer, or a list with one for each spatial dimension."""
    one = integer(least)

    def read(tree: Tree, path: str) -> int | tuple[int, ...]:
        if isinstance(tree.value, list):
            return items(one, "an integer, or a list of 1 to 3", 1, 3)(tree, path)
        return one(tree, path)

    return read


def _read_padding(tree: Tree, path: str) -> Any:
    """Reads an integer, or a list with an integer or [before, after] for each spatial dimension."""
    if not isinstance(tree.value, list):
        return _FROM_ZERO(tree, path)

    def read_one(item: Tree, where: str) -> Any:
        if isinstance(item.value, list):
            return items(_FROM_ZERO, "an integer or [before, after]", 2, 2)(item, where)
        return _FROM_ZERO(item, where)

    return items(read_one, "an integer, or a list of 1 to 3", 1, 3)(tree, path)


def _plain(*names: str) -> Keys:
    return dict.fromkeys(names, Key(literal, NOT_SAID))


_SIZE = Key(_per_dimension(1))
_ONE = Key(_per_dimension(1), 1)
_PADDING = Key(_read_padding, 0)
_WINDOW = {
    "size": _SIZE,
    "stride": Key(_per_dimension(1), None),
    "padding": _PADDING,
    **_plain("dilation", "ceil"),
}
_FILTER = {
    "channels": Key(_COUNT),
    "size": _SIZE,
    "stride": _ONE,
    "padding": _PADDING,
    "dilation": _ONE,
    "groups": Key(_COUNT, 1),
}
_NORM = {**_plain("epsilon"), "affine": Key(boolean, NOT_SAID)}
NORMS: Mapping[str, Keys] = {
    "batch": {**_plain("momentum"), **_NORM},
    "layer": _NORM,
    "group": {**_plain("groups"), **_NORM},
    "instance": _NORM,
}
NORM_KINDS: Mapping[str, str] = {f"{name}_norm": name for name in NORMS}
"""Kind of layer -> norm."""
LETTERS = ("N", "C", "D", "H", "W", *(f"X{d}" for d in range(2, 8)))
"""The dimensions that a key may name."""
JOINS = ("add", "multiply", "concat")
POOLS = ("max_pool", "average_pool")
FILTERS = ("tiled", "conv", "conv_transpose", "linear")
PLAIN: Mapping[str, Keys] = {
    "global_average_pool": {},
    "global_max_pool": {},
    "local_response_norm": _plain("size", "alpha", "beta", "k"),
    "dropout": _plain("rate"),
    "add": {},
    "multiply": {},
    "concat": _plain("axis"),
    "flatten": _plain("axis"),
    "reshape": _plain("shape"),
    "transpose": _plain("order"),
    "slice": _plain(*LETTERS),
    "crop": _plain("margin", *LETTERS),
    "pad": _plain("padding", "value", *LETTERS),
    "upsample": _plain("scale", "mode"),
}
"""Kinds that are one op, without parameters, of the same name (but for global_average_pool, which is a `mean`)."""
_ERRORS: Mapping[str, Keys] = {
    "cross_entropy": _plain("smoothing", "weight"),
    "negative_log_likelihood": _plain("weight"),
    "binary_cross_entropy": _plain("logits", "weight"),
    "perceptron": _plain("weight"),
    "squared_error": _plain("weight"),
    "half_squared_norm": _plain("weight"),
    "absolute_error": _plain("weight"),
    "huber": _plain("delta", "weight"),
}
RULES = ("logistic", "perceptron")
SCORED = ("softmax", "one_vs_all")
"""Losses with the linear layer before them."""
LOSSES = (*SCORED, *_ERRORS)
KINDS: Mapping[str, Keys] = {
    "tiled": {"channels": Key(_COUNT), "tile": _SIZE, "size": _SIZE, "stride": _SIZE},
    "conv": _FILTER,
    "conv_transpose": {**_FILTER, "output_padding": _PADDING},
    "linear": {"features": Key(_COUNT)},
    "max_pool": _WINDOW,
    "average_pool": {**_WINDOW, "count_padding": Key(boolean, False)},
    "softmax": {"classes": Key(_COUNT), "bias": Key(boolean, False), **_plain("smoothing", "weight")},
    "one_vs_all": {
        "classes": Key(_COUNT),
        "rule": Key(choice(*RULES), "logistic"),
        "bias": Key(boolean, True),
        **_plain("weight"),
    },
    **PLAIN,
    **_ERRORS,
    **{kind: NORMS[name] for kind, name in NORM_KINDS.items()},
}
_SLOPE = {"slope": Key(number("a number >= 0", lambda slope: slope >= 0), 0.01)}
NONLINEARITIES: Mapping[str, Keys] = {
    "identity": {},
    "threshold": _plain("at"),
    "logistic": {},
    "tanh": {},
    "relu": {},
    "leaky_relu": _SLOPE,
    "prelu": _plain("spans"),
    "elu": _plain("alpha"),
    "softplus": _plain("beta"),
    "gelu": _plain("approximate"),
    "silu": {},
    "softmax": _plain("axis"),
}
