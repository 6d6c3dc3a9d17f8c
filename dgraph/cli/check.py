"""`dgraph check`: the proof of a plan for all ranks, without MPI."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dgraph.cli.line import as_bytes, result_line
from dgraph.cli.option import planned
from dgraph.config import load_config
from dgraph.program import compile_config

SHOWN_FINDINGS = 20


@click.command("check")
@planned
def command(config: str, ranks: int | None, overrides: Sequence[str], as_json: bool) -> int:
    """Prove CONFIG's plan for all ranks: tiling, coverage, matching, progress; and its peak memory."""
    program = compile_config(load_config(config, overrides, ranks))
    findings, peaks = program.check()
    for finding in findings[:SHOWN_FINDINGS]:
        print(finding)
    if not findings:
        memory = f"peak {as_bytes(max(peaks))} on a rank, {as_bytes(sum(peaks))} in all"
        print(f"ok: {program.ranks} ranks, {len(program.graph.ops)} ops; {memory}")
    if as_json:
        shown = [
            {
                "rule": f.rule,
                "node": f.node,
                "ranks": list(f.ranks),
                "rect": str(f.rect) if f.rect else None,
                "text": f.text,
            }
            for f in findings
        ]
        result_line({"ok": not findings, "findings": shown, "ranks": program.ranks, "peak_nbytes": peaks})
    return 2 if findings else 0
