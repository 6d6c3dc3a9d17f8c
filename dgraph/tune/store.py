"""The folder of a search: what is searched, every trial's run folder, what came of each.

In: a path, trials, outcomes. Out: files. Promise: an outcome is there whole or not at all; a folder that holds another search, or
one that is not gone on with, is left alone.

    search.json            the resolved config and its section `tune`, without the mesh
    trials/0007-1/         the run folder of a trial: point 7, second repetition
    trials/0007-1.json     what came of it; while it is not there, the trial is to be done
    results.json, best.yaml, results.png
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgraph.checkpoint import committed
from dgraph.config import Config
from dgraph.durable import faults, replace
from dgraph.error import ConfigError, DataError
from dgraph.run import RunFolder
from dgraph.tune.trial import Outcome, Trial

SEARCH = "search.json"


class Store:
    """The folder of a search, made when something is first written into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def begin(path: Path | None, resume: Path | None, config: Config) -> Store:
        """Opens a new folder (`path`, or one in runs/), or one to go on with. Raises ConfigError where it holds something else."""
        store = Store(resume or path or RunFolder(None, f"{config.name}-tune").path)
        plan = {key: value for key, value in config.resolved().items() if key != "mesh"}
        found = store._read(store.path / SEARCH)
        if resume is not None and found is None:
            raise DataError(f"{resume}: no search in it", "name a folder that dgraph tune has made")
        if resume is not None and found != json.loads(json.dumps(plan)):
            raise ConfigError(f"{resume} holds another search", "config and --set must be those that it began with")
        if resume is None and store.path.exists() and any(store.path.iterdir()):
            raise ConfigError(f"{store.path} is not empty", "--resume goes on with a search; or name another folder")
        if resume is None:
            store.write(SEARCH, json.dumps(plan, indent=1) + "\n")
        return store

    def folder(self, trial: Trial) -> Path:
        """The run folder of a trial."""
        return self.path / "trials" / trial.label

    def clear(self, trial: Trial) -> bool:
        """Whether a trial can go on from a checkpoint; where it cannot, what it left is removed."""
        folder = self.folder(trial)
        checkpoints = folder / "checkpoints"
        if checkpoints.is_dir() and committed(checkpoints):
            return True
        shutil.rmtree(folder, ignore_errors=True)
        return False

    def outcome(self, trial: Trial) -> Outcome | None:
        """What came of a trial; None if it is still to be done. Raises DataError where the file says something else."""
        path = self._file(trial)
        found = self._read(path)
        if found is None:
            return None
        if {key: found.get(key) for key in ("point", "seed", "values")} != json.loads(json.dumps(trial.plain())):
            raise DataError(f"{path}: it is of another trial", "the search cannot go on from this folder")
        return Outcome(found.get("result"), found.get("failure"))

    def record(self, trial: Trial, outcome: Outcome) -> None:
        """Writes down what came of a trial."""
        entry = {**trial.plain(), "result": outcome.result, "failure": outcome.failure}
        self.write(f"trials/{trial.label}.json", json.dumps(entry, indent=1) + "\n")

    def write(self, name: str, text: str) -> None:
        """Puts a file into the folder."""
        path = self.path / name
        with faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, text.encode())

    def _file(self, trial: Trial) -> Path:
        return self.folder(trial).with_name(f"{trial.label}.json")

    @staticmethod
    def _read(path: Path) -> Mapping[str, Any] | None:
        with faults(path):
            if not path.exists():
                return None
            try:
                found = json.loads(path.read_bytes())
            except ValueError as error:
                raise DataError(f"{path}: not JSON", str(error)) from None
        if not isinstance(found, dict):
            raise DataError(f"{path}: not a JSON object")
        return found
