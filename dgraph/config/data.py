"""Reader of the section `data`.

In: a tree. Out: `DataConfig`. Promise: whatever can be known without opening the data is checked here, at its place: which
keys go with which source, and which it needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from dgraph.config.reader import (
    MOST,
    Key,
    Keys,
    Reader,
    boolean,
    choice,
    fault,
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
from dgraph.config.step import AUGMENT, PREPARE, steps_reader
from dgraph.error import ConfigError

SHARE = number("a number from 0 to 1", lambda value: 0 <= value <= 1)
EXTENT = integer(1, 2**31)
_SHARES = {"train": Key(SHARE), "validation": Key(SHARE, 0.0), "test": Key(SHARE, 0.0)}
_KNOWN: Mapping[str, Mapping[str, Any]] = {
    "digits": {"shape": (1, 8, 8), "classes": 10},
    "ring": {"shape": (2,), "classes": 2},
}
_ARRAYS = ("npz", "npy", "hdf5")
_IMAGES = ("folder", "utkface")
_FILES = (*_ARRAYS, "idx", "cifar", "csv", *_IMAGES)
SOURCES = ("synthetic", "ring", "table", "digits", "sklearn", *_FILES)
_OWNERS = {
    "samples": ("synthetic", "ring"),
    "rows": ("table",),
    "repeat": ("table",),
    "name": ("sklearn",),
    "path": _FILES,
    "sets": _FILES,
    "labels": ("table", "npy", "idx"),
    "x": ("npz", "hdf5"),
    "y": ("npz", "hdf5"),
    "channels_last": _ARRAYS,
    "label": ("csv", "cifar", "utkface"),
    "columns": ("csv",),
    "header": ("csv",),
    "delimiter": ("csv",),
    "bounds": ("utkface",),
    "channels": _IMAGES,
    "size": _IMAGES,
}
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "synthetic": ("shape",),
    "table": ("rows", "labels"),
    "sklearn": ("name",),
    **dict.fromkeys(_FILES, ("path",)),
    "npy": ("path", "labels"),
    "idx": ("path", "labels"),
    "csv": ("path", "label"),
    "utkface": ("path", "label"),
}
_LABELS = {"utkface": ("age", "gender", "race"), "cifar": ("fine", "coarse")}
"""What `label` may be, where it is one of a few words."""
SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
"""The sets that scikit-learn brings along."""


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


def _path_reader(file: str) -> Reader[str]:
    """Reads a path as an absolute one: in the config file it is relative to that file, in an override to the working directory."""
    read_text = text("the path of a file", r"[^\x00]+")

    def read(tree: Tree, path: str) -> str:
        folder = os.path.dirname(file) if tree.place.file == file else ""
        return os.path.abspath(os.path.join(folder, read_text(tree, path)))

    return read


def _one_or_more(read: Reader[Any], wanted: str) -> Reader[Any]:
    """Reads one value as it is, or a list of them."""

    def read_either(tree: Tree, path: str) -> Any:
        return (
            items(read, f"{wanted}, or a list of them")(tree, path)
            if isinstance(tree.value, list)
            else read(tree, path)
        )

    return read_either


def _read_column(tree: Tree, path: str) -> str | int:
    """Reads the name of a column, or its number from 0 (from -1: counted from the last)."""
    if isinstance(tree.value, str) and tree.value:
        return tree.value
    if isinstance(tree.value, int) and not isinstance(tree.value, bool) and abs(tree.value) < 2**31:
        return tree.value
    raise fault(tree, path, "a name or a number from 0")


def _read_bounds(tree: Tree, path: str) -> tuple[float, ...]:
    bounds = items(FINITE, "a list of numbers")(tree, path)
    if any(low >= high for low, high in pairwise(bounds)):
        raise ConfigError(f"{path} must ascend", "class k ends before bound k", tree.place)
    return bounds


_NAME = text("a name", r"[^\x00]+")
_KEYS: Keys = {
    "source": Key(choice(*SOURCES)),
    "batch": Key(EXTENT),
    "shape": Key(optional(items(EXTENT, "a list of channels and 0 to 3 spatial extents", 1, 4)), None),
    "label_shape": Key(optional(items(EXTENT, "a list of 1 to 4 extents", 1, 4)), None),
    "classes": Key(optional(EXTENT), None),
    "samples": Key(optional(integer(1, MOST)), None),
    "rows": Key(optional(items(items(FINITE, "a list of numbers"), "a list of rows")), None),
    "repeat": Key(optional(EXTENT), None),
    "name": Key(optional(choice(*SKLEARN)), None),
    "x": Key(optional(_NAME), None),
    "y": Key(optional(_NAME), None),
    "label": Key(optional(_one_or_more(_read_column, "a name or a number from 0")), None),
    "columns": Key(optional(items(_read_column, "a list of names or numbers")), None),
    "header": Key(optional(boolean), None),
    "delimiter": Key(optional(text("one character", r"[^\x00\n\r\"]")), None),
    "bounds": Key(optional(_read_bounds), None),
    "channels": Key(optional(integer(1, 3)), None),
    "size": Key(optional(items(integer(1, 2**15), "[height, width]", 2, 2)), None),
    "channels_last": Key(optional(boolean), None),
    "scale": Key(POSITIVE, 1.0),
    "shares": Key(_read_shares, None),
    "shuffle": Key(boolean, True),
    "read": Key(choice("rect", "same"), "rect"),
    "one_hot": Key(boolean, False),
    "prepare": Key(steps_reader(PREPARE), ()),
    "fit_batch": Key(EXTENT, 1000),
    "augment": Key(steps_reader(AUGMENT), ()),
    "prefetch": Key(optional(boolean), None),
    "keep": Key(boolean, False),
}
"""The keys that mean the same in every file, on every mesh and with every source."""


def data_reader(axes: Axes, file: str) -> Reader[DataConfig]:
    """Reads the section `data` of a config in `file`, to which the paths of data files are relative."""
    paths = _one_or_more(_path_reader(file), "the path of a file")
    labels = items(_read_label, "a list of labels")
    keys = {
        **_KEYS,
        "path": Key(optional(paths), None),
        "sets": Key(optional(_sets_reader(paths)), None),
        "split": Key(split_reader(axes), None),
    }

    def read(tree: Tree, path: str) -> DataConfig:
        source = tree.value.get("source") if isinstance(tree.value, dict) else None
        table = source is not None and source.value == "table"
        values = record(tree, path, {**keys, "labels": Key(optional(labels if table else paths), None)})
        _check_source(tree, path, values)
        _check_label(tree, path, values)
        _check_sets(tree, path, values)
        return DataConfig(**values, place=tree.place)

    return read


def _sets_reader(paths: Reader[Any]) -> Reader[Mapping[str, Mapping[str, Any]]]:
    """Reads the files of subsets that have some of their own."""
    keys = {"path": Key(paths), "labels": Key(optional(paths), None)}

    def read_set(tree: Tree, path: str) -> Mapping[str, Any]:
        return _given(record(tree, path, keys))

    def read(tree: Tree, path: str) -> Mapping[str, Mapping[str, Any]]:
        return _given(record(tree, path, dict.fromkeys(("validation", "test"), Key(read_set, None))))

    return read


def _given(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those that are not None."""
    return MappingProxyType({key: value for key, value in values.items() if value is not None})


