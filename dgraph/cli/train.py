"""`dgraph train`: starts the ranks, or is one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from dgraph.cli.line import Progress, as_bytes, confusion_text, measured_text, result_line
from dgraph.cli.option import (
    backend_option,
    config_argument,
    confusion_option,
    json_option,
    ranks_option,
    set_option,
    start_ranks,
)
from dgraph.config import Config, load_config
from dgraph.error import DgraphError
from dgraph.program import compile_config
from dgraph.runtime.cause import warn
from dgraph.runtime.communicator import Communicator
from dgraph.runtime.connect import connected
from dgraph.runtime.environment import launched
from dgraph.runtime.stop import STATUS, listening
from dgraph.trace import Recorder
from dgraph.train import TrainOptions, Worker, train
from dgraph.train.folder import Folder
from dgraph.train.smoke import smoke, smoke_config

_TERMINAL = "DGRAPH_TERMINAL"


@click.command("train")
@config_argument
@ranks_option
@set_option
@backend_option
@json_option
@click.option("--run", "run_path", type=click.Path(), help="The run folder (default: a new one in runs/).")
@click.option("--resume", type=click.Path(), help="A run folder or checkpoint to go on from.")
@click.option(
    "--smoke", "rehearse", is_flag=True, help="Three steps of all that a run does, resuming included; nothing stays."
)
@click.option("--trace", "dump_trace", is_flag=True, help="Dump every rank's nodes and rects into the run folder.")
@confusion_option
@click.option("--events", is_flag=True, help="Record per-node events of every rank into the run folder.")
@click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard into the run folder.")
@click.option("--pictures/--no-pictures", default=True, envvar="DGRAPH_PICTURES",
              help="Draw curves and confusion matrix at the end (default), if matplotlib is installed.")  # fmt: skip
def command(config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, run_path: str | None,
            resume: str | None, rehearse: bool, dump_trace: bool, confusion: bool | None, events: bool,
            tensorboard: bool, pictures: bool) -> int:  # fmt: skip
    """Train CONFIG. With -n the ranks are started here; under mpirun or srun this process is one of them.

    SIGTERM or SIGUSR1, to any rank: the step is finished, a checkpoint written, and the exit status is 75."""
    if launched() is None and sys.stdout.isatty():  # Open MPI gives its ranks terminals, whatever reads them
        os.environ[_TERMINAL] = "1"
    if rehearse and (resume or dump_trace or events or tensorboard):
        raise click.UsageError("--smoke goes without --resume, --trace, --events and --tensorboard")
    status = start_ranks(config, overrides, ranks, stoppable=True)
    if status is not None:
        return status
    at = [""]
    worker: list[Worker] = []
    with connected(lambda: worker[0].where() if worker else at[0]) as communicator:
        at[0] = "reading the config"
        loaded = load_config(config, overrides, communicator.size)
        at[0] = "planning"
        worker.append(Worker(compile_config(smoke_config(loaded) if rehearse else loaded), communicator))
        if rehearse:
            told = smoke(worker[0], Path(run_path or "runs"), lambda *end: _pictures(loaded, *end) if pictures else [])
            if communicator.rank == 0:
                _say_smoke(told, as_json)
            return 0
        result, folder = _run(worker[0], loaded, run_path, resume, dump_trace, confusion, events, tensorboard)
        if communicator.rank == 0:
            if pictures and result["stopped"] != "asked":
                _pictures(loaded, folder.path, result, folder.metrics())
            _say(result | {"run": str(folder.path)}, as_json, bool(confusion))
        return STATUS if result["stopped"] == "asked" else 0


def _run(worker: Worker, config: Config, run_path: str | None, resume: str | None, dump_trace: bool,
         confusion: bool | None, events: bool, tensorboard: bool) -> tuple[dict[str, Any], Folder]:  # fmt: skip
    """The training itself, and where it wrote. Collective."""
    communicator = worker.communicator
    resumed = _run_of(resume) if resume else None
    folder = Folder(communicator, config.name, Path(run_path) if run_path else resumed, resumed)
    if resume:
        worker.load(Path(resume), states=True)
    board = _board(communicator, folder, worker.step) if tensorboard else None
    folder.describe(worker)
    if dump_trace:
        folder.write_trace(worker)
    recorder = Recorder(communicator.rank) if events else None
    progress = Progress(_TERMINAL in os.environ)

    def note(entry: Mapping[str, Any]) -> None:
        folder.append_metrics(entry)
        if board is not None:
            board(entry)

    with listening() as wish:
        options = TrainOptions(
            folder=folder.path,
            report=progress if communicator.rank == 0 else lambda entry: None,
            recorder=recorder,
            metrics=note,
            rewind=folder.rewind_metrics,
            confusion=confusion,
            wish=wish,
        )
        result = train(worker, options)
    if recorder is not None:
        folder.write_events(recorder)
    return result, folder


def _run_of(resume: str) -> Path | None:
    """The run folder that goes on; None where one checkpoint was named, with which a new run begins."""
    path = Path(resume)
    if path.name.startswith("step-"):
        return None
    return path.parent if path.name == "checkpoints" else path


def _board(communicator: Communicator, folder: Folder, step: int) -> Callable[[Mapping[str, Any]], None] | None:
    """What writes TensorBoard's event files, on rank 0. Raises ConfigError on all ranks where its library is missing."""
    room = import_module("dgraph.tensorboard")
    if communicator.rank:
        return None
    add: Callable[[Mapping[str, Any]], None] = room.Board(folder.path / "tensorboard", step).add
    return add


