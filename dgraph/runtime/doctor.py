"""An examination of the job as it was started: what it is made of, and how fast and how right it is.

In: a communicator. Out: one record of plain values, the same on all ranks. Promise: takes a few seconds, whatever the number of
ranks; measures through the very exchanges that a run uses.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import numpy as np

from dgraph.runtime.communicator import Array, Communicator, Exchange, Message

Record = dict[str, Any]
PING_NBYTES, PINGS = 8, 100
BULK_NBYTES, BULKS = 4 << 20, 8
SUM_NBYTES, SUMS = 1 << 20, 10
SGEMM_SIZE, SGEMM_SECONDS = 1024, 0.5
INTACT_NBYTES = (0, 1, 4096, 1 << 20)


def examine(communicator: Communicator) -> Record:
    """Examine the job; the same record on all ranks. Collective; about 5 s.

    Keys: `mpi` (library), `ranks`, `hosts` (ranks on each), `cores` (of each rank's affinity mask), `threads` (of BLAS, by rank),
    `blas`, `versions`, `messages_intact`, `shared_memory` (whether ranks of a host read each other's; null where each is alone on
    its own), `neighbours` (by pair `r-s`: `latency_seconds` one way, `bandwidth` in bytes per second), `all_reduce_seconds` (of 1
    MiB), `sgemm` (`alone` and `together`, FLOP/s by rank; `alone` is measured on one rank of a host at a time).
    """
    own = {"host": communicator.host, "cores": len(os.sched_getaffinity(0)), "threads": _blas_threads()}
    ranks = _share(communicator, own)
    intact = _messages_are_intact(communicator)
    shared = _memory_is_shared(communicator, Counter(r["host"] for r in ranks))
    neighbours = {
        key: value for of_rank in _share(communicator, _neighbours(communicator)) for key, value in of_rank.items()
    }
    all_reduce_seconds, sums_right = _all_reduce(communicator)
    alone = _sgemm_in_turn(communicator, [r["host"] for r in ranks])
    communicator.barrier()
    speeds = _share(communicator, {"alone": alone, "together": _sgemm(SGEMM_SECONDS)})
    return {
        "mpi": communicator.mpi,
        "ranks": communicator.size,
        "hosts": dict(Counter(r["host"] for r in ranks)),
        "cores": [r["cores"] for r in ranks],
        "threads": [r["threads"] for r in ranks],
        "blas": _blas(),
        "versions": _versions(),
        "messages_intact": all(_share(communicator, intact and sums_right)),
        "shared_memory": shared,
        "neighbours": neighbours,
        "all_reduce_seconds": max(_share(communicator, all_reduce_seconds)),
        "sgemm": {key: [s[key] for s in speeds] for key in ("alone", "together")},
    }


def _share(communicator: Communicator, value: Any) -> list[Any]:
    """The values of all ranks, on all ranks. Collective."""
    gathered = communicator.gather(json.dumps(value).encode())
    whole = None if gathered is None else b"[" + b",".join(gathered) + b"]"
    shared: list[Any] = json.loads(communicator.broadcast(whole))
    return shared


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "numpy": np.__version__}
    return found | {name: metadata.version(name) for name in ("mpi4py",) if find_spec(name)}


def _blas() -> str:
    """Name and version of the BLAS that NumPy was built with."""
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def _blas_threads() -> int | None:
    """Threads of BLAS on this rank: as threadpoolctl finds them, else as the environment says; None if neither does."""
    if find_spec("threadpoolctl"):
        pools = import_module("threadpoolctl").threadpool_info()
        return next((int(pool["num_threads"]) for pool in pools if pool["user_api"] == "blas"), None)
    told = (os.environ.get(name, "") for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"))
    return next((int(text) for text in told if text.isdecimal()), None)


def _noise(rank: int, nbytes: int) -> Array:
    """Bytes that only this rank sends."""
    return np.random.default_rng((rank, nbytes)).integers(0, 256, nbytes, dtype=np.uint8)


def _use(*exchanges: Exchange) -> None:
    for exchange in exchanges:
        exchange.start()
        exchange.wait()


def _messages_are_intact(communicator: Communicator) -> bool:
    """Whether bytes of several sizes come round a ring unharmed. Collective."""
    rank, size = communicator.rank, communicator.size
    if size == 1:
        return True
    after, before = (rank + 1) % size, (rank - 1) % size
    into = [np.zeros(n, np.uint8) for n in INTACT_NBYTES]
    sends = [Message(after, tag, _noise(rank, n)) for tag, n in enumerate(INTACT_NBYTES)]
    receives = [Message(before, tag, buffer) for tag, buffer in enumerate(into)]
    _use(communicator.exchange(sends, receives))
    return all(np.array_equal(buffer, _noise(before, buffer.size)) for buffer in into)


def _memory_is_shared(communicator: Communicator, hosts: Mapping[str, int]) -> bool | None:
    """Whether all ranks of every host read what the others wrote into shared memory; None where there is no such host.
    Collective."""
    memory = communicator.share(PING_NBYTES, 1, b"")
    found = False if hosts[communicator.host] > 1 else None
    if memory is not None:
        others = [rank for rank in memory.blocks if rank != communicator.rank]
        memory.blocks[communicator.rank][:PING_NBYTES] = _noise(communicator.rank, PING_NBYTES)
        _use(memory.meeting(0, others))
        found = all(np.array_equal(memory.blocks[r][:PING_NBYTES], _noise(r, PING_NBYTES)) for r in others)
    several = [value for value in _share(communicator, found) if value is not None]
    return all(several) if several else None


def _neighbours(communicator: Communicator) -> Record:
    """Latency and bandwidth to the next rank: first the pairs (0, 1), (2, 3) ..., then (1, 2), (3, 4) ... Collective."""
    found = {}
    for first in (0, 1):
        communicator.barrier()
        leads = (communicator.rank - first) % 2 == 0
        peer = communicator.rank + (1 if leads else -1)
        if communicator.rank < first or peer >= communicator.size:
            continue
        latency = _ping_pong(communicator, peer, leads, PING_NBYTES, PINGS)
        bulk = _ping_pong(communicator, peer, leads, BULK_NBYTES, BULKS)
        if leads:
            found[f"{communicator.rank}-{peer}"] = {"latency_seconds": latency, "bandwidth": BULK_NBYTES / bulk}
    return found


def _ping_pong(communicator: Communicator, peer: int, leads: bool, nbytes: int, times: int) -> float:
    """Seconds that a message takes one way: half of the mean time there and back."""
    buffer = np.zeros(nbytes, np.uint8)
    send = communicator.exchange([Message(peer, 0, buffer)], [])
    receive = communicator.exchange([], [Message(peer, 0, buffer)])
    turn = (send, receive) if leads else (receive, send)
    return _mean_seconds(lambda: _use(*turn), times) / 2


def _mean_seconds(action: Callable[[], None], times: int) -> float:
    """Mean seconds of an action, after one time that is not counted."""
    action()
    start = time.perf_counter()
    for _ in range(times):
        action()
    return (time.perf_counter() - start) / times


def _all_reduce(communicator: Communicator) -> tuple[float, bool]:
    """Seconds of a sum of 1 MiB over all ranks, and whether it was right. Collective."""
    buffer = np.zeros(SUM_NBYTES // 4, np.float32)
    total = communicator.all_reduce(tuple(range(communicator.size)), buffer, 0)
    communicator.barrier()
    seconds = _mean_seconds(lambda: _use(total), SUMS)
    buffer[:] = communicator.rank + np.arange(buffer.size) % 64
    _use(total)
    size = communicator.size
    expected = size * (size - 1) / 2 + size * (np.arange(buffer.size) % 64)
    return seconds, bool(np.allclose(buffer, expected, rtol=1e-6))


def _sgemm(seconds: float) -> float:
    """FLOP/s of products of square float32 matrices, in so many seconds."""
    a = np.ones((SGEMM_SIZE, SGEMM_SIZE), np.float32)
    product = a @ a
    times, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds or not times:
        np.matmul(a, a, out=product)
        times += 1
    return 2 * SGEMM_SIZE**3 * times / passed


def _sgemm_in_turn(communicator: Communicator, hosts: list[str]) -> float:
    """FLOP/s of this rank while no other rank of its host computes. All hosts at once, about 1 s in all. Collective."""
    turns = max(Counter(hosts).values())
    mine = hosts[: communicator.rank].count(communicator.host)
    speed = 0.0
    for turn in range(turns):
        communicator.barrier()
        if turn == mine:
            speed = _sgemm(2 * SGEMM_SECONDS / turns)
    communicator.barrier()
    return speed