def _check_source(tree: Tree, path: str, values: dict[str, Any]) -> None:
    """What goes with which source; fills in what the source knows."""
    source = values["source"]
    for key, owners in _OWNERS.items():
        if values[key] is not None and source not in owners:
            hint = "only with " + " and ".join(part for part in (", ".join(owners[:-1]), owners[-1]) if part)
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


def _check_label(tree: Tree, path: str, values: dict[str, Any]) -> None:
    """What `label` may be, and what follows from it."""
    label, words = values["label"], _LABELS.get(values["source"])
    if label is not None and words and label not in words:
        raise ConfigError(
            f"{path}.label is one of {', '.join(words)}", f"with source {values['source']}", tree.keys["label"]
        )
    if values["bounds"] is not None and label != "age":
        raise ConfigError(f"{path}.bounds make classes of label age", f"not of {label}", tree.keys["bounds"])
    if values["channels"] == 2:
        raise ConfigError(f"{path}.channels must be 1 (grey) or 3 (colours)", "", tree.keys["channels"])


def _check_sets(tree: Tree, path: str, values: dict[str, Any]) -> None:
    """Subsets with files of their own have no share in the main files; what is left is theirs whose files those are."""
    sets = values["sets"] or {}
    for name, files in sets.items():
        wanted = "labels" in _NEEDED.get(values["source"], ())
        if wanted != ("labels" in files):
            place = tree.value["sets"].value[name].place  # type: ignore[union-attr,call-overload,index]
            what = f"{path}.sets.{name} needs the key labels" if wanted else f"{path}.sets.{name} cannot have labels"
            raise ConfigError(what, f"with source {values['source']}", place)
    if values["shares"] is None:
        left = {name: 0.0 if name in sets else share for name, share in asdict(Shares()).items()}
        values["shares"] = (
            Shares(**{name: share / sum(left.values()) for name, share in left.items()}) if sets else Shares()
        )
    for name in sets:
        if getattr(values["shares"], name):
            hint = "it has files of its own; leave it out of shares"
            raise ConfigError(f"{path}.shares.{name} does not go with {path}.sets.{name}", hint, tree.keys["shares"])
