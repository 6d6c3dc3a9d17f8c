"""The same from Python: a network loaded, planned, checked, traced and trained.

In: a config file. Out: `Network`. Promise: what the commands do, these methods do, with the same results as plain values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from dgraph.config import Config, load_config
from dgraph.layout.dump import dump
from dgraph.ops import OPS
from dgraph.plan.check import Finding
from dgraph.program import Program, compile_config, plan_summary
from dgraph.runtime.communicator import Communicator, OneRank
from dgraph.summary import summarize
from dgraph.train import TrainOptions, Worker, train
from dgraph.verify import verify


@dataclass(frozen=True)
class Network:
    """A network and the mesh that it is placed on."""

    config: Config

    @cached_property
    def program(self) -> Program:
        """Graph, layout, plans and schedules."""
        return compile_config(self.config)

    def check(self) -> list[Finding]:
        """What is wrong with the plans of all ranks; empty if nothing is."""
        return self.program.check()[0]

    def plan(self, rank: int) -> dict[str, Any]:
        """Messages, bytes and memory of one rank."""
        summary: dict[str, Any] = plan_summary(self.program, [rank])["ranks"][0]
        return summary

    def trace(self, rank: int) -> dict[str, Any]:
        """Every node of one rank with its dims and rects."""
        return dump(self.program.layout, rank, OPS)

    def summary(self, depth: int | None = None) -> dict[str, Any]:
        """Outputs, parameters and multiply-accumulates of every layer, and totals; `depth` folds blocks."""
        return summarize(self.config, depth).plain()

    def verify(self, steps: int = 5) -> dict[str, Any]:
        """Relative differences to a run on one rank after some steps; the ranks are threads of this process."""
        return verify(self.config, steps)

    def train(self, communicator: Communicator | None = None, folder: str | PathLike[str] | None = None,
              resume: str | PathLike[str] | None = None) -> dict[str, Any]:  # fmt: skip
        """Trains as the config says; without a communicator on one rank. Collective over the communicator's ranks.

        `folder` gets checkpoints; `resume` is a checkpoint or run folder to go on from.
        """
        worker = Worker(self.program, communicator or OneRank())
        if resume is not None:
            worker.load(Path(resume), states=True)
        options = TrainOptions(
            folder=Path(folder) if folder is not None else None,
            report=lambda entry: None,
        )
        return train(worker, options)


def load(path: str | PathLike[str], overrides: Sequence[str] = (), ranks: int | None = None) -> Network:
    """A network from a config file. Raises ConfigError where it says something wrong."""
    return Network(load_config(fspath(path), tuple(overrides), ranks))
