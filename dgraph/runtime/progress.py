"""Transfers under way: how they advance while a rank computes, and what of them it had to wait for.

In: transfers that start, are looked at between nodes, and are waited for. Out: `Progress`, the seconds of all of them; `Flight`,
those of one. Promise: where nothing is under way there is no look, and no cost; the times are those of this rank.

    rank       | start |  compute  | look |  compute  | wait |  compute
    on its way         |---------------------------------|
    exposed    |-------|           |------|           |------|            what the rank spent on communication
    hidden             |-----------|      |-----------|                   something was under way while it did something else

No MPI moves a large message by itself: it moves while somebody calls MPI. Hence the looks.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Protocol

from dgraph.runtime.pulse import Pulse


class Transferring(Protocol):
    """What starts, advances and ends: a transfer bound to its buffers."""

    def start(self) -> None:
        """Pack and post. Never blocks."""

    def test(self) -> bool:
        """Make progress; True once everything has arrived and is taken."""

    def wait(self) -> None:
        """Return when everything has arrived, is taken and is unpacked."""


class Progress:
    """The transfers of one rank that are under way, and since its making the seconds `exposed` and `hidden`. A `pulse` goes while
    there are some and the rank does something else."""

    def __init__(self, pulse: Pulse | None = None) -> None:
        self._pulse = pulse
        self.exposed = self.hidden = 0.0
        self._under_way: deque[Flight] = deque()
        self._left = 0.0

    def look(self) -> None:
        """Advance what is under way. All of it moves with the one that is asked for, the oldest; once that is there, the next."""
        if not self._under_way:
            return
        entered = self.enter()
        while self._under_way and self._under_way[0].has_arrived(entered):
            self._under_way.popleft()
        self.leave(entered)

    def enter(self) -> float:
        """The rank turns to communication: the time (of time.perf_counter)."""
        now = perf_counter()
        if self._under_way:
            self.hidden += now - self._left
            if self._pulse is not None:
                self._pulse.rest()
        return now

    def leave(self, entered: float) -> float:
        """It turns to something else: the time."""
        self._left = now = perf_counter()
        self.exposed += now - entered
        if self._pulse is not None and self._under_way:
            self._pulse.go()
        return now

    def takes_off(self, flight: Flight) -> None:
        """A transfer is under way from now on."""
        self._under_way.append(flight)

    def lands(self, flight: Flight) -> None:
        """It is waited for, and not looked at any more."""
        if flight in self._under_way:
            self._under_way.remove(flight)


class Flight:
    """One transfer with its clock. Of its last use: `hidden`, the seconds from the end of its start until it was seen to be there,
    or until somebody waited for it; `exposed`, those of the wait."""

    def __init__(self, transfer: Transferring, progress: Progress) -> None:
        self._transfer, self._progress = transfer, progress
        self.hidden = self.exposed = 0.0
        self._started = 0.0
        self._arrived: float | None = None

    def start(self) -> None:
        """Pack what this rank wrote and post all messages."""
        entered = self._progress.enter()
        self._transfer.start()
        self._arrived = None
        self._progress.takes_off(self)
        self._started = self._progress.leave(entered)

    def has_arrived(self, now: float) -> bool:
        """Make progress; notes `now` if it is found to be there."""
        if not self._transfer.test():
            return False
        self._arrived = now
        return True

    def wait(self) -> None:
        """Wait for the messages and bring the read rect up to date."""
        entered = self._progress.enter()
        self._progress.lands(self)
        self._transfer.wait()
        self.hidden = (entered if self._arrived is None else self._arrived) - self._started
        self.exposed = self._progress.leave(entered) - entered
