"""`dgraph show`: a config, stage by stage, without MPI."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from dgraph.cli.line import as_bytes, result_line
from dgraph.cli.option import planned, rank_option, require_rank
from dgraph.config import load_config, to_yaml
from dgraph.graph.node import Graph
from dgraph.kernels.backend import Backend
from dgraph.layout.dump import dump, dump_text
from dgraph.ops import OPS
from dgraph.program import Program, compile_config, plan_summary
from dgraph.schedule.buffer import Placement
from dgraph.schedule.step import Compute, Fused, Measure, Start, Step, Update, Wait, Zero

STAGES = ("config", "graph", "layout", "plan", "schedule")


@click.command("show")
@planned
@rank_option
@click.option("--stage", type=click.Choice(STAGES), default="graph", show_default=True)
def command(
    config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, rank: int | None, stage: str
) -> None:
    """Print one stage of CONFIG; `--stage graph` is the expanded node form, a config that loads back to the same graph."""
    loaded = load_config(config, overrides, ranks)
    if stage == "config":
        values = loaded.resolved()
        print(to_yaml(values), end="")
    else:
        program = compile_config(loaded)
        values = _stage(program, stage, require_rank(rank or 0, program.ranks))
    if as_json:
        result_line(values)


def _stage(program: Program, stage: str, rank: int) -> dict[str, object]:
    """Prints a stage of one rank, and gives it as plain values."""
    if stage == "graph":
        values = program.expanded()
        print(to_yaml(values), end="")
        return values
    if stage == "layout":
        print(dump_text(program.layout, rank, OPS), end="")
        return dump(program.layout, rank, OPS)
    if stage == "plan":
        return _plan(program, rank)
    schedule = program.schedule(program.plan(rank))
    lines = [_step(step, program.graph, program.backend) + _over(step, schedule.placement) for step in schedule.steps]
    print("\n".join(f"{k:4d}  {line}" for k, line in enumerate(lines)))
    print(f"peak {as_bytes(schedule.peak_nbytes)}: {len(schedule.placement.buffers)} buffers, "
          f"staging {as_bytes(schedule.staging_nbytes)}, optimizer {as_bytes(schedule.state_nbytes)}, "
          f"scratch {as_bytes(schedule.workspace_nbytes)}, the library's own {as_bytes(schedule.library_nbytes)}")  # fmt: skip
    return {"rank": rank, "steps": lines, "peak_nbytes": schedule.peak_nbytes}


def _over(step: Step, placement: Placement) -> str:
    """Which tensors it writes over which, that nobody needs any more."""
    parts = step.parts if isinstance(step, Fused) else [step] if isinstance(step, Compute) else []
    there = {number for part in parts for number, _ in part.ports.values()}
    pairs = [(result, operand) for result, operand in placement.over.items() if {result, operand} <= there]
    names = [
        f"{placement.buffers[result].tensor} over {placement.buffers[operand].tensor}" for result, operand in pairs
    ]
    return f"  {', '.join(names)}" if names else ""


def _plan(program: Program, rank: int) -> dict[str, object]:
    plan = program.plan(rank)
    for name, transfer in plan.transfers.items():
        print(f"{name}: {transfer.kind}" + (f" over ranks {list(transfer.group)}" if transfer.group else ""))
        if not transfer.sums_in_place:
            for word, messages in (("to", transfer.sends), ("from", transfer.receives)):
                for peer, rect in messages:
                    print(f"  {word} rank {peer}: {rect}")
    for convoy in plan.convoys:
        if len(convoy.transfers) > 1:
            print(f"together: {', '.join(transfer.tensor for transfer in convoy.transfers)}")
    result: dict[str, object] = json.loads(json.dumps(plan_summary(program, [rank])))
    return result


def _step(step: Step, graph: Graph, backend: Backend) -> str:
    match step:
        case Compute(node=node, call=call):
            adds = f"  adds {sorted(call.accumulate)}" if call.accumulate else ""
            verb = "again   " if step.again else "compute "
            by = backend.maker((call.op, call.gradient)) + backend.way(call)
            return f"{verb} {node}  piece {call.piece}{adds}  by {by}"
        case Fused(node=node, chain=chain):
            inner = [dict(graph.ops[step.parts[k].node].outputs)[port] for k, port in sorted(chain.inner)]
            without = f"  without {inner}" if inner else ""
            verb = "again   " if step.parts[0].again else "fused   "
            return (
                f"{verb} {node}  piece {chain.calls[0].piece}{without}  by {backend.name}{backend.way(chain.calls[0])}"
            )
        case Zero(node=node, elided=elided):
            return f"zero     {node}" + ("  (elided: the first writer assigns)" if elided else "")
        case Measure(node=node, pieces=pieces):
            return f"measure  {node}  {' '.join(map(str, pieces))}"
        case Update(node=node, target=(_, rect)):
            return f"update   {node}  {rect}"
        case Start(convoy=convoy):
            return f"start    {convoy.name}  {convoy.kind} with {len(convoy.partners)}, {convoy.elements} elements"
        case Wait(convoy=convoy):
            return f"wait     {convoy.name}"
        case _:
            return f"feed     {step.node}"
