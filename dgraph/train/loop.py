"""The loop: steps, epochs, validation, checkpoints.

In: a worker, and what a run writes. Out: results as plain values. Promise: all ranks take the same decisions; what is reported
comes from rank 0 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from dgraph.kernels.call import Array
from dgraph.metric import FIGURES, Metrics
from dgraph.trace import Recorder
from dgraph.train.worker import Worker

Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class TrainOptions:
    """What a run writes. `folder` holds the run; `report` gets progress on rank 0; `confusion`: as `Worker.evaluate` of the test
    subset has it."""

    folder: Path | None
    report: Report
    recorder: Recorder | None = None
    metrics: Report = lambda entry: None
    confusion: bool | None = None


def train(worker: Worker, options: TrainOptions) -> dict[str, Any]:
    """Trains as the config says, from where the worker stands; the result has seconds, steps, and the metrics of each subset.
    Collective."""
    config = worker.program.config
    batches = worker.training_batches(config.data.shuffle)
    steps = config.train.steps if config.train.steps is not None else (config.train.epochs or 0) * batches.steps
    start = perf_counter()
    metrics = worker.new_metrics()
    while worker.step < steps:
        epoch, at = divmod(worker.step, batches.steps)
        following = batches.indices(*divmod(worker.step + 1, batches.steps)) if worker.step + 1 < steps else None
        values = worker.train_step(batches.indices(epoch, at), options.recorder, following)
        if values is not None:
            metrics.add(values)
            every = config.train.log_every
            if every and (worker.step % every == 0 or worker.step == steps):
                _report_step(worker, options, values, epoch, steps, start)
        if (at + 1 == batches.steps) or worker.step == steps:
            _end_of_epoch(worker, options, metrics, epoch + 1, worker.step == steps)
            metrics = worker.new_metrics() if worker.step < steps else metrics
    seconds = perf_counter() - start
    result: dict[str, Any] = {"seconds": seconds, "steps": worker.step, "train": None}
    if metrics.samples:
        result["train"] = metrics.result()
    for name, confusion in (("validation", False), ("test", options.confusion)):
        measured = worker.evaluate(name, confusion)
        result[name] = measured.result() if measured.samples else None
    return result


def _report_step(worker: Worker, options: TrainOptions, values: Array, epoch: int, steps: int, start: float) -> None:
    metrics = worker.new_metrics()
    metrics.add(values)
    result = metrics.result()
    kept = {name: value for name, value in result.items() if name in FIGURES or name == "heads"}
    entry = {
        "kind": "step",
        "step": worker.step,
        "steps": steps,
        "epoch": epoch + 1,
        **kept,
        "seconds": perf_counter() - start,
    }
    options.report(entry)
    options.metrics(entry)


def _end_of_epoch(worker: Worker, options: TrainOptions, metrics: Metrics, epoch: int, last: bool) -> None:
    """Validation and checkpoint, where the config asks for them. Collective."""
    train_config = worker.program.config.train
    entry: dict[str, Any] = {"kind": "epoch", "epoch": epoch, "step": worker.step, "train": metrics.result()}
    if train_config.validate_every and (epoch % train_config.validate_every == 0 or last):
        validation = worker.evaluate("validation")
        entry["validation"] = validation.result() if validation.samples else None
    options.report(entry)
    options.metrics(entry)
    every = train_config.checkpoint_every
    if options.folder is not None and every and (epoch % every == 0 or last):
        worker.save(options.folder / "checkpoints", train_config.keep)
