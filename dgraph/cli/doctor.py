"""`dgraph doctor`: what this machine and its MPI are, and whether they work."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from dgraph.cli.face import table
from dgraph.cli.line import result_line
from dgraph.cli.option import json_option, ranks_option
from dgraph.runtime.connect import connected
from dgraph.runtime.doctor import examine
from dgraph.runtime.environment import launched
from dgraph.runtime.launch import launch


@click.command("doctor")
@ranks_option
@json_option
def command(ranks: int | None, as_json: bool) -> int:
    """MPI library, ranks, threads, BLAS, and a self-test of 5 seconds."""
    if launched() is None and ranks is not None and ranks > 1:
        return launch(ranks, sys.argv[1:])
    with connected(lambda: "self-test") as communicator:
        found = examine(communicator)
        if communicator.rank == 0:
            table("dgraph doctor", ["what", "found"], list(_flat(found)))
            if as_json:
                result_line(found)
    return 0


def _flat(values: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested values as (dotted key, value)."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
