"""YAML text to a tree of values that know where they stand.

In: the text of one YAML document. Out: `Tree`, every value, key and list item with its line and column. Promise: built
from parser events with a stack of its own, so neither deep nesting nor aliases can exhaust anything; scalars follow the
YAML 1.2 core rules (`1e-3` is a number; `yes`, `on` and `1_000` are strings); every fault is one `ConfigError`.
"""

from __future__ import annotations

import math
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import yaml

from dgraph.error import ConfigError, Place

Scalar = None | bool | int | float | str

DEPTH = 50
COUNT = 200_000
DIGITS = 40

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TOO_DEEP = "maximum nesting depth"
_NO_KEYS: Mapping[str, Place] = MappingProxyType({})
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BASES = {"0o": 8, "0x": 16}
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True, slots=True)
class Tree:
    """A YAML value: a scalar, a list or a mapping of trees; `keys` says where each key of a mapping stands.

    `count` and `depth` are those of the value with all its aliases written out.
    """

    value: Scalar | list[Tree] | dict[str, Tree]
    place: Place
    keys: Mapping[str, Place] = field(default_factory=lambda: _NO_KEYS)
    count: int = 1
    depth: int = 1


@dataclass(slots=True)
class _Frame:
    """A list or mapping whose end has not come yet."""

    place: Place
    anchor: str | None
    value: list[Tree] | dict[str, Tree]
    keys: dict[str, Place] = field(default_factory=dict)
    key: str | None = None
    count: int = 1
    depth: int = 1

    @property
    def wants_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None

    def add_key(self, tree: Tree) -> None:
        key = tree.value
        if not isinstance(key, str):
            raise ConfigError(f"a key must be a string, not {show(tree)}", "quote it", tree.place)
        if key in self.keys:
            first = f"first in line {self.keys[key].line}"
            raise ConfigError(f"key {quote(key)} is given twice", first, tree.place)
        self.key, self.keys[key] = key, tree.place

    def add_value(self, tree: Tree) -> None:
        if isinstance(self.value, list):
            self.value.append(tree)
        elif self.key is not None:
            self.value[self.key], self.key = tree, None
        self.count += tree.count
        self.depth = max(self.depth, tree.depth + 1)


