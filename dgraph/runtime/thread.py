"""Ranks as threads of one process: for tests, and for runs that are checked against one rank.

In: a body that takes a communicator. Out: its results by rank. Promise: rendezvous for real (nothing is buffered: a send
is done when its bytes lie in the receiver's buffer), sums in rank order, and no hang: an error on one rank wakes
all, and every wait has a deadline whose error names rank, peer and tag.

All state is on the board, guarded by one lock:

    sends, receives    posts that have no counterpart yet, by (src, dst, tag), oldest first
    rounds             collectives that not all ranks have come to, by the ranks concerned, oldest first
    boards             those of communicators that were split off, by the ranks concerned, in the order of their making
    come               how often a rank has come to a meeting, by (memory, signal, rank)
    error              what ended the run, and the rank that it came from
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np

from dgraph.error import RunError
from dgraph.runtime.communicator import Array, Exchange, Message, Shared, aligned, gather_by_messages
from dgraph.runtime.pulse import Pulse

T = TypeVar("T")
Key = tuple[int, int, int]


class Stopped(RunError):
    """This rank was stopped because another one failed, or because a message never came."""


@dataclass(eq=False)
class _Post:
    """One message on its way: what it is called in an error, its buffer, whether it was copied."""

    what: str
    buffer: Array
    done: bool = False


@dataclass(eq=False)
class _Round:
    """One collective: what each rank brought to it."""

    what: str
    parts: dict[int, Any] = field(default_factory=dict)
    done: bool = False


@dataclass(eq=False)
class _Arrival:
    """A rank that is to come to a meeting for the n-th time."""

    what: str
    come: dict[tuple[int, int, int], int]
    key: tuple[int, int, int]
    count: int

    @property
    def done(self) -> bool:
        return self.come[self.key] >= self.count


_Pending = _Post | _Round | _Arrival


class _Board:
    """Where the ranks of one run meet."""

    def __init__(self, size: int, deadline: float) -> None:
        self.size, self.deadline = size, deadline
        self.changed = threading.Condition()
        self.sends: dict[Key, deque[_Post]] = defaultdict(deque)
        self.receives: dict[Key, deque[_Post]] = defaultdict(deque)
        self.rounds: dict[tuple[str, tuple[int, ...]], deque[_Round]] = defaultdict(deque)
        self.boards: dict[tuple[int, ...], list[_Board]] = defaultdict(list)
        self.come: dict[tuple[int, int, int], int] = defaultdict(int)
        self.error: tuple[int, BaseException] | None = None

    def fail(self, rank: int, error: BaseException) -> None:
        """Wake all ranks with an error; the first one counts."""
        with self.changed:
            if self.error is None:
                self.error = (rank, error)
            self.changed.notify_all()
            below = [board for boards in self.boards.values() for board in boards]
        for board in below:
            board.fail(rank, error)

    def check(self) -> None:
        """Raise if another rank has failed. The lock is held."""
        if self.error is not None:
            raise Stopped(f"stopped because rank {self.error[0]} failed", str(self.error[1]).partition("\n")[0])

    def post(self, key: Key, post: _Post, sending: bool) -> None:
        """Put up one side of a message; where the other side waits, copy. The lock is held."""
        mine, other = (self.sends, self.receives) if sending else (self.receives, self.sends)
        if not other[key]:
            mine[key].append(post)
            return
        match = other[key].popleft()
        source, target = (post, match) if sending else (match, post)
        if source.buffer.nbytes != target.buffer.nbytes:
            text = "rank {} sends {} bytes with tag {}, rank {} expects {}"
            raise ValueError(text.format(key[0], source.buffer.nbytes, key[2], key[1], target.buffer.nbytes))
        np.copyto(_octets(target.buffer), _octets(source.buffer))
        post.done = match.done = True
        self.changed.notify_all()

    def join(
        self, kind: str, ranks: tuple[int, ...], rank: int, what: str, part: Any, finish: Callable[[_Round], None]
    ) -> _Round:
        """Come to the next collective of these ranks; the last one to come finishes it. The lock is held."""
        rounds = self.rounds[kind, ranks]
        place = next((r for r in rounds if rank not in r.parts), None)
        if place is None:
            place = _Round(what)
            rounds.append(place)
        if place.what != what:
            raise ValueError(f"rank {rank} came to {what} of ranks {ranks} where others came to {place.what}")
        place.parts[rank] = part
        if len(place.parts) == len(ranks):
            finish(place)
            place.done = True
            rounds.remove(place)
            self.changed.notify_all()
        return place

    def wait(self, rank: int, pending: Sequence[_Pending], until: float) -> None:
        """Return when all is done; raise when a rank fails or the time is up. The lock is held."""
        while not all(p.done for p in pending):
            self.check()
            left = until - time.monotonic()
            if left <= 0:
                late = next(p for p in pending if not p.done)
                raise Stopped(f"rank {rank} waited {self.deadline:g} s in vain for {late.what}")
            self.changed.wait(left)

    def arrive(self, memory: int, signal: int, rank: int) -> int:
        """Come to a meeting; how often this rank has. The lock is held."""
        self.come[memory, signal, rank] += 1
        self.changed.notify_all()
        return self.come[memory, signal, rank]


def _octets(buffer: Array) -> Array:
    return buffer.reshape(-1).view(np.uint8)


def _sum(place: _Round) -> None:
    """Add in rank order, so that the result does not depend on who came last."""
    parts = [place.parts[rank] for rank in sorted(place.parts)]
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    for part in parts:
        part[...] = total


def _leave(place: _Round) -> None:
    """A collective that only brings the parts together."""


class _Use:
    """What exchanges of threads have in common: `begin` puts up posts or rounds, and they are waited for."""

    def __init__(self, board: _Board, rank: int, begin: Callable[[], Sequence[_Pending]]) -> None:
        self._board, self._rank, self._begin = board, rank, begin
        self._pending: Sequence[_Pending] = ()
        self._until = 0.0

    def start(self) -> None:
        with self._board.changed:
            self._board.check()
            if not all(p.done for p in self._pending):
                raise ValueError(f"rank {self._rank} starts an exchange that is under way")
            self._until = time.monotonic() + self._board.deadline
            self._pending = self._begin()

    def test(self) -> bool:
        with self._board.changed:
            self._board.check()
            if all(p.done for p in self._pending):
                return True
            if time.monotonic() > self._until:
                self._board.wait(self._rank, self._pending, self._until)
        time.sleep(0)  # who polls gives the others the interpreter
        return False

    def wait(self) -> None:
        with self._board.changed:
            self._board.wait(self._rank, self._pending, self._until)


class _Memory:
    """Memory of all threads, with meetings on the board."""

    def __init__(self, board: _Board, rank: int, number: int, parts: dict[int, tuple[Array, bytes]]) -> None:
        self._board, self._rank, self._number = board, rank, number
        self.blocks: Mapping[int, Array] = {rank: block for rank, (block, _) in parts.items()}
        self.notes: Mapping[int, bytes] = {rank: note for rank, (_, note) in parts.items()}

    def meeting(self, signal: int, ranks: Sequence[int]) -> Exchange:
        board, others = self._board, tuple(ranks)

        def begin() -> list[_Arrival]:
            count = board.arrive(self._number, signal, self._rank)
            keys = [(self._number, signal, other) for other in others]
            return [_Arrival(f"rank {key[2]} at meeting {signal}", board.come, key, count) for key in keys]

        return _Use(board, self._rank, begin)


class ThreadCommunicator:
    """One thread among the ranks of one process."""

    threaded = True
    spread = False
    mpi = "threads"

    def __init__(self, board: _Board, rank: int) -> None:
        self._board, self.rank, self.size = board, rank, board.size
        self._all = tuple(range(board.size))
        self._splits: dict[tuple[int, ...], int] = defaultdict(int)
        self._memories = 0
        self.host = f"thread{rank}"

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message], urgency: int | None = None) -> Exchange:
        sends, receives = tuple(sends), tuple(receives)
        for message in (*sends, *receives):
            if message.peer == self.rank or not 0 <= message.peer < self.size:
                raise ValueError(f"rank {self.rank} of {self.size} has no peer {message.peer}")

        def begin() -> list[_Post]:
            posts = []
            for sending, messages in ((False, receives), (True, sends)):
                for m in messages:
                    key = (self.rank, m.peer, m.tag) if sending else (m.peer, self.rank, m.tag)
                    what = f"the message {'to' if sending else 'from'} rank {m.peer}, tag {m.tag}"
                    posts.append(_Post(what, m.buffer))
                    self._board.post(key, posts[-1], sending)
            return posts

        return _Use(self._board, self.rank, begin)

    def release(self, exchange: Exchange) -> None:
        """Nothing is held."""

    def all_reduce(self, ranks: tuple[int, ...], buffer: Array, tag: int) -> Exchange:
        if self.rank not in ranks:
            raise ValueError(f"rank {self.rank} is not among {ranks}")
        self._meet("make", ranks, f"the making of sum {tag}", b"")

        def begin() -> list[_Round]:
            return [self._board.join("sum", ranks, self.rank, f"the sum with tag {tag}", buffer, _sum)]

        return _Use(self._board, self.rank, begin)

    def all_gather(self, ranks: tuple[int, ...], counts: Sequence[int], whole: Array, tag: int) -> Exchange:
        self._meet("make", ranks, f"the making of gather {tag}", b"")
        return gather_by_messages(self, ranks, counts, whole, tag)

    def share(self, nbytes: int, signals: int, note: bytes) -> Shared | None:
        self._memories += 1
        if self.size == 1:
            return None
        parts = self._meet("all", self._all, "a sharing of memory", (aligned(nbytes), note))
        return _Memory(self._board, self.rank, self._memories, parts)

    def gather(self, value: bytes) -> list[bytes] | None:
        parts = self._meet("all", self._all, "a gather", value)
        return [parts[rank] for rank in self._all] if self.rank == 0 else None

    def broadcast(self, value: bytes | None) -> bytes:
        return self._meet("all", self._all, "a broadcast", value)[0] or b""

    def barrier(self) -> None:
        self._meet("all", self._all, "a barrier", b"")

    def split(self, part: int) -> ThreadCommunicator:
        parts = self._meet("all", self._all, "a split", str(part).encode())
        ranks = tuple(rank for rank in self._all if parts[rank] == parts[self.rank])
        number = self._splits[ranks]
        self._splits[ranks] += 1
        with self._board.changed:
            boards = self._board.boards[ranks]
            if len(boards) == number:
                boards.append(_Board(len(ranks), self._board.deadline))
        return ThreadCommunicator(boards[number], ranks.index(self.rank))

    def _meet(self, kind: str, ranks: tuple[int, ...], what: str, value: Any) -> dict[int, Any]:
        """What every rank brought to a collective that blocks."""
        board = self._board
        with board.changed:
            board.check()
            place = board.join(kind, ranks, self.rank, what, value, _leave)
            board.wait(self.rank, (place,), time.monotonic() + board.deadline)
        return place.parts

    def pulse(self, beat: Callable[[], None]) -> Pulse | None:
        return None

    def abort(self, status: int) -> NoReturn:
        raise SystemExit(status)

    def close(self) -> None:
        """Nothing to give back."""


class _Rank(threading.Thread, Generic[T]):
    """One rank at work."""

    def __init__(self, board: _Board, rank: int, body: Callable[[ThreadCommunicator], T]) -> None:
        # A daemon: a rank that computes on after an interrupt does not hold the process.
        super().__init__(name=f"rank {rank}", daemon=True)
        self._board, self._rank, self._body = board, rank, body
        self.result: list[T] = []

    def run(self) -> None:
        try:
            self.result.append(self._body(ThreadCommunicator(self._board, self._rank)))
        except BaseException as error:
            self._board.fail(self._rank, error)


def run_threads(size: int, body: Callable[[ThreadCommunicator], T], deadline: float = 30.0) -> list[T]:
    """Run `body` on `size` ranks in this process; their results, by rank.

    `deadline` is the longest that a rank waits for anything, in seconds. Raises the error of the rank that failed first.
    """
    board = _Board(size, deadline)
    ranks = [_Rank(board, rank, body) for rank in range(size)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    if board.error is not None:
        raise board.error[1]
    return [thread.result[0] for thread in ranks]
