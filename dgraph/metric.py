"""Metrics of a run: from the sums of each batch to the figures of a subset.

In: a graph; the metrics of its loss heads, batch by batch; probabilities and class numbers, where they lie. Out: figures as plain
values. Promise: figures of several batches are those of all their labels at once; counts are integers; the variance of targets is
found around a shift near their mean, and put together as by Chan, Golub and LeVeque (1983, eq. 2.1).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import prod, sqrt
from typing import Any

import numpy as np

from dgraph.graph.node import Dim, Graph, OpNode
from dgraph.kernels.call import Array
from dgraph.ops.metric import METRICS, UNIT
from dgraph.rect import Rect
from dgraph.runtime.communicator import Communicator
from dgraph.runtime.engine import Engine

MOST_CLASSES = 100
"""A confusion matrix of more classes is made only where one is asked for."""


LEAD = 2
"""Numbers of a batch that stand before the metrics of its heads."""


@dataclass(frozen=True)
class Head:
    """One loss and its metrics: `node` finds them, `tensor` holds them, `labels` is the dim of what it compares with."""

    name: str
    node: OpNode
    tensor: str
    rows: int
    labels: Dim

    @property
    def classes(self) -> int:
        """How many classes it tells apart; 0: none, or several questions at once."""
        if self.node.op == "evaluate":
            return self.node.access.dims["probability"][1]
        return 2 if self.node.op == "evaluate_binary" and self.labels[1:2] == (1,) else 0


def heads_of(graph: Graph) -> tuple[Head, ...]:
    """The heads whose metrics a graph reports, in order: the last is the main one."""
    heads = []
    for reader in graph.ops.values():
        tensor = reader.inputs[0][1] if reader.op == "accuracy" else ""
        node = graph.ops[graph.writers[tensor][0][0]] if tensor and graph.writers[tensor] else None
        if node is not None and METRICS.get(node.op, (("",), ()))[0][0] == "loss":
            dims = node.access.dims
            heads.append(Head(node.name.removesuffix(".evaluate"), node, tensor, dims["output"][0], dims["labels"]))
    return tuple(heads)


def named(op: str, rows: Sequence[float]) -> dict[str, float]:
    """The metrics of one batch by name, from the numbers that the op gives (see `dgraph.ops.metric`)."""
    sums, counts = METRICS[op]
    values = dict(zip((*sums, *counts), rows, strict=False))
    for name, high in zip(counts, rows[len(values) :], strict=False):
        values[name] += high * UNIT
    return values


@dataclass
class Spread:
    """Number, mean and sum of squared deviations of what was added."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, count: float, mean: float, squares: float) -> None:
        """Adds so many values of this mean and sum of squared deviations."""
        total = self.count + count
        if count:
            apart = mean - self.mean
            self.squares += squares + apart * apart * self.count * count / total
            self.mean += apart * count / total
            self.count = total


@dataclass
class HeadMetrics:
    """The sums of one head over the batches of a subset."""

    head: Head
    sums: dict[str, float] = field(default_factory=dict)
    targets: Spread = field(default_factory=Spread)

    def add(self, share: float, rows: Sequence[float]) -> None:
        """Adds a batch. Its loss is a mean over the labels of the samples of its step, whether they count or not: so many times
        `share` as a full batch has."""
        values = named(self.head.node.op, rows)
        values["loss"] *= prod(self.head.labels) * share
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if "deviation" in values and values["samples"]:
            mean = values["deviation"] / values["samples"]
            squares = values["squared_deviation"] - mean * values["deviation"]
            self.targets.add(values["samples"], values["shift"] + mean, max(squares, 0.0))

    def plain(self) -> list[Any]:
        """The sums as JSON holds them; `restore` takes them back."""
        return [self.sums, asdict(self.targets)]

    def restore(self, values: list[Any]) -> None:
        """The sums that `plain` gave."""
        self.sums, self.targets = dict(values[0]), Spread(**values[1])

    def result(self) -> dict[str, Any]:
        """Means over what was added."""
        count = max(self.sums.get("samples", 0.0), 1.0)
        means = {name: value / count for name, value in self.sums.items()}
        figures = {"loss": means.get("loss", 0.0)}
        if self.head.node.op == "evaluate_error":
            figures |= {"rmse": sqrt(means.get("squared", 0.0)), "mae": means.get("absolute", 0.0), "r2": self._r2()}
        else:
            figures["accuracy"] = means.get("correct", 0.0)
        if self.head.node.op == "evaluate":
            figures["top5"] = means.get("correct_in_top_5", 0.0)
        return figures | {"samples": self.samples}

    @property
    def samples(self) -> int:
        """How many places have labels: of several labels at a place, all count as one."""
        return round(self.sums.get("samples", 0.0) / prod(self.head.labels[1:2]))

    def _r2(self) -> float:
        """1 - sum of squared errors / sum of squares around the mean target; of targets that are all the same 1 or 0."""
        errors = self.sums.get("squared", 0.0)
        return 1 - errors / self.targets.squares if self.targets.squares > 0 else float(errors == 0)


