"""Reader of the section `tune`.

In: a tree. Out: `TuneConfig`. Promise: whatever can be known without the network is checked here, at its place; whether a path and
its values fit the rest of the config, the search finds out before its first trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dgraph.config.path import split_path
from dgraph.config.reader import (
    Key,
    Reader,
    below,
    choice,
    entries,
    fault,
    integer,
    items,
    literal,
    nearest,
    number,
    optional,
    record,
    text,
)
from dgraph.config.schema import LARGEST, MEASURES, Choice, TuneConfig
from dgraph.config.section import COUNT, FINITE, FROM_ZERO, POSITIVE
from dgraph.config.source import Tree, quote
from dgraph.error import ConfigError

WHOLE = integer(-(2**53), 2**53)
RANGES: Mapping[str, Reader[Any]] = {
    "uniform": FINITE,
    "log_uniform": POSITIVE,
    "integer": WHOLE,
    "log_integer": COUNT,
}
"""Kinds of ranges, and what reads their two ends."""
SUBSETS = ("train", "validation", "test")
_NARROW = number("a number > 0 and <= 1", lambda value: 0 < value <= 1)
_VALUES = items(literal, "a list of values")


def _read_range(tree: Tree, path: str) -> Choice:
    """`{choice: [...]}`, or a range `{log_uniform: [low, high]}`."""
    kinds = ("choice", *RANGES)
    if not isinstance(tree.value, dict) or len(tree.value) != 1:
        raise fault(tree, path, f"one of {', '.join(kinds)}", "such as {uniform: [0, 1]} or {choice: [32, 64]}")
    ((kind, body),) = tree.value.items()
    if kind not in kinds:
        raise ConfigError(f"{path} cannot be {quote(kind)}", nearest(kind, kinds), tree.keys[kind])
    where = below(path, kind)
    if kind == "choice":
        return Choice(kind, MappingProxyType({"values": _VALUES(body, where)}))
    ends = items(RANGES[kind], "[low, high]", 2, 2)(body, where)
    if ends[0] >= ends[1]:
        raise ConfigError(f"{where}: low must be below high", f"{ends[0]:g} and {ends[1]:g}", body.place)
    return Choice(kind, MappingProxyType({"values": ends}))


def _by_path(read: Reader[Any]) -> Reader[Mapping[str, Any]]:
    """Reads a mapping whose keys are dotted paths."""

    def read_all(tree: Tree, path: str) -> Mapping[str, Any]:
        values = entries(read, least=1)(tree, path)
        for key in values:
            try:
                first, *_ = split_path(key)
            except ConfigError as error:
                raise error.at(tree.keys[key]) from None
            if first in ("tune", "mesh", "seed"):
                hint = {"seed": "seeds: 5 repeats every trial", "mesh": "ranks are given by -n"}.get(first, "")
                raise ConfigError(f"{path}: {first} cannot be tried", hint, tree.keys[key])
        return values

    return read_all


_TUNE = {
    "keys": Key(_by_path(_read_range), MappingProxyType({})),
    "cases": Key(entries(_by_path(literal), least=1), MappingProxyType({})),
    "grid": Key(_by_path(_VALUES), MappingProxyType({})),
    "trials": Key(optional(COUNT), None),
    "rounds": Key(COUNT, 1),
    "narrow": Key(_NARROW, 0.5),
    "seeds": Key(COUNT, 1),
    "metric": Key(text("a subset and a figure, such as validation.loss", r"\w+\.\w+"), "validation.loss"),
    "mode": Key(optional(choice("min", "max")), None),
    "seed": Key(FROM_ZERO, 0),
}


def read_tune(tree: Tree, path: str) -> TuneConfig:
    """The section `tune`."""
    values = record(tree, path, _TUNE)
    subset, _, figure = values["metric"].partition(".")
    for word, known in ((subset, SUBSETS), (figure, MEASURES)):
        if word not in known:
            what = f"{below(path, 'metric')} cannot be {quote(values['metric'])}"
            raise ConfigError(what, nearest(word, known), tree.keys["metric"])
    values["mode"] = values["mode"] or ("max" if figure in LARGEST else "min")
    tune = TuneConfig(**values)
    if bool(tune.keys) == bool(tune.cases or tune.grid):
        hint = "keys are drawn at random; cases and grid are the rows of a table"
        raise ConfigError(f"{path} needs either keys, or cases, grid or both", hint, tree.place)
    if tune.keys and tune.trials is None:
        raise ConfigError(f"{path} needs the key trials", "how many random ones", tree.place)
    for key in ("trials", "rounds", "narrow"):
        if not tune.keys and key in tree.keys and getattr(tune, key) not in (None, 1):
            raise ConfigError(f"{path}.{key} goes with keys", "every row of a table is tried", tree.keys[key])
    if tune.trials is not None and tune.rounds > tune.trials:
        raise ConfigError(f"{path} has more rounds than trials", "each round has one at least", tree.keys["rounds"])
    return tune
