"""Blocks: named templates of layers, and the scopes in which their instances are written out.

In: the tree of the section `blocks`. Out: `Block`, and `Scope`, which knows what every `$name` stands for. Promise: a
template whose parameters do not match what its layers use is refused where it stands, used or not; values keep the
places where they were written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dgraph.config.layer import read_name
from dgraph.config.path import item_name
from dgraph.config.reader import Key, below, choice, entries, fault, items, nearest, record
from dgraph.config.section import IDENTIFIER, NAME
from dgraph.config.source import COUNT, Tree, quote
from dgraph.error import ConfigError, Place
from dgraph.graph.node import EMPTY

_INPUT = re.compile(r"inputs|input[0-9]*")


@dataclass(frozen=True)
class Block:
    """A template. `parameters` are the defaults (null: must be given), `output` the layer that gives its result (None: the
    last)."""

    name: str
    parameters: Mapping[str, Tree]
    layers: tuple[Tree, ...]
    output: Tree | None

    @property
    def names(self) -> frozenset[str]:
        """What its layers are called inside."""
        return frozenset(name for layer in self.layers if (name := item_name(layer)))


@dataclass(frozen=True)
class Scope:
    """Where a template is written out: the prefix of its names, what `$name` stands for and where that was written.

    `names` are the layers inside; `chain` the blocks around, from the outermost; `inherited` what layers inside take where
    they do not say, with the places of the keys; `instance` and `place` the use of the block. The scope of the section `layers`
    has no prefix and no parameters.
    """

    names: frozenset[str] = frozenset()
    prefix: str = ""
    arguments: Mapping[str, tuple[Tree, Scope]] = field(default_factory=lambda: EMPTY)
    inherited: Mapping[str, tuple[Place, Tree]] = field(default_factory=lambda: EMPTY)
    chain: tuple[str, ...] = ()
    place: Place | None = None

    @property
    def instance(self) -> str:
        """The name of the instance that is written out."""
        return self.prefix.removesuffix(".")

    @property
    def origin(self) -> str:
        """The instance as hints show it; nothing outside of all blocks."""
        where = f", line {self.place.line}" if self.place else ""
        return f"in block {self.chain[-1]}, used as {self.instance}{where}" if self.chain else ""

    def follow(self, tree: Tree) -> tuple[Tree, Scope]:
        """What a value stands for if it is `$name`, however often it was passed on, and the scope in which it was written."""
        scope = self
        while (name := variable(tree)) is not None:
            if name not in scope.arguments:
                raise _unknown(tree, scope.arguments, scope.chain[-1] if scope.chain else "")
            tree, scope = scope.arguments[name]
        return tree, scope

    def substitute(self, tree: Tree) -> Tree:
        """The tree with every `$name` in it written out; the very tree if there is none."""
        tree, scope = self.follow(tree)
        if isinstance(tree.value, list):
            values = [scope.substitute(item) for item in tree.value]
            changed = any(new is not old for new, old in zip(values, tree.value, strict=True))
            return _counted(Tree(values, tree.place), values) if changed else tree
        if isinstance(tree.value, dict):
            named = {key: scope.substitute(item) for key, item in tree.value.items()}
            changed = any(named[key] is not item for key, item in tree.value.items())
            return _counted(Tree(named, tree.place, tree.keys), [*named.values()]) if changed else tree
        return tree


def variable(tree: Tree) -> str | None:
    """The name behind the `$` of a scalar; None for any other value."""
    return tree.value[1:] if isinstance(tree.value, str) and tree.value.startswith("$") else None


def _as_it_is(tree: Tree, path: str) -> Tree:
    return tree


def read_blocks(tree: Tree, path: str) -> Mapping[str, Block]:
    """The section `blocks`: name -> template."""
    names = entries(_as_it_is, NAME)(tree, path)
    return {name: _read_block(name, item, below(path, name)) for name, item in names.items()}


def _read_layers(tree: Tree, path: str) -> tuple[Tree, ...]:
    layers = items(_as_it_is, "a list of layers")(tree, path)
    for k, layer in enumerate(layers):
        if not isinstance(layer.value, dict):
            raise fault(layer, below(path, k), "a layer", "a mapping with a name")
        if "name" in layer.value:
            read_name(layer.value["name"], f"{path}.{k}.name")
        elif len(layers) > 1:
            raise ConfigError(f"{path}.{k} needs a name", "only the one layer of a block may do without", layer.place)
    return layers


_BLOCK = {
    "parameters": Key(entries(_as_it_is, IDENTIFIER), EMPTY),
    "layers": Key(_read_layers),
    "output": Key(_as_it_is, None),
}


def _read_block(name: str, tree: Tree, path: str) -> Block:
    block = Block(name, **record(tree, path, _BLOCK))
    if block.output is not None:
        choice(*sorted(block.names))(block.output, below(path, "output"))
    keys = tree.value["parameters"].keys if isinstance(tree.value, dict) and block.parameters else {}
    used = set()
    for value in _variables(block.layers):
        used.add(parameter := str(variable(value)))
        if parameter not in block.parameters and not _INPUT.fullmatch(parameter):
            raise _unknown(value, block.parameters, name)
    for parameter, place in keys.items():
        if _INPUT.fullmatch(parameter):
            raise ConfigError(f"{path} cannot have a parameter {parameter}", f"${parameter} is what it reads", place)
        if parameter not in used:
            raise ConfigError(f"{path} does not use its parameter {parameter}", f"write ${parameter} in a layer", place)
    return block


def _variables(trees: tuple[Tree, ...]) -> Iterator[Tree]:
    """All scalars `$name` in some trees, in order."""
    stack = [*reversed(trees)]
    while stack:
        tree = stack.pop()
        if isinstance(tree.value, (list, dict)):
            stack += reversed(tree.value if isinstance(tree.value, list) else tree.value.values())
        elif variable(tree) is not None:
            yield tree


def _unknown(tree: Tree, known: Mapping[str, object], block: str) -> ConfigError:
    what = f"there is no parameter {quote(str(tree.value))}" + (f" in block {block}" if block else "")
    hint = nearest(str(variable(tree)), known) if known else "it has none" if block else "only blocks have parameters"
    return ConfigError(what, hint, tree.place)


def _counted(tree: Tree, parts: list[Tree]) -> Tree:
    """The tree with its number of values. Raises ConfigError where parameters within parameters make too many."""
    count = 1 + sum(part.count for part in parts)
    if count > COUNT:
        raise ConfigError(f"more than {COUNT} values", "parameters are counted as often as they are used", tree.place)
    return Tree(tree.value, tree.place, tree.keys, count, tree.depth)
