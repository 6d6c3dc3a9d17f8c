"""The loop: steps, epochs, validation, checkpoints, and when to stop.

In: a worker, and what a run writes. Out: results as plain values. Promise: all ranks take the same decisions, because rank 0 tells
them, or because all know the same; a run that was stopped anywhere and goes on ends with the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgraph.kernels.call import Array
from dgraph.metric import FIGURES, Metrics
from dgraph.runtime.stop import Agreement, Wish
from dgraph.trace import Recorder
from dgraph.train.memory import Memory, Record
from dgraph.train.pace import Pace
from dgraph.train.worker import Worker

Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class TrainOptions:
    """What a run writes. `folder` holds the run; `report` gets progress, `metrics` every entry; `rewind` hears, before the first
    step, after which step entries do not count, and whether that of the epoch's end at this step does not either; `confusion`: as
    `Worker.evaluate` of the test subset has it; `wish` is this rank's wish to stop (None: nobody listens); `most`: batches of an
    evaluation, where not all."""

    folder: Path | None
    report: Report
    recorder: Recorder | None = None
    metrics: Report = lambda entry: None
    rewind: Callable[[int, bool], None] = lambda step, again: None
    confusion: bool | None = None
    wish: Wish | None = None
    most: int | None = None


def train(worker: Worker, options: TrainOptions) -> dict[str, Any]:
    """Trains as the config says, from where the worker stands. Collective.

    The result has `seconds`, `steps`, `best` (the best validation so far), `stopped` ("early", "asked" or None), `communication`
    (`Pace.communication`) and the metrics of each subset. A run that any rank was asked to stop saves after the step and returns,
    without an evaluation.
    """
    return Loop(worker, options).run()


class Asked(Exception):
    """Some rank was asked to stop. Raised on all ranks at the same place."""


class Loop:
    """A training under way. Making it is collective, and so is all that it does."""

    def __init__(self, worker: Worker, options: TrainOptions) -> None:
        self.worker, self.options = worker, options
        config = worker.program.config
        self.config = config.train
        self.batches = worker.training_batches(config.data.shuffle)
        self.steps = self.config.steps or (self.config.epochs or 0) * self.batches.steps
        self.memory = Memory.of(worker.memory, worker.new_metrics())
        self.first = worker.step
        self.pace = Pace(worker.engine, self.memory.seconds, worker.step)
        self._agreement = None if options.wish is None else Agreement(worker.communicator, options.wish)
        self._last_metrics = self.memory.metrics
        self._unsaved = False

    def run(self) -> dict[str, Any]:
        """Until the last step, until there is nothing more to wait for, or until some rank was asked to stop."""
        stopped = None
        result: dict[str, Any] = {"train": None, "validation": None, "test": None}
        try:
            self._take_up()
            while self._goes_on():
                self._step()
            stopped = "early" if self.worker.step < self.steps else None
            result |= self._measured()
        except Asked:
            stopped = "asked"
            if self._unsaved:
                self._save()
        self.worker.engine.finish()
        if self._agreement is not None:
            self._agreement.close()
        best = self.memory.record.best
        told: dict[str, Any] = {"seconds": self.pace.seconds, "steps": self.worker.step, "stopped": stopped}
        told["communication"] = self.pace.communication()
        return told | {"best": None if best is None else asdict(best)} | result

    def _goes_on(self) -> bool:
        return self.worker.step < self.steps and not self.memory.record.stops(self.config.stop)

    def _take_up(self) -> None:
        """What a run that stopped between the last step of an epoch and its validation still owes; and what was measured within an
        epoch, at the end of a run that was shorter, is forgotten."""
        step = self.worker.step
        whole = bool(step) and step % self.batches.steps == 0
        undone = step < self.steps and self.memory.before is not None
        self.options.rewind(step, undone or self.memory.ended)
        if undone and self.memory.before is not None:
            self.memory.record, self.memory.before = self.memory.before, None
        if self.memory.ended and (whole or step == self.steps):
            self._end_of_epoch(whole)
        self.memory.ended = False

    def _step(self) -> None:
        worker = self.worker
        epoch, at = divmod(worker.step, self.batches.steps)
        indices, following = self.batches.indices(epoch, at), None
        if worker.step + 1 < self.steps:
            following = self.batches.indices(*divmod(worker.step + 1, self.batches.steps))
        self.pace.begin()
        values = worker.train_step(indices, self.options.recorder, following)
        self.pace.end(int(np.count_nonzero(indices >= 0)))
        self._unsaved = True
        if values is not None:
            self.memory.metrics.add(values)
            every = self.config.log_every
            if every and (worker.step % every == 0 or worker.step == self.steps):
                self._report_step(values, epoch)
        whole = at + 1 == self.batches.steps
        self.memory.ended = whole or worker.step == self.steps
        self._heed()
        if self.memory.ended:
            self._end_of_epoch(whole)
        elif self.config.checkpoint_steps and worker.step % self.config.checkpoint_steps == 0:
            self._save()

    def _heed(self) -> None:
        """Raises Asked on all ranks if any of them was asked to stop."""
        if self._agreement is not None and self._agreement.reached():
            raise Asked

    def _report_step(self, values: Array, epoch: int) -> None:
        metrics = self.worker.new_metrics()
        metrics.add(values)
        result = metrics.result()
        kept = {name: value for name, value in result.items() if name in FIGURES or name == "heads"}
        step = self.worker.step
        entry = {"kind": "step", "step": step, "steps": self.steps, "epoch": epoch + 1, **kept}
        entry["rate"] = self.worker.engine.moment.rate
        entry |= self.pace.figures(step, self.steps)
        self.options.report(entry)
        self.options.metrics(entry)

    def _end_of_epoch(self, whole: bool) -> None:
        """Validation and checkpoint, where the config asks for them; `whole`: not the end of a run within an epoch."""
        step, memory = self.worker.step, self.memory
        epoch = -(-step // self.batches.steps)
        entry: dict[str, Any] = {"kind": "epoch", "epoch": epoch, "step": step, "train": memory.metrics.result()}
        every = self.config.validate_every
        if every and (epoch % every == 0 or step == self.steps):
            validation = self._evaluate("validation").result()
            entry["validation"] = validation if validation["samples"] else None
            memory.before = None if whole else memory.record
            memory.record = self._agreed(memory.record.after(step, epoch, entry["validation"] or {}, self.config))
        best = memory.record.best
        entry |= {"best": None if best is None else asdict(best), "seconds": self.pace.seconds}
        self.options.report(entry)
        self.options.metrics(entry)
        self._last_metrics, memory.ended = memory.metrics, False
        if whole:
            memory.metrics = self.worker.new_metrics()
        if self._is_to_be_saved(epoch):
            self._save()

    def _agreed(self, record: Record) -> Record:
        """The record of rank 0 on all ranks."""
        communicator = self.worker.communicator
        told = json.dumps(record.plain()).encode() if communicator.rank == 0 else None
        return Record.of(json.loads(communicator.broadcast(told)))

    def _is_to_be_saved(self, epoch: int) -> bool:
        """Whether a checkpoint is due at the end of an epoch: by epochs, by steps, for the best, at the end of the run."""
        config, step, best = self.config, self.worker.step, self.memory.record.best
        by_epochs = bool(config.checkpoint_every) and epoch % config.checkpoint_every == 0
        by_steps = bool(config.checkpoint_steps) and step % config.checkpoint_steps == 0
        wanted = bool(config.checkpoint_every or config.checkpoint_steps)
        outstanding = not self._goes_on() or (best is not None and best.step == step)
        return by_epochs or by_steps or (wanted and outstanding)

    def _save(self) -> None:
        """A checkpoint of all that is needed to go on."""
        worker, best = self.worker, self.memory.record.best
        self._unsaved = False
        if self.options.folder is None:
            return
        self.memory.seconds = self.pace.seconds
        worker.memory = self.memory.plain()
        worker.best = None if best is None else asdict(best)
        worker.save(self.options.folder / "checkpoints", self.config.keep)

    def _evaluate(self, name: str, confusion: bool | None = False) -> Metrics:
        heed = None if self._agreement is None else self._heed
        return self.worker.evaluate(name, confusion, heed, self.options.most)

    def _measured(self) -> dict[str, Any]:
        """The figures of the three subsets; of training, of the last epoch, if there was a step."""
        done = self.worker.step > self.first and self._last_metrics.samples
        figures: dict[str, Any] = {"train": self._last_metrics.result() if done else None}
        for name, confusion in (("validation", False), ("test", self.options.confusion)):
            measured = self._evaluate(name, confusion)
            figures[name] = measured.result() if measured.samples else None
        return figures
