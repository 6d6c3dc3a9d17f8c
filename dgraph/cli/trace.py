"""`dgraph trace`: every node of one rank with its dims and rects, without MPI."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from dgraph.cli.line import result_line
from dgraph.cli.option import planned, rank_option, require_rank
from dgraph.config import load_config
from dgraph.durable import faults, replace
from dgraph.error import ConfigError
from dgraph.layout.dump import dump, dump_text
from dgraph.layout.picture import dot
from dgraph.ops import OPS
from dgraph.program import Program, compile_config


@click.command("trace")
@planned
@rank_option
@click.option("--format", "form", type=click.Choice(["text", "json", "dot", "svg"]), default="text", show_default=True)
@click.option("-o", "--output", type=click.Path(), help="Write into a file instead of stdout.")
def command(config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, rank: int | None, form: str,
            output: str | None) -> None:  # fmt: skip
    """Print every node of CONFIG with its dims and rects on one rank (0 unless --rank says)."""
    program = compile_config(load_config(config, overrides, ranks))
    chosen = require_rank(rank or 0, program.ranks)
    text = render(program, chosen, form)
    if output is None:
        sys.stdout.write(text)
    else:
        with faults(Path(output)):
            replace(Path(output), text.encode())
    if as_json:
        result_line(dump(program.layout, chosen, OPS))


def render(program: Program, rank: int, form: str) -> str:
    """The dump of one rank as text, json, dot or svg."""
    if form == "json":
        return json.dumps(dump(program.layout, rank, OPS), indent=1) + "\n"
    if form == "text":
        return dump_text(program.layout, rank, OPS)
    picture = dot(program.layout, rank, OPS)
    return picture if form == "dot" else _svg(picture)


def _svg(picture: str) -> str:
    program = shutil.which("dot")
    if program is None:
        raise ConfigError("svg needs Graphviz, and there is no `dot` on PATH", "install graphviz, or use --format dot")
    return subprocess.run([program, "-Tsvg"], input=picture, capture_output=True, text=True, check=True).stdout
