"""Ranks as MPI processes. The only module that imports mpi4py, and importing it initialises MPI.

In: the world communicator. Out: `MPICommunicator`. Promise: no wildcard receives and no pickling; whatever
is allocated in MPI is freed by `close`; messages of any size (MPI counts in 32 bits, so large ones go in parts); and a
wait that leaves the core to those who compute where ranks outnumber the cores of their node.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import numpy as np
from mpi4py import MPI

from dgraph.error import CheckError
from dgraph.runtime.cause import warn
from dgraph.runtime.communicator import Array, Exchange, Message, Nothing, Shared, gather_by_messages, parts_of
from dgraph.runtime.outbox import PART_NBYTES, Outbox
from dgraph.runtime.pulse import Pulse

LARGEST_NBYTES = 1 << 30
# Measured with 4 ranks on 2 cores: 100 yields answer a small message in 7 us, and naps that grow to 0.1 ms keep the time
# of a rank that computes as if it were alone (spinning or yielding for ever doubles it).
YIELDS = 100
FIRST_NAP_SECONDS = 1e-6
LONGEST_NAP_SECONDS = 1e-4
SPINS = 200
"""So often a number in memory is looked at before a rank gives anything away."""
PAGE = 4096
LINE = 64
"""Bytes of a line of the cache: what ranks write does not share one."""
SHARED_MEMORY = "/dev/shm"
"""Where MPIs put what ranks share; it may be small, and only who touches a page that is not there finds out."""
SPARE = 0.9
_PASSED_ON = 0.05
"""Seconds in which a launcher reads what a rank printed before it aborts: some end without reading on."""

Requests = list[MPI.Request]


def _poll(done: Callable[[], bool], patient: bool) -> None:
    """Ask until it is done; between two questions, where one is patient, give the core away, first for a turn, then for naps that
    grow."""
    for _ in range(YIELDS):
        if done():
            return
        if patient:
            os.sched_yield()
    nap = FIRST_NAP_SECONDS
    while not done():
        if patient:
            time.sleep(nap)
            nap = min(2 * nap, LONGEST_NAP_SECONDS)


def _complete(requests: Requests, patient: bool) -> None:
    if patient:
        _poll(lambda: MPI.Request.Testall(requests), patient)
    else:
        MPI.Request.Waitall(requests)


def _parts(buffer: Array, largest: int) -> list[Array]:
    """A buffer as flat views of at most `largest` bytes (one, perhaps empty, for a small one)."""
    flat = buffer.reshape(-1)
    step = max(1, largest // buffer.itemsize)
    return [flat[start : start + step] for start in range(0, max(1, flat.size), step)]


def _octets(message: Message, largest: int) -> list[tuple[Array, int, MPI.Datatype]]:
    """A message in parts of at most `largest` bytes, as MPI takes them."""
    octets = message.buffer.reshape(-1).view(np.uint8)
    return [(part, part.size, MPI.BYTE) for part in _parts(octets, largest)]


class _Transfer:
    """Messages as persistent requests."""

    def __init__(self, requests: Sequence[MPI.Prequest], patient: bool) -> None:
        self._prequests, self._patient = requests, patient
        self._requests: Requests = list(requests)

    def start(self) -> None:
        # One by one: MPI may start a whole list in any order, and parts of one message are told apart by order alone.
        for request in self._prequests:
            request.Start()

    def test(self) -> bool:
        return MPI.Request.Testall(self._requests)

    def wait(self) -> None:
        _complete(self._requests, self._patient)

    def close(self) -> None:
        """Free the requests."""
        for request in self._prequests:
            request.Free()


class _Queued(_Transfer):
    """Messages as persistent requests, whose sends, each with its bytes, take turns with those of others."""

    def __init__(self, receives: Sequence[MPI.Prequest], sends: Sequence[tuple[MPI.Prequest, int]], urgency: int,
                 outbox: Outbox, patient: bool) -> None:  # fmt: skip
        super().__init__([*receives, *(request for request, _ in sends)], patient)
        self._receives, self._sends, self._urgency, self._outbox = receives, sends, urgency, outbox
        self._unsent = self._done = 0

    def start(self) -> None:
        for request in self._receives:
            request.Start()
        self._unsent, self._done = len(self._sends), 0
        for request, nbytes in self._sends:
            self._outbox.put(self._urgency, request, nbytes, self._gone)
        self._outbox.pump()

    def _gone(self) -> None:
        self._unsent -= 1

    def test(self) -> bool:
        # They are many, and asked often: one by one, each until it is done, what has gone behind what has come.
        self._outbox.pump()
        among = len(self._requests) if not self._unsent else len(self._receives)
        while self._done < among and self._requests[self._done].Test():
            self._done += 1
        return self._done == len(self._requests)

    def wait(self) -> None:
        _poll(self.test, self._patient)


class _Meeting:
    """Ranks of one node that wait for each other by numbers in memory: how often each of them has come."""

    def __init__(self, window: MPI.Win, own: memoryview, others: Sequence[memoryview], patient: bool) -> None:
        self._sync, self._own, self._others, self._patient = window.Sync, own, others, patient
        self._count = 0

    def start(self) -> None:
        self._count += 1
        self._sync()
        self._own[0] = self._count

    def test(self) -> bool:
        count = self._count
        for other in self._others:
            if other[0] < count:
                return False
        self._sync()
        return True

    def wait(self) -> None:
        count = self._count
        for other in self._others:
            if other[0] < count:
                self._linger(other)
        self._sync()

    def _linger(self, other: memoryview) -> None:
        """Look again and again: at once, then for a turn each, and where ranks wait for a core, after naps that grow."""
        count = self._count
        for _ in range(0 if self._patient else SPINS):
            if other[0] >= count:
                return
        turns = 0
        nap = FIRST_NAP_SECONDS
        while other[0] < count:
            turns += 1
            if turns < YIELDS or not self._patient:
                os.sched_yield()
                self._sync()  # with the interpreter given away, for threads that read ahead
            else:
                time.sleep(nap)
                nap = min(2 * nap, LONGEST_NAP_SECONDS)


class _Memory:
    """A window of the ranks of one node: each has its signals, one a line of the cache, and behind them its block."""

    def __init__(self, node: MPI.Intracomm, ranks: Sequence[int], nbytes: int, signals: int, patient: bool) -> None:
        size = signals * LINE + nbytes
        self._window = MPI.Win.Allocate_shared(size, 1, comm=node)
        self._window.Lock_all()
        self._patient = patient
        self._signals: dict[int, Array] = {}
        blocks: dict[int, Array] = {}
        for place, rank in enumerate(ranks):
            whole: Array = np.array(self._window.Shared_query(place)[0], dtype=np.uint8, copy=False)
            self._signals[rank], blocks[rank] = whole[: signals * LINE], whole[signals * LINE :]
        self.rank = ranks[node.rank]
        blocks[self.rank].fill(0)
        self._signals[self.rank].fill(0)
        self.blocks: Mapping[int, Array] = blocks
        self.notes: Mapping[int, bytes] = {}

    def meeting(self, signal: int, ranks: Sequence[int]) -> Exchange:
        own, *others = (self._signals[rank][signal * LINE :][:LINE].data.cast("q") for rank in (self.rank, *ranks))
        return _Meeting(self._window, own, others, self._patient)

    def close(self) -> None:
        """Free the window. Collective."""
        self._window.Unlock_all()
        self._window.Free()


class _Sum:
    """A sum in place over the ranks of `comm`. MPI promises the same result on all of them."""

    def __init__(self, comm: MPI.Intracomm, parts: Sequence[Array], datatype: MPI.Datatype, patient: bool) -> None:
        self._comm, self._patient = comm, patient
        self._parts = [(part, part.size, datatype) for part in parts]
        self._requests: Requests = []

    def start(self) -> None:
        # Not persistent: it saves 3 us, and MPICH 5.0 fails where such a request is polled on 4 ranks.
        self._requests = [self._comm.Iallreduce(MPI.IN_PLACE, part, MPI.SUM) for part in self._parts]

    def test(self) -> bool:
        return MPI.Request.Testall(self._requests)

    def wait(self) -> None:
        _complete(self._requests, self._patient)


class _Gather:
    """The parts of the ranks of `comm`, brought together in place; or that of one rank brought to all."""

    def __init__(self, comm: MPI.Intracomm, whole: Array, counts: Sequence[int], patient: bool) -> None:
        self._comm, self._patient = comm, patient
        octets = [count * whole.itemsize for count in counts]
        self._parts = parts_of(whole.view(np.uint8), octets)
        self._whole = [whole.view(np.uint8), (octets, [sum(octets[:k]) for k in range(len(octets))]), MPI.BYTE]
        self._writers = [k for k, count in enumerate(counts) if count]
        self._requests: Requests = []

    def start(self) -> None:
        if len(self._writers) == 1:
            (root,) = self._writers
            self._requests = [self._comm.Ibcast([self._parts[root], MPI.BYTE], root)]
        else:
            self._requests = [self._comm.Iallgatherv(MPI.IN_PLACE, self._whole)]

    def test(self) -> bool:
        return MPI.Request.Testall(self._requests)

    def wait(self) -> None:
        _complete(self._requests, self._patient)


def _datatype(dtype: np.dtype[np.generic]) -> MPI.Datatype:
    """The MPI datatype that sums values of this dtype."""
    try:
        return MPI.Datatype.fromcode(dtype.char)
    except ValueError:
        raise CheckError(f"MPI cannot sum values of type {dtype}", "sum in float32 or float64") from None


def _is_crowded(node: MPI.Intracomm) -> bool:
    """Whether the ranks of a node outnumber the cores that they may use. Collective."""
    mask = np.zeros(max(os.cpu_count() or 1, 1 + max(os.sched_getaffinity(0))), dtype=np.uint8)
    mask[list(os.sched_getaffinity(0))] = 1
    node.Allreduce(MPI.IN_PLACE, mask, MPI.MAX)
    return node.size > int(mask.sum())


def _there_is_room(node: MPI.Intracomm, nbytes: int) -> bool:
    """Whether the node has so much memory to share, all ranks together; the same on all of them. Collective."""
    wanted = np.array([nbytes], dtype=np.int64)
    node.Allreduce(MPI.IN_PLACE, wanted)
    try:
        found = os.statvfs(SHARED_MEMORY)
        free = int(SPARE * found.f_bavail * found.f_frsize)
    except OSError:
        free = 0
    fits = np.array([wanted[0] <= free], dtype=np.uint8)
    node.Allreduce(MPI.IN_PLACE, fits, MPI.MIN)
    return bool(fits[0])


def _all_bytes(comm: MPI.Intracomm, value: bytes) -> list[bytes]:
    """What every rank of `comm` gives, by rank. Collective."""
    sizes = np.zeros(comm.size, dtype=np.int64)
    comm.Allgather(np.array([len(value)], dtype=np.int64), sizes)
    stops = np.cumsum(sizes)
    whole = np.empty(int(stops[-1]), dtype=np.uint8)
    comm.Allgatherv(np.frombuffer(value, dtype=np.uint8), (whole, (sizes, stops - sizes), MPI.BYTE))
    return [whole[stop - size : stop].tobytes() for size, stop in zip(sizes, stops, strict=True)]


def _library() -> str:
    """Name and version of the MPI library: the first words of what it says, such as `MPICH 5.0.2`."""
    first = MPI.Get_library_version().partition("\n")[0].partition(",")[0]
    return " ".join(first.replace("Version:", "").split())


class MPICommunicator:
    """All ranks of an MPI job. Making one is collective.

    Parameters
    ----------
    world : the ranks that take part; duplicated, so that messages of others never meet ours.
    largest : bytes in one MPI call at most; longer messages go in parts.
    patient : whether waits give the core away; by default where the ranks of this node outnumber its cores.
    """

    def __init__(
        self, world: MPI.Intracomm = MPI.COMM_WORLD, largest: int = LARGEST_NBYTES, patient: bool | None = None
    ) -> None:
        self._world = world.Dup()
        self._largest = largest
        self._node = MPI.Intracomm(world.Split_type(MPI.COMM_TYPE_SHARED))
        self._patient = _is_crowded(self._node) if patient is None else patient
        self.threaded = MPI.Query_thread() >= MPI.THREAD_MULTIPLE
        self.spread = self._node.size < world.size
        self._pulses: list[Pulse] = []
        self._memories: list[_Memory] = []
        self._groups: dict[tuple[int, ...], MPI.Intracomm] = {tuple(range(world.size)): self._world}
        self._transfers: list[_Transfer] = []
        self._outbox = Outbox()
        tag = world.Get_attr(MPI.TAG_UB)
        self._largest_tag = tag if isinstance(tag, int) else 32767
        self.rank, self.size = world.rank, world.size
        self.host = MPI.Get_processor_name()
        self.mpi = _library()

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message], urgency: int | None = None) -> Exchange:
        for message in (*sends, *receives):
            if message.tag > self._largest_tag:
                raise CheckError(
                    f"tag {message.tag} is too large for this MPI", f"it takes tags to {self._largest_tag}"
                )
        if not sends and not receives:
            return Nothing()
        largest = self._largest if urgency is None else min(self._largest, PART_NBYTES)
        world = self._world
        coming = [world.Recv_init(part, m.peer, m.tag) for m in receives for part in _octets(m, largest)]
        going = [(world.Send_init(part, m.peer, m.tag), part[1]) for m in sends for part in _octets(m, largest)]
        if urgency is None:
            transfer = _Transfer([*coming, *(request for request, _ in going)], self._patient)
        else:
            transfer = _Queued(coming, going, urgency, self._outbox, self._patient)
        self._transfers.append(transfer)
        return transfer

    def release(self, exchange: Exchange) -> None:
        if isinstance(exchange, _Transfer):
            self._transfers.remove(exchange)
            exchange.close()

    def all_reduce(self, ranks: tuple[int, ...], buffer: Array, tag: int) -> Exchange:
        if self.rank not in ranks:
            raise ValueError(f"rank {self.rank} is not among {ranks}")
        datatype = _datatype(buffer.dtype)
        if len(ranks) == 1:
            return Nothing()
        return _Sum(self._group(ranks), _parts(buffer, self._largest), datatype, self._patient)

    def all_gather(self, ranks: tuple[int, ...], counts: Sequence[int], whole: Array, tag: int) -> Exchange:
        if whole.nbytes > self._largest:
            return gather_by_messages(self, ranks, counts, whole, tag)
        return _Gather(self._group(ranks), whole, counts, self._patient)

    def share(self, nbytes: int, signals: int, note: bytes) -> Shared | None:
        if self._node.size == 1:
            return None
        nbytes = -(-nbytes // PAGE) * PAGE
        if not _there_is_room(self._node, nbytes + signals * LINE):
            if self._node.rank == 0:
                warn(f"{self.host}: too little shared memory in {SHARED_MEMORY}; ranks there exchange messages instead")
            return None
        ranks = np.zeros(self._node.size, dtype=np.int64)
        self._node.Allgather(np.array([self.rank], dtype=np.int64), ranks)
        memory = _Memory(self._node, ranks.tolist(), nbytes, signals, self._patient)
        memory.notes = dict(zip(ranks.tolist(), _all_bytes(self._node, note), strict=True))
        self._memories.append(memory)
        return memory

    def _group(self, ranks: tuple[int, ...]) -> MPI.Intracomm:
        """The communicator of these ranks, made once. Collective over them."""
        if ranks not in self._groups:
            everyone = self._world.Get_group()
            group = everyone.Incl(list(ranks))
            self._groups[ranks] = self._world.Create_group(group)
            group.Free()
            everyone.Free()
        return self._groups[ranks]

    def gather(self, value: bytes) -> list[bytes] | None:
        sizes = np.zeros(self.size, dtype=np.int64)
        self._finish(self._world.Igather(np.array([len(value)], dtype=np.int64), sizes))
        starts = np.concatenate(([0], np.cumsum(sizes)))
        whole = np.empty(int(starts[-1]), dtype=np.uint8)
        place = (whole, (sizes, starts[:-1]), MPI.BYTE) if self.rank == 0 else None
        self._finish(self._world.Igatherv((np.frombuffer(value, dtype=np.uint8), len(value), MPI.BYTE), place))
        if self.rank != 0:
            return None
        return [whole[start : start + n].tobytes() for start, n in zip(starts, sizes, strict=False)]

    def broadcast(self, value: bytes | None) -> bytes:
        size = np.array([len(value or b"")], dtype=np.int64)
        self._finish(self._world.Ibcast(size))
        whole = np.empty(int(size[0]), dtype=np.uint8)
        if self.rank == 0:
            whole[:] = np.frombuffer(value or b"", dtype=np.uint8)
        self._finish(self._world.Ibcast((whole, whole.size, MPI.BYTE)))
        return whole.tobytes()

    def barrier(self) -> None:
        self._finish(self._world.Ibarrier())

    def split(self, part: int) -> MPICommunicator:
        chosen = MPI.Intracomm(self._world.Split(part, self.rank))
        try:
            return MPICommunicator(chosen, self._largest, self._patient)
        finally:
            chosen.Free()

    def _finish(self, request: MPI.Request) -> None:
        _complete([request], self._patient)

    def abort(self, status: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        # MPI libraries report an abort on stderr; the cause that was printed before shall stay the last line.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        time.sleep(_PASSED_ON)
        MPI.COMM_WORLD.Abort(status)
        os._exit(status)

    def pulse(self, beat: Callable[[], None]) -> Pulse | None:
        if not self.threaded:
            what = f"{self.mpi} lets no second thread make progress (it does not give MPI_THREAD_MULTIPLE)"
            raise CheckError(what, "progress: polls goes without")
        self._pulses.append(Pulse(beat))
        return self._pulses[-1]

    def close(self) -> None:
        for pulse in self._pulses:
            pulse.end()
        for transfer in self._transfers:
            transfer.close()
        for memory in self._memories:
            memory.close()
        for comm in (*self._groups.values(), self._node):
            comm.Free()
        self._transfers, self._groups, self._memories = [], {}, []
