"""Exchanges as one writes them by hand with mpi4py and NumPy: `tools/bench_messages.py` compares with the best of them.

In: what this rank sends and takes, as views of arrays; a window. Out: callables that do it once, by name. Promise: buffers,
requests, datatypes and windows are made once; where ranks outnumber cores, waiting gives the core away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from mpi4py import MPI

from dgraph.kernels.call import Array
from dgraph.rect import share

WORLD = MPI.COMM_WORLD
LINE, SIGNALS = 64, 4
BLOCK = 1 << 15
Side = Callable[[], object]


class Memory:
    """A window of all ranks: bytes of each of them, and a few numbers by which they wait for each other."""

    def __init__(self, nbytes: int, crowded: bool) -> None:
        self._window = MPI.Win.Allocate_shared(nbytes + SIGNALS * LINE, 1, comm=WORLD)
        self._window.Lock_all()
        whole = [np.array(self._window.Shared_query(rank)[0], np.uint8, copy=False) for rank in range(WORLD.size)]
        self.blocks = [block[SIGNALS * LINE :] for block in whole]
        self._signals = [[block[k * LINE :][:8].data.cast("q") for block in whole] for k in range(SIGNALS)]
        self._crowded = crowded
        self.requests: list[MPI.Prequest] = []
        whole[WORLD.rank].fill(0)
        WORLD.Barrier()

    def meet(self, signal: int, peers: Sequence[int]) -> Side:
        """Says that one is here, and waits until all peers are."""
        own = self._signals[signal][WORLD.rank]
        others = [self._signals[signal][peer] for peer in peers]
        sync, crowded, count = self._window.Sync, self._crowded, own[0]

        def side() -> None:
            nonlocal count
            count += 1
            sync()
            own[0] = count
            for other in others:
                while other[0] < count:
                    if crowded:
                        os.sched_yield()
            sync()

        return side

    def close(self) -> None:
        """Collective."""
        WORLD.Barrier()
        for request in self.requests:
            request.Free()
        self._window.Unlock_all()
        self._window.Free()


def complete(requests: list[MPI.Request], crowded: bool) -> None:
    """Waits for all of them."""
    if not crowded:
        MPI.Request.Waitall(requests)
        return
    while not MPI.Request.Testall(requests):
        os.sched_yield()


@dataclass(frozen=True, eq=False)
class Task:
    """Every rank takes what it needs. `sends`: (peer, elements); `takes`: (peer, where they go, where the peer has them, in the
    window); `own`: what this rank has for itself, (where it goes, where it is); `adds`: what is taken is added; `paired`: every
    rank has one partner, to which it sends once, and from which it takes once."""

    sends: Sequence[tuple[int, Array]]
    takes: Sequence[tuple[int, Array, Array]]
    own: tuple[Array, Array] | None
    adds: bool
    paired: bool
    crowded: bool
    memory: Memory
    slots: tuple[Sequence[Array], Sequence[Array]]
    """For two uses in turn: per message sent, a block in the window."""
    peer_slots: tuple[Sequence[Array], Sequence[Array]]
    """For two uses in turn: per message taken, the peer's block."""
    into: list[Array] = field(init=False)
    out: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "into", [np.empty(view.shape, view.dtype) for _, view, _ in self.takes])
        object.__setattr__(self, "out", [np.empty(view.shape, view.dtype) for _, view in self.sends])

    def pack(self, blocks: Sequence[Array]) -> None:
        """Copies what is sent."""
        for block, (_, view) in zip(blocks, self.sends, strict=True):
            np.copyto(block, view)

    def unpack(self, blocks: Sequence[Array]) -> None:
        """Copies or adds what was taken."""
        if self.own is not None:
            np.copyto(*self.own)
        for block, (_, view, _) in zip(blocks, self.takes, strict=True):
            if self.adds:
                np.add(view, block, view)
            else:
                np.copyto(view, block)


def by_messages(task: Task) -> dict[str, Side]:
    """Non-blocking, persistent and, with one partner, Sendrecv: packed by NumPy; and what lies in one piece as it is."""
    receives = [(block, peer) for block, (peer, _, _) in zip(task.into, task.takes, strict=True)]
    sends = [(block, peer) for block, (peer, _) in zip(task.out, task.sends, strict=True)]
    started = [*(WORLD.Recv_init(b, p) for b, p in receives), *(WORLD.Send_init(b, p) for b, p in sends)]
    task.memory.requests += started

    def non_blocking() -> None:
        requests = [WORLD.Irecv(block, peer) for block, peer in receives]
        task.pack(task.out)
        complete([*requests, *(WORLD.Isend(block, peer) for block, peer in sends)], task.crowded)
        task.unpack(task.into)

    def persistent() -> None:
        task.pack(task.out)
        MPI.Prequest.Startall(started)
        complete(list(started), task.crowded)
        task.unpack(task.into)

    def sendrecv() -> None:
        task.pack(task.out)
        WORLD.Sendrecv(sends[0][0], sends[0][1], recvbuf=receives[0][0], source=receives[0][1])
        task.unpack(task.into)

    sides: dict[str, Side] = {"non-blocking": non_blocking, "persistent": persistent}
    if task.paired:
        sides["sendrecv"] = sendrecv
    if not task.adds:
        sides["datatypes"] = _of_datatypes(task)
    return sides


