"""A config's network to a file that other runtimes read.

In: a config, a checkpoint, a path. Out: an ONNX model or a safetensors file. Promise: the network as `dgraph predict` evaluates
it, with the same result; the model passes ONNX's own checker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from dgraph.config import Config, DataConfig
from dgraph.error import ConfigError, DgraphError
from dgraph.graph.node import Graph
from dgraph.onnx.values import Values, initial_values, stored_values
from dgraph.onnx.writing.draft import Draft
from dgraph.onnx.writing.file import write_model, write_weights
from dgraph.onnx.writing.model import draft_of, finish, model_of, needed, predicted
from dgraph.program import forward_graph

SUFFIXES = (".onnx", ".safetensors")


@dataclass(frozen=True)
class Exported:
    """What was written: nodes of the model, tensors with values, and how many numbers these have. Its input is samples as they are
    behind the keys of data in `behind`, which are no part of it."""

    nodes: int
    tensors: int
    elements: int
    behind: tuple[str, ...]


def require_suffix(path: Path) -> None:
    """Raises ConfigError for a file whose name does not say what it is to be."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: the name must end in {' or '.join(SUFFIXES)}", "it says what is written")


def export(config: Config, checkpoint: Path | None, path: Path, any_batch: bool,
           best: bool = False) -> Exported:  # fmt: skip
    """Writes a network with the values of a checkpoint (of a run: the newest, or the `best`), or with those that training would
    begin with.

    Raises ConfigError for what ONNX cannot say, DataError for a checkpoint that does not fit and where the disk refuses.
    """
    _, _, forward = forward_graph(config, training=False)
    if checkpoint is None:
        values = initial_values(forward, config.seed, config.dtype)
    else:
        values = stored_values(forward, checkpoint, config.dtype, best)
    kept = forward.kept
    elements = sum(prod(tensor.dim) for tensor in kept)
    if path.suffix == ".safetensors":
        write_weights(path, kept, values)
        nodes = 0
    else:
        nodes = _write(config, forward, values, path, any_batch)
    return Exported(nodes, len(kept), elements, _behind(config.data))


def _behind(data: DataConfig) -> tuple[str, ...]:
    """The keys that change samples on their way to the network in evaluations."""
    changes = {
        "scale": data.scale != 1,
        "prepare": bool(data.prepare),
        "augment": any(step.kind in ("crop", "normalize") for step in data.augment),
    }
    return tuple(key for key, there in changes.items() if there)


def _write(config: Config, forward: Graph, values: Values, path: Path, any_batch: bool) -> int:
    tensor = predicted(forward)
    graph = needed(forward, tensor)
    draft = draft_of(graph, config.dtype, tensor)
    output, dim = finish(draft, forward, tensor)
    if any_batch:
        _require_any_batch(config, draft)
    model = model_of(graph, draft, output, dim, any_batch)
    write_model(path, model, draft, values)
    return len(model.graph.node)


def _require_any_batch(config: Config, draft: Draft) -> None:
    """Raises ConfigError unless the network is the same for another batch."""
    other = replace(config, data=replace(config.data, batch=config.data.batch + 1))
    try:
        _, _, forward = forward_graph(other, training=False)
        tensor = predicted(forward)
        changed = draft_of(needed(forward, tensor), config.dtype, tensor)
        finish(changed, forward, tensor)
    except DgraphError as error:
        raise ConfigError(f"--any-batch: the batch is fixed: {error.what}", error.hint, error.place) from None
    if changed.content() != draft.content():
        raise ConfigError("--any-batch: the batch is fixed", "some node has its extent among its attributes")
