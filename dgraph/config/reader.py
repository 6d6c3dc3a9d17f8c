"""Readers: from a tree to a checked value.

In: a `Tree` and its path. Out: plain and frozen values. Promise: strict (`"3"`, `1.0` and `true` are not integers; an
integer is accepted as a number); unknown keys are refused; every fault is a ConfigError with the place and path of the value.
A reader is a function of tree and path; the functions here make readers, so that a schema is a table of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from dgraph.config.path import item_name
from dgraph.config.source import Tree, quote, show
from dgraph.config.word import ELSEWHERE, plain
from dgraph.error import ConfigError

T = TypeVar("T")
Reader = Callable[[Tree, str], T]
REQUIRED = object()
MOST = 2**62


@dataclass(frozen=True)
class Key:
    """One key of a record: how its value is read, and what it is when left out (`REQUIRED`: it must be there)."""

    read: Reader[Any]
    default: Any = REQUIRED


Keys = Mapping[str, Key]


def fault(tree: Tree, path: str, wanted: str, hint: str = "") -> ConfigError:
    """The error of a value that is not what is wanted."""
    return ConfigError(f"{path} must be {wanted}, not {show(tree)}", hint, tree.place)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint: which of the known words may have been meant."""
    words = tuple(known)
    close = [here for here in ELSEWHERE.get(plain(word), ()) if here in words]
    close = close or difflib.get_close_matches(word, words, 1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(words)}"


def below(path: str, key: str | int) -> str:
    """The path of a child."""
    return f"{path}.{key}" if path else str(key)


def integer(least: int, most: int = MOST) -> Reader[int]:
    """Reads an integer from `least` to `most`."""

    def read(tree: Tree, path: str) -> int:
        value = tree.value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise fault(tree, path, f"an integer >= {least}" + (f" and <= {most}" if most < MOST else ""))
        return value

    return read


def number(wanted: str, accept: Callable[[float], bool] = lambda value: True) -> Reader[float]:
    """Reads a finite number that `accept` takes; `wanted` says which those are."""

    def read(tree: Tree, path: str) -> float:
        value = tree.value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not accept(value):
            raise fault(tree, path, wanted)
        return float(value)

    return read


def boolean(tree: Tree, path: str) -> bool:
    """Reads true or false."""
    if not isinstance(tree.value, bool):
        raise fault(tree, path, "true or false")
    return tree.value


def text(wanted: str, pattern: str = r".+") -> Reader[str]:
    """Reads a string that matches all of `pattern`; `wanted` says what it is."""
    compiled = re.compile(pattern)

    def read(tree: Tree, path: str) -> str:
        if not isinstance(tree.value, str) or not compiled.fullmatch(tree.value):
            raise fault(tree, path, wanted)
        return tree.value

    return read


def choice(*words: str) -> Reader[str]:
    """Reads one of some words."""

    def read(tree: Tree, path: str) -> str:
        if not isinstance(tree.value, str):
            raise fault(tree, path, f"one of {', '.join(words)}")
        if tree.value not in words:
            raise ConfigError(f"{path} cannot be {quote(tree.value)}", nearest(tree.value, words), tree.place)
        return tree.value

    return read


def optional(read: Reader[T]) -> Reader[T | None]:
    """Reads null as None: as if the key were not there."""
    return lambda tree, path: None if tree.value is None else read(tree, path)


def items(read: Reader[T], wanted: str, least: int = 1, most: int = MOST) -> Reader[tuple[T, ...]]:
    """Reads a list of `least` to `most` items."""

    def read_items(tree: Tree, path: str) -> tuple[T, ...]:
        if not isinstance(tree.value, list) or not least <= len(tree.value) <= most:
            raise fault(tree, path, wanted)
        return tuple(read(item, below(path, item_name(item) or k)) for k, item in enumerate(tree.value))

    return read_items


def entries(read: Reader[T], key: str = r".+", least: int = 0) -> Reader[Mapping[str, T]]:
    """Reads a mapping from free keys (that match the pattern `key`) to values of one kind."""
    compiled = re.compile(key)

    def read_entries(tree: Tree, path: str) -> Mapping[str, T]:
        if not isinstance(tree.value, dict) or len(tree.value) < least:
            raise fault(tree, path, "a mapping" + (" that is not empty" if least else ""))
        for name in tree.value:
            if not compiled.fullmatch(name):
                raise ConfigError(f"{path} has a key {quote(name)}", f"a key looks like {key}", tree.keys[name])
        return MappingProxyType({name: read(value, below(path, name)) for name, value in tree.value.items()})

    return read_entries


def record(tree: Tree, path: str, keys: Keys, elsewhere: Iterable[str] = ()) -> dict[str, Any]:
    """The values of a mapping with known keys, defaults filled in.

    Unknown keys are reported first, for they explain other faults; then the first fault in the order of the file. `elsewhere` are
    keys that may have been meant, but are dealt with elsewhere.
    """
    if not isinstance(tree.value, dict):
        raise fault(tree, path or "a config", f"a mapping of {', '.join(keys)}" if keys else "an empty mapping")
    for name in tree.value:
        if name not in keys:
            where = f" in {path}" if path else ""
            hint = nearest(name, (*keys, *elsewhere)) if keys else "it has no keys"
            raise ConfigError(f"unknown key {quote(name)}{where}", hint, tree.keys[name])
    values = {name: key.default for name, key in keys.items()}
    for name, value in tree.value.items():
        values[name] = keys[name].read(value, below(path, name))
    for name, value in values.items():
        if value is REQUIRED:
            raise ConfigError(f"{path or 'the config'} needs the key {name}", "it has no default", tree.place)
    return values


def variant(tree: Tree, path: str, kinds: Mapping[str, Keys]) -> tuple[str, dict[str, Any]]:
    """One of several kinds, written as its name or as a mapping with one key: `he`, `{he: {gain: 2}}`."""
    if isinstance(tree.value, str):
        name, body = tree.value, Tree({}, tree.place)
        where = tree.place
    elif isinstance(tree.value, dict) and len(tree.value) == 1:
        name, body = next(iter(tree.value.items()))
        where = tree.keys[name]
    else:
        more = f", not of {' and '.join(tree.value)}" if isinstance(tree.value, dict) and tree.value else ""
        raise fault(tree, path, f"one of {', '.join(kinds)}", f"a name, or a mapping with one key{more}")
    if name not in kinds:
        raise ConfigError(f"{path} cannot be {quote(name)}", nearest(name, kinds), where)
    return name, record(body, below(path, name), kinds[name])


def literal(tree: Tree, path: str) -> Any:
    """A value as it is, lists as tuples, mappings frozen."""
    if isinstance(tree.value, dict):
        return MappingProxyType({name: literal(item, below(path, name)) for name, item in tree.value.items()})
    if isinstance(tree.value, list):
        return tuple(literal(item, below(path, k)) for k, item in enumerate(tree.value))
    return tree.value
