"""What the machine does at its best, by all ranks at once: matrix products and copies.

In: a communicator, a dtype. Out: `Roof`, the rates of one rank while all others work, too. Promise: a step of the loop that keeps
both at their rates would be as fast as the machine; the roofline model (Williams, Waterman and Patterson 2009) takes the longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from dgraph.runtime.communicator import Communicator

GEMM = 1024
"""Rows and columns of the matrices."""
COPY_NBYTES = 32 << 20
"""More than a core's share of any cache."""


@dataclass(frozen=True)
class Roof:
    """Operations and bytes (read and written) a second of one rank."""

    flops: float
    nbytes: float

    def seconds(self, flops: float, nbytes: float) -> float:
        """How long so much work takes at least."""
        return max(flops / self.flops, nbytes / self.nbytes)


def measure_roof(communicator: Communicator, dtype: str, seconds: float) -> Roof:
    """Both rates, each taken for so many seconds. Collective."""
    return Roof(gemm_rate(communicator, dtype, seconds), copy_rate(communicator, dtype, seconds))


def gemm_rate(communicator: Communicator, dtype: str, seconds: float, extent: int = GEMM) -> float:
    """Operations a second of this rank's square matrix products, while all ranks have some. Collective."""
    a, b = (np.random.default_rng(k).random((extent, extent)).astype(dtype) for k in range(2))
    out = np.empty_like(a)
    return 2 * extent**3 * _times_a_second(communicator, lambda: np.matmul(a, b, out=out), seconds)


def copy_rate(communicator: Communicator, dtype: str, seconds: float) -> float:
    """Bytes a second that this rank reads and writes, while all ranks do. Collective."""
    source = np.ones(COPY_NBYTES // np.dtype(dtype).itemsize, dtype)
    target = np.empty_like(source)
    return 2 * source.nbytes * _times_a_second(communicator, lambda: np.copyto(target, source), seconds)


def _times_a_second(communicator: Communicator, action: Callable[[], object], seconds: float) -> float:
    action()
    communicator.barrier()
    start, count = perf_counter(), 0
    while perf_counter() - start < seconds:
        action()
        count += 1
    rate = count / (perf_counter() - start)
    communicator.barrier()
    return rate
