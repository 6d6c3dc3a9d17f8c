"""What the machine has, and what it does at its best with all ranks at once.

In: a communicator. Out: sums over ranks, rates, bytes. Promise: measured right beside what it is compared with.
"""

from __future__ import annotations

import json
from pathlib import Path

from dgraph.profile.roof import gemm_rate
from dgraph.runtime.communicator import Communicator

GEMM, GEMM_SECONDS = 1536, 2.0
_MEMORY = Path("/proc/meminfo")


def total(communicator: Communicator, value: float) -> float:
    """The sum over ranks, on all of them. Collective."""
    parts = communicator.gather(json.dumps(value).encode())
    result = json.dumps(sum(map(json.loads, parts))).encode() if parts else None
    return float(json.loads(communicator.broadcast(result)))


def sgemm_rate(communicator: Communicator) -> float:
    """Operations a second of plain SGEMM, all ranks together. Collective."""
    return total(communicator, gemm_rate(communicator, "float32", GEMM_SECONDS, GEMM))


def available_nbytes() -> int:
    """Bytes of memory that are free for programs."""
    found = dict(line.split(":") for line in _MEMORY.read_text().splitlines())
    return int(found["MemAvailable"].split()[0]) * 1024
