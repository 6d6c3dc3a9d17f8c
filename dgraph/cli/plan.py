"""`dgraph plan`: messages, bytes and memory of ranks, without MPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from dgraph.cli.face import table
from dgraph.cli.line import as_bytes, libraries_text, result_line
from dgraph.cli.option import planned, rank_option, require_rank
from dgraph.config import load_config
from dgraph.program import compile_config, plan_summary

MEMORY = {
    "arena": "for a while",
    "buffers": "lasting",
    "states": "optimizer",
    "staging": "staged messages",
    "ahead": "batches ahead",
    "library": "by the library",
}


@click.command("plan")
@planned
@rank_option
def command(config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, rank: int | None) -> None:
    """Messages, bytes sent and peak memory of every rank of CONFIG, or of one, with its tensors."""
    program = compile_config(load_config(config, overrides, ranks))
    chosen = range(program.ranks) if rank is None else [require_rank(rank, program.ranks)]
    summary = plan_summary(program, chosen)
    rows = [
        (entry["rank"], entry["messages"], as_bytes(entry["sent_nbytes"]), as_bytes(entry["peak_nbytes"]))
        for entry in summary["ranks"]
    ]
    table(
        f"{program.config.name}: {program.ranks} ranks, one training step", ["rank", "messages", "sent", "peak"], rows
    )
    parts = {name: what for name, what in MEMORY.items() if any(entry["memory"][name] for entry in summary["ranks"])}
    memory = [(entry["rank"], *(as_bytes(entry["memory"][name]) for name in parts)) for entry in summary["ranks"]]
    table("memory", ["rank", *parts.values()], memory)
    first = summary["ranks"][0]["tensors"]
    lines = [
        (name, _kind(t), t["messages"], as_bytes(t["sent_nbytes"]), as_bytes(t["received_nbytes"]), t["way"])
        for name, t in first.items()
    ]
    if lines:
        table(f"tensors of rank {chosen[0]}", ["tensor", "as", "messages", "sent", "received", "on the way"], lines)
        for kind, why in {t["kind"]: t["because"] for t in first.values()}.items():
            print(f"{kind}: {why}")
        for convoy in dict.fromkeys(t["convoy"] for t in first.values()):
            members = [name for name, t in first.items() if t["convoy"] == convoy]
            if len(members) > 1:
                print(f"together: {', '.join(members)}")
    if program.ranks > 1:
        peak = max(entry["spread_peak_nbytes"] for entry in summary["ranks"])
        print(f"updates: {summary['updates']}")
        print(f"on several hosts: peak {as_bytes(peak)}")
    print(libraries_text(summary["libraries"]))
    if as_json:
        result_line(summary)


def _kind(tensor: Mapping[str, Any]) -> str:
    """What a transfer is, and along which axes of the mesh."""
    return f"{tensor['kind']} {', '.join(tensor['axes'])}"
