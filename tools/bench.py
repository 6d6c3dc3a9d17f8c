"""Timings, each against a yardstick measured in the same run: one JSON line a case.

python tools/bench.py reference            the reference network at full size on 4 ranks (10 GiB of memory, minutes)
python tools/bench.py reference --set data.batch=32 -n 2
python tools/bench.py prefetch -n 1        a reader that sleeps for 0.8 of a step, with and without batches read ahead
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from pathlib import Path
from time import perf_counter, sleep

from dgraph.runtime.environment import launched, set_threads

set_threads()

import numpy as np  # noqa: E402

from dgraph.config import load_config  # noqa: E402
from dgraph.data import Source  # noqa: E402
from dgraph.kernels.call import Array  # noqa: E402
from dgraph.program import compile_config  # noqa: E402
from dgraph.rect import Rect  # noqa: E402
from dgraph.runtime.communicator import Communicator  # noqa: E402
from dgraph.runtime.connect import connected  # noqa: E402
from dgraph.runtime.launch import launch  # noqa: E402
from dgraph.schedule.step import Compute, Schedule  # noqa: E402
from dgraph.train import Worker  # noqa: E402

CONFIGS = Path(__file__).parent.parent / "configs"
CONTRACTIONS = ("tiled", "conv", "linear")
GEMM = 1536
SLOWED, ROUNDS = 0.8, 3


def flops(schedule: Schedule) -> int:
    """Floating-point operations of one rank's contractions in a training step: two a point, once for every result."""
    total = 0
    for step in schedule.steps:
        if isinstance(step, Compute) and step.call.op in CONTRACTIONS:
            results = sum(port.endswith(".delta") and port != "output.delta" for port in step.call.rects)
            total += 2 * step.call.piece.volume * (results if step.call.gradient else 1)
    return total


def gemm_seconds(communicator: Communicator, seconds: float) -> tuple[int, float]:
    """Square products of all ranks at once: operations of this rank, and the seconds they took."""
    a, b = (np.random.default_rng(k).random((GEMM, GEMM), dtype=np.float32) for k in range(2))
    out = np.empty_like(a)
    np.matmul(a, b, out=out)
    communicator.barrier()
    start, count = perf_counter(), 0
    while perf_counter() - start < seconds:
        np.matmul(a, b, out=out)
        count += 1
    return 2 * GEMM**3 * count, perf_counter() - start


def total(communicator: Communicator, value: float) -> float:
    """The sum over ranks, on all of them."""
    parts = communicator.gather(json.dumps(value).encode())
    result = json.dumps(sum(map(json.loads, parts))).encode() if parts else None
    return float(json.loads(communicator.broadcast(result)))


def gemm_rate(communicator: Communicator) -> float:
    """Operations a second of plain SGEMM, all ranks together."""
    done, seconds = gemm_seconds(communicator, 4.0)
    return total(communicator, done / seconds)


def reference(communicator: Communicator, overrides: list[str], steps: int) -> None:
    """Seconds of a training step of the reference network, beside what SGEMM reaches before and after it."""
    program = compile_config(load_config(CONFIGS / "reference.yaml", overrides, communicator.size))
    worker = Worker(program, communicator)
    batches = worker.batches("train", shuffle=True)
    before = gemm_rate(communicator)
    seconds = []
    for step in range(steps):
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
    rate, gemm = work / median, (before + after) / 2
    if communicator.rank == 0:
        result = {
            "case": "reference",
            "ranks": communicator.size,
            "parameters": sum(int(np.prod(p.dim)) for p in program.graph.parameters),
            "seconds_per_step": seconds,
            "gflops": rate / 1e9,
            "sgemm_gflops": gemm / 1e9,
            "share_of_sgemm": rate / gemm,
            "goal": 0.70,
            "met": rate / gemm >= 0.70,
            "peak_gib": peak / 2**30,
            "planned_gib": planned / 2**30,
        }
        print(json.dumps(result), flush=True)


class Slow:
    """A source whose reads sleep: `seconds` a sample."""

    def __init__(self, source: Source) -> None:
        self._source, self.seconds = source, 0.0
        self.samples, self.shape = source.samples, source.shape
        self.classes, self.label_shape = source.classes, source.label_shape

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`."""
        sleep(self.seconds * len(indices))
        return self._source.read(indices, rect)

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`."""
        return self._source.labels(indices, rect)


def step_seconds(worker: Worker, steps: int, ahead: bool) -> list[float]:
    """Seconds of each of some steps, the first ones left out; with `ahead`, each is told of the next."""
    batches = worker.training_batches(shuffle=True)
    seconds = []
    for _ in range(steps + 2):
        now, following = (batches.indices(*divmod(worker.step + k, batches.steps)) for k in (0, 1))
        worker.communicator.barrier()
        start = perf_counter()
        worker.train_step(now, following=following if ahead else None)
        worker.communicator.barrier()
        seconds.append(perf_counter() - start)
    return seconds[2:]


def prefetch(communicator: Communicator, overrides: list[str], steps: int) -> None:
    """Seconds of a training step of the residual network, and with a reader slowed to 0.8 of that, read ahead or not."""
    settings = ["data.prefetch=true", *overrides]
    program = compile_config(load_config(CONFIGS / "residual.yaml", settings, communicator.size))
    worker = Worker(program, communicator)
    slow = worker.source = Slow(worker.source)
    step_seconds(worker, 3, ahead=False)
    rows = max(fed["raw_data"][1].size[0] for fed in worker.engine.fed.values())
    found: dict[str, list[float]] = {"plain": [], "ahead": [], "behind": []}
    for _ in range(ROUNDS):
        slow.seconds = 0.0
        found["plain"] += step_seconds(worker, steps, ahead=False)
        step = float(np.median(found["plain"][-steps:]))
        slow.seconds = SLOWED * total(communicator, step) / communicator.size / rows
        found["ahead"] += step_seconds(worker, steps, ahead=True)
        found["behind"] += step_seconds(worker, steps, ahead=False)
    if communicator.rank == 0:
        plain, ahead, behind = (float(np.median(seconds)) for seconds in found.values())
        result = {
            "case": "prefetch",
            "ranks": communicator.size,
            "seconds_per_step": plain,
            "slowed_seconds": ahead,
            "slowed_seconds_without": behind,
            "growth": ahead / plain - 1,
            "growth_without": behind / plain - 1,
            "goal": 0.05,
            "met": ahead / plain - 1 <= 0.05,
        }
        print(json.dumps(result), flush=True)


CASES = {"reference": (reference, 3), "prefetch": (prefetch, 8)}
"""Each with how many steps it takes unless told otherwise."""


def main() -> int:
    """Starts the ranks, or is one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=[*CASES])
    parser.add_argument("-n", "--ranks", type=int, default=4)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    if launched() is None and options.ranks > 1:
        return launch(options.ranks, sys.argv[1:], program=(sys.executable, os.path.abspath(__file__)))
    with connected(lambda: options.case) as communicator:
        case, steps = CASES[options.case]
        case(communicator, options.overrides, options.steps or steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
