"""A thread that makes progress while a rank computes.

In: how progress is made. Out: `Pulse`. Promise: it sleeps while nothing is under way, and naps between two calls while something
is, so that the core belongs to those who compute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import sleep

NAP_SECONDS = 1e-3


class Pulse(threading.Thread):
    """Calls `advance` again and again between `go` and `rest`, until `end`. Any number of calls of these, from one thread."""

    def __init__(self, advance: Callable[[], None]) -> None:
        # A daemon: a rank that fails does not wait for it.
        super().__init__(name="progress", daemon=True)
        self._advance = advance
        self._busy = threading.Event()
        self._ended = False
        self.go, self.rest = self._busy.set, self._busy.clear
        self.start()

    def run(self) -> None:
        while not self._ended:
            self._busy.wait()
            if not self._ended:
                self._advance()
                sleep(NAP_SECONDS)

    def end(self) -> None:
        """Return when the thread has ended."""
        self._ended = True
        self._busy.set()
        self.join()
