"""Readers of layers, nodes and parameters.

In: trees. Out: `LayerConfig`, `NodeSpec`, `ParameterSpec`. Promise: names are unique, a layer has exactly one kind and
no key that does not go with it; whether letters, tensors and attributes exist is for the graph to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dgraph.config.reader import (
    Key,
    Keys,
    Reader,
    below,
    boolean,
    entries,
    fault,
    integer,
    items,
    number,
    plain,
    record,
    text,
    variant,
)
from dgraph.config.schema import AffineConfig, LayerConfig, Nonlinearity, Splits
from dgraph.config.section import COUNT, FROM_ZERO, IDENTIFIER, LETTER, LETTERS, NAME, read_init
from dgraph.config.source import Tree, quote
from dgraph.error import ConfigError, Place
from dgraph.graph.node import EMPTY, Attributes
from dgraph.graph.spec import NodeSpec, ParameterSpec

WEIGHTED = ("tiled", "conv", "linear", "softmax")
_FILTERS = ("tiled", "conv", "linear")
_POOLS = ("max_pool", "average_pool")
_AFFINE_DEFAULTS = {"tiled": (True, "all"), "conv": (False, "C"), "linear": (False, "C"), "affine": (True, "C")}
_GOES_WITH = {
    "loss_split": ("softmax",),
    "init": WEIGHTED,
    "update_split": WEIGHTED,
    "shard": (*WEIGHTED, "affine"),
    "nonlinearity": (*_FILTERS, *_POOLS, "affine", "nonlinearity"),
}
_NOT_SAID: Any = None

read_name = text("a name of letters, digits and _ . -", NAME)
read_pieces = entries(COUNT, LETTER)


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
        return FROM_ZERO(tree, path)

    def read_one(item: Tree, where: str) -> Any:
        if isinstance(item.value, list):
            return items(FROM_ZERO, "an integer or [before, after]", 2, 2)(item, where)
        return FROM_ZERO(item, where)

    return items(read_one, "an integer, or a list of 1 to 3", 1, 3)(tree, path)


_SIZE = Key(_per_dimension(1))
_ONE = Key(_per_dimension(1), 1)
_PADDING = Key(_read_padding, 0)
_WINDOW = {"size": _SIZE, "stride": Key(_per_dimension(1), None), "padding": _PADDING}
_KINDS: Mapping[str, Keys] = {
    "tiled": {"channels": Key(COUNT), "tile": _SIZE, "size": _SIZE, "stride": _SIZE},
    "conv": {
        "channels": Key(COUNT),
        "size": _SIZE,
        "stride": _ONE,
        "padding": _PADDING,
        "dilation": _ONE,
        "groups": Key(COUNT, 1),
    },
    "linear": {"features": Key(COUNT)},
    "max_pool": _WINDOW,
    "average_pool": {**_WINDOW, "count_padding": Key(boolean, False)},
    "softmax": {"classes": Key(COUNT), "bias": Key(boolean, False)},
}
_SLOPE = {"slope": Key(number("a number >= 0", lambda value: value >= 0), 0.01)}
_NONLINEARITIES: Mapping[str, Keys] = {"identity": {}, "logistic": {}, "tanh": {}, "relu": {}, "leaky_relu": _SLOPE}


def _kind_reader(kind: str) -> Reader[Attributes]:
    def read(tree: Tree, path: str) -> Attributes:
        values = record(tree, path, _KINDS[kind])
        if kind in _POOLS and values["stride"] is None:
            values["stride"] = values["size"]
        return MappingProxyType(values)

    return read


def _read_bias(tree: Tree, path: str) -> str:
    if not isinstance(tree.value, str):
        raise fault(tree, path, "letters such as CHW, all or none")
    if tree.value not in ("all", "none"):
        text("letters such as CHW, all or none", LETTERS)(tree, path)
        if len(set(tree.value)) < len(tree.value):
            raise ConfigError(f"{path}: a letter stands twice in {quote(tree.value)}", "", tree.place)
    return tree.value


def _read_affine(tree: Tree, path: str) -> Mapping[str, Any]:
    if tree.value == "none":
        return {"scale": False, "bias": "none"}
    if not isinstance(tree.value, dict):
        raise fault(tree, path, "none, or a mapping of scale and bias")
    return record(tree, path, {"scale": Key(boolean, _NOT_SAID), "bias": Key(_read_bias, _NOT_SAID)})


def _read_nonlinearity(tree: Tree, path: str) -> Nonlinearity:
    name, values = variant(tree, path, _NONLINEARITIES)
    return Nonlinearity(name, MappingProxyType(values))


def _layer_kind(tree: Tree, path: str) -> str:
    """The one kind among a layer's keys; `affine` beside a filter is not a kind but what follows the filter."""
    kinds = [key for key in tree.keys if key in _KINDS or key == "affine"]
    if any(kind in _FILTERS for kind in kinds):
        kinds = [kind for kind in kinds if kind != "affine"]
    if len(kinds) > 1:
        raise ConfigError(f"{path} is both {kinds[0]} and {kinds[1]}", "a layer has one kind", tree.keys[kinds[1]])
    if not kinds and "nonlinearity" not in tree.keys:
        hint = f"one of {', '.join(_KINDS)}, affine, nonlinearity"
        raise ConfigError(f"{path} has no kind", hint, tree.place)
    return kinds[0] if kinds else "nonlinearity"


