"""`dgraph evaluate`: loss and accuracy of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dgraph.cli.line import result_line
from dgraph.cli.option import start_ranks
from dgraph.cli.session import measuring, trained


@click.command("evaluate")
@measuring
def command(
    config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, checkpoint: str, subset: str
) -> int:
    """Loss and accuracy of CONFIG with the parameters of a checkpoint, on any mesh."""
    status = start_ranks(config, overrides, ranks)
    if status is not None:
        return status
    with trained(config, overrides, checkpoint) as worker:
        result = worker.evaluate(subset).result()
        if worker.communicator.rank == 0:
            print(
                f"{subset}: loss {result['loss']:.4f}  accuracy {result['accuracy']:.4f}  ({result['samples']} samples)"
            )
            if as_json:
                result_line({"subset": subset, **result})
    return 0
