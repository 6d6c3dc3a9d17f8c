"""The reference network at full size: its rate beside that of SGEMM on the same ranks, step by step in turn.

In: 4 ranks on 2 cores, and 10 GiB of memory; or what `--set` and `-n` say. Out: one row. Promise: a first step, which finds all of
its memory untouched, does not count; SGEMM is measured before every step and behind the last, and a step is compared with the mean
of those around it.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median
from time import perf_counter

import numpy as np

from bench_rate import sgemm_rate, total
from bench_row import CONFIGS, Options, Row
from dgraph.config import load_config
from dgraph.profile.work import flops_of
from dgraph.program import compile_config
from dgraph.runtime.communicator import Communicator
from dgraph.schedule.step import Compute, Fused, Schedule, Step
from dgraph.train import Worker

CONTRACTIONS = ("tiled", "conv", "linear")
GOAL = 0.85
STEPS = 5


def flops(schedule: Schedule) -> int:
    """Floating-point operations of one rank's contractions in a training step."""
    parts = [part for step in schedule.steps for part in _parts(step)]
    return sum(flops_of(part.call) for part in parts if part.call.op in CONTRACTIONS)


def _parts(step: Step) -> Sequence[Compute]:
    match step:
        case Compute():
            return [step]
        case Fused(parts=parts):
            return parts
    return []


def run(options: Options, communicator: Communicator) -> Iterator[Row]:
    """Seconds of a training step beside those that SGEMM would take for its operations. Collective."""
    chosen = f"backend={options.backends[0]}" if len(options.backends) == 1 else "backend=numpy"
    config = load_config(CONFIGS / "reference.yaml", [chosen, *options.overrides], communicator.size)
    program = compile_config(config)
    worker = Worker(program, communicator)
    batches = worker.batches("train", shuffle=True)
    steps = options.steps or STEPS
    seconds, rates = [], []
    for step in range(1 + steps):
        communicator.barrier()
        start = perf_counter()
        worker.train_step(batches.indices(*divmod(step, batches.steps)))
        communicator.barrier()
        seconds.append(perf_counter() - start)
        rates.append(sgemm_rate(communicator))
    gemms = [(one + other) / 2 for one, other in pairwise(rates)]
    seconds = seconds[1:]
    work = total(communicator, flops(worker.engine.schedule))
    peak = total(communicator, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    planned = total(communicator, worker.engine.schedule.peak_nbytes)
    ratio = median(work / gemm / one for one, gemm in zip(seconds, gemms, strict=True))
    gemm = median(gemms)
    more = {
        "ranks": communicator.size,
        "backend": config.backend,
        "parameters": sum(int(np.prod(p.dim)) for p in program.graph.parameters),
        "seconds_per_step": seconds,
        "gflops": work / median(seconds) / 1e9,
        "sgemm_gflops": gemm / 1e9,
        "peak_gib": peak / 2**30,
        "planned_gib": planned / 2**30,
    }
    yield Row("reference", median(seconds), work / gemm, ratio, GOAL, least=True, more=more)
