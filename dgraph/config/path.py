"""Dotted paths into a tree, and the overrides that they make possible.

In: paths such as `layers.L0.split.H`, overrides such as `mesh={y: 1, x: 3}`. Out: places; a new tree with one value
replaced. Promise: trees are never changed in place (aliases share them); every fault is a ConfigError that names the
override.

A step of a path is a key (which may itself hold dots: the longest key that is there wins), the number of a list item,
or the `name` of one. Quotes keep a step with dots whole: `parameters."L0.W".init=he`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from types import MappingProxyType

from dgraph.config.source import Tree, parse, quote, show
from dgraph.error import ConfigError, Place

_STEP = re.compile(r"\"([^\"]*)\"(?:\.|$)|([^.\"]+)(?:\.|$)")
LENGTH = 200


def split_path(path: str) -> tuple[str, ...]:
    """The steps of a dotted path. Raises ConfigError (without a place) for an empty or unclosed one."""
    steps: list[str] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            break
        steps.append(match[1] if match[1] is not None else match[2])
        position = match.end()
    if not steps or position < len(path) or path.endswith(".") or len(path) > LENGTH or not path.isprintable():
        raise ConfigError(f"{quote(path)} is not a dotted path", "such as train.steps or layers.L0.split")
    return tuple(steps)


def find(tree: Tree, path: str) -> tuple[Place, Place]:
    """Where the key and the value at `path` stand, or the nearest that is there (of a list item both are the same)."""
    steps = split_path(path)
    place = tree.place
    while steps and (found := _descend(tree, steps)):
        key, steps = found
        place = tree.keys[key] if isinstance(key, str) else _child(tree, key).place
        tree = _child(tree, key)
    return place, tree.place


@dataclass(frozen=True)
class Override:
    """A value to be put at the steps of a path; `place` stands for where it was given."""

    steps: tuple[str, ...]
    value: Tree
    place: Place


def read_override(text: str) -> Override:
    """The override `path=value`, the value in YAML (flow style), as in a file. Raises ConfigError."""
    path, equals, value = text.partition("=")
    here = Place(f"--set {path if path.isprintable() else quote(path)}"[:LENGTH], 1, 1)
    if not equals:
        raise ConfigError("an override reads key.path=value", "such as --set train.steps=3", here)
    try:
        return Override(split_path(path), parse(value, here.file), here)
    except ConfigError as error:
        raise error.at(here) from None


def override(tree: Tree, given: Override) -> Tree:
    """The tree with one override applied.

    Keys that are not there are made (and validated later); list items must be there. Raises ConfigError.
    """
    try:
        return _put(tree, given.steps, given.value, given.place)
    except ConfigError as error:
        raise error.at(given.place) from None


def reach(tree: Tree, steps: tuple[str, ...]) -> tuple[list[Tree], tuple[str, ...]]:
    """The trees along a path as far as it is there, and the steps that are left."""
    trees = [tree]
    while steps and (found := _descend(trees[-1], steps)):
        key, steps = found
        trees.append(_child(trees[-1], key))
    return trees, steps


def _put(tree: Tree, steps: tuple[str, ...], value: Tree, here: Place) -> Tree:
    """`tree` with `value` at `steps`: down along the path, and up again with new trees."""
    above: list[tuple[Tree, str | int]] = []
    while steps:
        found = _descend(tree, steps)
        key, rest = found if found else (_new_key(tree, steps), steps[1:])
        above.append((tree, key))
        tree = _child(tree, key) if found else Tree({}, here)
        steps = rest
    for parent, key in reversed(above):
        value = _replace(parent, key, value, here)
    return value


def _descend(tree: Tree, steps: tuple[str, ...]) -> tuple[str | int, tuple[str, ...]] | None:
    """The child that the first of `steps` name, and the steps left; None if there is no such child."""
    for length in range(len(steps), 0, -1):
        name = ".".join(steps[:length])
        if isinstance(tree.value, dict) and name in tree.value:
            return name, steps[length:]
        if isinstance(tree.value, list) and (index := _index(tree.value, name)) is not None:
            return index, steps[length:]
    return None


def _index(items: list[Tree], step: str) -> int | None:
    for k, item in enumerate(items):
        if item_name(item) == step:
            return k
    number = int(step) if step.isascii() and step.isdigit() and len(step) < 10 else len(items)
    return number if number < len(items) else None


def item_name(item: Tree) -> str | None:
    """What a list item is called in paths, if it is a mapping with a `name`."""
    name = item.value.get("name") if isinstance(item.value, dict) else None
    return name.value if name and isinstance(name.value, str) else None


def _new_key(tree: Tree, steps: tuple[str, ...]) -> str:
    if isinstance(tree.value, dict):
        return steps[0]
    if isinstance(tree.value, list):
        hint = f"there are {len(tree.value)}, counted from 0; or use a name"
        raise ConfigError(f"there is no list item {quote(steps[0])}", hint)
    raise ConfigError(f"no key {quote(steps[0])} can be set in {show(tree)}", "it is not a mapping")


def _child(tree: Tree, key: str | int) -> Tree:
    if isinstance(tree.value, dict) and isinstance(key, str):
        return tree.value[key]
    if isinstance(tree.value, list) and isinstance(key, int):
        return tree.value[key]
    raise TypeError("a key of another kind of tree")


def _replace(tree: Tree, key: str | int, value: Tree, here: Place) -> Tree:
    if isinstance(tree.value, list) and isinstance(key, int):
        return replace(tree, value=[*tree.value[:key], value, *tree.value[key + 1 :]])
    if isinstance(tree.value, dict) and isinstance(key, str):
        keys = MappingProxyType({**tree.keys, key: here})
        return replace(tree, value={**tree.value, key: value}, keys=keys)
    raise TypeError("a key of another kind of tree")
