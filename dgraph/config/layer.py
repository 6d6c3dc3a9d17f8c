"""Readers of layers, nodes and parameters.

In: trees. Out: `LayerConfig`, `NodeSpec`, `ParameterSpec`. Promise: names are unique, a layer has exactly one kind and
no key that does not go with it; whether letters, tensors and attributes exist is for the graph to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dgraph.config.kind import FILTERS, JOINS, KINDS, LOSSES, NONLINEARITIES, NORM_KINDS, NORMS, NOT_SAID, POOLS, SCORED
from dgraph.config.path import item_name
from dgraph.config.reader import (
    Key,
    Keys,
    Reader,
    below,
    boolean,
    entries,
    fault,
    items,
    literal,
    optional,
    record,
    text,
    variant,
)
from dgraph.config.schema import AffineConfig, LayerConfig, Nonlinearity, Splits
from dgraph.config.section import COUNT, IDENTIFIER, LETTER, LETTERS, NAME, POSITIVE, read_init
from dgraph.config.source import Tree, quote
from dgraph.error import ConfigError, Place
from dgraph.graph.node import EMPTY, Attributes
from dgraph.graph.spec import NodeSpec, ParameterSpec

WEIGHTED = (*FILTERS, *SCORED)
_AFFINE_DEFAULTS = {
    "tiled": (True, "all"),
    "conv": (False, "C"),
    "conv_transpose": (False, "C"),
    "linear": (False, "C"),
    "affine": (True, "C"),
}
_GOES_WITH = {
    "loss_split": SCORED,
    "init": WEIGHTED,
    "update_split": WEIGHTED,
    "shard": (*WEIGHTED, "affine", *NORM_KINDS),
    "norm": FILTERS,
    "inputs": JOINS,
    "input": tuple(kind for kind in (*KINDS, "affine", "nonlinearity") if kind not in JOINS),
    "nonlinearity": tuple(kind for kind in (*KINDS, "affine", "nonlinearity") if kind not in LOSSES),
}
_WHY_NOT = {"input": "it joins several: inputs", "nonlinearity": "nothing follows a loss"}

read_name = text("a name of letters, digits and _ . -", NAME)
read_pieces = entries(COUNT, LETTER)


def _kind_reader(kind: str) -> Reader[Attributes]:
    def read(tree: Tree, path: str) -> Attributes:
        values = record(tree, path, KINDS[kind])
        if kind in POOLS and values["stride"] is None:
            values["stride"] = values["size"]
        return _said(values)

    return read


def _said(values: Mapping[str, Any]) -> Attributes:
    return MappingProxyType({name: value for name, value in values.items() if value is not NOT_SAID})


def _read_bias(tree: Tree, path: str) -> str:
    return "none" if tree.value == "none" else _read_letters(tree, path, "letters such as CHW, all or none")


def _read_letters(tree: Tree, path: str, wanted: str) -> str:
    if not isinstance(tree.value, str):
        raise fault(tree, path, wanted)
    if tree.value != "all":
        text(wanted, LETTERS)(tree, path)
        if len(set(tree.value)) < len(tree.value):
            raise ConfigError(f"{path}: a letter stands twice in {quote(tree.value)}", "", tree.place)
    return tree.value


def _read_scale(tree: Tree, path: str) -> bool | str:
    return (
        tree.value
        if isinstance(tree.value, bool)
        else _read_letters(tree, path, "true, false, all or letters such as CHW")
    )


def _read_affine(tree: Tree, path: str) -> Mapping[str, Any]:
    if tree.value == "none":
        return {"scale": False, "bias": "none"}
    if not isinstance(tree.value, dict):
        raise fault(tree, path, "none, or a mapping of scale and bias")
    return record(tree, path, {"scale": Key(_read_scale, NOT_SAID), "bias": Key(_read_bias, NOT_SAID)})


def _read_nonlinearity(tree: Tree, path: str) -> Nonlinearity:
    name, values = variant(tree, path, NONLINEARITIES)
    return Nonlinearity(name, _said(values))


def _read_norm(tree: Tree, path: str) -> Nonlinearity:
    name, values = variant(tree, path, NORMS)
    return Nonlinearity(name, _said(values))


def _layer_kind(tree: Tree, path: str) -> str:
    """The one kind among a layer's keys; `affine` beside a filter is not a kind but what follows the filter."""
    kinds = [key for key in tree.keys if key in KINDS or key == "affine"]
    if any(kind in FILTERS for kind in kinds):
        kinds = [kind for kind in kinds if kind != "affine"]
    if len(kinds) > 1:
        raise ConfigError(f"{path} is both {kinds[0]} and {kinds[1]}", "a layer has one kind", tree.keys[kinds[1]])
    if not kinds and "nonlinearity" not in tree.keys:
        hint = "such as conv, linear, max_pool, nonlinearity or softmax"
        raise ConfigError(f"{path} has no kind", hint, tree.place)
    return kinds[0] if kinds else "nonlinearity"


