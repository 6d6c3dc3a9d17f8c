"""How ranks talk: the contract of all communicators, and the one for a single rank.

In: messages (peer, tag, buffer), decided before the first step. Out: exchanges, planned once and used in every step.
Promise: no wildcard receives, no hidden buffering to rely on, and nothing of a step is decided here. Whoever talks asks a
`Communicator`; whether it stands on MPI, on threads or on nothing is decided where it is made.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NoReturn, Protocol

import numpy as np

from dgraph.runtime.pulse import Pulse

Array = np.ndarray[Any, np.dtype[Any]]


ALIGNMENT = 64


def aligned(nbytes: int) -> Array:
    """Zeroed bytes that start at a multiple of ALIGNMENT."""
    block = np.zeros(nbytes + ALIGNMENT, dtype=np.uint8)
    offset = -block.ctypes.data % ALIGNMENT
    return block[offset : offset + nbytes]


@dataclass(frozen=True, eq=False)
class Message:
    """One buffer to or from one peer.

    `buffer` is C-contiguous, of any dtype; both sides agree on its bytes. Messages of one peer and one tag
    arrive in the order in which they are listed. Tags up to 32767 work with every MPI.
    """

    peer: int
    tag: int
    buffer: Array

    def __post_init__(self) -> None:
        if not self.buffer.flags.c_contiguous:
            raise ValueError(f"the buffer for peer {self.peer}, tag {self.tag} is not contiguous")


class Exchange(Protocol):
    """One transfer of one rank: made once, used many times, one use after the other."""

    def start(self) -> None:
        """Post all receives, then all sends. Never blocks."""

    def test(self) -> bool:
        """Make progress. True once every send is taken and every receive has arrived."""

    def wait(self) -> None:
        """Return when every send is taken and every receive has arrived."""


class Shared(Protocol):
    """Memory of the ranks of one host that all of them read in place.

    `blocks` are the bytes of every rank, by rank, and `notes` what each says of its own.
    """

    blocks: Mapping[int, Array]
    notes: Mapping[int, bytes]

    def meeting(self, signal: int, ranks: Sequence[int]) -> Exchange:
        """`start` says that this rank has come to a place, `wait` returns when `ranks`, each at its start of the same use, have
        come there too; what they wrote before is then to be seen. Every rank has one meeting of a signal at most. Local."""


class Communicator(Protocol):
    """All ranks of one job, as one of them sees it."""

    rank: int
    size: int
    threaded: bool
    """Whether a second thread of this rank may talk, too."""
    spread: bool
    """Whether not all of them are on one host."""
    host: str
    mpi: str

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message], urgency: int | None = None) -> Exchange:
        """A transfer of these messages. Local. The buffers belong to the exchange from `start` until it is done.

        With an `urgency`, on all ranks or none, messages may take turns: those of a lower one go first; they advance while any of
        these exchanges is tested or waited for. Without, nothing holds them back.
        """

    def release(self, exchange: Exchange) -> None:
        """Gives back an exchange that is done and not used again, and its buffers. Local."""

    def all_reduce(self, ranks: tuple[int, ...], buffer: Array, tag: int) -> Exchange:
        """A sum in place over `ranks` (ascending, this rank among them): the same bits on all of them.

        Collective over `ranks`: made in the same order, and started in the same order, on all of them.
        """

    def all_gather(self, ranks: tuple[int, ...], counts: Sequence[int], whole: Array, tag: int) -> Exchange:
        """Brings the parts of `ranks` (ascending, this rank among them) together: `whole` is flat and holds them one behind the
        other, `counts[k]` elements of rank k of them, perhaps none; this rank's own is there when it starts.

        Collective over `ranks`: made in the same order, and started in the same order, on all of them.
        """

    def share(self, nbytes: int, signals: int, note: bytes) -> Shared | None:
        """Zeroed memory of so many bytes that the ranks of this host read of each other, with signals 0, 1 ... to meet by. None
        where this rank is alone on its host, or there is not so much: on one rank of a host, on all. Collective."""

    def gather(self, value: bytes) -> list[bytes] | None:
        """The values of all ranks, by rank, on rank 0; None on the others. Collective."""

    def broadcast(self, value: bytes | None) -> bytes:
        """The value of rank 0 on all ranks. Collective."""

    def barrier(self) -> None:
        """Return when all ranks are here. Collective."""

    def split(self, part: int) -> Communicator:
        """The ranks that give the same part, as a communicator of their own, in the same order. Collective."""

    def abort(self, status: int) -> NoReturn:
        """End all ranks now, with this exit status (1 to 255). Local, from any state."""

    def pulse(self, beat: Callable[[], None]) -> Pulse | None:
        """A thread that calls `beat` while it is told to, until `close`; None where exchanges advance without one. Local.

        Raises CheckError where a second thread may not talk.
        """

    def close(self) -> None:
        """Give back what the communicator holds, when no exchange is under way. Collective; nothing may follow."""


class Nothing:
    """The exchange of a rank that has no one to talk to."""

    def start(self) -> None:
        """Nothing to post."""

    def test(self) -> bool:
        """Always done."""
        return True

    def wait(self) -> None:
        """Nothing to wait for."""


class Alone:
    """The memory of a rank that shares it with nobody."""

    def __init__(self, rank: int, nbytes: int, note: bytes) -> None:
        self.blocks: Mapping[int, Array] = {rank: aligned(nbytes)}
        self.notes: Mapping[int, bytes] = {rank: note}

    def meeting(self, signal: int, ranks: Sequence[int]) -> Exchange:
        """Nobody to meet."""
        return Nothing()


class Several:
    """Exchanges that are used as one."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self._exchanges = exchanges

    def start(self) -> None:
        """Start all of them."""
        for exchange in self._exchanges:
            exchange.start()

    def test(self) -> bool:
        """Make progress with all of them."""
        done = [exchange.test() for exchange in self._exchanges]
        return all(done)

    def wait(self) -> None:
        """Wait for one after the other."""
        for exchange in self._exchanges:
            exchange.wait()


