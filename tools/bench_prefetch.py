"""Batches read ahead: a step whose reader sleeps for 0.8 of a step, beside one whose reader does not.

In: ranks. Out: one row, and how much slower it is without reading ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter, sleep

import numpy as np

from bench_rate import total
from bench_row import CONFIGS, Options, Row
from dgraph.config import load_config
from dgraph.data import Source
from dgraph.kernels.call import Array
from dgraph.program import compile_config
from dgraph.rect import Rect
from dgraph.runtime.communicator import Communicator
from dgraph.train import Worker

SLOWED, ROUNDS, STEPS = 0.8, 3, 8
GOAL = 1.05


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


def run(options: Options, communicator: Communicator) -> Iterator[Row]:
    """Seconds of a training step of the residual network, with a reader slowed to 0.8 of that and without. Collective."""
    settings = ["data.prefetch=true", *options.overrides]
    program = compile_config(load_config(CONFIGS / "residual.yaml", settings, communicator.size))
    worker = Worker(program, communicator)
    slow = worker.source = Slow(worker.source)
    steps = options.steps or STEPS
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
    plain, ahead, behind = (float(np.median(seconds)) for seconds in found.values())
    more = {"ranks": communicator.size, "seconds_without": behind, "ratio_without": behind / plain}
    yield Row("prefetch", ahead, plain, ahead / plain, GOAL, more=more)
