"""The search itself: round after round, until every trial has an outcome.

In: a config, a store, a runner. Out: a `Table`. Promise: rank 0 reads what came of trials and tells the others, so that all ranks
go through the same rounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dgraph.config import Config, TuneConfig
from dgraph.data import subset
from dgraph.error import ConfigError, Place
from dgraph.metric import Metrics, heads_of
from dgraph.program import compile_config, data_spec
from dgraph.runtime.communicator import Communicator
from dgraph.tune.space import points_of, rounds_of, sampled, table
from dgraph.tune.store import Store
from dgraph.tune.table import Row, Table
from dgraph.tune.trial import Outcome, Point, Trial

Load = Callable[[Sequence[str]], Config]
"""The config with some overrides more."""


class Runner(Protocol):
    """What runs trials."""

    def run(self, trials: Sequence[Trial]) -> None:
        """Runs them all and records what comes of them. Collective."""


@dataclass(frozen=True)
class Search:
    """A search on the ranks of a communicator. `tell` gets a line now and then on rank 0."""

    tune: TuneConfig
    seed: int
    store: Store
    runner: Runner
    communicator: Communicator
    tell: Callable[[str], None]

    def run(self) -> Table:
        """Runs what is still to be done. Collective."""
        tune = self.tune
        rows: list[Row] = []
        for number in range(len(rounds_of(tune))):
            ranked = sorted((row for row in rows if row.score is not None), key=lambda row: row.rank(tune.mode))
            points = points_of(tune, number, [(row.point, float(row.score or 0)) for row in ranked])
            trials = [self._trials(point) for point in points]
            self._run([trial for some in trials for trial in some], number)
            outcomes = self._outcomes([trial for some in trials for trial in some])
            for point, some in zip(points, trials, strict=True):
                rows.append(Row.of(point, [outcomes[trial.label] for trial in some], tune))
        return Table(tune, tuple(rows))

    def _trials(self, point: Point) -> list[Trial]:
        repeats = self.tune.seeds
        labels = [f"{point.number:04d}" + (f"-{k}" if repeats > 1 else "") for k in range(repeats)]
        return [Trial(point, k, self.seed + k, label) for k, label in enumerate(labels)]

    def _run(self, trials: Sequence[Trial], number: int) -> None:
        found = self._outcomes(trials)
        todo = [trial for trial in trials if trial.label not in found]
        if self.communicator.rank == 0:
            done = f", {len(found)} done before" if found else ""
            self.tell(f"round {number + 1}: {len(todo)} trials{done}")
        self.runner.run(todo)

    def _outcomes(self, trials: Sequence[Trial]) -> dict[str, Outcome]:
        """What came of those trials that are done, by label, as rank 0 finds it. Collective."""
        content = None
        if self.communicator.rank == 0:
            found = {trial.label: self.store.outcome(trial) for trial in trials}
            known = {label: [one.result, one.failure] for label, one in found.items() if one is not None}
            content = json.dumps(known).encode()
        told: Mapping[str, Any] = json.loads(self.communicator.broadcast(content))
        return {label: Outcome(*entry) for label, entry in told.items()}


def examine(config: Config, load: Load) -> TuneConfig:
    """The section `tune`, found to be sound. Raises ConfigError, at its place in the section, for a path or value that does not fit
    the config, and for a figure that the network does not have."""
    if config.tune is None:
        hint = "such as tune: {trials: 20, keys: {train.optimizer.sgd.rate: {log_uniform: [1e-4, 1]}}}"
        raise ConfigError("the config has no section tune", hint, Place(config.source, 1, 1))
    tune = config.tune
    where = {path: f'tune.keys."{path}"' if path in tune.keys else f'tune.grid."{path}"' for path in sampled(tune)}
    for path, values in sampled(tune).items():
        for value in values:
            _try(config, load, where[path], {path: value})
    for name, case in tune.cases.items():
        _try(config, load, f'tune.cases."{name}"', case)
    program = compile_config(load(_first(tune, config.seed)))
    name, _, figure = tune.metric.partition(".")
    if figure not in Metrics(heads_of(program.forward)).result():
        known = ", ".join(key for key in Metrics(heads_of(program.forward)).result() if key not in ("samples", "heads"))
        raise ConfigError(f"tune.metric: the network has no {figure}", f"it has {known}", config.place("tune.metric"))
    if not len(subset(data_spec(program.config), program.data, name)):
        hint = "data.shares, or data.sets"
        raise ConfigError(f"tune.metric: there are no samples for {name}", hint, config.place("tune.metric"))
    return tune


def _first(tune: TuneConfig, seed: int) -> tuple[str, ...]:
    """The overrides of a trial that is like all others."""
    values = {path: values[0] for path, values in sampled(tune).items()}
    point = Point(0, 0, "", values) if tune.keys else table(tune)[0]
    return Trial(point, 0, seed, "").overrides()


def _try(config: Config, load: Load, where: str, values: Mapping[str, Any]) -> None:
    """Reads the config with some values; what is wrong with them is said where the section `tune` has them."""
    try:
        load(Trial(Point(0, 0, "", values), 0, config.seed, "").overrides())
    except ConfigError as error:
        place = config.place(where)
        raise ConfigError(f"{where.replace(chr(34), '')}: {error.what}", error.hint, place) from None
