"""What the machine does at its best, by all ranks at once: plain SGEMM.

In: a communicator. Out: operations a second. Promise: measured right beside what it is compared with.
"""

from __future__ import annotations

import json
from time import perf_counter

import numpy as np

from dgraph.runtime.communicator import Communicator

GEMM = 1536


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