def _of_datatypes(task: Task) -> Side:
    """Elements go from where they are to where they belong; MPI packs as it likes."""
    requests = [WORLD.Recv_init(_typed(view), peer) for peer, view, _ in task.takes]
    requests += [WORLD.Send_init(_typed(view), peer) for peer, view in task.sends]
    task.memory.requests += requests

    def side() -> None:
        MPI.Prequest.Startall(requests)
        complete(list(requests), task.crowded)
        if task.own is not None:
            np.copyto(*task.own)

    return side


def _typed(view: Array) -> list[object]:
    """A strided view as MPI takes it: vectors of vectors, from its first element on."""
    datatype = MPI.FLOAT
    for n, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        datatype = datatype.Create_hvector(n, 1, stride)
    datatype.Commit()
    nbytes = sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True)) + view.itemsize
    return [MPI.buffer.fromaddress(view.ctypes.data, nbytes), 1, datatype]


def by_window(task: Task) -> dict[str, Side]:
    """Neighbours' elements are taken from where they lie; or from blocks, of which there are two in turn."""
    peers = sorted({peer for peer, _ in task.sends} | {peer for peer, _, _ in task.takes})
    there, taken, packed = (task.memory.meet(signal, peers) for signal in range(3))
    sources = [source for _, _, source in task.takes]
    turn = 0

    def in_place() -> None:
        there()
        task.unpack(sources)
        taken()

    def in_blocks() -> None:
        nonlocal turn
        turn ^= 1
        task.pack(task.slots[turn])
        packed()
        task.unpack(task.peer_slots[turn])

    return {"window": in_place, "window of blocks": in_blocks}


def all_reduce(block: Array, memory: Memory, crowded: bool) -> dict[str, Side]:
    """The sum of a block that lies at the beginning of the window, in place."""
    rank, size = WORLD.rank, WORLD.size
    others = [r for r in range(size) if r != rank]
    blocks = [memory.blocks[r][: block.nbytes].view(block.dtype) for r in range(size)]
    slots = [
        [memory.blocks[r][n * block.nbytes :][: block.nbytes].view(block.dtype) for r in range(size)] for n in (1, 2)
    ]
    there, summed, taken, packed = (memory.meet(signal, others) for signal in range(4))
    shares = [slice(*share(block.size, size, r)) for r in range(size)]
    chunk = np.empty(BLOCK, block.dtype)
    turn = 0

    def non_blocking() -> None:
        complete([WORLD.Iallreduce(MPI.IN_PLACE, block)], crowded)

    def in_shares() -> None:
        there()
        mine = shares[rank]
        if size == 2:
            np.add(blocks[0][mine], blocks[1][mine], block[mine])
        else:
            for at in range(mine.start, mine.stop, BLOCK):
                part = slice(at, min(at + BLOCK, mine.stop))
                total = chunk[: part.stop - part.start]
                np.add(blocks[0][part], blocks[1][part], total)
                for other in blocks[2:-1]:
                    np.add(total, other[part], total)
                np.add(total, blocks[-1][part], block[part])
        summed()
        for r in others:
            np.copyto(block[shares[r]], blocks[r][shares[r]])
        taken()

    def at_once() -> None:
        nonlocal turn
        turn ^= 1
        terms = slots[turn]
        np.copyto(terms[rank], block)
        packed()
        np.add(terms[0], terms[1], block)
        for term in terms[2:]:
            np.add(block, term, block)

    return {
        "Allreduce": lambda: WORLD.Allreduce(MPI.IN_PLACE, block),
        "Iallreduce": non_blocking,
        "window in shares": in_shares,
        "window of blocks": at_once,
    }


def reduce_scatter(whole: Array, mine: Array, counts: Sequence[int], crowded: bool) -> dict[str, Side]:
    """Flat shares of the sum of flat arrays."""

    def non_blocking() -> None:
        complete([WORLD.Ireduce_scatter(whole, mine, counts)], crowded)

    return {
        "Reduce_scatter": lambda: WORLD.Reduce_scatter(whole, mine, counts),
        "Ireduce_scatter": non_blocking,
    }


def all_gather(whole: Array, counts: Sequence[int], crowded: bool) -> dict[str, Side]:
    """A flat array of which every rank has its share."""
    starts = [sum(counts[:r]) for r in range(len(counts))]
    into = [whole, (counts, starts), MPI.FLOAT]

    def non_blocking() -> None:
        complete([WORLD.Iallgatherv(MPI.IN_PLACE, into)], crowded)

    return {"Allgatherv": lambda: WORLD.Allgatherv(MPI.IN_PLACE, into), "Iallgatherv": non_blocking}


def all_to_all(task: Task) -> dict[str, Side]:
    """Alltoallv, packed by NumPy."""
    size = WORLD.size
    counts = [0] * size, [0] * size
    for peer, view in task.sends:
        counts[0][peer] = view.size
    for peer, view, _ in task.takes:
        counts[1][peer] = view.size
    starts = [[sum(count[:r]) for r in range(size)] for count in counts]
    out, into = (np.empty(sum(count), np.float32) for count in counts)
    packed = [out[starts[0][p] :][: v.size].reshape(v.shape) for p, v in task.sends]
    arrived = [into[starts[1][p] :][: v.size].reshape(v.shape) for p, v, _ in task.takes]
    ends = [out, (counts[0], starts[0]), MPI.FLOAT], [into, (counts[1], starts[1]), MPI.FLOAT]

    def blocking() -> None:
        task.pack(packed)
        WORLD.Alltoallv(*ends)
        task.unpack(arrived)

    def non_blocking() -> None:
        task.pack(packed)
        complete([WORLD.Ialltoallv(*ends)], task.crowded)
        task.unpack(arrived)

    return {"Alltoallv": blocking, "Ialltoallv": non_blocking}
