"""One rank of a run: its engine, its data, and where it stands.

In: a program, a communicator. Out: `Worker`: steps, evaluations, checkpoints. Promise: all ranks take the same decisions, because
what decides (metrics, faults) is known to all or told by rank 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dgraph.checkpoint import Checkpoint, choose_checkpoint, write_checkpoint
from dgraph.data import (
    Batch,
    Batches,
    DataSpec,
    Feeder,
    Kept,
    Places,
    Source,
    fill,
    open_source,
    reach,
    subset,
    there,
    view,
)
from dgraph.fit import Need, Preparation, fit, load, shape_of
from dgraph.kernels.call import Array
from dgraph.metric import MOST_CLASSES, Confusion, Head, Metrics, batch_values, heads_of
from dgraph.program import Program, data_place, data_spec
from dgraph.rect import Rect
from dgraph.runtime.cause import warn
from dgraph.runtime.communicator import Communicator
from dgraph.runtime.engine import Engine
from dgraph.trace import Recorder
from dgraph.train.identity import identity, require_same_run
from dgraph.train.state import owned, restore
from dgraph.train.together import agree, non_finite


@dataclass(frozen=True, eq=False)
class Ready:
    """How a rank prepares samples, what it has kept of them, and what these are good for."""

    spec: DataSpec
    need: Need
    preparation: Preparation
    kept: Kept | None


@dataclass
class Worker:
    """One rank of a run: its engine, its data, and where it stands. Making it is collective."""

    program: Program
    communicator: Communicator
    engine: Engine = field(init=False)
    spec: DataSpec = field(init=False)
    source: Source = field(init=False)
    feeder: Feeder = field(init=False)
    step: int = 0
    memory: Mapping[str, Any] = field(default_factory=dict)
    """What the loop remembers beside, as JSON holds it; saved and loaded with the rest."""
    best: Mapping[str, Any] | None = None
    """The best validation so far, as the loop says; its checkpoint is kept."""

    def __post_init__(self) -> None:
        agree(self.program, self.communicator)
        schedule = self.program.schedule(self.program.plan(self.communicator.rank), self.communicator.spread)
        self.spec = data_spec(self.program.config)
        with data_place(self.program.config):
            self.source = open_source(self.spec)
        seed = self.program.config.seed
        layout, optimizer, backend = self.program.layout, self.program.optimizer, self.program.backend
        thread, window = self._thread(), self.program.config.messages.window
        self.engine = Engine(schedule, layout, self.communicator, optimizer, backend, self._feed, seed, thread, window)
        self.engine.store.initialise(self.program.graph, seed)
        self.feeder = Feeder(self.engine.fed, self._read, self.program.training, self.program.prefetch)
        self._ready: Ready | None = None

    def _thread(self) -> bool:
        """Whether a thread makes progress."""
        progress, communicator = self.program.config.progress, self.communicator
        if progress == "auto" and communicator.spread and not communicator.threaded and communicator.rank == 0:
            warn(f"{communicator.mpi} lets no second thread make progress: transfers advance between nodes alone")
        return communicator.spread and communicator.threaded if progress == "auto" else progress == "thread"

    def _feed(self, node: str, places: Places) -> None:
        self.feeder.feed(node, places)

    def _read(self, batch: Batch, places: Places) -> None:
        """Fills this rank's part of a batch."""
        ready = self.ready
        seen = view(ready.kept or ready.preparation.prepared(self.source), self.spec, batch.epoch)
        fill(seen, batch.indices, places.get("raw_data"), places.get("labels"))

    def where(self) -> str:
        """What this rank is at, for the report of a failure."""
        return f"step {self.step}, node {self.engine.where}"

    def batches(self, name: str, shuffle: bool) -> Batches:
        """The batches of a subset, as `forward` takes them."""
        return self._batches(name, shuffle, 1)

    def training_batches(self, shuffle: bool) -> Batches:
        """What `train_step` takes of the samples for training: as many batches at a time as a step has."""
        return self._batches("train", shuffle, self.program.config.train.accumulate)

    def _batches(self, name: str, shuffle: bool, count: int) -> Batches:
        config = self.program.config
        chosen = subset(self.spec, self.program.data, name)
        return Batches(chosen, count * config.data.batch, shuffle, config.seed)

    def _take(self, batch: Batch, total: int, following: Batch | None) -> None:
        """Makes a batch the one that is fed, of a step that has `total` samples."""
        moment = self.engine.moment
        moment.batch, moment.samples, moment.total = len(batch.indices), there(batch.indices), total
        self.feeder.announce(batch, following)
        self.prepare()

    def forward(self, indices: Array, following: Array | None = None) -> None:
        """The forward nodes alone on a batch, int64 [batch], -1 behind the last sample; `following` is the next one, if known.
        Collective."""
        upcoming = None if following is None else Batch(following, None)
        self._take(Batch(indices, None), there(indices), upcoming)
        self.engine.forward()

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """What metrics are about."""
        return heads_of(self.program.forward)

    def metrics(self) -> Array | None:
        """The metrics of the batch just done, for `Metrics.add`; first the losses of all heads, added up. None without an
        evaluation."""
        return batch_values(self.engine, self.heads)

    def new_metrics(self) -> Metrics:
        """Empty sums for this program's heads."""
        return Metrics(self.heads)

    def train_step(
        self, indices: Array, recorder: Recorder | None = None, following: Array | None = None
    ) -> Array | None:
        """One step on the samples of one or more batches, int64 [batches * batch], -1 behind the last sample.

        `following` are those of the next step, if they are known. Gradients are those of the mean over all of these samples.
        Returns the metrics of the batches, one after the other. Raises RunError on all ranks where the loss is not finite.
        Collective.
        """
        batches = self._batches_of(indices, self.step)
        upcoming = self._batches_of(following, self.step + 1) if following is not None else []
        self.step += 1
        if recorder is not None:
            recorder.step = self.step
        total, before = there(indices), self.engine.updates * self.program.config.train.accumulate
        found: list[Array] = []
        for number, batch in enumerate(batches, start=1):
            self._take(batch, total, [*batches, *upcoming, None][number])
            self.engine.moment.step = before + number
            self.engine.train_batch(number == 1, number == len(batches), recorder, partial(self._judge, found))
        return np.concatenate(found) if found else None

    def _judge(self, found: list[Array]) -> None:
        """Notes the metrics of the batch under way. Raises RunError on all ranks where its loss is not finite."""
        values = self.metrics()
        if values is not None:
            if not np.isfinite(values[0]):
                raise non_finite(self.program, self.engine, self.step)
            found.append(values)

    def _batches_of(self, indices: Array, step: int) -> list[Batch]:
        """The batches of a step (from 0) that have samples."""
        epoch = step // self._steps_of_an_epoch
        rows = indices.reshape(-1, self.program.config.data.batch)
        return [Batch(row, epoch) for row in rows if there(row)]

    @cached_property
    def _steps_of_an_epoch(self) -> int:
        return max(1, self.training_batches(shuffle=False).steps)

    def evaluate(self, name: str, confusion: bool | None = False, before_batch: Callable[[], None] | None = None,
                 most: int | None = None) -> Metrics:  # fmt: skip
        """The metrics of a subset, or of its first batches (`most`), with the averages of weights where there are some; with the
        confusion matrix of the main head where it has classes and one is wanted (None: if there are not many). What `before_batch`
        raises on all ranks ends it. Collective."""
        batches, metrics = self.batches(name, shuffle=False), self.new_metrics()
        classes = self.heads[-1].classes if self.heads else 0
        wanted = classes <= MOST_CLASSES if confusion is None else confusion
        matrix = Confusion(self.heads[-1], self.engine) if wanted and classes else None
        with self.engine.averaged():
            for indices, following in islice(batches.pairs(), most):
                if before_batch is not None:
                    before_batch()
                self.forward(indices, following)
                values = self.metrics()
                if values is not None:
                    metrics.add(values)
                if matrix is not None:
                    matrix.add()
        if matrix is not None:
            metrics.confusion = matrix.total(self.communicator)
        return metrics

    # --- preparation

    def prepare(self) -> None:
        """Fits what prepares the samples, unless it was fitted or loaded before. Collective."""
        if self._ready is None:
            chosen = subset(self.spec, self.program.data, "train")
            with data_place(self.program.config):
                self._prepare_with(fit(self.source, self.spec, chosen, self._need(), self.communicator))

    def _prepare_with(self, preparation: Preparation) -> None:
        need, prepared = self._need(), preparation.prepared(self.source)
        labels = self._reach("labels", prepared.label_shape)
        kept = Kept(prepared, need.rect, labels) if self.program.config.data.keep else None
        self._ready = Ready(self.spec, need, preparation, kept)

    def take_over(self, other: Ready) -> None:
        """Prepares samples as other workers of these ranks do, if theirs are the same on all ranks. Collective."""
        same = other.spec == self.spec and other.need == self._need()
        gathered = self.communicator.gather(bytes([same]))
        verdict = None if gathered is None else bytes([all(one == bytes([True]) for one in gathered)])
        if self.communicator.broadcast(verdict) == bytes([True]):
            self._ready = other

    @property
    def ready(self) -> Ready:
        """The fitted steps, and what was kept. Raises ValueError before there are any."""
        if self._ready is None:
            raise ValueError("nothing was fitted yet")
        return self._ready

    def _need(self) -> Need:
        """What this rank's data nodes need of prepared samples, whatever is drawn to change them."""
        return Need(self._reach("raw_data", shape_of(self.spec, self.source)), self.program.config.dtype)

    def _reach(self, port: str, shape: tuple[int, ...]) -> Rect:
        """Which rect of prepared samples (of their labels) of this shape can come to this rank's data nodes."""
        rect = Rect.empty(len(shape))
        for places in self.engine.fed.values():
            if port in places:
                fed = places[port][1]
                rect = rect.hull(Rect(fed.start[1:], fed.size[1:]))
        return reach(self.spec.augment, shape, rect)

    # --- checkpoints

    def save(self, folder: Path, keep: int) -> Path:
        """Writes parameters, optimizer state and what the loop remembers. Collective."""
        self.prepare()
        self.engine.finish()
        meta = {
            "network": self.program.config.name,
            "updates": self.engine.updates,
            "optimizer": self.program.optimizer.name,
            "identity": identity(self.program.config),
            "prepare": self.ready.preparation.meta(),
            "loop": self.memory,
            "best": self.best,
            "averages": self.program.optimizer.averages(self.engine.updates),
        }
        communicator = self.communicator
        return write_checkpoint(
            folder,
            self.step,
            [*owned(self.program, self.engine), *self.ready.preparation.shards()],
            meta,
            communicator.rank,
            communicator.size,
            communicator.gather,
            communicator.barrier,
            keep,
        )

    def load(self, path: Path, states: bool, best: bool = False) -> Checkpoint:
        """Reads parameters by intersection of rects; with `states` all that training needs to go on. Collective.

        Takes the newest sound checkpoint of a run, or its `best`, and names on stderr those that it had to pass over. Raises
        DataError where there is none, or where it is of another network; with `states` also where the config is not of that run.
        """
        self.engine.finish()
        communicator = self.communicator
        ranks = communicator.rank, communicator.size
        checkpoint, passed = choose_checkpoint(path, best, *ranks, communicator.gather, communicator.broadcast)
        for line in passed if communicator.rank == 0 else ():
            warn(line)
        if states:
            require_same_run(self.program.config, checkpoint)
        self._prepare_with(load(checkpoint, self.spec, self.source.shape, self._need(), *ranks))
        restore(self.program, self.engine, checkpoint, states)
        self.step = checkpoint.step
        self.engine.updates = int(checkpoint.meta["updates"])
        self.memory, self.best = checkpoint.meta.get("loop") or {}, checkpoint.meta.get("best")
        return checkpoint
