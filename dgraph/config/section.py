"""Readers of the small sections: mesh, device, memory, overlap, splits, initial values.

In: trees. Out: the frozen types of `dgraph.config.schema`. Promise: whatever can be known without the ops and the data
is checked here, at its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dgraph.config.reader import (
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
    record,
    variant,
)
from dgraph.config.schema import CHEAP, OVERLAP_WORDS, UPDATES, MemoryConfig, OverlapConfig, Splits
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
COUNT = integer(1)
FROM_ZERO = integer(0)

_GAIN = {"gain": Key(POSITIVE, None), "distribution": Key(choice("uniform", "normal"), None)}
_NORMAL = {"mean": Key(FINITE, 0.0), "deviation": Key(number("a number >= 0", lambda value: value >= 0), 0.01)}
_INITS = {
    "zero": {},
    "constant": {"value": Key(FINITE)},
    "normal": _NORMAL,
    "truncated_normal": {
        **_NORMAL,
        "low": Key(number("a number < 8", lambda value: value < 8), -2.0),
        "high": Key(number("a number > -8", lambda value: value > -8), 2.0),
    },
    "uniform": {"low": Key(FINITE), "high": Key(FINITE)},
    "xavier": _GAIN,
    "he": {**_GAIN, "fan": Key(choice("in", "out"), None)},
    "lecun": _GAIN,
}


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


def read_overlap(tree: Tree, path: str) -> OverlapConfig:
    """auto, true, false, or `{pieces: auto, updates: late}`."""
    if isinstance(tree.value, dict):
        keys = {"pieces": Key(_auto_or_boolean, None), "updates": Key(choice(*UPDATES), UPDATES[0])}
        return OverlapConfig(**record(tree, path, keys))
    if isinstance(tree.value, (bool, str)) and tree.value in OVERLAP_WORDS:
        return OVERLAP_WORDS[tree.value]
    raise fault(tree, path, "auto, true, false, or a mapping of pieces and updates")


def _auto_or_boolean(tree: Tree, path: str) -> bool | None:
    """None for `auto`."""
    return None if tree.value == "auto" else boolean(tree, path)


def read_device(tree: Tree, path: str) -> str:
    """Where kernels run."""
    if tree.value == "cuda":
        raise ConfigError(f"{path}: there are no kernels for cuda yet", "cpu is where they run", tree.place)
    return choice("cpu")(tree, path)


def read_memory(tree: Tree, path: str) -> MemoryConfig:
    """`{reuse: false, recompute: [relu, normalize]}`; `recompute: true` stands for all ops that are cheap."""

    def read_ops(given: Tree, where: str) -> tuple[str, ...]:
        if isinstance(given.value, bool):
            return CHEAP if given.value else ()
        return items(choice(*CHEAP), "true, false or a list of ops")(given, where)

    keys = {"reuse": Key(boolean, True), "in_place": Key(boolean, True), "recompute": Key(read_ops, ())}
    return MemoryConfig(**record(tree, path, keys))


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


def read_init(tree: Tree, path: str) -> Mapping[str, Mapping[str, Any]]:
    """{kind: arguments} of an initialisation."""
    kind, values = variant(tree, path, _INITS)
    if "low" in values and values["low"] >= values["high"]:
        raise ConfigError(f"{path}: low must be below high", f"{values['low']} and {values['high']}", tree.place)
    given = {name: value for name, value in values.items() if value is not None}
    return MappingProxyType({kind: MappingProxyType(given)})
