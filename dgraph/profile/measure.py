"""Some steps of training with a clock at every node, and what all ranks found put together.

In: a worker. Out: `Profile` on rank 0: what a table or JSON shows, and the events of a timeline. Promise: seconds are means over
the steps; the first steps, in which caches fill, are left out.

    seconds   of a node: the mean over the ranks that have it; imbalance: the longest of them over that mean
    exposed   what a rank spent on transfers: it started them, looked after them, waited for them (waiting: the last alone)
    hidden    what of transfers was under way while the rank did something else
    share     the shortest time that the roofline allows for operations and bytes, of the time that it took
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from dgraph.profile.roof import Roof, measure_roof
from dgraph.profile.work import Work, work_of
from dgraph.runtime.communicator import Communicator
from dgraph.trace import Recorder, events_text, timeline_text
from dgraph.train import Worker

WARM = 2
"""Steps before the first one that counts."""
ROOF_SECONDS = 0.5
"""For each of the two rates of the machine."""
TRANSFER = ("start", "look", "wait")


@dataclass(frozen=True)
class Profile:
    """`result` is what was found, as JSON holds it; `timeline` the text of a file that Perfetto opens."""

    result: dict[str, Any]
    timeline: str


def profile(worker: Worker, steps: int, roof_seconds: float = ROOF_SECONDS) -> Profile | None:
    """Trains for some steps under a clock; None but on rank 0. Collective."""
    communicator, program = worker.communicator, worker.program
    roof = measure_roof(communicator, program.config.dtype, roof_seconds)
    batches = worker.training_batches(shuffle=True)
    seconds: list[float] = []
    recorder = Recorder(communicator.rank)
    for k in range(WARM + steps):
        if k == WARM:
            communicator.barrier()
            recorder = Recorder(communicator.rank)
        indices = batches.indices(*divmod(worker.step, batches.steps))
        start = perf_counter()
        worker.train_step(indices, recorder if k >= WARM else None)
        seconds.append(perf_counter() - start)
    worker.engine.finish()
    mine = _of_rank(worker, recorder.events(), seconds[WARM:], roof)
    texts = communicator.gather(events_text(recorder.events()).encode())
    found = _gathered(communicator, mine)
    if found is None or texts is None:
        return None
    head = {"name": program.config.name, "backend": program.backend.name, "ranks": len(found), "steps": steps}
    return Profile(head | _together(found), timeline_text(text.decode() for text in texts))


def _gathered(communicator: Communicator, mine: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    parts = communicator.gather(json.dumps(mine).encode())
    return None if parts is None else [json.loads(part) for part in parts]


# --- one rank


def _of_rank(
    worker: Worker, events: Sequence[Mapping[str, Any]], seconds: Sequence[float], roof: Roof
) -> dict[str, Any]:
    """Means over the steps of one rank."""
    schedule, optimizer, count = worker.engine.schedule, worker.program.optimizer, len(seconds)
    works = work_of(schedule, len(optimizer.states), worker.engine.store.dtype.itemsize)
    nodes: dict[tuple[str, str], dict[str, Any]] = {}
    transfers: dict[str, dict[str, Any]] = {}
    for event in events:
        verb = event["verb"]
        if verb in ("start", "wait"):
            _add_transfer(transfers.setdefault(event["node"], _no_transfer(event["node"])), event, count)
        elif verb not in TRANSFER:
            entry = nodes.setdefault((event["node"], verb), {"seconds": 0.0, "times": 0})
            entry["seconds"] += event["seconds"] / count
            entry["times"] += 1
    exposed = sum(event["seconds"] for event in events if event["verb"] in TRANSFER) / count
    return {
        "step_seconds": sum(seconds) / count,
        "compute_seconds": sum(entry["seconds"] for entry in nodes.values()),
        "exposed_seconds": exposed,
        "waiting_seconds": sum(entry["waiting_seconds"] for entry in transfers.values()),
        "hidden_seconds": sum(entry["hidden_seconds"] for entry in transfers.values()),
        "roof_gflops": roof.flops / 1e9,
        "roof_gbytes": roof.nbytes / 1e9,
        "nodes": [_node(key, entry, works[key], count, roof) for key, entry in nodes.items()],
        "transfers": [*transfers.values()],
    }


def _no_transfer(name: str) -> dict[str, Any]:
    return {"transfer": name, "seconds": 0.0, "waiting_seconds": 0.0, "hidden_seconds": 0.0, "nbytes": 0.0}


def _add_transfer(entry: dict[str, Any], event: Mapping[str, Any], steps: int) -> None:
    entry["seconds"] += event["seconds"] / steps
    entry["waiting_seconds"] += event["seconds"] / steps if event["verb"] == "wait" else 0.0
    entry["hidden_seconds"] += event.get("hidden", 0.0) / steps
    entry["nbytes"] += event["bytes"] / steps


def _node(key: tuple[str, str], entry: Mapping[str, Any], work: Work, steps: int, roof: Roof) -> dict[str, Any]:
    """A node's time and work in a step; it may be done once a batch, of which a step may have several."""
    times = entry["times"] / work.steps / steps
    flops, nbytes = work.flops * times, work.nbytes * times
    return {
        "node": key[0],
        "kind": work.kind,
        "seconds": entry["seconds"],
        "flops": flops,
        "nbytes": nbytes,
        "least_seconds": roof.seconds(flops, nbytes),
    }


