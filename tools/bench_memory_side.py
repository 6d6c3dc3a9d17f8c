"""Some steps of training in a fresh process, and the memory that they took; started by `bench_memory`.

python tools/bench_memory_side.py dgraph NETWORK BACKEND        before the worker was made, at most, and as planned
python tools/bench_memory_side.py torch NETWORK FORMAT          at most
"""

from __future__ import annotations

import argparse
import json
import resource
from importlib import import_module
from pathlib import Path

from bench_network import NETWORKS
from dgraph.program import compile_config
from dgraph.runtime.communicator import OneRank
from dgraph.train import Worker

STEPS = 3
_STATUS = Path("/proc/self/status")


def peak() -> int:
    """The largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> int:
    """The resident set now."""
    found = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(found["VmRSS"].split()[0]) * 1024


def ours(network: str, backend: str, overrides: list[str]) -> dict[str, int]:
    """dgraph, with a batch that is read anew, as in a run."""
    chosen = NETWORKS[network]
    wanted = [*chosen.overrides(), "data.keep=false", f"backend={backend}", *overrides]
    program = compile_config(chosen.load(wanted, 1))
    before = resident()
    worker = Worker(program, OneRank())
    indices = worker.training_batches(shuffle=False).indices(0, 0)
    for _ in range(STEPS):
        worker.train_step(indices)
    return {"before": before, "peak": peak(), "planned": worker.engine.schedule.peak_nbytes}


def theirs(network: str, format_name: str) -> dict[str, int]:
    """PyTorch, with a batch that is there."""
    import_module("bench_torch_peer").train_alone(network, NETWORKS[network].batch, format_name, STEPS)
    return {"peak": peak()}


def main() -> None:
    """One side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=["dgraph", "torch"])
    parser.add_argument("network", choices=[*NETWORKS])
    parser.add_argument("how")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    asked = parser.parse_args()
    found = (
        ours(asked.network, asked.how, asked.overrides) if asked.side == "dgraph" else theirs(asked.network, asked.how)
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
