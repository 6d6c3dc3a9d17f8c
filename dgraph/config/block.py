"""Blocks written out: from the sections `blocks` and `layers` to a plain list of layers.

In: the tree of a config. Out: the same tree with every instance of a block replaced by its layers, and where each of them comes
from. Promise: names, inputs and `$` values are resolved by the text alone (no arithmetic, nothing evaluated); a layer that
no block, repetition or condition touches stays as it is; every value keeps its place; what can be written out is bounded.

A name means the layer of that name in the same template, else the layer outside of all blocks, else a tensor. What is left out
by `when` or `unless` is transparent: its name stands for its (first) input. An instance's name stands for its output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from dgraph.config.kind import KINDS
from dgraph.config.layer import read_name, takes
from dgraph.config.path import Override, item_name, override, reach
from dgraph.config.reader import Key, below, boolean, entries, fault, nearest, record
from dgraph.config.section import FROM_ZERO, IDENTIFIER
from dgraph.config.source import Tree, quote
from dgraph.config.template import Block, Scope, read_blocks
from dgraph.error import ConfigError, Place

MOST = 20_000
DEPTH = 20
INHERITED = ("split", "loss_split", "pieces", "init", "shard", "update_split")
CONTROLS = ("name", "when", "unless", "repeat")
INSTANCE = (*CONTROLS, "block", "each", "first", "last", "input", "inputs", *INHERITED)

Arguments = dict[str, tuple[Tree, Scope]]


def _as_it_is(tree: Tree, path: str) -> Tree:
    return tree


_KEYS = {key: Key(_as_it_is, None) for key in INSTANCE}
_OUTSIDE = Scope()


def expand_blocks(tree: Tree) -> tuple[Tree, Mapping[str, str]]:
    """A config without blocks.

    Returns
    -------
    tree : Tree
        Without the section `blocks`, all of `layers` written out.
    origins : mapping
        Layer -> the instance of a block that it comes from, in words, for layers that come from one.

    Raises
    ------
    ConfigError
        At the place in the template or the instance that is at fault; the hint names the instance.
    """
    sections = tree.value
    if not isinstance(sections, dict):
        return tree, {}
    blocks = read_blocks(sections["blocks"], "blocks") if "blocks" in sections else {}
    kept = {key: value for key, value in sections.items() if key != "blocks"}
    layers = sections.get("layers")
    expansion = _Expansion(blocks, layers.value if layers and isinstance(layers.value, list) else [])
    if layers and isinstance(layers.value, list):
        try:
            expansion.write_all(layers.value, expansion.outside, Tree("data", layers.place))
        except ConfigError as error:
            raise error.within(expansion.origin) from None
        if layers.value and not expansion.layers:
            raise ConfigError("no layer is left", "when, unless and repeat: 0 leave all of them out", layers.place)
        kept["layers"] = Tree(expansion.layers, layers.place)
    return Tree(kept, tree.place, tree.keys), MappingProxyType(expansion.origins)


def leads_inside(tree: Tree, steps: tuple[str, ...]) -> bool:
    """Whether a path leads to a layer that an instance of a block, or a repetition, in the tree stands for."""
    trees, rest = reach(tree, steps)
    if steps[0] != "layers" or len(trees) != 3 or not isinstance(trees[2].value, dict):
        return False
    entry = trees[2].value
    return bool(rest) and (rest[0].isdigit() or ("block" in entry and rest[0] not in INSTANCE))


def override_inside(tree: Tree, given: Override) -> Tree:
    """The tree without blocks, with an override that leads inside applied. Raises ConfigError where there is no such layer."""
    if len(reach(tree, given.steps)[0]) < 3:
        what = f"there is neither a layer nor a key of an instance at {'.'.join(given.steps)}"
        raise ConfigError(what, "dgraph show CONFIG --stage config lists all layers", given.place)
    return override(tree, given)


class _Expansion:
    """What has been written out so far: `layers` and where they come from; `outputs`, the layer or tensor that every full name
    stands for; `origin`, the instance at work."""

    def __init__(self, blocks: Mapping[str, Block], entries: Sequence[Tree]) -> None:
        self.blocks = blocks
        self.outside = Scope(frozenset(name for entry in entries if (name := item_name(entry))))
        self.layers: list[Tree] = []
        self.outputs: dict[str, str] = {}
        self.origins: dict[str, str] = {}
        self.origin = ""
        self._copies = 0
        self._last = "data"

    def write_all(self, entries: Sequence[Tree], scope: Scope, before: Tree) -> Tree:
        """Writes out a list of layers, the first of which reads `before`; what a next one would read."""
        for entry in entries:
            before = self._entry(entry, scope, before)
        return before

    def _entry(self, entry: Tree, scope: Scope, before: Tree) -> Tree:
        """Writes out the copies of one entry, one after another; what stands for it."""
        self.origin = scope.origin
        given = entry.value if isinstance(entry.value, dict) else {}
        if not scope.chain and item_name(entry) is None and "block" not in given:
            self.layers.append(entry)
            return before
        if "name" in given:
            name = scope.prefix + read_name(given["name"], f"layers.{scope.prefix}{given['name'].value}.name")
        elif scope.chain:
            name = scope.instance
        else:
            raise ConfigError("an instance of a block needs the key name", "", entry.place)
        if name in self.outputs:
            raise ConfigError(f"the name {name} is taken", "names are unique", given.get("name", entry).place)
        inputs = self._inputs(given, scope, name) or [before]
        count = _count(given, scope, f"layers.{name}")
        if count == 0 or not _wanted(given, scope, f"layers.{name}"):
            return self._define(name, inputs[0])
        for k in range(count or 1):
            copy = name if count is None else f"{name}.{k}"
            inputs = [self._copy(entry, copy, inputs, scope, (k, count or 1)), *inputs[1:]]
        return self._define(name, inputs[0])

    def _define(self, name: str, output: Tree) -> Tree:
        self.outputs[name] = str(output.value)
        return output

    def _copy(self, entry: Tree, name: str, inputs: list[Tree], scope: Scope, which: tuple[int, int]) -> Tree:
        """Writes out one copy under its full name; what stands for it. `which` of how many it is."""
        self.origin = scope.origin
        self._copies += 1
        if self._copies > MOST:
            raise ConfigError(f"more than {MOST} layers", "repeated too often", entry.place)
        given = entry.value if isinstance(entry.value, dict) else {}
        if "block" in given:
            return self._define(name, self._instance(entry, name, inputs, scope, which))
        return self._define(name, self._layer(entry, name, inputs, scope))

    def _layer(self, entry: Tree, name: str, inputs: list[Tree], scope: Scope) -> Tree:
        """Appends a layer with all its values."""
        given = entry.value if isinstance(entry.value, dict) else {}
        for key in ("each", "first", "last"):
            if key in given:
                raise ConfigError(f"layers.{name}.{key} does not go with a layer", "only with block", entry.keys[key])
        values = {"name": Tree(name, given.get("name", entry).place)}
        keys = {"name": entry.place, **entry.keys}
        for key, value in given.items():
            if key == "inputs":
                values[key] = Tree(inputs, value.place)
            elif key == "input":
                values[key] = inputs[0]
            elif key not in CONTROLS:
                values[key] = scope.substitute(value)
        if "input" not in given and "inputs" not in given and inputs[0].value != self._last:
            values["input"], keys["input"] = inputs[0], entry.place
        for key, (place, value) in scope.inherited.items():
            if key not in given and takes(entry, key):
                values[key], keys[key] = value, place
        self.layers.append(Tree(values, entry.place, MappingProxyType(keys)))
        self._last = name
        if scope.chain:
            self.origins[name] = scope.origin
        return Tree(name, entry.place)

    def _instance(self, entry: Tree, name: str, inputs: list[Tree], scope: Scope, which: tuple[int, int]) -> Tree:
        """Writes out the layers of a block; its output."""
        path = f"layers.{name}"
        _refuse_layer_keys(entry, path)
        given = record(entry, path, _KEYS)
        if given["input"] and given["inputs"]:
            raise ConfigError(f"{path} has both input and inputs", "one of them", given["input"].place)
        block, arguments = self._called(given["block"], scope)
        if block.name in scope.chain:
            chain = " -> ".join((*scope.chain, block.name))
            raise ConfigError(f"block {block.name} uses itself", chain, given["block"].place)
        if len(scope.chain) == DEPTH:
            raise ConfigError(
                f"blocks are nested more than {DEPTH} deep", "no network needs that", given["block"].place
            )
        said = f"layers.{scope.prefix}{given['name'].value}" if given["name"] else path
        arguments |= _varied(block, given, scope, which, said)
        inherited = {key: (entry.keys[key], scope.substitute(given[key])) for key in INHERITED if given[key]}
        inner = Scope(
            names=block.names,
            prefix=f"{name}.",
            arguments=_bound(block, arguments, given["block"].place) | _read(inputs, entry.place),
            inherited={**scope.inherited, **inherited},
            chain=(*scope.chain, block.name),
            place=entry.place,
        )
        last = self.write_all(block.layers, inner, inputs[0])
        return last if block.output is None else self._resolve(block.output, inner, name)[0]

    def _called(self, tree: Tree, scope: Scope) -> tuple[Block, Arguments]:
        """The block that `NAME` or `{NAME: {parameter: value}}` calls, and the values given."""
        tree, scope = scope.follow(tree)
        if isinstance(tree.value, dict) and len(tree.value) == 1:
            name, place = next(iter(tree.keys.items()))
        elif isinstance(tree.value, str):
            name, place = tree.value, tree.place
        else:
            raise fault(tree, "block", "the name of a block", "or a mapping from it to its parameters")
        if name not in self.blocks:
            hint = nearest(name, self.blocks) if self.blocks else "there is no section blocks"
            raise ConfigError(f"there is no block {quote(name)}", hint, place)
        block = self.blocks[name]
        return block, _given(block, tree.value[name], scope) if isinstance(tree.value, dict) else {}

    def _inputs(self, given: Mapping[str, Tree], scope: Scope, name: str) -> list[Tree]:
        """What an entry says that it reads, by full names; empty if it does not say."""
        key = "inputs" if "inputs" in given else "input"
        if key not in given:
            return []
        found = self._resolve(given[key], scope, name)
        if not found:
            raise fault(given[key], f"layers.{name}.{key}", "a list of layers")
        return found

    def _resolve(self, tree: Tree, scope: Scope, reader: str) -> list[Tree]:
        """The full names that a name, or a list of names, stands for."""
        place = tree.place
        tree, scope = scope.follow(tree)
        if isinstance(tree.value, list):
            return [found for item in tree.value for found in self._resolve(item, scope, reader)]
        if not isinstance(tree.value, str):
            return [tree]
        return [Tree(self._full_name(tree.value, scope, Tree(reader, place)), place)]

    def _full_name(self, name: str, scope: Scope, reader: Tree) -> str:
        """The layer or tensor that a name stands for: the longest part of it that names a layer decides."""
        steps = name.split(".")
        heads = [(".".join(steps[:k]), steps[k:]) for k in range(len(steps), 0, -1)]
        for where in (scope, self.outside):
            for head, rest in heads:
                target = self.outputs.get(where.prefix + head)
                if target is not None and (not rest or target == where.prefix + head):
                    return ".".join((target, *rest))
                if target is None and not rest and head in where.names:
                    what = f"layers.{reader.value} reads {name}"
                    raise ConfigError(what, "an input is an earlier layer", reader.place)
        return name


def _refuse_layer_keys(entry: Tree, path: str) -> None:
    """Raises at what an instance says as if it were a layer."""
    for key, place in entry.keys.items():
        if key in KINDS or key == "affine":
            raise ConfigError(f"{path} is both block and {key}", "a layer has one kind", place)
        if key in ("norm", "nonlinearity"):
            raise ConfigError(f"{path}.{key} does not go with block", "say it in a layer of the block", place)


def _wanted(given: Mapping[str, Tree], scope: Scope, path: str) -> bool:
    """Whether `when` and `unless` let an entry stand."""
    asked = {key: boolean(scope.follow(given[key])[0], below(path, key)) for key in ("when", "unless") if key in given}
    return asked.get("when", True) and not asked.get("unless", False)


def _count(given: Mapping[str, Tree], scope: Scope, path: str) -> int | None:
    """How many copies an entry stands for; None: one, under its own name."""
    if "repeat" in given:
        return FROM_ZERO(scope.follow(given["repeat"])[0], below(path, "repeat"))
    if "block" in given and "each" in given:
        each, where = scope.follow(given["each"])
        for tree in entries(_as_it_is, IDENTIFIER, 1)(each, below(path, "each")).values():
            values = where.follow(tree)[0].value
            if isinstance(values, list):
                return len(values)
    return None


def _given(block: Block, tree: Tree, scope: Scope) -> Arguments:
    """The values given for parameters of a block, each with the scope in which it was written; null gives none."""
    tree, scope = scope.follow(tree)
    if tree.value is None:
        return {}
    values = entries(_as_it_is, IDENTIFIER)(tree, f"the parameters of block {block.name}")
    for name in values:
        if name not in block.parameters:
            hint = nearest(name, block.parameters) if block.parameters else "it has none"
            raise ConfigError(f"block {block.name} has no parameter {quote(name)}", hint, tree.keys[name])
    return {name: (value, scope) for name, value in values.items()}


def _varied(block: Block, given: Mapping[str, Tree], scope: Scope, which: tuple[int, int], path: str) -> Arguments:
    """The values for one copy alone: its item of each list in `each`, and those of `first` and `last`."""
    k, count = which
    varied: Arguments = {}
    for name, (tree, where) in (_given(block, given["each"], scope) if given["each"] else {}).items():
        values, where = where.follow(tree)
        if not isinstance(values.value, list) or len(values.value) != count:
            wanted = f"a list of {count}" if isinstance(values.value, list) else "a list"
            raise fault(values, f"{path}.each.{name}", wanted, "one value a copy")
        varied[name] = (values.value[k], where)
    for key, there in (("first", k == 0), ("last", k == count - 1)):
        if given[key] and there:
            varied |= _given(block, given[key], scope)
    return varied


def _bound(block: Block, arguments: Arguments, place: Place) -> Arguments:
    """Every parameter with its value; what is null was not given."""
    bound: Arguments = {}
    for name, default in block.parameters.items():
        value, scope = arguments.get(name, (default, _OUTSIDE))
        value, scope = scope.follow(value)
        if value.value is None:
            value, scope = default, _OUTSIDE
        if value.value is None:
            raise ConfigError(f"block {block.name} needs the parameter {name}", "it has no default", place)
        bound[name] = (value, scope)
    return bound


def _read(inputs: list[Tree], place: Place) -> Arguments:
    """What the layers of an instance know its inputs by: `$input`, the first; `$inputs`, all; `$input0`, `$input1` ..."""
    numbered = {f"input{k}": (item, _OUTSIDE) for k, item in enumerate(inputs)}
    return {"input": (inputs[0], _OUTSIDE), "inputs": (Tree(inputs, place), _OUTSIDE), **numbered}
