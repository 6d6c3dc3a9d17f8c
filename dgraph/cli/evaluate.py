"""`dgraph evaluate`: loss and accuracy of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from dgraph.cli.line import result_line
from dgraph.cli.option import (
    checkpoint_option,
    config_argument,
    json_option,
    ranks_option,
    set_option,
    start_ranks,
    subset_option,
)
from dgraph.config import load_config
from dgraph.program import compile_config
from dgraph.runtime.connect import connected
from dgraph.train import Worker


@click.command("evaluate")
@config_argument
@ranks_option
@set_option
@json_option
@checkpoint_option
@subset_option
def command(
    config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, checkpoint: str, subset: str
) -> int:
    """Loss and accuracy of CONFIG with the parameters of a checkpoint, on any mesh."""
    status = start_ranks(config, overrides, ranks)
    if status is not None:
        return status
    worker: list[Worker] = []
    with connected(lambda: worker[0].where() if worker else "planning") as communicator:
        program = compile_config(load_config(config, overrides, communicator.size), training=False)
        worker.append(Worker(program, communicator))
        worker[0].load(Path(checkpoint), states=False)
        result = worker[0].evaluate(subset).result()
        if communicator.rank == 0:
            print(
                f"{subset}: loss {result['loss']:.4f}  accuracy {result['accuracy']:.4f}  ({result['samples']} samples)"
            )
            if as_json:
                result_line({"subset": subset, **result})
    return 0
