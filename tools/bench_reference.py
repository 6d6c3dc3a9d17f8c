"""The reference network at full size: its rate beside that of SGEMM on the same ranks, measured before and after it.

In: 4 ranks on 2 cores, and 10 GiB of memory; or what `--set` and `-n` say. Out: one row.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from time import perf_counter

import numpy as np

from bench_rate import gemm_rate, total
from bench_row import CONFIGS, Options, Row
from dgraph.config import load_config
from dgraph.program import compile_config
from dgraph.runtime.communicator import Communicator
from dgraph.schedule.step import Compute, Schedule
from dgraph.train import Worker

CONTRACTIONS = ("tiled", "conv", "linear")
GOAL = 0.85
STEPS = 3


def flops(schedule: Schedule) -> int:
    """Floating-point operations of one rank's contractions in a training step: two a point, once for every result."""
    total = 0
    for step in schedule.steps:
        if isinstance(step, Compute) and step.call.op in CONTRACTIONS:
            results = sum(port.endswith(".delta") and port != "output.delta" for port in step.call.rects)
            total += 2 * step.call.piece.volume * (results if step.call.gradient else 1)
    return total


def run(options: Options, communicator: Communicator) -> Iterator[Row]:
    """Seconds of a training step beside those that SGEMM would take for its operations. Collective."""
    config = load_config(CONFIGS / "reference.yaml", options.overrides, communicator.size)
    program = compile_config(config)
    worker = Worker(program, communicator)
    batches = worker.batches("train", shuffle=True)
    before = gemm_rate(communicator)
    seconds = []
    for step in range(options.steps or STEPS):
        communicator.barrier()
        start = perf_counter()
        worker.train_step(batches.indices(*divmod(step, batches.steps)))
        communicator.barrier()
        seconds.append(perf_counter() - start)
    after = gemm_rate(communicator)
    work = total(communicator, flops(worker.engine.schedule))
    peak = total(communicator, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    planned = total(communicator, worker.engine.schedule.peak_nbytes)
    median = sorted(seconds)[len(seconds) // 2]
    gemm = (before + after) / 2
    more = {
        "ranks": communicator.size,
        "parameters": sum(int(np.prod(p.dim)) for p in program.graph.parameters),
        "seconds_per_step": seconds,
        "gflops": work / median / 1e9,
        "sgemm_gflops": gemm / 1e9,
        "peak_gib": peak / 2**30,
        "planned_gib": planned / 2**30,
    }
    yield Row("reference", median, work / gemm, work / gemm / median, GOAL, least=True, more=more)
