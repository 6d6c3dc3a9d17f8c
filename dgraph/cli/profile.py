"""`dgraph profile`: where the time of a training step goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dgraph.cli.face import table
from dgraph.cli.line import as_bytes, result_line
from dgraph.cli.option import backend_option, config_argument, json_option, ranks_option, set_option, start_ranks
from dgraph.config import load_config
from dgraph.durable import faults, replace
from dgraph.profile import Profile, profile
from dgraph.program import compile_config
from dgraph.runtime.connect import connected
from dgraph.train import Worker


@click.command("profile")
@config_argument
@ranks_option
@set_option
@backend_option
@json_option
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True, help="Steps that count; two go before.")
@click.option("--top", type=click.IntRange(1), default=30, show_default=True, help="How many nodes are shown.")
@click.option("--timeline", type=click.Path(), help="Write a timeline of all ranks, for Perfetto.")
def command(config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, steps: int, top: int,
            timeline: str | None) -> int:  # fmt: skip
    """Train CONFIG for some steps with a clock at every node: time, rates, share of the roofline, communication, by node and kind.
    Nothing of the training is kept."""
    status = start_ranks(config, overrides, ranks)
    if status is not None:
        return status
    worker: list[Worker] = []
    with connected(lambda: worker[0].where() if worker else "planning") as communicator:
        program = compile_config(load_config(config, overrides, communicator.size))
        worker.append(Worker(program, communicator))
        found = profile(worker[0], steps)
        if found is not None:
            _say(found, top)
            if timeline is not None:
                with faults(Path(timeline)):
                    replace(Path(timeline), found.timeline.encode())
            if as_json:
                result_line(found.result)
    return 0


def _say(found: Profile, top: int) -> None:
    result = found.result
    nodes, kinds, transfers = result["nodes"], result["kinds"], result["transfers"]
    table(
        f"{result['name']}: {_ms(result['step_seconds'])} ms a step, {result['ranks']} ranks, {result['backend']} kernels",
        ["rank", "step ms", "compute ms", "exposed ms", "waiting ms", "hidden ms", "GEMM GFLOP/s", "copy GB/s"],
        [_rank(entry) for entry in result["per_rank"]],
    )
    columns = ["ms", "of step", "GFLOP/s", "GB/s", "of roof", "max/mean"]
    table("kinds", ["kind", *columns], [[briefly(entry["kind"], " "), *_rates(entry)] for entry in kinds])
    title = "nodes" if len(nodes) <= top else f"nodes, the first {top} of {len(nodes)} (--top shows more)"
    shown = [[briefly(entry["node"], "."), briefly(entry["kind"], " "), *_rates(entry)] for entry in nodes[:top]]
    table(title, ["node", "kind", *columns], shown)
    if transfers:
        title = "transfers" if len(transfers) <= top else f"transfers, the first {top} of {len(transfers)}"
        table(title, ["transfer", "ms", "waiting ms", "hidden ms", "sent"], [_transfer(t) for t in transfers[:top]])


def briefly(chain: str, mark: str) -> str:
    """The nodes, or kinds, of a chain, with what all of them begin or end with written once: `a.relu.grad + a.add.grad` is
    `a.(relu + add).grad`. Words end at marks."""
    names = [name.split(mark) for name in chain.split(" + ")]
    if len(names) < 2:
        return chain
    least = min(map(len, names)) - 1
    first = next((k for k in range(least) if len({name[k] for name in names}) > 1), least)
    last = next((k for k in range(least - first) if len({name[-1 - k] for name in names}) > 1), least - first)
    inner = " + ".join(mark.join(name[first : len(name) - last]) for name in names)
    return mark.join([*names[0][:first], f"({inner})" if first or last else inner, *names[0][len(names[0]) - last :]])


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def _rank(entry: Mapping[str, Any]) -> list[str]:
    times = [_ms(entry[f"{name}_seconds"]) for name in ("step", "compute", "exposed", "waiting", "hidden")]
    return [str(entry["rank"]), *times, f"{entry['roof_gflops']:.1f}", f"{entry['roof_gbytes']:.1f}"]


def _rates(entry: Mapping[str, Any]) -> list[str]:
    rates = [f"{entry['gflops']:.1f}", f"{entry['gbytes']:.1f}", f"{entry['share']:.0%}", f"{entry['imbalance']:.2f}"]
    return [_ms(entry["seconds"]), f"{entry['of_step']:.1%}", *rates]


def _transfer(entry: Mapping[str, Any]) -> list[str]:
    times = [_ms(entry[name]) for name in ("seconds", "waiting_seconds", "hidden_seconds")]
    return [entry["transfer"], *times, as_bytes(entry["nbytes"])]
