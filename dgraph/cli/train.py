"""`dgraph train`: starts the ranks, or is one of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dgraph.cli.line import Progress, result_line, shown
from dgraph.cli.option import config_argument, confusion_option, json_option, ranks_option, set_option, start_ranks
from dgraph.config import load_config, to_yaml
from dgraph.layout.dump import dump_text
from dgraph.ops import OPS
from dgraph.program import compile_config, plan_summary
from dgraph.run import RunFolder, environment
from dgraph.runtime.communicator import Communicator
from dgraph.runtime.connect import connected
from dgraph.trace import Recorder, events_text, timeline_text
from dgraph.train import TrainOptions, Worker, train

_TERMINAL = "DGRAPH_TERMINAL"


@click.command("train")
@config_argument
@ranks_option
@set_option
@json_option
@click.option("--run", "run_path", type=click.Path(), help="The run folder (default: a new one in runs/).")
@click.option("--resume", type=click.Path(), help="A run folder or checkpoint to go on from.")
@click.option("--trace", "dump_trace", is_flag=True, help="Dump every rank's nodes and rects into the run folder.")
@confusion_option
@click.option("--events", is_flag=True, help="Record per-node events of every rank into the run folder.")
def command(config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, run_path: str | None,
            resume: str | None, dump_trace: bool, confusion: bool | None, events: bool) -> int:  # fmt: skip
    """Train CONFIG. With -n the ranks are started here; under mpirun or srun this process is one of them."""
    if sys.stdout.isatty():
        os.environ[_TERMINAL] = "1"
    status = start_ranks(config, overrides, ranks)
    if status is not None:
        return status
    at = [""]
    worker: list[Worker] = []
    with connected(lambda: worker[0].where() if worker else at[0]) as communicator:
        at[0] = "reading the config"
        loaded = load_config(config, overrides, communicator.size)
        at[0] = "planning"
        worker.append(Worker(compile_config(loaded), communicator))
        if resume:
            worker[0].load(Path(resume), states=True)
        path = run_path or (resume if resume and not Path(resume).name.startswith("step-") else None)
        folder = Folder(communicator, loaded.name, path)
        folder.describe(worker[0])
        if dump_trace:
            folder.write_trace(worker[0])
        recorder = Recorder(communicator.rank) if events else None
        options = TrainOptions(
            folder=folder.path,
            report=Progress(_TERMINAL in os.environ) if communicator.rank == 0 else lambda entry: None,
            recorder=recorder,
            metrics=folder.append_metrics,
            confusion=confusion,
        )
        result = train(worker[0], options)
        if recorder is not None:
            folder.write_events(recorder)
        if communicator.rank == 0:
            _say(result | {"run": str(folder.path)}, as_json)
    return 0


def _say(result: Mapping[str, Any], as_json: bool) -> None:
    for name in ("train", "validation", "test"):
        found = result[name]
        if found:
            print(f"{name}: {shown(found)}  ({found['samples']} samples)")
    print(f"{result['steps']} steps in {result['seconds']:.2f} s; run folder {result['run']}")
    if as_json:
        result_line(result)


class Folder:
    """The run folder as all ranks see it: rank 0 makes it and tells the others where it is."""

    def __init__(self, communicator: Communicator, name: str, path: str | None) -> None:
        self._communicator = communicator
        self._run = RunFolder(Path(path) if path else None, name) if communicator.rank == 0 else None
        chosen = str(self._run.path).encode() if self._run else None
        self.path = Path(communicator.broadcast(chosen).decode())

    def describe(self, worker: Worker) -> None:
        """The resolved config, the plan and the environment. Written by rank 0."""
        if self._run is None:
            return
        program = worker.program
        self._run.write_text("config.yaml", to_yaml(program.config.resolved()))
        few = range(min(program.ranks, 64))
        self._run.write_text("plan.json", json.dumps(plan_summary(program, few), indent=1) + "\n")
        facts = environment() | {"mpi": self._communicator.mpi, "ranks": self._communicator.size}
        self._run.write_text("environment.json", json.dumps(facts, indent=1) + "\n")

    def append_metrics(self, entry: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl. Written by rank 0."""
        if self._run is not None:
            self._run.append_metrics(dict(entry))

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