def _pictures(config: Config, folder: Path, result: Mapping[str, Any], entries: list[dict[str, Any]]) -> list[str]:
    """Draws the curves and the confusion matrix; the names of the files. A training that has come so far is not lost for a picture:
    what goes wrong is told in a line."""
    try:
        room = import_module("dgraph.picture")
        made = {"curves.png": room.draw_curves(entries, config.name)}
        matrix = (result["test"] or {}).get("confusion")
        if matrix:
            made["confusion.png"] = room.draw_confusion(matrix, f"{config.name}: test")
        drawn = {name: figure for name, figure in made.items() if figure is not None}
        for name, figure in drawn.items():
            room.save(figure, folder / name)
    except DgraphError as error:
        print(f"no pictures: {error.what} ({error.hint})")
        return []
    except Exception as error:
        warn(f"no pictures: {type(error).__name__}: {error}")
        return []
    return [*drawn]


def _say(result: Mapping[str, Any], as_json: bool, confusion: bool) -> None:
    for name in ("train", "validation", "test"):
        found = result[name]
        if found:
            print(measured_text(name, found))
    if confusion and "confusion" in (result["test"] or {}):
        print(confusion_text(result["test"]["confusion"]))
    best = result["best"]
    if best:
        print(f"best validation: {best['metric']} {best['value']:.4g} in epoch {best['epoch']}, step {best['step']}")
    step_seconds, exposed, hidden = result["communication"].values()
    if exposed:
        print(
            f"communication: {exposed / step_seconds:.1%} of the steps' time, and {hidden / step_seconds:.1%} hidden behind work"
        )
    print(f"{result['steps']} steps in {result['seconds']:.2f} s; run folder {result['run']}")
    if result["stopped"] == "early":
        print("stopped early: validation did not get better any more")
    elif result["stopped"] == "asked":
        print(f"stopped as asked; --resume {result['run']} goes on")
    if as_json:
        result_line(result)


def _say_smoke(told: Mapping[str, Any], as_json: bool) -> None:
    made = f"; drew {' and '.join(told['made'])}" if told["made"] else ""
    print(
        f"smoke: ok: {told['steps']} steps, validation, evaluation, a checkpoint of {as_bytes(told['checkpoint_nbytes'])}, "
        f"resumed with the same bits{made}; {told['seconds']:.1f} s"
    )
    if as_json:
        result_line(told)
