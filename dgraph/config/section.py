"""Readers of the small sections: mesh, splits, data, initial values, training.

In: trees. Out: the frozen types of `dgraph.config.schema`. Promise: whatever can be known without the ops and the data
is checked here, at its place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dgraph.config.reader import (
    MOST,
    Key,
    Reader,
    below,
    boolean,
    choice,
    entries,
    fault,
    integer,
    items,
    nearest,
    number,
    optional,
    record,
    text,
    variant,
)
from dgraph.config.schema import Adam, DataConfig, Sgd, Shares, Splits, TrainConfig
from dgraph.config.source import Tree, quote
from dgraph.error import ConfigError
from dgraph.graph.node import Split

IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
LETTER = r"[A-Z][A-Z0-9]*"
LETTERS = r"[A-Z]+"
AUTO = None

Axes = Mapping[str, int | None]
"""Mesh axis -> how many ranks along it; None: not known yet."""

POSITIVE = number("a number > 0", lambda value: value > 0)
FINITE = number("a number")
FRACTION = number("a number >= 0 and < 1", lambda value: 0 <= value < 1)
SHARE = number("a number from 0 to 1", lambda value: 0 <= value <= 1)
COUNT = integer(1)
FROM_ZERO = integer(0)

_GAIN = {"gain": Key(POSITIVE, None)}
_INITS = {
    "zero": {},
    "constant": {"value": Key(FINITE)},
    "normal": {"mean": Key(FINITE, 0.0), "deviation": Key(number("a number >= 0", lambda value: value >= 0), 0.01)},
    "uniform": {"low": Key(FINITE), "high": Key(FINITE)},
    "xavier": _GAIN,
    "he": _GAIN,
    "lecun": _GAIN,
}
_OPTIMIZERS = {
    "sgd": {"rate": Key(POSITIVE), "momentum": Key(FRACTION, 0.0)},
    "adam": {
        "rate": Key(POSITIVE),
        "beta1": Key(FRACTION, 0.9),
        "beta2": Key(FRACTION, 0.999),
        "epsilon": Key(POSITIVE, 1e-8),
    },
}
_SHARES = {"train": Key(SHARE), "validation": Key(SHARE, 0.0), "test": Key(SHARE, 0.0)}
_KNOWN_DATA = {"digits": {"shape": (1, 8, 8), "classes": 10}}
_OWN_KEYS = {"samples": "synthetic", "path": "npz"}


def read_mesh(tree: Tree, path: str) -> Axes:
    """Axis -> size, in order; at most one size is `auto`, which reads as None."""

    def read_size(size: Tree, where: str) -> int | None:
        if size.value == "auto":
            return AUTO
        if isinstance(size.value, str):
            raise fault(size, where, "an integer >= 1 or auto")
        return integer(1, 2**31)(size, where)

    axes = entries(read_size, IDENTIFIER)(tree, path)
    unknown = [axis for axis, size in axes.items() if size is AUTO]
    if len(unknown) > 1 and isinstance(tree.value, dict):
        raise ConfigError("at most one mesh axis may be auto", "", tree.value[unknown[1]].place)
    return axes


def split_reader(axes: Axes) -> Reader[Splits]:
    """Reads `{H: y, W: [x, z], N: {axes: t, sizes: [30, 11]}}` for a mesh with these axes."""
    axis = _axis_reader(axes)

    def read_axes(tree: Tree, path: str) -> tuple[str, ...]:
        if isinstance(tree.value, list):
            return items(axis, "a mesh axis or a list of them")(tree, path)
        return (axis(tree, path),)

    keys = {"axes": Key(read_axes), "sizes": Key(items(FROM_ZERO, "a list of sizes"))}

    def read_letter(tree: Tree, path: str) -> Split:
        if not isinstance(tree.value, dict):
            return Split(read_axes(tree, path))
        split = Split(**record(tree, path, keys))
        _check_sizes(split, axes, tree.value["sizes"], below(path, "sizes"))
        return split

    def read(tree: Tree, path: str) -> Splits:
        splits = entries(read_letter, LETTER)(tree, path)
        _check_axes_once(tree)
        return splits

    return read


def _axis_reader(axes: Axes) -> Reader[str]:
    def read(tree: Tree, path: str) -> str:
        if not isinstance(tree.value, str):
            raise fault(tree, path, "a mesh axis")
        if tree.value not in axes:
            hint = nearest(tree.value, axes) if axes else "the mesh has no axes"
            raise ConfigError(f"{path}: there is no mesh axis {quote(tree.value)}", hint, tree.place)
        return tree.value

    return read


def _check_axes_once(split: Tree) -> None:
    """Raises at the second use of an axis in one split."""
    used: dict[str, str] = {}
    for letter, tree in split.value.items() if isinstance(split.value, dict) else ():
        axes = tree.value["axes"] if isinstance(tree.value, dict) else tree
        for axis in axes.value if isinstance(axes.value, list) else [axes]:
            name = str(axis.value)
            if name in used:
                raise ConfigError(f"axis {name} cuts {used[name]} already", "an axis cuts one label", axis.place)
            used[name] = letter


def _check_sizes(split: Split, axes: Axes, tree: Tree, path: str) -> None:
    product = 1
    for axis in split.axes:
        size = axes[axis]
        if size is AUTO:
            return
        product *= size
    if split.sizes is not None and len(split.sizes) != product:
        what = f"{path} has {len(split.sizes)} sizes, but {' x '.join(split.axes)} has {product} ranks"
        raise ConfigError(what, "one size a share", tree.place)


def read_init(tree: Tree, path: str) -> Mapping[str, Mapping[str, float]]:
    """{kind: arguments} of an initialisation."""
    kind, values = variant(tree, path, _INITS)
    if kind == "uniform" and values["low"] >= values["high"]:
        raise ConfigError(f"{path}: low must be below high", f"{values['low']} and {values['high']}", tree.place)
    given = {name: value for name, value in values.items() if value is not None}
    return MappingProxyType({kind: MappingProxyType(given)})


def read_optimizer(tree: Tree, path: str) -> Sgd | Adam:
    """`{sgd: {rate}}` or `{adam: {rate}}`."""
    kind, values = variant(tree, path, _OPTIMIZERS)
    return Sgd(**values) if kind == "sgd" else Adam(**values)


_TRAIN = {
    "optimizer": Key(read_optimizer),
    "steps": Key(optional(COUNT), None),
    "epochs": Key(optional(COUNT), None),
    "shard": Key(boolean, False),
    "log_every": Key(FROM_ZERO, 10),
    "validate_every": Key(FROM_ZERO, 1),
    "checkpoint_every": Key(FROM_ZERO, 1),
    "keep": Key(COUNT, 2),
}


def read_train(tree: Tree, path: str) -> TrainConfig:
    """The section `train`."""
    train = TrainConfig(**record(tree, path, _TRAIN))
    if train.steps is not None and train.epochs is not None:
        raise ConfigError("train has both steps and epochs", "set one of them to null", tree.keys["epochs"])
    if train.steps is None and train.epochs is None:
        raise ConfigError("train needs steps or epochs", "such as epochs: 20", tree.place)
    return train


def _read_shares(tree: Tree, path: str) -> Shares:
    shares = Shares(**record(tree, path, _SHARES))
    total = shares.train + shares.validation + shares.test
    if abs(total - 1) > 1e-6:
        raise ConfigError(f"{path} must sum to 1, not {total:g}", "train + validation + test", tree.place)
    return shares


def data_reader(axes: Axes, file: str) -> Reader[DataConfig]:
    """Reads the section `data` of a config in `file`, to which the path of a data file is relative."""
    keys = {
        "source": Key(choice("synthetic", "digits", "npz")),
        "batch": Key(integer(1, 2**31)),
        "shape": Key(items(integer(1, 2**31), "a list of channels and 1 to 3 spatial extents", 2, 4), None),
        "classes": Key(integer(1, 2**31), None),
        "samples": Key(integer(1, MOST), None),
        "path": Key(text("the path of a file", r"[^\x00]+"), None),
        "scale": Key(POSITIVE, 1.0),
        "shares": Key(_read_shares, Shares()),
        "shuffle": Key(boolean, True),
        "read": Key(choice("rect", "same"), "rect"),
        "split": Key(split_reader(axes), None),
    }

    def read(tree: Tree, path: str) -> DataConfig:
        values = record(tree, path, keys)
        _check_source(tree, path, values)
        if values["path"] is not None:
            values["path"] = _absolute(tree, values["path"], file)
        return DataConfig(**values, place=tree.place)

    return read


def _check_source(tree: Tree, path: str, values: dict[str, Any]) -> None:
    """What goes with which source; fills in what the source knows."""
    source = values["source"]
    for key, owner in _OWN_KEYS.items():
        if values[key] is not None and source != owner:
            raise ConfigError(f"{path}.{key} does not go with source {source}", f"only with {owner}", tree.keys[key])
    needed = {"synthetic": ("shape", "classes"), "npz": ("path",), "digits": ()}[source]
    for key in needed:
        if values[key] is None:
            raise ConfigError(f"{path} needs the key {key}", f"with source {source}", tree.place)
    for key, known in _KNOWN_DATA.get(source, {}).items():
        if values[key] not in (None, known):
            hint = f"source {source} has {list(known) if isinstance(known, tuple) else known}"
            raise ConfigError(f"{path}.{key} does not fit the data", hint, tree.keys[key])
        values[key] = known
    if source == "synthetic" and values["samples"] is None:
        values["samples"] = 4 * values["batch"]


def _absolute(tree: Tree, path: str, file: str) -> str:
    """A path in the config file is relative to that file; one in an override, to the working directory."""
    given = tree.value["path"].place.file if isinstance(tree.value, dict) else file
    return os.path.abspath(os.path.join(os.path.dirname(file) if given == file else "", path))
