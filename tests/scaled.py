"""Networks of `configs/`, scaled down: fewer channels, places, classes and samples, the same layers.

In: the name of a config and what to change. Out: plain values of a config, blocks written out, and a `Config` of them. Promise:
every layer stays, under its own name.
"""

import yaml

from dgraph.config import load_config, parse_config
from tests.runs import CONFIGS

FILTERS = {"conv": "channels", "conv_transpose": "channels", "linear": "features"}
SCORES = ("scores", "parameters")
"""Layers whose channels are fixed by the labels."""


def scaled(name, shape, batch, divide=1, classes=None, dtype="float64", dropout=None, shift=0, overrides=()):
    """The values of a config with `divide` times fewer channels, data of another `shape`, and so on; None leaves things as they
    are.

    `shift` is what batch norms add at first: with 2, most values lie far from the kink of a ReLU, where the sign of a rounding
    error decides which way a gradient goes (PyTorch's gradients of a small ResNet-50 in float32 and float64 are a tenth apart
    for that).
    """
    values = load_config(CONFIGS / f"{name}.yaml", overrides, 1).resolved()
    values["dtype"] = dtype
    data = values["data"]
    data |= {"shape": list(shape), "batch": batch, "samples": 2 * batch, "shares": {"train": 1.0}}
    if len(data.get("label_shape", ())) > 1:
        data["label_shape"] = [1, *shape[1:]]
    if classes is not None:
        data["classes"] = classes
    for layer in values["layers"]:
        _divide(layer, divide)
        if classes is not None and "softmax" in layer:
            layer["softmax"]["classes"] = classes
        if "norm" in layer:
            values.setdefault("parameters", {})[f"{layer['name']}.shift"] = {"init": {"constant": {"value": shift}}}
        if dropout is not None and "dropout" in layer:
            layer["dropout"]["rate"] = dropout
    return values


def _divide(layer, by):
    for kind, key in FILTERS.items():
        if kind in layer and layer["name"] not in SCORES:
            layer[kind][key] //= by
    if "pad" in layer:
        layer["pad"]["C"] = [margin // by for margin in layer["pad"]["C"]]


def config_of(values):
    """The config that plain values say."""
    return parse_config(yaml.safe_dump(values), "scaled.yaml")