def parts_of(whole: Array, counts: Sequence[int]) -> list[Array]:
    """A flat array in parts, one behind the other."""
    stops = list(accumulate(counts))
    return [whole[stop - count : stop] for stop, count in zip(stops, counts, strict=True)]


def gather_by_messages(
    communicator: Communicator, ranks: Sequence[int], counts: Sequence[int], whole: Array, tag: int
) -> Exchange:
    """An all-gather in which every rank sends its part to each of the others that has one."""
    parts = dict(zip(ranks, parts_of(whole, counts), strict=True))
    own = parts.pop(communicator.rank)
    sends = [Message(peer, tag, own) for peer in parts] if own.size else []
    return communicator.exchange(sends, [Message(peer, tag, part) for peer, part in parts.items() if part.size])


def both(one: Exchange, other: Exchange) -> Exchange:
    """Two exchanges as one; the other itself where one of them is nothing."""
    if isinstance(one, Nothing):
        return other
    return one if isinstance(other, Nothing) else Several([one, other])


class OneRank:
    """The communicator of a job of one rank."""

    rank = 0
    size = 1
    threaded = True
    spread = False
    mpi = "none"

    def __init__(self) -> None:
        self.host = socket.gethostname()

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message], urgency: int | None = None) -> Exchange:
        """The empty exchange; a message would have nobody to go to."""
        if sends or receives:
            raise ValueError("one rank has nobody to exchange messages with")
        return Nothing()

    def release(self, exchange: Exchange) -> None:
        """Nothing to give back."""

    def all_reduce(self, ranks: tuple[int, ...], buffer: Array, tag: int) -> Exchange:
        """A sum of one term."""
        return Nothing()

    def all_gather(self, ranks: tuple[int, ...], counts: Sequence[int], whole: Array, tag: int) -> Exchange:
        """All is there."""
        return Nothing()

    def share(self, nbytes: int, signals: int, note: bytes) -> Shared | None:
        """Nobody to share with."""
        return None

    def gather(self, value: bytes) -> list[bytes] | None:
        return [value]

    def broadcast(self, value: bytes | None) -> bytes:
        return value or b""

    def barrier(self) -> None:
        """All are here."""

    def split(self, part: int) -> Communicator:
        return OneRank()

    def pulse(self, beat: Callable[[], None]) -> Pulse | None:
        return None

    def abort(self, status: int) -> NoReturn:
        raise SystemExit(status)

    def close(self) -> None:
        """Nothing to give back."""