def _layer_affine(kind: str, given: Mapping[str, Any] | None, normed: bool) -> AffineConfig | None:
    """What was said, completed with what is usual for this kind of layer; a norm brings a scale and a bias of its own."""
    if kind not in _AFFINE_DEFAULTS:
        return None
    scale, bias = (False, "none") if normed else _AFFINE_DEFAULTS[kind]
    if given is not None:
        scale = scale if given["scale"] is NOT_SAID else given["scale"]
        bias = bias if given["bias"] is NOT_SAID else given["bias"]
    return AffineConfig(scale, None if bias == "none" else bias) if scale or bias != "none" else None


def layer_reader(split: Reader[Splits]) -> Reader[LayerConfig]:
    """Reads one layer; `split` reads splits."""
    keys: Keys = {
        "name": Key(read_name),
        **{kind: Key(_kind_reader(kind), None) for kind in KINDS},
        "affine": Key(_read_affine, None),
        "nonlinearity": Key(_read_nonlinearity, None),
        "norm": Key(_read_norm, None),
        "input": Key(read_name, None),
        "inputs": Key(items(read_name, "a list of layers or tensors"), None),
        "split": Key(split, None),
        "loss_split": Key(split, None),
        "pieces": Key(read_pieces, EMPTY),
        "init": Key(read_init, None),
        "shard": Key(boolean, None),
        "update_split": Key(split, None),
    }

    def read(tree: Tree, path: str) -> LayerConfig:
        values = record(tree, path, keys, ("block", "repeat", "when", "unless"))
        kind = _layer_kind(tree, path)
        for key, kinds in _GOES_WITH.items():
            if key in tree.keys and kind not in kinds:
                hint = _WHY_NOT.get(key, f"only with {', '.join(kinds)}")
                raise ConfigError(f"{path}.{key} does not go with {kind}", hint, tree.keys[key])
        attributes = {name: values.pop(name) for name in KINDS}.get(kind, EMPTY)
        if kind in JOINS and values["inputs"] is None:
            raise ConfigError(f"{path} needs the key inputs", f"what {kind} joins", tree.place)
        if kind in NORM_KINDS:
            values["norm"] = Nonlinearity(NORM_KINDS[kind], attributes)
        affine = _layer_affine(kind, values.pop("affine"), values["norm"] is not None)
        if kind == "affine" and affine is None:
            raise ConfigError(f"{path}.affine does nothing", "give it a scale or a bias", tree.keys["affine"])
        return LayerConfig(kind=kind, attributes=attributes, affine=affine, place=tree.place, **values)

    return read


def takes(layer: Tree, key: str) -> bool:
    """Whether a key goes with the kind of a layer."""
    kinds = [kind for kind in layer.keys if kind in KINDS or kind == "affine"] or ["nonlinearity"]
    return key not in _GOES_WITH or any(kind in _GOES_WITH[key] for kind in kinds)


def layers_reader(split: Reader[Splits], origins: Mapping[str, str]) -> Reader[tuple[LayerConfig, ...]]:
    """Reads the section `layers` without blocks: unique names. `origins` are the instances that layers come from, for hints."""
    read_one = layer_reader(split)

    def read_layer(tree: Tree, path: str) -> LayerConfig:
        try:
            return read_one(tree, path)
        except ConfigError as error:
            raise error.within(origins.get(item_name(tree) or "", "")) from None

    def read(tree: Tree, path: str) -> tuple[LayerConfig, ...]:
        layers = items(read_layer, "a list of layers")(tree, path)
        _check_names(tree, path, {"data": tree.place})
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
        "attributes": Key(entries(literal, IDENTIFIER), EMPTY),
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
        "rate": Key(POSITIVE, 1.0),
        "penalty": Key(optional(boolean), None),
    }
    names = entries(lambda tree, path: tree, NAME)

    def read(tree: Tree, path: str) -> tuple[ParameterSpec, ...]:
        return tuple(
            ParameterSpec(name=name, place=tree.keys[name], **record(value, below(path, name), keys))
            for name, value in names(tree, path).items()
        )

    return read
