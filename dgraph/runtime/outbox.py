"""Sends that take turns.

In: sends in parts, each with its urgency. Out: `Outbox`: lets them go. Promise: the most urgent goes first, and no more are under
way than keep a link busy; so what is more urgent, and comes later, does not wait for all that came before.

    waiting     conv0 1/1   hidden 7/9   hidden 8/9   hidden 9/9       by urgency, then as they came
    flying      hidden 5/9   hidden 6/9                                FLYING_NBYTES at first

Where all that flew is found to be done, the link was idle: twice as much may fly, until there is nothing to be sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

PART_NBYTES, FLYING_NBYTES, MOST_NBYTES = 1 << 19, 3 << 19, 3 << 25
"""At 1 Gbit/s a part takes 4 ms: longer than a thread naps between two looks, shorter than what is worth hiding behind. The most is
for faster links."""


class Send(Protocol):
    """A send as MPI has it."""

    def Start(self) -> None:
        """Let it go."""

    def Test(self) -> bool:
        """Whether it is done."""


class Outbox:
    """Sends of one rank that wait, and those that are under way."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, Send, int, Callable[[], None]]] = []
        self._flying: deque[tuple[Send, int]] = deque()
        self._nbytes, self._most = 0, FLYING_NBYTES
        self._count = count()

    def put(self, urgency: int, send: Send, nbytes: int, gone: Callable[[], None]) -> None:
        """A send that waits for its turn; `gone` is called when it has come."""
        if not self._waiting and not self._flying:
            self._most = FLYING_NBYTES
        heappush(self._waiting, (urgency, next(self._count), send, nbytes, gone))

    def pump(self) -> None:
        """Let the next ones go as others are done; those that went first are done first."""
        flew = bool(self._flying)
        while self._flying and self._flying[0][0].Test():
            self._nbytes -= self._flying.popleft()[1]
        if flew and self._waiting and not self._flying:
            self._most = min(2 * self._most, MOST_NBYTES)
        while self._waiting and self._nbytes < self._most:
            _, _, send, nbytes, gone = heappop(self._waiting)
            send.Start()
            gone()
            self._flying.append((send, nbytes))
            self._nbytes += nbytes
