"""Reader of the section `data`.

In: a tree. Out: `DataConfig`. Promise: whatever can be known without opening the data is checked here, at its place: which
keys go with which source, and which it needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dgraph.config.reader import (
    MOST,
    Key,
    Reader,
    boolean,
    choice,
    integer,
    items,
    number,
    optional,
    record,
    text,
)
from dgraph.config.schema import Cell, DataConfig, Shares
from dgraph.config.section import FINITE, POSITIVE, Axes, split_reader
from dgraph.config.source import Tree
from dgraph.error import ConfigError

SHARE = number("a number from 0 to 1", lambda value: 0 <= value <= 1)
EXTENT = integer(1, 2**31)
_SHARES = {"train": Key(SHARE), "validation": Key(SHARE, 0.0), "test": Key(SHARE, 0.0)}
_KNOWN: Mapping[str, Mapping[str, Any]] = {
    "digits": {"shape": (1, 8, 8), "classes": 10},
    "ring": {"shape": (2,), "classes": 2},
}
_OWNERS = {
    "samples": ("synthetic", "ring"),
    "path": ("npz",),
    "rows": ("table",),
    "labels": ("table",),
    "repeat": ("table",),
}
_NEEDED = {"synthetic": ("shape",), "npz": ("path",), "table": ("rows", "labels")}


def _read_shares(tree: Tree, path: str) -> Shares:
    shares = Shares(**record(tree, path, _SHARES))
    total = shares.train + shares.validation + shares.test
    if abs(total - 1) > 1e-6:
        raise ConfigError(f"{path} must sum to 1, not {total:g}", "train + validation + test", tree.place)
    return shares


def _read_cell(tree: Tree, path: str) -> int | float:
    """Reads a finite number; 1 stays an integer, 1.0 does not become one."""
    FINITE(tree, path)
    value: int | float = tree.value  # type: ignore[assignment]
    return value


def _read_label(tree: Tree, path: str) -> Cell:
    if isinstance(tree.value, list):
        return items(_read_cell, "a number or a list of numbers")(tree, path)
    return _read_cell(tree, path)


def data_reader(axes: Axes, file: str) -> Reader[DataConfig]:
    """Reads the section `data` of a config in `file`, to which the path of a data file is relative."""
    keys = {
        "source": Key(choice("synthetic", "digits", "npz", "table", "ring")),
        "batch": Key(EXTENT),
        "shape": Key(optional(items(EXTENT, "a list of channels and 0 to 3 spatial extents", 1, 4)), None),
        "label_shape": Key(optional(items(EXTENT, "a list of 1 to 4 extents", 1, 4)), None),
        "classes": Key(optional(EXTENT), None),
        "samples": Key(optional(integer(1, MOST)), None),
        "path": Key(optional(text("the path of a file", r"[^\x00]+")), None),
        "rows": Key(optional(items(items(FINITE, "a list of numbers"), "a list of rows")), None),
        "labels": Key(optional(items(_read_label, "a list of labels")), None),
        "repeat": Key(optional(EXTENT), None),
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
    for key, owners in _OWNERS.items():
        if values[key] is not None and source not in owners:
            hint = f"only with {' and '.join(owners)}"
            raise ConfigError(f"{path}.{key} does not go with source {source}", hint, tree.keys[key])
    for key in _NEEDED.get(source, ()):
        if values[key] is None:
            raise ConfigError(f"{path} needs the key {key}", f"with source {source}", tree.place)
    if source == "synthetic" and values["classes"] is None and values["label_shape"] is None:
        hint = "classes for class numbers, label_shape for real targets, both for class numbers at every place"
        raise ConfigError(f"{path} needs the key classes or label_shape", hint, tree.place)
    for key, known in _KNOWN.get(source, {}).items():
        if values[key] not in (None, known):
            hint = f"source {source} has {list(known) if isinstance(known, tuple) else known}"
            raise ConfigError(f"{path}.{key} does not fit the data", hint, tree.keys[key])
        values[key] = known
    if source == "table" and values["shape"] is None:
        values["shape"] = (len(values["rows"][0]),)
    if source in _OWNERS["samples"] and values["samples"] is None:
        values["samples"] = 4 * values["batch"]


def _absolute(tree: Tree, path: str, file: str) -> str:
    """A path in the config file is relative to that file; one in an override, to the working directory."""
    given = tree.value["path"].place.file if isinstance(tree.value, dict) else file
    return os.path.abspath(os.path.join(os.path.dirname(file) if given == file else "", path))
