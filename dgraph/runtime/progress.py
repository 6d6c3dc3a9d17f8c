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

from collections.abc import Callable
from threading import Lock
from time import perf_counter
from typing import Protocol

import numpy as np

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
    """The transfers of one rank that are under way, and since its making the seconds `exposed` and `hidden`. With a `pulse` a
    thread advances them by `beat` while the rank does something else; whoever has to do with them holds the lock."""

    def __init__(self, pulse: Callable[[Callable[[], None]], Pulse | None] = lambda beat: None) -> None:
        self.exposed = self.hidden = 0.0
        self._under_way: list[Flight] = []
        self._left = 0.0
        self._lock = Lock()
        self._pulse = pulse(self.beat)

    def look(self) -> None:
        """Advance what is under way."""
        if self._under_way:
            entered = self.enter()
            self._advance(entered)
            self.leave(entered)

    def beat(self) -> None:
        """The same from a thread beside this one; its time is nobody's."""
        # As in a step: what is not finite is for the loss to report.
        with self._lock, np.errstate(all="ignore"):
            self._advance(perf_counter())
            if not self._under_way and self._pulse is not None:
                self._pulse.rest()

    def _advance(self, now: float) -> None:
        self._under_way = [flight for flight in self._under_way if not flight.has_arrived(now)]

    def enter(self) -> float:
        """The rank turns to communication: the time (of time.perf_counter)."""
        now = perf_counter()
        self._lock.acquire()
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
        self._lock.release()
        return now

    def finish(self) -> None:
        """Wait for all that is under way."""
        while self._under_way:
            self._under_way[0].wait()

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
