"""`dgraph summary`: a network by layers, without MPI and without a plan."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dgraph.cli.face import table
from dgraph.cli.line import as_bytes, libraries_text, result_line
from dgraph.cli.option import planned
from dgraph.config import load_config
from dgraph.rect import dim_text
from dgraph.summary import summarize

COLUMNS = ["layer", "kind", "output", "parameters", "macs", "parameter bytes", "output bytes"]


@click.command("summary")
@planned
@click.option(
    "--depth", type=click.IntRange(1), help="Fold blocks: how many parts of the dotted names of layers are told apart."
)
def command(config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, depth: int | None) -> None:
    """What every layer of CONFIG gives, its parameters, and its multiply-accumulates for one sample."""
    summary = summarize(load_config(config, overrides, ranks), depth)
    rows = [
        (row.name, row.kind, dim_text(row.dim), f"{row.parameters:,}", f"{row.macs:,}",
         as_bytes(row.parameter_nbytes), as_bytes(row.output_nbytes))
        for row in summary.layers
    ]  # fmt: skip
    total = ("total", "", "", f"{summary.parameters:,}", f"{summary.macs:,}", as_bytes(summary.parameter_nbytes), "")
    table(
        f"{summary.name}: outputs of a batch of {summary.batch}, multiply-accumulates (macs) of one sample",
        COLUMNS,
        [*rows, total],
    )
    print(libraries_text(summary.libraries))
    if as_json:
        result_line(summary.plain())
