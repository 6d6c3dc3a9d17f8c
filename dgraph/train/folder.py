"""The run folder as all ranks see it: rank 0 makes it, writes it, and tells the others where it is.

In: a communicator, a path or a name; a worker. Out: config, plan, environment, metrics, traces and events as files. Promise: a
folder that holds a run is gone on with, or left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgraph.config import to_yaml
from dgraph.error import ConfigError
from dgraph.layout.dump import dump_text
from dgraph.ops import OPS
from dgraph.program import plan_summary
from dgraph.run import RunFolder, environment
from dgraph.runtime.communicator import Communicator
from dgraph.trace import Recorder, events_text, timeline_text
from dgraph.train.worker import Worker

FEW = 64
"""Ranks of which a run keeps the plan."""


class Folder:
    """Where a run writes: `path`, or a new folder. Making it is collective; nothing is written yet.

    Raises ConfigError where the folder holds a run that is not the one that goes on (`resumed`).
    """

    def __init__(self, communicator: Communicator, name: str, path: Path | None, resumed: Path | None) -> None:
        self._communicator = communicator
        self._run = RunFolder(path, name) if communicator.rank == 0 else None
        same = path is not None and resumed is not None and path.resolve() == resumed.resolve()
        if self._run is not None and not same and self._run.holds_a_run():
            raise ConfigError(f"{path} holds a run", f"--resume {path} goes on with it; or name another folder")
        chosen = str(self._run.path).encode() if self._run else None
        self.path = Path(communicator.broadcast(chosen).decode())

    def describe(self, worker: Worker) -> None:
        """The resolved config, the plan and the environment. Written by rank 0."""
        if self._run is None:
            return
        program = worker.program
        self._run.write_text("config.yaml", to_yaml(program.config.resolved()))
        few = range(min(program.ranks, FEW))
        self._run.write_text("plan.json", json.dumps(plan_summary(program, few), indent=1) + "\n")
        facts = environment() | {"mpi": self._communicator.mpi, "ranks": self._communicator.size}
        self._run.write_text("environment.json", json.dumps(facts, indent=1) + "\n")

    def rewind_metrics(self, step: int, again: bool) -> None:
        """Drops entries after a step, and with `again` that of the epoch that ends with it. Done by rank 0."""
        if self._run is not None:
            self._run.rewind_metrics(step, again)

    def append_metrics(self, entry: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl. Written by rank 0."""
        if self._run is not None:
            self._run.append_metrics(dict(entry))

    def metrics(self) -> list[dict[str, Any]]:
        """All entries of metrics.jsonl, on rank 0; none elsewhere."""
        return [] if self._run is None else self._run.metrics()

    def write_trace(self, worker: Worker) -> None:
        """`trace-rank<r>.txt` of every rank. Collective."""
        text = dump_text(worker.engine.layout, self._communicator.rank, OPS)
        self._write_all("trace-rank{}.txt", text)

    def write_events(self, recorder: Recorder) -> None:
        """`events-rank<r>.jsonl` of every rank, and `timeline.json` of all. Collective."""
        texts = self._write_all("events-rank{}.jsonl", events_text(recorder.events()))
        if self._run is not None:
            self._run.write_text("timeline.json", timeline_text(texts))

    def _write_all(self, name: str, text: str) -> list[str]:
        parts = self._communicator.gather(text.encode())
        if parts is None or self._run is None:
            return []
        texts = [part.decode() for part in parts]
        for rank, content in enumerate(texts):
            self._run.write_text(name.format(rank), content)
        return texts
