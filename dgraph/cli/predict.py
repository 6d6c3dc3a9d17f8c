"""`dgraph predict`: what a checkpoint says of samples, into a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from dgraph.cli.line import result_line
from dgraph.cli.option import start_ranks
from dgraph.cli.session import measuring, trained
from dgraph.durable import faults, replace
from dgraph.predict import predict


@click.command("predict")
@measuring
@click.option("-o", "--output", type=click.Path(), default="predictions.npz", show_default=True)
def command(config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, checkpoint: str, best: bool,
            subset: str, output: str) -> int:  # fmt: skip
    """Write `index`, and `class` and `probability` (or `score`), or `prediction`, of every sample of a subset of CONFIG's data
    into an npz file."""
    status = start_ranks(config, overrides, ranks)
    if status is not None:
        return status
    with trained(config, overrides, checkpoint, best, subset) as worker:
        found = predict(worker, subset)
        if found is not None:
            content = io.BytesIO()
            np.savez(content, allow_pickle=False, **found)
            with faults(Path(output)):
                replace(Path(output), content.getvalue())
            print(f"{len(found['index'])} predictions in {output}")
            if as_json:
                result_line({"output": output, "samples": len(found["index"])})
    return 0