def _layer_affine(kind: str, given: Mapping[str, Any] | None) -> AffineConfig | None:
    """What was said, completed with what is usual for this kind of layer."""
    if kind not in _AFFINE_DEFAULTS:
        return None
    scale, bias = _AFFINE_DEFAULTS[kind]
    if given is not None:
        scale = scale if given["scale"] is _NOT_SAID else given["scale"]
        bias = bias if given["bias"] is _NOT_SAID else given["bias"]
    return AffineConfig(scale, None if bias == "none" else bias) if scale or bias != "none" else None


def layer_reader(split: Reader[Splits]) -> Reader[LayerConfig]:
    """Reads one layer; `split` reads splits."""
    keys: Keys = {
        "name": Key(read_name),
        **{kind: Key(_kind_reader(kind), None) for kind in _KINDS},
        "affine": Key(_read_affine, None),
        "nonlinearity": Key(_read_nonlinearity, None),
        "input": Key(read_name, None),
        "split": Key(split, None),
        "loss_split": Key(split, None),
        "pieces": Key(read_pieces, EMPTY),
        "init": Key(read_init, None),
        "shard": Key(boolean, None),
        "update_split": Key(split, None),
    }

    def read(tree: Tree, path: str) -> LayerConfig:
        values = record(tree, path, keys)
        kind = _layer_kind(tree, path)
        for key, kinds in _GOES_WITH.items():
            if key in tree.keys and kind not in kinds:
                raise ConfigError(
                    f"{path}.{key} does not go with {kind}", f"only with {', '.join(kinds)}", tree.keys[key]
                )
        attributes = {name: values.pop(name) for name in _KINDS}.get(kind, EMPTY)
        affine = _layer_affine(kind, values.pop("affine"))
        if kind == "affine" and affine is None:
            raise ConfigError(f"{path}.affine does nothing", "give it a scale or a bias", tree.keys["affine"])
        return LayerConfig(kind=kind, attributes=attributes, affine=affine, place=tree.place, **values)

    return read


def layers_reader(split: Reader[Splits]) -> Reader[tuple[LayerConfig, ...]]:
    """Reads the section `layers`: unique names, and inputs that come earlier."""
    read_all = items(layer_reader(split), "a list of layers")

    def read(tree: Tree, path: str) -> tuple[LayerConfig, ...]:
        layers = read_all(tree, path)
        _check_names(tree, path, {"data": tree.place})
        names = [layer.name for layer in layers]
        for k, layer in enumerate(layers):
            if layer.input in names[k:] and isinstance(tree.value, list):
                item = tree.value[k].value
                place = item["input"].place if isinstance(item, dict) else layer.place
                raise ConfigError(f"{path}.{layer.name} reads {layer.input}", "an input is an earlier layer", place)
        return layers

    return read


def nodes_reader(split: Reader[Splits]) -> Reader[tuple[NodeSpec, ...]]:
    """Reads the section `nodes`: unique names."""
    read_all = items(_node_reader(split), "a list of nodes")

    def read(tree: Tree, path: str) -> tuple[NodeSpec, ...]:
        nodes = read_all(tree, path)
        _check_names(tree, path, {})
        return nodes

    return read


def _check_names(tree: Tree, path: str, used: dict[str, Place]) -> None:
    """Raises at the second item of one name, and at names that are taken."""
    for item in tree.value if isinstance(tree.value, list) else ():
        name = item.value["name"] if isinstance(item.value, dict) else item
        key = str(name.value)
        if key in used:
            hint = "names are unique" if used[key] is not tree.place else "it is the name of the data node"
            raise ConfigError(f"the name {key} is taken", hint, name.place)
        used[key] = name.place


def _read_tensors(tree: Tree, path: str) -> tuple[str, ...]:
    if isinstance(tree.value, list):
        return items(read_name, "a tensor or a list of tensors", 0)(tree, path)
    return (read_name(tree, path),)


def _node_reader(split: Reader[Splits]) -> Reader[NodeSpec]:
    keys = {
        "name": Key(read_name),
        "op": Key(text("the name of an op", IDENTIFIER)),
        "attributes": Key(entries(plain, IDENTIFIER), EMPTY),
        "inputs": Key(entries(_read_tensors, IDENTIFIER), EMPTY),
        "outputs": Key(entries(read_name, IDENTIFIER), EMPTY),
        "split": Key(split, None),
        "pieces": Key(read_pieces, EMPTY),
    }

    def read(tree: Tree, path: str) -> NodeSpec:
        values = record(tree, path, keys)
        inputs = values.pop("inputs")
        outputs = tuple(values.pop("outputs").items())
        pairs = tuple((port, tensor) for port, tensors in inputs.items() for tensor in tensors)
        return NodeSpec(inputs=pairs, outputs=outputs, place=tree.place, **values)

    return read


def parameters_reader(split: Reader[Splits]) -> Reader[tuple[ParameterSpec, ...]]:
    """Reads the section `parameters`: a mapping from the name of a parameter to what is special about it."""
    keys = {
        "init": Key(read_init, EMPTY),
        "update": Key(read_name, None),
        "update_split": Key(split, None),
        "shard": Key(boolean, None),
    }
    names = entries(lambda tree, path: tree, NAME)

    def read(tree: Tree, path: str) -> tuple[ParameterSpec, ...]:
        return tuple(
            ParameterSpec(name=name, place=tree.keys[name], **record(value, below(path, name), keys))
            for name, value in names(tree, path).items()
        )

    return read
