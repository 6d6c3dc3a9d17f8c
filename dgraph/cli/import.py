"""`dgraph import`: an ONNX model as a config and a checkpoint, without MPI."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from dgraph.cli.line import result_line
from dgraph.cli.option import json_option
from dgraph.onnx.adopt import adopt


@click.command("import")
@click.argument("model", type=click.Path())
@click.option(
    "-o", "--output", type=click.Path(), help="A folder, or a .yaml file (default: a folder named after MODEL)."
)
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="The batch, where MODEL leaves it open."
)
@json_option
def command(model: str, output: str | None, batch: int, as_json: bool) -> None:
    """Write MODEL, an ONNX file, as a config in node form and a checkpoint that `train`, `evaluate` and `predict` take."""
    done = adopt(Path(model), Path(output) if output else None, batch)
    print(f"{done.config}: {done.nodes} nodes; {done.tensors} tensors in {done.checkpoint}/checkpoints")
    print(f"dgraph evaluate {done.config} --checkpoint {done.checkpoint}")
    if as_json:
        result_line(asdict(done))