class _Builder:
    """Takes parser events one by one; `root` is the tree after the last."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Tree | None = None
        self.stack: list[_Frame] = []
        self.anchors: dict[str, Tree] = {}

    def take(self, event: yaml.Event) -> None:
        place = _place(self.file, event.start_mark)
        match event:
            case yaml.DocumentStartEvent() if self.root is not None:
                raise ConfigError("a second document starts here", "one file holds one config", place)
            case yaml.ScalarEvent():
                _refuse_tag(event.tag, place)
                value = _scalar(event.value, place) if event.implicit[0] else event.value
                self._add(Tree(value, place), event.anchor, place)
            case yaml.AliasEvent():
                self._add(self._alias(event.anchor or "", place), None, place)
            case yaml.SequenceStartEvent():
                self._open(event.tag, _Frame(place, event.anchor, []))
            case yaml.MappingStartEvent():
                self._open(event.tag, _Frame(place, event.anchor, {}))
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                frame = self.stack.pop()
                tree = Tree(frame.value, frame.place, MappingProxyType(frame.keys), frame.count, frame.depth)
                self._add(tree, frame.anchor, place)

    def _open(self, tag: str | None, frame: _Frame) -> None:
        _refuse_tag(tag, frame.place)
        if self.stack and self.stack[-1].wants_key:
            raise ConfigError("a key must be a string, not a list or a mapping", "quote it", frame.place)
        if len(self.stack) >= DEPTH:
            raise ConfigError(f"values are nested more than {DEPTH} deep", "no config needs that", frame.place)
        self.stack.append(frame)

    def _add(self, tree: Tree, anchor: str | None, place: Place) -> None:
        if anchor is not None:
            self.anchors[anchor] = tree
        if not self.stack:
            self.root = tree
            return
        frame = self.stack[-1]
        if frame.wants_key:
            frame.add_key(tree)
            return
        frame.add_value(tree)
        if len(self.stack) + tree.depth > DEPTH + 1:
            raise ConfigError(f"values are nested more than {DEPTH} deep", "through aliases", place)
        if sum(f.count for f in self.stack) > COUNT:
            raise ConfigError(f"more than {COUNT} values", "aliases are counted as often as they are used", place)

    def _alias(self, name: str, place: Place) -> Tree:
        if any(frame.anchor == name for frame in self.stack):
            raise ConfigError(f"alias *{name} stands inside the value that it refers to", "", place)
        if name not in self.anchors:
            raise ConfigError(f"alias *{name} has no anchor", f"no &{name} before it", place)
        return self.anchors[name]


def parse(text: str, file: str) -> Tree:
    """The tree of a YAML document. `file` is the name that places carry.

    Raises ConfigError at the first fault: syntax, characters, tags, duplicate keys, depth, size, several documents.
    """
    bad = _UNPRINTABLE.search(text)
    if bad:
        place = _at(file, text[: bad.start()])
        raise ConfigError(f"character U+{ord(bad[0]):04X} is not allowed", "not a text file?", place)
    try:
        root = _build(text, file, _LOADER)
    except yaml.MarkedYAMLError as error:
        if _TOO_DEEP not in str(error.problem):
            raise _syntax_error(error, text, file) from None
        # The C parser has a bound of its own, which it meets while it looks ahead; this one has none.
        root = _build(text, file, yaml.SafeLoader)
    if root is None:
        raise ConfigError("there is nothing here", "an empty document", Place(file, 1, 1))
    return root


def _build(text: str, file: str, loader: Any) -> Tree | None:
    builder = _Builder(file)
    for event in yaml.parse(text, Loader=loader):
        builder.take(event)
    return builder.root


def decode(content: bytes, file: str) -> str:
    """The text of UTF-8 bytes (with or without a byte order mark). Raises ConfigError at the first byte that is not."""
    content = content.removeprefix(BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        place = _at(file, content[: error.start].decode())
        raise ConfigError("not UTF-8 text", f"byte 0x{content[error.start]:02x}", place) from None


def scalar(text: str) -> Scalar:
    """The value of a plain scalar by the YAML 1.2 core rules; an infinite or undefined number stays a float."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text, _BASES.get(text[:2], 10)) if len(text) <= DIGITS else math.inf
    if _FLOAT.fullmatch(text):
        return float(text)
    return math.inf if _INFINITE.fullmatch(text) else text


def quote(text: str) -> str:
    """A string as messages show it: quoted, in one line, not longer than some 40 characters."""
    return repr(text if len(text) <= DIGITS else text[: DIGITS - 3] + "...")


def show(tree: Tree) -> str:
    """A value as messages show it."""
    value = tree.value
    if isinstance(value, str):
        return f"the string {quote(value)}"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)


def _scalar(text: str, place: Place) -> Scalar:
    value = scalar(text)
    if isinstance(value, float) and not math.isfinite(value):
        what = f"{quote(text)} is not a finite number of at most {DIGITS} digits"
        raise ConfigError(what, "quote it if it is a name", place)
    return value


def _refuse_tag(tag: str | None, place: Place) -> None:
    if tag is not None:
        raise ConfigError(f"tag {quote(tag)} is not known here", "write the plain value", place)


def _syntax_error(error: yaml.MarkedYAMLError, text: str, file: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return ConfigError("not YAML", str(error.problem), Place(file, 1, 1))
    if text[mark.index : mark.index + 1] == "\t":
        return ConfigError("a tab cannot indent", "use spaces", _place(file, mark))
    why = ", ".join(part for part in (error.context, error.problem) if part)
    return ConfigError("not YAML", why, _place(file, mark))


def _place(file: str, mark: Any) -> Place:
    return Place(file, mark.line + 1, mark.column + 1)


def _at(file: str, before: str) -> Place:
    """The place right behind the text `before`."""
    return Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