# --- all ranks


def _together(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is known of all ranks: their own figures, and nodes, kinds and transfers over all of them."""
    own = [{"rank": number, **_without(rank, "nodes", "transfers")} for number, rank in enumerate(ranks)]
    step = max(rank["step_seconds"] for rank in ranks)
    nodes = [_merged(entries, ("node", "kind"), step) for entries in _by("node", "kind", ranks=ranks)]
    kinds = [_merged(entries, ("kind",), step) for entries in _by("kind", ranks=ranks)]
    return {
        "step_seconds": step,
        "per_rank": own,
        "nodes": sorted(nodes, key=lambda entry: -entry["seconds"]),
        "kinds": sorted(kinds, key=lambda entry: -entry["seconds"]),
        "transfers": _all_transfers(ranks),
    }


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _by(*keys: str, ranks: Sequence[Mapping[str, Any]]) -> Iterable[list[list[dict[str, Any]]]]:
    """The nodes of every rank that are alike in these keys: for each such lot, a list a rank that has any."""
    lots: dict[tuple[str, ...], dict[int, list[dict[str, Any]]]] = {}
    for number, rank in enumerate(ranks):
        for entry in rank["nodes"]:
            lot = lots.setdefault(tuple(entry[key] for key in keys), {})
            lot.setdefault(number, []).append(entry)
    return [[*lot.values()] for lot in lots.values()]


def _merged(lot: Sequence[Sequence[Mapping[str, Any]]], keys: Sequence[str], step: float) -> dict[str, Any]:
    """One row over the ranks that have it."""

    def sums(key: str) -> list[float]:
        return [sum(entry[key] for entry in entries) for entries in lot]

    seconds = sums("seconds")
    total, mean = sum(seconds), sum(seconds) / len(lot)
    return {
        **{key: lot[0][0][key] for key in keys},
        "seconds": mean,
        "of_step": mean / step,
        "gflops": sum(sums("flops")) / max(total, 1e-12) / 1e9,
        "gbytes": sum(sums("nbytes")) / max(total, 1e-12) / 1e9,
        "share": sum(sums("least_seconds")) / max(total, 1e-12),
        "imbalance": max(seconds) / max(mean, 1e-12),
        "ranks": len(lot),
    }


def _all_transfers(ranks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over the ranks that take part, the bytes of all; those that cost most come first."""
    lots: dict[str, list[dict[str, Any]]] = {}
    for rank in ranks:
        for entry in rank["transfers"]:
            lots.setdefault(entry["transfer"], []).append(entry)
    merged = []
    for name, lot in lots.items():
        means = {key: sum(e[key] for e in lot) / len(lot) for key in ("seconds", "waiting_seconds", "hidden_seconds")}
        merged.append({"transfer": name, **means, "nbytes": sum(e["nbytes"] for e in lot), "ranks": len(lot)})
    return sorted(merged, key=lambda entry: -entry["seconds"])
