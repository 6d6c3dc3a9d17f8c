"""`dgraph predict`: class probabilities of a checkpoint, into a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

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
from dgraph.durable import faults, replace
from dgraph.program import compile_config
from dgraph.runtime.connect import connected
from dgraph.train import Worker, predict


@click.command("predict")
@config_argument
@ranks_option
@set_option
@json_option
@checkpoint_option
@subset_option
@click.option("-o", "--output", type=click.Path(), default="predictions.npz", show_default=True)
def command(config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, checkpoint: str, subset: str,
            output: str) -> int:  # fmt: skip
    """Write `index`, `class` and `probability` of every sample of a subset of CONFIG's data into an npz file."""
    status = start_ranks(config, overrides, ranks)
    if status is not None:
        return status
    worker: list[Worker] = []
    with connected(lambda: worker[0].where() if worker else "planning") as communicator:
        program = compile_config(load_config(config, overrides, communicator.size), training=False)
        worker.append(Worker(program, communicator))
        worker[0].load(Path(checkpoint), states=False)
        found = predict(worker[0], subset)
        if found is not None:
            classes = found["probability"].argmax(axis=1)
            content = io.BytesIO()
            np.savez(content, allow_pickle=False, **found, **{"class": classes})
            with faults(Path(output)):
                replace(Path(output), content.getvalue())
            print(f"{len(found['index'])} predictions in {output}")
            if as_json:
                result_line({"output": output, "samples": len(found["index"])})
    return 0
