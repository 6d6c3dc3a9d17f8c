"""Whether data, graph and training fit each other.

In: a graph, what the data is, a config. Out: nothing, or the first ConfigError. Promise: it names the node, or the key, at fault.
"""

from __future__ import annotations

from dgraph.config import Config
from dgraph.data import Description, subset
from dgraph.error import ConfigError
from dgraph.graph.node import Graph
from dgraph.graph.sample import samples_first
from dgraph.ops.metric import FIGURES
from dgraph.program.section import data_spec
from dgraph.schedule.postpone import obstacle

CLASS_LOSSES = ("softmax", "negative_log_likelihood")
TARGET_LOSSES = ("squared_error", "half_squared_norm", "absolute_error", "huber")
BINARY_LOSSES = ("binary_cross_entropy", "perceptron")
"""These take either kind of labels: two classes, or targets from 0 to 1."""


def check_data(graph: Graph, data: Description, batch: int) -> None:
    """Data nodes give batches of the data that there are."""
    for node in graph.ops.values():
        if node.op != "data":
            continue
        for port, key, shape in (("raw_data", "shape", data.shape), ("labels", "label_shape", data.label_shape)):
            dim = node.access.dims[port]
            if dim != (batch, *shape):
                what = f"node {node.name}: {port} of dim {list(dim)} is not what the data gives, {[batch, *shape]}"
                hint = "batch, shape and label_shape are those of the section data"
                raise ConfigError(what, hint).about(node.name, f"attributes.{key if dim[0] == batch else 'batch'}")


def check_labels(graph: Graph, data: Description) -> None:
    """Every loss that reads the labels of the data gets what it needs: class numbers, each with a score, or real targets."""
    for node in graph.ops.values():
        labels = dict(node.inputs).get("labels")
        if labels is None or graph.ops[graph.writers[labels][0][0]].op != "data":
            continue
        if node.op in (*CLASS_LOSSES, "one_hot") and data.classes is None:
            hint = "give data the number of classes, or take another loss"
            what = f"node {node.name}: {node.op} needs class numbers, the data has real targets"
            raise ConfigError(what, hint).about(node.name)
        if node.op in TARGET_LOSSES and data.classes is not None:
            hint = "give data a label_shape and no classes, or take another loss"
            what = f"node {node.name}: {node.op} needs real targets, the data has class numbers"
            raise ConfigError(what, hint).about(node.name)
        if node.op in BINARY_LOSSES and (data.classes or 0) > 2:
            what = f"node {node.name}: {node.op} needs labels from 0 to 1, the data has {data.classes} classes"
            raise ConfigError(what, "take softmax, cross_entropy or one_vs_all").about(node.name)
        told = {"one_hot": "output"}.get(node.op, "input")
        if node.op in (*CLASS_LOSSES, "one_hot") and node.access.dims[told][1] < (data.classes or 0):
            what = f"node {node.name}: {node.access.dims[told][1]} classes are fewer than the data's {data.classes}"
            raise ConfigError(what, "every label needs a score").about(node.name, "attributes.classes")


def check_accumulated(config: Config, data: Description) -> None:
    """A step has no more batches than an epoch."""
    count, batch, batches = len(subset(data_spec(config), data, "train")), config.data.batch, config.train.accumulate
    if batches > -(-count // batch):
        what = f"train.accumulate: a step of {batches} batches, but an epoch has {-(-count // batch)}"
        raise ConfigError(what, f"{count} samples in batches of {batch}", config.place("train.accumulate"))


def check_partial(graph: Graph, config: Config, data: Description) -> None:
    """Statistics over samples know which of them a partial batch has."""
    count, batch = len(subset(data_spec(config), data, "train")), config.data.batch
    known = samples_first(graph) if count % batch else frozenset(graph.tensors)
    for node in graph.ops.values():
        if node.op in ("mean", "variance") and "N" in node.attributes["over"] and node.inputs[0][1] not in known:
            what = (
                f"node {node.name}: a statistic over N of {node.inputs[0][1]}, whose rows are not those of the samples"
            )
            hint = (
                f"the last batch of an epoch has {count % batch} of {batch} samples; take a batch that divides {count}"
            )
            raise ConfigError(what, hint).about(node.name)


def check_updates(config: Config, graph: Graph) -> None:
    """Updates that are to be late can be."""
    why = obstacle(graph)
    if config.overlap.updates == "late" and why:
        what = f"overlap.updates: none can be late: {why}"
        hint = "train.clip and trust ratios need them; with updates: auto they are made in the step then"
        raise ConfigError(what, hint, config.place("overlap.updates"))


def check_judging(config: Config, data: Description, graph: Graph) -> None:
    """What decides which checkpoint is the best, and when to stop, is there to decide."""
    stop, best = config.train.stop, config.train.best
    known = next((FIGURES[node.op] for node in reversed([*graph.ops.values()]) if node.op in FIGURES), ())
    wanted = [("best", best)] if best not in ("loss", "none") else []
    for key, metric in [*wanted, *([("stop.metric", stop.metric)] if stop is not None else [])]:
        if metric not in known:
            what = f"train.{key}: the network has no {metric}"
            hint = f"it has {', '.join(known)}" if known else "it has no loss with metrics"
            raise ConfigError(what, hint, config.place(f"train.{key}"))
    if stop is not None and not len(subset(data_spec(config), data, "validation")):
        hint = "give some in data.shares.validation"
        raise ConfigError("train.stop needs samples for validation", hint, config.place("train.stop", key=True))
