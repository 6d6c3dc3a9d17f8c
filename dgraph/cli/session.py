"""A rank with the parameters of a checkpoint, for commands that only look forward.

In: a config and a checkpoint. Out: a `Worker` inside a guarded communicator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from dgraph.cli.option import backend_option, best_option, config_argument, json_option, ranks_option, set_option
from dgraph.config import load_config
from dgraph.data import SUBSETS
from dgraph.program import compile_config, require_subset
from dgraph.runtime.connect import connected
from dgraph.train import Worker

F = TypeVar("F", bound=Callable[..., Any])
_checkpoint = click.option("--checkpoint", type=click.Path(), required=True, help="A checkpoint, or a run folder.")
_subset = click.option("--subset", type=click.Choice(SUBSETS), default="test", show_default=True)


def measuring(function: F) -> F:
    """The options of commands that run a checkpoint forward on a subset of the data."""
    for option in (_subset, best_option, _checkpoint, json_option, backend_option, set_option, ranks_option):
        function = option(function)
    return config_argument(function)


@contextmanager
def trained(config: str, overrides: Sequence[str], checkpoint: str, best: bool, subset: str) -> Iterator[Worker]:
    """This rank's worker with the checkpoint's parameters; the subset has samples. Collective."""
    worker: list[Worker] = []
    with connected(lambda: worker[0].where() if worker else "planning") as communicator:
        program = compile_config(load_config(config, overrides, communicator.size), training=False)
        require_subset(program.config, program.data, subset)
        worker.append(Worker(program, communicator))
        worker[0].load(Path(checkpoint), states=False, best=best)
        yield worker[0]
