"""A rehearsal: three steps of all that a run does, before hours are spent on it.

In: a config. Out: what was done, in one result, or the error that the run would have met. Promise: the folder in which the run is
going to write is tried; nothing stays in it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from dgraph.checkpoint import Checkpoint, open_checkpoint
from dgraph.config import Config
from dgraph.durable import faults
from dgraph.error import RunError
from dgraph.runtime.communicator import Communicator
from dgraph.train.loop import TrainOptions, train
from dgraph.train.worker import Worker

STEPS, SAVED = 3, 2
Finish = Callable[[Path, Mapping[str, Any], list[dict[str, Any]]], list[str]]
"""What a run does at its end, with its folder, result and entries: names of the files that it made."""


def smoke_config(config: Config) -> Config:
    """The same run, of three steps, each of which is logged; a checkpoint is written before the last, and at the end."""
    train_config = replace(
        config.train, steps=STEPS, epochs=None, stop=None, log_every=1, validate_every=1, checkpoint_every=1,
        checkpoint_steps=SAVED, keep=STEPS + 1,
    )  # fmt: skip
    return replace(config, train=train_config)


def smoke(worker: Worker, base: Path, finish: Finish) -> dict[str, Any]:
    """Trains, validates, evaluates and saves; goes on from the checkpoint before the last step, and compares all bits; then what
    `finish` does on rank 0. The worker is of a `smoke_config`. Collective.

    Raises RunError where going on gives something else, and whatever a run raises.
    """
    start = perf_counter()
    with _temporary(worker.communicator, base) as folder:
        entries: list[dict[str, Any]] = []
        result = _train(worker, folder / "whole", entries)
        _forget(worker)
        worker.load(folder / "whole" / "checkpoints" / f"step-{SAVED:06d}", states=True)
        again = _train(worker, folder / "again", [])
        whole, resumed = (open_checkpoint(folder / name) for name in ("whole", "again"))
        _compare(whole, resumed, result, again)
        nbytes = sum(path.stat().st_size for path in whole.path.iterdir())
        made = finish(folder, result, entries) if worker.communicator.rank == 0 else []
        worker.communicator.barrier()
    told = {key: result[key] for key in ("steps", "train", "validation", "test")}
    return {"ok": True, "seconds": perf_counter() - start, "checkpoint_nbytes": nbytes, "made": made} | told


def _train(worker: Worker, folder: Path, entries: list[dict[str, Any]]) -> dict[str, Any]:
    def note(entry: Mapping[str, Any]) -> None:
        entries.append(dict(entry))

    return train(worker, TrainOptions(folder, report=lambda entry: None, metrics=note, most=STEPS))


def _forget(worker: Worker) -> None:
    """Spoils all that a checkpoint brings back."""
    store = worker.engine.store
    for name, states in store.states.items():
        for found in (store.reading(name), store.writing(name)):
            if found is not None:
                found[1].fill(np.nan)
        for array in states.values():
            array.fill(np.nan)
    worker.step = worker.engine.updates = 0
    worker.memory, worker.best = {}, None


def _compare(whole: Checkpoint, resumed: Checkpoint, result: Mapping[str, Any], again: Mapping[str, Any]) -> None:
    for name, crcs in whole.checksums().items():
        if resumed.checksums().get(name) != crcs:
            raise RunError(f"a run that goes on at step {SAVED} ends with another {name}", "this is a defect of dgraph")
    for name in ("train", "validation", "test"):
        if result[name] != again[name]:
            raise RunError(
                f"a run that goes on at step {SAVED} has other figures of {name}", "this is a defect of dgraph"
            )


@contextmanager
def _temporary(communicator: Communicator, base: Path) -> Iterator[Path]:
    """A new folder in `base`, the same on all ranks, gone at the end. Made by rank 0."""
    made, chosen = [path for path in (base, *base.parents) if not path.exists()], None
    if communicator.rank == 0:
        with faults(base):
            base.mkdir(parents=True, exist_ok=True)
            chosen = tempfile.mkdtemp(prefix="smoke-", dir=base).encode()
    folder = Path(communicator.broadcast(chosen).decode())
    try:
        yield folder
    finally:
        if communicator.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            for path in made:
                with suppress(OSError):  # another run may have come to live in it
                    path.rmdir()
