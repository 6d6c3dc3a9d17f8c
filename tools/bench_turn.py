"""Two sides in turn, on one rank or on several.

In: sides that tell how long a step of theirs took. Out: their seconds, round by round. Promise: while the first rank has a peer
work, the other ranks sleep: an MPI spins while it waits, and would take a core from the peer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan
from time import perf_counter, sleep

import numpy as np

from bench_row import Options
from dgraph.runtime.communicator import Communicator, Message, OneRank

Timed = Callable[[], float]
"""Does one step; its seconds. On several ranks it is collective, and those of the first rank count."""
TAG = 31_999
NAP = 0.0005


def timed(step: Callable[[], object], communicator: Communicator | None = None) -> Timed:
    """A side of these ranks: from when all are there to when all are done."""
    ranks = communicator or OneRank()

    def side() -> float:
        ranks.barrier()
        start = perf_counter()
        step()
        ranks.barrier()
        return perf_counter() - start

    return side


def alone(side: Timed | None, communicator: Communicator) -> Timed:
    """A side of the first rank, during which the others, which have none, sleep; they do not know its seconds (NaN)."""
    byte = np.zeros(1, np.uint8)
    others = range(1, communicator.size)
    if communicator.rank:
        exchange = communicator.exchange([], [Message(0, TAG, byte)])
    else:
        exchange = communicator.exchange([Message(other, TAG, byte) for other in others], [])

    def done() -> float:
        seconds = nan if side is None else side()
        exchange.start()
        while not exchange.test():
            sleep(NAP)
        return seconds

    return done


def in_turn(sides: Sequence[Timed], options: Options, communicator: Communicator | None = None) -> list[list[float]]:
    """Seconds of every side, round by round: as many rounds as asked for, more while they are short. Collective."""
    ranks = communicator or OneRank()
    rounds: list[list[float]] = []
    start = perf_counter()
    while True:
        more = len(rounds) < options.pairs or perf_counter() - start < options.seconds
        if ranks.broadcast(bytes([more]) if ranks.rank == 0 else None) == bytes([False]):
            return rounds
        rounds.append([side() for side in sides])
