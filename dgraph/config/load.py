"""From a file to a `Config`.

In: a path or text, overrides, the number of ranks. Out: a `Config`. Promise: whatever is wrong is one ConfigError with
the place of the first fault; nothing is read but the one file, nothing is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from types import MappingProxyType

from dgraph.config.block import expand_blocks, leads_inside, override_inside
from dgraph.config.data import data_reader
from dgraph.config.layer import layers_reader, nodes_reader, parameters_reader
from dgraph.config.messages import DIRECT, read_messages
from dgraph.config.path import Override, override, read_override
from dgraph.config.reader import REQUIRED, Key, boolean, choice, fault, integer, optional, record, text
from dgraph.config.schema import BACKENDS, PROGRESS, Config, DataConfig, LayerConfig, MemoryConfig, OverlapConfig
from dgraph.config.section import Axes, read_device, read_memory, read_mesh, read_overlap, split_reader
from dgraph.config.source import Tree, decode, parse
from dgraph.config.train import read_train
from dgraph.config.tune import read_tune
from dgraph.error import ConfigError, Place

NBYTES = 8 * 2**20


def load_config(path: str | os.PathLike[str], overrides: Iterable[str] = (), ranks: int | None = None) -> Config:
    """The validated config in a file.

    Parameters
    ----------
    path : the YAML file, UTF-8, at most 8 MiB.
    overrides : `key.path=value` each, applied in order before validation; those that lead inside of an instance of a block
        (`layers.stage2.1.conv1.split={H: y}`) to the layers that it stands for, after all others.
    ranks : how many ranks were started: must be those of the mesh, or fixes its `auto` axis. None: not known, and
        `auto` is 1.

    Raises ConfigError for the first fault. Not collective: every rank reads the file.
    """
    file = os.fspath(path)
    start = Place(file, 1, 1)
    try:
        with open(file, "rb") as stream:
            content = stream.read(NBYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError("cannot read the file", why, start) from None
    if len(content) > NBYTES:
        raise ConfigError(f"the file is larger than {NBYTES} bytes", "not a config?", start)
    return parse_config(decode(content, file), file, overrides, ranks)


def parse_config(
    content: str, file: str = "<string>", overrides: Iterable[str] = (), ranks: int | None = None
) -> Config:
    """The validated config in a string; `file` is what places call it. See `load_config`."""
    tree = parse(content, file)
    inside: list[Override] = []
    for one in map(read_override, overrides):
        if leads_inside(tree, one.steps):
            inside.append(one)
        else:
            tree = override(tree, one)
    tree, origins = expand_blocks(tree)
    for one in inside:
        tree = override_inside(tree, one)
    return _read_config(tree, origins, file, ranks)


def parse_data(content: str, file: str, overrides: Iterable[str] = ()) -> DataConfig:
    """The section `data` alone of a config in a string, for no mesh. See `load_config`."""
    tree = parse(content, file)
    for one in overrides:
        tree = override(tree, read_override(one))
    return data_reader({}, file)(record(tree, "", {"data": Key(lambda value, path: value)})["data"], "data")


def _read_config(tree: Tree, origins: Mapping[str, str], file: str, ranks: int | None) -> Config:
    if not isinstance(tree.value, dict):
        raise fault(tree, "a config", "a mapping of sections")
    mesh_tree = tree.value.get("mesh", Tree({}, tree.place))
    axes = read_mesh(mesh_tree, "mesh")
    mesh = _fit_mesh(axes, ranks, mesh_tree.place)
    split = split_reader(axes if ranks is None else mesh)
    keys = {
        "name": Key(text("a name of letters, digits and _ . -", r"[A-Za-z0-9_][A-Za-z0-9_.-]*"), _stem(file)),
        "dtype": Key(choice("float32", "float64"), "float32"),
        "seed": Key(integer(0), 0),
        "backend": Key(choice(*BACKENDS), BACKENDS[0]),
        "device": Key(read_device, "cpu"),
        "overlap": Key(read_overlap, OverlapConfig()),
        "progress": Key(choice(*PROGRESS), PROGRESS[0]),
        "fusion": Key(boolean, True),
        "memory": Key(read_memory, MemoryConfig()),
        "mesh": Key(lambda value, path: mesh, mesh),
        "data": Key(data_reader(axes if ranks is None else mesh, file), REQUIRED),
        "layers": Key(layers_reader(split, origins), ()),
        "nodes": Key(nodes_reader(split), ()),
        "parameters": Key(parameters_reader(split), ()),
        "train": Key(read_train, REQUIRED),
        "messages": Key(read_messages, DIRECT),
        "tune": Key(optional(read_tune), None),
    }
    config = Config(**record(tree, "", keys), source=file, tree=tree, origins=origins)
    if not config.layers and not config.nodes:
        raise ConfigError("the config has neither layers nor nodes", "one of them makes the network", tree.place)
    _check_classes(config.data, config.layers, config)
    return config


def _fit_mesh(axes: Axes, ranks: int | None, place: Place) -> Mapping[str, int]:
    """The mesh with its `auto` axis filled in, so that it has `ranks` ranks."""
    known = 1
    for size in axes.values():
        known *= size or 1
    shown = " x ".join(str(size or "auto") for size in axes.values()) or "of no axes"
    auto = 1
    if None in axes.values() and ranks is not None:
        if ranks % known or ranks < known:
            hint = f"start a multiple of {known}"
            raise ConfigError(f"mesh {shown} cannot have {ranks} ranks", hint, place)
        auto = ranks // known
    elif ranks is not None and ranks != known:
        what = f"mesh {shown} has {known} rank{'s' * (known != 1)}, but {ranks} were started"
        remedy = "set an axis to auto" if axes else "write mesh: {x: auto}"
        raise ConfigError(what, f"start {known}, or {remedy}", place)
    return MappingProxyType({axis: size or auto for axis, size in axes.items()})


def _check_classes(data: DataConfig, layers: tuple[LayerConfig, ...], config: Config) -> None:
    for layer in layers:
        classes = layer.attributes.get("classes") if layer.kind == "softmax" else None
        if classes is not None and data.classes is not None and classes < data.classes:
            what = f"layer {layer.name} has {classes} class{'es' * (classes != 1)}, the data has {data.classes}"
            place = config.place(f'layers."{layer.name}".softmax.classes')
            raise ConfigError(what, "every class of the data needs one", place)


def _stem(file: str) -> str:
    """A name for a config that gives none: that of its file."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", PurePath(file).stem).lstrip(".-") or "config"