class Metrics:
    """The figures of all heads over the batches of a subset; `confusion` is a matrix of the main head, where one was made."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self._heads = [HeadMetrics(head) for head in heads]
        self.confusion: list[list[int]] | None = None

    def add(self, values: Array) -> None:
        """Adds the batches of a step, one after the other, each as `batch_values` has it."""
        width = LEAD + sum(metrics.head.rows for metrics in self._heads)
        for batch in values.reshape(-1, width):
            start = LEAD
            for metrics in self._heads:
                metrics.add(float(batch[1]), batch[start : start + metrics.head.rows].tolist())
                start += metrics.head.rows

    def plain(self) -> list[Any]:
        """The sums of all heads as JSON holds them; `restore` takes them back."""
        return [head.plain() for head in self._heads]

    def restore(self, values: list[Any]) -> None:
        """The sums that `plain` gave."""
        for head, entry in zip(self._heads, values, strict=True):
            head.restore(entry)

    @property
    def samples(self) -> int:
        """How many labels the main head has seen."""
        return self._heads[-1].samples if self._heads else 0

    def result(self) -> dict[str, Any]:
        """The figures of the main head; `loss` is that of all heads, `heads` has each one's own where there are several."""
        if not self._heads:
            return {"loss": 0.0, "samples": 0}
        results = {metrics.head.name: metrics.result() for metrics in self._heads}
        figures: dict[str, Any] = dict(results[self._heads[-1].head.name])
        figures["loss"] = sum(one["loss"] for one in results.values())
        figures |= {"heads": results} if len(results) > 1 else {}
        return figures | ({} if self.confusion is None else {"confusion": self.confusion})


def batch_values(engine: Engine, heads: Sequence[Head]) -> Array | None:
    """What `Metrics.add` takes, float64 [2 + rows of all heads]: the loss of all heads, how many full batches of samples the step
    has, then the metrics of one head after the other. None on a rank that does not have them."""
    found = [engine.value(head.tensor) for head in heads]
    rows = [value.reshape(-1).astype(np.float64) for value in found if value is not None]
    if len(rows) < len(heads) or not heads:
        return None
    return np.concatenate([[sum(row[0] for row in rows), 1 / engine.moment.weight], *rows])


class Confusion:
    """K x K counts of what one rank has seen of a head: rows are labels, columns are what was found most probable."""

    def __init__(self, head: Head, engine: Engine) -> None:
        self._head, self._engine = head, engine
        self._counts = np.zeros((head.classes, head.classes), np.int64)
        layout, rank = engine.layout, engine.schedule.rank
        place = layout.mesh.coordinates(rank)
        first = all(place[axis] == 0 for axis in layout.tensors[head.tensor].replicas)
        counted = first and layout.ops[head.node.name].counts("output", place)
        self._pieces = layout.pieces(head.node.name, rank) if counted else ()

    def add(self) -> None:
        """Counts the batch just done."""
        binary = self._head.node.op == "evaluate_binary"
        for piece in self._pieces:
            values = self._values("input" if binary else "probability", piece)
            labels = self._values("labels", piece)
            if binary:
                threshold = 0.0 if self._head.node.attributes["logits"] else 0.5
                found, labels = values > threshold, np.where(labels >= 0, labels > 0.5, -1)
            else:
                found = values.argmax(axis=1, keepdims=True)
            there = labels >= 0
            numbers = labels[there].astype(np.int64) * self._head.classes + found[there]
            self._counts += np.bincount(numbers, minlength=self._counts.size).reshape(self._counts.shape)

    def _values(self, port: str, piece: Rect) -> Array:
        """What a port of the node reads for one of its pieces."""
        stored = self._engine.store.reading(dict(self._head.node.inputs)[port])
        rect = self._engine.layout.piece_rect(self._head.node.name, port, piece)
        if stored is None:
            return np.empty(rect.size)
        return stored[1][rect.slices(stored[0].start)]

    def total(self, communicator: Communicator) -> list[list[int]]:
        """The counts of all ranks. Collective."""
        parts = communicator.gather(self._counts.tobytes())
        content = None
        if parts is not None:
            counts = sum(np.frombuffer(part, np.int64).reshape(self._counts.shape) for part in parts)
            content = json.dumps(np.asarray(counts).tolist()).encode()
        total: list[list[int]] = json.loads(communicator.broadcast(content))
        return total


FIGURES = ("loss", "accuracy", "rmse", "mae", "r2")
"""The figures that say how a step went."""
