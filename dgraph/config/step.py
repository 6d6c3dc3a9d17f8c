"""Readers of what is done to samples: the lists `prepare` and `augment` of the section `data`.

In: a tree. Out: kinds with their arguments. Promise: values are checked here; whether they fit the samples, where the data is
described.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dgraph.config.reader import Key, Keys, Reader, boolean, choice, items, number, optional, text, variant
from dgraph.config.schema import Choice
from dgraph.config.section import COUNT, FINITE, FROM_ZERO, POSITIVE
from dgraph.config.source import Tree
from dgraph.error import ConfigError

_PER = Key(choice("feature", "channel"), "feature")
PREPARE: Mapping[str, Keys] = {
    "standardize": {"per": _PER},
    "min_max": {"low": Key(FINITE, 0.0), "high": Key(FINITE, 1.0), "per": _PER},
    "pca": {"components": Key(COUNT), "whiten": Key(boolean, False)},
}
_AXES = text("letters of axes of space, such as W or HW", "D?H?W?(?<=.)")
_PROBABILITY = number("a number from 0 to 1", lambda value: 0 <= value <= 1)
_SPACE = ("D", "H", "W")
AUGMENT: Mapping[str, Keys] = {
    "flip": {"axis": Key(_AXES), "probability": Key(_PROBABILITY, 0.5)},
    "shift": dict.fromkeys(_SPACE, Key(optional(FROM_ZERO), None)),
    "crop": dict.fromkeys(_SPACE, Key(optional(COUNT), None)),
    "normalize": {
        "mean": Key(items(FINITE, "a list of numbers, one a channel")),
        "deviation": Key(items(POSITIVE, "a list of numbers > 0, one a channel")),
    },
}


def steps_reader(kinds: Mapping[str, Keys]) -> Reader[tuple[Choice, ...]]:
    """Reads a list of kinds, in the order in which they apply."""

    def read_step(tree: Tree, path: str) -> Choice:
        kind, values = variant(tree, path, kinds)
        given = {name: value for name, value in values.items() if value is not None}
        _check(kind, given, tree, path)
        return Choice(kind, MappingProxyType(given))

    return items(read_step, f"a list of steps, each one of {', '.join(kinds)}", 0)


def _check(kind: str, given: Mapping[str, Any], tree: Tree, path: str) -> None:
    if kind == "min_max" and given["low"] >= given["high"]:
        raise ConfigError(f"{path}: low must be below high", f"{given['low']} and {given['high']}", tree.place)
    if kind in ("shift", "crop") and not given:
        raise ConfigError(f"{path}.{kind} needs an axis", "such as W: 4", tree.place)
