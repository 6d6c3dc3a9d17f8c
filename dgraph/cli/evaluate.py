"""`dgraph evaluate`: the loss of a checkpoint and other figures."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dgraph.cli.line import confusion_text, measured_text, result_line
from dgraph.cli.option import confusion_option, start_ranks
from dgraph.cli.session import measuring, trained


@click.command("evaluate")
@measuring
@confusion_option
def command(config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, checkpoint: str, best: bool,
            subset: str, confusion: bool | None) -> int:  # fmt: skip
    """Loss, accuracy or errors of CONFIG with the parameters of a checkpoint, on any mesh."""
    status = start_ranks(config, overrides, ranks)
    if status is not None:
        return status
    with trained(config, overrides, checkpoint, best, subset) as worker:
        result = worker.evaluate(subset, confusion).result()
        if worker.communicator.rank == 0:
            print(measured_text(subset, result))
            if "confusion" in result:
                print(confusion_text(result["confusion"]))
            if as_json:
                result_line({"subset": subset, **result})
    return 0
