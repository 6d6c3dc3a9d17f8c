"""Trials inside this job: its ranks in equal parts, each at a trial of its own.

In: trials, a communicator. Out: outcomes in the store. Promise: a trial that cannot be done is recorded by the part that
had it, and the others go on; a rank that fails in any other way ends the job, which can be gone on with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgraph.config import Config
from dgraph.error import CheckError, ConfigError, RunError
from dgraph.program import compile_config
from dgraph.run import as_json
from dgraph.runtime.communicator import Communicator
from dgraph.train import Ready, TrainOptions, Worker, train
from dgraph.train.folder import Folder
from dgraph.tune.store import Store
from dgraph.tune.trial import Outcome, Trial


@dataclass
class InsideRunner:
    """Runs `side` trials at a time. `load` gives the config with a trial's overrides for so many ranks as a part has; `where` is
    what this rank is at."""

    store: Store
    communicator: Communicator
    side: int
    load: Callable[[Sequence[str]], Config]
    tell: Callable[[str], None]
    where: str = ""
    _part: Communicator = field(init=False)
    _number: int = field(init=False)
    _ready: Ready | None = None

    def __post_init__(self) -> None:
        self._number = self.communicator.rank // (self.communicator.size // self.side)
        self._part = self.communicator.split(self._number)

    def run(self, trials: Sequence[Trial]) -> None:
        """See `Runner.run`."""
        for trial in trials[self._number :: self.side]:
            self.where = f"trial {trial.label}"
            part = self._part.split(0)  # what a trial made to talk goes with it
            outcome = self._outcome(trial, part)
            part.close()
            if self._part.rank == 0:
                self.store.record(trial, outcome)
                self.tell(f"trial {trial.label} {'failed' if outcome.failure else 'done'}")
        self.where = "waiting for the other trials"
        self.communicator.barrier()

    def _outcome(self, trial: Trial, part: Communicator) -> Outcome:
        """What comes of a trial: the same on all ranks of the part."""
        try:
            return Outcome(as_json(self._train(trial, part)), None)
        except (RunError, ConfigError, CheckError) as error:
            return Outcome(None, error.what + (f" ({error.hint})" if error.hint else ""))

    def _train(self, trial: Trial, part: Communicator) -> dict[str, Any]:
        path = self.store.folder(trial)
        goes_on = part.broadcast(b"1" if part.rank == 0 and self.store.clear(trial) else b"0") == b"1"
        worker = Worker(compile_config(self.load(trial.overrides())), part)
        folder = Folder(part, trial.label, path, path if goes_on else None)
        if goes_on:
            worker.load(Path(path), states=True)
        elif self._ready is not None:  # samples are fitted and read once for all trials of the same data
            worker.take_over(self._ready)
        folder.describe(worker)
        options = TrainOptions(
            folder=path, report=lambda entry: None, metrics=folder.append_metrics, rewind=folder.rewind_metrics
        )
        result = train(worker, options)
        self._ready = worker.ready
        return result
