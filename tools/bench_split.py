"""A step on two ranks that split space, beside two copies of the step on one rank, at the same time on the same cores.

In: two ranks; networks with large samples. Out: rows whose ratio is the share of the copies' steps a second that the split reaches:
1 would be a split without any cost. Promise: the copies are measured first and are gone before the split begins, so that what has
to fit into memory is two copies.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from statistics import median

from bench_network import Network
from bench_rate import available_nbytes, total
from bench_row import Options, Row, Skipped
from bench_turn import in_turn, timed
from dgraph.program import Program, compile_config
from dgraph.runtime.communicator import Communicator, OneRank
from dgraph.train import Worker

NETWORKS = {
    "unet3d": Network("unet3d", 1, (3, 96, 96, 96), ("data.label_shape=[1, 96, 96, 96]",)),
    "resnet50": Network("resnet50", 1, (3, 512, 512), ("layers.conv.split={H: p}",)),
}
GOAL = 0.85


def program_of(network: Network, backend: str, ranks: int, options: Options) -> Program:
    """The network for so many ranks."""
    overrides = [*network.overrides(), f"backend={backend}", *options.overrides]
    return compile_config(network.load(overrides, ranks))


def steps(program: Program, communicator: Communicator, ranks: Communicator, options: Options) -> list[float]:
    """Seconds of steps of a program on its own communicator, taken by all `ranks` at once. Collective over these."""
    gc.collect()  # what was measured before is gone
    worker = Worker(program, communicator)
    indices = worker.training_batches(shuffle=False).indices(0, 0)

    def step() -> None:
        worker.train_step(indices)

    step()
    return [row[0] for row in in_turn([timed(step, communicator)], options, ranks)]


def measured(case: str, network: Network, backend: str, options: Options, ranks: Communicator) -> Row | Skipped:
    """One network on one backend. Collective."""
    alone = program_of(network, backend, 1, options)
    needed = ranks.size * alone.schedule(alone.plan(0)).peak_nbytes
    if total(ranks, float(needed > available_nbytes())) > 0:
        return Skipped(case, f"{ranks.size} copies need {needed / 2**30:.1f} GiB of memory ({backend} kernels)")
    copies = [total(ranks, 1 / seconds) for seconds in steps(alone, OneRank(), ranks, options)]
    split = steps(program_of(network, backend, ranks.size, options), ranks, ranks, options)
    count = min(len(copies), len(split))
    share = median(1 / (mine * both) for mine, both in zip(split[:count], copies[:count], strict=True))
    more = {"backend": backend, "ranks": ranks.size, "pairs": count}
    return Row(case, median(split), 1 / median(copies), share, GOAL, least=True, more=more)


def run(options: Options, communicator: Communicator) -> Iterator[Row | Skipped]:
    """The rows that were asked for. Collective."""
    for name, network in NETWORKS.items():
        if options.wants(f"split.{name}"):
            for backend in options.backends:
                yield measured(f"split.{name}", network, backend, options, communicator)
