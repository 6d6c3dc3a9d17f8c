"""`dgraph export`: a network and its values for other runtimes, without MPI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from dgraph.cli.line import result_line
from dgraph.cli.option import best_option, config_argument, json_option, set_option
from dgraph.config import load_config
from dgraph.onnx.export import export, require_suffix


@click.command("export")
@config_argument
@click.argument("output", type=click.Path())
@click.option("--checkpoint", type=click.Path(), help="A checkpoint, or a run folder (default: first values by seed).")
@best_option
@click.option("--any-batch", is_flag=True, help="Leave the extent of the batch open instead of fixing it.")
@set_option
@json_option
def command(config: str, output: str, checkpoint: str | None, best: bool, any_batch: bool,
            overrides: Sequence[str], as_json: bool) -> None:  # fmt: skip
    """Write CONFIG's network, as `predict` evaluates it, to OUTPUT: an .onnx model, or .safetensors for its values alone."""
    if best and checkpoint is None:
        raise click.UsageError("--best goes with --checkpoint")
    path = Path(output)
    require_suffix(path)
    done = export(load_config(config, overrides), Path(checkpoint) if checkpoint else None, path, any_batch, best)
    what = f"{done.nodes} nodes, " if done.nodes else ""
    print(f"{output}: {what}{done.elements} numbers in {done.tensors} tensors")
    if done.behind:
        print(f"its input is samples behind {', '.join(f'data.{key}' for key in done.behind)}")
    if as_json:
        result_line({"output": output, **asdict(done)})
