"""`dgraph tune`: a search; starts the ranks, or is one of them, or starts a job for every trial."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from dgraph.cli.face import table
from dgraph.cli.line import result_line
from dgraph.cli.option import backend_option, config_argument, json_option, mesh_ranks, ranks_option, set_option
from dgraph.config import Config, TuneConfig, load_config, to_yaml
from dgraph.config.plain import plain_value
from dgraph.config.reader import literal
from dgraph.error import ConfigError, DgraphError, RunError
from dgraph.runtime.communicator import Communicator
from dgraph.runtime.connect import connected
from dgraph.runtime.environment import launched
from dgraph.runtime.launch import launch
from dgraph.tune import InsideRunner, ProcessRunner, Search, Store, Table, examine
from dgraph.tune.search import Load


@click.command("tune")
@config_argument
@ranks_option
@click.option("--side", type=click.IntRange(1), default=1, show_default=True,
              help="How many trials at a time, each on an equal part of the ranks.")  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(1), help="Start `dgraph train -n RANKS` for every trial, so many at a time."
)
@click.option("--submit", metavar="COMMAND",
              help="What starts a trial's ranks in place of -n, and waits: 'srun -n 4' (with --jobs).")  # fmt: skip
@set_option
@backend_option
@json_option
@click.option("--run", "run_path", type=click.Path(), help="The folder of the search (default: a new one in runs/).")
@click.option("--resume", type=click.Path(), help="The folder of a search to go on with.")
@click.option("--pictures/--no-pictures", default=True, envvar="DGRAPH_PICTURES",
              help="Draw the figure against each key at the end (default), if matplotlib is installed.")  # fmt: skip
def command(config: str, ranks: int | None, side: int, jobs: int | None, submit: str | None, overrides: Sequence[str],
            as_json: bool, run_path: str | None, resume: str | None, pictures: bool) -> int:  # fmt: skip
    """Search as the section `tune` of CONFIG says, every trial a run of its own; then a table, and the best config.

    A search that was stopped, at any time, goes on with --resume: trials that are done are not done again."""
    _check_options(side, jobs, submit, run_path, resume)
    per, wanted = _ranks(config, overrides, ranks, side, jobs)
    if launched() is None and not jobs and wanted > 1:
        return launch(wanted, sys.argv[1:])

    def load(extra: Sequence[str] = ()) -> Config:
        return load_config(config, (*overrides, *extra), per)

    start, at = perf_counter(), [lambda: "reading the config"]
    with connected(lambda: at[0]()) as communicator:
        loaded = load()
        tune = examine(loaded, load)
        store = _store(communicator, run_path, resume, loaded)
        runner: InsideRunner | ProcessRunner
        if jobs:
            words = shlex.split(submit) if submit else []
            runner = ProcessRunner(store, config, overrides, per, jobs, words, print)
        else:
            inside = runner = InsideRunner(store, communicator, side, load, _tell)
            at[0] = lambda: inside.where
        found = Search(tune, loaded.seed, store, runner, communicator, _tell).run()
        if communicator.rank == 0:
            _say(found, loaded, load, store, perf_counter() - start, pictures, as_json)
    return 0


def _check_options(side: int, jobs: int | None, submit: str | None, run: str | None, resume: str | None) -> None:
    if jobs and (side > 1 or launched() is not None):
        raise click.UsageError("--jobs starts ranks itself: it goes without --side, and not under a launcher")
    if submit and not jobs:
        raise click.UsageError("--submit goes with --jobs")
    if run and resume:
        raise click.UsageError("--run names a new folder, --resume one to go on with")


def _ranks(config: str, overrides: Sequence[str], ranks: int | None, side: int, jobs: int | None) -> tuple[int, int]:
    """Ranks of a trial, and of the whole job."""
    task = launched()
    total = task.size if task is not None else ranks
    if total is None or jobs:
        per = mesh_ranks(load_config(config, overrides, ranks))
        return per, per * side
    if total % side:
        raise ConfigError(
            f"--side {side} does not divide {total} ranks", "every trial gets as many ranks as the others"
        )
    per = total // side
    return mesh_ranks(load_config(config, overrides, per)), total


def _store(communicator: Communicator, run: str | None, resume: str | None, config: Config) -> Store:
    """The folder of the search: rank 0 opens it and tells the others where it is. Collective."""
    content = None
    if communicator.rank == 0:
        opened = Store.begin(Path(run) if run else None, Path(resume) if resume else None, config)
        content = str(opened.path).encode()
    return Store(Path(communicator.broadcast(content).decode()))


def _tell(text: str) -> None:
    print(text, flush=True)


def _say(found: Table, config: Config, load: Load, store: Store, seconds: float, pictures: bool, as_json: bool) -> None:
    """The table, the best config, the picture. Raises RunError where every trial failed."""
    best = found.best
    result: dict[str, Any] = found.plain() | {"seconds": seconds, "run": str(store.path)}
    store.write("results.json", json.dumps(result, indent=1) + "\n")
    table(f"{config.name}: {found.tune.metric}, {found.tune.mode}", found.columns, found.texts())
    if best is None:
        raise RunError("no trial came to a good end", f"what failed is in {store.path}")
    values = load(
        (*(f"{path}={json.dumps(plain_value(value))}" for path, value in best.point.values.items()), "tune=null")
    )
    resolved = values.resolved()
    mesh = values.tree.value.get("mesh") if isinstance(values.tree.value, dict) else None
    if mesh is not None:  # as it was written, an axis perhaps auto
        resolved["mesh"] = plain_value(literal(mesh, "mesh"))
    store.write("best.yaml", to_yaml(resolved))
    if pictures:
        _picture(found, found.tune, config.name, store)
    print(f"{len(found.rows)} points in {seconds:.1f} s; best: dgraph train {store.path / 'best.yaml'}")
    if as_json:
        result_line(result)


def _picture(found: Table, tune: TuneConfig, name: str, store: Store) -> None:
    """Draws the figure against each key; what goes wrong is told in a line."""
    try:
        room = import_module("dgraph.picture")
        figure = room.draw_search(
            found.plain()["trials"], (*tune.keys, *tune.grid), found.logarithmic, tune.metric, name
        )
        room.save(figure, store.path / "results.png")
    except DgraphError as error:
        print(f"no picture: {error.what} ({error.hint})")
