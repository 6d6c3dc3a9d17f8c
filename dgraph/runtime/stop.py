"""The wish to stop: signals that ask a run to save and leave, and how all ranks come to know of it at the same step.

In: SIGTERM, SIGUSR1, on any rank. Out: `Wish`, this rank's flag; `Agreement`, that of all. Promise: the first signal only sets a
flag; a second SIGTERM ends the process at once, also inside of a blocked call; all ranks agree, though each may hear of it at
another step.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

import numpy as np

from dgraph.runtime.communicator import Communicator

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SAME_SECONDS = 1.0
"""What comes so soon is the first SIGTERM once more: a launcher passes on what the whole process group was sent."""
STATUS = 75
"""The exit status of a run that was asked to stop and can go on (EX_TEMPFAIL of sysexits.h)."""


class Wish:
    """Whether this rank was asked to stop; `name` is the signal that said so."""

    def __init__(self) -> None:
        self.name = ""

    def __bool__(self) -> bool:
        return bool(self.name)


@contextmanager
def listening() -> Iterator[Wish]:
    """A wish that signals set, from here to the end of the block. For the main thread.

    Python runs its handlers between two instructions, which a blocked call of MPI does not reach. So the numbers go through a pipe,
    which the system's own handler writes at once, to a thread that reads it.
    """
    wish = Wish()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_watch, args=(reading, wish), daemon=True, name="stop")
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _nothing) for number in SIGNALS}
    watcher.start()
    try:
        yield wish
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(writing)
        watcher.join()
        os.close(reading)


def _nothing(number: int, frame: FrameType | None) -> None:
    """The watcher does it."""


def _watch(reading: int, wish: Wish) -> None:
    first: float | None = None
    while numbers := os.read(reading, 64):
        for number in filter(SIGNALS.__contains__, numbers):
            wish.name = signal.Signals(number).name
            if number == signal.SIGTERM:
                first = first or monotonic()
                if monotonic() - first > SAME_SECONDS:
                    os._exit(128 + number)


class Agreement:
    """Whether any rank wishes to stop, known to all at the same call. Making it is collective.

    The sum of one call is waited for at the next one: it travels while a step computes, and costs no time of its own. So all know
    of a wish one call later; a rank alone at once.
    """

    def __init__(self, communicator: Communicator, wish: Wish) -> None:
        self._wish, self._alone = wish, communicator.size == 1
        self._count = np.zeros(1, np.int64)
        self._exchange = communicator.all_reduce(tuple(range(communicator.size)), self._count, 0)
        self._under_way = False

    def reached(self) -> bool:
        """True on all ranks if, at the call before, any of them wished to stop. Collective."""
        if self._alone:
            return bool(self._wish)
        self.close()
        before = bool(self._count[0])
        self._count[0] = bool(self._wish)
        self._exchange.start()
        self._under_way = True
        return before

    def close(self) -> None:
        """Waits for what is under way. Collective."""
        if self._under_way:
            self._exchange.wait()
        self._under_way = False
